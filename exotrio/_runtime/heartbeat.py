"""Heartbeats renew the leases of all that is held. Their answers say which leases are lost, which runs were
cancelled, and what an operator commands.

Over a network they are sent from a thread with a separate Trio loop and connections, so that node code which
blocks the runtime's loop keeps its leases. (Code that never releases the interpreter's lock stops every
thread, and this one too.) What crosses between the two loops:

- the thread reads the held claims, by ``Ledger.leased``, and nothing else of the runtime's loop;
- answers are handled in the runtime's loop, whenever that gets to it. Being late does no harm: a lease that
  was lost stays lost, and a state that was settled meanwhile is skipped. But a loop that is blocked for ten
  minutes hangs, in a lock or in a write to a stream that is not read: no heartbeat is sent until it runs
  again, so that its states run elsewhere. Nodes that block it for minutes keep their leases.

In process there is no thread, for the transport belongs to the loop. Leases do not end there, but a
cancelled run and a command must arrive all the same, so heartbeats are frequent; they cost little.

A lease ends when nothing renewed it for its ``ttl``, 30 s by default. A heartbeat every third of that leaves
time for some that fail: those are repeated soon. A heartbeat is sent at once when the phase changes, and when
a state is begun whose last runtimes died while they ran it: its node begins once that is answered; and when
``execute`` begins after a heartbeat said that a worker has the state. From a request to stop on, each says
how the stop goes, and the last one that the runtime has stopped: it becomes the receipt of the stop. (If a
runtime is killed meanwhile, the one before does; its own watchdog sends another one before that.)

Heartbeats also bring the newest checkpoints to the state manager (``checkpoint_queue``). A checkpoint counts
as stored once an answer says so; that is recorded in the thread, since a node in another one may wait for it.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest

import trio

from exotrio._link.port import Claim, HeartbeatAnswer, Link
from exotrio._nodes.base import Stopping
from exotrio._nodes.outcome import CheckpointText, Outcome
from exotrio._runtime.checkpoint_queue import CheckpointQueue
from exotrio._runtime.heartbeat_thread import HeartbeatThread
from exotrio._runtime.held_claim import HeldClaim, Stage
from exotrio._runtime.ledger import Ledger
from exotrio._runtime.lifecycle import Phase
from exotrio._runtime.options import Options
from exotrio._runtime.receipt import StopRecord
from exotrio._runtime.stop import Stop
from exotrio._runtime.task_tree import TaskView
from exotrio._shared import deadlines
from exotrio._shared.events import CheckpointStored
from exotrio._util.backoff import Backoff, Outage
from exotrio._util.times import format_duration
from exotrio._wire.heartbeats import MAX_FIELDS, HeartbeatProgress, HeartbeatRequest, HeartbeatState
from exotrio._wire.native import Checkpoint
from exotrio._wire.vocabulary import DRAIN_COMMAND, HeartbeatResult, to_ms
from exotrio.errors import KeyRefused, ManagerError, ManagerUnavailable

log = logging.getLogger("exotrio.heartbeat")

DEFAULT_TTL = 30.0
"""Seconds a lease lasts, until the state manager says otherwise."""
HEARTBEATS_PER_TTL = 3
JITTER = 0.1
"""By how much a pause may be shorter, so that runtimes that were started together do not send together."""
INTERVAL_IN_PROCESS = 1.0
SECOND_AFTER = 1.0
"""Seconds from the first heartbeat, at the start or after a failure, to the next one. The second one over a
connection shows the state manager that it stays open, so that its end shows the end of the process."""
MIN_TIMEOUT = 1.0
MAX_TIMEOUT = 10.0
MAX_LAG = 600.0
"""Seconds for which the runtime's loop may be blocked until it counts as hung: nodes may take minutes."""
LAG_CHECK_INTERVAL = 1.0
REPEAT_EVERY = 12
"""Failed heartbeats from one warning that the key is refused to the next: about a minute."""

_WHY = {HeartbeatResult.LOST: Stopping.LEASE_LOST, HeartbeatResult.CANCELLED: Stopping.RUN_CANCELLED}

