"""Many runs: in requests for up to a thousand on our server, one by one on any other."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import uuid4

import anyio

from exotrio._http.response import Answer, problems_in
from exotrio._util.json import NotJson, encode
from exotrio._util.words import plural
from exotrio._wire.native import TriggerManyReply
from exotrio._wire.vocabulary import MAX_BATCH
from exotrio.client import _graphs
from exotrio.client._calls import UNKNOWN_ROUTE, Calls
from exotrio.errors import ConfigurationError, ExotrioError, ManagerUnavailable, NotFound, RequestRefused

T = TypeVar("T")

MAX_BYTES = 1024 * 1024
"""Of a request, unless one run alone is larger: what a state manager accepts is larger for that."""
MAX_REQUESTS = 2
"""At once: one is read while the other is written. More gain nothing, and hold up what others write."""
MAX_SINGLE = 8
"""The same for requests that start one run: half the connections of a client, so that its other calls find
one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRun:
    """A run for ``trigger_many``, described as for ``trigger``.

    Args:
        inputs: Inputs of the graph's first node, in place of those in the graph.
        store: The run's store.
        start_delay: Milliseconds before the run starts.
        run_id: A UUID for the run: asking again with the same one starts no second run. A state manager that
            speaks only v0 gives it another. Defaults to None: a new one is made.
        key: As of ``trigger``; in place of a ``run_id``.
    """

    inputs: Mapping[str, str] = field(default_factory=dict)
    store: Mapping[str, str] = field(default_factory=dict)
    start_delay: int = 0
    run_id: str | None = None
    key: str | None = None


