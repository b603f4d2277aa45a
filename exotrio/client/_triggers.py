"""Starting runs: one, or many. Our server starts up to a thousand with one request, any other one run."""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import AbstractContextManager, aclosing, nullcontext
from typing import Any, NamedTuple, TypeVar, cast

import anyio

from exotrio._fields.models import NONE, Values
from exotrio._http.response import Answer, problems_in
from exotrio._util.json import NotJson, encode
from exotrio._util.tracing import Span, producing
from exotrio._util.words import plural
from exotrio._wire.runs import TriggerManyReply
from exotrio._wire.v0 import TriggerReply
from exotrio._wire.vocabulary import MAX_BATCH, ValidationStatus
from exotrio.client._calls import Calls
from exotrio.client._graphs import get_graph, pauses
from exotrio.client._new_runs import ORDERED, NewRun, NewRuns, NoneCheck, check_list, request_of
from exotrio.errors import ConfigurationError, ExotrioError, ManagerError, ManagerUnavailable, RequestRefused

T = TypeVar("T")

MAX_BYTES = 1024 * 1024
"""Bytes of a request. One run that is larger is sent alone, which a state manager accepts."""
MAX_REQUESTS = 2
"""Requests at once: one is read while the other is written. More gain nothing, and delay other writes."""
MAX_SINGLE = 8
"""Requests at once that start one run each: half the connections of a client, so that its other calls have
some."""
NO_KEYS = "a run cannot be started by a key"
NO_ORDER = "a run cannot have a priority, a weight or a fairness key"
VALIDATION_TIMEOUT = 60.0
"""Seconds for which a trigger waits until a graph is validated."""


async def trigger(calls: Calls, graph_name: str, run: NewRun) -> dict[str, Any]:
    """Start a run and return the reply as it came."""
    request = run.request()
    if problems := await NoneCheck(calls, graph_name).problems(request.get("inputs", {})):
        raise RequestRefused("; ".join(problems))
    return await _start(calls, graph_name, request)


async def _start(calls: Calls, graph_name: str, request: Mapping[str, Any]) -> dict[str, Any]:
    with _trigger_span(calls, graph_name) as span:
        reply = await _trigger(calls, graph_name, {**request, **_trace(span)})
        if span is not None:
            span.add({"messaging.message.id": reply["run_id"], "exotrio.run_id": reply["run_id"]})
        return reply


def _trigger_span(calls: Calls, graph_name: str) -> AbstractContextManager[Span | None]:
    """Return a context with a span for a trigger, which has the attributes that OpenTelemetry defines for
    messages and ours; None if the program does not trace."""
    attributes = {
        "messaging.system": "exotrio",
        "messaging.operation.type": "send",
        "messaging.operation.name": "trigger",
        "messaging.destination.name": graph_name,
        "exotrio.namespace": calls.namespace,
        "exotrio.graph": graph_name,
    }
    return producing(f"trigger {graph_name}", lambda: attributes)


def _trace(span: Span | None) -> dict[str, str]:
    return {} if span is None else {"trace": span.context}


