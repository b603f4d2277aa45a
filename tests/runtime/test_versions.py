"""Runtimes of several versions at one state manager: a run that needs a version runs on no other."""

from __future__ import annotations

from collections import Counter

import httpx
import pytest
import trio
from pydantic import BaseModel
from trio.testing import MockClock

from exotrio import (
    BaseNode,
    ConfigurationError,
    Graph,
    GraphInvalid,
    Phase,
    RequestRefused,
    Runtime,
    StateManager,
)
from exotrio._shared.settings import CODE_VERSION_VARIABLE
from exotrio._wire.vocabulary import NATIVE_ROOT, RunStatus
from exotrio.graph import pinned_name
from exotrio.manager import embedded
from tests.support.doubles import running

DONE = RunStatus.SUCCESS


def nodes_of(code: str, done: Counter[tuple[str, str]], item: str = "item") -> list[type[BaseNode]]:
    """The nodes of a version, which note the version and the graph that they ran for."""

    class Plan(BaseNode):
        class Inputs(BaseModel):
            graph: str

        class Outputs(BaseModel):
            graph: str

        async def execute(self) -> list[Outputs]:
            done[code, self.inputs.graph] += 1
            return [self.Outputs(graph=self.inputs.graph)] * 20

    class Work(BaseNode):
        concurrency = 2

        class Inputs(BaseModel):
            graph: str

        async def execute(self) -> None:
            await trio.sleep(0.1)
            done[code, self.inputs.graph] += 1

    return [Plan, Work]


def graph_of(name: str, nodes: list[type[BaseNode]], version: str | None = None) -> Graph:
    graph = Graph(name, namespace="ns", version=version)
    plan, work = nodes
    graph.add(work, graph=graph.add(plan, graph=name).graph)
    return graph


async def test_each_run_runs_on_the_version_that_its_graph_names(autojump_clock: MockClock) -> None:
    done: Counter[tuple[str, str]] = Counter()
    one, two = nodes_of("1", done), nodes_of("2", done)
    async with (
        embedded(":memory:") as transport,
        StateManager("ns", transport=transport) as manager,
        running(transport, *one, version="1", registered=True),
        running(transport, *two, version="2", registered=True),
    ):
        graphs = graph_of("old", one, "1"), graph_of("new", two, "2"), graph_of("any", two)
        for graph in graphs:
            await manager.upsert_graph(graph)
        runs = [(await manager.trigger(graph.name))["run_id"] for graph in graphs for _ in range(3)]
        for run in runs:
            assert (await manager.wait(run)).status is DONE
    assert {key for key in done if key[1] != "any"} == {("1", "old"), ("2", "new")}
    assert done["1", "old"] == done["2", "new"] == 63
    assert done["1", "any"]
    assert done["2", "any"]


async def test_a_runtime_without_a_version_runs_no_pinned_state_and_a_later_one_does(
    autojump_clock: MockClock,
) -> None:
    done: Counter[tuple[str, str]] = Counter()
    async with embedded(":memory:") as transport, StateManager("ns", transport=transport) as manager:
        nodes = nodes_of("1", done)
        async with running(transport, *nodes, version="1", registered=True):
            await manager.upsert_graph(graph_of("old", nodes, "1"))
        run = (await manager.trigger("old"))["run_id"]
        async with running(transport, *nodes_of("none", done), registered=True):
            await trio.sleep(60)
            assert not done
        async with running(transport, *nodes, version="1", registered=True):
            assert (await manager.wait(run)).status is DONE
    assert set(done) == {("1", "old")}


async def test_a_version_comes_from_the_environment_and_is_checked(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CODE_VERSION_VARIABLE, "2026.11.2")
    nodes = nodes_of("1", Counter())
    async with embedded(":memory:") as transport:
        async with running(transport, *nodes, registered=True) as runtime:
            assert runtime.version == "2026.11.2"
        async with running(transport, *nodes, version="1", registered=True) as runtime:
            assert runtime.version == "1", "the argument comes first"
        monkeypatch.setenv(CODE_VERSION_VARIABLE, "a b")
        with pytest.raises(ConfigurationError, match=f"{CODE_VERSION_VARIABLE} is not a version: 'a b'"):
            await Runtime("ns", "rt", nodes, transport=transport).run()
        with pytest.raises(ConfigurationError, match="version is not a version: ''"):
            Runtime("ns", "rt", nodes, transport=transport, version="")


