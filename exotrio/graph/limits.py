"""``Limit``: what ``Graph.limit`` returns, for ``limits=`` of ``Graph.add``."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from exotrio.errors import GraphInvalid
from exotrio.graph.declaration import MAX_PERIOD_MS, MIN_PERIOD_MS


class Limit:
    """A limit of the namespace, by its name, and the key that a node takes part with.

    All states without a key share the limit.
    """

    __slots__ = ("key", "name", "namespace")

    def __init__(self, name: str, key: object = "", namespace: str | None = None) -> None:
        self.name: Final = name
        self.namespace: Final = namespace
        self.key: Final = key

    def for_key(self, key: object) -> Limit:
        """Return the limit as it applies to the states of one key separately.

        Args:
            key: A reference (``order.customer``), a value, or text with references, by an f-string.

        Raises:
            GraphInvalid: it is None or empty, or the limit has a key already.
        """
        if not isinstance(self.key, str) or self.key:
            fix = 'call for_key() once, with both in one text: for_key(f"{one}-{other}")'
            raise GraphInvalid(f"limit {self.name!r} has a key already", fix=fix)
        if key is None or (isinstance(key, str) and not key):  # a reference has its own ==
            what = f"{key!r} is not a key of limit {self.name!r}"
            raise GraphInvalid(what, fix="leave out for_key(), if all states share the limit")
        return Limit(self.name, key, self.namespace)

    def __repr__(self) -> str:
        return f"<limit {self.name!r}{'' if isinstance(self.key, str) and not self.key else ' for a key'}>"


def period_in_ms(period: float | timedelta) -> int:
    """Return the period of a limit, which is given in seconds or as a ``timedelta``; raise ValueError."""
    seconds = period.total_seconds() if isinstance(period, timedelta) else period
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not is_number or not MIN_PERIOD_MS <= seconds * 1000 <= MAX_PERIOD_MS:
        raise ValueError(f"the period is from 1 s to {MAX_PERIOD_MS // 86_400_000} days, not {period!r}")
    return round(seconds * 1000)
