"""What the workers of a namespace hold, as the database knows it.

Not as their last heartbeat said: that is seconds old, and whether a runtime may be stopped hangs on it.
Only what is held is looked at, through an index that finished states are not in.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Mapping

from exotrio.manager.store.port import View

MOST_HELD = 20_000
"""States that are looked at."""


def held_by_worker(view: View, namespace: str) -> Counter[str]:
    """Return how many states each worker holds, as far as they say who they are."""
    return Counter({worker: len(states) for worker, states in states_held(view, namespace).items()})


def states_held(view: View, namespace: str) -> Mapping[str, list[sqlite3.Row]]:
    """Return what each worker holds (seq, worker, claimed_at), longest first; nothing for one unknown."""
    found: defaultdict[str, list[sqlite3.Row]] = defaultdict(list)
    for row in view.execute(
        "SELECT seq, worker, claimed_at FROM"
        " (SELECT * FROM states INDEXED BY states_held WHERE status = 'QUEUED' LIMIT ?)"
        " JOIN nodes ON nodes.id = node_id WHERE namespace = ?",
        (MOST_HELD, namespace),
    ):
        if row["worker"] is not None:
            found[row["worker"]].append(row)
    for rows in found.values():
        rows.sort(key=lambda row: (row["claimed_at"], row["seq"]))
    return found
