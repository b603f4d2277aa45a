"""``StateManager``: the public client, with the calls about a namespace, its runtimes, releases of code,
and the database."""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path

import anyio

from exotrio._http.event_loop import event_loop
from exotrio._wire.checkup import Checkup
from exotrio._wire.graphs import GraphInfo
from exotrio._wire.operations import SIGN_IN_PATH, DeletedGraph, DeletionQuery, PauseReply, SignInLink
from exotrio._wire.overview import (
    DEFAULT_DEPTH,
    CommandReply,
    DepthQuery,
    Overview,
    OverviewQuery,
    QueueDepth,
    RuntimeList,
    TasksReply,
)
from exotrio._wire.releases import NewRelease, ReleaseCheck, VersionInfo, VersionList
from exotrio._wire.stops import StopList, StopsQuery
from exotrio._wire.v0 import NamespacesReply, NodesReply, RegisteredNode
from exotrio._wire.vocabulary import to_ms
from exotrio.client._administration import AdministrationCalls
from exotrio.client._backup import fetch_backup
from exotrio.client._calls import UNKNOWN_ROUTE, checked_query, no_request
from exotrio.client._graphs import list_graphs
from exotrio.errors import InvalidResponse, NotFound

DELETION_TIMEOUT = 120.0
"""Seconds for one request to delete a graph, after which it is repeated to continue."""
DAY = 86_400.0
TASKS_POLL = 0.25
"""Seconds between two requests for a task tree."""


