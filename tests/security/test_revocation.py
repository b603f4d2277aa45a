"""How long a named key is valid, and what a state manager reads to know it. In virtual time."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import trio
import trio.testing

from exotrio._wire.keys import NewKey, make_key
from exotrio.errors import DatabaseError
from exotrio.manager.engine import keys
from exotrio.manager.rules.errors import Conflict, InvalidRequest, NotFound
from tests.support.helpers import declare, place
from tests.support.keyed import ROOT, Site, open_keyed

ENGINES = ["SQLite", "PostgreSQL"]
CLAIM = "/exotrio/v1/namespace/shop/claim"
POLL = {"worker_id": "w", "claim_id": "c" * 32, "limit": 1, "limits": {"N": 1}, "wait_ms": 15_000}
GRAPH = "/v0/namespace/shop/graph/g"
RUNS = "/exotrio/v1/namespace/shop/runs"


def now_ms() -> int:
    """Return the virtual time, as a state manager's clock."""
    return 1_700_000_000_000 + int(trio.current_time() * 1000)


async def revoke_elsewhere(site: Site, text: str) -> None:
    """Revoke a key as another state manager does."""
    await site.service.store.write(keys.revoke_keys, text.split("_")[1])


async def register(site: Site) -> None:
    nodes = {"runtime_name": "r", "nodes": [declare("N")]}
    await site.call(ROOT, "PUT", "/v0/namespace/shop/nodes/", nodes)


async def test_revoking_a_key_ends_its_long_poll_within_5_s(autojump_clock: trio.testing.MockClock) -> None:
    async with open_keyed() as site, trio.open_nursery() as nursery:
        await register(site)
        key, answers = await site.key("runtime:shop"), []

        async def poll() -> None:
            answers.append((await site.ask("POST", CLAIM, key, json=POLL))[0])

        nursery.start_soon(poll)
        await trio.sleep(3)
        await revoke_elsewhere(site, key)
        await trio.sleep(5)
        assert answers == [401]
        assert (await site.ask("POST", CLAIM, key, json=POLL))[0] == 401


