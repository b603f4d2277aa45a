"""The state managers, their database, and findings that need attention: for operators."""

from __future__ import annotations

from collections.abc import Collection

from exotrio._util.words import bytes_text, one_line
from exotrio._version import VERSION
from exotrio._wire.checkup import STALE, DatabaseState
from exotrio._wire.overview import Overview
from exotrio.manager.queries.checkup import last_backup, show_checkup, show_managers
from exotrio.manager.queries.overview import show_overview
from exotrio.manager.rules.findings import checkup_findings, overview_findings
from exotrio.manager.store.view import View
from exotrio.manager.web.page import Data, Fragment, Page, PageRequest


def load(view: View, request: PageRequest, parts: Collection[str]) -> dict[str, Data]:
    data: dict[str, Data] = {"page": {"title": "System", "sees_changes": request.may("admin")}}
    if "system" in parts:
        service = request.service
        store, caller = service.store, request.caller
        checkup = show_checkup(
            view, request.namespace, service.terms, store.describe, caller, store.unwritable
        )
        overview = Overview.model_validate(show_overview(view, request.namespace, 0))
        findings = [
            *checkup_findings(checkup, VERSION, STALE),
            *overview_findings(overview, checkup.lease_ttl, checkup.unwritable),
        ]
        data["system"] = {
            "findings": sorted(findings, key=lambda finding: not finding.attention),
            "managers": show_managers(view),
            "own_id": service.manager,
            "is_shared": service.store.is_shared,
            "place": service.database,
            "database": checkup.database,
            "facts": [] if checkup.database is None else _facts(checkup.database),
            "backed_up_at": last_backup(view),
            "keep_ms": service.retention.keep_ms,
            "terms": service.terms,
            "cipher": service.cipher,
        }
    return data


def _facts(database: DatabaseState) -> list[tuple[str, str]]:
    """Return facts about a database: names and texts."""
    facts = [("Size", bytes_text(database.size)), ("Schema version", str(database.schema_version))]
    if database.commit_time is not None:
        facts.append(("A commit takes", f"{database.commit_time * 1_000:,.1f} ms"))
    if (postgres := database.postgres) is None:
        if not database.in_memory:
            facts.append(("Write-ahead log", bytes_text(database.log_size)))
        if database.free_disk is not None:
            facts.append(("Free on its disk", bytes_text(database.free_disk)))
        return facts
    facts.append(("Connections", f"{postgres.connections} of {postgres.max_connections}"))
    horizon = postgres.horizon
    oldest = "none"
    if horizon is not None:
        age = "" if horizon.held_for is None else f"{horizon.held_for:,.0f} s, "
        oldest = f"{one_line(horizon.holder)}: {age}{horizon.transactions:,} transactions"
    facts.append(("Oldest transaction", oldest))
    facts += [
        (f"Dead rows of {table.name}", f"{table.dead:,} ({table.rows:,} live)") for table in postgres.tables
    ]
    facts += [
        (f"Replication slot {one_line(slot.name)}", f"keeps {bytes_text(slot.kept)} of the log")
        for slot in postgres.slots
    ]
    return facts


PAGE = Page(
    path="/ns/{namespace}/system",
    folder="system",
    fragments={"system": Fragment(ages=10, pace=10.0)},
    load=load,
)