class StateManager(AdministrationCalls):
    """Talk to a state manager: declare graphs, start runs, watch and change them.

    The calls of the stock SDK's class keep their names, arguments and results, so that changing
    the import is the migration. All calls work from Trio and from asyncio, also from several event loops.

    Use it as ``async with StateManager(...) as manager``, or plainly and call ``aclose`` at the end.

    Args:
        namespace: Namespace of the graphs and runs.
        state_manager_uri: Base URI. Defaults to ``EXOSPHERE_STATE_MANAGER_URI``.
        key: API key. Defaults to ``EXOSPHERE_API_KEY``.
        state_manager_version: Only ``"v0"`` exists.
        transport: Way to a state manager in this process, from ``exotrio.manager.embedded``;
            then no URI and no key are needed.

    Raises:
        ConfigurationError: something is missing or unusable; every problem is named.

    "Our server" is exotrio's own (``python -m exotrio server``). The documentation of the calls does not
    repeat what all of them share:

    - They raise ``KeyRefused``: the key is wrong; ``NotFound``: what a name or an id stands for does not
      exist, or not in the namespace; ``ManagerUnavailable``: no usable answer, after some tries;
      ``RequestRefused``: the server refuses, or speaks only v0 and the call needs ours;
      ``ConfigurationError``: an argument is out of range, and nothing was sent. A call lists those that have
      a special meaning there.
    - A call whose documentation has no section on cancellation only reads: cancelling it changes nothing.
    """

    async def namespaces(self) -> list[str]:
        """Return the namespaces in which nodes are registered, sorted; not only that of this client."""
        return sorted((await self._calls.fetch(NamespacesReply, "GET", "/v0/namespaces")).namespaces)

    async def nodes(self) -> list[RegisteredNode]:
        """Return the node classes registered in the namespace."""
        return (await self._calls.fetch_list(NodesReply, "nodes", "")).nodes

    async def graphs(self) -> list[GraphInfo]:
        """Return the graphs of the namespace, each as its next runs will use it; secrets by name only."""
        return await list_graphs(self._calls)

    async def delete_graph(self, graph_name: str, *, cancel_runs: bool = False) -> DeletedGraph:
        """Delete a graph with its runs and their history, its triggers and its secrets. Needs our server.

        Args:
            cancel_runs: Cancel its runs that have not ended. Defaults to False: then such a run is a reason
                to refuse.

        Returns:
            How many runs this request deleted and cancelled.

        Raises:
            RequestRefused: it has runs that have not ended (409); or one began while others were deleted.

        Cancellation:
            The graph, or some of its runs, may have been deleted all the same; a repeated call continues.
        """
        calls = self._calls
        path = calls.native("graph", graph_name, query=DeletionQuery(cancel_runs=cancel_runs))
        tries = 0

        async def ask() -> DeletedGraph:
            nonlocal tries
            tries += 1
            try:
                return await calls.http.fetch(DeletedGraph, "DELETE", path, timeout=DELETION_TIMEOUT)
            except NotFound as error:
                if tries == 1 or error.what.endswith(UNKNOWN_ROUTE):
                    raise
                # An earlier try deleted it; its answer did not arrive.
                return DeletedGraph(
                    namespace=calls.namespace, graph_name=graph_name, deleted_runs=0, cancelled_runs=0
                )

        return await calls.native_only(lambda: calls.repeat(ask), no_request("DELETE", path))

    async def overview(self, *, runs: int = 10) -> Overview:
        """Return what happens in the namespace: counts of states, nodes, runtimes and the newest runs.

        Needs our server.

        Args:
            runs: How many of the newest runs, up to 100.
        """
        query = checked_query(OverviewQuery, runs=runs)
        return await self._calls.fetch_native(Overview, "GET", ("overview",), query)

    async def depth(self, *, limit: int = DEFAULT_DEPTH) -> dict[str, int]:
        """Return how many states of each registered node wait, also those not due yet. Needs our server.

        This costs far less than ``overview``, which reads more.

        Args:
            limit: States of one node that are counted, up to 100,000. Defaults to 10,000.
        """
        query = checked_query(DepthQuery, limit=limit)
        return (await self._calls.fetch_native(QueueDepth, "GET", ("depth",), query)).nodes

    async def checkup(self) -> Checkup:
        """Return the condition of the state manager: claims by node, lost leases, database, clock.

        Needs our server.
        """
        return await self._calls.fetch_native(Checkup, "GET", ("checkup",))

    async def workers(self) -> RuntimeList:
        """Return the runtimes of the namespace, and the clients that claim through v0. Needs our server.

        Those that sent a request in the last ten minutes are listed, and those that stopped in the last one.
        """
        return await self._calls.fetch_native(RuntimeList, "GET", ("workers",))

    async def stops(self, *, within: float = DAY) -> StopList:
        """Return how the runtimes ended that stopped, or vanished, a while ago. Needs our server.

        Receipts are kept as long as runs are, at most 2,000 in a database. A runtime that talks to the state
        manager through v0 leaves none.

        Args:
            within: Seconds; those that ended before that are left out. Defaults to a day.

        Returns:
            The receipts, the latest first. ``total`` sums them up, and ``text()`` of that is one line.
        """
        query = checked_query(StopsQuery, within_ms=to_ms(within) if math.isfinite(within) else within)
        return await self._calls.fetch_native(StopList, "GET", ("stops",), query)

    async def drain(self, worker_id: str) -> None:
        """Drain a runtime: it claims no more states, lets running nodes end, releases the rest, and stops.

        Needs our server. The runtime receives the command with its next heartbeat, within 10 s by default. A
        repeated call changes nothing. ``workers`` shows its phase.

        Args:
            worker_id: The ``worker_id`` of the runtime in ``workers``.

        Cancellation:
            The command may have been sent all the same.
        """
        await self._calls.fetch_native(CommandReply, "POST", ("worker", worker_id, "drain"))

    async def pause_node(self, name: str) -> datetime:
        """Pause a node: its states are not claimed, natively or through v0, until ``resume_node``.

        Needs our server. Running states go on, and can be reported; new, retried and released ones wait. A
        node that is registered again stays paused. A repeated call changes nothing.

        Returns:
            Since when it is paused.

        Cancellation:
            It may have been paused all the same.
        """
        return await self._pause("node", name)

    async def resume_node(self, name: str) -> None:
        """Let states of a node be claimed again. Needs our server. A repeated call changes nothing.

        Cancellation:
            It may have been resumed all the same.
        """
        await self._change("node", name, "resume")

    async def pause_schedule(self, graph_name: str) -> datetime:
        """Pause the schedule of a graph: its cron triggers start no runs until ``resume_schedule``.

        Needs our server. Runs go on, and can be started in all other ways. A graph that is stored again stays
        paused. Runs for times that pass meanwhile are not started later. A repeated call changes nothing.

        Returns:
            Since when it is paused.

        Cancellation:
            It may have been paused all the same.
        """
        return await self._pause("graph", graph_name)

    async def resume_schedule(self, graph_name: str) -> None:
        """Start runs of a graph by its schedule again, from its next time on. Needs our server.

        Cancellation:
            It may have been resumed all the same.
        """
        await self._change("graph", graph_name, "resume")

    async def _pause(self, what: str, name: str) -> datetime:
        paused_at = (await self._change(what, name, "pause")).paused_at
        if paused_at is None:
            raise InvalidResponse(f"the {what} {name!r} is not paused after it was")
        return paused_at

    async def _change(self, what: str, name: str, do: str) -> PauseReply:
        return await self._calls.fetch_native(PauseReply, "POST", (what, name, do))

    async def tasks(self, worker_id: str, *, timeout: float = 60.0) -> str:
        """Return the tree of a runtime's tasks as text, with the lines of code where each task waits.

        Needs our server. The runtime sends it with its next heartbeat, within 10 s by default.

        Args:
            worker_id: The ``worker_id`` of the runtime in ``workers``.
            timeout: Seconds to wait at most.

        Raises:
            trio.TooSlowError, in asyncio TimeoutError: ``timeout`` seconds went by.
            RequestRefused: the runtime has neither ``--health-tasks`` nor ``Runtime.show_tasks`` (409).

        Cancellation:
            Safe; the runtime may still send the tree.
        """
        segments = ("worker", worker_id, "tasks")
        with event_loop().fail_after(timeout):
            await self._calls.fetch_native(CommandReply, "POST", segments)
            while True:
                reply = await self._calls.fetch(TasksReply, "GET", self._calls.native(*segments))
                if not reply.asked and reply.tasks is not None:
                    return reply.tasks
                await anyio.sleep(TASKS_POLL)

    async def check_release(self, release: NewRelease) -> ReleaseCheck:
        """Return which runs in flight would break if the nodes of a release took over. Needs our server.

        Nothing is changed. ``python -m exotrio graph check FILE --against-runs`` calls this for the Runtimes
        of a file.
        """
        return await self._calls.fetch_native(ReleaseCheck, "POST", ("release", "check"), body=release)

    async def versions(self) -> list[VersionInfo]:
        """Return the versions of code that a live runtime has or something needs. Needs our server.

        Returns:
            The version with the oldest pinned run first. Runtimes of one that is not ``needed`` may be
            stopped.
        """
        return (await self._calls.fetch_native(VersionList, "GET", ("versions",))).versions

    async def sign_in_link(self) -> str:
        """Return an address that signs one browser in to the dashboard, once, within ten minutes.

        Needs our server, at a URI. The browser that opens the address first may do all that the key allows.
        """
        link = await self._calls.fetch_native(SignInLink, "POST", SIGN_IN_PATH)
        return f"{self._calls.http.endpoint.uri}{link.path}"

    async def backup(self, path: str | Path, *, overwrite: bool = False) -> int:
        """Fetch a copy of the state manager's database, with all namespaces, while it goes on working.

        Needs our server. The copy holds what was committed at one moment. It is written to another file,
        synced and checked, and renamed only then; only its owner can read it. A state manager started on it
        (``python -m exotrio server --db FILE``) continues every run.

        Secrets of graphs are encrypted in it. The key that decrypts them is not part of it: keep
        ``<database>.secrets-key`` (or the value of ``SECRETS_ENCRYPTION_KEY``) too, in another place.

        Args:
            path: The file to write.
            overwrite: Replace the file if it exists. Defaults to False. The database of a state
                manager is never replaced.

        Returns:
            Its size in bytes.

        Raises:
            ConfigurationError: the file exists, or must not be replaced.
            DatabaseError: it cannot be written, or what arrived is damaged.
            RequestRefused: the state manager is making another backup (409).

        Cancellation:
            Safe; what was written so far is removed.
        """
        return await fetch_backup(self._calls, Path(path), overwrite=overwrite)