Renewed = Sequence[tuple[HeldClaim, Claim, bool]]
"""The states of a heartbeat, each with the claim under which it was held then, and whether it was running."""
Deliver = Callable[[Renewed, HeartbeatAnswer | None, Callable[[], float]], None]
"""Handles an answered heartbeat. The answer is None if the state manager has no leases any more; the last
argument returns how many seconds ago the heartbeat was sent."""


async def heartbeat(
    *,
    link: Link,
    open_own_link: Callable[[], Link] | None,
    options: Options,
    ledger: Ledger,
    stop: Stop,
    phase: Callable[[], Phase],
    loop_lag: Callable[[], float] = float,
    tasks: TaskView | None = None,
    record: StopRecord,
) -> None:
    """Send heartbeats while the link has leases. Never returns unless cancelled.

    Args:
        open_own_link: Opens a native link with separate connections, for the thread; None in process.
        phase: Returns the runtime's phase; called from any thread.
        loop_lag: Returns for how many seconds the runtime's loop has been blocked; called from any thread.
        tasks: Shown to the state manager on request; None if it must not see them.
        record: How the stop goes.

    Cancellation:
        Sends a last heartbeat; that is over within ``deadlines.CLOSE``.
    """
    handle = partial(_handle, ledger, stop, options, link)
    new_sender = partial(
        HeartbeatSender,
        runtime_link=link,
        options=options,
        ledger=ledger,
        phase=phase,
        tasks=tasks,
        record=record,
    )
    if open_own_link is None:
        sender = new_sender(link=link, clock=ledger.now, deliver=handle, max_interval=INTERVAL_IN_PROCESS)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.run)
            try:
                await trio.sleep_forever()
            finally:
                sender.end()
    else:
        thread = HeartbeatThread(stop)
        own_link = open_own_link()
        sender = new_sender(
            link=own_link,
            clock=lambda: time.monotonic() + ledger.asleep(),
            deliver=partial(thread.call_back, handle),
            loop_lag=loop_lag,
        )

        async def body() -> None:
            await sender.run()
            await own_link.aclose()

        await thread.run(body, sender.end)


def _handle(
    ledger: Ledger,
    stop: Stop,
    options: Options,
    link: Link,
    renewed: Renewed,
    answer: HeartbeatAnswer | None,
    age: Callable[[], float],
) -> None:
    """Do what an answer says, in the runtime's loop: enter renewed leases, end states that were lost or
    cancelled, release those that wait for busy workers, obey commands. See ``Deliver``."""
    for held, claim, runs in renewed:
        held.announced = held.announced or (runs and held.claim is claim)
    if answer is None:
        # Replaced by one that speaks v0 only, which does not renew the leases that workers wait for.
        for held, _, _ in renewed:
            if ledger.lapsed(held) and not held.begun:
                ledger.lose(held, Stopping.LEASE_LOST)
        ledger.notify()
        return
    ledger.shorten_pauses()
    ledger.ttl = answer.ttl
    for (held, claim, _), result in zip(renewed, answer.results, strict=True):
        if held.claim is not claim:
            continue  # it was claimed again meanwhile: this is about the lease before
        if result is not HeartbeatResult.OK:
            ledger.lose(held, _WHY[result], keeps_slots=claim.state_id in answer.to_release)
        elif answer.ttl is None:
            held.lease_until = math.inf
        else:
            held.lease_until = ledger.now() - age() + answer.ttl
    ledger.release_overdue(options.workers)
    ledger.notify()  # for workers that wait to learn whether a lease was renewed
    if "register" in answer.commands:
        link.register_again()
    if "drain" in answer.commands and not stop.requested:
        log.warning("the state manager asks this runtime to drain")
        stop.request(options.shutdown_grace, DRAIN_COMMAND)
    if "drained" in answer.commands and not stop.requested:
        log.info("nothing needs the version of this runtime any more: it stops")
        stop.request(options.shutdown_grace, "nothing needs its version any more")


