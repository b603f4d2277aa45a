"""Descriptions of runs to start, and the check of a list of them that takes several requests.

Our server checks each request. So the second one could be refused when the runs of the first have started.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import urandom
from typing import Any

import anyio
from pydantic import BaseModel

from exotrio._fields.models import NONE, NoneText, Values, texts_of
from exotrio._wire.graphs import GraphReply
from exotrio._wire.v0 import NodesReply
from exotrio._wire.vocabulary import MAX_WEIGHT, MIN_WEIGHT, Priority
from exotrio.client._calls import Calls
from exotrio.errors import ConfigurationError, RequestRefused
from exotrio.graph.values import ValueCheck, check_of

MAX_NAMED = 10
"""Runs of a list that an error names."""
ORDERED, _ORDER = ("priority", "weight", "fair_key"), (Priority.NORMAL.value, 1.0, None)
"""The fields that say in which order the states of a run are claimed, and their defaults."""
_PRIORITIES = frozenset(Priority)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRun:
    """A run for ``trigger_many``, described as for ``trigger``.

    It has a ``run_id`` or a ``key``, not both.
    """

    inputs: Values = field(default_factory=dict)
    store: Mapping[str, object] = field(default_factory=dict)
    start_delay: int = 0
    run_id: str | None = None
    key: str | None = None
    priority: str = Priority.NORMAL.value
    weight: float = 1.0
    fair_key: str | None = None

    def request(self) -> dict[str, Any]:
        """Return the body of a native request, without what has its default. It has an id or a key, so that
        repeating the request cannot start a second run.

        Raises:
            ConfigurationError: a value has no form as text; or it has an id and a key; or its priority or its
                weight is none.
        """
        if self.priority not in _PRIORITIES:
            known = ", ".join(Priority)
            raise ConfigurationError(f"the priority {self.priority!r} of a run is not one of: {known}")
        if not MIN_WEIGHT <= self.weight <= MAX_WEIGHT:
            bounds = f"{MIN_WEIGHT:g} to {MAX_WEIGHT:g}"
            raise ConfigurationError(f"the weight {self.weight!r} of a run is not in the bounds of {bounds}")
        if self.run_id is not None and self.key is not None:
            raise ConfigurationError(
                "a run has a run_id or a key, not both: the state manager makes the id of a run with a key"
            )
        once = {"run_id": str(self.run_id or _new_id())} if self.key is None else {"key": self.key}
        request: dict[str, Any] = once
        if inputs := texts_of("inputs", self.inputs, none=NONE):
            request["inputs"] = inputs
        if store := texts_of("store values", self.store):
            request["store"] = store
        if self.start_delay != 0:
            request["start_delay"] = self.start_delay
        if (order := (self.priority, self.weight, self.fair_key)) != _ORDER:
            request |= zip(ORDERED, order, strict=True)
        return request


def _new_id() -> str:
    """Return a random UUID as text, in half the time of ``uuid4``: a list may have a million runs."""
    digits = urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) % 4]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


NewRuns = Iterable[NewRun | Values] | AsyncIterable[NewRun | Values]


async def check_list(calls: Calls, graph_name: str, runs: Sequence[NewRun | Values]) -> None:
    """Check the values of all runs of a list.

    Raises:
        RequestRefused: inputs or store of a run do not fit what is registered.
        ConfigurationError: an entry is not a run, or a value has no form as text.
    """
    graph, check = await _fetch_check(calls, graph_name)
    if check is None:
        return
    problems: list[str] = []
    for index, (inputs, store) in enumerate(_texts_of_each(runs)):
        if index % 1_000 == 0:
            await anyio.lowlevel.checkpoint()
        wrong = list(check.problems(inputs, store))
        if missing := [key for key in graph.store_config.required_keys if key not in store]:
            wrong.append(f"the store lacks required keys: {', '.join(missing)}")
        if wrong:
            problems.append(f"runs[{index}]: {'; '.join(wrong)}")
            if len(problems) == MAX_NAMED:
                break
    if problems:
        raise RequestRefused("\n".join([f"runs of graph {graph_name!r} are refused:", *problems]))


class NoneCheck:
    """Refuses None for inputs that do not accept it. The schemas are read only if there is one."""

    def __init__(self, calls: Calls, graph_name: str) -> None:
        self._calls = calls
        self._graph_name = graph_name
        self._check: ValueCheck | None = None

    async def problems(self, inputs: Mapping[str, str]) -> list[str]:
        """Return what is wrong with these inputs. A search for ``NONE`` is faster than this call."""
        nones = {name: text for name, text in inputs.items() if isinstance(text, NoneText)}
        if nones and self._check is None:
            _, self._check = await _fetch_check(self._calls, self._graph_name)
        return [] if not nones or self._check is None else list(self._check.problems(nones, {}))


async def _fetch_check(calls: Calls, graph_name: str) -> tuple[GraphReply, ValueCheck | None]:
    graph = await calls.fetch(GraphReply, "GET", calls.v0("graph", graph_name))
    nodes = (await calls.fetch_list(NodesReply, "nodes", "")).nodes
    schemas = {(node.namespace, node.name): node.inputs_schema for node in nodes}
    return graph, check_of(graph_name, graph.nodes, graph.store_config, schemas)


def _texts_of_each(runs: Sequence[NewRun | Values]) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    for index, item in enumerate(runs):
        inputs = item.inputs if isinstance(item, NewRun) else _values_of(index, item)
        store = item.store if isinstance(item, NewRun) else {}
        try:
            yield texts_of("inputs", inputs, none=NONE), texts_of("store values", store)
        except ConfigurationError as error:
            raise _named(index, error) from None


def request_of(index: int, item: NewRun | Values) -> dict[str, Any]:
    """Return the body of a native request for an entry of a list; errors as in ``NewRun.request``."""
    try:
        if isinstance(item, NewRun):
            return item.request()
        inputs = texts_of("inputs", _values_of(index, item), none=NONE)
        return {"run_id": _new_id(), "inputs": inputs} if inputs else {"run_id": _new_id()}
    except ConfigurationError as error:
        raise _named(index, error) from None


def _values_of(index: int, item: NewRun | Values) -> Values:
    if isinstance(item, dict | Mapping | BaseModel):  # a dict is found at once
        return item
    what = f"runs[{index}] is a {type(item).__name__}, not a NewRun or the inputs of one"
    raise ConfigurationError(what)


def _named(index: int, error: ConfigurationError) -> ConfigurationError:
    return ConfigurationError(f"runs[{index}]: {error.what}", error.problems)
