"""What the names of the stock SDK do, as JSON: ``python behaviour.py exospherehost``.

Each line is evaluated with the package as ``sdk``: models show what they hold, which is what travels;
enums their value; whatever raises shows that it does. It runs in the SDK's own environment too.
"""

import enum
import importlib
import json
import sys
from datetime import timedelta
from typing import Any

LINES = """
sdk.GraphNodeModel(node_name=" A ", namespace=" n ", identifier=" a ", inputs={"p": "x"})
sdk.GraphNodeModel(node_name="A", namespace="n", identifier="a", inputs={}, next_nodes=[" b ", "c"])
sdk.GraphNodeModel(node_name="A", namespace="n", identifier="a", inputs={}, next_nodes=[])
sdk.GraphNodeModel(node_name="A", namespace="n", identifier="a")
sdk.GraphNodeModel(node_name="A", namespace="n", identifier="a", unites=sdk.UnitesModel(identifier=" t "))
sdk.GraphNodeModel(node_name=" ", namespace="n", identifier="a")
sdk.GraphNodeModel(node_name="A", namespace="n", identifier=" ")
sdk.GraphNodeModel(node_name="A", namespace="n", identifier="store")
sdk.GraphNodeModel(node_name="A", namespace="n", identifier="a", next_nodes=["b", "b "])
sdk.GraphNodeModel(node_name="A", namespace="n", identifier="a", next_nodes=[" "])
sdk.GraphNodeModel(node_name="A", namespace="n", identifier="a", next_nodes="b")
sdk.GraphNodeModel(node_name="A", namespace="n", identifier="a", unites={"identifier": " "})
sdk.GraphNodeModel(node_name="A", namespace="n", identifier="a", unites=sdk.UnitesModel(identifier=" "))
sdk.GraphNodeModel(namespace="n", identifier="a")
sdk.UnitesModel(identifier=" ")
sdk.UnitesModel(identifier=" t ")
sdk.UnitesModel(identifier="t", strategy="ALL_DONE")
sdk.UnitesModel(identifier="t", strategy="ANY")
sdk.RetryPolicyModel()
sdk.RetryPolicyModel(max_retries="4", strategy="FIXED_FULL_JITTER", backoff_factor=1.0, max_delay=5)
sdk.RetryPolicyModel(max_retries=-1)
sdk.RetryPolicyModel(backoff_factor=0)
sdk.RetryPolicyModel(exponent=0)
sdk.RetryPolicyModel(max_delay=0)
sdk.RetryPolicyModel(backoff_factor=1.5)
sdk.StoreConfigModel()
sdk.StoreConfigModel(required_keys=[" a ", "b"], default_values={" c ": "d", "e": ""})
sdk.StoreConfigModel(required_keys=["a", "a "])
sdk.StoreConfigModel(required_keys=["a.b"])
sdk.StoreConfigModel(required_keys=[""])
sdk.StoreConfigModel(default_values={"a.b": "c"})
sdk.StoreConfigModel(default_values={" ": "c"})
sdk.StoreConfigModel(default_values={"a": "b", " a ": "c"})
sdk.StoreConfigModel(default_values={"a": 5})
sdk.CronTrigger(expression="0 9 * * 1-5")
sdk.CronTrigger()
sdk.UnitesStrategyEnum.ALL_DONE == "ALL_DONE"
sdk.UnitesStrategyEnum("ALL_DONE")
sdk.RetryStrategyEnum("LINEAR_EQUAL_JITTER")
isinstance(sdk.RetryStrategyEnum.FIXED, str)
sdk.RetryStrategyEnum("linear")
issubclass(sdk.PruneSignal, Exception)
sdk.PruneSignal().data
sdk.PruneSignal({"a": [1]}).data
sdk.PruneSignal(data={"a": 1}).data
issubclass(sdk.ReQueueAfterSignal, Exception)
sdk.ReQueueAfterSignal(timedelta(seconds=2)).delay
sdk.ReQueueAfterSignal(delay=timedelta(seconds=2)).delay
sdk.ReQueueAfterSignal(timedelta(0))
sdk.ReQueueAfterSignal(timedelta(seconds=-1))
"do not catch" in str(sdk.PruneSignal({"a": 1})).lower()
"{'a': 1}" in str(sdk.PruneSignal({"a": 1}))
"do not catch" in str(sdk.ReQueueAfterSignal(timedelta(seconds=2))).lower()
sdk.VERSION == sdk.__version__
sdk.BaseNode()
sdk.BaseNode.Inputs()
sdk.BaseNode.Outputs()
sdk.BaseNode.Secrets()
type("Node", (sdk.BaseNode,), {"execute": lambda self: None})().inputs
sdk.Runtime("n", "r", [], "http://x", "k", batch_size=0)
sdk.Runtime("n", "r", [int], "http://x", "k")
sdk.Runtime("n", "r", [type("A", (sdk.BaseNode,), {"execute": None})] * 2, "http://x", "k")
sdk.Runtime("n", "r", [type("A", (sdk.BaseNode,), {"Inputs": int})], "http://x", "k")
""".strip().splitlines()


def shown(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, enum.Enum):
        return value.value
    return value if isinstance(value, bool | int | str | list | dict | None) else repr(value)


def behaviour(sdk: Any) -> dict[str, Any]:
    """Return what each line comes to."""
    results: dict[str, Any] = {}
    for line in LINES:
        try:
            results[line] = shown(eval(line, {"sdk": sdk, "timedelta": timedelta}))
        except Exception:
            results[line] = "raises"
    return results


if __name__ == "__main__":
    print(json.dumps(behaviour(importlib.import_module(sys.argv[1]))))
