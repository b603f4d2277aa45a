"""One call of the command ``rehearse``."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from exotrio._util.words import plural
from exotrio.cli.dev.announcer import FirstRun
from exotrio.cli.exit_codes import FAILED, INTERRUPTED, SUCCESS, bare_errors
from exotrio.cli.program import command_line
from exotrio.cli.rehearsal.lane import FileFailed, Lane
from exotrio.cli.rehearsal.report import Report
from exotrio.cli.rehearsal.trial import Plan, Trial
from exotrio.cli.terminal.output import print_as, print_message
from exotrio.errors import ConfigurationError

LANES = 4
MAX_SEED = 1_000_000


@dataclass(kw_only=True, eq=False, repr=False)
class Session:
    """One call of ``rehearse``.

    Attributes:
        successor: The code that takes over; None for that of ``target``.
        times: Number of trials.
        only: The number of the only trial to make; None for all.
        seed: None: a new one.
        arguments: Those of the command that a replay needs, too.
        form: ``table`` or ``json``.
    """

    target: str
    successor: str | None
    first_run: FirstRun
    times: int
    only: int | None
    seed: int | None
    form: str
    arguments: list[str]
    verbose: int
    _lanes: list[Lane] = field(default_factory=list, init=False)
    _scope: trio.CancelScope = field(default_factory=trio.CancelScope, init=False)
    _trials: list[Trial] = field(default_factory=list, init=False)
    _folder: TemporaryDirectory[str] | None = field(default=None, init=False)

    def stop(self, grace: float | None, why: str) -> None:
        """Called at a first signal with None, at a second one with 0."""
        self._scope.cancel()

    def exiting(self) -> str:
        """Called from the signal handler just before this process exits: no process may outlive it."""
        for lane in self._lanes:
            lane.kill()
        if self._folder is not None:
            self._folder.cleanup()
        return "nodes are cut off"

    async def main(self) -> int:
        """Make all trials and print the report; return the exit code."""
        report: Report | None = None
        try:
            self._folder = TemporaryDirectory(prefix="exotrio-rehearse-", ignore_cleanup_errors=True)
        except OSError as error:
            raise ConfigurationError(
                f"no temporary folder can be made: {error.strerror}",
                fix="name a folder that can be written by the variable TMPDIR",
            ) from error
        try:
            with bare_errors(), self._folder as folder, self._scope:
                report = await self._rehearse(Path(folder))
        except FileFailed as error:
            print_message(f"error: {error.what}")
            return error.code
        if report is None:
            print_message("interrupted; nothing is kept")
            return INTERRUPTED
        print_as(self.form, report.body(), report.lines())
        return FAILED if report.failed else SUCCESS

    async def _rehearse(self, folder: Path) -> Report:
        seed = random.randrange(MAX_SEED) if self.seed is None else self.seed
        numbers = range(1, self.times + 1) if self.only is None else [self.only]
        plans = [Plan.of(seed, number) for number in numbers]
        async with AsyncExitStack() as stack:
            first = await self._open_lane(1, folder, stack)
            first.usual, first.seconds, changes = await first.run_usual()
            if any(not change.field for change in changes):
                plans = []  # runs would wait for the nodes that are missing
            then = ", after which the new code takes over" if self.successor else ""
            print_message(
                f"without a fault: {first.usual.ending.status.value} in {first.seconds:.1f} s; now"
                f" {plural(len(plans), 'run')} with a signal at a random moment{then} (seed {seed})"
            )
            send, receive = trio.open_memory_channel[Plan](len(plans))
            async with send:
                for plan in plans:
                    send.send_nowait(plan)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._work, first, receive)
                for number in range(2, min(LANES, len(plans)) + 1):
                    nursery.start_soon(self._open_and_work, number, folder, first, receive)
        successor = ["--successor", self.successor] if self.successor else []
        return Report(
            graph=first.graph,
            seed=seed,
            usual=first.usual,
            seconds=first.seconds,
            changes=changes if self.successor else None,
            trials=sorted(self._trials, key=lambda trial: trial.plan.number),
            bound=first.max_exit,
            replay=command_line(["rehearse", self.target, *successor, *self.arguments, "--seed", str(seed)]),
        )

    async def _open_lane(self, number: int, folder: Path, stack: AsyncExitStack) -> Lane:
        lane = Lane(
            number=number,
            target=self.target,
            successor=self.successor or self.target,
            first_run=self.first_run,
            arguments=self.arguments,
            folder=folder,
            verbose=self.verbose,
        )
        self._lanes.append(lane)
        await stack.enter_async_context(lane.opened())
        return lane

    async def _open_and_work(
        self, number: int, folder: Path, first: Lane, plans: trio.MemoryReceiveChannel[Plan]
    ) -> None:
        async with AsyncExitStack() as stack:
            lane = await self._open_lane(number, folder, stack)
            lane.usual, lane.seconds, lane.new_seconds = first.usual, first.seconds, first.new_seconds
            await self._work(lane, plans)

    async def _work(self, lane: Lane, plans: trio.MemoryReceiveChannel[Plan]) -> None:
        async for plan in plans:
            trial = await lane.make(plan)
            self._trials.append(trial)
            for problem in trial.problems:
                print_message(f"{plan.number}: {plan.fault} after {trial.at:.2f} s: {problem}")
