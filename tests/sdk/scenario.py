"""A workload written against the stock SDK's names, in one file, for the SDK's own environment.

    python scenario.py exospherehost    # the unmodified stock SDK
    python scenario.py exotrio          # the same nodes and graphs; only the import differs

It expects a state manager in EXOSPHERE_STATE_MANAGER_URI and prints, as JSON, what each graph's last
nodes received, and how each graph's run ended: its status, and how many states succeeded, failed and
were retried. Nothing here may use more than the stock SDK offers; the attributes of ``Sleeps`` mean
nothing to it.
"""

import asyncio
import importlib
import json
import os
import sys
import threading
import time
import urllib.request
from datetime import timedelta
from typing import Any

from pydantic import BaseModel

sdk: Any = importlib.import_module(sys.argv[1])
NAMESPACE = f"interop-{sys.argv[1]}"
URI, KEY = os.environ["EXOSPHERE_STATE_MANAGER_URI"], os.environ["EXOSPHERE_API_KEY"]
seen: dict[str, list] = {}
tries: dict[str, int] = {}


class In(BaseModel):
    text: str


class Out(BaseModel):
    text: str


class Echo(sdk.BaseNode):
    Inputs, Outputs = In, Out

    async def execute(self):
        return Out(text=self.inputs.text + "!")


class Fan(sdk.BaseNode):
    Inputs, Outputs = In, Out

    async def execute(self):
        return [Out(text=f"{self.inputs.text}{i}") for i in range(3)]


class PruneSecond(sdk.BaseNode):
    Inputs, Outputs = In, Out

    async def execute(self):
        if self.inputs.text.endswith("1"):
            raise sdk.PruneSignal({"why": "second"})
        return Out(text=self.inputs.text)


class Flaky(sdk.BaseNode):
    Inputs, Outputs = In, Out

    async def execute(self):
        tries["flaky"] = tries.get("flaky", 0) + 1
        if tries["flaky"] < 3:
            raise RuntimeError("not yet")
        return Out(text=f"after {tries['flaky']}")


class Broken(sdk.BaseNode):
    Inputs, Outputs = In, Out

    async def execute(self):
        raise RuntimeError("never")


class Again(sdk.BaseNode):
    Inputs, Outputs = In, Out

    async def execute(self):
        tries["again"] = tries.get("again", 0) + 1
        if tries["again"] == 1:
            raise sdk.ReQueueAfterSignal(timedelta(milliseconds=50))
        return Out(text=f"requeued {tries['again'] - 1}")


class Secretive(sdk.BaseNode):
    Inputs, Outputs = In, Out

    class Secrets(BaseModel):
        token: str

    async def execute(self):
        return Out(text=self.secrets.token[::-1])


class Sleeps(sdk.BaseNode):
    """What runs on asyncio only: with exotrio it says so."""

    Inputs, Outputs = In, Out
    runs_in = "asyncio"

    async def execute(self):
        async with asyncio.timeout(30):
            await asyncio.sleep(0.001)
        return Out(text=self.inputs.text.upper())


class Nothing(sdk.BaseNode):
    Inputs = In

    async def execute(self):
        return None


class Last(sdk.BaseNode):
    """Notes what reached the end of a graph."""

    class Inputs(BaseModel):
        graph: str
        text: str

    async def execute(self):
        seen.setdefault(self.inputs.graph, []).append(self.inputs.text)


NODES = [Echo, Fan, PruneSecond, Flaky, Broken, Again, Secretive, Sleeps, Nothing, Last]


def place(node, identifier, inputs, after=None, unites=None):
    return sdk.GraphNodeModel(
        node_name=node.__name__,
        namespace=NAMESPACE,
        identifier=identifier,
        inputs=inputs,
        next_nodes=after,
        unites=unites,
    )


def last(graph, text="done", unites=None):
    return place(Last, "last", {"graph": graph, "text": text}, unites=unites)


def chain(graph, node, text="x"):
    result = last(graph, "${{ first.outputs.text }}")
    return [place(node, "first", {"text": text}, ["last"]), result]


def united(graph, node, strategy, on="plan"):
    return [
        place(Echo, "plan", {"text": "p"}, ["fan"]),
        place(Fan, "fan", {"text": "f"}, ["work"]),
        place(node, "work", {"text": "${{ fan.outputs.text }}"}, ["last"]),
        last(graph, f"${{{{ {on}.outputs.text }}}}", sdk.UnitesModel(identifier=on, strategy=strategy)),
    ]