@dataclass(slots=True, kw_only=True)
class HeartbeatSender:
    """Sends heartbeats, in the loop that calls ``run``.

    Args:
        runtime_link: Tells whether the state manager has leases; nothing is sent through it.
        link: The link to send through.
        ledger: Only read.
        deliver: Takes each answered heartbeat to the runtime's loop, and handles it there.
        clock: In seconds. Read in the runtime's loop, too.
    """

    runtime_link: Link
    link: Link
    ledger: Ledger
    deliver: Deliver
    clock: Callable[[], float]
    loop_lag: Callable[[], float] = float
    max_interval: float = DEFAULT_TTL
    options: Options
    phase: Callable[[], Phase]
    tasks: TaskView | None
    record: StopRecord
    _ending: bool = field(default=False, init=False)
    _scope: trio.CancelScope = field(default_factory=lambda: trio.CancelScope(shield=True), init=False)
    _answered: bool = field(default=False, init=False)
    _key_refused: bool = field(default=False, init=False)
    _hung: bool = field(default=False, init=False)
    _last_ttl: float | None = field(default=None, init=False)
    _task_tree: str | None = field(default=None, init=False)
    _queue: CheckpointQueue = field(default_factory=CheckpointQueue, init=False)
    _outage: Outage = field(default_factory=lambda: Outage(log, "the heartbeat"), init=False)

    async def run(self) -> None:
        """Send heartbeats until ``end`` is called, then the last one.

        Cancellation:
            None: a request is not interrupted, and ``end`` sets a deadline for it.
        """
        self.ledger.heartbeat_due.attach()
        with self._scope:
            while not self._ending:
                pause = LAG_CHECK_INTERVAL if self._loop_hangs() else await self._send()
                with trio.move_on_after(pause):
                    # Nothing is urgent enough to ask again at once with a key that was refused.
                    if self._key_refused:
                        await trio.sleep_forever()
                    await self._until_due()
            if self._answered and self.runtime_link.is_native:
                stopped = self._request(Counter())
                stopped.phase = Phase.STOPPED.value
                with suppress(ManagerError):
                    await self.link.heartbeat(stopped, (), timeout=deadlines.LAST_HEARTBEAT)
                    return
        if self.runtime_link.is_native and (self._answered or self._outage.failures):
            log.warning(
                "the state manager did not confirm that this runtime has stopped, so it may show it as "
                "vanished: the last heartbeat was not answered"
            )

    def end(self) -> None:
        """Come to an end; at once if the state manager did not answer the last time. In this loop."""
        self._ending = True
        self._scope.deadline = trio.current_time() + (deadlines.LAST_HEARTBEAT if self._answered else 0.0)
        self.ledger.heartbeat_due.set()

    async def _until_due(self) -> None:
        """Wait until a heartbeat is to be sent at once, or brings new checkpoints."""
        while self.options.with_checkpoints:
            with trio.move_on_at(self._queue.due_at):
                await self.ledger.heartbeat_due.wait()
                return
            if self.runtime_link.is_native and any(
                each.unconfirmed for held in self.ledger.leased() if (each := held.checkpoint_to_store)
            ):
                return
            self._queue.postpone()
        await self.ledger.heartbeat_due.wait()

    @property
    def _interval(self) -> float:
        # The ttl of the last answer counts already: the runtime's loop may be blocked, and enter it late.
        ttl = min((ttl for ttl in (self._last_ttl, self.ledger.ttl) if ttl is not None), default=DEFAULT_TTL)
        return min(self.max_interval, ttl / HEARTBEATS_PER_TTL)

    def _loop_hangs(self) -> bool:
        """Whether the runtime's loop is blocked for so long that its leases should end; log any change."""
        lag = self.loop_lag()
        hangs = lag > MAX_LAG
        if hangs and not self._hung:
            log.error(
                "the event loop has been blocked for %s: no more heartbeats are sent, so the leases of "
                "this runtime end and its states run elsewhere; see which node blocks it, or restart it",
                format_duration(lag),
            )
        elif self._hung and not hangs:
            log.warning("the event loop runs again: heartbeats are sent again")
        self._hung = hangs
        return hangs

    async def _send(self) -> float:
        """Send one heartbeat and return how long to pause."""
        interval = self._interval
        # With its claim as it is now: a state that is claimed again gets another one, in the other loop.
        # The stage is read once, too, so that the three counts add up.
        leased = [(held, held.claim, held.stage) for held in self.ledger.leased()]
        leased = [(held, claim, stage) for held, claim, stage in leased if claim.token is not None]
        request = self._request(Counter(stage for _, _, stage in leased))
        request.tasks, self._task_tree = self._task_tree, None
        # A node that is stuck runs on, although its state has ended.
        renewed = [(held, claim, stage in (Stage.RUNNING, Stage.STUCK)) for held, claim, stage in leased]
        stores = self.options.with_checkpoints and self.runtime_link.is_native
        checkpoints = self._queue.take(held for held, _, _ in renewed) if stores else {}
        set_at = {held: each.set_at for held in checkpoints if (each := held.checkpoint)}
        states = [_state(held, claim, runs, checkpoints.get(held)) for held, claim, runs in renewed]
        sent = self.clock()
        timeout = min(max(interval / 2, MIN_TIMEOUT), MAX_TIMEOUT)
        try:
            leases = self.runtime_link.is_native
            answer = await self.link.heartbeat(request, states, timeout=timeout) if leases else None
        except ManagerError as error:
            self._task_tree = request.tasks
            refused = self._key_refused = isinstance(error, KeyRefused)
            pause = Backoff(interval / 40, interval if refused else interval / 4).pause(self._outage.failures)
            if isinstance(error, ManagerUnavailable) and error.retry_after is not None:
                pause = min(max(pause, error.retry_after), interval)
            self._answered = False
            if checkpoints:
                self._queue.note_failure()
            self._outage.failed(error, pause, repeat_every=REPEAT_EVERY if refused else None)
            return pause
        self._outage.worked()
        self._key_refused = False
        if request.stop is not None and request.stop.exit_code is not None:
            self.record.is_told.set()
        is_first = answer is not None and not self._answered
        if answer is not None:
            self._answered = True
            self._last_ttl = answer.ttl
        if checkpoints:
            self._queue.note_success()
        stored = () if answer is None else answer.checkpoints
        for (held, claim, _), number in zip_longest(renewed, stored):
            if (checkpoint := held.checkpoint) is None:
                continue
            if not number or held not in set_at:
                checkpoint.wake()  # it may be known by now that none are stored
                continue
            checkpoint.confirm(number, set_at[held])
            if events := self.ledger.events:
                age = checkpoint.now() - set_at[held]
                events.emit(CheckpointStored(claim.node_name, claim.state_id, age))
        self.deliver(renewed, answer, lambda: self.clock() - sent)
        shows_tasks = answer is not None and "tasks" in answer.commands and request.tasks is None
        if shows_tasks and self.tasks is not None:
            self._task_tree = await self.tasks.take()
            return 0.0  # at once: an operator waits for it
        if self._queue and any(stored):
            return 0.0
        pause = self._interval * random.uniform(1 - JITTER, 1)
        return min(pause, SECOND_AFTER) if is_first else pause

    def _request(self, stages: Counter[Stage]) -> HeartbeatRequest:
        return HeartbeatRequest(
            worker_id=self.options.worker_id,
            runtime=self.options.name,
            version=self.options.version,
            until_drained=self.options.until_drained,
            phase=self.phase().value,
            busy=stages[Stage.RUNNING],
            buffered=stages[Stage.BUFFERED],
            reporting=stages[Stage.DONE],
            workers=self.options.workers,
            shows_tasks=self.tasks is not None,
            nodes={node.name: node.fields[:MAX_FIELDS] for node in self.options.declarations},
            registered=dict(self.options.digests),
            registered_ms=to_ms(self.runtime_link.registered_for),
            stop=self.record.report(),
        )


def _state(held: HeldClaim, claim: Claim, runs: bool, checkpoint: CheckpointText | None) -> HeartbeatState:
    held.sent_unbegun = runs  # before it is read whether execute has begun: ``Workers`` does it the other way
    last = held.progress if runs else None
    # As the outcome says it: this thread cannot read the clock by which the node ran.
    outcome = held.report if isinstance(held.report, Outcome) else None
    buffered = held.buffered if outcome is None else outcome.buffered
    return HeartbeatState(
        state_id=claim.state_id,
        token=claim.token or "",
        running=runs,
        buffered_ms=None if buffered is None else to_ms(buffered),
        ran_ms=None if outcome is None else to_ms(outcome.ran or 0.0),
        progress=None if last is None else HeartbeatProgress(fraction=last.fraction, text=last.text),
        checkpoint=None
        if checkpoint is None
        else Checkpoint(number=checkpoint.number, value=checkpoint.value),
    )
