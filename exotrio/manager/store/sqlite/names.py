"""Names in the file of a database, for the completion of a shell: also while a process has it open.

It imports little, since a user waits for it.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Literal

from exotrio._shared.database_files import check_companions, open_own

Kind = Literal["namespace", "graph", "node", "limit", "run"]

MAX_NAMES = 200
BUSY_TIMEOUT = 0.2
"""Seconds to wait for the file."""

_BY_NAME = "WHERE name BETWEEN :first AND :last AND :namespace IN ('', namespace) ORDER BY name LIMIT :limit"
_QUERIES: dict[Kind, str] = {
    "namespace": "SELECT DISTINCT namespace, '' FROM nodes"
    " WHERE namespace BETWEEN :first AND :last ORDER BY namespace LIMIT :limit",
    "graph": f"SELECT name, '' FROM graphs {_BY_NAME}",
    "node": f"SELECT name, runtime_name FROM nodes {_BY_NAME}",
    # Without those that were deleted (engine.limits).
    "limit": "SELECT name, '' FROM (SELECT * FROM limits WHERE coalesce(at_most, starts) IS NOT NULL)"
    f" {_BY_NAME}",
    "run": "SELECT run_id, graphs.name || ', ' || CASE WHEN pending THEN 'PENDING' WHEN errored THEN 'FAILED'"
    " ELSE 'SUCCESS' END || strftime(', %Y-%m-%d %H:%M', runs.created_at / 1000, 'unixepoch')"
    " FROM runs JOIN graphs ON graphs.id = runs.graph WHERE run_id BETWEEN :first AND :last"
    " AND :namespace IN ('', runs.namespace) ORDER BY runs.id DESC LIMIT :limit",
}


def names_in(file: Path, kind: Kind, begin: str, namespace: str) -> list[tuple[str, str]]:
    """Return names that begin with a text, each with a few words about it; the newest runs first.

    Args:
        file: The database.
        namespace: Empty for those of all namespaces.

    Returns:
        At most ``MAX_NAMES``; none if the file cannot be read, or may be another user's.
    """
    try:
        os.close(open_own(file, os.O_RDONLY))
        check_companions(file)
        # Without a log no process has it open. SQLite would make one, which it would leave behind.
        how = "mode=ro" if file.with_name(f"{file.name}-wal").exists() else "immutable=1"
        uri = f"{file.absolute().as_uri()}?{how}"
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT)) as connection:
            values = {
                "first": begin,
                "last": begin + "\U0010ffff",
                "namespace": namespace,
                "limit": MAX_NAMES,
            }
            return connection.execute(_QUERIES[kind], values).fetchall()
    except (OSError, sqlite3.Error):
        return []
