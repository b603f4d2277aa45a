"""Exchanging the keys for secrets at rest, at the start of a state manager and by command."""

from __future__ import annotations

import base64
import dataclasses
import os
import shutil
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio

from exotrio import ConfigurationError, DatabaseBusy, DatabaseError
from exotrio._shared.settings import Settings
from exotrio.manager.security import encryption
from exotrio.manager.security.encryption import cipher_from_text, rotate_secrets
from exotrio.manager.store import cipher as store_cipher
from exotrio.manager.store.cipher import Cipher
from exotrio.manager.store.sqlite.database import open_writer
from exotrio.manager.store.sqlite.store import open_store
from tests.contract.flow import Flow
from tests.support.commands import Cli, fails
from tests.support.helpers import ok, place, refused
from tests.support.manager import NO_SETTINGS, Manager, open_manager, running

OLD, NEW, NEWEST = (base64.b64encode(bytes([fill]) * 32).decode() for fill in b"abc")
SECRETS = {"token": "the-plain-token-5e1f", "other": "the-plain-other-0c77"}
GRAPHS = ("one", "two", "three")


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def settings_with(*keys: str, separator: str = ",") -> Settings:
    """Return settings with keys in ``SECRETS_ENCRYPTION_KEY``, newest first."""
    return dataclasses.replace(NO_SETTINGS, secrets_encryption_key=separator.join(keys))


async def store_secrets(db: Path, settings: Settings = NO_SETTINGS) -> list[str]:
    """Make a database with secrets, and return states that are given them."""
    async with open_manager(db, settings=settings) as manager:
        return [await hold(manager, graph) for graph in GRAPHS]


async def hold(manager: Manager, graph: str) -> str:
    flow = await Flow.start(manager.remote, place("a"), graph=graph, secrets=SECRETS)
    return await flow.one("a")


async def read_secrets(db: Path, states: list[str], settings: Settings = NO_SETTINGS) -> None:
    """Check that every state is given its secrets."""
    async with open_manager(db, settings=settings) as manager:
        for state in states:
            assert ok(await manager.remote.secrets(state)) == {"secrets": SECRETS}


def ciphertexts(db: Path) -> dict[tuple[int, str], str]:
    with closing(sqlite3.connect(db)) as connection:
        return {(graph, name): value for graph, name, value in connection.execute("SELECT * FROM secrets")}


def key_ids(db: Path) -> set[str]:
    return {value.partition(".")[0] for value in ciphertexts(db).values()}


def key_id(key: str) -> str:
    return cipher_from_text(key, source="a test").newest


def change(db: Path, sql: str) -> None:
    with closing(sqlite3.connect(db, isolation_level=None)) as connection:
        connection.execute(sql)


# -- several keys


@pytest.mark.parametrize("separator", [",", ", ", "\n", " \r\n", ",\n"])
def test_the_first_of_several_keys_encrypts_and_all_decrypt(separator: str) -> None:
    where = {"namespace": "ns", "graph": "g", "name": "token"}
    both = cipher_from_text(f" {NEW}{separator}{OLD}\n", source="a test")
    assert both.decrypt(cipher_from_text(OLD, source="a test").encrypt("x", **where), **where) == "x"
    assert cipher_from_text(NEW, source="a test").decrypt(both.encrypt("x", **where), **where) == "x"


@pytest.mark.parametrize(
    ("keys", "which"), [(f"{NEW},short", "key 2 of 2"), (f"x {NEW} {OLD}", "key 1 of 3")]
)
def test_a_malformed_key_among_several_is_named_and_not_shown(keys: str, which: str) -> None:
    with pytest.raises(ConfigurationError, match=which) as caught:
        cipher_from_text(keys, source="SECRETS_ENCRYPTION_KEY")
    assert not set(keys.replace(",", " ").split()) & set(str(caught.value).split())


def test_the_id_of_a_key_does_not_reveal_it() -> None:
    cipher = cipher_from_text(NEW, source="a test")
    text = cipher.encrypt("x", namespace="ns", graph="g", name="token")
    assert text.startswith(f"{cipher.newest}.")
    assert cipher.newest not in NEW
    assert cipher.newest not in (bytes([ord("b")]) * 32).hex()


# -- at the start of a state manager


