"""``StateManager``: the public client, with the calls that the stock SDK lacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from uuid import uuid4

from exotrio._wire.checkup import Checkup
from exotrio._wire.graphs import GraphInfo, GraphsReply
from exotrio._wire.native import Run
from exotrio._wire.operations import RunPage, RunRetry, RunsQuery, StateHistory, StatePage, StatesQuery
from exotrio._wire.overview import ExportQuery, Overview, OverviewQuery
from exotrio._wire.runtimes import RuntimeList
from exotrio._wire.v0 import NodesReply, RegisteredNode, RunGraph, RunList, StateDetail, StateRetry
from exotrio._wire.vocabulary import RunStatus, StateStatus
from exotrio.client import _backup, _operations, _runs
from exotrio.client._calls import checked_query
from exotrio.client._stock_calls import StockCalls


class StateManager(StockCalls):
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

    Every call may raise any ``ManagerError``; a call lists those that mean something of their own there. A
    call whose documentation has no section on cancellation only reads: cancelling it changes nothing. "Our
    server" is exotrio's own (``python -m exotrio server``); a call that needs it says so, and raises
    ``RequestRefused`` at one that speaks only v0.
    """

    # -- nodes and graphs

    async def nodes(self) -> list[RegisteredNode]:
        """Return the node classes registered in the namespace."""
        return (await self._calls.fetch_list(NodesReply, "nodes", "")).nodes

    async def graphs(self) -> list[GraphInfo]:
        """Return the graphs of the namespace, each as its next runs will use it; secrets by name only."""
        return (await self._calls.fetch_list(GraphsReply, "graphs", "")).templates

    # -- the namespace and the state manager

    async def overview(self, *, runs: int = 10) -> Overview:
        """Return what happens in the namespace: counts of states, nodes, runtimes and the newest runs.

        Needs our server.

        Args:
            runs: How many of the newest runs, up to 100.

        Raises:
            RequestRefused: the server is not ours.
            ConfigurationError: an argument is out of range.
        """
        return await _operations.overview(self._calls, checked_query(OverviewQuery, runs=runs))

    async def checkup(self) -> Checkup:
        """Return the condition of the state manager: claims by node, lost leases, database, clock.

        Needs our server.

        Raises:
            RequestRefused: the server is not ours.
        """
        return await _operations.checkup(self._calls)

    # -- runs

    async def runs(self, page: int = 1, size: int = 20) -> RunList:
        """Return one page of the namespace's runs, newest first.

        Args:
            page: 1 for the first.
            size: Runs per page.
        """
        return await self._calls.fetch_list(RunList, "runs", page, size)

    async def run(self, run_id: str) -> RunGraph:
        """Return the states of a run and how they follow each other.

        Raises:
            NotFound: there is no such run, or none of its states is in this namespace.
        """
        return await _runs.run(self._calls, run_id)

    async def state(self, graph: str, run_id: str, state_id: str) -> StateDetail:
        """Return one state in full: inputs, outputs, error, parents.

        Raises:
            NotFound: there is no such state in that run of that graph.
        """
        return await _runs.state(self._calls, graph, run_id, state_id)

    async def status(self, run_id: str) -> Run:
        """Return the status of a run, and how many of its states have which status.

        At a server that speaks only v0 it is derived from the run's states; ``created_at`` is None then.

        Raises:
            NotFound: there is no such run.
        """
        return await _runs.status(self._calls, run_id)

    async def wait(
        self,
        run_id: str,
        *,
        timeout: float | None = None,
        poll_interval: float = 1.0,
        on_progress: Callable[[Run], None] | None = None,
    ) -> Run:
        """Wait until a run is no longer PENDING. A state manager that does not answer is asked for 60 s.

        Our server answers the moment the run ends; any other one is asked again and again.

        Args:
            run_id: The run.
            timeout: Seconds to wait at most. Defaults to no limit.
            poll_interval: Most seconds between two requests; the first ones are closer together.
            on_progress: Called with the first status, and again whenever it changed.

        Returns:
            The run, with status SUCCESS or FAILED.

        Raises:
            trio.TooSlowError, in asyncio TimeoutError: ``timeout`` seconds went by; the run goes on.
            NotFound: there is no such run.

        Cancellation:
            Safe; the run goes on.
        """
        return await _runs.wait(
            self._calls, run_id, timeout=timeout, poll_interval=poll_interval, on_progress=on_progress
        )

    async def cancel(self, run_id: str) -> Run:
        """Cancel a run: waiting states end at once, running nodes are cancelled, nothing follows.

        Needs our server. Runtimes learn of it with their next heartbeat, within 20 s by default. Cancelling
        a run again changes nothing. Its states cannot be retried.

        Args:
            run_id: The run.

        Returns:
            The run as it is now. Through v0 its cancelled states are ERRORED with the error ``cancelled``.

        Raises:
            NotFound: there is no such run.
            RequestRefused: it has already ended (409); or the server is not ours.

        Cancellation:
            The run may have been cancelled all the same.
        """
        return await _runs.cancel(self._calls, run_id)

    async def manual_retry(self, state_id: str, fanout_id: str | None = None) -> StateRetry:
        """Run a state that failed or was pruned once more, as a new state.

        Args:
            state_id: The state.
            fanout_id: Makes the request unique: with the same id it is refused the second time.
                Defaults to a new UUID.

        Returns:
            The new state's id and status.

        Raises:
            NotFound: there is no such state.
            RequestRefused: it cannot be retried, or was already (409).
            ManagerUnavailable: no usable answer; repeat it with the same ``fanout_id``.
            KeyRefused: the key is wrong.

        Cancellation:
            The retry may have been created all the same.
        """
        chosen = str(uuid4()) if fanout_id is None else fanout_id
        return await _runs.manual_retry(self._calls, state_id, chosen)

    async def retry_run(self, run_id: str) -> RunRetry:
        """Retry every failed state of a run (ERRORED, NEXT_CREATED_ERROR), each as ``manual_retry`` does.

        At our server all of them in one step, and no state twice, even if the request has to be repeated.
        At any other one after the other.

        Args:
            run_id: The run.

        Returns:
            The states that were retried, each with its new state; and those that were refused (for
            example a united node whose inputs still cannot be built), each with the reason.

        Raises:
            NotFound: there is no such run.
            RequestRefused: it was cancelled, or has no failed states (409).

        Cancellation:
            States may have been retried all the same.
        """
        return await _runs.retry_run(self._calls, run_id)

    async def find_runs(
        self,
        *,
        graph: str | None = None,
        status: RunStatus | None = None,
        since: datetime | None = None,
        limit: int = 100,
        before: str | None = None,
    ) -> RunPage:
        """Return runs that match, newest first. Needs our server; ``runs`` works at every one.

        Args:
            graph: Only of this graph.
            status: Only with this status.
            since: Only those created then or later; a ``datetime`` with its time zone.
            limit: Most runs of the page, up to 1,000.
            before: ``next`` of the page before, for the following one.

        Raises:
            NotFound: there is no such graph.
            RequestRefused: the server is not ours.
            ConfigurationError: an argument is out of range.
        """
        query = checked_query(RunsQuery, graph=graph, status=status, since=since, limit=limit, before=before)
        return await _runs.find_runs(self._calls, query)

    async def export(self, run_id: str, *, values: bool = True) -> bytes:
        """Return a run as one HTML page without script that loads nothing, to keep or to send.

        Needs our server. The page has the graph, the timeline, counts, errors, states, events and the store.
        Of a large run it has a part of the states, failed ones first, and says what is left out. Secrets of
        the graph are masked.

        Args:
            run_id: The run.
            values: With inputs, outputs and values of the store. Defaults to True.

        Returns:
            The page, in UTF-8.

        Raises:
            NotFound: there is no such run.
            RequestRefused: the server is not ours.
        """
        return await _operations.export(self._calls, run_id, ExportQuery(values=values))

    # -- states

    async def states(
        self,
        *,
        run: str | None = None,
        graph: str | None = None,
        node: str | None = None,
        identifier: str | None = None,
        status: StateStatus | Sequence[StateStatus] = (),
        limit: int = 100,
        before: str | None = None,
    ) -> StatePage:
        """Return states that match, newest first. Without ``run`` it needs our server.

        Args:
            run: Only of this run.
            graph: Only of this graph.
            node: Only of this registered node.
            identifier: Only of this place of the graph; needs ``run`` or ``graph``.
            status: Only with this status, or with one of these.
            limit: Most states of the page, up to 1,000.
            before: ``next`` of the page before, for the following one.

        Raises:
            NotFound: there is no such run, graph or node.
            RequestRefused: no run was named, and the server is not ours.
            ConfigurationError: an argument is out of range.
        """
        statuses = [status] if isinstance(status, str) else list(status)
        query = checked_query(
            StatesQuery,
            run=run,
            graph=graph,
            node=node,
            identifier=identifier,
            status=statuses,
            limit=limit,
            before=before,
        )
        return await _runs.states(self._calls, query)

    async def history(self, state_id: str) -> StateHistory:
        """Return one state, found by its id alone, with its history. Needs our server.

        The history has the last claim and who holds the state now; lost leases, releases and other events;
        and all attempts.

        Raises:
            NotFound: there is no such state in the namespace.
            RequestRefused: the server is not ours.
        """
        return await _runs.history(self._calls, state_id)

    # -- runtimes

    async def workers(self) -> RuntimeList:
        """Return the runtimes of the namespace, and the clients that claim through v0. Needs our server.

        Those that sent something in the last ten minutes are listed, and those that stopped in the last one.
        ``busy`` and ``buffered`` are of the last heartbeat; ``holds`` is what the database knows.

        Raises:
            RequestRefused: the server is not ours.
        """
        return await _operations.workers(self._calls)

    async def drain(self, worker_id: str) -> None:
        """Ask a runtime to drain: to claim nothing more, let running nodes end, release the rest, and stop.

        Needs our server. The runtime learns of it with its next heartbeat, within 20 s by default. Asking
        again changes nothing. ``workers`` shows its phase.

        Args:
            worker_id: The ``worker_id`` of the runtime in ``workers``.

        Raises:
            NotFound: no runtime is known under this id.
            RequestRefused: the server is not ours.

        Cancellation:
            It may have been asked all the same.
        """
        await _operations.drain(self._calls, worker_id)

    async def tasks(self, worker_id: str, *, timeout: float = 60.0) -> str:
        """Return the tree of a runtime's tasks as text, with the lines of code where each task waits.

        Needs our server. The tree comes with the runtime's next heartbeat, within 20 s by default.

        Args:
            worker_id: The ``worker_id`` of the runtime in ``workers``.
            timeout: Seconds to wait at most.

        Raises:
            trio.TooSlowError, in asyncio TimeoutError: ``timeout`` seconds went by.
            NotFound: no runtime is known under this id.
            RequestRefused: the runtime has neither ``--health-tasks`` nor ``Runtime.show_tasks`` (409); or
                the server is not ours.

        Cancellation:
            Safe; the runtime may still send the tree.
        """
        return await _operations.tasks(self._calls, worker_id, timeout)

    # -- the database

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
            RequestRefused: it makes another backup just now (409); or the server is not ours.
            ManagerUnavailable: no usable answer, or it broke off.

        Cancellation:
            Safe; what was written so far is removed.
        """
        return await _backup.backup(self._calls, Path(path), overwrite=overwrite)
