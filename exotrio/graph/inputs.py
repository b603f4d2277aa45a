"""The inputs of a node that is added to a graph, checked against its class, as the texts that are kept; and
the keys of its limits."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from exotrio._fields.allowed import field_problems
from exotrio._fields.codecs import name_of, optional, resolved
from exotrio._fields.fit import fits, may_not_be_json
from exotrio._fields.models import field_text, names_of, plain_text
from exotrio._util.words import listed, shortened, suggestion
from exotrio.errors import GraphInvalid
from exotrio.graph.conditions import UNKNOWN, Condition
from exotrio.graph.declaration import MAX_LIMIT_KEY, MAX_NAME, StoreConfigModel
from exotrio.graph.limits import Limit
from exotrio.graph.node_model import NodeLimitModel, UnitesModel
from exotrio.graph.nodes import GraphNode
from exotrio.graph.placeholders import OutputRef, PlaceholderError, StoreRef, parse_placeholders
from exotrio.graph.references import (
    AddedNode,
    EveryOutput,
    OutputReference,
    StoreReference,
    node_of,
    output_problem,
    repr_in,
)

OPTIONS = (
    "identifier",
    "namespace",
    "after",
    "unites",
    "strategy",
    "timeout_minutes",
    "timeout",
    "retry_policy",
    "limits",
    "inputs",
)
"""Names of the arguments of ``Graph.add`` that are not inputs."""


class Inputs:
    """The inputs of one node, and the keys of its limits.

    Args:
        node: The class of the node, or its name.
        values: The values of inputs; the others have the defaults of the class.
        nodes: The nodes of the graph, by identifier.
        store: The graph's store.
        options: Names of given arguments that are not inputs, although older nodes may have inputs so named.

    Attributes:
        sources: The nodes whose outputs are referred to.
        problems: What is wrong, one line each.
        doubts: What is allowed, but seldom intended: a line for each input that has one, by its name.
    """

    def __init__(
        self,
        node: type | str,
        values: Mapping[str, object],
        nodes: Mapping[str, GraphNode],
        store: StoreConfigModel,
        options: Iterable[str] = (),
    ) -> None:
        self.texts: dict[str, str] = {}
        self.problems: list[str] = []
        self.doubts: dict[str, str] = {}
        self._nodes = nodes
        self._store = store
        self._references: list[tuple[str, GraphNode, bool | None, str | None]] = []
        fields: dict[str, FieldInfo] | None = None
        if isinstance(node, type):
            self.problems += _class_problems(node)
            if self.problems:  # such a field has no codec
                return
            fields = names_of(models_of(node)[0])
            for name in options:
                if name in fields and name not in values:
                    self.problems.append(
                        f"{name}= is about the node, and {node.__name__} has an input of this name, too: give"
                        f" that by inputs={{{name!r}: ...}}"
                    )
            values = {**values, **dict(self._defaults(fields, values))}
        for name, value in values.items():
            info = None
            if fields is not None and (info := fields.get(name)) is None:
                hint = suggestion(name, (*fields, *OPTIONS)) or f": its inputs are {listed(fields)}"
                self.problems.append(f"{node_name(node)} has no input {name!r}{hint}")
                continue
            try:
                self.texts[name] = self._text(f"input {name!r}", info, value)
            except ValueError as error:
                self.problems.append(f"input {name!r}: {error}")
            if info is not None and isinstance(value, OutputReference) and (doubt := _doubt(info, value)):
                self.doubts[name] = doubt

    def limits(self, limits: Iterable[Limit]) -> list[NodeLimitModel]:
        """Return the limits of the node, with their keys as texts."""
        models = []
        for limit in limits:
            what = f"the key of limit {limit.name!r}"
            try:
                if isinstance(limit.key, OutputReference) and limit.key.many:
                    raise ValueError("a key is one text, not a list: leave out .every")
                key = self._text(what, None, limit.key)
                if "${{" not in key and len(key) > MAX_LIMIT_KEY:
                    raise ValueError(f"it is longer than {MAX_LIMIT_KEY} characters")
                model = NodeLimitModel(name=limit.name, **({"key": key} if key else {}))
                if problem := model.key_problem:
                    raise ValueError(f"it {problem}")
                models.append(model)
            except ValueError as error:
                self.problems.append(f"{what}: {error}")
        return models

    def event(self, name: object) -> str:
        """Return the name of the event that a place waits for, as a text."""
        what = "the name of the event"
        try:
            text = self._text(what, None, name)
            if "${{" not in text and not 0 < len(text.strip()) <= MAX_NAME:
                raise ValueError(f"it has 1 to {MAX_NAME} characters")
            return text
        except ValueError as error:
            self.problems.append(f"{what}: {error}")
            return ""

    def output(self, value: object) -> str:
        """Return the value of an output of the graph as a text; raise ValueError."""
        if isinstance(value, OutputReference) and value.many:
            raise ValueError("an output is one text, not a list: leave out .every, and unite the states")
        return self._text("", None, value)

    def condition(self, when: object) -> Condition | None:
        """Return the condition of a node: a comparison, or a reference to a truth value."""
        try:
            if isinstance(when, OutputReference | StoreReference):
                annotation = resolved(when.annotation)
                if annotation is not UNKNOWN and bool not in (annotation, optional(annotation)):
                    raise ValueError(f"{when!r} is {name_of(annotation)}, not bool: compare it with a value")
                when = when == True  # noqa: E712
            if not isinstance(when, Condition):
                raise ValueError(
                    f"it takes one output of type bool, or one comparison, as in check.kind == 'book', not"
                    f" {shortened(repr(when), 60)}"
                )
            self._text("when=", None, when.reference)
        except (ValueError, GraphInvalid) as error:
            self.problems.append(f"when=: {error.what if isinstance(error, GraphInvalid) else error}")
            return None
        return when

    @property
    def sources(self) -> list[GraphNode]:
        return list(dict.fromkeys(source for _, source, _, _ in self._references))

    def reference_problems(self, node: GraphNode, nodes: Collection[GraphNode]) -> Iterator[str]:
        """Yield which references of a node have no value, or not the right one."""
        for what, source, many, type_problem in self._references:
            if problem := node.problem_of(source, many, nodes) or type_problem:
                yield f"{what}: {problem}"

    def _defaults(
        self, fields: Mapping[str, FieldInfo], values: Mapping[str, object]
    ) -> Iterator[tuple[str, object]]:
        """Yield the defaults of inputs without values: the state manager requires a text for each."""
        for name, info in fields.items():
            if name in values:
                continue
            if info.is_required():
                hint = f": give it by inputs={{{name!r}: ...}}" if name in OPTIONS else ""
                self.problems.append(f"input {name!r} is missing{hint}")
            elif info.default_factory is not None:
                self.problems.append(
                    f"input {name!r} is missing: its default_factory would be called once, not for each run"
                )
            else:
                yield name, info.default

    def _text(self, what: str, info: FieldInfo | None, value: object) -> str:
        """Return the text for one input or key, which ``what`` names; raise ValueError."""
        if isinstance(value, Condition):
            raise ValueError(f"{value.model} is a condition, not a value: give it to when=")
        if isinstance(value, AddedNode | EveryOutput):
            raise ValueError(f"{value!r} is a node, not one of its outputs: write node.output")
        if isinstance(value, OutputReference):
            if self._nodes.get(value.node.identifier) is not value.node:
                raise ValueError(f"{value.node.identifier!r} is a node of another graph")
            self._references.append((what, value.node, value.many, _type_problem(info, value)))
            return _placeholder(value, OutputRef(value.node.identifier, value.field))
        if isinstance(value, StoreReference):
            self._check_store(info, value.key)
            return _placeholder(value, StoreRef(value.key))
        if isinstance(value, str) and (shown := repr_in(value)):
            raise ValueError(
                f"{shown} is how Python shows a reference or a node, not a reference: "
                "write {node.output} without '!r', and each of a list by itself"
            )
        if isinstance(value, str) and "${{" in value:
            self._check_text(what, value)
            return value
        text = plain_text(value) if info is None else field_text(info, value)
        if "${{" in text:
            raise ValueError("a reference cannot stand within a value, where its text would not be escaped")
        return text

    def _check_text(self, what: str, text: str) -> None:
        for piece in parse_placeholders(text):
            if isinstance(piece, str):
                continue
            if not isinstance(piece, OutputRef):
                self._check_store(None, piece.key)
            elif (source := self._nodes.get(piece.identifier)) is None:
                hint = suggestion(piece.identifier, self._nodes)
                raise ValueError(f"the graph has no node {piece.identifier!r} yet{hint}")
            elif problem := output_problem(source, piece.field):
                raise ValueError(problem)
            else:
                self._references.append((what, source, None, None))

    def _check_store(self, info: FieldInfo | None, key: str) -> None:
        defaults, known = self._store.default_values, self._store.known_keys
        if key not in known:
            raise ValueError(f"the graph has no store key {key!r}{suggestion(key, known)}")
        if info is not None and key in defaults:
            try:
                field_text(info, defaults[key])
            except ValueError as error:
                raise ValueError(f"the default of store key {key!r} does not fit: {error}") from None


def _placeholder(reference: OutputReference | StoreReference, expected: OutputRef | StoreRef) -> str:
    """Return the placeholder of a reference; raise ValueError if it reads as another one."""
    text = str(reference)
    with suppress(PlaceholderError):
        if parse_placeholders(text) == (expected,):
            return text
    raise ValueError(f"{text} is not a reference: names in one have no '.', no '}}}}' and no '${{{{'")


def _type_problem(info: FieldInfo | None, reference: OutputReference) -> str | None:
    """Return why the type of an output does not fit that of an input; None if it does, as far as is known."""
    node = reference.node
    if info is None or node.outputs is None:
        return None
    output_type, input_type = node.outputs[reference.field], info.annotation
    if output_type is UNKNOWN:
        return None
    what = f"output {reference.field!r} of {node.identifier!r} is"
    if reference.many and input_type is not str:
        if get_origin(resolved(input_type)) is not list:
            declared = name_of(input_type)
            return f"{what} a list by .every, but the input is {declared}: declare it as a list or str"
        (input_type,) = get_args(resolved(input_type))
        what += " for each state"
    if fits(output_type, input_type):
        return None
    types = f"{name_of(output_type)}, which does not always fit {name_of(input_type)}"
    return f'{what} {types}; f"{{{node.identifier}.{reference.field}}}" is not checked'


def _doubt(info: FieldInfo, reference: OutputReference) -> str | None:
    """Return why the texts of an output may not be the JSON that an input is; None if it is not known."""
    if reference.many or not may_not_be_json(reference.annotation, info.annotation):
        return None
    name, types = f"{reference.node.identifier}.{reference.field}", name_of(info.annotation)
    fix = f"declare the output as {types}"
    if get_origin(resolved(info.annotation)) is list:
        fix += ", or, for a list of those of all states, give unites= a node before them and write .every"
    what = f"output {reference.field!r} of {reference.node.identifier!r} is str"
    return f'{what}, and the input is {types}, read from JSON: {fix}; f"{{{name}}}" is not checked'


def models_of(node: type) -> tuple[type[BaseModel], type[BaseModel]]:
    """Return the Inputs and Outputs of a node class; raise GraphInvalid if it is not one."""
    parts = [getattr(node, part, None) for part in ("Inputs", "Outputs")]
    models = [each for each in parts if isinstance(each, type) and issubclass(each, BaseModel)]
    if len(models) < len(parts):
        raise GraphInvalid(f"{node.__name__} is not a node class: it does not inherit from exotrio.BaseNode")
    return models[0], models[1]


def _class_problems(node: type) -> list[str]:
    return [
        f"{node.__name__}.{part}.{problem}"
        for part, model in zip(("Inputs", "Outputs"), models_of(node), strict=True)
        for problem in field_problems(model)
    ]


def node_name(node: type | str) -> str:
    return node if isinstance(node, str) else node.__name__


def unites_of(unites: AddedNode[Any] | None, strategy: str | None) -> UnitesModel | None:
    """Return what the node declares that ``unites`` another, by the arguments of ``Graph.add``."""
    if not isinstance(unites, AddedNode):
        return None
    fields = {} if strategy is None else {"strategy": strategy}
    return UnitesModel.model_validate({"identifier": node_of(unites).identifier, **fields})
