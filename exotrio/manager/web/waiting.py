"""Why states wait, as the pages of runs and states say it."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

from exotrio.manager.queries.load import count_held, paused_nodes
from exotrio.manager.queries.runtimes import V0_RUNTIME, RuntimeRow
from exotrio.manager.store.view import View
from exotrio.manager.web.page import PageRequest

Node = tuple[str, str]
"""Its namespace and its name."""


class Reason(NamedTuple):
    """Why states of a node wait.

    Attributes:
        kind: ``paused``, ``not offered`` (by a live runtime), ``later`` (not due yet), ``draining`` (are all
            runtimes that offer it) or ``busy`` (are all their workers).
        value: Since when it is paused, or when the states are due, in Unix ms; or how many workers are busy.
    """

    kind: str
    node: Node
    value: int = 0


class Waiting:
    """Finds the reasons for one page. Of nodes of other namespaces, the runtimes are not known."""

    def __init__(self, view: View, request: PageRequest) -> None:
        self._view, self._request = view, request

    # Each is read only if something waits.

    @cached_property
    def _paused(self) -> dict[Node, int]:
        return paused_nodes(self._view)

    @cached_property
    def _offers(self) -> dict[str, list[str]]:
        return self._request.offers(self._view)

    @cached_property
    def _runtimes(self) -> list[RuntimeRow]:
        return self._request.runtimes(self._view, count_held(self._view, self._request.namespace))

    def obstacle(self, node: Node) -> Reason | None:
        """Return why no state of a node can be claimed, however many workers are free."""
        if node in self._paused:
            return Reason("paused", node, self._paused[node])
        namespace, name = node
        is_offered = name in self._offers or namespace != self._request.namespace
        return None if is_offered else Reason("not offered", node)

    def reason(self, node: Node, due: int) -> Reason | None:
        """Return why states of a node wait, of which the first is due at ``due``, in Unix ms.

        None if they are about to be claimed.
        """
        if obstacle := self.obstacle(node):
            return obstacle
        if due > self._view.now_ms:
            # Not for a retry at once: the line would come and go.
            return Reason("later", node, due) if due - self._view.now_ms >= 1_000 else None
        namespace, name = node
        if namespace != self._request.namespace or V0_RUNTIME in self._offers[name]:
            return None
        offering = [runtime for runtime in self._runtimes if runtime.live and name in runtime.nodes]
        claiming = [runtime for runtime in offering if runtime.phase in ("starting", "running")]
        if not claiming:
            return Reason("draining", node)
        # Of those that have sent no heartbeat yet, the workers are not known.
        if all(0 < runtime.workers <= runtime.busy for runtime in claiming):
            return Reason("busy", node, sum(runtime.workers for runtime in claiming))
        return None
