"""A run for each line of a file: what ``trigger --each`` does.

The file is read twice, since all lines are checked before the first run is started; a pipe is copied.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import IO, Annotated, Any, Self
from uuid import UUID, uuid4, uuid5

import click
import trio
from pydantic import Field, PlainValidator, ValidationError, model_validator
from pydantic_core import from_json

from exotrio._util.words import listed, plural, readable_errors
from exotrio._wire.body import Uuid
from exotrio._wire.v0 import RunKey
from exotrio._wire.vocabulary import to_ms
from exotrio.cli.connection import Connection
from exotrio.cli.exit_codes import INTERRUPTED, SUCCESS
from exotrio.cli.lookup import if_native
from exotrio.cli.program import run_until_stopped
from exotrio.cli.runs.remote import Check, find_valid_graph
from exotrio.cli.terminal.output import print_json, print_message, print_text
from exotrio.cli.values import MAX_BYTES, STANDARD_INPUT, Unreadable, private_texts, shown, standard_input
from exotrio.client import NewRun, StateManager
from exotrio.errors import ConfigurationError, KeyRefused, ManagerError, ManagerUnavailable, RequestRefused
from exotrio.graph import Declaration

MAX_NAMED = 10
"""Lines that one error names, and problems of one line."""
IN_MEMORY = 16 * 1024 * 1024
"""Bytes of a pipe that are kept in memory; if there are more, all are copied into a temporary file."""
_BOM = b"\xef\xbb\xbf"
_INDEX = re.compile(r"^runs\[(\d+)\]", re.MULTILINE)


_Texts = Annotated[dict[str, str], PlainValidator(private_texts)]


class _Line(Declaration):
    """The run that a line describes, as in ``NewRun``."""

    inputs: _Texts = Field(default_factory=dict)
    store: _Texts = Field(default_factory=dict)
    key: RunKey | None = None
    run_id: Uuid | None = None

    @model_validator(mode="after")
    def _is_named_once(self) -> Self:
        if self.key is not None and self.run_id is not None:
            raise ValueError("it has a key and a run_id; give one of them")
        return self


@dataclass(kw_only=True, eq=False)
class RunsOfFile:
    """The runs that the lines of a file describe.

    Attributes:
        file: The file, or ``-`` for standard input.
        inputs, store: Defaults for the lines.
        start_delay: Seconds.
        batch: Ids of runs are made from it and the number of their line, unless the line has an id or a key.
            None: a new one.
        in_order: What ``NewRun`` has about the order of states.
    """

    connection: Connection
    graph: str
    file: str
    inputs: Mapping[str, str]
    store: Mapping[str, str]
    start_delay: float
    batch: UUID | None
    in_order: Mapping[str, Any] = field(default_factory=dict)
    _is_native: bool = field(default=True, init=False)
    _total: int = field(default=0, init=False)
    _existing: int = field(default=0, init=False)
    _started: int | None = field(default=None, init=False)
    """None: the first request was not sent yet."""
    _scope: trio.CancelScope = field(default_factory=trio.CancelScope, init=False)

    def __post_init__(self) -> None:
        self._batch = self.batch or uuid4()

    def start(self) -> int:
        """Start the runs, print their ids, and return the exit code."""
        with _opened(self.file) as self._lines:
            return run_until_stopped(
                self._main, lambda grace, why: self._scope.cancel(), exiting=lambda: "runs continue"
            )

    async def _main(self) -> int:
        run_ids: list[str] | None = None
        with self.connection.readable_errors():
            async with self.connection.open() as manager:
                with self._scope:
                    check = await find_valid_graph(manager, self.graph)
                    await self._require_batches(manager)
                    await self._check(check)
                    run_ids = await self._start(manager)
        if run_ids is None or self._scope.cancelled_caught:
            # The signal came before the answer to the last request, some of whose runs may have been started.
            how_far = "no run was started"
            if self._started is not None:
                started = f"{self._started:,} of {plural(self._total, 'run')} were started"
                how_far = f"{started}, and more may have been\n{self._how_to_continue()}"
            print_message(f"interrupted: {how_far}")
            return INTERRUPTED
        if not run_ids:
            print_message(f"{shown(self.file)} has no lines: no run was started")
        if self._existing:
            print_message(
                f"not started again: {self._existing:,} of {plural(self._total, 'run')} existed already"
            )
        if self.connection.form == "json":
            print_json({"graph": self.graph, "run_ids": run_ids})
        elif run_ids:
            print_text("\n".join(run_ids))
        return SUCCESS

    async def _require_batches(self, manager: StateManager) -> None:
        """Find out whether the state manager lets clients choose the ids of runs."""
        try:
            self._is_native = await if_native(manager.find_runs(limit=1)) is not None
        except KeyRefused as refusal:
            if refusal.status != HTTPStatus.FORBIDDEN:
                raise
            self._is_native = True  # only our server has keys that may start runs and not read them
        if not self._is_native and self.batch is not None:
            raise RequestRefused(
                "--batch cannot be used: the state manager speaks only v0, and chooses the run ids",
                fix="see `runs ls` for the runs that were started, and give the other lines",
            )

    async def _check(self, check: Check) -> None:
        """Check all lines before the first run is started."""
        problems: list[str] = []
        first: dict[tuple[str, str], int] = {}
        for number, line in self._numbered():
            self._total = number
            if number % 1_000 == 0:
                await trio.lowlevel.checkpoint()
            try:
                run = _parse(line)
                check({**self.inputs, **run.inputs}, {**self.store, **run.store})
                if run.key is not None and not self._is_native:
                    raise ValueError("it has a key, and the state manager speaks only v0, which has no keys")
                for name, value in (("run_id", run.run_id), ("key", run.key)):
                    if value is not None and first.setdefault((name, value), number) != number:
                        raise ValueError(f"its {name} is that of line {first[name, value]:,}, too")
            except (ValueError, ConfigurationError) as error:
                problems.append(f"line {number:,}: {'; '.join(str(error).splitlines())}")
                if len(problems) == MAX_NAMED:
                    break
        if problems:
            raise ConfigurationError(
                f"not every line of {shown(self.file)} is a run of graph {self.graph!r}",
                problems,
                fix="no run was started",
            )

    async def _start(self, manager: StateManager) -> list[str]:
        self._started = 0
        runs = (self._new_run(number, line) for number, line in self._numbered())
        try:
            return await manager.trigger_many(
                self.graph, runs, on_progress=self._progress, on_existing=self._note_existing
            )
        except ManagerError as error:
            error.what = _INDEX.sub(lambda match: f"line {int(match[1]) + 1:,}", error.what)
            if self._started or isinstance(error, ManagerUnavailable):
                error.fix = (
                    f"{error.fix}; {self._how_to_continue()}" if error.fix else self._how_to_continue()
                )
            raise

    def _progress(self, started: int) -> None:
        self._started = started

    def _note_existing(self, index: int, run_id: str) -> None:
        self._existing += 1

    def _how_to_continue(self) -> str:
        if not self._is_native:
            return "it speaks only v0: see `runs ls` for the runs that were started, and give the other lines"
        return f"to continue, repeat the command with --batch {self._batch}: no run is started twice"

    def _numbered(self) -> Iterator[tuple[int, bytes]]:
        self._lines.seek(0)
        number = 0
        while line := self._lines.readline(MAX_BYTES + 1):
            number += 1
            yield number, line.removeprefix(_BOM) if number == 1 else line

    def _new_run(self, number: int, line: bytes) -> NewRun:
        run = _parse(line)
        return NewRun(
            inputs={**self.inputs, **run.inputs},
            store={**self.store, **run.store},
            start_delay=to_ms(self.start_delay),
            run_id=run.run_id if run.run_id or run.key else str(uuid5(self._batch, str(number))),
            key=run.key,
            **self.in_order,
        )


def _parse(line: bytes) -> _Line:
    """Return the run of a line; raise ValueError, whose text quotes nothing that could be a secret."""
    if len(line) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES} bytes")
    try:
        return _Line.model_validate(from_json(line))
    except ValidationError as error:
        raise ValueError(listed(readable_errors(error), MAX_NAMED, "; ")) from None
    except ValueError:
        raise ValueError("it is not JSON" if line.strip() else "it is empty") from None


@contextmanager
def _opened(file: str) -> Iterator[IO[bytes]]:
    """Open a file so that it can be read twice."""
    with ExitStack() as stack:
        try:
            source: IO[bytes]
            if file == STANDARD_INPUT:
                source = standard_input()
            else:
                source = stack.enter_context(Path(file).open("rb"))
            if file == STANDARD_INPUT or not source.seekable():
                copy = stack.enter_context(tempfile.SpooledTemporaryFile(IN_MEMORY))
                shutil.copyfileobj(source, copy)
                source = copy
        except Unreadable as error:
            raise click.UsageError(f"{shown(file)} {error}") from error
        except (OSError, ValueError) as error:  # ValueError: a name that cannot be a file's
            reason = getattr(error, "strerror", None) or error
            raise click.UsageError(f"--each: {file!r} cannot be read: {reason}") from error
        yield source
