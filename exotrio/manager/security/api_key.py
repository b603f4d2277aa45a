"""Keys: the API key of a server, and secrets of its own that live in files beside the database."""

from __future__ import annotations

import ipaddress
import logging
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from exotrio._util.settings import KEY_VARIABLE, Settings
from exotrio.errors import ConfigurationError
from exotrio.manager.store.sqlite.own_files import is_readable_by_others, open_own

logger = logging.getLogger("exotrio.manager")

PUBLISHED_KEYS = frozenset({"exosphere@123"})
"""Keys that stand in public documentation: everybody knows them."""
MIN_LENGTH = 16
"""Characters of a key that others may guess at."""
MAKE_ONE = "python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"
"""How to make a good one."""


def secret_path(db: Path, name: str) -> Path:
    """Return where ``kept_secret`` keeps it."""
    return db.with_name(f"{db.name}.{name}")


def kept_secret(db: Path, name: str, make: Callable[[], str]) -> str:
    """Return the text of ``<db>.<name>``, making the file at first use, readable by its owner only.

    Call it while owning the database, so that two processes do not make two.

    Raises:
        ConfigurationError: the file cannot be read or written.
    """
    path = secret_path(db, name)
    try:
        return read_secret_file(path, own=True)
    except FileNotFoundError:
        pass
    text = make()
    write_secret_file(path, text)
    return text


def write_secret_file(path: Path, text: str) -> None:
    """Make or replace a file that its owner only may read; on disk when this returns.

    Raises:
        ConfigurationError: it cannot be written.
    """
    temporary = path.with_name(path.name + ".new")
    try:
        # Made anew: the mode of a file that was left there would stay what it is.
        temporary.unlink(missing_ok=True)
        # Renamed when complete: a crash in between leaves no empty key behind.
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            _give_to_owner_of(path, temporary)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise ConfigurationError(
            f"the key file {path} cannot be written: {error.strerror}", fix="make its folder writable"
        ) from error


def _give_to_owner_of(path: Path, temporary: Path) -> None:
    # An administrator may write it for a server that runs as somebody else.
    owner = path.stat()
    if os.geteuid() == 0:
        os.chown(temporary, owner.st_uid, owner.st_gid)


def _sync_folder(folder: Path) -> None:
    """Put the names in a folder on disk: a file whose name got lost with the power is lost too."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read_secret_file(path: Path, *, own: bool = False) -> str:
    """Return a file's text without the blanks around it.

    Args:
        path: The file.
        own: It is one that we made, so no link, and nobody else's. Else it may be a link, as the secrets
            of Kubernetes are; its target must not be a file that somebody put into a shared folder.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigurationError: it cannot be read, is empty, or may have been put there by somebody else.
    """
    try:
        fd = open_own(path if own else path.resolve(), os.O_RDONLY)
        with open(fd, encoding="utf-8") as file:
            text, is_shown = file.read().strip(), is_readable_by_others(fd)
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"the key file {path} cannot be read: {error}",
            fix="make it a UTF-8 text file that is yours and that you may read",
        ) from error
    if not text:
        raise ConfigurationError(f"the key file {path} is empty", fix="write the key into it, or remove it")
    if is_shown:
        logger.warning("other users can read the key file %s: run chmod 600 %s", path, path)
    return text


class Key(NamedTuple):
    """An API key, and where it came from, to be told to whoever has to find it; the file, if it is in one."""

    text: str
    source: str
    file: Path | None = None


def choose_key(
    *, key: str | None, key_file: Path | None, settings: Settings, host: str, db: Path | None
) -> Key:
    """Return the API key a server asks for.

    The first of: ``key``, the text of ``key_file``, ``STATE_MANAGER_SECRET``, ``EXOSPHERE_API_KEY``,
    and, on loopback, a generated key that is kept beside a database file.

    Args:
        key: Given outright.
        key_file: File that holds it.
        settings: The environment.
        host: Address the server binds.
        db: Database file, or None in memory.

    Raises:
        ConfigurationError: there is none; or the server is reachable from elsewhere, and the key is one
            that everybody knows, or has fewer than 16 characters.
    """
    source, file = "the argument", None
    if key is None and key_file is not None:
        source, file = f"the file {key_file}", key_file
        try:
            key = read_secret_file(key_file)
        except FileNotFoundError:
            raise ConfigurationError(f"there is no key file {key_file}", fix="name another file") from None
    if key is None:
        key, source = settings.state_manager_secret, "STATE_MANAGER_SECRET"
    if key is None:
        key, source = settings.api_key, KEY_VARIABLE
    local = is_loopback(host)
    if key is None and local and db is not None:
        made = kept_secret(db, "api-key", lambda: secrets.token_urlsafe(32))
        file = secret_path(db, "api-key")
        return Key(made, f"the file {file}", file)
    if not key:
        raise ConfigurationError(
            "the state manager needs a key",
            where=_why_needed(host, db) if key is None else f"the key from {source} is empty",
            fix="give one with --key-file FILE or STATE_MANAGER_SECRET",
        )
    if key in PUBLISHED_KEYS and not local:
        raise ConfigurationError(
            "the key is one that stands in public documentation, so it protects nothing",
            where=f"it came from {source}, and the server is to bind {host}",
            fix="choose another key, or bind 127.0.0.1",
        )
    if len(key) < MIN_LENGTH and not local:
        raise ConfigurationError(
            f"the key has fewer than {MIN_LENGTH} characters, so it can be guessed",
            where=f"it came from {source}, and the server is to bind {host}",
            fix=f"choose a longer one, such as this prints: {MAKE_ONE}; or bind 127.0.0.1",
        )
    return Key(key, source, file)


def _why_needed(host: str, db: Path | None) -> str:
    if db is None:
        return "its database is in memory, so there is no place to keep a generated one where you find it"
    return f"it is to bind {host}, where others reach it"


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach a server that binds ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
