"""``Limit``: what ``Graph.limit`` returns, for ``limits=`` of ``Graph.add``."""

from __future__ import annotations

from typing import Final


class Limit:
    """A limit of the namespace, by its name, and the key that a node takes part with.

    All states without a key share the limit.
    """

    __slots__ = ("key", "name")

    def __init__(self, name: str, key: object = "") -> None:
        self.name: Final = name
        self.key: Final = key

    def for_key(self, key: object) -> Limit:
        """Return the limit as it applies to the states of one key separately.

        Args:
            key: A reference (``order.customer``), a value, or text with references, by an f-string.
        """
        return Limit(self.name, key)

    def __repr__(self) -> str:
        return f"<limit {self.name!r}{'' if isinstance(self.key, str) and not self.key else ' for a key'}>"