NewRuns = Iterable[NewRun | Mapping[str, str]] | AsyncIterable[NewRun | Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class _Entry:
    """A run that is to be started: its place in the list, its id or key, and its request."""

    index: int
    run_id: str | None
    key: str | None
    request: dict[str, Any]
    content: bytes


class ManyRuns:
    """The runs of one call.

    Attributes:
        ids: Those that are started, by place in the list.
        failure: What went wrong first. What is being sent then is still sent, so that it is known what
            became of it; nothing else is.
    """

    def __init__(
        self,
        calls: Calls,
        graph_name: str,
        on_progress: Callable[[int], None] | None,
        on_existing: Callable[[int, str], None] | None,
    ) -> None:
        self._calls = calls
        self._graph_name = graph_name
        self._on_progress = on_progress
        self._on_existing = on_existing
        self._single = anyio.Lock()
        self._reading: list[anyio.CancelScope] = []
        self._unknown = 0
        self.ids: dict[int, str] = {}
        self.failure: Exception | None = None

    async def start_all(self, runs: NewRuns) -> list[str]:
        """Start the runs, and return their ids in the order of the list."""
        with _graphs.trigger_span(self._calls, self._graph_name) as span:
            more = {} if span is None else {"trace": span.context}
            await self.each(_parts(runs, more), MAX_REQUESTS, self.start)
            if span is not None:
                span.add({"messaging.batch.message_count": len(self.ids)})
        if self.failure is not None:
            raise self.explained(self.failure)
        return [self.ids[index] for index in sorted(self.ids)]

    async def each(self, items: AsyncGenerator[T], at_once: int, do: Callable[[T], Awaitable[None]]) -> None:
        """Do something with each item, with so many at once, until something fails."""
        sender, receiver = anyio.create_memory_object_stream[T]()

        async def work() -> None:
            async for item in receiver:
                try:
                    await do(item)
                except Exception as error:
                    self._fail(error)

        with sender, receiver:
            async with aclosing(items), anyio.create_task_group() as group:
                for _ in range(at_once):
                    group.start_soon(work)
                with anyio.CancelScope() as reading:
                    self._reading.append(reading)
                    try:
                        async for item in items:
                            await sender.send(item)
                    except Exception as error:  # of the caller's iterable
                        self._fail(error)
                sender.close()

    def _fail(self, error: Exception) -> None:
        self.failure = self.failure or error
        for reading in self._reading:
            reading.cancel()  # however long the next item may take to come

    async def start(self, part: Sequence[_Entry]) -> None:
        """Start some of the runs."""

        async def one_by_one() -> None:
            async with self._single:
                if self.failure is not None:
                    return
                if any(entry.key is not None for entry in part) and not await self._calls.is_native():
                    self._calls.refuse_v0(_graphs.NO_KEYS)
                await self.each(_each(part), MAX_SINGLE, self._start_one)

        try:
            await self._calls.prefer_native(lambda: self._start_together(part), one_by_one)
        except NotFound as error:
            if not error.what.endswith(UNKNOWN_ROUTE):
                raise
            await one_by_one()  # an exotrio too old for lists

    async def _start_together(self, part: Sequence[_Entry]) -> None:
        path = self._calls.native("graph", self._graph_name, "runs")
        body = b'{"runs":[%s]}' % b",".join(entry.content for entry in part)
        arrived = False

        async def ask() -> Answer:
            nonlocal arrived
            try:
                return await self._calls.http.ask("POST", path, body=body, accept={422})
            except ManagerUnavailable as error:
                arrived |= error.sent  # of any attempt: the last one may have failed to connect
                raise

        try:
            answer = await self._calls.repeat(ask)
        except ManagerUnavailable:
            self._unknown += len(part) if arrived else 0
            raise
        if answer.status == 422:
            problems = _problems(answer, part[0].index)
            with _graphs.keys_known(self._calls):
                raise RequestRefused(
                    "\n".join([f"runs of graph {self._graph_name!r} are refused:", *problems]),
                    status=422,
                    where=f"request: {answer.request_line}",
                )
        reply = answer.parse(TriggerManyReply)
        # An exotrio of before there were keys does not say which existed.
        created = reply.created or [True] * len(part)
        ids = dict(zip((entry.index for entry in part), reply.run_ids, strict=True))
        self._add(ids, [entry.index for entry, new in zip(part, created, strict=True) if not new])

    async def _start_one(self, entry: _Entry) -> None:
        try:
            reply = await _graphs.trigger(
                self._calls, self._graph_name, entry.request, entry.run_id, entry.key
            )
        except ManagerUnavailable:
            self._unknown += 1
            raise
        except RequestRefused as error:
            error.what = f"runs[{entry.index}]: {error.what}"
            raise
        self._add({entry.index: reply["run_id"]}, [] if reply.get("created", True) else [entry.index])

    def _add(self, ids: dict[int, str], existing: Iterable[int]) -> None:
        self.ids |= ids
        if self._on_existing is not None:
            for index in existing:
                self._on_existing(index, ids[index])
        if self._on_progress is not None:
            self._on_progress(len(self.ids))

    def explained(self, error: Exception) -> Exception:
        """Return an error that says, too, how many runs are started."""
        text = f"{plural(len(self.ids), 'run')} of the list were started"
        if self._unknown:
            text += f", and up to {self._unknown:,} more may have been"
        if isinstance(error, ExotrioError):
            error.where = f"{error.where}; {text}" if error.where else text
        else:
            error.add_note(f"trigger_many: {text}")
        return error


async def _parts(runs: NewRuns, more: Mapping[str, str]) -> AsyncGenerator[list[_Entry]]:
    """Yield the runs in parts, each for one request; ``more`` is added to each in it."""
    part: list[_Entry] = []
    size = 0
    index = 0
    async with aclosing(_each(runs)) as given:
        async for run in given:
            entry = _entry(index, run, more)
            index += 1
            if part and size + len(entry.content) > MAX_BYTES:
                yield part
                part, size = [], 0
            part.append(entry)
            size += len(entry.content)
            if len(part) == MAX_BATCH:
                yield part
                part, size = [], 0
    if part:
        yield part


async def _each(items: Iterable[T] | AsyncIterable[T]) -> AsyncGenerator[T]:
    if isinstance(items, AsyncIterable):
        # Trio warns of a generator that is left where it is, and the caller may have no name for it.
        async with aclosing(items) if isinstance(items, AsyncGenerator) else nullcontext():
            async for item in items:
                yield item
    else:
        for item in items:
            yield item


def _entry(index: int, run: object, more: Mapping[str, str]) -> _Entry:
    if isinstance(run, Mapping):
        run = NewRun(inputs=run)
    elif not isinstance(run, NewRun):
        raise ConfigurationError(f"runs[{index}] is a {type(run).__name__}, not a NewRun or a dict of inputs")
    request = {"inputs": run.inputs, "store": run.store, "start_delay": run.start_delay}
    if run.run_id is not None and run.key is not None:
        raise ConfigurationError(f"runs[{index}]: {_graphs.ID_OR_KEY}")
    # The id is chosen once, so that repeating the request cannot start a second run; a key does the same.
    run_id = str(run.run_id or uuid4()) if run.key is None else None
    by = {"run_id": run_id} if run.key is None else {"key": run.key}
    try:
        return _Entry(index, run_id, run.key, request, encode({**request, **by, **more}))
    except NotJson as error:
        raise ConfigurationError(f"runs[{index}] cannot be sent as JSON: {error}") from error


def _problems(answer: Answer, first: int) -> list[str]:
    """Return the problems of a part of the list, with the places of its runs in the whole of it."""
    detail = answer.body.get("detail") if isinstance(answer.body, dict) else None
    for item in detail if isinstance(detail, list) else ():
        match item:
            case {"loc": ["body", "runs", int(index), *_] as loc}:
                loc[2] = first + index
    return problems_in(answer.body)
