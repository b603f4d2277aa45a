"""The worker's file of the chaos tests: nodes of ``graph`` that enter every execution in the journal."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import trio
from pydantic import BaseModel

from exotrio import BaseNode, HandOver, PruneSignal, ReQueueAfterSignal, Runtime
from tests.chaos import user_nodes
from tests.chaos.callers import CHILDREN
from tests.chaos.graph import FAILING, FAN_OUT, LONG, MAX_NOTES, NAMESPACE, PRUNING, REQUEUEING, blocks
from tests.chaos.journal import Reading, key_of
from tests.chaos.work import entered_in, journal_at, plan
from tests.support.processes import is_running

journal = journal_at("journal")


def entered(node: str, inputs: BaseModel) -> AbstractContextManager[tuple[str, str]]:
    """Enter begin and end of the body in the journal; give the ids of the execution and of the work."""
    return entered_in(journal, key_of(node, inputs.model_dump()))


class OfRun(BaseModel):
    run: str


class OfItem(BaseModel):
    run: str
    index: str


class Checkpoint(BaseModel):
    """Whose work it is, and how many parts of it are done."""

    owner: str = ""
    done: int = 0


PARTS = 3
STORED = 2
"""After so many parts a node waits until its checkpoint is on disk."""
MEETINGS = 8
"""In which notes wait for one another."""
MAX_MEETING = 5.0
"""Seconds. A user may reduce the limit, or pause the node, for as long."""


class InParts(BaseNode):
    """A node whose work has parts. It sets a checkpoint after each, and hands its state over between two."""

    Checkpoint = Checkpoint

    async def do_parts(self, by: str, key: str, seconds: float) -> None:
        for part in self._left(by, key):
            await trio.sleep(seconds / PARTS)
            if part == STORED:
                await self.save_checkpoint(Checkpoint(owner=key, done=part))
                journal.store(by, key, part)
            self._set(by, key, part)

    def do_parts_sync(self, by: str, key: str, seconds: float) -> None:
        for part in self._left(by, key):
            time.sleep(seconds / PARTS)
            if part == STORED:
                self.save_checkpoint_sync(Checkpoint(owner=key, done=part))
                journal.store(by, key, part)
            self._set(by, key, part)

    def _left(self, by: str, key: str) -> Iterator[int]:
        """Yield for each part that is left the number of parts that are done after it."""
        done = self.checkpoint.done
        journal.receive(by, key, self.checkpoint.owner, done)
        for part in range(done + 1, PARTS + 1):
            yield part
            if self.stopping and part < PARTS:
                raise HandOver

    def _set(self, by: str, key: str, done: int) -> None:
        self.checkpoint = Checkpoint(owner=key, done=done)
        journal.set(by, key, done)


class Seed(BaseNode):
    class Inputs(OfRun):
        pass

    class Outputs(BaseModel):
        run: str
        by: str

    async def execute(self) -> Outputs:
        with entered("seed", self.inputs) as (by, _):
            await trio.sleep(plan.seconds)
        return self.Outputs(run=self.inputs.run, by=by)


class Fan(InParts):
    """Runs in a separate process."""

    runs_in = "process"

    class Inputs(OfRun):
        pass

    class Outputs(OfItem):
        by: str

    async def execute(self) -> list[Outputs]:
        run = self.inputs.run
        with entered("fan", self.inputs) as (by, key):
            await self.do_parts(by, key, plan.seconds)
        return [self.Outputs(run=run, index=str(index), by=by) for index in range(FAN_OUT)]


class Step(InParts):
    class Inputs(OfItem):
        pass

    class Outputs(OfItem):
        by: str

    class Secrets(BaseModel):
        CANARY: str

    async def execute(self) -> Outputs:
        run, index = self.inputs.run, self.inputs.index
        with entered("step", self.inputs) as (by, key):
            if plan.blocking and blocks(run, index):
                time.sleep(plan.blocking)  # noqa: ASYNC251 - such nodes exist, and must keep their leases
            is_long = plan.long and index == LONG and int(run) % 4 == 0
            await self.do_parts(by, key, plan.long if is_long else plan.seconds)
            if index == FAILING and int(run) % 3 == 0 and plan.first_time(f"{run}/step/{index}"):
                raise RuntimeError(f"the service does not accept {self.secrets.CANARY}, try again")
        return self.Outputs(run=run, index=index, by=by)


class Note(InParts):
    """A plain function, in a thread."""

    class Inputs(OfItem):
        pass

    class Outputs(OfItem):
        by: str

    def execute(self) -> Outputs:
        run, index = self.inputs.run, self.inputs.index
        with entered("note", self.inputs) as (by, key):
            if plan.version:  # v0 has no limits
                self._meet()
            self.do_parts_sync(by, key, plan.seconds)
            if index == PRUNING:
                raise PruneSignal({"by": by})
            if index == REQUEUEING and plan.first_time(f"{run}/note/{index}"):
                raise ReQueueAfterSignal(timedelta(milliseconds=300))
        return self.Outputs(run=run, index=index, by=by)

    def _meet(self) -> None:
        """Wait until as many notes run at once as may, which they need not by chance on a busy machine.

        In the first meetings only; there are several, since faults may cut those that meet. Then they wait
        a moment more, in which one that is too many may come.
        """
        notes, before, end = Reading(plan.folder / "journal"), _meetings(), time.monotonic() + MAX_MEETING
        while _meetings() == before < MEETINGS and not self.stopping:
            notes.update()
            pids = [each.pid for each in notes.executions.values() if "/note/" in each.key and not each.end]
            if sum(map(is_running, pids)) >= MAX_NOTES or time.monotonic() > end:
                time.sleep(0.5)
                plan.first_time(f"met/{before}")
            time.sleep(0.02)


def _meetings() -> int:
    return sum(1 for _ in (plan.folder / "marks").glob("met-*"))


class Join(BaseNode):
    class Inputs(OfRun):
        indexes: str

    class Outputs(OfRun):
        by: str

    async def execute(self) -> Outputs:
        with entered("join", self.inputs) as (by, _):
            indexes = json.loads(self.inputs.indexes)
            if indexes != [str(index) for index in range(FAN_OUT)]:
                raise ValueError(f"united before all ten, or not in order: {indexes}")
            await trio.sleep(plan.seconds)
        return self.Outputs(run=self.inputs.run, by=by)


class Called(BaseNode):
    """Of ``callers``, as the next one: not in the journal."""

    class Inputs(BaseModel):
        number: str

    Outputs = Inputs

    async def execute(self) -> Inputs:
        await trio.sleep(plan.seconds)
        return self.Inputs(number=self.inputs.number)


class Call(BaseNode):
    class Outputs(BaseModel):
        sum: str

    async def execute(self) -> Outputs:
        children = [self.call("called", {"number": str(number)}) for number in range(CHILDREN)]
        total = sum(int(child.outputs()["number"]) for child in children)
        last = self.call("called", {"number": str(total)}, key="sum")
        return self.Outputs(sum=last.outputs()["number"])


NODES = [Seed, Fan, Step, Note, Join, Called, Call, *user_nodes.NODES]
OUTBOX: dict[str, Any] = {} if plan.outbox is None else {"outbox": plan.outbox}
runtime = Runtime(NAMESPACE, "chaos", NODES, workers=plan.workers, poll_interval=0.5, **OUTBOX)
