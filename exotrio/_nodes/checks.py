"""The checks on node classes, and the declaration under which a checked class is registered."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

from exotrio._fields.allowed import field_problems
from exotrio._fields.codecs import name_of
from exotrio._fields.models import Fields, fields_of
from exotrio._nodes.base import BaseNode, RunsIn, checkpoint_class_of
from exotrio._nodes.importing import NotImportable, target_of
from exotrio._util.words import shortened
from exotrio.graph import check_name

if TYPE_CHECKING:
    from exotrio._wire.v0 import NodeDeclaration


_LIST = re.compile(r"\b([Ll]ist|Sequence)\[")
"""A list in the text of an annotation. It cannot be evaluated: ``Outputs`` is a name only in the class."""


def node_problems(nodes: Sequence[Any]) -> list[str]:
    """Return all problems of these node classes, one line each."""
    problems: list[str] = []
    seen: dict[str, int] = {}
    for position, node in enumerate(nodes):
        if not isinstance(node, type):
            hint = "pass the class itself, not an instance" if isinstance(node, BaseNode) else "pass classes"
            problems.append(f"nodes[{position}] is {shown(node)}, not a class: {hint}")
            continue
        seen[node.__name__] = seen.get(node.__name__, 0) + 1
        if not issubclass(node, BaseNode):
            problems.append(f"{node.__name__} does not inherit from exotrio.BaseNode")
            continue
        problems += _class_problems(node)
    problems += [
        f"{count} node classes are named {name}: a state names its class, so names must differ"
        for name, count in seen.items()
        if count > 1
    ]
    return problems


def declare(node: type[BaseNode]) -> NodeDeclaration:
    """Return the declaration under which a checked node class is registered."""
    # Here, since importing the bodies takes 10 ms, which a file that only declares nodes does not need.
    from exotrio._wire.v0 import NodeDeclaration

    models = models_of(node)
    return NodeDeclaration(
        name=node.__name__,
        inputs_schema=models["Inputs"],
        outputs_schema=models["Outputs"],
        secrets=list(node.Secrets.model_fields),
    )


def models_of(node: type[BaseNode]) -> dict[str, dict[str, Any]]:
    """Return the JSON schemas of the models of a checked node class, except ``Secrets``."""
    models = {"Inputs": _schema(node.Inputs), "Outputs": _schema(node.Outputs)}
    if (checkpoint := checkpoint_class_of(node)) is not None:
        # Other than inputs, unknown fields are refused unless the model says what happens to them.
        ignores = checkpoint.model_config.get("extra") in ("ignore", "allow")
        models["Checkpoint"] = {**_schema(checkpoint), "additionalProperties": ignores}
    return models


def returns_list(node: type[BaseNode]) -> bool:
    """Whether ``execute`` is declared to return a list: the node fans out."""
    try:
        returned = inspect.unwrap(node.execute).__annotations__.get("return")
    except NameError:  # from Python 3.14 on, names that only type checkers have are looked up here
        return False
    return _LIST.search(returned if isinstance(returned, str) else str(returned)) is not None


@lru_cache(256)  # tests build many runtimes of the same nodes
def _schema(model: type[BaseModel]) -> dict[str, Any]:
    return (fields_of(model) or Fields(model)).schema()


def _class_problems(node: type[BaseNode]) -> list[str]:
    problems = []
    try:
        check_name(node.__name__)
    except ValueError as error:
        problems.append(f"the class name {node.__name__!r} {error}")
    missing = sorted(getattr(node, "__abstractmethods__", ()))
    if "execute" in missing:
        problems.append(f"{node.__name__} has no execute method: write async def execute(self)")
        missing.remove("execute")
    else:
        problems += _execute_problems(node)
    if missing:
        problems.append(f"{node.__name__} does not define the abstract {', '.join(missing)}")
    if not _callable_with(node, 0):
        problems.append(
            f"{node.__name__} cannot be created without arguments: give those of __init__ defaults"
        )
    problems += _place_problems(node)
    if node.timeout is not None:
        problems += seconds_problems(f"{node.__name__}.timeout", node.timeout)
    if node.concurrency is not None:
        problems += count_problems(f"{node.__name__}.concurrency", node.concurrency)
    problems += _no_retry_problems(node)
    parts = ["Inputs", "Outputs", "Secrets"]
    if checkpoint_class_of(node) is not None:
        parts.append("Checkpoint")
    for part in parts:
        problems += _model_problems(f"{node.__name__}.{part}", getattr(node, part, None))
    return problems


def _place_problems(node: type[BaseNode]) -> list[str]:
    problems = []
    place: Any = node.runs_in
    if place is not None and place not in get_args(RunsIn):
        known = ", ".join(f'"{each}"' for each in get_args(RunsIn))
        problems.append(f"{node.__name__}.runs_in is {shown(place)}: it must be one of {known}, or None")
    # A decorator may have made a plain function of a coroutine function.
    elif place in ("trio", "asyncio") and not inspect.iscoroutinefunction(inspect.unwrap(node.execute)):
        problems.append(
            f'{node.__name__}.runs_in is "{place}", but its execute is a plain def: '
            "write async def execute(self), or leave runs_in out to have it run in a thread"
        )
    elif place == "thread" and inspect.iscoroutinefunction(node.execute):
        problems.append(
            f'{node.__name__}.runs_in is "thread", but its execute is an async def: '
            "write def execute(self), or leave runs_in out to have it run on Trio"
        )
    elif place == "process":
        try:
            target_of(node)
        except NotImportable as error:
            problems.append(
                f'{node.__name__}.runs_in is "process", but no other process can import it: {error}'
            )
    return problems


def _no_retry_problems(node: type[BaseNode]) -> list[str]:
    listed: Any = node.no_retry
    if not isinstance(listed, tuple):
        example = f"({listed.__name__},)" if _is_exception(listed) else "(ValueError,)"
        return [
            f"{node.__name__}.no_retry is {shown(listed)}: "
            f"it must be a tuple of exception classes, such as {example}"
        ]
    return [
        f"{node.__name__}.no_retry[{at}] is {shown(one)}: it must be an exception class"
        for at, one in enumerate(listed)
        if not _is_exception(one)
    ]


def _is_exception(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


def _execute_problems(node: type[BaseNode]) -> list[str]:
    execute: Any = inspect.getattr_static(node, "execute")
    if isinstance(execute, staticmethod | classmethod):
        return [f"{node.__name__}.execute must be a plain method, not a {type(execute).__name__}"]
    if not callable(execute):
        return [f"{node.__name__}.execute is {shown(execute)}, not a method: write async def execute(self)"]
    if inspect.isasyncgenfunction(execute) or inspect.isgeneratorfunction(execute):
        return [f"{node.__name__}.execute is a generator (it has a yield): return a list of Outputs instead"]
    if not _callable_with(execute, 1):
        return [
            f"{node.__name__}.execute must take no argument but self: "
            "inputs are in self.inputs, secrets in self.secrets"
        ]
    return []


def _model_problems(title: str, model: Any) -> list[str]:
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return [f"{title} must be a class that inherits from pydantic.BaseModel, not {shown(model)}"]
    if title.endswith(".Secrets"):
        problems = [
            f"{title}.{field}: must be of type str, not {name_of(info.annotation)}: secrets are text"
            for field, info in model.model_fields.items()
            if info.annotation is not str
        ]
    else:
        problems = [f"{title}.{problem}" for problem in field_problems(model)]
    if not problems:
        try:
            _schema(model)
        except Exception as error:
            problems.append(f"{title} has no JSON schema: {error}")
    return problems


def _callable_with(function: Any, count: int) -> bool:
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:
        return True  # it has no signature (C code): the call itself fails, if it does
    return True


# -- any argument


def seconds_problems(title: str, value: Any, *, zero: bool = False) -> list[str]:
    """Return the problem of a number of seconds; ``zero`` says whether it may be zero."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and 0 <= value <= sys.float_info.max and (value or zero):
        return []
    least = "not below" if zero else "above"
    return [f"{title} is {shown(value)}: it must be a finite number of seconds {least} zero"]


def count_problems(title: str, value: Any) -> list[str]:
    """Return the problem of a number that has to be whole, and at least 1."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return []
    return [f"{title} is {shown(value)}: it must be a whole number, at least 1"]


def shown(value: Any) -> str:
    """Return a value for a message."""
    try:
        return shortened(repr(value), 80)
    except Exception:
        return f"a {type(value).__name__}"
