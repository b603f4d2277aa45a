"""The limits of a namespace: made, changed and deleted by users, and declared with graphs.

A graph that is stored makes the limits that it declares. It changes one only if it declares it otherwise than
its version before did: what was set meanwhile, such as 0 in an emergency, outlives a deploy.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from pydantic import ValidationError

from exotrio._util.words import listed, plural, readable_errors, suggestion
from exotrio._wire.graphs import GraphBody
from exotrio._wire.limits import LimitChange, limit_text
from exotrio.graph import LimitModel
from exotrio.manager.engine.slots import ALL_KEYS, IS_HELD, pairs_of, put_slots
from exotrio.manager.engine.starts import keep_starts
from exotrio.manager.rules.errors import Conflict, InvalidRequest, NotFound
from exotrio.manager.rules.problems import Problem
from exotrio.manager.store.driver import Row
from exotrio.manager.store.effects import Effects, WithEffects
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View

MAX_IN_NAMESPACE = 1_000
IS_LIMIT = "(at_most IS NOT NULL OR starts IS NOT NULL)"
"""Whether a row of ``limits`` is one: it limits nothing if it was deleted, while graphs or states name it."""
MAX_ANNOUNCED = 20_000
"""Waiting states of a changed limit whose nodes are announced, as in ``engine.pausing``."""
MAX_CHECKED = 1_000
"""Texts that may name a limit: of more, one is taken to do so."""


def set_limit(tx: Transaction, namespace: str, name: str, change: LimitChange) -> WithEffects[None]:
    if not name or not namespace.strip():
        raise InvalidRequest("a limit and its namespace need a name")
    row = _row_of(tx, namespace, name, tx.for_update("limits"))
    try:
        limit = change.of(name, None if row is None else model_of(row))
    except ValidationError as error:
        raise InvalidRequest(f"limit {name!r} cannot be set: {'; '.join(readable_errors(error))}") from None
    effects = _store(tx, namespace, limit)
    _drop_unnamed(tx, namespace)
    return WithEffects(None, effects)


def declare_limits(
    tx: Transaction, namespace: str, declared: Iterable[LimitModel], before: Collection[LimitModel]
) -> Effects:
    """Make the limits that a graph declares, and change those that it declared otherwise ``before``."""
    effects = Effects()
    known = ids_of_limits(tx, namespace)
    for limit in sorted(declared, key=lambda limit: limit.name):
        if limit.name not in known or limit not in before:
            effects.add(_store(tx, namespace, limit))
    return effects


def remove_limit(
    tx: Transaction,
    namespace: str,
    name: str,
    *,
    force: bool,
    how: str = "force its deletion (--force, or force=True)",
) -> WithEffects[list[str]]:
    """Delete a limit, and return the graphs that name it; without ``force``, these are a reason to refuse.
    ``how`` is how the caller forces it.

    While graphs, runs or waiting states name it, or states hold it, its row stays, and limits nothing: if the
    limit is made again, all of these take part again.
    """
    limit = find_limit(tx, namespace, name, lock=tx.for_update("limits"))["id"]
    graphs = [graph for graph, names in named_by_graphs(tx, namespace).items() if name in names]
    if not force:
        if graphs:
            raise Conflict(
                f"limit {name!r} is named by {plural(len(graphs), 'graph')}: {listed(graphs)}; store them "
                f"without it first, or {how}: nothing limits them then"
            )
        if _is_named_by_waiting_states(tx, limit):
            raise Conflict(
                f"limit {name!r} is named by waiting states of earlier versions of graphs; delete it when "
                f"they have run, or {how}: nothing limits them then"
            )
    effects = _reopen(tx, limit)
    tx.execute("UPDATE limits SET at_most = NULL, starts = NULL, period_ms = NULL WHERE id = ?", (limit,))
    tx.execute("DELETE FROM starts WHERE limit_id = ?", (limit,))
    tx.record("limit.delete", namespace, name)
    _drop_unnamed(tx, namespace)
    return WithEffects(graphs, effects)


def _drop_unnamed(tx: Transaction, namespace: str) -> None:
    """Delete the rows of limits that were deleted, and that nothing names or holds any more. Not while a
    graph is stored, which may have no version yet."""
    rows = tx.execute(
        f"SELECT id, name, EXISTS (SELECT 1 FROM slots WHERE limit_id = limits.id AND {IS_HELD}) AS is_held"
        # A claim may have locked others, and wait for one of these.
        f" FROM limits WHERE namespace = ? AND NOT {IS_LIMIT} ORDER BY id{tx.skip_locked('limits')}",
        (namespace,),
    ).fetchall()
    named = _named_by_runs(tx, namespace).union(*named_by_graphs(tx, namespace).values()) if rows else ()
    unnamed = [
        row["id"]
        for row in rows
        if not row["is_held"] and row["name"] not in named and not _is_named_by_waiting_states(tx, row["id"])
    ]
    for table, column in (("slots", "limit_id"), ("limits", "id")) if unnamed else ():
        tx.execute(f"DELETE FROM {table} WHERE {tx.any_of(column)}", (tx.items(unnamed),))


def find_limit(view: View, namespace: str, name: str, *, lock: str = "") -> Row:
    """Return a limit; raise NotFound if there is none."""
    row = _row_of(view, namespace, name, lock)
    if row is None:
        hint = suggestion(name, ids_of_limits(view, namespace))
        raise NotFound(f"there is no limit {name!r} in namespace {namespace!r}{hint}")
    return row


def _row_of(view: View, namespace: str, name: str, lock: str) -> Row | None:
    named = f"SELECT * FROM limits WHERE namespace = ? AND name = ? AND {IS_LIMIT}{lock}"
    return view.row(named, (namespace, name))


def ids_of_limits(view: View, namespace: str) -> dict[str, int]:
    """Return the ids of the limits of a namespace, by name and in that order."""
    rows = view.execute(
        f"SELECT name, id FROM limits WHERE namespace = ? AND {IS_LIMIT} ORDER BY name", (namespace,)
    )
    return dict(map(tuple, rows))


def missing_limits(view: View, namespace: str, body: GraphBody) -> Iterator[Problem]:
    """Yield which limits a graph names that do not exist."""
    named = {(node.identifier, limit.name) for node in body.nodes for limit in node.limits}
    known = ids_of_limits(view, namespace) if named else {}
    for identifier, name in sorted(named):
        if name not in known:
            what = f"there is no limit {name!r} in namespace {namespace!r}{suggestion(name, known)}"
            fix = "declare it in limits of the graph, or make it by `limits set`"
            yield Problem(f"{what}; {fix}", identifier, f"limits.{name}")


def _named_by_runs(view: View, namespace: str) -> set[str]:
    """Return the limits that the runs of a namespace may name, by the versions of graphs that they have."""
    rows = view.execute(
        "SELECT id FROM templates WHERE graph IN (SELECT id FROM graphs WHERE namespace = ?)"
        " AND body LIKE '%\"limits\":[{%'"
        " AND EXISTS (SELECT 1 FROM runs WHERE runs.template = templates.id) ORDER BY id",
        (namespace,),
    )
    templates = [view.template(row["id"]) for row in rows.fetchall()]
    # A failed state of theirs may be retried, and names the limit by its id.
    return {limit.name for template in templates for node in template.body.nodes for limit in node.limits}


def named_by_graphs(view: View, namespace: str) -> dict[str, dict[str, bool]]:
    """Return the limits that each graph names, and whether with a key; without graphs that name none."""
    rows = view.execute("SELECT name, template FROM graphs WHERE namespace = ? ORDER BY name", (namespace,))
    named = {}
    for row in rows.fetchall():
        limits = [limit for node in view.template(row["template"]).body.nodes for limit in node.limits]
        with_key = {limit.name for limit in limits if limit.key != ""}
        if limits:
            named[row["name"]] = {limit.name: limit.name in with_key for limit in limits}
    return named


def model_of(row: Row) -> LimitModel:
    """Return a row as it would be declared."""
    return LimitModel(
        name=row["name"], at_most=row["at_most"], starts=row["starts"], period_ms=row["period_ms"]
    )


def _store(tx: Transaction, namespace: str, limit: LimitModel) -> Effects:
    """Insert a limit, or change it and let states in that may have room now; record the change."""
    values = (limit.at_most, limit.starts, limit.period_ms)
    tx.record("limit.set", namespace, limit.name, limit_text(limit))
    before = tx.row(
        f"SELECT id, period_ms FROM limits WHERE namespace = ? AND name = ?{tx.for_update('limits')}",
        (namespace, limit.name),
    )
    if before is not None and before["period_ms"] and limit.period_ms:
        keep_starts(tx, before["id"], before["period_ms"], limit.period_ms)
    stored = tx.execute(
        "INSERT INTO limits (namespace, name, at_most, starts, period_ms, created_at, updated_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (namespace, name) DO UPDATE SET"
        " at_most = excluded.at_most, starts = excluded.starts, period_ms = excluded.period_ms,"
        " updated_at = excluded.updated_at, created_at = CASE WHEN limits.at_most IS NULL"
        " AND limits.starts IS NULL THEN excluded.created_at ELSE limits.created_at END"
        " RETURNING id",
        (namespace, limit.name, *values, tx.now_ms, tx.now_ms),
    ).fetchall()
    if len(ids_of_limits(tx, namespace)) > MAX_IN_NAMESPACE:
        raise Conflict(f"a namespace has at most {MAX_IN_NAMESPACE:,} limits: use one with keys instead")
    return _reopen(tx, stored[0]["id"])


def _reopen(tx: Transaction, limit: int) -> Effects:
    """Let states in that wait for a limit, as far as it has room, and wake the claims of their nodes."""
    put_slots(tx, [(limit, "", ALL_KEYS, 0)])
    waiting = tx.execute(
        "SELECT DISTINCT run, node_id FROM (SELECT run, node_id FROM states WHERE status = 'CREATED'"
        " AND lane IS NOT NULL AND lane >= ? AND lane < ? LIMIT ?) AS waiting",
        (f"{limit}:", f"{limit};", MAX_ANNOUNCED),
    )
    effects = Effects()
    for run, node in waiting:
        effects.reopen(run, node)
    return effects


def _is_named_by_waiting_states(tx: Transaction, limit: int) -> bool:
    texts = tx.execute(
        "SELECT DISTINCT limits FROM states WHERE status = 'CREATED' AND limits IS NOT NULL"
        " AND replace(limits, ?, '') <> limits LIMIT ?",
        (f'[{limit},"', MAX_CHECKED),
    ).fetchall()
    # A key that ends with "[7," has that text, too: then what the state names decides.
    return len(texts) == MAX_CHECKED or any(limit in dict(pairs_of(text)) for (text,) in texts)
