"""The inside of a running runtime: register, then one nursery with the poller, the workers and the
reporter, until the stop path has been walked."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from exotrio._execution.executor import Executor
from exotrio._http.endpoint import Endpoint
from exotrio._link.port import Link
from exotrio._runtime.heartbeat import heartbeat
from exotrio._runtime.ledger import HeldClaim, Ledger
from exotrio._runtime.lifecycle import Phase
from exotrio._runtime.options import LinkKind, Options
from exotrio._runtime.outage import Outage
from exotrio._runtime.poller import poll
from exotrio._runtime.reporter import report
from exotrio._runtime.shutdown import run_shutdown, write_off
from exotrio._runtime.stop import Stop
from exotrio._runtime.task_tree import TaskView
from exotrio._runtime.worker import pass_on, work
from exotrio._util import deadlines
from exotrio._util.backoff import OUTAGE
from exotrio.errors import ManagerUnavailable

if TYPE_CHECKING:
    from exotrio._runtime.outbox import Outbox

log = logging.getLogger("exotrio.runtime")


@dataclass(slots=True)
class Engine:
    """One run of a runtime. It ends by the stop path only: nothing outside its shield reaches it.

    Attributes:
        enter: Called with each phase.
        tasks: Its task tree.
        shows_tasks: Whether the state manager may see that.
        phase: The last of them.
        owns_signals: See ``Executor``.
        run_id: The only run whose states are claimed; None: of any.
        lost_claims: See ``Summary``.
        executor: Runs nodes.
    """

    options: Options
    endpoint: Endpoint
    stop: Stop
    ledger: Ledger
    enter: Callable[[Phase], None]
    owns_signals: bool
    tasks: TaskView = field(default_factory=TaskView)
    shows_tasks: bool = False
    run_id: str | None = None
    phase: Phase = field(default=Phase.STARTING, init=False)
    lost_claims: int = field(default=0, init=False)
    executor: Executor | None = field(default=None, init=False)

    @property
    def stuck(self) -> str:
        """Why states of some nodes are not begun; empty if all are. From any thread."""
        return "" if self.executor is None else self.executor.stuck

    # A Ctrl-C may go to any line of the loop's thread. Here it would tear the nursery down.
    @trio.lowlevel.enable_ki_protection
    async def run(self, started: Callable[[], None]) -> None:
        """Register and work until stopped.

        Args:
            started: Called once the nodes are registered, or a stop came first.

        Raises:
            ManagerError: the state manager refused the registration.
            ConfigurationError, DatabaseBusy: the outbox cannot be used.
        """
        outbox = await self._open_outbox()
        link = self._open_link()
        executor = self.executor = Executor(
            nodes=self.options.nodes,
            fetch_secrets=link.secrets,
            workers=self.options.workers,
            changed=self.ledger.notify,
            owns_signals=self.owns_signals,
        )
        try:
            # Around all else, since it ends after the last delivery: what is delivered is held until then.
            async with trio.open_nursery() as around:
                try:
                    # Into the books before anything else, so that a stop at any moment counts what is left.
                    replayed = [] if outbox is None else outbox.restore(self.ledger)
                    registered = await self._register(link)
                    if registered:
                        self._enter(Phase.RUNNING)
                    started()
                    if registered:
                        self._begin_heartbeat(around, link)
                        await self._work(link, outbox, executor, replayed)
                finally:
                    write_off(self.ledger)
                    # All at the same time, the last heartbeat too: they share what time is left.
                    around.cancel_scope.cancel()
                    with trio.move_on_after(deadlines.CLOSE, shield=True):
                        async with trio.open_nursery() as closing:
                            for part in (link, executor, outbox):
                                if part is not None:
                                    closing.start_soon(part.aclose)
        finally:
            self.lost_claims = link.lost_claims

    def _begin_heartbeat(self, nursery: trio.Nursery, link: Link) -> None:
        o, stop = self.options, self.stop
        beat = partial(
            heartbeat,
            link=link,
            open_own_link=self._open_heartbeat_link if self.endpoint.transport is None else None,
            ledger=self.ledger,
            stop=stop,
            runtime=o.name,
            phase=lambda: self.phase,
            grace=o.shutdown_grace,
            workers=o.workers,
            nodes={node.name: node.fields for node in o.declarations},
            tasks=self.tasks if self.shows_tasks else None,
        )
        nursery.start_soon(stop.guard, beat, "heartbeat", name="heartbeat")

    async def _work(
        self, link: Link, outbox: Outbox | None, executor: Executor, replayed: list[HeldClaim]
    ) -> None:
        o, stop, ledger = self.options, self.stop, self.ledger
        claimed_in, claimed = trio.open_memory_channel[HeldClaim](o.batch_size)
        # Never full, so that finished work never waits where it can be cancelled: the poller claims up
        # to batch_size more while at most batch_size + workers are undelivered, workers run, and as many
        # wait to run alone.
        most_held = 2 * o.batch_size + 3 * o.workers
        done_in, done = trio.open_memory_channel[HeldClaim](most_held + len(replayed))
        for held in replayed:
            done_in.send_nowait(held)

        async with trio.open_nursery() as nursery:

            def spawn(loop: Any, *ends: Any, **options: Any) -> None:
                # Guarded: a defect in one loop starts the stop path instead of cancelling the others.
                guarded = partial(loop, *ends, ledger=ledger, stop=stop, **options)
                nursery.start_soon(stop.guard, guarded, loop.__name__, name=loop.__name__)

            spawn(report, done, done_in.clone(), link=link, workers=o.workers, outbox=outbox)
            finished_in = done_in.clone()
            if outbox is not None:
                from exotrio._runtime.outbox import keep

                # Between the workers and the reporter: what waits for its delivery is safe by then.
                finished_in, finished = trio.open_memory_channel[HeldClaim](most_held)
                spawn(keep, finished, done_in.clone(), outbox=outbox)
            for _ in range(o.workers):
                spawn(work, claimed.clone(), finished_in.clone(), executor=executor)
            spawn(
                poll,
                claimed_in,
                finished_in.clone(),
                link=link,
                nodes=o.nodes,
                executor=executor,
                batch_size=o.batch_size,
                workers=o.workers,
                poll_interval=o.poll_interval,
                replayed=replayed,
            )
            with claimed, done_in, finished_in:
                await run_shutdown(
                    stop,
                    ledger,
                    link,
                    enter=self._enter,
                    release=lambda held: pass_on(held, None, finished_in, ledger),
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

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self.enter(phase)
        self.ledger.beat_now.set()

    def _open_heartbeat_link(self) -> Link:
        # Native without asking: it is used only while the other link says so.
        return self._open(kind="native", workers=1)

    def _open_link(self) -> Link:
        return self._open(kind=self.options.link, workers=self.options.workers)

    def _open(self, *, kind: LinkKind, workers: int) -> Link:
        # Here, since it imports httpx: whoever only imports exotrio need not wait for that.
        from exotrio._link.auto import open_link

        o = self.options
        return open_link(
            self.endpoint,
            o.namespace,
            kind=kind,
            state_manager_version=o.state_manager_version,
            worker_id=o.worker_id,
            workers=workers,
            run_id=self.run_id,
            events=self.ledger.events,
        )
