"""Trigger runs: one, many, or one like another."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import NamedTuple

from pydantic_core import from_json, to_json

from exotrio._util.words import listed, plural
from exotrio._wire.vocabulary import ValidationStatus
from exotrio.graph import WITHOUT_RUNTIME, split_name
from exotrio.manager.engine.changes import Changes
from exotrio.manager.engine.graphs import insert_template, pin_graph
from exotrio.manager.engine.inputs import build, event_name, limit_keys
from exotrio.manager.engine.order import NORMAL, begins_at
from exotrio.manager.engine.run_values import RunValues
from exotrio.manager.engine.runs import find_run
from exotrio.manager.engine.sources import InputsError, Shared, Sources
from exotrio.manager.engine.states import CREATED, NewState, RunScope, size_of
from exotrio.manager.engine.unites import commit_changes
from exotrio.manager.rules.access import Permission
from exotrio.manager.rules.errors import Conflict, EntriesRefused, InvalidRequest, Refused
from exotrio.manager.rules.template import Template
from exotrio.manager.store.cipher import Cipher
from exotrio.manager.store.driver import Row
from exotrio.manager.store.effects import NO_EFFECTS, WithEffects
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View
from exotrio.manager.store.virtual_times import SHARE

MAX_NAMED = 100
"""Maximum of refused runs of a list that are named."""
MAX_TOGETHER = 16
"""Limit of the inputs of the root states of runs that are started together, as a multiple of the limit of one
state. A graph could otherwise give each of them the same large value, all in one transaction."""
API, DASHBOARD, SCHEDULE, GRAPH = "api", "dashboard", "schedule", "graph"
"""What triggers runs; the last one is a state (``Parent``). The failure of a run does, too: ``FAILURE``."""


class Parent(NamedTuple):
    """The run that starts a run: by a state that waits for its end (``engine.children``), or by failing
    (``engine.alerts``). The fields are the columns of the run that is started."""

    parent_run: int
    parent_state: int | None = None
    call: str | None = None
    depth: int = 0
    round: int = 0
    root: int | None = None
    awaited: int = 1
    started_by: str | None = None


@dataclass(slots=True, kw_only=True)
class NewRun:
    """A run to start.

    ``inputs`` are values for inputs of the root: data, so placeholders in them stay as they are. A repeated
    request with the same ``run_id``, or the same ``key`` for the same graph, returns the same run. A run has
    one of these, or neither. ``trace`` is the trace context of its trigger, ``origin`` what triggers it.
    ``priority``, ``share`` and ``fair_key`` say in which order its states are claimed (``engine.order``).
    ``parent`` is the run that starts it, if one does.
    """

    inputs: Mapping[str, str] = field(default_factory=dict)
    store: Mapping[str, str] = field(default_factory=dict)
    start_delay_ms: int = 0
    run_id: str | None = None
    key: str | None = None
    trace: str | None = None
    origin: str = API
    priority: int = NORMAL
    share: int = SHARE
    fair_key: str | None = None
    parent: Parent | None = None

    def digest(self) -> str:
        """Return a digest of inputs and store, by which runs with one key are compared."""
        return sha256(to_json([sorted(self.inputs.items()), sorted(self.store.items())])).hexdigest()


class Started(NamedTuple):
    """The run that a request is about, and whether that request created it."""

    run_id: str
    created: bool


def trigger(
    tx: Transaction, namespace: str, graph_name: str, run: NewRun, cipher: Cipher | None = None
) -> WithEffects[Started]:
    """Start one run, as ``trigger_many`` does."""
    try:
        (started,), effects = start_runs(tx, namespace, graph_name, [run], cipher)
    except EntriesRefused as refusal:
        raise refusal.entries[0] from None
    return WithEffects(started, effects)


def trigger_many(
    tx: Transaction, namespace: str, graph_name: str, runs: Sequence[NewRun], cipher: Cipher | None = None
) -> WithEffects[list[Started]]:
    """Start runs of a graph, each with its store and its root state, and return them in this order.

    With a ``cipher``, values have to fit what is registered: see ``run_values``.

    An id or a key that exists, or occurs again in the list, stands for the run that has it already. If one
    run is refused, so are all: EntriesRefused has the first of them. A key is refused if its run was
    triggered with other inputs or another store: then the caller confuses two runs.
    """
    started, effects = start_runs(tx, namespace, graph_name, runs, cipher)
    if created := sum([each.created for each in started]):
        tx.record("run.trigger", namespace, graph_name, plural(created, "run"))
    return WithEffects(started, effects)


def start_runs(
    tx: Transaction,
    namespace: str,
    graph_name: str,
    runs: Sequence[NewRun],
    cipher: Cipher | None,
    version: str | None = None,
) -> WithEffects[list[Started]]:
    """Start runs, as ``trigger_many`` does, without a row in the record: each run has its caller.

    ``version`` is that of the runs that start them: they have it if the graph names none.
    This locks the graph. In a transaction that also locks runs, ``pin_graph`` has to come before those.
    """
    existing = _owners_of(tx, [run.run_id for run in runs if run.run_id is not None])
    # Otherwise the version for the runs could be deleted before they are inserted.
    graph = pin_graph(tx, namespace, graph_name)
    ids, new = _split_new_from_existing(tx, (namespace, graph["id"]), runs, existing)
    started = [Started(run_id, new.get(run_id) == index) for index, run_id in enumerate(ids)]
    if not new:
        return WithEffects(started, NO_EFFECTS)
    refused: dict[int, Refused] = {}
    if graph["validation_status"] != ValidationStatus.VALID:
        status = graph["validation_status"]
        raise InvalidRequest(f"the graph {graph_name!r} is {status} and cannot be triggered")
    template, number = tx.template(graph["template"]), graph["template"]
    if version is not None and template.version is None:
        template = _inherited(tx, template, graph_name, version)
        number = graph["template"] if template.version is None else pin_template(tx, graph["id"], template)
    tx.reserve(len(new))
    node = tx.registered(template.root.namespace, template.root.node_name)
    assert node is not None, "a valid graph has only registered nodes"
    check = None if cipher is None else RunValues(tx, graph, template, cipher)
    numbers = _insert(
        tx, namespace, (graph["id"], number), {run_id: runs[index] for run_id, index in new.items()}
    )
    changes = Changes(tx)
    stored: list[tuple[int, str, str]] = []
    left = MAX_TOGETHER * tx.max_inputs
    for index in sorted(new.values()):
        run = runs[index]
        scope = RunScope(numbers[ids[index]], template, run.priority, run.share, run.fair_key)
        try:
            root_inputs, keys, event = _root_inputs(tx, scope, run)
            if check is not None:
                check.check(run.inputs, run.store, root_inputs)
            inputs = to_json(root_inputs).decode()
        except Refused as refusal:
            refused[index] = refusal
            if len(refused) == MAX_NAMED:
                break
            continue
        left -= size_of(inputs)
        if left < 0:
            raise InvalidRequest(
                f"the inputs of {plural(len(new), 'run')} are too large: start fewer at once"
            )
        changes.insert_first(
            scope,
            NewState(
                place=template.root.index,
                node_id=node.id,
                status=CREATED,
                inputs=inputs,
                parent=None,
                groups="",
                path=b"",
                enqueue_after=begins_at(template.root, tx.now_ms + run.start_delay_ms),
                trace=run.trace,
                limit_keys=keys,
                event=event,
                waits=event is not None or template.root.graph is not None,
            ),
        )
        stored += [(scope.id, key, to_json(value).decode()) for key, value in run.store.items()]
        if run.parent is not None and run.parent.root is not None:
            # To claims for the states of one run, and of those below it.
            changes.effects.announced.add((run.parent.root, node.id))
    if refused:
        raise EntriesRefused(refused)
    tx.insert("store", ("run", "key", "value"), sorted(stored))
    commit_changes(changes)
    changes.effects.announced.update(new)
    return WithEffects(started, changes.effects)


def pin_template(tx: Transaction, graph: int, template: Template) -> int:
    """Return the number of a template of a graph that is like this one; it is stored if there is none.

    The graph is locked (``graphs.pin_graph``), so that no template of it is deleted before a run has it. Read
    it by its number only in later transactions: if this one is undone, another one gets the number.
    """
    body = template.body.model_dump_json()
    known = tx.row(
        "SELECT id FROM templates WHERE version = ? AND graph = ? AND body = ? AND validation_status = ?"
        " AND (EXISTS (SELECT 1 FROM runs WHERE runs.template = templates.id)"
        " OR EXISTS (SELECT 1 FROM graphs WHERE graphs.template = templates.id)) ORDER BY id LIMIT 1",
        (template.version, graph, body, ValidationStatus.VALID.value),
    )
    if known is not None:
        return int(known["id"])
    return insert_template(tx, graph, body, ValidationStatus.VALID, "[]", template.version)


def _inherited(tx: Transaction, template: Template, graph_name: str, version: str) -> Template:
    """Return the template for a run that a run of a version starts: of that version, if runtimes of it have
    registered its nodes; as it is if they have registered none of them, as of the code of another team."""
    inherited = Template(template.body.pinned(version))
    named = {
        (place.namespace, place.node_name)
        for place in inherited.places
        if place.node_name not in WITHOUT_RUNTIME
    }
    missing = [name for namespace, name in sorted(named) if tx.registered(namespace, name) is None]
    if len(missing) == len(named):
        return template
    if missing:
        raise InvalidRequest(
            f"the graph {graph_name!r} would run on version {version!r}, of which no runtime has registered"
            f" {listed(split_name(name)[0] for name in missing)}"
        )
    return inherited


def _split_new_from_existing(
    tx: Transaction, graph: tuple[str, int], runs: Sequence[NewRun], existing: Iterable[Row]
) -> tuple[list[str], dict[str, int]]:
    """Return the ids of these runs, and for each id that does not exist yet the first index in the list.

    ``graph`` is its namespace and its number; ``existing`` is what ``_owners_of`` returned.
    """
    owners = {run_id: (namespace, number) for run_id, namespace, number in existing}
    keyed = _runs_by_key(tx, graph[1], [run.key for run in runs if run.key is not None])
    known = {*owners, *(run_id for run_id, _ in keyed.values())}
    ids: list[str] = []
    new: dict[str, int] = {}
    refused: dict[int, Refused] = {}
    for index, run in enumerate(runs):
        run_id = run.run_id or str(uuid.uuid4())
        if (owner := owners.get(run_id, graph)) != graph:
            refused[index] = Conflict(_why_taken(tx, run_id, owner[0], graph[0]))
        if run.key is not None:
            digest = run.digest()
            run_id, first = keyed.setdefault(run.key, (run_id, digest))
            if first != digest:
                refused[index] = Conflict(
                    f"the key {run.key!r} belongs to the run {run_id}, which was triggered with other"
                    " inputs or another store; check that run, or give each run a separate key",
                )
        ids.append(run_id)
        if run_id not in known:
            new.setdefault(run_id, index)
    if refused:
        raise EntriesRefused(refused)
    return ids, new


def _runs_by_key(tx: Transaction, graph: int, keys: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return (run_id, digest) of those runs of a graph that exist with these keys, by key."""
    if not keys:
        return {}
    sql = (
        f"SELECT key, run_id, key_digest FROM runs WHERE {tx.any_of('key')} AND key IS NOT NULL AND graph = ?"
    )
    return {key: (run_id, digest) for key, run_id, digest in tx.execute(sql, (tx.items(keys), graph))}


