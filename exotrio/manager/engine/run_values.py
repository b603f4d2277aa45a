"""Whether the inputs and the store of new runs fit what is registered for the nodes of their graph.

Checked before a run is inserted, in its transaction, so no registration comes between. v0 has no such check.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import islice

from exotrio._fields.declared import Declared, quoted
from exotrio._util.redaction import Redactor, redactor_of
from exotrio._util.words import listed, shortened, suggestion
from exotrio.graph import MAX_NAME
from exotrio.graph.placeholders import StoreRef
from exotrio.manager.rules.errors import InvalidRequest
from exotrio.manager.rules.template import Place, Template
from exotrio.manager.store.cipher import Cipher, open_secrets
from exotrio.manager.store.driver import Row
from exotrio.manager.store.transaction import Transaction

MAX_NAMED = 10
"""Values of one run that a refusal names."""


class ValueCheck:
    """The check of the values of new runs of one graph.

    Args:
        graph: Its row.
        cipher: Reads the secrets of the graph, which are masked in values that are quoted.
    """

    def __init__(self, tx: Transaction, graph: Row, template: Template, cipher: Cipher) -> None:
        self._tx = tx
        self._graph = graph
        self._template = template
        self._cipher = cipher

    def check(self, given: Mapping[str, str], store: Mapping[str, str], inputs: Mapping[str, str]) -> None:
        """Raise InvalidRequest if values do not fit.

        Args:
            given: The inputs of the trigger.
            store: The store of the trigger.
            inputs: The inputs of the root, made of these two and of the graph.
        """
        if problems := list(islice(self._problems(given, store, inputs), MAX_NAMED)):
            raise InvalidRequest("; ".join(problems))

    def _problems(
        self, given: Mapping[str, str], store: Mapping[str, str], inputs: Mapping[str, str]
    ) -> Iterator[str]:
        root = self._template.root
        for name in given:
            if name not in inputs:
                hint = suggestion(name, root.inputs) or f"; it has: {listed(root.inputs)}"
                yield f"{self._name_of(root)} has no input {shortened(name, MAX_NAME)!r}{hint}"
        for key, text in store.items():
            for place, name in self._template.inputs_by_key.get(key, ()):
                if problem := self._problem(place, name, text):
                    yield f"store key {key!r}, which is {problem}; it is {self._quoted(text)}"
                    break
        for name, text in inputs.items():
            pieces = root.inputs[name]
            if name not in given and len(pieces) == 1 and isinstance(pieces[0], StoreRef):
                continue  # checked above, or a default of the graph
            if problem := self._problem(root, name, text):
                source = "it is" if name in given else "the graph gives"
                yield f"{problem}; {source} {self._quoted(text)}"

    def _problem(self, place: Place, name: str, text: str) -> str | None:
        """Return what is wrong with the text of an input; None if it fits, or if its type is not known."""
        node = self._tx.registered(place.namespace, place.node_name)
        values: Declared | None = None if node is None else node.typed_inputs.get(name)
        if values is None or (problem := values.problem(text)) is None:
            return None
        return f"input {name!r} of {self._name_of(place)} {problem}"

    def _name_of(self, place: Place) -> str:
        return f"{place.identifier!r} in graph {self._graph['name']!r}"

    def _quoted(self, text: str) -> str:
        return (
            f"a text of {len(text):,} characters" if self._redactor is None else quoted(text, self._redactor)
        )

    @cached_property
    def _redactor(self) -> Redactor | None:
        """What masks the secrets of the graph; None if one cannot be read."""
        secrets, unreadable = open_secrets(self._tx, [self._graph["id"]], self._cipher)[self._graph["id"]]
        return None if unreadable else redactor_of(secrets)
