"""The calls of the public client about runs: start many, list, read, wait, cancel."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from datetime import datetime
from functools import partial
from typing import TypeVar

import anyio

from exotrio._http.client import REQUEST_TIMEOUT
from exotrio._http.event_loop import event_loop
from exotrio._util.backoff import Outage
from exotrio._wire.operations import Repinned, RepinnedRuns, RunPage, RunsQuery
from exotrio._wire.overview import EXPORT_TYPE, ExportQuery
from exotrio._wire.runs import NodeCounts, Run, RunQuery
from exotrio._wire.v0 import RunGraph, RunList
from exotrio._wire.vocabulary import (
    FAILED,
    MAX_WAIT_MS,
    RETRIED,
    SUCCESS,
    Priority,
    RunStatus,
    StateStatus,
    from_ms,
    run_status,
    to_ms,
)
from exotrio.client._calls import checked_query, no_request
from exotrio.client._new_runs import NewRuns
from exotrio.client._stock_calls import StockCalls
from exotrio.client._triggers import ManyRuns
from exotrio.errors import ConfigurationError, InvalidResponse, ManagerUnavailable, NotFound

log = logging.getLogger("exotrio")

T = TypeVar("T")

FIRST_POLL = 0.05
MAX_LONG_POLLS = 8
"""Half the connections of a client, so that its other calls find one; further waits poll instead."""
OUTAGE_TOLERANCE = 60.0
"""Seconds for which what follows a run is repeated while the state manager does not answer."""
EXPORT_TIMEOUT = 120.0
"""Seconds the state manager may take for the page of a large run before it begins to send."""


class RunCalls(StockCalls):
    """The calls about runs."""

    async def trigger_many(
        self,
        graph_name: str,
        runs: NewRuns,
        *,
        on_progress: Callable[[int], None] | None = None,
        on_existing: Callable[[int, str], None] | None = None,
    ) -> list[str]:
        """Start many runs of a graph, thirty times as fast as by concurrent calls of ``trigger``.

        On our server runs are started in requests for up to 1,000, each of which starts all of its runs or
        none. On any other they are started one by one, 8 at once. An empty list starts nothing.

        Args:
            runs: For each run the inputs of the graph's first node, as for ``trigger``; or a ``NewRun``
                (``exotrio.client``), which has a store, a delay, and an id or a key, too. An iterable of any
                length, also an asynchronous one; it is read as fast as runs are started.
            on_progress: Called with the number of runs that are started, whenever it has grown.
            on_existing: Called for each run that existed already, by its id or key, with its place in the
                list and its id. Those that were started by this call count, too, if a request had to be
                repeated.

        Returns:
            The ids of the runs, in the order of ``runs``.

        Raises:
            RequestRefused: the graph is not valid, or runs do not fit it and its nodes: ``runs[7]`` in the
                message stands for the eighth. If ``runs`` is a list, no run was started; of any other
                iterable those of earlier requests may have been.
            ManagerUnavailable: no usable answer. Runs may have been started.
            ConfigurationError: an entry of ``runs`` is not a run, or a value has no form as text. As above.

            Each message has the number of started runs. To continue after an error without starting a run
            twice, give each run a ``run_id`` or a ``key`` and repeat the call with all of them: those that
            exist count as started. (A server that speaks only v0 gives them other ids and refuses keys.)

        Cancellation:
            Any number of the runs may have been started; repeat it as after an error.
        """
        return await ManyRuns(self._calls, graph_name, on_progress, on_existing).start_all(runs)

    async def runs(self, page: int = 1, size: int = 20) -> RunList:
        """Return one page of the namespace's runs, newest first.

        Args:
            page: 1 for the first.
            size: Runs per page.
        """
        return await self._calls.fetch_list(RunList, "runs", page, size)

    async def find_runs(
        self,
        *,
        graph: str | None = None,
        status: RunStatus | None = None,
        since: datetime | None = None,
        key: str | None = None,
        parent: str | None = None,
        limit: int = 100,
        before: str | None = None,
    ) -> RunPage:
        """Return runs that match, newest first. Needs our server; ``runs`` works at every one.

        Args:
            since: Only those created then or later; a ``datetime`` with its time zone.
            key: Only those with this key, of which each graph has one at most.
            parent: Only those that the run with this id started, as children or by failing.
            limit: Maximum number of runs in the page, up to 1,000.
            before: ``next`` of the page before, for the following one.
        """
        filters = {"graph": graph, "status": status, "since": since, "key": key, "parent": parent}
        query = checked_query(RunsQuery, **filters, limit=limit, before=before)
        return await self._calls.fetch_native(RunPage, "GET", ("runs",), query)

    async def run(self, run_id: str) -> RunGraph:
        """Return the states of a run and how they follow each other.

        Of a run of another namespace, only the states of this namespace's nodes.

        Raises:
            NotFound: there is no such run, or it is of another namespace and has no such state.
        """
        reply = await self._calls.fetch(RunGraph, "GET", self._calls.v0("states", "run", run_id, "graph"))
        if not reply.nodes:  # what v0 answers for a run it does not know
            raise NotFound(f"there is no run {run_id} in namespace {self._calls.namespace!r}")
        return reply

    async def status(self, run_id: str) -> Run:
        """Return the status of a run, and how many of its states have which status.

        At a server that speaks only v0 it is derived from the run's states; ``created_at`` is None then. A
        newer one may have states with a status that exotrio does not know: it is shown unchanged, and counts
        as errored if it is TIMEDOUT or CANCELLED, otherwise as pending.
        """
        return await self._status(run_id)

    async def wait(
        self,
        run_id: str,
        *,
        timeout: float | None = None,
        poll_interval: float = 1.0,
        on_progress: Callable[[Run], None] | None = None,
    ) -> Run:
        """Wait until a run is no longer PENDING, also through outages of up to 60 s; each is logged once.

        Our server answers when the run ends; any other one is polled.

        Args:
            timeout: Seconds to wait at most. Defaults to no limit.
            poll_interval: Maximum seconds between two requests; the first ones are closer together.
            on_progress: Called with the first status, and again whenever it changed.

        Returns:
            The run, with status SUCCESS or FAILED.

        Raises:
            trio.TooSlowError, in asyncio TimeoutError: ``timeout`` seconds went by; the run goes on.

        Cancellation:
            Safe; the run goes on.
        """
        shown: Run | None = None
        # Without on_progress the first status is not needed: the first request already waits for the end.
        pause, held = 0.0, poll_interval if on_progress is None else 0.0
        run: Run | None = None
        with nullcontext() if timeout is None else event_loop().fail_after(timeout):
            while True:
                request = partial(self._status, run_id, held, pause)
                run = await self._through_outages(request, known=run is not None, wait=held)
                if on_progress is not None and run != shown:
                    on_progress(run)
                    shown = run
                if run.status is not RunStatus.PENDING:
                    return run
                pause = min(max(pause * 1.5, FIRST_POLL), poll_interval)
                held = poll_interval if on_progress is None else pause

    async def cancel(self, run_id: str) -> Run:
        """Cancel a run: waiting states end, running nodes are cancelled, nothing follows.

        Needs our server. Runtimes learn of it with their next heartbeat, within 10 s by default. Cancelling
        a run again changes nothing. Its states cannot be retried.

        Returns:
            The run as it is now: PENDING while its states end in portions, if it has more than 1,000. Through
            v0 its cancelled states are ERRORED with the error ``cancelled``.

        Raises:
            RequestRefused: it has already ended (409).

        Cancellation:
            The run may have been cancelled all the same.
        """
        return await self._calls.fetch_native(Run, "POST", ("run", run_id, "cancel"))

    async def set_priority(self, run_id: str, priority: str) -> Run:
        """Change the priority of a run, ``"high"``, ``"normal"`` or ``"low"``: its waiting states are moved.

        Needs our server. States that are claimed continue.

        Returns:
            The run as it is now.

        Cancellation:
            It may have been changed all the same.
        """
        if priority not in {*Priority}:
            raise ConfigurationError(f"the priority {priority!r} is not one of: {', '.join(Priority)}")
        path = ("run", run_id, "priority")
        return await self._calls.fetch_native(Run, "POST", path, body={"priority": priority})

    async def repin(self, run_id: str, *, to: str) -> Repinned:
        """Let a run need another version of the code, after a check that what it has ahead fits that.

        Needs our server. A state that a runtime holds is ended by it, or given back to the new version.

        Args:
            to: The version; a runtime of it has registered its nodes before.

        Returns:
            What was done, and what may not fit.

        Raises:
            RequestRefused: something does not fit: nodes, fields, or inputs of states that wait. It names
                each, and nothing was changed.

        Cancellation:
            The run may have been moved all the same.
        """
        path = ("run", run_id, "repin")
        return await self._calls.fetch_native(Repinned, "POST", path, body={"version": to})

    async def repin_version(self, version: str, *, to: str) -> RepinnedRuns:
        """Do what ``repin`` does for all runs in flight of a version, each for itself.

        Returns:
            The runs that were moved, and those that were refused, with the reasons.

        Cancellation:
            Some may have been moved; a repeated call goes on.
        """
        all_runs, after = RepinnedRuns(repinned=[], refused=[]), 0
        path = ("version", version, "repin")
        while True:
            body = {"version": to, "after": after}
            part = await self._calls.fetch_native(RepinnedRuns, "POST", path, body=body)
            all_runs.repinned += part.repinned
            all_runs.refused += part.refused
            if part.next is None:
                return all_runs
            after = part.next

    async def export(self, run_id: str, *, values: bool = True) -> bytes:
        """Return a run as one HTML page, to keep or to send. It has no script and loads nothing.

        Needs our server. The page has the graph, the timeline, counts, errors, states, events and the store.
        For a large run it has a part of the states, failed ones first, and names what is left out. Secrets of
        the graph are masked.

        Args:
            values: With inputs, outputs and values of the store. Defaults to True.

        Returns:
            The page, in UTF-8.
        """
        path = self._calls.native("run", run_id, "export", query=ExportQuery(values=values))

        async def fetch() -> bytes:
            chunks: list[bytes] = []

            async def keep(chunk: bytes) -> None:
                chunks.append(chunk)

            await self._calls.http.download(path, keep, timeout=EXPORT_TIMEOUT, media_type=EXPORT_TYPE)
            return b"".join(chunks)

        return await self._calls.native_only(lambda: self._calls.repeat(fetch), no_request("GET", path))

    async def _status(self, run_id: str, wait: float = 0.0, pause: float = 0.0) -> Run:
        """Return the status of a run: after ``wait`` seconds, or as soon as it has ended.

        Args:
            pause: Seconds to sleep before the request, in place of ``wait``, at a server without long polls.
        """

        async def derived() -> Run:
            await anyio.sleep(pause)
            return _summarize(run_id, await self.run(run_id))

        return await self._calls.prefer_native(lambda: self._native_status(run_id, wait, pause), derived)

    async def _native_status(self, run_id: str, wait: float, pause: float) -> Run:
        calls = self._calls
        if calls.long_polls == MAX_LONG_POLLS:
            await anyio.sleep(pause)
            wait = 0.0
        wait = min(wait, from_ms(MAX_WAIT_MS))
        path = calls.native("run", run_id, query=RunQuery(wait_ms=to_ms(wait)))
        began = anyio.current_time()
        calls.long_polls += wait > 0
        try:
            run = await calls.fetch(Run, "GET", path, timeout=REQUEST_TIMEOUT + wait)
        finally:
            calls.long_polls -= wait > 0
        if run.status is RunStatus.PENDING:
            # A server that is stopping answers early: no tight loop of requests may follow.
            await anyio.sleep_until(began + wait)
        return run

    async def _through_outages(
        self, call: Callable[[], Awaitable[T]], *, known: bool = True, wait: float = 0.0
    ) -> T:
        """Make a call about a run that is followed; repeat it during an outage.

        Args:
            known: The state manager has answered before. Then an invalid response comes from a proxy in
                between, and counts as an outage.
            wait: Seconds for which the state manager may wait before it answers.
        """
        give_up = anyio.current_time() + wait + OUTAGE_TOLERANCE
        outage = Outage(log, "following the run")
        while True:
            try:
                return await call()
            except ManagerUnavailable as error:
                if anyio.current_time() >= give_up or (isinstance(error, InvalidResponse) and not known):
                    raise
                outage.failed(error, f"it is tried again for {OUTAGE_TOLERANCE:.0f} s")
                await anyio.sleep(1.0)


def _summarize(run_id: str, graph: RunGraph) -> Run:
    """Return the counts of a run and its status, derived from its states as v0 does not give them.

    Nodes of the graph come in the order of their first states.
    """
    places: dict[str, NodeCounts] = {}
    totals: Counter[str] = Counter()
    followed = {edge.source for edge in graph.edges}
    for state in graph.nodes:
        place = places.setdefault(
            state.identifier, NodeCounts(identifier=state.identifier, node_name=state.node_name, counts={})
        )
        place.is_last = place.is_last and state.id not in followed
        place.counts[state.status] = place.counts.get(state.status, 0) + 1
        totals[state.status] += 1
    success, errored, retried = (
        sum(totals[status] for status in statuses) for statuses in (SUCCESS, FAILED, RETRIED)
    )
    pending = totals.total() - success - errored - retried  # with those of statuses that are not known
    return Run(
        run_id=run_id,
        graph_name=graph.graph_name,
        success_count=success,
        pruned_count=totals[StateStatus.PRUNED],
        pending_count=pending,
        errored_count=errored,
        retried_count=retried,
        total_count=totals.total(),
        status=run_status(pending=pending, errored=errored, ended=success + retried),
        created_at=None,
        nodes=list(places.values()),
    )
