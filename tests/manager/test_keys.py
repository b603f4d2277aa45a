"""Which API key a server asks for, and the files that keep what it made itself."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

import pytest

from exotrio import ConfigurationError
from exotrio._shared.settings import Settings
from exotrio._util.database_url import is_loopback
from exotrio.manager.security.api_key import PUBLISHED_KEYS, Key, choose_key
from exotrio.manager.security.secret_files import kept_secret, read_secret_file, write_secret_file

PUBLISHED = next(iter(PUBLISHED_KEYS))
EVERYWHERE = "0.0.0.0"


def choose(
    key: str | None = None,
    *,
    file: Path | None = None,
    secret: str | None = None,
    variable: str | None = None,
    host: str = "127.0.0.1",
    db: Path | None = None,
) -> Key:
    source = Settings(api_key=variable, state_manager_secret=secret)
    return choose_key(key=key, key_file=file, settings=source, host=host, db=db)


@pytest.mark.parametrize(
    ("argument", "file", "secret", "variable", "chosen"),
    [
        ("the key as argument", "file", "secret", "variable", "the key as argument"),
        (None, "the text of a file", "secret", "variable", "the text of a file"),
        (None, None, "STATE_MANAGER_SECRET", "variable", "STATE_MANAGER_SECRET"),
        (None, None, None, "EXOSPHERE_API_KEY", "EXOSPHERE_API_KEY"),
    ],
)
@pytest.mark.parametrize("host", ["127.0.0.1", EVERYWHERE])
def test_the_key_comes_from_the_first_source_that_has_one(
    tmp_path: Path,
    argument: str | None,
    file: str | None,
    secret: str | None,
    variable: str | None,
    chosen: str,
    host: str,
) -> None:
    path = tmp_path / "key"
    path.write_text(f"  {file}\n")
    source = path if file else None
    key = choose(argument, file=source, secret=secret, variable=variable, host=host, db=tmp_path / "state.db")
    assert key.text == chosen
    assert list(tmp_path.iterdir()) == [path]


def test_on_loopback_a_key_is_generated_once_next_to_the_database(tmp_path: Path) -> None:
    db = tmp_path / "state.db"
    made, source, file = choose(host="localhost", db=db)
    assert len(made) >= 32
    assert choose(host="::1", db=db).text == made
    kept = tmp_path / "state.db.api-key"
    assert (source, file) == (f"the file {kept}", kept)
    assert kept.read_text() == made + "\n"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_a_server_on_a_database_in_memory_needs_a_key() -> None:
    with pytest.raises(ConfigurationError, match="in memory"):
        choose(host="::1")


@pytest.mark.parametrize(
    ("argument", "secret", "says"),
    [
        (None, None, "it is to bind 0.0.0.0"),
        ("", None, "the key from the argument is empty"),
        (PUBLISHED, None, "one of public documentation, so it protects nothing\nit came from the argument"),
        (None, PUBLISHED, "one of public documentation, so it protects nothing\nit came from STATE_MANAGER"),
        ("fifteen letters", None, "has fewer than 16 characters"),
        (None, "1", "token_urlsafe"),
    ],
)
def test_off_loopback_a_secret_key_is_required(
    tmp_path: Path, argument: str | None, secret: str | None, says: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        choose(argument, secret=secret, host=EVERYWHERE, db=tmp_path / "state.db")
    assert says in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_on_loopback_the_published_key_is_accepted() -> None:
    assert choose(PUBLISHED).text == PUBLISHED


def test_an_empty_key_is_refused_on_loopback_too() -> None:
    with pytest.raises(ConfigurationError, match="empty"):
        choose("")


@pytest.mark.parametrize(("content", "says"), [(b"", "is empty"), (b" \n", "is empty"), (b"\xff", "be read")])
def test_a_key_file_without_a_key_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=says):
        choose(file=path, secret="other")


def test_a_missing_key_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no key file"):
        choose(file=tmp_path / "absent", secret="other")


@pytest.mark.parametrize(
    ("host", "answer"),
    [
        ("127.0.0.1", True),
        ("127.3.2.1", True),
        ("::1", True),
        ("LocalHost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("192.168.1.1", False),
        ("localhost.example.org", False),
        ("example.org", False),
    ],
)
def test_loopback_addresses_are_recognized(host: str, answer: bool) -> None:
    assert is_loopback(host) is answer


def test_a_generated_secret_is_written_once(tmp_path: Path) -> None:
    db = tmp_path / "state.db"
    assert kept_secret(db, "thing", lambda: "made") == "made"
    assert kept_secret(db, "thing", lambda: pytest.fail("made again")) == "made"
    assert [file.name for file in tmp_path.iterdir()] == ["state.db.thing"]


def test_a_key_file_is_synced_and_then_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []

    def sync(fd: int) -> None:
        synced.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")

    monkeypatch.setattr(os, "fsync", sync)
    write_secret_file(tmp_path / "key", "text")
    assert synced == ["file", "folder"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ConfigurationError, match="cannot be created"):
            kept_secret(tmp_path / "state.db", "thing", lambda: "made")
    finally:
        tmp_path.chmod(0o700)


def test_a_key_is_generated_although_the_folder_cannot_be_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(fd: int, operation: int) -> None:
        raise OSError(errno.EBADF, "as on NFS")

    monkeypatch.setattr(fcntl, "flock", refused)
    assert kept_secret(tmp_path / "state.db", "thing", lambda: "made") == "made"


def test_a_secret_file_is_read_without_the_blanks_around_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("\n a b \n")
    assert read_secret_file(tmp_path / "file") == "a b"
