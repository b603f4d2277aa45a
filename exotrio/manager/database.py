"""Which database a state manager works on, and where it keeps the keys that it generates."""

from __future__ import annotations

from pathlib import Path

from exotrio._shared.settings import DATABASE_VARIABLE, Settings, source_of
from exotrio._util.database_url import (
    check_database,
    is_database_url,
    is_loopback,
    parse_database_url,
    shown_database,
)
from exotrio.manager.store.sqlite.database import MEMORY

DEFAULT_DB = Path(".exotrio/state.db")
"""The default database file. Generated keys are next to it, also those for a PostgreSQL."""


def choose_database(db: str | Path | None, settings: Settings) -> str | Path:
    """Return the database to use: a file, ``:memory:``, or the URL of a PostgreSQL.

    The first of: ``db``, ``EXOTRIO_DATABASE_URL``, ``.exotrio/state.db``. A URL that equals the one in the
    variable but for its password gets the password from there, since arguments are visible to other users.

    Raises:
        ConfigurationError: the URL is malformed, or of something else. The message does not show it.
    """
    variable = settings.database_url
    if db is None and variable is None:
        return DEFAULT_DB
    if db is None or (variable is not None and str(db) == shown_database(variable)):
        assert variable is not None
        return parse_database_url(variable, source=source_of(DATABASE_VARIABLE)).text
    check_database(db)
    return db


def place_of_keys(db: str | Path) -> Path | None:
    """Return the file next to which generated keys are kept: for a PostgreSQL, ``.exotrio/state.db``.

    None for a database in memory.
    """
    if is_database_url(db):
        return DEFAULT_DB.resolve()
    return None if str(db) == MEMORY else Path(db).resolve()


def must_share_keys(db: str | Path, host: str) -> bool:
    """Return whether state managers on other machines may need the keys for the secrets in a database.

    Then keys must be configured, not generated. That is so for a PostgreSQL on another machine, or if other
    machines reach this state manager.
    """
    if not is_database_url(db):
        return False
    return not (parse_database_url(str(db)).is_local and is_loopback(host))
