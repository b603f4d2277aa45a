"""What type checkers say of the values of runs and of what nodes return: read by mypy and pyright."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, assert_type

from pydantic import BaseModel

from exotrio import BaseNode, Graph, StateManager
from exotrio.client import LimitDetail, LimitInfo, NewRun, RunEvents, SentEvent
from exotrio.graph.references import AddedNode
from exotrio.testing import CrashRun, explore, run_graph, run_node


class Report(BaseNode):
    class Inputs(BaseModel):
        period: date
        minimum: Decimal = Decimal(0)

    class Outputs(BaseModel):
        total: Decimal

    async def execute(self) -> Outputs:
        return self.Outputs(total=self.inputs.minimum)


class Silent(BaseNode):
    async def execute(self) -> None: ...


secrets: Mapping[str, str] = {}
graph = Graph("g", namespace="shop", secrets=secrets)
report = graph.add(Report, period=date(2026, 9, 1))
silent = graph.add(Silent, after=report)
calls = graph.limit("calls", at_most=5, starts=100, period=60)
graph.add(Silent, identifier="limited", limits=calls)
graph.add(Silent, identifier="by_total", limits=[calls, graph.limit("each").for_key(report.total)])
graph.add(Silent, identifier="large", when=report.total > 5)
graph.add(Silent, identifier="small", after=report, otherwise=True)
graph.add(Silent, identifier="one", when=report.total.is_in(1, Decimal("1.5")))
graph.add(Silent, identifier="always", when=True)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
graph.add(Silent, identifier="text", limits="calls")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
approved = graph.wait("approved", Report.Outputs, after=report, timeout=timedelta(days=1))
assert_type(approved, AddedNode[Report.Outputs])
graph.wait("b", Report.Outputs, on_timeout=3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
graph.limit("calls", 5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
notify = graph.add("Notify", namespace="theirs", after=report)
texts = {"period": "2026-09-01"}
typed = Report.Inputs(period=date(2026, 9, 1))


async def trigger(manager: StateManager) -> None:
    await manager.upsert_graph("g", [], secrets)
    await manager.trigger("g", {"period": date(2026, 9, 1)})
    await manager.trigger("g", texts, store={"minimum": Decimal(5), "all": True})
    await manager.trigger("g", typed)
    await manager.trigger("g", "period")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def later() -> Iterator[Report.Inputs]:
    yield typed


async def trigger_many(manager: StateManager) -> None:
    await manager.trigger_many("g", [{"period": date(2026, 9, 1)}, texts, typed])
    await manager.trigger_many("g", [texts, texts])
    await manager.trigger_many("g", later())
    await manager.trigger_many("g", [NewRun(inputs=typed, store={"minimum": 5}), NewRun(inputs=texts)])


async def events(manager: StateManager) -> None:
    assert_type(await manager.send("order 7", "approved", {"by": "ada", "ok": True}), SentEvent)
    assert_type(await manager.events("order 7"), RunEvents)
    await manager.send("order 7", "approved", "ada")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def limits(manager: StateManager) -> None:
    assert_type(await manager.limits(), list[LimitInfo])
    assert_type(await manager.set_limit("calls", at_most=3, starts="unlimited"), LimitDetail)
    assert_type(await manager.remove_limit("calls", force=True), list[str])
    await manager.set_limit("calls", at_most="many")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def outputs(manager: StateManager) -> None:
    run = await manager.wait("id")
    assert_type(await manager.outputs(run, report), list[Report.Outputs])
    assert_type(await manager.outputs("id", Report), list[Report.Outputs])
    assert_type(await manager.outputs(run, "report"), list[dict[str, Any]])
    for each in await manager.outputs(run, report):
        assert_type(each.total, Decimal)
        print(each.totl)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    print(await manager.outputs(run, notify), await manager.outputs(run, silent))


async def tests() -> None:
    outcome = await run_node(Report, {"period": date(2026, 9, 1)})
    assert_type(outcome.outputs_of(Report), list[Report.Outputs])
    await run_node(Report, typed)
    await run_node(Report, texts)
    run = await run_graph(graph, [Report], inputs={"period": date(2026, 9, 1)}, store={"minimum": 5})
    assert_type(run.outputs(report), list[Report.Outputs])
    assert_type(run.outputs(Report), list[Report.Outputs])
    assert_type(run.outputs("report"), list[dict[str, Any]])
    assert_type(run.of(report)[0].identifier, str)
    await run_graph(graph, [Report], inputs=typed)
    await run_graph(graph, [Report], inputs=texts)
    await explore(graph, [Report], inputs=typed, check=has_a_total)
    await explore(graph, [Report], inputs={"period": date(2026, 9, 1)}, check=has_a_total)

    await explore(graph, [Report], successor=[Report], successor_graph=graph)


class Import(BaseNode):
    class Checkpoint(BaseModel):
        row: int

    async def execute(self) -> None: ...


async def tests_from_checkpoints() -> None:
    stored = Import.Checkpoint(row=2)
    outcome = await run_node(Import, checkpoint=stored, grace=20)
    assert_type(outcome.checkpoint_of(Import), Import.Checkpoint | None)
    outcome.checkpoint_of(Report)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await run_node(Import, checkpoint={"row": 2})
    await run_graph(graph, [Import], checkpoints={Import: stored, report: {"row": "2"}, "import": {"row": 2}})


def has_a_total(run: CrashRun[None]) -> None:
    assert_type(run.outputs(report)[0].total, Decimal)