def _why_taken(tx: Transaction, run_id: str, owner: str, namespace: str) -> str:
    """Return why a run cannot have an id that a run of the namespace ``owner`` has: ids are unique in the
    database. Where that run is, is told only to those who may read it."""
    if owner == namespace:
        return f"the run {run_id} exists and belongs to another graph; choose another id"
    if tx.caller is not None and tx.caller.may(Permission.READ, owner):
        return f"the run {run_id} exists and belongs to a graph of namespace {owner!r}; choose another id"
    return f"the id {run_id} cannot be used; choose another one"


def _owners_of(tx: Transaction, run_ids: Sequence[str]) -> Iterable[Row]:
    """Return (run_id, namespace, graph) of those runs that exist. If they are read later, what is executed
    until then is sent with this statement."""
    if not run_ids:
        return ()
    sql = f"SELECT run_id, namespace, graph FROM runs WHERE {tx.any_of('run_id')}"
    return tx.execute(sql, (tx.items(run_ids),))


def _insert(
    tx: Transaction, namespace: str, graph: tuple[int, int], runs: Mapping[str, NewRun]
) -> dict[str, int]:
    """Insert runs of a graph and its template, by id, each with one pending state; return their numbers."""
    who = tx.caller and tx.caller.who
    of_each = (namespace, *graph, tx.now_ms, 1)
    columns: tuple[str, ...] = ("run_id", "namespace", "graph", "template", "created_at", "pending")
    columns += ("origin", "key", "key_digest", "priority", "share", "fair_key")
    # All or none have one.
    has_parents = any(run.parent is not None for run in runs.values())
    columns += Parent._fields if has_parents else ("started_by",)
    rows = [
        (
            *(run_id, *of_each, run.origin, run.key, None if run.key is None else run.digest()),
            *(run.priority, run.share, run.fair_key),
            *(run.parent or (who,)),
        )
        # By the key first: concurrent lists may have the same keys with different ids.
        for run_id, run in sorted(runs.items(), key=lambda item: (item[1].key or "", item[0]))
    ]
    ids = tx.insert_numbered("runs", columns, rows)
    return {row[0]: number for row, number in zip(rows, ids, strict=True)}


