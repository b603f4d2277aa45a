"""Which nodes have which limits, as far as one state manager knows.

Most claims are of nodes without limits, and must not read anything to know that. So the limits of all nodes
are kept, and read again when a use case of this process changed them. Other state managers on the database
change them, too, when a graph is stored: they are read again after ``kept_for`` seconds. Until then the
claims of a node that just got its first limit do not look for checks of lanes, and other claims do not let
its states in; that delays states, and never lets in too many (``engine.slots``).
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterable

from pydantic_core import from_json

from exotrio.manager.store.driver import Executor


class LimitedNodes:
    """The limits of nodes, by id, and the nodes of limits. For all threads of a store."""

    def __init__(self, kept_for: float = math.inf) -> None:
        self._kept_for = kept_for
        self._known: tuple[float, dict[int, list[int]], dict[int, list[int]]] | None = None

    @property
    def known_after_ms(self) -> int:
        """After how many ms all state managers know a change that is about to be committed; 0 if there is
        only this one."""
        return 0 if math.isinf(self._kept_for) else round(5_000 * self._kept_for)

    def limits_of(self, executor: Executor, nodes: Iterable[int]) -> set[int]:
        """Return the ids of the limits that places with these nodes ever named."""
        limits, _ = self._read(executor)
        return {limit for node in nodes for limit in limits.get(node, ())} if limits else set()

    def nodes_of(self, executor: Executor, limits: Iterable[int]) -> set[int]:
        _, nodes = self._read(executor)
        return {node for limit in limits for node in nodes.get(limit, ())}

    def forget(self) -> None:
        """Read them again from now on."""
        self._known = None

    def _read(self, executor: Executor) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
        known, now = self._known, time.monotonic()
        if known is None or now - known[0] >= self._kept_for:
            limits: dict[int, list[int]] = {}
            nodes: defaultdict[int, list[int]] = defaultdict(list)
            for node, text in executor.execute("SELECT id, limits FROM nodes WHERE limits IS NOT NULL"):
                limits[node] = from_json(text)
                for limit in limits[node]:
                    nodes[limit].append(node)
            known = self._known = now, limits, dict(nodes)
        return known[1], known[2]
