"""Why states wait, as the pages of runs and states say it."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

from exotrio.manager.queries.load import count_held
from exotrio.manager.queries.runtimes import RuntimeRow, live_v0_runtimes
from exotrio.manager.store.view import View
from exotrio.manager.web.page import PageRequest, link


class Reason(NamedTuple):
    """Why states of a node wait.

    Attributes:
        kind: ``paused``, ``later`` (not due yet), ``not offered`` (by a live runtime), ``draining`` (are all
            runtimes that offer it) or ``busy`` (are all their workers).
        href: The page of the node.
        value: Since when it is paused, or when the states are due, in Unix ms; or how many workers are busy.
    """

    kind: str
    node: str
    href: str
    value: int = 0


class Waiting:
    """Finds the reasons for one page, and reads the runtimes once."""

    def __init__(self, view: View, request: PageRequest) -> None:
        self._view = view
        self._request = request

    @cached_property
    def _runtimes(self) -> list[RuntimeRow]:
        held = count_held(self._view, self._request.namespace)
        return [runtime for runtime in self._request.runtimes(self._view, held) if runtime.live]

    @cached_property
    def _v0_nodes(self) -> set[str]:
        request = self._request
        runtimes = live_v0_runtimes(self._view, request.namespace, request.monotonic)
        return {node for each in runtimes for node in each.nodes}

    def reason(self, namespace: str, node: str, *, paused_at: int | None, due: int) -> Reason | None:
        """Return why states of a node wait, of which the first is due at ``due``, in Unix ms.

        None if they are about to be claimed. Of nodes of another namespace, the runtimes are not known.
        """
        href = link(namespace, "nodes", node)
        if paused_at is not None:
            return Reason("paused", node, href, paused_at)
        if due > self._view.now_ms:
            return Reason("later", node, href, due)
        if namespace != self._request.namespace or node in self._v0_nodes:
            return None
        offering = [runtime for runtime in self._runtimes if node in runtime.nodes]
        if not offering:
            return Reason("not offered", node, href)
        claiming = [runtime for runtime in offering if runtime.phase in ("starting", "running")]
        if not claiming:
            return Reason("draining", node, href)
        # Of those that have sent no heartbeat yet, the workers are not known.
        if all(0 < runtime.workers <= runtime.busy for runtime in claiming):
            return Reason("busy", node, href, sum(runtime.workers for runtime in claiming))
        return None
