"""Which runs in flight a release breaks: asked before it, and logged when its nodes are registered."""

from __future__ import annotations

from typing import Any

import pytest

from exotrio.graph import pinned_name
from exotrio.manager.api import v0
from exotrio.manager.queries import broken_runs
from tests.contract.flow import Flow
from tests.support.helpers import declare, node_name, ok, place, run_place
from tests.support.manager import Manager

GREET, SEND = node_name("greet"), node_name("send")
PLACES = [
    place("greet", "send", inputs={"name": "${{store.name}}"}),
    place("send", inputs={"text": "${{greet.outputs.text}}", "tries": "3"}),
]
OLD = [declare(GREET, ["name"], ["text"]), declare(SEND, ["text", "tries"], [])]


def typed(**schemas: Any) -> dict[str, Any]:
    """Return inputs whose values have these JSON schemas, as our runtime registers them."""
    return {name: {"type": "string", "contentSchema": schema} for name, schema in schemas.items()}


async def started(manager: Manager, runs: int = 1, **fields: Any) -> Flow:
    """Register the old nodes, and start runs, which wait for ``greet``."""
    ok(await manager.remote.register(OLD, "greeter"))
    store = {"required_keys": ["name"], "default_values": {}}
    body = manager.remote.body(PLACES, store_config=store, **fields)
    flow = await Flow.put(manager.remote, "greeting", body)
    for _ in range(runs):
        await flow.trigger(store={"name": "Ada"})
    return flow


async def check(manager: Manager, *nodes: dict[str, Any], **fields: Any) -> dict[str, Any]:
    body = {"runtimes": ["greeter"], "nodes": list(nodes), **fields}
    reply: dict[str, Any] = ok(await manager.remote.native("POST", "release/check", json=body))
    return reply


def found(reply: dict[str, Any]) -> list[tuple[str, str, list[str], int]]:
    changes = ((each["change"], each["runs"]) for each in reply["broken"])
    return [(change["node"], change["field"], change["places"], runs) for change, runs in changes]


async def test_the_same_nodes_break_nothing_and_need_no_comparison(manager: Manager) -> None:
    await started(manager)
    assert await check(manager, *OLD) == {"broken": [], "runs": 0, "checked": 0, "is_more": False}


@pytest.mark.parametrize(
    ("greet", "send", "expected"),
    [
        (declare(GREET, ["name", "tone"], ["text"]), OLD[1], [(GREET, "Inputs.tone", ["greet"], 2)]),
        (declare(GREET, ["name"], ["body"]), OLD[1], [(GREET, "Outputs.text", ["greet"], 2)]),
        (OLD[0], None, [(SEND, "", ["send"], 2)]),
        (declare(GREET, ["name"], ["text", "more"]), OLD[1], []),
        (declare(GREET, [], ["text"]), OLD[1], []),
        # What a state waits with, and what the graph names, are compared with the new type.
        (declare(GREET, typed(name={"type": "string", "maxLength": 3}), ["text"]), OLD[1], []),
        (
            declare(GREET, typed(name={"type": "string", "maxLength": 2}), ["text"]),
            OLD[1],
            [(GREET, "Inputs.name", ["greet"], 2)],
        ),
        (OLD[0], declare(SEND, {"text": {"type": "string"}, **typed(tries={"type": "integer"})}, []), []),
        (
            OLD[0],
            declare(SEND, {"text": {"type": "string"}, **typed(tries={"type": "integer", "maximum": 2})}, []),
            [(SEND, "Inputs.tries", ["send"], 2)],
        ),
        # Whether a text that is not known yet fits depends on it; it has to be perhaps at most 2 characters.
        (
            OLD[0],
            declare(
                SEND, {**typed(text={"type": "string", "maxLength": 2}), "tries": {"type": "string"}}, []
            ),
            [(SEND, "Inputs.text", ["send"], 2)],
        ),
        (declare(GREET, ["name"], ["text"], ["token"]), OLD[1], [(GREET, "Secrets.token", ["greet"], 2)]),
    ],
)
async def test_a_change_names_the_runs_that_it_breaks(
    manager: Manager, greet: dict[str, Any], send: dict[str, Any] | None, expected: list[Any]
) -> None:
    flow = await started(manager, runs=2)
    reply = await check(manager, *filter(None, [greet, send]))
    assert found(reply) == expected
    assert (reply["runs"], reply["checked"], reply["is_more"]) == (2 if expected else 0, 2, False)
    if expected:
        (broken,) = reply["broken"]
        assert (broken["graph"], broken["namespace"]) == ("greeting", manager.remote.namespace)
        assert broken["run_ids"][1] == flow.run_id, "the oldest first"


