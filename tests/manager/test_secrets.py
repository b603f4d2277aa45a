"""Secrets at rest: unreadable in every file, and bound to their place and key."""

from __future__ import annotations

import base64
import dataclasses
import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import trio

from exotrio import ConfigurationError, DatabaseError
from exotrio._util import redaction
from exotrio._util.redaction import Redactor
from exotrio.manager.security.encryption import cipher_from_text, find_cipher, rotate_secrets
from exotrio.manager.store.cipher import Cipher
from exotrio.manager.store.transaction import Transaction
from tests.contract.flow import Flow
from tests.contract.native import claim, item_for, report
from tests.support.helpers import NO_RETRY, ok, place, refused
from tests.support.manager import NO_SETTINGS, Manager, open_manager

VALUE = "the-plain-value-of-a-secret-5e1f"
OTHER = "another-plain-value-0c77"
PLACE = {"namespace": "ns", "graph": "g", "name": "token"}
KEY_TEXT = base64.b64encode(bytes(range(32))).decode()


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


async def hold(manager: Manager, graph: str = "graph") -> str:
    """Return a QUEUED state whose node declares both secrets."""
    flow = await Flow.start(manager.api, place("a"), graph=graph, secrets={"token": VALUE, "other": OTHER})
    return await flow.one("a")


async def test_the_plain_value_is_in_no_file_and_no_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with open_manager(tmp_path / "state.db") as manager:
        state_id = await hold(manager)
        assert ok(await manager.api.secrets(state_id))["secrets"] == {"token": VALUE, "other": OTHER}
        while_open = contents(tmp_path)
    assert {"state.db", "state.db-wal"} <= set(while_open)
    for content in (*while_open.values(), *contents(tmp_path).values()):
        assert VALUE.encode() not in content
        assert base64.b64encode(VALUE.encode())[:-4] not in content
    assert VALUE not in caplog.text


async def test_others_are_served_while_the_secrets_of_a_graph_are_masked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masking, go_on = threading.Event(), threading.Event()
    redact_lines = Redactor.redact_lines

    def slowly(self: Redactor, texts: Sequence[str]) -> list[str]:
        masking.set()
        assert go_on.wait(60), "a write waited for the masking"
        return redact_lines(self, texts)

    async with open_manager(tmp_path / "state.db") as manager, trio.open_nursery() as nursery:
        flow = await Flow.start(manager.api, place("a"), secrets={"token": VALUE}, retry_policy=NO_RETRY)
        state_id = await flow.one("a")
        monkeypatch.setattr(Redactor, "redact_lines", slowly)
        nursery.start_soon(manager.api.errored, state_id, f"it was {VALUE}")
        await trio.to_thread.run_sync(masking.wait, 60)
        try:
            with trio.fail_after(30):
                assert (await flow.detail(state_id))["status"] == "QUEUED"
                await flow.trigger()
        finally:
            go_on.set()
    async with open_manager(tmp_path / "state.db") as manager:
        assert ok(await manager.api.history(state_id))["error"] == "it was ***"


async def test_the_forms_of_a_secret_too_large_for_the_cache_are_built_once_for_a_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built: list[str] = []
    forms_of = redaction._forms_of

    def noted(value: str) -> Iterator[str]:
        built.append(value)
        return forms_of(value)

    secret = "secret of test_the_forms_of_a_secret_too_large"
    monkeypatch.setattr(redaction, "_forms_of", noted)
    monkeypatch.setattr(redaction, "MAX_CACHED", len(secret) - 1)
    async with open_manager() as manager:
        flow = await Flow.start(manager.api, place("a"), secrets={"token": secret}, retry_policy=NO_RETRY)
        for _ in range(2):
            await flow.trigger()
        states = await claim(manager.api)
        failed = [item_for(state, outcome="errored", error=f"it was {secret}") for state in states]
        assert await report(manager.api, *failed) == ["ok"] * 3
        for state in states:
            assert ok(await manager.api.history(state["state_id"]))["error"] == "it was ***"
    assert built == [secret]


async def test_the_forms_of_a_secret_are_built_once_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []
    forms_of = redaction._forms_of

    def noted(secret: str) -> Iterator[str]:
        built.append(secret)
        return forms_of(secret)

    monkeypatch.setattr(redaction, "_forms_of", noted)
    old, new = (f"{name} of test_the_forms_of_a_secret_are_built_once" for name in ("old", "new"))
    async with open_manager(tmp_path / "state.db") as manager:
        flow = await Flow.start(manager.api, place("a"), secrets={"token": old}, retry_policy=NO_RETRY)
        assert (await flow.detail(await flow.fail("a", times=1, error=old)))["error"] == "***"
    await rotate_secrets(tmp_path / "state.db", settings=NO_SETTINGS)
    async with open_manager(tmp_path / "state.db") as manager:
        flow = await Flow.start(manager.api, place("a"), secrets={"token": old}, retry_policy=NO_RETRY)
        assert (await flow.detail(await flow.fail("a", times=1, error=old)))["error"] == "***"
        assert built == [old]
        flow = await Flow.start(manager.api, place("a"), secrets={"token": new}, retry_policy=NO_RETRY)
        assert (await flow.detail(await flow.fail("a", times=1, error=new)))["error"] == "***"
        assert built == [old, new]


