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
from exotrio.cli.rehearsal.trial import Plan, Result, Trial, unsteady_fields
from exotrio.cli.terminal.output import print_as, print_message
from exotrio.client import RunStatus
from exotrio.errors import ConfigurationError, ExotrioError

LANES = 4
MAX_SEED = 1_000_000


@dataclass(kw_only=True, eq=False, repr=False)
class Session:
    """One call of ``rehearse``.

    Attributes:
        times: Number of trials.
        only: The number of the only trial to make; None for all.
        seed: None: a new one.
        arguments: Those of the command that a replay needs, too.
        form: ``table`` or ``json``.
    """

    target: str
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
        return FAILED if report.broken else SUCCESS

    async def _rehearse(self, folder: Path) -> Report:
        seed = random.randrange(MAX_SEED) if self.seed is None else self.seed
        numbers = range(1, self.times + 1) if self.only is None else [self.only]
        plans = [Plan.of(seed, number) for number in numbers]
        async with AsyncExitStack() as stack:
            first = await self._open_lane(1, folder, stack)
            usual, unsteady = await self._usual(first)
            print_message(
                f"without a fault: {usual.status.value} in {usual.seconds:.1f} s; now"
                f" {plural(len(plans), 'run')} with a signal at a random moment (seed {seed})"
            )
            send, receive = trio.open_memory_channel[Plan](len(plans))
            async with send:
                for plan in plans:
                    send.send_nowait(plan)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._work, first, receive)
                for number in range(2, min(LANES, len(plans)) + 1):
                    nursery.start_soon(self._open_and_work, number, folder, usual, unsteady, receive)
            bound = first.max_exit
        return Report(
            graph=first.graph,
            seed=seed,
            usual=usual,
            unsteady=unsteady,
            trials=sorted(self._trials, key=lambda trial: trial.plan.number),
            bound=bound,
            replay=command_line(["rehearse", self.target, *self.arguments, "--seed", str(seed)]),
        )

    async def _open_lane(self, number: int, folder: Path, stack: AsyncExitStack) -> Lane:
        lane = Lane(
            number=number,
            target=self.target,
            first_run=self.first_run,
            folder=folder,
            verbose=self.verbose,
        )
        self._lanes.append(lane)
        await stack.enter_async_context(lane.opened())
        return lane

    async def _usual(self, lane: Lane) -> tuple[Result, frozenset[tuple[str, str]]]:
        """Run the graph twice without a fault; return the faster result, and what differs between them."""
        results = [await lane.run_once(), await lane.run_once()]
        usual, other = sorted(results, key=lambda result: result.seconds)
        for result in results:
            if result.status is not RunStatus.SUCCESS:
                raise ExotrioError(
                    f"without any fault, a run of graph {lane.graph!r} ends as {result.status.value}",
                    where=result.error,
                    fix="see why with: " + command_line(["run", self.target, *self.arguments]),
                )
        lane.usual, lane.unsteady = usual, unsteady_fields(usual, other)
        return usual, lane.unsteady

    async def _open_and_work(
        self,
        number: int,
        folder: Path,
        usual: Result,
        unsteady: frozenset[tuple[str, str]],
        plans: trio.MemoryReceiveChannel[Plan],
    ) -> None:
        async with AsyncExitStack() as stack:
            lane = await self._open_lane(number, folder, stack)
            lane.usual, lane.unsteady = usual, unsteady
            await self._work(lane, plans)

    async def _work(self, lane: Lane, plans: trio.MemoryReceiveChannel[Plan]) -> None:
        async for plan in plans:
            trial = await lane.make(plan)
            self._trials.append(trial)
            for problem in trial.problems:
                print_message(f"{plan.number}: {plan.fault} after {trial.at:.2f} s: {problem}")
