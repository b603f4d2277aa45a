"""Starts of limited rates.

The table ``starts`` counts claims in sixtieths of the period. A start is possible while the sum over the last
period, including the whole of its oldest part, is below the limit: so no window of that length has more.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection

from exotrio.manager.store.transaction import Transaction

PARTS = 60
"""Parts of a period in which starts are counted: one of them is the time by which a start may be late."""


def length_of_part(period_ms: int) -> int:
    return max(1, period_ms // PARTS)


def keep_starts(tx: Transaction, limit: int, old_ms: int, new_ms: int) -> None:
    """Let starts count for long enough when the period of a limit changes from ``old_ms``.

    Smaller parts end earlier, and a start was at the end of its part, for all that is known.
    """
    if (by := length_of_part(old_ms) - length_of_part(new_ms)) > 0:
        # Away from the old times first, which others of the same key may have.
        tx.execute("UPDATE starts SET slot = -slot WHERE limit_id = ?", (limit,))
        tx.execute("UPDATE starts SET slot = ? - slot WHERE limit_id = ?", (by, limit))


def give_back_starts(tx: Transaction, starts: Collection[tuple[tuple[int, str], int]]) -> None:
    """Let claims that were released not count as starts: each is a limit and a key, and when it was.

    Those before the last change of their limit do: it may not have counted starts then.
    """
    if not starts:
        return
    rows = tx.execute(
        f"SELECT id, period_ms, updated_at FROM limits WHERE {tx.any_of('id')} AND starts IS NOT NULL",
        (tx.items(sorted({limit for (limit, _), _ in starts})),),
    )
    limits = {number: (length_of_part(period_ms), updated_at) for number, period_ms, updated_at in rows}
    counts: Counter[tuple[int, str, int]] = Counter()
    for (limit, key), claimed_at in starts:
        part_ms, since = limits.get(limit, (1, math.inf))
        if claimed_at > since:
            counts[limit, key, claimed_at - claimed_at % part_ms] += 1
    tx.executemany(
        "UPDATE starts SET count = count - ? WHERE limit_id = ? AND key = ? AND slot = ? AND count >= ?",
        [(count, *key, count) for key, count in sorted(counts.items())],
    )


def tidy(tx: Transaction) -> None:
    """Forget starts that count no more."""
    tx.execute(
        "DELETE FROM starts WHERE slot < ? - 2 * coalesce((SELECT period_ms FROM limits WHERE id = limit_id),"
        " 0)",
        (tx.now_ms,),
    )
