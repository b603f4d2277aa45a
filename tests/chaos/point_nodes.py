"""The graph that runs under faults at points: fan-outs, nested unites, an error that is retried, a
prune and a requeue; and what is expected of it.

A node misbehaves until the state manager has accepted that it did, not once per execution: so what
is expected in the end does not hang on how often anything was executed.
"""

from __future__ import annotations

import json
from collections import Counter
from contextvars import ContextVar
from datetime import timedelta
from typing import Protocol

import trio
from pydantic import BaseModel

from exotrio import BaseNode, Graph, PruneSignal, ReQueueAfterSignal, RetryPolicyModel, RetryStrategyEnum
from exotrio.graph.references import AddedNode

NAMESPACE = "chaos"
Key = tuple[str, str]
"""Place and ``key`` input: one piece of work, whatever states it takes."""

FAILS: Key = ("Leaf", "0.1")
PRUNES: Key = ("Leaf", "1.0")
REQUEUES: Key = ("Leaf", "2.1")
TOKEN = "secret-canary-4711"
HALF = 0.5
"""Seconds of half a node."""


class Hands(Protocol):
    """What a node knows of the worker that runs it."""

    def begins(self, key: Key) -> None: ...
    async def reach(self, point: str, *keys: Key) -> None: ...
    def accepted(self, what: str, key: Key) -> bool: ...


HANDS: ContextVar[Hands] = ContextVar("HANDS")


class Step(BaseNode):
    """Does what its place does; one class for most places, since every registration describes each class."""

    class Inputs(BaseModel):
        place: str
        key: str
        values: str

    class Outputs(BaseModel):
        key: str

    async def execute(self) -> list[Outputs]:
        hands, key = HANDS.get(), (self.inputs.place, self.inputs.key)
        await hands.reach("before execute", key)
        hands.begins(key)
        await trio.sleep(HALF)
        await hands.reach("in execute", key)
        await trio.sleep(HALF)
        if key == FAILS and not hands.accepted("errored", key):
            raise RuntimeError("fails once")
        if key == PRUNES:
            raise PruneSignal({"why": "planned"})
        if key == REQUEUES and not hands.accepted("requeued", key):
            raise ReQueueAfterSignal(timedelta(seconds=2))
        outputs = [self.Outputs(key=output) for output in self._outputs()]
        await hands.reach("after execute", key)
        return outputs

    def _outputs(self) -> list[str]:
        key, values = self.inputs.key, self.inputs.values
        match self.inputs.place:
            case "Split":
                return ["0", "1", "2"]
            case "Part":
                return [f"{key}.{number}" for number in range(2)]
            case "Inner":
                return [f"{key}={'+'.join(json.loads(values))}"]
            case "Outer":
                return [" ".join(json.loads(values))]
        return [key]


class Sealed(Step):
    """Has to be given its secret."""

    class Secrets(BaseModel):
        token: str

    def _outputs(self) -> list[str]:
        assert self.secrets.token == TOKEN
        return super()._outputs()


NODES = (Step, Sealed)


GRAPH = Graph(
    "points",
    namespace=NAMESPACE,
    secrets={"token": TOKEN},
    retry_policy=RetryPolicyModel(max_retries=2, strategy=RetryStrategyEnum.FIXED, backoff_factor=500),
)


def _add(place: str, key: object, *, values: object = "", unites: AddedNode | None = None) -> AddedNode:
    node = Sealed if place == "Leaf" else Step
    return GRAPH.add(node, identifier=place, unites=unites, place=place, key=key, values=values)


_root = _add("Root", "root")
_split = _add("Split", _root.key)
_part = _add("Part", _split.key)
_leaf = _add("Leaf", _part.key)
_inner = _add("Inner", _split.key, values=_leaf.every.key, unites=_split)
_add("Outer", "all", values=_inner.every.key, unites=_root)

EXPECTED_STATES = Counter(
    {
        ("Root", "SUCCESS"): 1,
        ("Split", "SUCCESS"): 3,
        ("Part", "SUCCESS"): 6,
        ("Leaf", "SUCCESS"): 5,
        ("Leaf", "RETRY_CREATED"): 1,
        ("Leaf", "PRUNED"): 1,
        ("Inner", "SUCCESS"): 3,
        ("Outer", "SUCCESS"): 1,
    }
)
EXPECTED_RESULT = "0=0.0+0.1 1=1.1 2=2.0+2.1"
EXPECTED_WORK = {
    ("Root", "root"),
    ("Split", "root"),
    *(("Part", str(split)) for split in range(3)),
    *(("Leaf", f"{split}.{part}") for split in range(3) for part in range(2)),
    *(("Inner", str(split)) for split in range(3)),
    ("Outer", "all"),
}
