"""Drive one run of one graph by the identifiers of its places."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tests.contract.api import Api
from tests.support.helpers import FAST_RETRY, NO_RETRY, eventually, node_name, ok, place

Claimed = dict[str, Any]
Place = dict[str, Any]
OK = {"v": "x", "w": "w"}


class Flow:
    """A graph that was put and found VALID, and a run of it."""

    def __init__(self, api: Api, graph: str, run_id: str = "") -> None:
        self.api = api
        self.graph = graph
        self.run_id = run_id

    @classmethod
    async def deploy(
        cls,
        api: Api,
        *places: dict[str, Any],
        graph: str = "graph",
        outputs: tuple[str, ...] = ("v", "w"),
        retry_policy: dict[str, Any] = FAST_RETRY,
        **fields: Any,
    ) -> Flow:
        """Register a node for every place, put the graph, and wait until it is VALID."""
        await api.register_for(places, outputs, tuple(fields.get("secrets", ())))
        return await cls.put(api, graph, api.body(places, retry_policy=retry_policy, **fields))

    @classmethod
    async def put(cls, api: Api, graph: str, body: dict[str, Any]) -> Flow:
        """Put the graph and wait until it is VALID: a stock server validates after its answer."""
        reply = ok(await api.put_graph(graph, body), 201)

        async def valid() -> None:
            shown = ok(await api.get_graph(graph))
            assert shown["validation_status"] == "VALID", shown["validation_errors"]

        if reply["validation_status"] == "PENDING":
            await eventually(valid)
        else:
            assert reply["validation_status"] == "VALID", reply["validation_errors"]
        return cls(api, graph)

    @classmethod
    async def start(cls, api: Api, *places: dict[str, Any], runs: int = 1, **fields: Any) -> Flow:
        """Deploy the graph and trigger it, as often as ``runs`` says."""
        flow = await cls.deploy(api, *places, **fields)
        for _ in range(runs):
            await flow.trigger()
        return flow

    async def trigger(self, **request: Any) -> str:
        self.run_id = ok(await self.api.trigger(self.graph, **request))["run_id"]
        return self.run_id

    # -- claiming

    async def take(self, identifier: str, count: int = 1, *, api: Api | None = None) -> list[Claimed]:
        """Claim exactly ``count`` states of ``identifier``, waiting for them if need be."""
        claimer = api or self.api
        taken: list[Claimed] = []

        async def enough() -> None:
            reply = ok(await claimer.claim([node_name(identifier)], 50))
            taken.extend(reply["states"])
            assert len(taken) >= count, f"{len(taken)} of {count} states of {identifier!r} to claim"

        await eventually(enough)
        assert len(taken) == count
        return taken

    async def one(self, identifier: str) -> str:
        """Claim the only state of ``identifier`` that is ready, and return its id."""
        (state,) = await self.take(identifier)
        return str(state["state_id"])

    async def inputs(self, identifier: str) -> dict[str, str]:
        """Claim the only state of ``identifier`` that is ready, and return its inputs."""
        (state,) = await self.take(identifier)
        return dict(state["inputs"])

    async def run(self, identifier: str, *outputs: dict[str, Any]) -> str:
        """Claim the only ready state of ``identifier``, report it executed, and return its id."""
        state_id = await self.one(identifier)
        ok(await self.api.executed(state_id, *(outputs or ({"v": identifier, "w": "w"},))))
        return state_id

    async def fail(self, identifier: str, times: int = 3, error: str = "failed on purpose") -> str:
        """Let ``identifier`` fail until its retries are used up; return the id of the last attempt."""
        state_id = ""
        for _ in range(times):
            state_id = await self.one(identifier)
            ok(await self.api.errored(state_id, error))
        return state_id

    async def none_ready(self, *identifiers: str) -> None:
        """Check that no state of these places can be claimed, now that the run has settled."""
        await self.settled()
        reply = ok(await self.api.claim([node_name(identifier) for identifier in identifiers], 50))
        assert reply["states"] == []

    # -- looking

    async def settled(self) -> dict[str, Any]:
        """Return the run once no state is EXECUTED: a stock server makes what follows in the background."""

        async def no_executed() -> dict[str, Any]:
            shown = await self.shown()
            assert shown["execution_summary"]["EXECUTED"] == 0
            return shown

        return await eventually(no_executed)

    async def shown(self) -> dict[str, Any]:
        reply: dict[str, Any] = ok(await self.api.run_graph(self.run_id))
        return reply

    async def detail(self, state_id: str) -> dict[str, Any]:
        reply: dict[str, Any] = ok(await self.api.state(self.graph, self.run_id, state_id))
        return reply

    async def statuses(self) -> Counter[tuple[str, str]]:
        """Count the states of the run by (identifier, status)."""
        return Counter((node["identifier"], node["status"]) for node in (await self.settled())["nodes"])

    async def states(self, identifier: str, status: str | None = None) -> list[dict[str, Any]]:
        """Return the details of every state of ``identifier``, oldest first."""
        return [
            await self.detail(node["id"])
            for node in (await self.settled())["nodes"]
            if node["identifier"] == identifier and status in (None, node["status"])
        ]

    async def status(self, state_id: str) -> str:
        (state,) = [node for node in (await self.settled())["nodes"] if node["id"] == state_id]
        return str(state["status"])

    async def run_summary(self) -> dict[str, Any]:
        """Return this run's entry of the list of runs."""
        await self.settled()
        runs = ok(await self.api.runs(1, 100))["runs"]
        (summary,) = [run for run in runs if run["run_id"] == self.run_id]
        return dict(summary)


# -- graphs


async def put(api: Api, *places: Place, **fields: Any) -> Any:
    """Register the places' nodes, put the graph and return the response."""
    await api.register_for([p for p in places if isinstance(p.get("inputs"), dict)])
    return await api.put_graph("g", api.body(places, **fields))


async def validity(api: Api, *places: Place, **fields: Any) -> tuple[str, list[str]]:
    """Put the graph, which has to pass groups A to F, and return what group G found."""
    ok(await api.put_graph("g", api.body(places, **fields)), 201)

    async def decided() -> Any:
        shown = ok(await api.get_graph("g"))
        assert shown["validation_status"] != "PENDING"
        return shown

    shown = await eventually(decided)
    return shown["validation_status"], shown["validation_errors"]


def fan_graph(strategy: str = "ALL_SUCCESS", **united: Any) -> list[Place]:
    """t, whose child b fans out to c; u unites t."""
    return [
        place("t", "b"),
        place("b", "c"),
        place("c", "u"),
        place("u", "z", unites="t", strategy=strategy, **united),
        place("z"),
    ]


async def fanned(
    api: Api, strategy: str = "ALL_SUCCESS", size: int = 3, **united: Any
) -> tuple[Flow, list[str]]:
    """Start a run whose c is claimed ``size`` times; return the claimed ids in fan-out order."""
    flow = await Flow.start(api, *fan_graph(strategy, **united), retry_policy=NO_RETRY)
    await flow.run("t", OK)
    await flow.run("b", *({"v": str(number)} for number in range(size)))
    siblings = {state["id"]: int(state["outputs"]["v"]) for state in await flow.states("b")}
    claimed = [state["state_id"] for state in await flow.take("c", size)]
    parents = {state_id: (await flow.detail(state_id))["parents"]["b"] for state_id in claimed}
    return flow, sorted(claimed, key=lambda state_id: siblings[parents[state_id]])