async def test_a_run_that_is_past_a_node_is_not_broken_by_its_change(manager: Manager) -> None:
    flow = await started(manager)
    await flow.run("greet", {"text": "Hello"})
    changed = declare(GREET, ["name", "tone"], ["body"])
    assert found(await check(manager, changed, OLD[1])) == []
    assert found(await check(manager, OLD[0], declare(SEND, ["text", "tries", "to"], []))) == [
        (SEND, "Inputs.to", ["send"], 1)
    ]
    await flow.run("send", {})
    assert (await check(manager, OLD[0], declare(SEND, ["text", "tries", "to"], [])))["checked"] == 0


async def test_a_node_of_another_runtime_is_not_removed(manager: Manager) -> None:
    await started(manager)
    assert found(await check(manager, OLD[0], runtimes=["other"])) == []


async def test_an_output_that_a_run_below_reads_is_missed(manager: Manager) -> None:
    ok(await manager.remote.register(OLD, "greeter"))
    store = {"required_keys": ["name"], "default_values": {}}
    await Flow.put(
        manager.remote,
        "below",
        manager.remote.body([PLACES[1] | {"inputs": {"text": "", "tries": ""}}], store_config=store),
    )
    above = [
        PLACES[0] | {"next_nodes": ["b"]},
        run_place("b", graph="below", inputs={"name": "${{greet.outputs.text}}"}),
    ]
    flow = await Flow.put(manager.remote, "above", manager.remote.body(above, store_config=store))
    await flow.trigger(store={"name": "Ada"})
    changed = declare(GREET, ["name"], ["body"])
    assert found(await check(manager, changed, OLD[1])) == [(GREET, "Outputs.text", ["greet"], 1)]
    assert found(await check(manager, *OLD)) == []


async def test_secrets_that_a_graph_is_no_longer_given_are_named(manager: Manager) -> None:
    ok(await manager.remote.register([declare(GREET, ["name"], ["text"], ["token"]), OLD[1]], "greeter"))
    await started(manager, secrets={"token": "a", "other": "b"})
    nodes = declare(GREET, ["name"], ["text"], ["token"]), OLD[1]
    assert found(await check(manager, *nodes)) == []
    assert found(await check(manager, *nodes, secrets={"greeting": ["token"]})) == []
    assert found(await check(manager, *nodes, secrets={"greeting": ["other"]})) == [
        (GREET, "Secrets.token", ["greet"], 1)
    ]


