"""What runs in a child of ``worker --processes``: the Runtime, on the orders of the parent."""

from __future__ import annotations

from dataclasses import dataclass

import trio

from exotrio._runtime.entry import run_blocking
from exotrio._runtime.lifecycle import Phase
from exotrio._runtime.runtime import Runtime
from exotrio.cli.exit_codes import ABANDONED, bare_errors
from exotrio.cli.load import load
from exotrio.cli.parent_process import ParentProcess
from exotrio.cli.processes.protocol import REPORT, Loaded, Registered, Report, Tasks, encode
from exotrio.cli.processes.totals import families_of
from exotrio.monitoring import Health, RuntimeMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Which process this is, and for whom.

    Attributes:
        number: From 1.
        count: Of all processes.
        descriptor: Number of the socket to the parent.
    """

    number: int
    count: int
    descriptor: int


def work(target: str, assignment: Assignment, *, grace: float | None, observed: bool, tasks: bool) -> int:
    """Run the Runtime of a file until it is ordered to end; return the exit code.

    Args:
        target: The file or module.
        assignment: Which process this is.
        grace: Seconds for running nodes, instead of those of the Runtime.
        observed: Whether the parent serves health and metrics.
        tasks: Whether it shows the task tree.

    Raises:
        ModuleInvalid, ConfigurationError, ManagerError, DatabaseBusy: see ``load`` and ``Runtime.start``.
    """
    child = _Child(assignment)
    child.parent.follow_orders()
    runtime = load(target).runtime()
    runtime.adjust(process=assignment.number, shutdown_grace=grace)
    if tasks:
        runtime.show_tasks()
    if observed:
        child.health, child.metrics = Health(runtime), RuntimeMetrics(runtime)
    child.send_loaded(runtime)
    child.parent.runtime = runtime
    try:
        return run_blocking(lambda: _run(runtime, child), lambda grace, why: runtime.stop(grace, why=why))
    finally:
        child.answer(REPORT)  # the last values of its counters


class _Child:
    """This process, as its parent sees it."""

    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self.parent = ParentProcess(assignment.descriptor, "the parent process", self.answer)
        self.health: Health | None = None
        self.metrics: RuntimeMetrics | None = None

    def send_loaded(self, runtime: Runtime) -> None:
        left: list[int] = []
        if runtime.outbox is not None and self._assignment.number == 1:
            # Here, since it imports sqlite3, which most workers do not need.
            from exotrio.cli.processes.outboxes import left_by_absent

            left = left_by_absent(runtime.outbox, self._assignment.count)
        loaded = Loaded(worker_id=runtime.worker_id, grace=runtime.shutdown_grace, left=left)
        self.parent.send(encode(loaded))

    def answer(self, question: str) -> None:
        """Answer the parent. In the thread that listens to it, so that nodes cannot keep it waiting."""
        if question == REPORT:
            self.parent.send(encode(self._report()))
        elif self.parent.runtime is not None:
            self.parent.send(encode(Tasks(trio.run(self.parent.runtime.tasks))))

    def _report(self) -> Report:
        if self.health is None or self.metrics is None:
            return Report(alive="", ready="it is being loaded", families=[])
        return Report(
            alive=self.health.alive(), ready=self.health.ready(), families=families_of(self.metrics.registry)
        )


async def _run(runtime: Runtime, child: _Child) -> int:
    code = ABANDONED

    async def run(task_status: trio.TaskStatus[Runtime]) -> None:
        nonlocal code
        code = (await runtime.run(task_status=task_status)).exit_code

    with bare_errors():
        async with trio.open_nursery() as nursery:
            await nursery.start(run)
            if runtime.phase is Phase.RUNNING:
                child.parent.send(encode(Registered()))
    return code
