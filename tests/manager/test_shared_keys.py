"""Keys for secrets where several state managers share a PostgreSQL: exchanged while all of them work."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from exotrio import ConfigurationError, DatabaseError
from exotrio._shared.settings import Settings
from exotrio.manager import background
from exotrio.manager.security.encryption import cipher_from_text, rotate_secrets
from exotrio.manager.store import opening
from exotrio.manager.store.shared_keys import SILENT_AFTER_MS
from tests.contract.flow import Flow
from tests.support.commands import Cli, fails
from tests.support.helpers import ok, place
from tests.support.manager import Manager, open_manager
from tests.support.postgres import Database

OLD, NEW, OTHER = (base64.b64encode(bytes([fill]) * 32).decode() for fill in b"abc")
SECRETS = {"token": "the-plain-token-5e1f"}


def key_id(key: str) -> str:
    return cipher_from_text(key, source="a test").newest


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # That others may end is not waited for.
    monkeypatch.setattr(background, "JOIN_TIMEOUT", 0.0)


@asynccontextmanager
async def manager(database: Database, *keys: str) -> AsyncIterator[Manager]:
    async with open_manager(database.url, settings=Settings(secrets_encryption_key=",".join(keys))) as opened:
        yield opened


async def store_secret(manager: Manager, graph: str) -> str:
    """Put a graph with a secret, and return a state of it that is held."""
    flow = await Flow.start(manager.remote, place("a"), graph=graph, secrets=SECRETS)
    return await flow.one("a")


async def reads(manager: Manager, *states: str) -> None:
    for state in states:
        assert ok(await manager.remote.secrets(state)) == {"secrets": SECRETS}


def used(database: Database) -> set[str]:
    return {value.partition(".")[0] for (value,) in database.execute("SELECT value FROM secrets")}


async def test_a_key_is_exchanged_step_by_step_while_two_state_managers_work(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="exotrio.manager")
    async with manager(database, OLD) as one:
        states = [await store_secret(one, "first")]
        async with manager(database, OLD, NEW) as two:
            states.append(await store_secret(two, "second"))
            assert used(database) == {key_id(OLD)}
            await reads(one, *states)
        async with manager(database, OLD, NEW) as two:
            pass
    async with manager(database, OLD, NEW) as one, manager(database, NEW, OLD) as two:
        assert used(database) == {key_id(NEW)}, "encrypted again at the start"
        # The first one still encrypts with the old key.
        assert "rotate-secrets says when no state manager uses the older keys any more" in caplog.text
        states += [await store_secret(one, "by one"), await store_secret(two, "by two")]
        await reads(one, *states)
        await reads(two, *states)
        assert used(database) == {key_id(OLD), key_id(NEW)}
        both = Settings(secrets_encryption_key=f"{NEW},{OLD}")
        done = await rotate_secrets(database.url, settings=both)
        assert (done.total, done.renewed, done.key_id) == (4, 1, key_id(NEW))
        assert done.behind == [one.service.manager]
        assert used(database) == {key_id(NEW)}
        await reads(one, *states)
    async with manager(database, NEW, OLD) as one, manager(database, NEW) as two:
        await reads(two, *states)
        await reads(one, await store_secret(two, "at last"))


@pytest.mark.parametrize(
    ("running", "starting", "says"),
    [
        ((OLD,), (NEW,), f"lacks the key {key_id(NEW)}"),
        ((OLD,), (NEW, OLD), f"lacks the key {key_id(NEW)}"),
        ((NEW, OLD), (OLD,), f"it lacks the key {key_id(NEW)}"),
        ((OLD, OTHER), (OTHER,), f"it lacks the key {key_id(OLD)}"),
    ],
)
async def test_a_state_manager_whose_keys_do_not_fit_is_not_started(
    database: Database, running: tuple[str, ...], starting: tuple[str, ...], says: str
) -> None:
    async with manager(database, *running) as one:
        held = await store_secret(one, "graph")
        before = used(database)
        with pytest.raises(ConfigurationError, match="do not fit") as caught:
            async with manager(database, *starting):
                raise AssertionError("it was started")
        assert says in str(caught.value)
        assert not {OLD, NEW, OTHER} & set(str(caught.value).replace(",", " ").split())
        assert used(database) == before
        await reads(one, held)
    async with manager(database, *starting):
        pass  # no other state manager is there whose keys could differ


async def test_a_key_is_not_taken_away_while_secrets_are_under_it(database: Database) -> None:
    async with manager(database, OLD, NEW) as one:
        await store_secret(one, "graph")
    async with manager(database, OLD, NEW) as one:
        async with manager(database, NEW, OLD):
            pass
        await store_secret(one, "later")
        async with manager(database, NEW, OLD) as two:
            await store_secret(one, "the last one")
            assert key_id(OLD) in used(database)
            with pytest.raises(ConfigurationError, match=f"lacks the key {key_id(OLD)}"):
                async with manager(database, NEW):
                    raise AssertionError("it was started")
            await store_secret(two, "two")


async def test_a_state_manager_starts_once_the_one_whose_keys_do_not_fit_has_ended(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(background, "JOIN_TIMEOUT", 60.0)
    monkeypatch.setattr(background, "JOIN_INTERVAL", 0.01)
    async with trio.open_nursery() as nursery:

        async def start_another() -> None:
            async with manager(database, NEW) as other:
                await reads(other, await store_secret(other, "graph"))

        async with manager(database, OLD):
            nursery.start_soon(start_another)
            while "perhaps that one ends: " not in caplog.text:  # noqa: ASYNC110 - the log has no event
                await trio.sleep(0.01)
    assert used(database) == {key_id(NEW)}


async def test_one_that_was_lost_is_waited_for_no_longer_than_it_counts_as_alive(database: Database) -> None:
    async with manager(database, OLD) as one:
        await store_secret(one, "graph")
        with pytest.raises(ConfigurationError):
            async with manager(database, NEW):
                raise AssertionError("it was started")
        ago = SILENT_AFTER_MS
        database.execute(f"UPDATE managers SET seen_at = seen_at - {ago}")
        async with manager(database, NEW):
            pass


async def test_a_start_that_fails_does_not_count_as_alive(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "START_TIMEOUT", 0)
    async with manager(database, OLD) as one:
        await store_secret(one, "graph")
    database.execute(
        "CREATE FUNCTION refuse() RETURNS trigger AS $$ BEGIN RAISE EXCEPTION 'not now'; END $$"
        " LANGUAGE plpgsql;"
        " CREATE TRIGGER refuse BEFORE UPDATE ON secrets FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    with pytest.raises(DatabaseError, match="not now"):
        async with manager(database, NEW, OLD):
            pass
    assert database.execute("SELECT id FROM managers") == []


async def test_nothing_is_encrypted_with_a_key_that_a_state_manager_lacks(database: Database) -> None:
    async with manager(database, OLD) as one:
        held = await store_secret(one, "graph")
        both = Settings(secrets_encryption_key=f"{NEW},{OLD}")
        with pytest.raises(DatabaseError, match=f"lack the key {key_id(NEW)}") as caught:
            await rotate_secrets(database.url, settings=both)
        assert one.service.manager in str(caught.value)
        assert used(database) == {key_id(OLD)}
        await reads(one, held)


def test_the_command_needs_the_keys_and_says_what_it_did(
    database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    cli = Cli(tmp_path, monkeypatch, capsys)
    cli.set(EXOTRIO_DATABASE_URL=database.tcp_url)
    monkeypatch.delenv("SECRETS_ENCRYPTION_KEY", raising=False)
    fails(cli("rotate-secrets"), 2, "SECRETS_ENCRYPTION_KEY is not set")

    async def fill() -> None:
        async with manager(database, OLD) as one:
            await store_secret(one, "graph")

    trio.run(fill)
    cli.set(SECRETS_ENCRYPTION_KEY=f"{NEW},{OLD}")
    end = cli("rotate-secrets")
    assert end.code == 0, end
    assert f"1 secrets are encrypted with the key {key_id(NEW)}" in end.out
    assert used(database) == {key_id(NEW)}
    # As after a rolling restart, in which each state manager has done it at its start.
    end = cli("rotate-secrets")
    assert "0 were not before" in end.out
    assert "older keys are needed only for backups" in end.out