async def test_registering_what_breaks_runs_logs_one_warning_that_names_them(
    manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    flow = await started(manager)
    ok(await manager.remote.register(OLD, "greeter"))
    assert not caplog.records
    changed = declare(GREET, ["name", "tone"], ["body"])
    ok(await manager.remote.register([changed, OLD[1]], "greeter"))
    (line,) = [record.getMessage() for record in caplog.records]
    begin = "1 run in flight cannot go on with the nodes that runtime greeter registered in namespace tests:"
    assert line.startswith(f"{begin} {flow.run_id}: {GREET}.")
    assert "Inputs.tone" in line
    assert "Outputs.text" in line
    caplog.clear()
    ok(await manager.remote.register([changed, OLD[1]], "greeter"))
    assert not caplog.records, "nothing has changed"


async def test_a_runtime_that_asks_is_told_of_the_runs_that_it_breaks(
    manager: Manager, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = await started(manager)
    for tone in ("tone", "mood", "pace"):
        body = {"runtime_name": "greeter", "nodes": [declare(GREET, ["name", tone], ["text"]), OLD[1]]}
        if tone == "mood":
            reply = ok(await manager.remote.v0("PUT", "nodes/", json=body))
            assert set(reply) == {"runtime_name", "registered_nodes"}, "as the stock SDK knows it"
            continue
        if tone == "pace":
            # It starts at once, and the log has the line later.
            monkeypatch.setattr(v0, "MAX_COMPARING", 0)
        reply = ok(await manager.remote.v0("PUT", "nodes/", json={**body, "wants_broken_runs": True}))
        if tone == "tone":
            assert flow.run_id in reply["broken_runs"]
        else:
            assert "broken_runs" not in reply
    lines = [record.getMessage() for record in caplog.records]
    assert [tone for line in lines for tone in ("tone", "mood", "pace") if f"Inputs.{tone}" in line] == [
        "tone",
        "mood",
        "pace",
    ]


async def test_the_warning_is_one_short_line_whatever_names_runtimes_and_fields_have(
    manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    await started(manager)
    nodes = [declare(GREET, ["name", "a\nERROR\x1b[2J" + "b" * 100_000], ["text"]), OLD[1]]
    body = {"runtime_name": "greeter\nERROR", "nodes": nodes, "wants_broken_runs": True}
    reply = ok(await manager.remote.v0("PUT", "nodes/", json=body))
    (record,) = caplog.records
    for line in (record.getMessage(), reply["broken_runs"]):
        assert "runtime greeter\\nERROR registered" in line
        assert line.isprintable()
        assert len(line) <= 2_000


async def test_schemas_that_are_none_do_not_prevent_a_registration(
    manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    await started(manager)
    broken = {"properties": 3, "required": "x"}
    node = {**OLD[0], "inputs_schema": broken, "outputs_schema": broken}
    (change,) = (await check(manager, node, OLD[1]))["broken"]
    assert change["change"]["places"] == ["greet"]
    assert "it was not compared" in change["change"]["what"]
    ok(await manager.remote.register([node]))
    (record,) = caplog.records
    assert "it was not compared" in record.getMessage()
    assert not record.exc_info


async def test_runs_that_are_pinned_to_another_version_are_not_compared(manager: Manager) -> None:
    await started(manager)
    of_one = [{**node, "name": pinned_name(node["name"], "1")} for node in OLD]
    ok(await manager.remote.register([*OLD, *of_one], "greeter"))
    store = {"required_keys": ["name"], "default_values": {}}
    body = manager.remote.body(PLACES, store_config=store, version="1")
    await (await Flow.put(manager.remote, "pinned", body)).trigger(store={"name": "Ada"})
    changed = declare(GREET, ["name", "tone"], ["text"])
    reply = await check(manager, changed, OLD[1], {**changed, "name": pinned_name(GREET, "2")})
    assert [each["graph"] for each in reply["broken"]] == ["greeting"]
    # The same version with other fields.
    reply = await check(manager, *OLD, {**changed, "name": pinned_name(GREET, "1")}, of_one[1])
    assert [each["graph"] for each in reply["broken"]] == ["pinned"]


async def test_of_many_runs_the_oldest_are_compared(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broken_runs, "MAX_RUNS", 2)
    flow = await started(manager, runs=3)
    await Flow(manager.remote, "greeting").trigger(store={"name": "Ada"})
    body = manager.remote.body(PLACES, store_config={"required_keys": ["name"], "default_values": {}})
    await (await Flow.put(manager.remote, "other", body)).trigger(store={"name": "Ada"})
    reply = await check(manager, declare(GREET, ["name", "tone"], ["text"]), OLD[1])
    assert (reply["runs"], reply["checked"], reply["is_more"]) == (2, 2, True)
    assert [each["graph"] for each in reply["broken"]] == ["greeting"]
    assert flow.run_id not in reply["broken"][0]["run_ids"]
