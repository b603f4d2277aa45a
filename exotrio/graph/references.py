"""Added nodes, as ``Graph.add`` returns them, and references to outputs and to the store."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Generic, NoReturn, TypeVar

from exotrio._fields.models import from_text
from exotrio._util.words import listed, suggestion
from exotrio.errors import ConfigurationError, GraphInvalid, NotFound
from exotrio.graph.conditions import UNKNOWN, Condition, Operator, compared
from exotrio.graph.nodes import GraphNode

T = TypeVar("T")

_WHEN = "its value is known only when the graph runs: give a comparison of it to when= of graph.add"
_REPR = re.compile(r"<(?:(?:the|every) [^<>]+ of|[^<>]+ as|store key) '[^'<>]*'>")
"""The ``repr`` of a reference or a node."""


class NoSuchOutput(GraphInvalid, AttributeError):
    """A node has no output of this name. An AttributeError too, as ``hasattr`` and ``copy`` expect."""

    name: str
    obj: object

    def __init__(self, what: str, name: str) -> None:
        super().__init__(what)
        self.name, self.obj = name, None  # else Python would append a suggestion to ours


class _Reference:
    """A reference, which becomes the text of a placeholder.

    Its value is known only when the graph runs. So it is neither true nor false, and a comparison with a
    value is a condition for ``when=`` of ``Graph.add``.
    """

    __slots__ = ()

    @property
    def annotation(self) -> Any:
        """The type of its values; UNKNOWN if that is not known."""
        return UNKNOWN

    def __bool__(self) -> NoReturn:
        raise GraphInvalid(f"{self} is neither true nor false yet", fix=_WHEN)

    def __eq__(self, value: object) -> Condition:  # type: ignore[override]
        __tracebackhide__ = True  # pytest shows the caller's line last
        return self._compared("==", value)

    def __ne__(self, value: object) -> Condition:  # type: ignore[override]
        __tracebackhide__ = True
        return self._compared("!=", value)

    def __lt__(self, value: float) -> Condition:
        __tracebackhide__ = True
        return self._compared("<", value)

    def __le__(self, value: float) -> Condition:
        __tracebackhide__ = True
        return self._compared("<=", value)

    def __gt__(self, value: float) -> Condition:
        __tracebackhide__ = True
        return self._compared(">", value)

    def __ge__(self, value: float) -> Condition:
        __tracebackhide__ = True
        return self._compared(">=", value)

    def is_in(self, *values: object) -> Condition:
        """Return the condition that its value is one of these.

        Raises:
            GraphInvalid: there are none, or its type cannot have one of them.
        """
        __tracebackhide__ = True
        return self._compared("in", values)

    def _compared(self, sign: Operator, value: object) -> Condition:
        __tracebackhide__ = True
        others = value if isinstance(value, tuple) else (value,)
        if any(isinstance(each, _Reference | _Outputs | Condition) for each in others):
            raise GraphInvalid(f"{self} is compared with {value!r}: compare it with a value", fix=_WHEN)
        return compared(self, self.annotation, sign, value)

    # The same reference is the same key; others are never equal, since Python compares hashes first.
    def __hash__(self) -> int:
        return object.__hash__(self)

    def __format__(self, spec: str) -> str:
        if spec:
            raise GraphInvalid(f"{self} cannot be formatted with {spec!r}", fix=_WHEN)
        return str(self)


class OutputReference(_Reference):
    """An output of a node. In an f-string, and as ``str``, it is ``${{ identifier.outputs.field }}``.

    Attributes:
        many: Whether it is the list of this output over all states of the node.
    """

    __slots__ = ("field", "many", "node")

    def __init__(self, node: GraphNode, field: str, many: bool) -> None:
        self.node: GraphNode = node
        self.field: str = field
        self.many: bool = many

    @property
    def annotation(self) -> Any:
        return UNKNOWN if self.node.outputs is None else self.node.outputs[self.field]

    def _compared(self, sign: Operator, value: object) -> Condition:
        __tracebackhide__ = True
        if self.many:
            raise GraphInvalid(f"{self!r} is a list, which cannot be compared", fix="leave out .every")
        return super()._compared(sign, value)

    def __str__(self) -> str:
        return f"${{{{ {self.node.identifier}.outputs.{self.field} }}}}"

    def __repr__(self) -> str:
        return f"<{'every' if self.many else 'the'} {self.field} of {self.node.identifier!r}>"


class StoreReference(_Reference):
    """A key of the run's store. In an f-string, and as ``str``, it is ``${{ store.key }}``."""

    __slots__ = ("key",)

    def __init__(self, key: str) -> None:
        self.key: str = key

    def __str__(self) -> str:
        return f"${{{{ store.{self.key} }}}}"

    def __repr__(self) -> str:
        return f"<store key {self.key!r}>"


