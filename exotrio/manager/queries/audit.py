"""The record of changes: pages of it, and the last changes of one thing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from exotrio._util.times import moment_ms, timestamp
from exotrio._wire.audit import DONE, AuditQuery, Change, ChangesQuery
from exotrio.manager.queries.paging import Where, begins
from exotrio.manager.rules.errors import InvalidQuery
from exotrio.manager.store.driver import Row
from exotrio.manager.store.view import View

SHOWN = 5
"""Changes that the page of their target shows."""
_WHAT = ("who", "action", "namespace", "target", "result")
_WHERE_FROM = ("key_id", "address", "request_id")


def list_audit(view: View, query: AuditQuery) -> dict[str, Any]:
    """Return one page of the record of all namespaces, in the wire format of ``ChangePage``."""
    return _page(view, query, query.namespace, is_whole=True)


def list_changes(view: View, namespace: str, query: ChangesQuery) -> dict[str, Any]:
    """Return one page of the record of a namespace, without where the requests came from."""
    return _page(view, query, namespace, is_whole=False)


def last_changes(view: View, namespace: str, target: str, *nouns: str) -> list[Change]:
    """Return the last changes of a run, graph, node or limit, newest first; ``nouns`` begin the actions."""
    where = Where()
    where.add("target = ? AND namespace = ?", target, namespace)
    where.add_one_of("action", [action for action in DONE if action.startswith(nouns)])
    rows = view.execute(
        f"SELECT * FROM audit WHERE {where} ORDER BY id DESC LIMIT ?", (*where.parameters, SHOWN)
    ).fetchall()
    return [Change.model_validate(_shown(row, is_whole=False)) for row in rows]


def drained_by(view: View, namespace: str, workers: Sequence[str]) -> dict[str, str]:
    """Return who drained runtimes, by their ids, as far as that was recorded."""
    rows = view.execute(
        f"SELECT target, who FROM audit WHERE {view.any_of('target')} AND namespace = ?"
        " AND action = 'runtime.drain' ORDER BY id",
        (view.items(workers), namespace),
    )
    return {row["target"]: row["who"] for row in rows} if workers else {}


def _page(view: View, query: ChangesQuery, namespace: str | None, *, is_whole: bool) -> dict[str, Any]:
    """Return a page; ``is_whole``: also where requests came from."""
    where = Where()
    if namespace is not None:
        where.add("namespace = ?", namespace)
    if query.who is not None:
        where.add("(who = ? OR who = ? OR key_id = ?)", query.who, f"dashboard of {query.who}", query.who)
    for column, text in (("action", query.action), ("target", query.target)):
        if text is not None:
            where.add(*begins(column, text))
    if query.since is not None:
        where.add("at >= ?", moment_ms(query.since))
    if query.until is not None:
        where.add("at < ?", moment_ms(query.until))
    if query.before is not None:
        if not (query.before.isascii() and query.before.isdigit() and len(query.before) <= 18):
            raise InvalidQuery(f"before is {query.before!r}, which is not the next of a page of changes")
        where.add("id < ?", int(query.before))
    rows = view.execute(
        f"SELECT * FROM audit WHERE {where} ORDER BY id DESC LIMIT ?", (*where.parameters, query.limit + 1)
    ).fetchall()
    page = rows[: query.limit]
    return {
        "changes": [_shown(row, is_whole=is_whole) for row in page],
        "next": str(page[-1]["id"]) if len(rows) > len(page) else None,
    }


def _shown(row: Row, *, is_whole: bool) -> dict[str, Any]:
    """Return a row in the wire format of ``Change``."""
    return {"at": timestamp(row["at"])} | {
        name: row[name] for name in _WHAT + (_WHERE_FROM if is_whole else ())
    }
