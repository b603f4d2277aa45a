"""One trace from the trigger to the last retry, as an exporter of OpenTelemetry sees it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import trio
import trio.testing
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from pydantic import BaseModel
from trio.testing import MockClock

from exotrio import (
    BaseNode,
    Graph,
    NoRetry,
    PruneSignal,
    ReQueueAfterSignal,
)
from exotrio.client import StateManager
from exotrio.errors import NotFound
from exotrio.manager import embedded
from exotrio.testing import run_graph
from tests.support.doubles import Call, NativeServer, V0Server, reply, running
from tests.support.process_nodes import Traced
from tests.support.spans import Spans, context_of, id_of, linked_by, parent_of, recording, traced_by


@pytest.fixture
def spans() -> Iterator[Spans]:
    with recording() as recorded:
        yield recorded


def inner(name: str) -> None:
    with trace.get_tracer("test").start_as_current_span(name):
        pass


class Plan(BaseNode):
    async def execute(self) -> None: ...


class Split(BaseNode):
    class Outputs(BaseModel):
        text: str

    async def execute(self) -> list[Outputs]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.lowlevel.checkpoint)
            inner("inside split")
        return [self.Outputs(text=text) for text in ("good", "flaky")]


class Work(BaseNode):
    failed = False

    class Inputs(BaseModel):
        text: str

    class Secrets(BaseModel):
        key: str

    async def execute(self) -> None:
        if self.inputs.text == "flaky" and not Work.failed:
            Work.failed = True
            raise ValueError(f"no luck with {self.secrets.key}")


class Join(BaseNode):
    waited = False

    async def execute(self) -> None:
        if not Join.waited:
            Join.waited = True
            raise ReQueueAfterSignal(timedelta(minutes=1))


def graph() -> Graph:
    graph = Graph("g", namespace="ns", secrets={"key": "hunter2-hunter2"})
    plan = graph.add(Plan)
    split = graph.add(Split, after=plan)
    work = graph.add(Work, text=split.text)
    graph.add(Join, after=work, unites=plan)
    return graph


async def test_all_executions_of_a_run_are_in_the_trace_of_its_trigger(
    spans: Spans, autojump_clock: MockClock
) -> None:
    Work.failed = Join.waited = False
    with trace.get_tracer("test").start_as_current_span("request"):
        run = await run_graph(graph(), [Plan, Split, Work, Join])
    assert run.status == "SUCCESS"
    request, trigger = spans.one("request"), spans.one("trigger g")
    plan, split = spans.one("execute Plan"), spans.one("execute Split")
    assert len(spans.traces) == 1
    assert parent_of(trigger) == id_of(request)
    assert parent_of(plan) == id_of(trigger)
    assert parent_of(split) == id_of(plan)
    assert (trigger.kind, split.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert parent_of(spans.one("inside split")) == id_of(split)

    works = spans.of("execute Work")
    assert [parent_of(span) for span in works] == [id_of(split)] * 3
    retried = works[-1]
    (failed,) = [span for span in works if span.status.status_code is StatusCode.ERROR]
    assert [linked_by(span) for span in works] == [[], [], [id_of(failed)]]

    attributes = dict(retried.attributes or {})
    assert attributes.pop("messaging.message.id")
    assert attributes.keys() >= {"exotrio.waited_ms", "exotrio.buffered_ms", "exotrio.ran_ms"}
    attributes = {name: value for name, value in attributes.items() if not name.endswith("_ms")}
    assert attributes == {
        "messaging.system": "exotrio",
        "messaging.operation.type": "process",
        "messaging.operation.name": "execute",
        "messaging.destination.name": "Work",
        "exotrio.namespace": "ns",
        "exotrio.graph": "g",
        "exotrio.identifier": "work",
        "exotrio.run_id": (trigger.attributes or {})["exotrio.run_id"],
        "exotrio.attempt": 2,
        "exotrio.outcome": "executed",
    }
    assert retried.status.status_code is StatusCode.UNSET
    assert (failed.status.status_code, failed.status.description) == (
        StatusCode.ERROR,
        "ValueError: no luck with ***",
    )
    (event,) = failed.events
    assert (event.name, (event.attributes or {})["exception.type"]) == ("exception", "ValueError")
    assert "in execute" in str((event.attributes or {})["exception.stacktrace"])
    assert "hunter2" not in failed.to_json(), "secrets are masked as in the error of the state"

    first, again = spans.of("execute Join")
    assert parent_of(first) == parent_of(again) == id_of(plan)
    assert linked_by(first) == [id_of(retried)], "what completed the group"
    assert linked_by(again) == [id_of(retried), id_of(first)]
    assert (first.attributes or {})["exotrio.outcome"] == "requeued"


class Asyncio(BaseNode):
    runs_in = "asyncio"

    async def execute(self) -> None:
        await asyncio.create_task(self._task())

    async def _task(self) -> None:
        inner("inside asyncio")


class Nests(BaseNode):
    async def execute(self) -> None:
        inner("inside")


class Thread(BaseNode):
    def execute(self) -> None:
        inner("inside thread")


async def test_spans_of_a_node_nest_in_its_process(spans: Spans) -> None:
    graph = Graph("g", namespace="ns")
    graph.add(Traced)
    run = await run_graph(graph, [Traced])
    context = context_of(spans.one("execute Traced"))
    assert run.outputs("traced") == [{"text": f"{context.trace_id:032x} {context.span_id:016x}"}]


async def test_spans_of_a_node_nest_in_threads_and_on_asyncio(spans: Spans) -> None:
    server = NativeServer(Asyncio=1, Thread=1)
    async with running(server, Asyncio, Thread):
        await server.until(EXECUTED=2)
    for name in ("Asyncio", "Thread"):
        assert parent_of(spans.one(f"inside {name.lower()}")) == id_of(spans.one(f"execute {name}"))


class Leaves(BaseNode):
    """Leaves a span current that it never ends."""

    async def execute(self) -> None:
        from opentelemetry import context

        inner("inside leaves")
        context.attach(trace.set_span_in_context(trace.get_tracer("test").start_span("left")))


async def test_over_v0_each_execution_is_the_root_of_a_trace_whatever_is_current_around_it(
    spans: Spans, autojump_clock: MockClock
) -> None:
    server = V0Server(Leaves=3)
    with trace.get_tracer("test").start_as_current_span("of the program"):
        async with running(server, Leaves, workers=1):
            await server.until(EXECUTED=3)
        assert trace.get_current_span().name == "of the program"  # type: ignore[attr-defined]
    executions = spans.of("execute Leaves")
    assert [parent_of(span) for span in executions] == [None] * 3
    assert [parent_of(span) for span in spans.of("inside leaves")] == [id_of(span) for span in executions]
    assert len(spans.traces) == 4
    assert not any("trace" in (call.body or {}) for call in server.calls), "v0 has no such field"


class Sleeps(BaseNode):
    async def execute(self) -> None:
        await trio.sleep_forever()


class Prunes(BaseNode):
    async def execute(self) -> None:
        raise PruneSignal


class Refuses(BaseNode):
    async def execute(self) -> None:
        raise NoRetry("declined")


async def test_a_span_says_how_its_execution_ended_and_a_release_names_it(
    spans: Spans, autojump_clock: MockClock
) -> None:
    server = NativeServer()
    for node in (Sleeps, Prunes, Refuses):
        server.add(node.__name__)
    async with running(server, Sleeps, Prunes, Refuses, grace=0):
        await server.until(lambda: len(server.statuses()) == 3)
    ended = {
        span.name.split()[1]: {
            name: value
            for name, value in (span.attributes or {}).items()
            if name in ("exotrio.outcome", "exotrio.stopping", "exotrio.retry", "error.type")
        }
        for name in ("Sleeps", "Prunes", "Refuses")
        for span in spans.of(f"execute {name}")
    }
    assert ended == {
        "Sleeps": {"exotrio.outcome": "released", "exotrio.stopping": "cancelling"},
        "Prunes": {"exotrio.outcome": "pruned"},
        "Refuses": {"exotrio.outcome": "errored", "exotrio.retry": False, "error.type": "exotrio.NoRetry"},
    }
    (released,) = server.routes("release")[-1].body["states"]
    assert released["trace"].split("-")[2] == f"{id_of(spans.one('execute Sleeps')):016x}"


async def test_a_trigger_that_fails_has_an_error_and_one_of_many_runs_is_one_span(spans: Spans) -> None:
    async with embedded(":memory:") as transport, StateManager("ns", transport=transport) as manager:
        with pytest.raises(NotFound):
            await manager.trigger("missing")
        assert spans.one("trigger missing").status.status_code is StatusCode.ERROR
    server = V0Server()

    async def started(call: Call) -> Any:
        return reply(200, {"status": "CREATED", "run_id": "r"}) if call.route == "trigger" else None

    server.before = started
    async with StateManager("ns", transport=server) as manager:
        await manager.trigger_many("g", [{}, {}])
    many, *each = sorted(spans.of("trigger g"), key=lambda span: span.start_time or 0)
    assert (many.attributes or {})["messaging.batch.message_count"] == 2
    assert [parent_of(span) for span in each] == [id_of(many)] * 2
    assert not any("trace" in call.body for call in server.calls if call.route == "trigger")


class Until(BaseNode):
    gate = trio.Event()

    async def execute(self) -> None:
        await self.gate.wait()


async def test_an_execution_that_goes_on_under_another_claim_stays_in_its_trace(
    spans: Spans, autojump_clock: MockClock
) -> None:
    Until.gate = trio.Event()
    server = NativeServer()
    (state_id,) = server.add("Until")
    async with running(server, Until):
        await server.until(lambda: server.states[state_id].deliveries == 1)
        await trio.testing.wait_all_tasks_blocked()
        server.states[state_id].status = "CREATED"
        server.add("Unknown")  # wakes a claim that waits
        await server.until(lambda: server.states[state_id].deliveries == 2)
        await trio.testing.wait_all_tasks_blocked()
        Until.gate.set()
        await server.until(lambda: server.states[state_id].status == "EXECUTED")
    (item,) = server.routes("outcomes")[-1].body
    assert (item["token"], item["trace"].split("-")[2]) == (
        f"{state_id}-2",
        f"{id_of(spans.one('execute Until')):016x}",
    )


class FailsLater(SimpleSpanProcessor):
    """Fails at each execution but the first."""

    executions = 0

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self.executions += span.name.startswith("execute")
        if span.name.startswith("execute") and self.executions > 1:
            raise RuntimeError("a processor that fails")


async def test_a_broken_provider_costs_its_spans_and_nothing_else(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(FailsLater(exporter))
    server = V0Server(Nests=2)
    with traced_by(provider):
        async with running(server, Nests, workers=1):
            await server.until(EXECUTED=2)
    assert "a processor that fails" in caplog.text
    first, second = [span for span in exporter.get_finished_spans() if span.name == "inside"]
    assert parent_of(first) is not None
    assert parent_of(second) is None, "not below the execution before it"


@pytest.mark.parametrize(
    ("variable", "value"), [("OTEL_PYTHON_TRACER_PROVIDER", "missing"), ("OTEL_SDK_DISABLED", "true")]
)
async def test_with_a_provider_that_is_missing_or_switched_off_nothing_is_traced(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    provider = None if value == "missing" else TracerProvider(shutdown_on_exit=False)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    server = NativeServer(Prunes=1)
    async with running(server, Prunes):
        await server.until(PRUNED=1)
    (item,) = server.routes("outcomes")[-1].body
    assert "trace" not in item


async def test_a_span_that_fails_ends_all_the_same(
    spans: Spans, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    monkeypatch.setattr("opentelemetry.sdk.trace.Span.add_event", None)
    server = V0Server(Refuses=1)
    async with running(server, Refuses):
        await server.until(ERRORED=1)
    assert spans.one("execute Refuses").end_time is not None


def test_without_a_provider_opentelemetry_is_not_even_imported() -> None:
    code = """
import sys, trio
from exotrio import BaseNode, Graph, GraphNodeModel
from exotrio.testing import run_graph
class Node(BaseNode):
    async def execute(self): ...
graph = Graph("g", [GraphNodeModel(node_name="Node", namespace="ns", identifier="n")])
assert trio.run(run_graph, graph, [Node]).status == "SUCCESS"
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
