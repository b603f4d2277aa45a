"""One-node runs through whichever SDK is named, in that SDK's own environment.

    python stock_runs.py exospherehost 500
    python stock_runs.py exotrio 500

It expects a state manager in EXOSPHERE_STATE_MANAGER_URI and prints states per second, from the first
node's beginning to the last one's. Nothing here may use more than the stock SDK offers.
"""

import importlib
import json
import os
import sys
import threading
import time
import urllib.request
from typing import Any

from pydantic import BaseModel

sdk: Any = importlib.import_module(sys.argv[1])
COUNT = int(sys.argv[2])
URI, KEY = os.environ["EXOSPHERE_STATE_MANAGER_URI"], os.environ["EXOSPHERE_API_KEY"]
began: list[float] = []
finished = threading.Event()


class Text(BaseModel):
    text: str


class One(sdk.BaseNode):
    Inputs, Outputs = Text, Text

    async def execute(self):
        began.append(time.perf_counter())
        if len(began) == COUNT:
            finished.set()
        return Text(text=self.inputs.text)


def ask(method, path, body):
    request = urllib.request.Request(
        f"{URI}/v0/namespace/stock/{path}",
        method=method,
        data=json.dumps(body).encode(),
        headers={"x-api-key": KEY, "content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def main():
    # All runs are there before the runtime is, so that neither SDK waits for triggers.
    schema = Text.model_json_schema()
    node = {"name": "One", "inputs_schema": schema, "outputs_schema": schema, "secrets": []}
    ask("PUT", "nodes/", {"runtime_name": "stock", "nodes": [node]})
    place = {"node_name": "One", "namespace": "stock", "identifier": "one", "inputs": {"text": "x"}}
    ask("PUT", "graph/one", {"secrets": {}, "nodes": [place]})
    for _ in range(COUNT):
        ask("POST", "graph/one/trigger", {})
    runtime = sdk.Runtime(namespace="stock", name="stock", nodes=[One])
    threading.Thread(target=runtime.start, daemon=True).start()
    assert finished.wait(300)
    print(COUNT / (began[-1] - began[0]))
    sys.stdout.flush()
    os._exit(0)  # the stock runtime cannot be stopped


main()
