"""The inside of a running runtime: it registers the nodes and holds the nursery in which all loops run."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import trio

from exotrio._execution.executor import Executor
from exotrio._http.endpoint import Endpoint
from exotrio._link.port import Link, LinkKind
from exotrio._runtime.held_claim import HeldClaim
from exotrio._runtime.ledger import Ledger
from exotrio._runtime.lifecycle import Phase
from exotrio._runtime.options import Options
from exotrio._runtime.planner import ClaimPlanner
from exotrio._runtime.poller import Poller, poll
from exotrio._runtime.receipt import StopRecord
from exotrio._runtime.reporter import Reporter
from exotrio._runtime.shutdown import run_shutdown
from exotrio._runtime.stop import Stop
from exotrio._runtime.task_tree import TaskView
from exotrio._runtime.worker import TURN, Workers, work
from exotrio._shared import deadlines
from exotrio._util.backoff import OUTAGE, Outage
from exotrio.errors import ManagerUnavailable

if TYPE_CHECKING:
    from exotrio._link.auto import AutoLink
    from exotrio._runtime.outbox import Outbox

FindRun = Callable[[], Awaitable[str]]
log = logging.getLogger("exotrio.runtime")


@dataclass(slots=True, kw_only=True)
class Engine:
    """One run of a runtime. Only the shutdown ends it: no cancellation from outside reaches it.

    Attributes:
        enter: Called with each phase.
        phase: Returns the last phase that was entered.
        owns_signals: See ``Executor``.
        loop_lag: Returns for how many seconds the loop has been blocked; called from any thread.
        tasks: What operators of the state manager may see of the tasks; None for nothing.
        find_run: Returns the only run whose states are claimed; None for any.
        record: How the stop goes, once it has begun.
    """

    options: Options
    endpoint: Endpoint
    stop: Stop
    ledger: Ledger
    enter: Callable[[Phase], None]
    phase: Callable[[], Phase]
    owns_signals: bool
    loop_lag: Callable[[], float]
    tasks: TaskView | None
    find_run: FindRun | None
    record: StopRecord = field(init=False)
    executor: Executor | None = field(default=None, init=False)
    reporter: Reporter | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        now = trio.lowlevel.current_clock().current_time
        self.record = StopRecord(stop=self.stop, ledger=self.ledger, now=now)

    @property
    def stuck(self) -> str:
        """Why no states, or none of some nodes, are claimed; empty if all are. From any thread."""
        if self.reporter is None or self.executor is None:
            return ""
        return self.reporter.stuck or self.executor.stuck

    def cut_off(self, code: int) -> None:
        """Log each state that is still held, and have a heartbeat say that the process is ended. From any
        thread; over within ``LAST_HEARTBEAT``."""
        self.record.exit_code, self.record.cut_off_by = code, "its watchdog"
        self.ledger.heartbeat_due.set()
        if self.reporter is not None:
            self.reporter.log_held()
        self.record.is_told.wait(deadlines.LAST_HEARTBEAT)

    # A Ctrl-C may go to any line of the loop's thread. Here it would tear the nursery down.
    @trio.lowlevel.enable_ki_protection
    async def run(self, started: Callable[[], None]) -> None:
        """Register and work until stopped.

        ``started`` is called once the nodes are registered, or a stop came first.

        Raises:
            ManagerError: the state manager refused the registration.
            ConfigurationError, DatabaseBusy: the outbox cannot be used.
        """
        o, ledger = self.options, self.ledger
        outbox = await self._open_outbox()
        link = self._open_link(self.endpoint, o.link, o.workers)
        executor = self.executor = Executor(
            nodes=o.nodes,
            fetch_secrets=link.secrets,
            workers=o.workers,
            changed=ledger.release_stopped,
            stores_checkpoints=lambda: link.is_native,
            send_heartbeat=ledger.heartbeat_due.set,
            owns_signals=self.owns_signals,
        )
        finished_in, finished = trio.open_memory_channel[HeldClaim](o.batch_size)
        reporter = self.reporter = Reporter(
            link=link, ledger=ledger, stop=self.stop, options=o, finished=finished_in, outbox=outbox
        )
        # The heartbeat is in a nursery around all else: it ends after the last delivery, since a state
        # is held until it is delivered.
        async with trio.open_nursery() as around:
            try:
                # Into the ledger before anything else, so that a stop at any moment counts them.
                replayed = [] if outbox is None else outbox.restore(ledger)
                registered = await self._register(link)
                if registered and self.find_run is not None:
                    with self.stop.interrupted():
                        link.work_on(await self.find_run())
                    registered = not self.stop.requested
                if registered:
                    self.enter(Phase.RUNNING)
                started()
                if registered:
                    self._warn_of_lost_checkpoints(link)
                    self._start_heartbeat(around, link)
                    await self._work(link, executor, reporter, finished, replayed)
            finally:
                reporter.write_off()
                self._complete_record(link)
                # All at the same time, the last heartbeat too: they share the time that is left.
                around.cancel_scope.cancel()
                with trio.move_on_after(deadlines.CLOSE, shield=True):
                    async with trio.open_nursery() as closing:
                        for part in (link, executor, outbox):
                            if part is not None:
                                closing.start_soon(part.aclose)

    def _complete_record(self, link: Link) -> None:
        self.record.close()
        self.record.lost_claims = link.lost_claims
        if self.options.exit_code is not None:
            summary = self.ledger.summary(link.lost_claims)
            self.record.exit_code = self.options.exit_code(self.stop.failure or summary)

    def _enter_stop(self, phase: Phase) -> None:
        self.record.enter(phase)
        self.enter(phase)

    def _start_heartbeat(self, nursery: trio.Nursery, link: Link) -> None:
        # Here, since it imports the bodies of the API, as the link does.
        from exotrio._runtime.heartbeat import heartbeat

        # Native without asking: it is used only while the other link says so. Its connection stays open: that
        # the kernel closes it shows the state manager that this process was killed.
        endpoint = replace(self.endpoint, max_idle=math.inf)
        open_own_link = partial(self._open_link, endpoint, "native", 1)
        loop = partial(
            heartbeat,
            link=link,
            open_own_link=open_own_link if self.endpoint.transport is None else None,
            options=self.options,
            ledger=self.ledger,
            stop=self.stop,
            phase=self.phase,
            loop_lag=self.loop_lag,
            tasks=self.tasks,
            record=self.record,
        )
        self._spawn(nursery, loop, "heartbeat")

    def _spawn(self, nursery: trio.Nursery, loop: Callable[[], Awaitable[None]], name: str) -> None:
        # Guarded: a defect in one loop starts the shutdown instead of cancelling the others.
        nursery.start_soon(self.stop.guard, loop, name, name=name)

    async def _work(
        self,
        link: Link,
        executor: Executor,
        reporter: Reporter,
        finished: trio.MemoryReceiveChannel[HeldClaim],
        replayed: Sequence[HeldClaim],
    ) -> None:
        o, stop, ledger, outbox = self.options, self.stop, self.ledger, reporter.outbox
        claimed_in, claimed = trio.open_memory_channel[HeldClaim](o.batch_size)
        planner = ClaimPlanner(
            options=o,
            ledger=ledger,
            stop=stop,
            link=link,
            executor=executor,
            deliveries=reporter,
            claimed=claimed_in,
        )
        workers = Workers(
            namespace=o.namespace,
            captures=o.capture_logs,
            # With an outbox, an outcome is safe on disk before it is queued for the reporter.
            deliver=reporter.put if outbox is None else outbox.put,
            turn=TURN / o.workers,
            executor=executor,
            ledger=ledger,
            stop=stop,
        )
        poller = Poller(
            planner=planner, options=o, link=link, ledger=ledger, stop=stop, failures=reporter.failures
        )
        async with trio.open_nursery() as nursery:
            spawn = partial(self._spawn, nursery)
            spawn(partial(reporter.dispatch, finished, planner, replayed), "reporter")
            if outbox is not None:
                spawn(partial(outbox.write, reporter.add), "outbox")
            for _ in range(o.workers):
                spawn(partial(work, claimed.clone(), workers=workers), "work")
            spawn(partial(poll, poller, replayed=replayed), "poll")
            with claimed:
                await run_shutdown(
                    stop=stop, ledger=ledger, link=link, reporter=reporter, enter=self._enter_stop
                )
            nursery.cancel_scope.cancel()

    async def _open_outbox(self) -> Outbox | None:
        o = self.options
        if o.outbox is None:
            return None
        from exotrio._runtime.outbox import open_outbox  # here, since it imports sqlite3

        with self.stop.interrupted():
            return await open_outbox(o.outbox, self.endpoint.shown, o.namespace)
        return None  # a stop came first

    async def _register(self, link: Link) -> bool:
        """Register the nodes, however long the state manager is away; False if a stop came first."""
        o = self.options
        outage = Outage(log, f"registering at {self.endpoint.shown}")
        with self.stop.interrupted():
            while True:
                try:
                    await link.register(o.name, o.declarations)
                except ManagerUnavailable as error:
                    delay = OUTAGE.pause(outage.failures, error.retry_after)
                    outage.failed(error, delay)
                    await trio.sleep(delay)
                else:
                    outage.worked()
                    break
        if self.stop.requested:
            return False
        nodes = ", ".join(o.nodes)
        log.info("%s is registered in %s at %s with %s", o.name, o.namespace, self.endpoint.shown, nodes)
        return True

    def _warn_of_lost_checkpoints(self, link: Link) -> None:
        names = self.options.with_checkpoints
        if names and not link.is_native:
            log.warning(
                "checkpoints of %s are not stored: the state manager at %s speaks v0 only; each execution "
                "begins without one, and save_checkpoint does not wait",
                ", ".join(names),
                self.endpoint.shown,
            )

    def _open_link(self, endpoint: Endpoint, kind: LinkKind, workers: int) -> AutoLink:
        # Here, since it imports httpx: a program that only imports exotrio need not wait for that.
        from exotrio._link.auto import AutoLink

        return AutoLink(
            endpoint,
            self.options.namespace,
            kind=kind,
            worker_id=self.options.worker_id,
            workers=workers,
            events=self.ledger.events,
            version=self.options.version,
            pinned_only=self.options.pinned_only,
            until_drained=self.options.until_drained,
        )