def _root_inputs(
    tx: Transaction, scope: RunScope, run: NewRun
) -> tuple[dict[str, str], dict[str, str], str | None]:
    """Return the inputs of the root of a run, the keys of its limits, and the event that it waits for; raise
    InvalidRequest if it cannot start."""
    root, store = scope.template.root, run.store
    if missing := [key for key in scope.template.body.store_config.required_keys if key not in store]:
        raise InvalidRequest(f"the store lacks required keys: {', '.join(missing)}")
    if not (root.inputs or root.limits or root.wait):
        return {}, {}, None
    sources = Sources(tx, scope, None, Shared(stored={(scope.id, key): store.get(key) for key in root.keys}))
    try:
        event = None if root.wait is None else event_name(root.wait, sources, "", {})
        inputs = build(root, root.inputs, sources, "", {}, given=run.inputs)
        return inputs, limit_keys(root, sources, "", {}), event
    except InputsError as problem:
        raise InvalidRequest(str(problem)) from None


def trigger_again(
    tx: Transaction, namespace: str, run_id: str, new_run_id: str, cipher: Cipher
) -> WithEffects[Started]:
    """Start a run of the same graph with the inputs and the store of another, without its key, and without
    store keys that its graph did not declare, which v0 accepts."""
    run = find_run(tx, namespace, run_id)
    inputs, store = started_with(tx, run)
    declared = tx.template(run["template"]).body.store_config.known_keys
    store = {key: text for key, text in store.items() if key in declared}
    in_order = {name: run[name] for name in ("priority", "share", "fair_key")}
    again = NewRun(inputs=inputs, store=store, run_id=new_run_id, origin=DASHBOARD, **in_order)
    return trigger(tx, namespace, run["graph_name"], again, cipher)


def started_with(view: View, run: Row) -> tuple[dict[str, str], dict[str, str]]:
    """Return the inputs of the first state of a run, and its store."""
    first = view.row("SELECT inputs FROM states WHERE run = ? ORDER BY seq LIMIT 1", (run["id"],))
    store = view.execute("SELECT key, value FROM store WHERE run = ? ORDER BY key", (run["id"],))
    return (
        {} if first is None else from_json(first["inputs"]),
        {row["key"]: from_json(row["value"]) for row in store},
    )