async def test_a_start_with_a_new_key_in_front_encrypts_everything_with_it(
    db: Path, caplog: pytest.LogCaptureFixture
) -> None:
    states = await store_secrets(db, settings_with(OLD))
    assert key_ids(db) == {key_id(OLD)}
    caplog.set_level("INFO", logger="exotrio.manager")  # a command set it, if one ran before
    await read_secrets(db, states, settings_with(NEW, OLD))
    assert key_ids(db) == {key_id(NEW)}
    assert f"encrypted 6 secrets of 3 graphs with the key {key_id(NEW)}" in caplog.text
    caplog.clear()
    await read_secrets(db, states, settings_with(NEW))
    assert "encrypted" not in caplog.text
    assert OLD not in caplog.text


async def test_a_start_with_unchanged_keys_changes_nothing(db: Path) -> None:
    states = await store_secrets(db, settings_with(NEW, OLD))
    before = ciphertexts(db)
    await read_secrets(db, states, settings_with(NEW, OLD))
    assert ciphertexts(db) == before


async def test_a_key_in_front_of_the_one_in_the_file_is_the_new_one(db: Path, tmp_path: Path) -> None:
    states = await store_secrets(db)
    file = tmp_path / "state.db.secrets-key"
    file.write_text(f"{NEW}\n{file.read_text()}")
    await read_secrets(db, states)
    assert key_ids(db) == {key_id(NEW)}


async def test_a_backup_from_before_is_read_with_the_old_key(tmp_path: Path) -> None:
    db, copy = tmp_path / "state.db", tmp_path / "copy.db"
    async with open_manager(db, settings=settings_with(OLD)) as manager:
        states = [await hold(manager, graph) for graph in GRAPHS]
        backup = await manager.remote.request("GET", "/exotrio/v1/backup")
        copy.write_bytes(backup.content)
    await read_secrets(db, states, settings_with(NEW, OLD))
    await read_secrets(copy, states, settings_with(OLD))


async def test_a_key_that_was_removed_too_early_is_named_and_no_secret_is_lost(
    db: Path, caplog: pytest.LogCaptureFixture
) -> None:
    states = await store_secrets(db, settings_with(OLD))
    before = ciphertexts(db)
    async with open_manager(db, settings=settings_with(NEWEST, NEW)) as manager:
        detail = refused(await manager.remote.secrets(states[0]), 503)
        assert f"it was encrypted with another key, {key_id(OLD)}" in detail
    (message,) = [record.getMessage() for record in caplog.records if record.name == "exotrio.manager"]
    assert f"6 of 6 secrets cannot be decrypted: it was encrypted with another key, {key_id(OLD)}" in message
    assert f"given are {key_id(NEWEST)}, {key_id(NEW)}, by SECRETS_ENCRYPTION_KEY" in message
    assert ciphertexts(db) == before
    await read_secrets(db, states, settings_with(NEW, OLD))


async def test_readable_secrets_are_renewed_next_to_unreadable_ones(db: Path) -> None:
    states = await store_secrets(db, settings_with(OLD))
    async with open_manager(db, settings=settings_with(NEW)) as manager:
        states.append(await hold(manager, "four"))
    await store_more(db)
    assert key_ids(db) == {key_id(OLD), key_id(NEWEST)}
    await read_secrets(db, states, settings_with(NEWEST, OLD))


async def store_more(db: Path) -> None:
    """Start once with keys that read only what graph four has."""
    async with open_manager(db, settings=settings_with(NEWEST, NEW)):
        pass


async def test_a_moved_ciphertext_is_refused_after_a_rotation_too(
    db: Path, caplog: pytest.LogCaptureFixture
) -> None:
    states = await store_secrets(db, settings_with(OLD))
    change(
        db, "UPDATE secrets SET value = (SELECT value FROM secrets WHERE name = 'token') WHERE name = 'other'"
    )
    async with open_manager(db, settings=settings_with(NEW, OLD)) as manager:
        refused(await manager.remote.secrets(states[0]), 503)
    assert "3 of 6 secrets cannot be decrypted: it was changed in the database" in caplog.text
    assert key_ids(db) == {key_id(NEW), key_id(OLD)}


