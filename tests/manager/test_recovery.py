"""A process that is killed: what its own workers held is free at once, what others hold stays theirs."""

from __future__ import annotations

import json
from pathlib import Path

from exotrio.manager.store.view import View
from tests.contract.flow import Flow
from tests.support.helpers import ok
from tests.support.manager import open_manager, recount, running

HOLDS_STATES = """
import json, sys, trio
from tests.contract.flow import Flow
from tests.support.helpers import ok, place
from tests.support.manager import open_manager

async def main(path):
    async with open_manager(path) as manager:
        flow = await Flow.deploy(manager.api, place("t", "b"), place("b", "u"), place("u", unites="t"))
        held = {}
        for name, api in (("local", manager.api), ("remote", manager.remote)):
            run_id = await flow.trigger()
            await flow.run("t", {"v": "1"}, {"v": "2"})
            v0 = ok(await api.claim(["Node_b"], 1))["states"]
            native = ok(await api.native_claim({"Node_b": 1}, claim_id=name))["states"]
            held[name] = [run_id, v0[0]["state_id"], native[0]["state_id"], native[0]["lease"]["token"]]
        print(json.dumps(held), flush=True)
        await trio.sleep_forever()

trio.run(main, sys.argv[1])
"""


async def test_only_the_claims_of_the_killed_process_itself_are_handed_back(tmp_path: Path) -> None:
    db = tmp_path / "state.db"
    with running(HOLDS_STATES, db) as process:
        held = json.loads(process.line("^{.*")[0])
    _, local_v0, local_native, _ = held["local"]
    run_id, remote_v0, remote_native, token = held["remote"]
    async with open_manager(db) as manager:
        await manager.service.store.read(recount)
        free = ok(await manager.api.claim(["Node_b"], 10))["states"]
        assert {state["state_id"] for state in free} == {local_v0, local_native}
        # The others go on as if nothing had happened, through v0 and under their lease.
        (again,) = ok(await manager.remote.native_claim({"Node_b": 1}, claim_id="remote"))["states"]
        assert (again["state_id"], again["lease"]["token"]) == (remote_native, token)
        ok(await manager.remote.executed(remote_v0, {"v": "x"}))
        item = {"state_id": remote_native, "token": token, "outcome": "executed", "outputs": []}
        assert ok(await manager.remote.outcomes(item))["items"][0]["result"] == "ok"
        flow = Flow(manager.api, "graph", run_id)
        assert (await flow.statuses())[("u", "CREATED")] == 2
        await manager.service.store.read(recount)


KILLED_AT_WORK = """
import sys, trio
from tests.contract.flow import Flow
from tests.support.helpers import ok, place
from tests.support.manager import open_manager

async def work(manager, flow):
    api = manager.api
    while True:
        await flow.trigger()
        for state in ok(await api.claim(["Node_t", "Node_b", "Node_u"], 5))["states"]:
            outputs = [{"v": "1"}, {"v": "2"}] if state["identifier"] == "t" else [{"v": "1"}]
            ok(await api.executed(state["state_id"], *outputs))
            print(state["state_id"], flush=True)

async def main(path):
    async with open_manager(path) as manager, trio.open_nursery() as nursery:
        flow = await Flow.deploy(manager.api, place("t", "b"), place("b", "u"), place("u", unites="t"))
        for _ in range(8):
            nursery.start_soon(work, manager, flow)

trio.run(main, sys.argv[1])
"""


async def test_what_was_answered_before_a_kill_is_there_after_it_and_the_counters_are_right(
    tmp_path: Path,
) -> None:
    db = tmp_path / "state.db"
    with running(KILLED_AT_WORK, db) as process:
        process.line("", number=150)
        process.kill()
        printed = process.wait().out.splitlines(keepends=True)
        answered = {line.strip() for line in printed if line.endswith("\n")}

    def succeeded(view: View) -> set[str]:
        return {
            view.state_id(row[0]) for row in view.execute("SELECT seq FROM states WHERE status = 'SUCCESS'")
        }

    async with open_manager(db) as manager:
        await manager.service.store.read(recount)
        assert await manager.service.store.read(succeeded) >= answered
        # Everything that is left can be finished.
        while states := ok(await manager.api.claim(["Node_t", "Node_b", "Node_u"], 1000))["states"]:
            for state in states:
                ok(await manager.api.executed(state["state_id"], {"v": "1"}))
        await manager.service.store.read(recount)
        left = await manager.service.store.read(lambda view: view.row("SELECT sum(pending) FROM runs"))
        assert left is not None
        assert left[0] == 0
