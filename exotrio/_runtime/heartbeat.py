"""Heartbeats: they renew the leases of all that is held, and bring back what the state manager has to
say: which leases are lost, which runs were cancelled, what an operator asks for.

Over a network they are sent from a thread with a Trio loop and connections of its own, so that node
code which blocks the runtime's loop keeps its leases. (Code that never releases the interpreter's
lock stops every thread, and this one too.) What crosses between the two loops:

- the thread reads what is held, by ``Ledger.leased``, and nothing else of the runtime's loop;
- answers are heeded in the runtime's loop, whenever that gets to it. Being late does no harm: a lease
  that was lost stays lost, and what has been settled meanwhile is passed over.

In process there is no thread, for the transport belongs to the loop. Leases do not end there, but a
cancelled run and a command must be heard all the same, so it beats often; that costs little.

A lease ends when nothing renewed it for its ``ttl``, 60 s by default. A heartbeat every third of that
leaves time for some that fail: those are repeated soon. A change of the phase is told at once, and the
last heartbeat says that the runtime has stopped: who asked for that need not wait until it is missed.
So is a state that runs after a worker was lost that held it: its node begins once that is answered.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial

import trio

from exotrio._link.port import Claim, Heartbeat, HeartbeatAnswer, HeartbeatItem, Link
from exotrio._nodes.base import Stopping
from exotrio._runtime.ledger import HeldClaim, Ledger, Stage
from exotrio._runtime.lifecycle import Phase
from exotrio._runtime.outage import Outage
from exotrio._runtime.stop import Stop
from exotrio._runtime.task_tree import TaskView
from exotrio._util import deadlines
from exotrio._util.backoff import Backoff
from exotrio._util.events import LeaseLost
from exotrio._wire.vocabulary import BeatResult
from exotrio.errors import ManagerError, ManagerUnavailable

log = logging.getLogger("exotrio.heartbeat")

DEFAULT_TTL = 60.0
"""Until the state manager tells another."""
BEATS_PER_TERM = 3
JITTER = 0.1
"""So that many runtimes that were started together do not beat together."""
INTERVAL_IN_PROCESS = 1.0
SHORTEST_TIMEOUT = 1.0
LONGEST_TIMEOUT = 10.0

_WHY = {BeatResult.LOST: Stopping.LEASE_LOST, BeatResult.CANCELLED: Stopping.RUN_CANCELLED}


async def heartbeat(
    *,
    link: Link,
    apart: Callable[[], Link] | None,
    ledger: Ledger,
    stop: Stop,
    runtime: str,
    phase: Callable[[], Phase],
    grace: float,
    workers: int = 0,
    nodes: Mapping[str, str] | None = None,
    tasks: TaskView | None = None,
) -> None:
    """Beat while the link has leases. Never returns unless cancelled.

    Args:
        link: The runtime's link.
        apart: Opens a native link with connections of its own, for the thread; None in process.
        ledger: What is held. Leases that are renewed or lost are entered there.
        stop: Asked for a drain if the state manager commands it.
        runtime: Name of the runtime.
        phase: Returns the runtime's phase; called from any thread.
        grace: Seconds that such a drain may take.
        workers: How many the runtime has.
        nodes: Those the runtime has, each with its inputs and outputs in one line.
        tasks: Shown to the state manager when it asks; None: nobody may see them.

    Cancellation:
        Says farewell; that takes up to half a second.
    """
    ear = HeartbeatHandler(ledger, stop, grace)
    if apart is None:
        heart = HeartbeatSender(
            link,
            link,
            ledger,
            runtime,
            phase,
            ear.heed,
            ledger.now,
            tasks,
            workers,
            nodes or {},
            INTERVAL_IN_PROCESS,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(heart.live)
            try:
                await trio.sleep_forever()
            finally:
                heart.end()
    else:
        thread = _Thread(stop)
        tell = partial(thread.call_back, ear.heed)

        def clock() -> float:
            return time.monotonic() + ledger.asleep()

        heart = HeartbeatSender(
            link, apart(), ledger, runtime, phase, tell, clock, tasks, workers, nodes or {}
        )
        await thread.live(heart)


@dataclass(frozen=True, slots=True)
class _Beaten:
    """One heartbeat that was answered.

    Attributes:
        held: What it was about, and under which claim it was held then.
        running: Which of that it called running.
        heard: The answer; None if the state manager has no leases any more.
        age: Returns how many seconds ago it was sent.
    """

    held: list[tuple[HeldClaim, Claim]]
    running: list[bool]
    heard: HeartbeatAnswer | None
    age: Callable[[], float]


@dataclass(frozen=True, slots=True)
class HeartbeatHandler:
    """Heeds answers. Lives in the runtime's loop."""

    ledger: Ledger
    stop: Stop
    grace: float

    def heed(self, beaten: _Beaten) -> None:
        """Enter what was renewed, end what was lost or cancelled, obey commands."""
        heard, ledger = beaten.heard, self.ledger
        for (held, claim), runs in zip(beaten.held, beaten.running, strict=True):
            held.announced = held.announced or (runs and held.claim is claim)
        if heard is None:
            # Replaced by one that speaks v0 only. Nobody there renews what workers would wait for.
            for held, _ in beaten.held:
                begun = held.execution is not None and held.execution.began
                if held.lapsed and not begun:
                    self._taken_away(held, Stopping.LEASE_LOST)
            ledger.notify()
            return
        ledger.ttl = heard.ttl
        for (held, claim), result in zip(beaten.held, heard.results, strict=True):
            if held.claim is not claim:
                continue  # it was claimed again meanwhile: this is about the lease before
            if result is not BeatResult.OK:
                self._taken_away(held, _WHY[result])
            elif heard.ttl is None:
                held.lease_until = math.inf
            else:
                held.lease_until = ledger.now() - beaten.age() + heard.ttl
        ledger.notify()  # for those who wait to learn whether a lease was renewed
        if "drain" in heard.commands and not self.stop.requested:
            log.warning("the state manager asks this runtime to drain")
            self.stop.request(self.grace, "the state manager")

    def _taken_away(self, held: HeldClaim, why: Stopping) -> None:
        if held.forfeited:
            return
        what = "its lease is lost"
        if why is Stopping.RUN_CANCELLED:
            what = f"its run {held.claim.run_id} was cancelled"
        if held.stage is Stage.BUFFERED:
            held.forfeited = why
            self._note_loss(held, why)
            log.warning("%s is dropped before it was begun: %s", held, what)
            self.ledger.forfeit(held)
        elif held.stage is Stage.RUNNING and held.execution is not None:
            held.forfeited = why
            self._note_loss(held, why)
            log.warning("%s is cancelled: %s", held, what)
            held.execution.cancel(why)
        # Else it is finished. Its outcome is sent: only the state manager knows whether it comes too late.

    def _note_loss(self, held: HeldClaim, why: Stopping) -> None:
        if why is Stopping.LEASE_LOST and self.ledger.events:
            self.ledger.events.tell(LeaseLost(held.claim.node_name))


