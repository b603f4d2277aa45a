"""The condition of a SQLite database, for ``doctor``."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from exotrio.manager.store.view import View


def describe(view: View, path: Path | None) -> dict[str, Any]:
    """Return the condition of a database, as ``DatabaseState``; ``path`` is its file, or None in memory. A
    query."""
    pages, page_size, schema_version = (
        view.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size", "user_version")
    )
    return {
        "in_memory": path is None,
        "sqlite": view.execute("SELECT sqlite_version()").fetchone()[0],
        "size": pages * page_size,
        "log_size": 0 if path is None else _size(path.with_name(path.name + "-wal")),
        "schema_version": schema_version,
        "free_disk": None if path is None else shutil.disk_usage(path.parent).free,
    }


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # not made yet, or gone with the last checkpoint
