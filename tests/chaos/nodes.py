"""The worker's file of the chaos tests: nodes of ``graph`` that enter every execution in the journal."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import trio
from pydantic import BaseModel

from exotrio import BaseNode, PruneSignal, ReQueueAfterSignal, Runtime
from exotrio._nodes.importing import is_worker_process
from tests.chaos.graph import BLOCKING, FAILING, FAN_OUT, LONG, NAMESPACE, PRUNING, REQUEUEING
from tests.chaos.journal import Journal, key_of


class Plan:
    """What the environment says of this worker."""

    def __init__(self) -> None:
        self.folder = Path(os.environ.get("CHAOS_FOLDER", "."))
        self.seconds = float(os.environ.get("CHAOS_SECONDS", "0.1"))
        self.long = float(os.environ.get("CHAOS_LONG", "0"))
        self.blocking = float(os.environ.get("CHAOS_BLOCKING", "0"))
        self.workers = int(os.environ.get("CHAOS_WORKERS", "4"))
        self.outbox = os.environ.get("CHAOS_OUTBOX")

    def first_time(self, key: str) -> bool:
        """Whether this is asked for ``key`` for the first time, in any process."""
        try:
            os.close(os.open(self.folder / "marks" / key.replace("/", "-"), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True


plan = Plan()
journal = Journal(plan.folder / "journal", os.getppid() if is_worker_process() else None)
if is_worker_process():
    plan.first_time(f"process/{os.getpid()}")  # for the search for those that outlive their runtime


@contextmanager
def entered(node: str, inputs: BaseModel) -> Iterator[str]:
    """Enter begin and end of the body in the journal; give the execution's id."""
    key = key_of(node, inputs.model_dump())
    execution = journal.begin(key)
    how = "done"
    try:
        yield execution
    except trio.Cancelled:
        how = "cancelled"
        raise
    except PruneSignal:
        how = "pruned"
        raise
    except ReQueueAfterSignal:
        how = "requeued"
        raise
    except BaseException:
        how = "errored"
        raise
    finally:
        journal.end(execution, key, how)


class OfRun(BaseModel):
    run: str


class OfItem(BaseModel):
    run: str
    index: str


class Seed(BaseNode):
    class Inputs(OfRun):
        pass

    class Outputs(BaseModel):
        run: str
        by: str

    async def execute(self) -> Outputs:
        with entered("seed", self.inputs) as by:
            await trio.sleep(plan.seconds)
        return self.Outputs(run=self.inputs.run, by=by)


class Fan(BaseNode):
    """Runs in a separate process."""

    runs_in = "process"

    class Inputs(OfRun):
        pass

    class Outputs(OfItem):
        by: str

    async def execute(self) -> list[Outputs]:
        run = self.inputs.run
        with entered("fan", self.inputs) as by:
            await trio.sleep(plan.seconds)
        return [self.Outputs(run=run, index=str(index), by=by) for index in range(FAN_OUT)]


class Step(BaseNode):
    class Inputs(OfItem):
        pass

    class Outputs(OfItem):
        by: str

    class Secrets(BaseModel):
        CANARY: str

    async def execute(self) -> Outputs:
        run, index = self.inputs.run, self.inputs.index
        with entered("step", self.inputs) as by:
            if index == FAILING and int(run) % 3 == 0 and plan.first_time(f"{run}/step/{index}"):
                raise RuntimeError(f"the service does not accept {self.secrets.CANARY}, try again")
            if plan.long and index == LONG and int(run) % 4 == 0:
                await trio.sleep(plan.long)
            elif plan.blocking and index == BLOCKING and int(run) % 8 == 1:
                time.sleep(plan.blocking)  # noqa: ASYNC251 - such nodes exist, and must keep their leases
            else:
                await trio.sleep(plan.seconds)
        return self.Outputs(run=run, index=index, by=by)


class Note(BaseNode):
    """A plain function, in a thread."""

    class Inputs(OfItem):
        pass

    class Outputs(OfItem):
        by: str

    def execute(self) -> Outputs:
        run, index = self.inputs.run, self.inputs.index
        with entered("note", self.inputs) as by:
            time.sleep(plan.seconds)
            if index == PRUNING:
                raise PruneSignal({"by": by})
            if index == REQUEUEING and plan.first_time(f"{run}/note/{index}"):
                raise ReQueueAfterSignal(timedelta(milliseconds=300))
        return self.Outputs(run=run, index=index, by=by)


class Join(BaseNode):
    class Inputs(OfRun):
        indexes: str

    class Outputs(OfRun):
        by: str

    async def execute(self) -> Outputs:
        with entered("join", self.inputs) as by:
            indexes = json.loads(self.inputs.indexes)
            if indexes != [str(index) for index in range(FAN_OUT)]:
                raise ValueError(f"united before all ten, or not in order: {indexes}")
            await trio.sleep(plan.seconds)
        return self.Outputs(run=self.inputs.run, by=by)


NODES = [Seed, Fan, Step, Note, Join]
OUTBOX: dict[str, Any] = {} if plan.outbox is None else {"outbox": plan.outbox}
runtime = Runtime(NAMESPACE, "chaos", NODES, workers=plan.workers, poll_interval=0.5, **OUTBOX)
