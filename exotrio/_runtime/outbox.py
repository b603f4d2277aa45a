"""A file that keeps finished outcomes until the state manager has them, even after a ``kill -9``.

The steps of an outcome, and what is lost if the process dies after each::

    the node returns         the outcome. The state is run again once its lease ends; on plain v0 never
      v  waits for the sync of the outcomes before it
    written and synced       nothing from here on: the next process sends it
      v                      (a requeue without a lease token, which nothing guards, is marked and synced)
    sent                     nothing: the next process sends it again, which v0 and native allow. But a
      v                      requeue that is marked is not sent again; it is logged as unknown
    acknowledged             nothing
      v  waits for the next sync
    removed

Outcomes that finish while a sync runs share the next one. Syncs run in one thread, which starts with the
outbox: a node may use up all threads later. The reporter gets no outcome before its sync
is done. If the file cannot be written (the disk is full), outcomes are sent without it: then only a crash
before they are delivered loses them. A requeue that is in the file and cannot be marked waits instead, since
a crash could repeat it. Such an outage is logged once, and once when it is over.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

import outcome
import trio

from exotrio._nodes.outcome import Outcome
from exotrio._runtime.held_claim import HeldClaim
from exotrio._runtime.ledger import Ledger
from exotrio._runtime.lifecycle import Ending
from exotrio._runtime.outbox_store import OutboxStore, WriteFailed
from exotrio._util.backoff import Outage
from exotrio._util.crossing import call_in_loop

T = TypeVar("T")

log = logging.getLogger("exotrio.outbox")

WITHOUT = "outcomes are sent without it, and a crash now would lose those that are not delivered yet"


async def open_outbox(path: Path, uri: str, namespace: str) -> Outbox:
    """Open the file of an outbox; see ``OutboxStore``.

    Raises:
        DatabaseBusy, ConfigurationError: it cannot be used.

    Cancellation:
        Leaves the opening to its thread, which closes the file again.
    """
    thread = _Thread()
    opened: list[OutboxStore] = []

    def close() -> None:
        for store in opened:
            store.close({}, ())

    try:
        await thread.call(lambda: opened.append(OutboxStore(path, uri, namespace)))
    except BaseException:
        thread.end(close)
        raise
    return Outbox(opened[0], thread)


class _Thread:
    """The only thread that uses the file. It calls one function after another."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        threading.Thread(target=self._run, name="exotrio outbox", daemon=True).start()

    async def call(self, function: Callable[[], T]) -> T:
        """Return what ``function`` returns in the thread.

        Cancellation:
            Leaves the call to the thread.
        """
        result: list[outcome.Outcome[T]] = []
        done = trio.Event()
        token = trio.lowlevel.current_trio_token()

        def call() -> None:
            result.append(outcome.capture(function))
            call_in_loop(token, done.set)

        self._calls.put(call)
        await done.wait()
        return result[0].unwrap()

    def end(self, last: Callable[[], object] = lambda: None) -> None:
        """End the thread after the calls so far, and then ``last``."""
        self._calls.put(last)
        self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()


@dataclass(eq=False, slots=True, kw_only=True)
class _Mark:
    """A request to note that entries are about to be sent, or that they were not."""

    entries: list[int]
    begun: bool
    done: trio.Event = field(default_factory=trio.Event)
    written: bool = False