async def _trigger(calls: Calls, graph_name: str, request: Mapping[str, Any]) -> dict[str, Any]:
    async def post(path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        answer = await calls.http.ask("POST", path, body=body)
        answer.parse(TriggerReply)
        return cast("dict[str, Any]", answer.body)

    async def native() -> dict[str, Any]:
        return await calls.repeat(lambda: post(calls.native("graph", graph_name, "trigger"), request))

    async def once() -> dict[str, Any]:
        body = {"start_delay": 0, "inputs": {}, "store": {}}
        body |= {name: request[name] for name in body.keys() & request.keys()}
        return await calls.repeat(lambda: post(calls.v0("graph", graph_name, "trigger"), body), sent=False)

    async def v0() -> dict[str, Any]:
        try:
            return await once()
        except RequestRefused as refusal:
            if refusal.status != 400 or not await _is_valid_by_now(calls, graph_name):
                raise
        # The first request was refused, so it started nothing.
        return await once()

    if "key" in request:
        return await calls.native_only(native, NO_KEYS)
    if not request.keys().isdisjoint(ORDERED):
        return await calls.native_only(native, NO_ORDER)
    return await calls.prefer_native(native, v0)


async def _is_valid_by_now(calls: Calls, graph_name: str) -> bool:
    """Wait while a graph is PENDING, and return whether it is valid then.

    A stock server validates in the background, and refuses a trigger meanwhile as if the graph were invalid.
    """
    with anyio.move_on_after(VALIDATION_TIMEOUT):
        for pause in pauses():
            try:
                status = (await get_graph(calls, graph_name))["validation_status"]
            except ManagerError:
                return False
            if status != ValidationStatus.PENDING:
                return bool(status == ValidationStatus.VALID)
            await anyio.sleep(pause)
    return False


# -- many runs


class _Entry(NamedTuple):
    """A run of the list: its position there, and its native request, also as JSON."""

    position: int
    request: dict[str, Any]
    content: bytes


class ManyRuns:
    """The runs of one call.

    Attributes:
        ids: Ids of the runs that were started, by their index in the list.
        failure: The first error. Requests that are under way then are still completed, so that their result
            is known; no others are sent.
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
        self._unknown = 0
        self._reading = anyio.CancelScope()
        self.ids: dict[int, str] = {}
        self.failure: Exception | None = None

    async def start_all(self, runs: NewRuns) -> list[str]:
        """Start the runs, and return their ids in the order of the list."""
        nones = NoneCheck(self._calls, self._graph_name)
        try:
            with _trigger_span(self._calls, self._graph_name) as span:
                async with aclosing(_parts(runs, _trace(span), nones)) as parts:
                    # A list without runs, or with a mistake in the first ones, needs no state manager.
                    if (first := await anext(parts, None)) is not None:
                        if isinstance(runs, Sequence) and len(first) < len(runs):
                            await self._check(runs)
                        await self._start_parts(_chain(first, parts))
                if span is not None:
                    span.add({"messaging.batch.message_count": len(self.ids)})
                if self.failure is not None:
                    raise self.failure
        except Exception as error:
            self._add_count_to(error)
            raise
        return [self.ids[index] for index in sorted(self.ids)]

    async def _check(self, runs: Sequence[NewRun | Values]) -> None:
        if await self._calls.is_native():
            await check_list(self._calls, self._graph_name, runs)

    async def _start_parts(self, parts: AsyncGenerator[list[_Entry]]) -> None:
        if await self._calls.is_native():
            await self._each(parts, MAX_REQUESTS, self._start_part)
        else:
            await self._each(self._without_keys(parts), MAX_SINGLE, self._start_one)

    async def _each(self, items: AsyncGenerator[T], at_once: int, do: Callable[[T], Awaitable[None]]) -> None:
        """Call ``do`` with each item, with ``at_once`` items at the same time, until something fails."""
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
                with self._reading:
                    try:
                        async for item in items:
                            await sender.send(item)
                    except Exception as error:  # of the caller's iterable
                        self._fail(error)
                sender.close()

    def _fail(self, error: Exception) -> None:
        self.failure = self.failure or error
        self._reading.cancel()  # however long the next item may take to come

    async def _start_together(self, part: Sequence[_Entry]) -> None:
        path = self._calls.native("graph", self._graph_name, "runs")
        body = b'{"runs":[%s]}' % b",".join(entry.content for entry in part)
        arrived = False

        async def post() -> Answer:
            nonlocal arrived
            try:
                return await self._calls.http.ask("POST", path, body=body, accept={422})
            except ManagerUnavailable as error:
                arrived |= error.sent  # of any attempt: the last one may have failed to connect
                raise

        try:
            answer = await self._calls.repeat(post)
        except ManagerUnavailable:
            self._unknown += len(part) if arrived else 0
            raise
        if answer.status == 422:
            problems = _problems(answer, part[0].position)
            raise RequestRefused(
                "\n".join([f"runs of graph {self._graph_name!r} are refused:", *problems]),
                status=422,
                where=f"request: {answer.request_line}",
            )
        reply = answer.parse(TriggerManyReply)
        for entry, run_id, created in zip(part, reply.run_ids, reply.created, strict=True):
            self._add(entry.position, run_id, created=created)
        self._show_progress()

    async def _without_keys(self, parts: AsyncGenerator[list[_Entry]]) -> AsyncGenerator[_Entry]:
        """Yield the runs for a server that speaks only v0; refuse a part with a key before it starts any."""
        async with aclosing(parts):
            async for part in parts:
                self._refuse_keys(part)
                for entry in part:
                    yield entry

    def _refuse_keys(self, part: Sequence[_Entry]) -> None:
        if any("key" in entry.request for entry in part):
            self._calls.refuse_v0(NO_KEYS)
        if not all(entry.request.keys().isdisjoint(ORDERED) for entry in part):
            self._calls.refuse_v0(NO_ORDER)

    async def _start_part(self, part: Sequence[_Entry]) -> None:
        """Start a part by one request, or run by run if a server that speaks only v0 has replaced ours."""

        async def run_by_run() -> None:
            self._refuse_keys(part)
            for entry in part:
                if self.failure is None:
                    await self._start_one(entry)

        await self._calls.prefer_native(lambda: self._start_together(part), run_by_run)

    async def _start_one(self, entry: _Entry) -> None:
        try:
            reply = await _start(self._calls, self._graph_name, entry.request)
        except ManagerUnavailable:
            self._unknown += 1
            raise
        except RequestRefused as error:
            error.what = f"runs[{entry.position}]: {error.what}"
            raise
        self._add(entry.position, reply["run_id"], created=reply.get("created", True))
        self._show_progress()

    def _add(self, index: int, run_id: str, *, created: bool) -> None:
        self.ids[index] = run_id
        if not created and self._on_existing is not None:
            self._on_existing(index, run_id)

    def _show_progress(self) -> None:
        if self._on_progress is not None:
            self._on_progress(len(self.ids))

    def _add_count_to(self, error: Exception) -> None:
        text = f"{plural(len(self.ids), 'run')} of the list were started"
        if self._unknown:
            text += f", and up to {self._unknown:,} more may have been"
        if isinstance(error, ExotrioError):
            error.where = f"{error.where}; {text}" if error.where else text
        else:
            error.add_note(f"trigger_many: {text}")


async def _parts(runs: NewRuns, trace: Mapping[str, str], nones: NoneCheck) -> AsyncGenerator[list[_Entry]]:
    part: list[_Entry] = []
    index = size = 0
    async with aclosing(_each_of(runs)) as each:
        async for item in each:
            request = request_of(index, item)
            try:
                content = encode({**request, **trace} if trace else request)
            except NotJson as error:
                raise ConfigurationError(f"runs[{index}] cannot be sent as JSON: {error}") from error
            inputs = request.get("inputs", {})
            if NONE in inputs.values() and (problems := await nones.problems(inputs)):
                raise RequestRefused(f"runs[{index}]: {'; '.join(problems)}")
            if part and size + len(content) > MAX_BYTES:
                yield part
                part, size = [], 0
            part.append(_Entry(index, request, content))
            size += len(content)
            index += 1
            if len(part) == MAX_BATCH:
                yield part
                part, size = [], 0
    if part:
        yield part


async def _chain(first: T, others: AsyncGenerator[T]) -> AsyncGenerator[T]:
    yield first
    async for item in others:
        yield item


async def _each_of(items: Iterable[T] | AsyncIterable[T]) -> AsyncGenerator[T]:
    if isinstance(items, AsyncIterable):
        # Trio warns of a generator that is not closed, and the caller may be unable to close it.
        async with aclosing(items) if isinstance(items, AsyncGenerator) else nullcontext():
            async for item in items:
                yield item
    else:
        for item in items:
            yield item


def _problems(answer: Answer, first: int) -> list[str]:
    """Return the problems of a part of the list, with the indices of its runs in the whole list."""
    detail = answer.body.get("detail") if isinstance(answer.body, dict) else None
    for item in detail if isinstance(detail, list) else ():
        match item:
            case {"loc": ["body", "runs", int(index), *_] as loc}:
                loc[2] = first + index
    return problems_in(answer.body)