async def test_a_wrong_key_is_noticed_and_explained(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    db = tmp_path / "state.db"
    async with open_manager(db) as manager:
        ok(await manager.api.release(claim_id="none"))
        await hold(manager)
    settings = dataclasses.replace(NO_SETTINGS, secrets_encryption_key=KEY_TEXT)
    async with open_manager(db, settings=settings) as manager:
        (state,) = ok(await manager.api.claim(["Node_a"]))["states"]
        detail = refused(await manager.api.secrets(state["state_id"]), 503)
        assert VALUE not in detail
        assert "it was encrypted with another key" in caplog.text
        assert "SECRETS_ENCRYPTION_KEY" in caplog.text
        # Storing the graph again fixes it, as the message says.
        body = manager.api.body([place("a")], secrets={"token": VALUE, "other": OTHER})
        ok(await manager.api.put_graph("graph", body), 201)
        assert ok(await manager.api.secrets(state["state_id"]))["secrets"]["token"] == VALUE


async def test_the_key_for_secrets_is_independent_of_the_api_key(tmp_path: Path) -> None:
    db = tmp_path / "state.db"
    first, second = (dataclasses.replace(NO_SETTINGS, state_manager_secret=key) for key in ("one", "two"))
    async with open_manager(db, settings=first) as manager:
        state_id = await hold(manager)
    made = (tmp_path / "state.db.secrets-key").read_text()
    async with open_manager(db, settings=second) as manager:
        (state,) = ok(await manager.api.claim(["Node_a"]))["states"]
        assert state["state_id"] == state_id
        assert ok(await manager.api.secrets(state_id))["secrets"]["token"] == VALUE
    assert (tmp_path / "state.db.secrets-key").read_text() == made
    async with open_manager(tmp_path / "another.db", settings=first):
        assert (tmp_path / "another.db.secrets-key").read_text() != made


@pytest.mark.parametrize("moved_to", ["another name", "another graph"])
async def test_a_ciphertext_that_was_moved_in_the_database_is_refused(
    manager: Manager, moved_to: str
) -> None:
    def move_name(tx: Transaction) -> None:
        (text,) = tx.execute("SELECT value FROM secrets WHERE name = 'token'").fetchone()
        tx.execute("UPDATE secrets SET value = ? WHERE name = 'other'", (text,))

    def move_graph(tx: Transaction) -> None:
        (text,) = tx.execute("SELECT value FROM secrets WHERE name = 'token' ORDER BY graph").fetchone()
        tx.execute("UPDATE secrets SET value = ? WHERE name = 'token'", (text,))

    first, second = await hold(manager, "one"), await hold(manager, "two")
    await manager.service.store.write(move_name if moved_to == "another name" else move_graph)
    refused(await manager.api.secrets(second), 503, 200 if moved_to == "another name" else 503)
    state = first if moved_to == "another name" else second
    refused(await manager.api.secrets(state), 503)


@pytest.mark.parametrize("changed", list(PLACE))
def test_a_ciphertext_is_bound_to_its_namespace_graph_and_name(changed: str) -> None:
    cipher = find_cipher(None, NO_SETTINGS)
    text = cipher.encrypt(VALUE, **PLACE)
    assert cipher.decrypt(text, **PLACE) == VALUE
    with pytest.raises(DatabaseError, match="cannot be decrypted"):
        cipher.decrypt(text, **{**PLACE, changed: "elsewhere"})


def test_names_are_bound_separately() -> None:
    cipher = find_cipher(None, NO_SETTINGS)
    text = cipher.encrypt(VALUE, namespace="a", graph="bc", name="d")
    with pytest.raises(DatabaseError):
        cipher.decrypt(text, namespace="ab", graph="c", name="d")


def test_a_changed_ciphertext_is_refused() -> None:
    cipher = find_cipher(None, NO_SETTINGS)
    raw = bytearray(base64.urlsafe_b64decode(cipher.encrypt(VALUE, **PLACE)))
    raw[-1] ^= 1
    with pytest.raises(DatabaseError):
        cipher.decrypt(base64.urlsafe_b64encode(raw).decode(), **PLACE)


def test_equal_values_have_different_ciphertexts() -> None:
    cipher = find_cipher(None, NO_SETTINGS)
    assert cipher.encrypt(VALUE, **PLACE) != cipher.encrypt(VALUE, **PLACE)


@pytest.mark.parametrize("value", ["", "ü🙂\x00\n", "x" * 100_000])
def test_any_text_can_be_a_secret(value: str) -> None:
    cipher = find_cipher(None, NO_SETTINGS)
    assert cipher.decrypt(cipher.encrypt(value, **PLACE), **PLACE) == value


def test_a_key_is_read_in_both_alphabets_of_base64() -> None:
    key = bytes([251, 255] * 16)
    text = Cipher(key).encrypt(VALUE, **PLACE)
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        assert cipher_from_text(f" {encode(key).decode()}\n", source="x").decrypt(text, **PLACE) == VALUE


@pytest.mark.parametrize("text", ["", "short", "not base64!", base64.b64encode(bytes(31)).decode(), "ü" * 44])
def test_a_malformed_key_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        cipher_from_text(text, source="SECRETS_ENCRYPTION_KEY")
    assert "SECRETS_ENCRYPTION_KEY" in str(caught.value)
    assert not text or text not in str(caught.value)


async def test_a_malformed_key_prevents_the_start(tmp_path: Path) -> None:
    settings = dataclasses.replace(NO_SETTINGS, secrets_encryption_key="nonsense")
    with pytest.raises(ConfigurationError, match="32 bytes"):
        async with open_manager(tmp_path / "state.db", settings=settings):
            pass
