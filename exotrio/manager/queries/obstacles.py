"""What keeps all states of a node from being claimed, however much room limits have, and however many workers
are free."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property

from exotrio.graph import split_name
from exotrio.manager.queries.load import paused_nodes
from exotrio.manager.queries.runtimes import Node, Offer, offered_in
from exotrio.manager.store.view import View


class Obstacles:
    """Finds obstacles, for one answer. Of nodes outside the namespaces, the runtimes are not known."""

    def __init__(self, view: View, namespaces: Collection[str]) -> None:
        self._view, self._namespaces = view, namespaces

    # Each is read only if something waits.

    @cached_property
    def paused(self) -> dict[Node, int]:
        """Since when nodes are paused, in Unix ms."""
        return paused_nodes(self._view)

    @cached_property
    def offers(self) -> Mapping[Node, Sequence[Offer]]:
        return offered_in(self._view, self._namespaces)

    def find(self, node: Node, run_id: str) -> str | None:
        """Return the kind of ``WaitReason`` of an obstacle for the states of a node in a run, or None."""
        if (runs := self._runs(node)) is None or run_id in runs:
            return None
        if node in self.paused:
            return "paused"
        if not (offers := self.offers.get(node)):
            return "no version" if split_name(node[1])[1] else "not offered"
        return "draining" if any(offer.run_id in (None, run_id) for offer in offers) else "other runs"

    def outside(self, nodes: Mapping[int, Node]) -> str:
        """Return the condition, after others, that a state is not one with an obstacle, of some nodes by
        number; it is empty if none has any."""
        runs = {
            number: of_node for number, node in nodes.items() if (of_node := self._runs(node)) is not None
        }
        if not runs:
            return ""
        ids: dict[str, int] = {}
        if all_runs := sorted(set().union(*runs.values())):
            which = f"SELECT run_id, id FROM runs WHERE {self._view.any_of('run_id')}"
            ids = dict(map(tuple, self._view.execute(which, (self._view.items(all_runs),))))
        served = [
            f"({number}, {ids[run]})" for number in sorted(runs) for run in sorted(runs[number] & ids.keys())
        ]
        condition = f"node_id NOT IN ({', '.join(map(str, sorted(runs)))})"
        condition += f" OR (node_id, run) IN (VALUES {', '.join(served)})" if served else ""
        return f" AND ({condition})"

    def _runs(self, node: Node) -> set[str] | None:
        """Return the only runs of which states of a node can be claimed; None: of all."""
        if node in self.paused:
            return set()
        if node[0] not in self._namespaces:
            return None
        runs = {offer.run_id for offer in self.offers.get(node, ()) if not offer.drains}
        return None if None in runs else {run for run in runs if run is not None}