@pytest.mark.parametrize("link", ["auto", "v0"])
async def test_a_runtime_logs_which_runs_cannot_go_on_with_its_nodes(
    link: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Work(BaseNode):
        class Inputs(BaseModel):
            graph: str
            tone: str

        async def execute(self) -> None:
            pass

    plan, work = nodes_of("1", Counter())
    async with embedded(":memory:") as transport, StateManager("ns", transport=transport) as manager:
        async with running(transport, plan, work, registered=True):
            await manager.upsert_graph(graph_of("flow", [plan, work]))
        run = (await manager.trigger("flow"))["run_id"]
        for _ in range(2):
            async with running(transport, Work, link=link, registered=True):
                pass
    warnings = [
        record.getMessage()
        for record in caplog.records
        if record.name == "exotrio"
        and record.levelname == "WARNING"
        and "cannot go on" in record.getMessage()
    ]
    assert len(warnings) == (link == "auto"), "once, and nothing new is asked of v0"
    assert all(run in line and "Inputs.tone" in line for line in warnings)


async def test_over_v0_the_nodes_of_the_version_are_not_registered(autojump_clock: MockClock) -> None:
    nodes = nodes_of("1", Counter())
    async with embedded(":memory:") as transport, StateManager("ns", transport=transport) as manager:
        async with running(transport, *nodes, version="1", link="v0", registered=True):
            assert {node.name for node in await manager.nodes()} == {"Plan", "Work"}
            with pytest.raises(GraphInvalid, match="of version '1' is not registered"):
                await manager.upsert_graph(graph_of("old", nodes, "1"))
        async with running(transport, *nodes, version="1", registered=True):
            names = {node.name for node in await manager.nodes()}
    assert names == {"Plan", "Work", pinned_name("Plan", "1"), pinned_name("Work", "1")}


async def test_a_runtime_until_drained_runs_what_is_pinned_to_it_and_stops_once_nothing_is(
    autojump_clock: MockClock,
) -> None:
    done: Counter[tuple[str, str]] = Counter()
    one, two = nodes_of("1", done), nodes_of("2", done)
    async with (
        embedded(":memory:", clock=lambda: int(autojump_clock.current_time() * 1000)) as transport,
        StateManager("ns", transport=transport) as manager,
        trio.open_nursery() as nursery,
    ):
        old = Runtime("ns", "old", one, transport=transport, version="1")
        old.adjust(until_drained=True, pinned_only=True)
        ended = trio.Event()

        async def run() -> None:
            await old.run()
            ended.set()

        nursery.start_soon(run)
        await trio.sleep(20)
        assert old.phase is Phase.RUNNING, "no graph has named its version yet"
        names = {node.name for node in await manager.nodes()}
        assert names == {pinned_name("Plan", "1"), pinned_name("Work", "1")}, "others are not replaced"
        await manager.upsert_graph(graph_of("graph", one, "1"))
        first = (await manager.trigger("graph"))["run_id"]
        assert (await manager.wait(first)).status is DONE
        await trio.sleep(20)
        assert old.phase is Phase.RUNNING, "the next run of the graph would need it"
        waits = (await manager.trigger("graph", start_delay=80_000))["run_id"]
        async with running(transport, *two, version="2", registered=True):
            await manager.upsert_graph(graph_of("graph", two, "2"))
            await manager.upsert_graph(graph_of("any", two))
            for _ in range(10):
                assert (await manager.wait((await manager.trigger("any"))["run_id"])).status is DONE
            await trio.sleep(20)
            assert old.phase is Phase.RUNNING, "a run needs it"
            assert (await manager.wait(waits)).status is DONE
            with trio.fail_after(15):
                await ended.wait()
        assert old.summary.exit_code == 0
        (receipt,) = [each for each in (await manager.stops()).receipts if each.runtime == "old"]
        assert receipt.why == "nothing needs its version any more"
    assert {key for key in done if key[0] == "1"} == {("1", "graph")}, "nothing that is not pinned"


async def test_nodes_that_a_version_would_give_the_same_name_are_refused(autojump_clock: MockClock) -> None:
    node, _ = nodes_of("1", Counter())
    same = [type(name, (node,), {}) for name in ("mail", "mail@work")]
    both = Runtime("ns", "rt", same, "http://127.0.0.1:1", "k", version="1")
    with pytest.raises(ConfigurationError, match="'mail' and 'mail@work' are both 'mail@1' in version 1"):
        await both.run()


async def test_a_runtime_until_drained_needs_a_version(autojump_clock: MockClock) -> None:
    without = Runtime("ns", "rt", nodes_of("1", Counter()), "http://127.0.0.1:1", "k")
    without.adjust(until_drained=True, pinned_only=True)
    with pytest.raises(ConfigurationError, match="once nothing needs its version has none"):
        await without.run()


@pytest.mark.parametrize("version", [None, "1"])
async def test_a_node_whose_name_looks_like_one_of_a_version_keeps_it(
    autojump_clock: MockClock, version: str | None
) -> None:
    ran: list[str] = []

    async def execute(self: BaseNode) -> None:
        ran.append(type(self).__name__)

    node = type("mail@work", (BaseNode,), {"execute": execute})
    async with (
        embedded(":memory:") as transport,
        StateManager("ns", transport=transport) as manager,
        running(transport, node, version=version, registered=True),
    ):
        graph = Graph("graph", namespace="ns")
        graph.add(node)
        await manager.upsert_graph(graph)
        run = (await manager.trigger("graph"))["run_id"]
        with trio.fail_after(60):
            assert (await manager.wait(run)).status is DONE
    assert ran == ["mail@work"]


@pytest.mark.parametrize(
    ("capabilities", "why"),
    [
        (None, "speaks v0 only, and does not know versions"),
        (["leases"], "is an exotrio too old for that, and does not know versions"),
    ],
)
async def test_a_runtime_until_drained_is_refused_where_versions_are_not_known(
    autojump_clock: MockClock, capabilities: list[str] | None, why: str
) -> None:
    sent: list[str] = []

    def serve(request: httpx.Request) -> httpx.Response:
        sent.append(request.method)
        if request.url.path == NATIVE_ROOT:
            if capabilities is None:
                return httpx.Response(404, json={"detail": "Not Found"})
            return httpx.Response(200, json={"version": "1", "capabilities": capabilities})
        return httpx.Response(200, json={"namespace": "ns", "count": 0, "nodes": []})

    runtime = Runtime("ns", "rt", nodes_of("1", Counter()), transport=httpx.MockTransport(serve), version="1")
    runtime.adjust(until_drained=True, pinned_only=True)
    with pytest.raises(RequestRefused, match=why):
        await runtime.run()
    assert set(sent) == {"GET"}, "nothing is registered"
