"""Added nodes, as ``Graph.add`` returns them, and references to outputs and to the store."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NoReturn

from exotrio._util.words import listed, suggestion
from exotrio.errors import GraphInvalid
from exotrio.graph.nodes import GraphNode

_WHEN = "its value is known only when the graph runs: let a node decide by it"
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

    Its value is known only when the graph runs. So it is neither true nor false, and cannot be compared: the
    result would be a constant in the graph.
    """

    __slots__ = ()

    def __bool__(self) -> NoReturn:
        raise GraphInvalid(f"{self} is neither true nor false yet", fix=_WHEN)

    def __eq__(self, other: object) -> bool:
        if other is self:
            return True
        raise GraphInvalid(f"{self} cannot be compared yet", fix=_WHEN)

    def __hash__(self) -> int:
        return object.__hash__(self)

    def __format__(self, spec: str) -> str:
        if spec:
            raise GraphInvalid(f"{self} cannot be formatted with {spec!r}", fix=_WHEN)
        return str(self)


class OutputReference(_Reference):
    """An output of a node. In an f-string, and as ``str``, it is ``${{ identifier.outputs.field }}``.

    Attributes:
        node: The node.
        field: Name of the output.
        many: Whether it is the list of this output over all states of the node.
    """

    __slots__ = ("field", "many", "node")

    def __init__(self, node: GraphNode, field: str, many: bool) -> None:
        self.node: GraphNode = node
        self.field: str = field
        self.many: bool = many

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


class AddedNode(_Outputs):
    """A node that was added to a graph, with its outputs as attributes: ``plan.root``.

    Write ``plan["every"]`` for an output that is named ``every``.
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


def node_of(added: AddedNode) -> GraphNode:
    """Return the node that ``Graph.add`` returned."""
    return added._node


def output_problem(node: GraphNode, name: object) -> str | None:
    """Return why a node has no output of this name; None if it has, or if its class is not known."""
    outputs = node.outputs
    if isinstance(name, str) and (outputs is None or name in outputs):
        return None
    hint = suggestion(str(name), outputs or ()) or f": its outputs are {listed(outputs or ())}"
    return f"{node.model.node_name} has no output {name!r}{hint}"


def repr_in(text: str) -> str | None:
    """Return the first ``repr`` of a reference or a node in a text, as ``!r`` writes it; None without one."""
    match = _REPR.search(text)
    return None if match is None else match[0]