@dataclass(slots=True)
class HeartbeatSender:
    """Beats, in the loop that calls ``run``.

    Args:
        main: The runtime's link; only asked what it can do, since it knows whom it talks to.
        link: The link to beat through.
        ledger: Only read.
        runtime: As in ``heartbeat``.
        phase: As in ``heartbeat``.
        tell: Takes each answer.
        clock: In seconds. What ``age`` is taken from in the runtime's loop.
        tasks: As in ``heartbeat``.
        workers: As in ``heartbeat``.
        nodes: As in ``heartbeat``.
        longest: Most seconds between two beats.
    """

    main: Link
    link: Link
    ledger: Ledger
    runtime: str
    phase: Callable[[], Phase]
    tell: Callable[[_Beaten], None]
    clock: Callable[[], float]
    tasks: TaskView | None
    workers: int
    nodes: Mapping[str, str]
    longest: float = DEFAULT_TTL
    _ending: bool = False
    _scope: trio.CancelScope = field(default_factory=lambda: trio.CancelScope(shield=True))
    _answered: bool = False
    _told: float | None = None
    _tree: str | None = None
    _outage: Outage = field(default_factory=lambda: Outage(log, "the heartbeat"))

    async def live(self) -> None:
        """Beat until ``end`` is called, then say farewell.

        Cancellation:
            None: what was sent is not cut off, and ``end`` sets a deadline for that.
        """
        self.ledger.beat_now.attach()
        with self._scope:
            while not self._ending:
                pause = await self._beat()
                with trio.move_on_after(pause):
                    await self.ledger.beat_now.wait()
            if self._answered and self.main.capabilities.leases:
                stopped = Heartbeat(self.runtime, Phase.STOPPED.value, 0, 0, (), workers=self.workers)
                with suppress(ManagerError):
                    await self.link.heartbeat(stopped, timeout=deadlines.LAST_HEARTBEAT)

    def end(self) -> None:
        """Come to an end; at once if the state manager did not answer the last time. In this loop."""
        self._ending = True
        self._scope.deadline = trio.current_time() + (deadlines.LAST_HEARTBEAT if self._answered else 0.0)
        self.ledger.beat_now.set()

    @property
    def _interval(self) -> float:
        # What the last answer told counts already: the runtime's loop may be blocked, and enter it late.
        known = [ttl for ttl in (self._told, self.ledger.ttl) if ttl is not None]
        return min(self.longest, min(known, default=DEFAULT_TTL) / BEATS_PER_TERM)

    async def _beat(self) -> float:
        """Beat once and return how long to pause."""
        interval = self._interval
        # With its claim as it is now: a state that is claimed again gets another one, in the other loop.
        claimed = [(each, each.claim) for each in self.ledger.leased()]
        held = [(each, claim) for each, claim in claimed if claim.token is not None]
        running = [each.stage is Stage.RUNNING for each, _ in held]
        heartbeat = Heartbeat(
            self.runtime,
            self.phase().value,
            busy=sum(running),
            buffered=sum(each.stage is Stage.BUFFERED for each, _ in held),
            states=tuple(
                HeartbeatItem(claim, runs, each.progress if runs else None)
                for (each, claim), runs in zip(held, running, strict=True)
            ),
            shows_tasks=self.tasks is not None,
            tasks=self._tree,
            workers=self.workers,
            nodes=self.nodes,
        )
        sent = self.clock()
        timeout = min(max(interval, SHORTEST_TIMEOUT), LONGEST_TIMEOUT)
        try:
            leases = self.main.capabilities.leases
            heard = await self.link.heartbeat(heartbeat, timeout=timeout) if leases else None
        except ManagerError as error:
            pause = Backoff(interval / 40, interval / 4).pause(self._outage.failures)
            if isinstance(error, ManagerUnavailable) and error.retry_after is not None:
                pause = min(max(pause, error.retry_after), interval)
            self._answered = False
            self._outage.failed(error, pause)
            return pause
        self._outage.worked()
        if heard is not None:
            self._answered = True
            self._told = heard.ttl
        self.tell(_Beaten(held, running, heard, lambda: self.clock() - sent))
        self._tree = None
        if (
            heard is not None
            and "tasks" in heard.commands
            and heartbeat.tasks is None
            and self.tasks is not None
        ):
            self._tree = await self.tasks.take()
            return 0.0  # at once: somebody waits for it
        return self._interval * random.uniform(1 - JITTER, 1 + JITTER)