async def test_revoking_a_key_ends_its_sessions_and_their_streams_within_5_s(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_keyed() as site, trio.open_nursery() as nursery:
        await register(site)
        key, statuses = await site.key("read:shop"), []
        cookie = await site.sign_in(key)
        assert (await site.ask("GET", "/ns/shop", cookie=cookie))[0] == 200

        async def watch() -> None:
            statuses.append((await site.ask("GET", "/live/ns/shop", cookie=cookie))[0])

        nursery.start_soon(watch)
        await trio.sleep(3)
        await revoke_elsewhere(site, key)
        await trio.sleep(5)
        assert statuses == [200], "the stream ended"
        assert (await site.ask("GET", "/ns/shop", cookie=cookie))[1]["location"].startswith("/sign-in")
        assert (await site.ask("POST", "/sign-in", form={"key": key}))[0] == 401


async def test_a_request_whose_body_comes_after_the_key_was_revoked_changes_nothing() -> None:
    async with open_keyed() as site:
        await register(site)
        graph = {"nodes": [place("a", node_name="N", namespace="shop")], "secrets": {}}
        await site.call(ROOT, "PUT", GRAPH, graph, status=201)
        key = await site.key("graphs:shop", "read:shop")

        async def revoke() -> None:
            await revoke_elsewhere(site, key)
            await site.service.keys.read_again()

        other = {**graph, "nodes": [place("b", node_name="N", namespace="shop")]}
        assert (await site.ask("PUT", GRAPH, key, json=other, before_body=revoke))[0] == 401
        shown = await site.call(ROOT, "GET", GRAPH)
        assert [each["identifier"] for each in shown["nodes"]] == ["a"]

        key = await site.key("graphs:shop", "read:shop")
        cookie = await site.sign_in(key)
        path, form = "/ns/shop/nodes/N/pause", {"any": "field"}
        assert (await site.ask("POST", path, cookie=cookie, form=form, before_body=revoke))[0] == 401
        changes = (await site.call(ROOT, "GET", "/exotrio/v1/audit"))["changes"]
        assert "node.pause" not in [change["action"] for change in changes]


async def test_a_key_may_revoke_itself_and_is_answered() -> None:
    async with open_keyed() as site:
        key = await site.key("admin")
        path = f"/exotrio/v1/keys/{key.split('_')[1]}"
        (revoked,) = (await site.call(key, "DELETE", path))["keys"]
        assert not revoked["is_valid"]
        await site.call(key, "DELETE", path, status=401)


async def test_revoking_a_key_breaks_off_its_backup(tmp_path: Path) -> None:
    async with open_keyed(tmp_path / "state.db") as site, trio.open_nursery() as nursery:
        key, begun, ended = await site.key("admin"), trio.Event(), trio.Event()

        async def read_slowly(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.body":
                begun.set()
                await trio.sleep_forever()

        async def download() -> None:
            await site.ask("GET", "/exotrio/v1/backup", key, send=read_slowly)
            ended.set()

        nursery.start_soon(download)
        await begun.wait()
        await revoke_elsewhere(site, key)
        await site.service.keys.read_again()
        await ended.wait()


async def test_a_key_that_expires_is_refused_and_its_long_poll_ends(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_keyed(clock=now_ms) as site:
        await register(site)
        made = make_key()
        new = NewKey(name="k", digest=made.digest, scopes=["runtime:shop", "read:shop"], expires_in_ms=4000)
        await site.service.store.write(keys.add_key, made.id, new)
        assert (await site.ask("GET", RUNS, made.text))[0] == 200
        began = trio.current_time()
        assert (await site.ask("POST", CLAIM, made.text, json=POLL))[0] == 401
        assert 4 <= trio.current_time() - began <= 9
        assert (await site.ask("GET", RUNS, made.text))[0] == 401
        (shown,) = (await site.service.store.read(keys.show_keys)).keys
        assert not shown.is_valid
        assert shown.revoked_at is None


async def test_without_a_named_key_nothing_is_queried(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_keyed() as site:
        key = await site.key("read:shop")
        asked = []
        monkeypatch.setattr(
            "exotrio.manager.security.keys.read_keys", lambda view, known: asked.append(known)
        )
        async with open_keyed() as other:
            await trio.sleep(60)
            assert (await other.ask("GET", RUNS, ROOT))[0] == 200
            assert (await other.ask("GET", RUNS, "no such key"))[0] == 401
            assert (await other.ask("GET", RUNS, key[:-1]))[0] == 401
        assert asked == []


async def test_a_known_key_costs_no_query_and_waits_for_no_unknown_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_keyed() as site, trio.open_nursery() as nursery:
        key = await site.key("read:shop")
        assert (await site.ask("GET", RUNS, key))[0] == 200
        reads = 0
        read = site.service.store.read

        async def counting(query: object, *args: object) -> object:
            nonlocal reads
            reads += query is keys.read_keys
            return await read(query, *args)  # type: ignore[arg-type]

        site.service.store.read = counting  # type: ignore[method-assign, assignment]
        for _ in range(50):
            nursery.start_soon(site.ask, "GET", RUNS, make_key().text)
        began = trio.current_time()
        for _ in range(50):
            assert (await site.ask("GET", RUNS, key))[0] == 200
        assert trio.current_time() == began
        assert reads == 0
        await trio.sleep(1)
        assert reads <= 2, "the unknown keys share the readings"


async def test_a_known_key_adds_few_calls_to_those_of_a_request_with_the_root_key() -> None:
    # Each percent of the calls was about half a percent of what a state manager can do in a second.
    async with open_keyed() as site:
        await register(site)
        named = await site.key("runtime:shop")

        async def calls(key: str) -> int:
            count = 0

            def profile(_frame: FrameType, event: str, _argument: object) -> None:
                nonlocal count
                count += event == "call"

            claim = {**POLL, "wait_ms": 0}
            for _ in range(2):  # what is kept for later requests is made by the first one
                await site.call(key, "POST", CLAIM, claim)
            sys.setprofile(profile)
            try:
                await site.call(key, "POST", CLAIM, claim)
            finally:
                sys.setprofile(None)
            return count

        of_root, of_named = await calls(ROOT), await calls(named)
        assert of_named <= 1.04 * of_root, f"{of_named} of {of_root}"


async def test_a_key_is_not_trusted_if_the_keys_cannot_be_read(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_keyed() as site:
        key = await site.key("read:shop")
        assert (await site.ask("GET", RUNS, key))[0] == 200

        def fail(view: object, known: object) -> None:
            raise DatabaseError("postgresql://db.internal is away")

        monkeypatch.setattr("exotrio.manager.security.keys.read_keys", fail)
        await trio.sleep(1)
        assert (await site.ask("GET", RUNS, key))[0] == 200
        await trio.sleep(6)
        status, _, body = await site.ask("GET", RUNS, key)
        assert status == 503
        assert b"db.internal" not in body
        assert (await site.ask("GET", RUNS, ROOT))[0] == 200


async def test_when_a_key_was_used_is_kept_to_the_minute(autojump_clock: trio.testing.MockClock) -> None:
    async with open_keyed(clock=now_ms) as site:
        key = await site.key("read:shop")
        await site.key("read:shop")
        for since_last in (3, 70, 70):  # the first use is soon seen, and each other one a minute after it
            await site.ask("GET", RUNS, key)
            used_at = datetime.fromtimestamp(now_ms() / 1000, UTC)
            await trio.sleep(since_last)
            shown = (await site.service.store.read(keys.show_keys)).keys
            used, unused = sorted((each.used_at for each in shown), key=lambda at: at is None)
            assert used is not None
            assert abs(used - used_at) < timedelta(seconds=1)
            assert unused is None


async def test_a_client_with_the_text_of_a_key_learns_when_it_ended_and_no_other_client_does(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_keyed(clock=now_ms) as site:
        made, revoked = make_key(), await site.key("read:shop")
        new = NewKey(name="short", digest=made.digest, scopes=["read:shop"], expires_in_ms=4000)
        await site.service.store.write(keys.add_key, made.id, new)
        await revoke_elsewhere(site, revoked)
        await trio.sleep(10)
        for text, what in ((made.text, "expired 2023-11-14T"), (revoked, "was revoked 2023-11-14T")):
            status, _, body = await site.ask("GET", RUNS, text)
            assert status == 401
            assert f"({text.split('_')[1]}) {what}" in body.decode()
            status, _, body = await site.ask("GET", RUNS, text[:-1] + ("a" if text[-1] != "a" else "b"))
            assert status == 401
            assert "the header x-api-key is missing or wrong" in body.decode()


@pytest.mark.parametrize("engine", ENGINES)
async def test_keys_are_added_once_and_revoked_by_id_or_by_name(db: str) -> None:
    async with open_keyed(db) as site:
        store = site.service.store
        first, second = make_key(), make_key()
        new = NewKey(name="ci", digest=first.digest, scopes=["graphs:shop", "read:shop", "read:shop"])
        added = await store.write(keys.add_key, first.id, new)
        assert added.scopes == ["graphs:shop", "read:shop"]
        assert await store.write(keys.add_key, first.id, new) == added, "a repeated request"
        other = new.model_copy(update={"digest": second.digest})
        with pytest.raises(Conflict, match="another key with the id"):
            await store.write(keys.add_key, first.id, other)
        await store.write(keys.add_key, second.id, other)
        assert [key.id for key in await store.write(keys.revoke_keys, second.id)] == [second.id]
        assert [key.id for key in (await store.read(keys.show_keys)).keys if key.is_valid] == [first.id]
        assert {key.id for key in await store.write(keys.revoke_keys, "ci")} == {first.id, second.id}
        with pytest.raises(NotFound):
            await store.write(keys.revoke_keys, "nothing")
        assert (await site.ask("GET", RUNS, first.text))[0] == 401


@pytest.mark.parametrize(
    ("name", "scopes", "problem"),
    [
        ("root", ["admin"], "cannot have the name"),
        ("Root", ["admin"], "cannot have the name"),
        ("a b", ["admin"], "cannot have the name"),
        ("\x1b[2J", ["admin"], "cannot have the name"),
        ("ci", ["graph:shop"], "there is no scope"),
        ("ci", ["graphs"], "there is no scope"),
        ("ci", ["admin:shop"], "there is no scope"),
        ("ci", ["read:a/b"], "the namespace of the scope"),
    ],
)
async def test_names_and_scopes_are_checked(name: str, scopes: list[str], problem: str) -> None:
    async with open_keyed() as site:
        made = make_key()
        with pytest.raises(InvalidRequest, match=problem):
            await site.service.store.write(
                keys.add_key, made.id, NewKey(name=name, digest=made.digest, scopes=scopes)
            )


async def test_of_too_many_keys_ended_ones_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "MAX_KEYS", 2)
    async with open_keyed() as site:
        first, _ = await site.key("read:shop"), await site.key("read:shop")
        with pytest.raises(Conflict, match="revoke some first"):
            await site.key("read:shop")
        await revoke_elsewhere(site, first)
        await site.key("read:shop")


async def test_state_managers_of_one_database_know_the_same_keys_and_sessions(db_url: str) -> None:
    async with open_keyed(db_url) as here, open_keyed(db_url) as there:
        await register(here)
        key = await here.key("read:shop")
        assert (await there.ask("GET", RUNS, key))[0] == 200
        cookie = await here.sign_in(key)
        assert (await there.ask("GET", "/ns/shop", cookie=cookie))[0] == 200
        await revoke_elsewhere(here, key)
        await there.service.keys.read_again()
        assert (await there.ask("GET", RUNS, key))[0] == 401
        assert (await there.ask("GET", "/ns/shop", cookie=cookie))[0] == 303


async def test_earlier_state_managers_do_not_take_sessions_and_links_of_keys_for_those_of_the_root_key() -> (
    None
):
    # They look for the digest of a cookie or a token alone, and a cookie has 43 characters there.
    async with open_keyed() as site:
        key = await site.key("admin", "read:shop")
        cookie = await site.sign_in(key)
        await site.call(key, "POST", "/exotrio/v1/sign-in-link")
        assert len(cookie.partition("=")[2]) != 43
        stored = await site.service.store.read(
            lambda view: view.execute("SELECT id FROM sessions UNION SELECT id FROM sign_in_links").fetchall()
        )
        assert [row["id"].partition(".")[0] for row in stored] == 2 * [key.split("_")[1]]
