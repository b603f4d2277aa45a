"""Children: the graphs that a node calls, and what came back.

A node runs from its first line whenever its children have ended, so ``call`` is made again for each of them:
the key finds the result. The id of a child is its key and a digest of what was called, so a call that is made
differently is not taken for the earlier one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

from pydantic import BaseModel

from exotrio._fields.models import M, Values, from_text, texts_of
from exotrio._nodes.outcome import CallChildren, ChildCall, ChildResult, NoRetry
from exotrio._util.json import encode
from exotrio._util.words import listed
from exotrio._wire.vocabulary import MAX_CALL_BYTES, MAX_CALLS, MAX_KEY, check_key
from exotrio.errors import ChildFailed

if TYPE_CHECKING:
    from exotrio.graph import Graph

_DIGITS = 16
MAX_CHILD_KEY = MAX_KEY - _DIGITS - 1


class Calls:
    """The calls of one execution.

    Args:
        node: Name of the class, for messages.
        results: Id to result of the children that earlier executions called, all of which have ended.
    """

    def __init__(self, node: str, results: Mapping[str, ChildResult]) -> None:
        self._node = node
        self._results = results
        self._ids = {_key_of(id): id for id in results}
        self._called: dict[str, Child] = {}
        self._positions = 0
        self._new: list[ChildCall] = []
        self._size = 0

    def call(self, graph: Graph | str, inputs: Values | None, key: str | None) -> Child:
        name = graph if isinstance(graph, str) else graph.name
        if key is None:
            self._positions += 1
            key = str(self._positions)
        elif len(check_key(key)) > MAX_CHILD_KEY:
            raise ValueError(f"the key of a child has up to {MAX_CHILD_KEY} characters, not {len(key)}")
        texts = texts_of(f"inputs of {name!r}", inputs)
        text = encode([name, sorted(texts.items())])
        id = f"{key} {hashlib.sha256(text).hexdigest()[:_DIGITS]}"
        if (known := self._called.get(key)) is not None:
            if known.id != id:
                raise ValueError(
                    f"the child {key!r} was called before, as another graph or with other inputs"
                )
            return known
        if self._ids.get(key, id) != id:
            raise NoRetry(
                f"{self._node} calls {name!r} as child {key!r}, and called another graph, or with other"
                " inputs, in an earlier execution: keep what decides that in its checkpoint, and retry the"
                " state from the beginning"
            )
        child = self._called[key] = Child(id, name, self)
        if id not in self._results:
            self._size += len(text)
            if len(self._results) + len(self._new) == MAX_CALLS:
                raise NoRetry(f"{self._node} calls more than {MAX_CALLS:,} children in one state")
            if self._size > MAX_CALL_BYTES:
                raise NoRetry(
                    f"the children that {self._node} calls have more than {MAX_CALL_BYTES:,} bytes of inputs"
                )
            self._new.append(ChildCall(id, name, texts))
        return child

    def result_of(self, child: Child) -> ChildResult:
        """Return the result of a child; end the execution if it is not there."""
        if (result := self._results.get(child.id)) is None:
            raise CallChildren(self._new)
        return result

    @property
    def unread(self) -> str:
        """What is wrong if the node returns now: it called children that were never started."""
        if not self._new:
            return ""
        names = listed(dict.fromkeys(repr(call.graph) for call in self._new))
        return f"{self._node} called {names} and returned without reading the outputs: nothing was started"


@dataclass(frozen=True, slots=True)
class Child:
    """A graph that a node called by ``BaseNode.call``: a run that is started once the node waits for it.

    Every attribute but ``graph`` ends the execution by a signal while the child has not ended; the node is
    executed again then, and must not catch it.
    """

    id: str
    graph: str
    _calls: Calls

    @overload
    def outputs(self) -> Mapping[str, str]: ...
    @overload
    def outputs(self, model: type[M]) -> M: ...
    def outputs(self, model: type[BaseModel] | None = None) -> object:
        """Return the outputs of the child's graph, which ``graph.output`` declares.

        Args:
            model: The model to return them as, with fields as ``Outputs`` has. Defaults to None: a dict of
                texts.

        Raises:
            ChildFailed: the child failed or was cancelled.
            FieldsInvalid: an output is missing, or is not a value of its type.
        """
        result = self._calls.result_of(self)
        if result.outputs is None:
            raise ChildFailed(result.error or "")
        return result.outputs if model is None else from_text(model, result.outputs)

    @property
    def error(self) -> str | None:
        """The first error of the child, or that it was cancelled; None if it succeeded."""
        return self._calls.result_of(self).error

    @property
    def run_id(self) -> str:
        """The id of the child's run."""
        return self._calls.result_of(self).run_id


# It is shown in tracebacks.
Child.__module__ = "exotrio"


def _key_of(id: str) -> str:
    return id[: -_DIGITS - 1]