RETRY = sdk.RetryPolicyModel(max_retries=2, strategy=sdk.RetryStrategyEnum.FIXED, backoff_factor=1)
ALL_SUCCESS, ALL_DONE = sdk.UnitesStrategyEnum.ALL_SUCCESS, sdk.UnitesStrategyEnum.ALL_DONE


async def drive():
    manager = sdk.StateManager(NAMESPACE)

    async def run(graph, nodes, secrets=None, trigger=None, **fields):
        shown = await manager.upsert_graph(graph, nodes, secrets or {}, RETRY, **fields)
        assert shown["validation_status"] == "VALID", shown
        if trigger is not None:
            reply = await manager.trigger(graph, **trigger)
            assert reply["run_id"], reply

    store = sdk.StoreConfigModel(required_keys=["who"], default_values={"greeting": "hello"})
    await run(
        "store",
        chain("store", Echo, "${{ store.greeting }} ${{ store.who }}"),
        store_config=store,
        trigger={"store": {"who": "Ada"}, "start_delay": 10},
    )
    await run("linear", chain("linear", Echo), trigger={"inputs": {"text": "given"}})
    await run("retry", chain("retry", Flaky), trigger={})
    await run("requeue", chain("requeue", Again), trigger={})
    await run("secret", chain("secret", Secretive), secrets={"token": "olleh"}, trigger={})
    await run("asyncio", chain("asyncio", Sleeps), trigger={})
    await run("fan_out", chain("fan_out", Fan), trigger={})
    await run("prune", chain("prune", PruneSecond, "ends in 1"), trigger={})
    await run("all_success", united("all_success", Echo, ALL_SUCCESS), trigger={})
    await run("all_success_failed", united("all_success_failed", Broken, ALL_SUCCESS), trigger={})
    await run("all_done", united("all_done", Broken, ALL_DONE), trigger={})
    await run("all_done_pruned", united("all_done_pruned", PruneSecond, ALL_DONE), trigger={})
    await run("unite_each", united("unite_each", Echo, ALL_SUCCESS, on="fan"), trigger={})
    await run("unite_each", united("unite_each", Sleeps, ALL_SUCCESS, on="fan"), trigger={})
    await run("nothing", [place(Nothing, "first", {"text": "x"}, ["last"]), last("nothing")], trigger={})
    await run("cron", chain("cron", Echo, "tick"), triggers=[sdk.CronTrigger(expression="* * * * * *")])
    assert (await manager.get_graph("cron"))["validation_status"] == "VALID"


def main():
    # poll_interval as stock allows; the SDK's own loop sleeps it after every poll.
    runtime = sdk.Runtime(namespace=NAMESPACE, name="interop", nodes=NODES, poll_interval=1)
    threading.Thread(target=runtime.start, daemon=True).start()
    wait_until_registered()
    asyncio.run(drive())
    deadline = time.monotonic() + 60
    while not is_over(runs := ask("runs/1/1000")["runs"]) and time.monotonic() < deadline:
        time.sleep(0.05)
    ended = [
        [
            run["graph_name"],
            run["status"],
            *(run[f"{what}_count"] for what in ("success", "errored", "retried")),
        ]
        for run in runs
        if run["graph_name"] != "cron"
    ]
    received = {graph: sorted(texts) for graph, texts in seen.items() if graph != "cron"}
    print(json.dumps({"received": received, "ended": sorted(ended), "cron": sorted(set(seen["cron"]))}))
    sys.stdout.flush()
    # The stock runtime cannot be stopped.
    os._exit(0)


def is_over(runs):
    pending = [run for run in runs if run["status"] == "PENDING" and run["graph_name"] != "cron"]
    return "cron" in seen and not pending


def ask(path):
    request = urllib.request.Request(f"{URI}/v0/namespace/{NAMESPACE}/{path}", headers={"x-api-key": KEY})
    return json.load(urllib.request.urlopen(request))


def wait_until_registered():
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if ask("nodes/")["count"] == len(NODES):
            return
        time.sleep(0.05)
    sys.exit("the runtime did not register")


main()