class _Outputs:
    """Has the outputs of a node as attributes and as items."""

    __slots__ = ("_node",)
    _many = False

    def __init__(self, node: GraphNode) -> None:
        self._node = node

    def __getattr__(self, name: str) -> OutputReference:
        __tracebackhide__ = True  # pytest shows the caller's line last
        if name.startswith("_"):  # Python and its tools look for such names; no field begins so
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        if problem := output_problem(self._node, name):
            raise NoSuchOutput(problem, name)
        return OutputReference(self._node, name, self._many)

    def __getitem__(self, name: str) -> OutputReference:
        __tracebackhide__ = True  # not through __getattr__, which would be shown too
        if problem := output_problem(self._node, name):
            raise NoSuchOutput(problem, name)
        return OutputReference(self._node, name, self._many)

    def __dir__(self) -> Iterable[str]:
        return [*object.__dir__(self), *(self._node.outputs or ())]

    def __format__(self, spec: str) -> NoReturn:
        raise GraphInvalid(f"{self!r} is a node, not one of its outputs", fix="write {node.output}")

    __iter__ = None  # else Python would iterate by __getitem__


class EveryOutput(_Outputs):
    """The outputs of all states of a node, each as a list."""

    __slots__ = ()
    _many = True

    def __repr__(self) -> str:
        return f"<every {self._node.model.node_name} as {self._node.identifier!r}>"


class AddedNode(_Outputs, Generic[T]):
    """A node that was added to a graph, with its outputs as attributes: ``plan.root``.

    Write ``plan["every"]`` for an output that is named ``every``. T is the ``Outputs`` of its class.
    """

    __slots__ = ()

    @property
    def every(self) -> EveryOutput:
        """The outputs of all states of this node, for a node that unites it, or a node before it.

        ``digest.every.line`` is the list of their outputs ``line``: for an input of type ``list`` or ``str``.
        """
        return EveryOutput(self._node)

    def __repr__(self) -> str:
        return f"<{self._node.model.node_name} as {self._node.identifier!r}>"


def node_of(added: AddedNode[Any]) -> GraphNode:
    return added._node


NodeOfRun = str | AddedNode[Any] | type
"""A node whose outputs are read: its identifier, what ``Graph.add`` returned, or its class."""


def place_of(node: NodeOfRun, places: Mapping[str, str], owner: str) -> str:
    """Return the identifier of a node.

    Args:
        places: Identifier of each node of the graph to the name of its class.
        owner: What has these, for messages.

    Raises:
        NotFound: there is no such node, or one of another class.
        ConfigurationError: several nodes are of the class.
    """
    if isinstance(node, type):
        found = [identifier for identifier, name in places.items() if name == node.__name__]
        if len(found) > 1:
            raise ConfigurationError(
                f"{owner} has {node.__name__} more than once: {listed(found)}",
                fix="name one of them, by its identifier or by what graph.add returned",
            )
        if not found:
            known = dict.fromkeys(places.values())
            hint = suggestion(node.__name__, known) or f"; it has: {listed(known)}"
            raise NotFound(f"{owner} has no node of the class {node.__name__}{hint}")
        return found[0]
    identifier = node if isinstance(node, str) else node_of(node).identifier
    if identifier not in places:
        hint = suggestion(identifier, places) or f"; it has: {listed(places)}"
        raise NotFound(f"{owner} has no node with the identifier {identifier!r}{hint}")
    if isinstance(node, AddedNode) and (name := node_of(node).model.node_name) != places[identifier]:
        raise NotFound(f"{identifier!r} of {owner} is {places[identifier]}, not {name}: another graph's node")
    return identifier


def read_outputs(node: NodeOfRun, texts: Mapping[str, Any]) -> Any:
    """Return the outputs of one state as an ``Outputs`` of the class of a node; as texts if it is not known.

    Raises:
        FieldsInvalid: they do not fit that class.
    """
    model: Any = None
    if isinstance(node, AddedNode):
        model = node_of(node).outputs_model
    elif isinstance(node, type):
        model = getattr(node, "Outputs", None)
    return texts if model is None else from_text(model, texts)


def output_problem(node: GraphNode, name: object) -> str | None:
    """Return why a node has no output of this name; None if it has, or if its class is not known."""
    outputs = node.outputs
    if isinstance(name, str) and (outputs is None or name in outputs):
        return None
    hint = suggestion(str(name), outputs or ()) or f": its outputs are {listed(outputs or ())}"
    owner = node.model.node_name if node.model.graph is None else f"graph {node.model.graph.name!r}"
    return f"{owner} has no output {name!r}{hint}"


def repr_in(text: str) -> str | None:
    """Return the first ``repr`` of a reference or a node in a text, as ``!r`` writes it; None without one."""
    match = _REPR.search(text)
    return None if match is None else match[0]