class _Thread:
    """A thread with a loop in which a heart beats. Made and ended by the runtime's loop.

    Args:
        stop: Told of a defect.
    """

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        self._ours = trio.lowlevel.current_trio_token()
        self._ended = trio.Event()
        self._over = False
        self._token: trio.lowlevel.TrioToken | None = None

    async def live(self, heart: HeartbeatSender) -> None:
        """Let ``heart`` beat in the thread, which closes its link in the end. Never returns unless
        cancelled; then the thread is ended."""
        # A daemon: one that hangs in spite of all must not keep the process from ending.
        # In this context, so that its lines in the log tell the phase too.
        body = partial(copy_context().run, self._body, heart)
        threading.Thread(target=body, name="exotrio heartbeat", daemon=True).start()
        try:
            await trio.sleep_forever()
        finally:
            self._over = True
            if self._token is not None:
                with suppress(trio.RunFinishedError):
                    self._token.run_sync_soon(heart.end)
            with trio.move_on_after(deadlines.CLOSE, shield=True):
                await self._ended.wait()

    def call_back(self, function: Callable[..., object], *args: object) -> None:
        """Call ``function`` in the runtime's loop, when that gets to it. From the thread."""
        with suppress(trio.RunFinishedError):  # then nothing is held any more
            self._ours.run_sync_soon(self._guarded, function, *args)

    def _guarded(self, function: Callable[..., object], *args: object) -> None:
        try:
            function(*args)
        except Exception as error:  # out of here it would tear down the loop, whosever it is
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        log.critical("the heartbeat failed; the runtime stops", exc_info=error)
        self._stop.fail(error)

    def _body(self, heart: HeartbeatSender) -> None:
        try:
            trio.run(self._main, heart)
        except BaseException as error:
            self.call_back(self._fail, error)
        finally:
            self.call_back(self._ended.set)

    async def _main(self, heart: HeartbeatSender) -> None:
        # First it makes itself known, then it looks whether it came too late: so no end is missed.
        self._token = trio.lowlevel.current_trio_token()
        if not self._over:
            await heart.live()
        await heart.link.aclose()
