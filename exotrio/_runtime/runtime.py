"""``Runtime``, the public class. The nursery in which it runs is in ``engine``."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import trio

from exotrio._execution.capture import captured
from exotrio._execution.handle import phase_context
from exotrio._execution.loop_watch import LoopWatch
from exotrio._http.endpoint import Ambient, Endpoint, ambient
from exotrio._link.port import LinkKind
from exotrio._nodes.base import BaseNode
from exotrio._nodes.checks import seconds_problems
from exotrio._nodes.importing import GUARD, is_worker_process
from exotrio._runtime.engine import Engine, FindRun
from exotrio._runtime.entry import only_nodes_interrupt, run_blocking, watchdog
from exotrio._runtime.held_claim import Stage
from exotrio._runtime.ledger import Ledger
from exotrio._runtime.lifecycle import Phase, Summary, advance
from exotrio._runtime.options import Adjustments, Options
from exotrio._runtime.stop import Stop
from exotrio._runtime.task_tree import TaskView
from exotrio._runtime.vitals import Vitals, running_of
from exotrio._shared import deadlines
from exotrio._shared.events import Observer
from exotrio._shared.garbage import rare_collections
from exotrio._util.exceptions import without_cancelled
from exotrio.errors import ConfigurationError, LifecycleError

if TYPE_CHECKING:
    import httpx

log = logging.getLogger("exotrio.runtime")


class Runtime:
    """Runs the nodes of one namespace: claims their states, executes them, reports the outcomes.

    The constructor checks its arguments and names every problem at once; it connects to nothing. Settings
    that are not in the arguments are read at the start. One Runtime runs once: with ``start()`` from plain
    code, or with ``run()`` inside Trio.

    Args:
        name: Name of this runtime, as the state manager shows it.
        nodes: Node classes; a class is registered under its name.
        state_manager_uri: Base URI. Defaults to ``EXOSPHERE_STATE_MANAGER_URI`` (environment, .env), read at
            the start. Under ``python -m exotrio run`` and ``dev`` the state manager of that command is used
            instead.
        key: API key. Defaults to ``EXOSPHERE_API_KEY`` (environment, .env), read at the start.
        batch_size: Maximum number of states claimed ahead of the workers, 1 or more. Defaults to 16.
        workers: Maximum number of states that run at once, 1 or more. Defaults to 4.
        state_manager_version: API version of the stock state manager. Defaults to ``"v0"``, the only one.
        poll_interval: Seconds between claims while there is nothing to do, above 0. Defaults to 1.
        shutdown_grace: Seconds running nodes may go on after a first signal or ``stop()``, 0 or more.
            Defaults to 20; cleaning up, flushing and closing take up to 8.5 more.
        transport: Way to a state manager in this process (``exotrio.manager.embedded``); then no URI
            and no key are needed. Defaults to none: the network.
        link: The API to use: ``"v0"``, ``"native"``, or ``"auto"``, which asks the server. Defaults to
            ``"auto"``.
        outbox: A file to which outcomes are written before they are sent, so that ``kill -9`` does not
            lose them; what is left in it is sent at the next start. One file per runtime. Defaults to
            none: outcomes are in memory until they are delivered.
        capture_logs: Show what nodes log and print with their states, too: up to 16 KiB of each, secrets
            masked, once it ended. Never sent to a state manager that speaks only v0. A node also goes on
            if a standard stream cannot be written: the terminal was closed, say. Defaults to True.
        version: The version of its code: it also executes the runs of graphs of that version. Defaults to
            ``EXOTRIO_CODE_VERSION`` (environment, .env), read at the start. Never sent to a state manager
            that speaks only v0.
        state_manage_version: The stock SDK's spelling of ``state_manager_version``.

    Raises:
        ConfigurationError: an argument cannot be used; ``problems`` names each.
    """

    def __init__(
        self,
        namespace: str,
        name: str,
        nodes: Sequence[type[BaseNode]],
        state_manager_uri: str | None = None,
        key: str | None = None,
        batch_size: int = 16,
        workers: int = 4,
        state_manager_version: str = "v0",
        poll_interval: float = 1,
        *,
        shutdown_grace: float = deadlines.GRACE,
        transport: httpx.AsyncBaseTransport | None = None,
        link: LinkKind = "auto",
        outbox: str | os.PathLike[str] | None = None,
        capture_logs: bool = True,
        version: str | None = None,
        state_manage_version: str | None = None,
    ) -> None:
        self._options = Options(
            namespace=namespace,
            name=name,
            classes=nodes,
            state_manager_uri=state_manager_uri,
            key=key,
            batch_size=batch_size,
            workers=workers,
            state_manager_version=state_manage_version or state_manager_version,
            poll_interval=poll_interval,
            shutdown_grace=shutdown_grace,
            transport=transport,
            link=link,
            outbox_file=outbox,
            capture_logs=capture_logs,
            version=version,
        )
        self._phase = Phase.NEW
        self._starting = threading.Lock()  # several threads may start it
        self._stop = Stop()
        self._ledger = Ledger()
        self._loop_watch = LoopWatch(self._options.nodes.values())
        self._engine: Engine | None = None
        self._tasks = TaskView()
        self._shows_tasks = False
        self._find_run: FindRun | None = None
        self._now: Callable[[], float] = float

    @property
    def namespace(self) -> str:
        return self._options.namespace

    @property
    def name(self) -> str:
        return self._options.name

    @property
    def nodes(self) -> tuple[type[BaseNode], ...]:
        return tuple(self._options.nodes.values())

    @property
    def worker_id(self) -> str:
        """The id of this runtime at a state manager with leases; no other runtime ever has the same."""
        return self._options.worker_id

    @property
    def version(self) -> str | None:
        """The version of its code, if it has one; complete from the start on."""
        return self._options.version

    @property
    def shutdown_grace(self) -> float:
        """Seconds running nodes may go on after a first signal or ``stop()``."""
        return self._options.shutdown_grace

    @property
    def outbox(self) -> Path | None:
        """The file that keeps outcomes until they are delivered, if there is one."""
        return self._options.outbox

    @property
    def phase(self) -> Phase:
        return self._phase

    @property
    def summary(self) -> Summary:
        """The endings of the states claimed so far; final once the phase is STOPPED. From any thread."""
        return self._ledger.summary(0 if self._engine is None else self._engine.record.lost_claims)

    @property
    def vitals(self) -> Vitals:
        """What the runtime does and holds at this moment. From any thread, also while the loop is blocked."""
        held = self._ledger.snapshot()
        return Vitals(
            phase=self._phase,
            stopping=self._stop.was_requested,
            workers=self._options.workers,
            running=running_of(held, self._now()),
            buffered=sum(each.stage is Stage.BUFFERED for each in held),
            undelivered=sum(each.stage is Stage.DONE and not each.is_release for each in held),
            stuck="" if self._engine is None else self._engine.stuck,
            loop_lag=self._loop_watch.lag,
        )

    def observe(self, observer: Observer) -> None:
        """Have ``observer`` called with every event. Call this before the start.

        Args:
            observer: Called with each event (``exotrio.monitoring``), in the runtime's loop and in the
                thread of its heartbeats; it must return at once. One that raises is logged and not called
                again.

        Raises:
            LifecycleError: the runtime was started before.
        """
        self._refuse_if_started("can only be observed from its start")
        self._ledger.events.add(observer)

    def show_tasks(self) -> None:
        """Let the state manager's operators see the task tree: names and lines of code, no values.

        Call this before the start. Without it they do not see it.

        Raises:
            LifecycleError: the runtime was started before.
        """
        self._refuse_if_started("can only show its tasks from its start")
        self._shows_tasks = True

    async def tasks(self) -> str:
        """Return the tree of the runtime's tasks, and where each waits, as text without any values.

        From any Trio loop. If the runtime's own loop is blocked in another thread for 1 s, the text says
        where that thread is.

        Cancellation:
            Safe.
        """
        return await self._tasks.take()

    def stop(self, grace: float | None = None, *, why: str = "stop()") -> None:
        """Begin the drain: claim nothing more, let running nodes finish, release the rest, then stop.

        May be called from anywhere (the same loop, another thread, a signal handler) and at any
        time: before the start, which then returns at once; again, with a shorter grace; after the end,
        when it does nothing. Returns immediately.

        Args:
            grace: Seconds that running nodes may go on; then they are cancelled. Defaults to the
                ``shutdown_grace`` of the runtime. A later call can shorten it, not extend it.
            why: The source of the request, for the log. Defaults to ``"stop()"``.

        Raises:
            ConfigurationError: ``grace`` is not a finite number of seconds, or below zero.
        """
        if grace is None:
            grace = self._options.shutdown_grace
        elif problems := seconds_problems("grace", grace, zero=True):
            raise ConfigurationError("the runtime cannot be stopped like this", problems)
        self._stop.request(grace, why)

    def start(self) -> Summary:
        """Run until stopped, from plain code. Blocks.

        In the main thread it owns SIGTERM, SIGINT and SIGHUP while it runs: the first drains, the second
        cancels running nodes, the third ends the process at once with status 128+n. If the stop is not
        over 9.5 s after the grace, since node code can be neither cancelled nor given up, the process
        exits with code 75. In another thread only ``stop()`` ends it, and such node code is waited for.

        Returns:
            The endings of the claimed states; ``exit_code`` is 0, or 75 if something was abandoned or is
            unknown.

        Raises:
            LifecycleError: it was started before, or an event loop runs in this thread, or the command
                line is loading the file.
            KeyRefused, RequestRefused, NotFound: the nodes could not be registered.
            DatabaseBusy: another runtime uses the outbox.
            ConfigurationError: no state manager is named, or no key; or the outbox cannot be used, or
                belongs to another state manager.
        """
        self._check_startable()
        return run_blocking(self.run, lambda grace, why: self.stop(grace, why=why))

    async def run(self, *, task_status: trio.TaskStatus[Runtime] = trio.TASK_STATUS_IGNORED) -> Summary:
        """Run until stopped, inside a Trio application: ``await nursery.start(runtime.run)``.

        That call returns the runtime once the nodes are registered (or a stop came first). Signals
        are the application's: it calls ``stop()``, or cancels the scope around.

        Returns:
            The endings of the claimed states.

        Raises:
            As ``start``, but not for an event loop in this thread.

        Cancellation:
            Skips the drain, but loses nothing: running nodes are cancelled and have 5 s to clean up,
            outcomes are reported and the rest is released within 3 s, then Cancelled goes on. A node
            that shields itself for longer is waited for, since Trio cannot end it:
            ``await anyio.to_thread.run_sync(f)`` shields until ``f`` returns, unless it is called with
            ``abandon_on_cancel=True``. So is one that blocks the loop.
        """
        with self._starting:
            endpoint = self._check_startable()
            self._enter(Phase.STARTING)
        self._now = trio.lowlevel.current_clock().current_time
        engine = self._engine = Engine(
            options=self._options,
            endpoint=endpoint,
            stop=self._stop,
            ledger=self._ledger,
            enter=self._enter,
            phase=lambda: self._phase,
            owns_signals=only_nodes_interrupt(),
            loop_lag=lambda: self._loop_watch.lag,
            tasks=self._tasks if self._shows_tasks else None,
            find_run=self._find_run,
        )
        if (guard := watchdog()) is not None:
            guard.cut_off, self._stop.arm = engine.cut_off, guard.arm
        self._stop.enter_loop()
        started = partial(task_status.started, self)
        try:
            async with trio.open_nursery() as outside:
                # A cancellation from outside reaches only the watcher of these two; and a Ctrl-C meant
                # for the main task arrives in this nursery, not in the middle of the engine.
                outside.start_soon(self._stop.watch)
                outside.start_soon(
                    self._shielded, engine, started, outside.cancel_scope, name=self._options.name
                )
        except BaseExceptionGroup as group:
            error = without_cancelled(group)
            if error is None:
                raise
            self._stop.failure = self._stop.failure or error
        finally:
            if guard is not None:
                self._stop.arm = lambda grace: None
                guard.disarm()
            self._phase = advance(self._phase, Phase.STOPPED)
            log.info("%s stopped%s %s", self._options.name, engine.record.line(), self.summary)
            if self._stop.failure is not None:
                # Without the groups that the nurseries put around it, and instead of a Cancelled.
                raise self._stop.failure
        return self.summary

    def work_on(self, find_run: FindRun) -> None:
        """Claim only states of one run. For the command line.

        A state manager that speaks only v0 cannot restrict claims to a run: there, states of any run are
        claimed.

        Args:
            find_run: Called once the nodes are registered; it returns the id of the run, which it may start.
                Its errors are raised by ``run``.

        Raises:
            LifecycleError: the runtime was started before.
        """
        self._refuse_if_started("cannot change which runs it works on")
        self._find_run = find_run

    def adjust(self, **arguments: Unpack[Adjustments]) -> None:
        """Replace arguments by options of the command line. For the command line.

        Raises:
            LifecycleError: the runtime was started before.
        """
        self._refuse_if_started("cannot be changed")
        self._options.adjust(**arguments)

    # -- inside the loop

    # As for the engine: a Ctrl-C in here would tear down the nursery around it.
    @trio.lowlevel.enable_ki_protection
    async def _shielded(self, engine: Engine, started: Callable[[], None], outside: trio.CancelScope) -> None:
        # This shield has no deadline: the shutdown bounds every step within it but the end of a node that
        # shields itself. In a process that belongs to the runtime, the watchdog bounds that.
        with trio.CancelScope(shield=True):
            phase_context.set(lambda: self._phase.value)
            self._tasks.enter()
            collections = nullcontext() if watchdog() is None else rare_collections()
            with collections, self._loop_watch.trio_watched(), captured(enabled=self._options.capture_logs):
                await self._stop.guard(partial(engine.run, started), "the runtime")
            self._tasks.leave()
        self._stop.is_over = True
        outside.cancel()

    def _refuse_if_started(self, why: str) -> None:
        if self._phase is not Phase.NEW:
            raise LifecycleError(f"a runtime that was started {why}")

    def _check_startable(self) -> Endpoint:
        if self._phase is not Phase.NEW:
            raise LifecycleError(
                f"this runtime was started before (it is {self._phase.value})",
                fix="build another Runtime: one runs once",
            )
        if ambient() == Ambient(None) or is_worker_process():
            raise LifecycleError("the runtime was started while its file is loaded", fix=GUARD)
        self._options.resolve_version()
        return self._options.resolve_endpoint()

    def _enter(self, phase: Phase) -> None:
        self._phase = advance(self._phase, phase)
        log.info("%s: %s", self._options.name, phase.value)
        self._ledger.heartbeat_due.set()
