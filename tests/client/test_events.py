"""The client's calls about events, with our state manager and with others."""

from __future__ import annotations

from datetime import timedelta

import pytest
from pydantic import BaseModel

from exotrio import ConfigurationError, Graph, NotFound, RequestRefused, StateManager
from exotrio.manager import embedded
from tests.support.client_double import Server
from tests.support.http_doubles import answer


class Approval(BaseModel):
    by: str
    ok: bool = False


GRAPH = Graph("order", namespace="shop")
GRAPH.wait("approved", Approval, timeout=timedelta(days=3))


async def test_an_event_is_sent_to_a_run_by_its_id_or_its_key_and_as_a_model_or_as_values() -> None:
    async with embedded(":memory:") as transport, StateManager("shop", transport=transport) as manager:
        await manager.upsert_graph(GRAPH)
        for by_key in (False, True):
            run = (await manager.trigger("order", key=f"order {by_key}"))["run_id"]
            name = f"order {by_key}" if by_key else run
            (waits,) = (await manager.events(name)).waiting
            assert (waits.name, waits.states) == ("approved", 1)
            assert waits.until is not None
            assert waits.until - waits.since == timedelta(days=3)
            value = {"by": "ada", "ok": True} if by_key else Approval(by="ada", ok=True)
            sent = await manager.send(name, "approved", value)
            assert (sent.run_id, sent.created, sent.woken) == (run, True, 1)
            assert not (await manager.send(run, "approved", Approval(by="ada", ok=True))).created
            (kept,) = (await manager.events(name)).sent
            assert kept.value == {"by": "ada", "ok": "true"}
            assert await manager.outputs(run, "approved") == [{"by": "ada", "ok": "true"}]
        with pytest.raises(RequestRefused, match="with another value"):
            await manager.send(run, "approved", {"by": "bob"})
        with pytest.raises(NotFound, match="no run with the id or key 'order 8'"):
            await manager.send("order 8", "approved")


async def test_an_event_that_cannot_be_one_is_refused_before_it_is_sent() -> None:
    server = Server(native=True)
    with pytest.raises(ConfigurationError, match="name"):
        await server.client.send("r", " approved")
    with pytest.raises(ConfigurationError, match="no form as text"):
        await server.client.send("r", "approved", {"by": object()})
    assert server.calls() == []


async def test_a_key_that_runs_of_several_graphs_have_does_not_say_which_run_is_meant() -> None:
    graphs = [Graph(name, namespace="shop") for name in ("order", "refund")]
    async with embedded(":memory:") as transport, StateManager("shop", transport=transport) as manager:
        for graph in graphs:
            graph.wait("approved")
            await manager.upsert_graph(graph)
            await manager.trigger(graph.name, key="7")
        with pytest.raises(ConfigurationError, match="'refund' and 'order'"):
            await manager.send("7", "approved")


async def test_a_server_that_knows_no_events_gets_neither_a_graph_with_them_nor_one() -> None:
    server = Server().on("GET runs", answer(200, {"runs": []}))
    with pytest.raises(RequestRefused, match="cannot be stored with places that wait for events"):
        await server.client.upsert_graph(GRAPH)
    with pytest.raises(RequestRefused, match=r"^POST .*/events cannot be requested: .* speaks only v0"):
        await server.client.send("0" * 8 + "-0000" * 3 + "-" + "0" * 12, "approved")