@pytest.mark.parametrize("value", ["", ".", "x.y", "not base64!", "AAAA", f"{'0' * 8}."])
async def test_a_malformed_ciphertext_is_a_503(db: Path, value: str) -> None:
    states = await store_secrets(db, settings_with(OLD))
    change(db, f"UPDATE secrets SET value = '{value}' WHERE name = 'token'")
    async with open_manager(db, settings=settings_with(OLD)) as manager:
        refused(await manager.remote.secrets(states[0]), 503)


@pytest.fixture
def careless_sqlite(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let SQLite leave what is deleted where it was, as most builds of it do unless told otherwise."""

    def careless(path: Path | None) -> sqlite3.Connection:
        connection = open_writer(path)
        connection.execute("PRAGMA secure_delete = OFF")
        return connection

    monkeypatch.setattr("exotrio.manager.store.sqlite.store.open_writer", careless)


@pytest.mark.usefixtures("careless_sqlite")
async def test_no_file_contains_the_old_ciphertexts_after_a_rotation(
    db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short, old = store_cipher._key_id, key_id(OLD)
    # The new ones are longer, so that they do not fit into the place of the old ones.
    monkeypatch.setattr(store_cipher, "_key_id", lambda key: short(key) * (1 if short(key) == old else 9))
    # Of sizes with which SQLite does not just put the new ones where the old ones were.
    many = {f"s{size}": "x" * 20 * size for size in range(8)}
    async with open_manager(db, settings=settings_with(OLD)) as manager:
        ok(await manager.remote.put_graph("many", manager.remote.body([place("a")], secrets=many)), 201)
    change(db, "VACUUM")
    replaced = [*ciphertexts(db).values()]
    async with open_manager(db, settings=settings_with(NEW, OLD)):
        assert_in_no_file(tmp_path, replaced)
    assert_in_no_file(tmp_path, replaced)


@pytest.mark.usefixtures("careless_sqlite")
async def test_no_file_contains_a_removed_secret(db: Path, tmp_path: Path) -> None:
    await store_secrets(db, settings_with(OLD))
    replaced = [*ciphertexts(db).values()]
    async with open_manager(db, settings=settings_with(OLD)) as manager:
        for graph in GRAPHS:
            ok(await manager.remote.put_graph(graph, manager.remote.body([place("a")])), 201)
    assert_in_no_file(tmp_path, replaced)


def assert_in_no_file(folder: Path, texts: list[str]) -> None:
    # Piece by piece: part of what was replaced may be overwritten.
    pieces = [text[start : start + 12].encode() for text in texts for start in range(10, len(text) - 12, 12)]
    for file in folder.iterdir():
        content = file.read_bytes()
        assert not [piece for piece in pieces if piece in content], file.name


HALF_WAY = """
import sys
import threading
from exotrio._shared.settings import Settings
from exotrio.manager import open_service
from exotrio.manager.security.encryption import Cipher
import trio

encrypt, done = Cipher.encrypt, []

def encrypt_three(self, value, **place):
    if len(done) == 3:
        print("half way", flush=True)
        threading.Event().wait()
    done.append(value)
    return encrypt(self, value, **place)

Cipher.encrypt = encrypt_three

async def main():
    settings = Settings(secrets_encryption_key="{keys}")
    async with open_service(sys.argv[1], settings=settings):
        print("all the way")

trio.run(main)
"""


async def test_after_a_kill_half_way_all_secrets_are_read_with_the_old_key(db: Path, tmp_path: Path) -> None:
    states = await store_secrets(db, settings_with(OLD))
    with running(HALF_WAY.replace("{keys}", f"{NEW},{OLD}"), db) as process:
        process.line("half way")
        process.kill()
    assert key_ids(db) == {key_id(OLD)}
    shutil.copy(db, tmp_path / "copy.db")
    await read_secrets(tmp_path / "copy.db", states, settings_with(OLD))
    await read_secrets(db, states, settings_with(NEW, OLD))
    assert key_ids(db) == {key_id(NEW)}


# -- by command


async def test_a_new_key_is_made_and_the_old_one_kept(tmp_path: Path) -> None:
    db, file = tmp_path / "state.db", tmp_path / "state.db.secrets-key"
    states = await store_secrets(db)
    shutil.copy(db, tmp_path / "backup.db")
    old = file.read_text()
    done = await rotate_secrets(db, settings=NO_SETTINGS)
    new, *kept = file.read_text().splitlines()
    assert (done.total, done.renewed, done.key_id) == (6, 6, key_id(new))
    assert kept == [old.strip()]
    assert key_ids(db) == {key_id(new)}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    await read_secrets(db, states)
    shutil.copy(file, tmp_path / "backup.db.secrets-key")
    await read_secrets(tmp_path / "backup.db", states)


async def test_older_keys_can_be_removed_from_the_file_after_a_rotation(tmp_path: Path) -> None:
    db, file = tmp_path / "state.db", tmp_path / "state.db.secrets-key"
    states = await store_secrets(db)
    replaced = [*ciphertexts(db).values()]
    await rotate_secrets(db, settings=NO_SETTINGS)
    newest, _ = file.read_text().splitlines()
    file.write_text(newest)
    assert_in_no_file(tmp_path, replaced)
    await read_secrets(db, states)


async def test_keys_in_the_environment_are_used_as_they_are(db: Path, tmp_path: Path) -> None:
    states = await store_secrets(db, settings_with(OLD))
    done = await rotate_secrets(db, settings=settings_with(NEW, OLD))
    assert (done.renewed, done.key_id, done.source) == (6, key_id(NEW), "SECRETS_ENCRYPTION_KEY")
    assert not (tmp_path / "state.db.secrets-key").exists()
    await read_secrets(db, states, settings_with(NEW))


async def test_an_unreadable_secret_prevents_the_rotation(tmp_path: Path) -> None:
    db, file = tmp_path / "state.db", tmp_path / "state.db.secrets-key"
    await store_secrets(db, settings_with(OLD))
    with pytest.raises(DatabaseError, match=f"another key, {key_id(OLD)}"):
        await rotate_secrets(db, settings=NO_SETTINGS)
    assert not file.exists()
    assert key_ids(db) == {key_id(OLD)}


async def test_the_new_key_is_on_disk_before_anything_is_encrypted_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db, file = tmp_path / "state.db", tmp_path / "state.db.secrets-key"
    states = await store_secrets(db)

    def fail(*_: Any) -> None:
        raise RuntimeError("the power went")

    monkeypatch.setattr(encryption, "rotate", fail)
    with pytest.raises(RuntimeError, match="the power went"):
        await rotate_secrets(db, settings=NO_SETTINGS)
    monkeypatch.undo()
    assert len(file.read_text().split()) == 2
    await read_secrets(db, states)
    assert key_ids(db) == {key_id(file.read_text().split()[0])}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
async def test_the_owner_of_the_key_file_is_kept(tmp_path: Path) -> None:
    db, file = tmp_path / "state.db", tmp_path / "state.db.secrets-key"
    await store_secrets(db)
    for path in (tmp_path, file):
        os.chown(path, 12_345, 12_345)
    await rotate_secrets(db, settings=NO_SETTINGS)
    assert (file.stat().st_uid, file.stat().st_gid) == (12_345, 12_345)


async def test_a_database_in_use_is_left_alone(db: Path, tmp_path: Path) -> None:
    async with open_store(db):
        with pytest.raises(DatabaseBusy):
            await rotate_secrets(db, settings=NO_SETTINGS)
    assert not (tmp_path / "state.db.secrets-key").exists()


def test_the_command_says_what_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cli = Cli(tmp_path, monkeypatch, capsys)
    monkeypatch.delenv("SECRETS_ENCRYPTION_KEY", raising=False)
    fails(cli("rotate-secrets"), 2, "there is no database", "--db")
    trio.run(store_secrets, tmp_path / "state.db")
    end = cli("rotate-secrets", "--db", "state.db")
    assert end.code == 0, end
    newest = key_id((tmp_path / "state.db.secrets-key").read_text())
    assert end.out.startswith(f"6 secrets are encrypted with the key {newest}, the newest in the file ")
    assert "6 were not before" in end.out
    assert "only for backups" in end.out
    cli.set(SECRETS_ENCRYPTION_KEY=NEW)
    fails(cli("rotate-secrets", "--db", "state.db"), 2, "6 of 6 secrets", "given are", "after the newest")


def test_a_cipher_without_a_key_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Cipher()
