"""What runs in a child of ``worker --processes``: the Runtime, which the parent drains by an order."""

from __future__ import annotations

import trio

from exotrio.cli.load import load_in_child
from exotrio.cli.parent_command import ParentCommand
from exotrio.cli.processes.child import Loaded, Report, Tasks
from exotrio.monitoring import Health, RuntimeMetrics


def work(
    target: str,
    *,
    number: int,
    count: int,
    descriptor: int,
    grace: float | None,
    observed: bool,
    tasks: bool,
) -> int:
    """Run the Runtime of a file until it is ordered to end; return the exit code.

    Args:
        target: The file or module.
        number: Number of this process, from 1.
        count: How many processes there are.
        descriptor: Number of the socket to the parent.
        grace: Seconds for running nodes, instead of those of the Runtime.
        observed: Whether the parent serves health and metrics.
        tasks: Whether the runtime shows its task tree.

    Raises:
        ModuleInvalid, ConfigurationError, ManagerError, DatabaseBusy: see ``load`` and ``Runtime.start``.
    """
    watched: list[tuple[Health, RuntimeMetrics]] = []

    def answer(kind: type) -> None:
        # In the thread that reads the messages of the parent, so that nodes cannot delay the answer.
        if kind is Report:
            report = Report(alive="", ready="it is being loaded", metrics=[])
            for health, own in watched:
                report = Report(health.alive(), health.ready(), list(own.registry.collect()))
            parent.send(report)
            return
        text = "the runtime does not run"
        if parent.runtime is not None:
            try:
                text = trio.run(parent.runtime.tasks)
            except OSError as error:  # nodes have used up the file descriptors, of which a loop needs some
                text = f"the task tree could not be taken: {error}"
        parent.send(Tasks(text))

    parent = ParentCommand(descriptor, "the parent process", answer)
    parent.follow_orders()
    runtime = load_in_child(target).runtime()
    runtime.adjust(process=number, shutdown_grace=grace)
    if tasks:
        runtime.show_tasks()
    if observed:
        watched.append((Health(runtime), RuntimeMetrics(runtime)))
    left: list[int] = []
    if runtime.outbox is not None and number == 1:
        # Here, since it imports sqlite3, which most workers do not need.
        from exotrio.cli.processes.outboxes import left_by_absent

        left = left_by_absent(runtime.outbox, count)
    # As a float: of a subclass, the parent would load the user's code.
    grace = float(runtime.shutdown_grace)
    parent.send(Loaded(worker_id=runtime.worker_id, grace=grace, left=left))
    try:
        return parent.run(runtime)
    finally:
        answer(Report)  # the last values of its counters
