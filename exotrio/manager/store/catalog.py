"""Templates and registered nodes, which most use cases read: each is read and parsed once."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from exotrio._wire.graphs import StoredGraph
from exotrio._wire.v0 import declaration_digest
from exotrio.manager.rules.registered import Registered
from exotrio.manager.rules.template import Template
from exotrio.manager.store.driver import Connection
from exotrio.manager.store.heads import Heads
from exotrio.manager.store.limited_nodes import LimitedNodes
from exotrio.manager.store.virtual_times import VirtualTimes

MAX_INPUTS = 16 * 1024 * 1024
"""Bytes, the same limit as for a request body: a reply with a larger state could not be sent."""
MAX_KEPT = 1_000
"""Maximum of templates, and of runs, that are kept."""
MAX_STATES_KEPT = 10_000
"""Maximum of states whose runs are kept."""


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What hardly ever changes in a run. ``run_id`` is the public one. When a run moves to another version,
    other state managers may still know the template before, in which only the names of nodes differ: a claim
    finds that, since its reply has such a name.
    """

    run_id: str
    template: int
    share: int
    fair_key: str | None
    graph_name: str


class Catalog:
    """Parsed templates, registered nodes and facts of runs, shared by all use cases of one store.

    Templates and facts of runs never change, so all threads share them. Registered nodes do change: only the
    writer reads them here, and registering a node forgets them. ``max_inputs`` is the maximum of bytes of the
    inputs of a new state. ``lease_clock`` is the clock of leases, in ms; None: the clock of use cases.
    ``is_shared``: other state managers write to the database, too.
    """

    def __init__(
        self,
        max_inputs: int = MAX_INPUTS,
        *,
        lease_clock: Callable[[], int] | None = None,
        is_shared: bool = False,
    ) -> None:
        self.max_inputs = max_inputs
        self.lease_clock = lease_clock
        self._templates: dict[int, Template] = {}
        self._nodes: dict[tuple[str, str], Registered] = {}
        self._runs: dict[int, RunFacts] = {}
        self._runs_of_states: dict[int, int] = {}
        self.heads: Heads = Heads(is_needed=is_shared)
        """Where claims begin to search."""
        self.limited_nodes: LimitedNodes = LimitedNodes(kept_for=1.0 if is_shared else math.inf)
        self.virtual_times: VirtualTimes = VirtualTimes(is_shared=is_shared)
        """How far the fair order has come."""

    def template(self, connection: Connection, template_id: int) -> Template:
        """Return the compiled template, reading it at most once."""
        known = self._templates.get(template_id)
        if known is None:
            row = connection.execute("SELECT body FROM templates WHERE id = ?", (template_id,)).fetchone()
            if row is None:
                raise LookupError(f"template {template_id} was deleted")
            known = Template(StoredGraph.model_validate_json(row["body"]))
            if len(self._templates) >= MAX_KEPT:
                self._templates.clear()
            self._templates[template_id] = known
        return known

    def known_run(self, run: int) -> RunFacts | None:
        return self._runs.get(run)

    def keep_run(self, run: int, facts: RunFacts) -> None:
        if len(self._runs) >= MAX_KEPT:
            self._runs.clear()
        self._runs[run] = facts

    def forget_run(self, run: int) -> None:
        self._runs.pop(run, None)

    def runs_of(self, seqs: Collection[int]) -> set[int] | None:
        """Return the numbers of the runs of these states; None if that of one is not known."""
        known = self._runs_of_states
        runs = [known.get(seq, 0) for seq in seqs]
        return set(runs) if all(runs) else None

    def keep_runs_of(self, runs: Mapping[int, int]) -> None:
        """Keep the numbers of the runs of states, by those of the states. They never change."""
        if len(self._runs_of_states) >= MAX_STATES_KEPT:
            self._runs_of_states.clear()
        self._runs_of_states.update(runs)

    def node_id(self, connection: Connection, namespace: str, name: str) -> int | None:
        """Return the id of the node that is registered under this name, or None. For the writer."""
        known = self.registered(connection, namespace, name)
        return None if known is None else known.id

    def registered(self, connection: Connection, namespace: str, name: str) -> Registered | None:
        """Return what is registered under this name, or None. For the writer."""
        known = self._nodes.get((namespace, name))
        if known is None:
            row = connection.execute(
                "SELECT * FROM nodes WHERE namespace = ? AND name = ?", (namespace, name)
            ).fetchone()
            if row is None:
                return None
            known = self._nodes[namespace, name] = Registered(
                id=row["id"],
                namespace=namespace,
                name=name,
                inputs=_properties(row["inputs_schema"]),
                required=_required(row["inputs_schema"]),
                outputs=_properties(row["outputs_schema"]),
                secrets=tuple(from_json(row["secrets"])),
                digest=declaration_digest(
                    *(row[column].encode() for column in ("inputs_schema", "outputs_schema", "secrets"))
                ),
                updated_at=row["updated_at"],
            )
        return known

    def forget_registered(self) -> None:
        """Read registered nodes again from now on."""
        self._nodes.clear()

    def clear(self) -> None:
        """Forget everything. After a rollback: the id of a new template or run is assigned again."""
        self._templates.clear()
        self._nodes.clear()
        self._runs.clear()
        self._runs_of_states.clear()
        self.limited_nodes.forget()


def _required(schema: str) -> tuple[str, ...]:
    # Registration does not check schemas, so this may be any value.
    required = from_json(schema).get("required")
    return tuple(name for name in required if isinstance(name, str)) if isinstance(required, list) else ()


def _properties(schema: str) -> dict[str, Any]:
    properties = from_json(schema).get("properties")
    return properties if isinstance(properties, dict) else {}
