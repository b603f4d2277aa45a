"""The inputs of a node that is added to a graph, checked against its class, as the texts that are kept."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticSerializationError, to_jsonable_python

from exotrio._fields.codecs import name_of, resolved, text_of
from exotrio._fields.fit import fits
from exotrio._fields.models import field_problems, field_text, names_of
from exotrio._util.words import listed, meant
from exotrio.errors import GraphInvalid
from exotrio.graph.declaration import StoreConfigModel
from exotrio.graph.order import Order, Placed
from exotrio.graph.placeholders import OutputRef, PlaceholderError, StoreRef, parse_placeholders
from exotrio.graph.references import (
    AddedNode,
    EveryOutput,
    OutputReference,
    StoreReference,
    output_problem,
    repr_in,
)

OPTIONS = ("identifier", "namespace", "after", "unites", "strategy", "timeout_minutes", "inputs")
"""Names of the arguments of ``Graph.add`` that are not inputs."""


@dataclass
class Inputs:
    """What was given for the inputs of one node.

    Attributes:
        texts: What is kept, by name of the input.
        sources: The nodes whose outputs are referred to.
        problems: What is wrong, one line each.
    """

    texts: dict[str, str] = field(default_factory=dict)
    sources: list[Placed] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    _references: list[tuple[str, Placed, bool | None, str | None]] = field(default_factory=list)

    def refer(
        self, name: str, source: Placed, many: bool | None = None, type_problem: str | None = None
    ) -> None:
        """Note a reference of the input ``name``."""
        self._references.append((name, source, many, type_problem))
        if source not in self.sources:
            self.sources.append(source)

    def check(self, order: Order, placed: Collection[Placed]) -> Iterator[str]:
        """Yield why references have no value, or not the right one, where the node is to stand."""
        for name, source, many, type_problem in self._references:
            if problem := order.problem_of(source, many, placed) or type_problem:
                yield f"input {name!r}: {problem}"


class InputReader:
    """Reads what is given for inputs.

    Args:
        placed: The nodes of the graph, by identifier.
        store: The graph's store.
    """

    def __init__(self, placed: Mapping[str, Placed], store: StoreConfigModel) -> None:
        self._placed = placed
        self._store = store

    def read(self, node: type | str, given: Mapping[str, object]) -> Inputs:
        """Return the inputs of a node. Those that were not given have the defaults of its class."""
        found = Inputs()
        fields: dict[str, FieldInfo] | None = None
        if isinstance(node, type):
            model, outputs = models_of(node)
            found.problems += [
                f"{node.__name__}.{part}.{problem}"
                for part, each in (("Inputs", model), ("Outputs", outputs))
                for problem in field_problems(each)
            ]
            if found.problems:  # what is not a field has no codec
                return found
            fields = names_of(model)
            given = {**given, **dict(self._defaults(fields, given, found))}
        for name, value in given.items():
            info = None
            if fields is not None and (info := fields.get(name)) is None:
                hint = meant(name, (*fields, *OPTIONS)) or f": its inputs are {listed(fields)}"
                found.problems.append(f"{node_name(node)} has no input {name!r}{hint}")
                continue
            try:
                found.texts[name] = self._text(name, info, value, found)
            except ValueError as error:
                found.problems.append(f"input {name!r}: {error}")
        return found

    def _defaults(
        self, fields: Mapping[str, FieldInfo], given: Mapping[str, object], found: Inputs
    ) -> Iterator[tuple[str, object]]:
        """Yield the defaults of inputs that were not given: the state manager wants a text for each."""
        for name, info in fields.items():
            if name in given:
                continue
            if info.is_required():
                hint = f": give it by inputs={{{name!r}: ...}}" if name in OPTIONS else ""
                found.problems.append(f"input {name!r} is missing{hint}")
            elif info.default_factory is not None:
                found.problems.append(
                    f"input {name!r} is missing: its default_factory would be called once, not for each run"
                )
            else:
                yield name, info.default

    def _text(self, name: str, info: FieldInfo | None, value: object, found: Inputs) -> str:
        """Return the text for one input; raise ValueError."""
        if isinstance(value, AddedNode | EveryOutput):
            raise ValueError(f"{value!r} is a node, not one of its outputs: write node.output")
        if isinstance(value, OutputReference):
            if self._placed.get(value.placed.identifier) is not value.placed:
                raise ValueError(f"{value.placed.identifier!r} is a node of another graph")
            found.refer(name, value.placed, value.many, _type_problem(info, value))
            return _placeholder(value, OutputRef(value.placed.identifier, value.field))
        if isinstance(value, StoreReference):
            self._check_store(info, value.key)
            return _placeholder(value, StoreRef(value.key))
        if isinstance(value, str) and (shown := repr_in(value)):
            raise ValueError(
                f"{shown} is how Python shows a reference or a node, not a reference: "
                "write {node.output} without '!r', and each of a list by itself"
            )
        if isinstance(value, str) and "${{" in value:
            self._check_text(name, value, found)
            return value
        text = plain_text(value) if info is None else field_text(info, value)
        if "${{" in text:
            raise ValueError("a reference cannot stand within a value, where its text would not be escaped")
        return text

    def _check_text(self, name: str, text: str, found: Inputs) -> None:
        for piece in parse_placeholders(text):
            if isinstance(piece, str):
                continue
            if not isinstance(piece, OutputRef):
                self._check_store(None, piece.key)
            elif (source := self._placed.get(piece.identifier)) is None:
                hint = meant(piece.identifier, self._placed)
                raise ValueError(f"the graph has no node {piece.identifier!r} yet{hint}")
            elif problem := output_problem(source, piece.field):
                raise ValueError(problem)
            else:
                found.refer(name, source)

    def _check_store(self, info: FieldInfo | None, key: str) -> None:
        defaults, required = self._store.default_values, self._store.required_keys
        if key not in defaults and key not in required:
            raise ValueError(f"the graph has no store key {key!r}{meant(key, (*defaults, *required))}")
        if info is not None and key in defaults:
            try:
                field_text(info, defaults[key])
            except ValueError as error:
                raise ValueError(f"the default of store key {key!r} does not fit: {error}") from None


def _placeholder(reference: OutputReference | StoreReference, expected: OutputRef | StoreRef) -> str:
    """Return the placeholder of a reference; raise ValueError if its names make another one of it."""
    text = str(reference)
    with suppress(PlaceholderError):
        if parse_placeholders(text) == (expected,):
            return text
    raise ValueError(f"{text} is not a reference: names in one have no '.', no '}}}}' and no '${{{{'")


def _type_problem(info: FieldInfo | None, reference: OutputReference) -> str | None:
    """Return why the type of an output does not fit that of an input; None if it does, as far as is known."""
    placed = reference.placed
    if info is None or placed.outputs is None:
        return None
    given, wanted = placed.outputs[reference.field], info.annotation
    what = f"output {reference.field!r} of {placed.identifier!r} is"
    if reference.many and wanted is not str:
        if get_origin(resolved(wanted)) is not list:
            return f"{what} a list by .every, but the input is {name_of(wanted)}: declare it as a list or str"
        (wanted,) = get_args(resolved(wanted))
        what += " for each state"
    if fits(given, wanted):
        return None
    text = f'f"{{{placed.identifier}.{reference.field}}}"'
    return f"{what} {name_of(given)}, which does not always fit {name_of(wanted)}; {text} is not checked"


def models_of(node: type) -> tuple[type[BaseModel], type[BaseModel]]:
    """Return the Inputs and Outputs of a node class; raise GraphInvalid if it is none."""
    found = [getattr(node, part, None) for part in ("Inputs", "Outputs")]
    models = [each for each in found if isinstance(each, type) and issubclass(each, BaseModel)]
    if len(models) < len(found):
        raise GraphInvalid(f"{node.__name__} is not a node class: it does not inherit from exotrio.BaseNode")
    return models[0], models[1]


def outputs_of(node: type | str) -> dict[str, Any] | None:
    """Return the outputs of a node and their types; None if its class is not known."""
    if isinstance(node, str):
        return None
    return {name: info.annotation for name, info in names_of(models_of(node)[1]).items()}


def node_name(node: type | str) -> str:
    return node if isinstance(node, str) else node.__name__


def plain_text(value: object) -> str:
    """Return a value as text that no class says the type of; raise ValueError if it has none."""
    try:
        return text_of(to_jsonable_python(value))
    except PydanticSerializationError:
        raise ValueError(f"{type(value).__name__} has no form as text") from None
