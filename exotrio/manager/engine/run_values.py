"""Refuses new runs whose values do not fit what is registered for the nodes of their graph.

This is done in the transaction that inserts a run, so no registration comes between. v0 has no such check.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from itertools import chain, islice

from exotrio._fields.declared import Declared, quoted
from exotrio._util.redaction import Redactor, redactor_of
from exotrio._util.words import plural
from exotrio.graph.placeholders import StoreRef
from exotrio.graph.values import Place, ValueCheck
from exotrio.manager.rules.errors import InvalidRequest
from exotrio.manager.rules.template import Template
from exotrio.manager.store.cipher import Cipher, open_secrets
from exotrio.manager.store.driver import Row
from exotrio.manager.store.transaction import Transaction

MAX_NAMED = 10
"""Values of one run that a refusal names."""


class RunValues:
    """The check of the values of new runs of one graph.

    Args:
        cipher: Reads the secrets of the graph, which are masked in values that are quoted.
    """

    def __init__(self, tx: Transaction, graph: Row, template: Template, cipher: Cipher) -> None:
        self._tx = tx
        self._graph = graph
        self._cipher = cipher
        self._check = ValueCheck(
            graph=graph["name"],
            root=template.root,
            store_keys=template.body.store_config.known_keys,
            inputs_by_key=template.inputs_by_key,
            typed_inputs=self._typed_inputs,
            quote=self._quoted,
        )
        self._is_typed = bool(self._typed_inputs(template.root))
        self._keys = template.inputs_by_key.keys()
        self._of_graph = [
            name
            for name, pieces in template.root.inputs.items()
            if len(pieces) != 1 or not isinstance(pieces[0], StoreRef)
        ]

    def check(
        self, overrides: Mapping[str, str], store: Mapping[str, str], inputs: Mapping[str, str]
    ) -> None:
        """Raise InvalidRequest if values do not fit.

        Args:
            overrides: The inputs of the trigger.
            store: The store of the trigger.
            inputs: The inputs of the root, made of these two and of the graph.
        """
        known = self._check.store_keys
        is_known = overrides.keys() <= inputs.keys() and all(key in known for key in store)
        if is_known and not self._is_typed and self._keys.isdisjoint(store):
            return  # at once, since a list may have a thousand such runs
        of_graph = (
            f"{problem}; the graph gives {self._quoted(inputs[name])}"
            for name in self._of_graph
            if name not in overrides
            and (problem := self._check.problem(self._check.root, name, inputs[name]))
        )
        if problems := list(islice(chain(self._check.problems(overrides, store), of_graph), MAX_NAMED)):
            raise InvalidRequest("; ".join(problems))

    def _typed_inputs(self, place: Place) -> Mapping[str, Declared]:
        node = self._tx.registered(place.namespace, place.node_name)
        return {} if node is None else node.typed_inputs

    def _quoted(self, text: str) -> str:
        redactor = self._redactor
        return f"a text of {plural(len(text), 'character')}" if redactor is None else quoted(text, redactor)

    @cached_property
    def _redactor(self) -> Redactor | None:
        """What masks the secrets of the graph; None if one cannot be read."""
        secrets, unreadable = open_secrets(self._tx, [self._graph["id"]], self._cipher)[self._graph["id"]]
        return None if unreadable else redactor_of(secrets)