class Outbox:
    """The outbox, in the runtime's loop."""

    def __init__(self, store: OutboxStore, thread: _Thread) -> None:
        self._store = store
        self._thread = thread
        self._entries: dict[HeldClaim, int] = {}
        self._new: list[HeldClaim] = []
        self._marks: list[_Mark] = []
        self._gone: list[int] = []
        self._wake = trio.Event()
        self._outage = Outage(log, f"writing the outbox {store.path}")

    def restore(self, ledger: Ledger) -> list[HeldClaim]:
        """Enter the outcomes of an earlier process into the ledger; return those to be sent now."""
        held: list[HeldClaim] = []
        for entry in self._store.left:
            known = ledger.restore(entry.claim, entry.outcome)
            self._entries[known] = entry.id
            if entry.begun and known.is_unrepeatable:
                log.error(
                    "%s: whether its %s arrived is unknown: an earlier process was sending it, and "
                    "re-enqueueing twice could run a finished state again",
                    known,
                    known.report_name,
                )
                self.forget(known)
                ledger.end(known, Ending.UNKNOWN)
            else:
                held.append(known)
        if held:
            log.info("%d outcomes of an earlier process are sent from %s", len(held), self._store.path)
        return held

    def must_mark(self, held: HeldClaim) -> bool:
        """Whether it has to be marked before it is sent."""
        return held.is_unrepeatable and held in self._entries

    def keeps(self, held: HeldClaim) -> bool:
        """Whether the next process sends it, if this one does not."""
        return held in self._entries and not (held.in_flight and held.is_unrepeatable)

    async def put(self, held: HeldClaim) -> None:
        """Write its outcome soon. Does not wait for that."""
        self._new.append(held)
        self._wake.set()

    def forget(self, held: HeldClaim) -> None:
        """Remove its outcome soon, if it is there: it is delivered, or never will be."""
        if (entry := self._entries.pop(held, None)) is not None:
            self._gone.append(entry)
            self._wake.set()

    async def write(self, deliver: Callable[[HeldClaim], None]) -> None:
        """Write all that is queued, with one sync each time. Never returns unless cancelled.

        ``deliver`` is called with each outcome once it is written, or cannot be.

        Cancellation:
            A sync that runs is left to its thread. The next process sends its outcomes, whether or not this
            one still counts them as kept.
        """
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            # Race: this may be cancelled before or after the thread writes. So marks and removals stay
            # queued until they are written; else they are written at the end. Writing them twice does no
            # harm.
            new, marks, gone = self._new, self._marks[:], self._gone[:]
            self._new = []
            # Those that are only to be released pass: their runs were cancelled before their nodes ended.
            reports = {held: held.report for held in new if isinstance(held.report, Outcome)}
            outcomes = [(held.claim, report) for held, report in reports.items()]
            try:
                ids = await self._thread.call(partial(self._store.write, outcomes, _begun(marks), gone))
            except WriteFailed as error:
                self._outage.failed(error, WITHOUT, level=logging.ERROR)
                self._marks = [mark for mark in self._marks if mark not in marks or not mark.begun]
            else:
                self._outage.worked()
                del self._marks[: len(marks)], self._gone[: len(gone)]
                for held, entry in zip(reports, ids, strict=True):
                    if entry is not None:
                        self._entries[held] = entry
                    log.debug("%s: its %s is in the outbox", held, held.report_name)
                for mark in marks:
                    mark.written = True
            for held in new:
                deliver(held)
            for mark in marks:
                mark.done.set()

    async def mark(self, batch: Sequence[HeldClaim]) -> bool:
        """Note that these are about to be sent and must not be sent twice. False if that fails.

        Cancellation:
            Takes the mark back: they were not sent.
        """
        mark = self._add_mark(batch, begun=True)
        try:
            await mark.done.wait()
        except trio.Cancelled:
            # Race: the mark may be written by now, but nothing was sent.
            self.unmark(batch)
            raise
        return mark.written

    def unmark(self, batch: Sequence[HeldClaim]) -> None:
        """Note soon that these were not sent after all."""
        self._add_mark(batch, begun=False)

    async def aclose(self) -> None:
        """Write all queued marks and removals, and close the file.

        Cancellation:
            Leaves that to the thread.
        """
        try:
            await self._thread.call(partial(self._store.close, _begun(self._marks), self._gone))
        finally:
            self._thread.end()

    def _add_mark(self, batch: Sequence[HeldClaim], *, begun: bool) -> _Mark:
        mark = _Mark(entries=[self._entries[held] for held in batch if held in self._entries], begun=begun)
        self._marks.append(mark)
        self._wake.set()
        return mark


def _begun(marks: Sequence[_Mark]) -> dict[int, bool]:
    """Return the entries of these marks, each as its last mark has it."""
    return {entry: mark.begun for mark in marks for entry in mark.entries}
