"""The API key that a server requires: where it comes from, and whether it is good enough."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import NamedTuple

from exotrio._shared.settings import KEY_VARIABLE, Settings
from exotrio._util.database_url import is_loopback
from exotrio.errors import ConfigurationError
from exotrio.manager.security.secret_files import kept_secret, read_secret_file, secret_path

PUBLISHED_KEYS = frozenset({"exosphere@123"})
"""Keys in public documentation, which protect nothing."""
MIN_LENGTH = 16
"""Characters that a key must have where clients on other machines could guess it."""
MAKE_ONE = "python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"


class Key(NamedTuple):
    """An API key, where it came from (for messages), and its file, if it is in one."""

    text: str
    source: str
    file: Path | None = None


def choose_key(
    *, key: str | None, key_file: Path | None, settings: Settings, host: str, db: Path | None
) -> Key:
    """Return the API key that a server requires.

    The first of: ``key``, the text of ``key_file``, ``STATE_MANAGER_SECRET``, ``EXOSPHERE_API_KEY``,
    and, on loopback, a generated key that is kept next to a database file.

    Raises:
        ConfigurationError: there is none; or other machines can reach the server, and the key is a published
            one, or has fewer than 16 characters.
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
            "the key is one of public documentation, so it protects nothing",
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
        return "its database is in memory, so there is no file next to it to keep a generated key in"
    return f"it is to bind {host}, where others reach it"
