"""The runtimes of a namespace: which are live, what each offers and holds, and how others ended.

The tables and the API call them workers.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from pydantic_core import from_json, to_json

from exotrio._wire.checkup import Disagreement, NodeVersion
from exotrio._wire.heartbeats import HeartbeatProgress, HeartbeatRequest
from exotrio._wire.overview import CLAIMING, RuntimeInfo, RuntimeList, V0Runtime
from exotrio._wire.stops import StopList, StopReceipt
from exotrio.manager.engine.order import WAITING
from exotrio.manager.engine.states import QUEUED
from exotrio.manager.engine.stops import MAX_STOPS
from exotrio.manager.engine.workers import FORGOTTEN_AFTER_MS, STOPPED_FORGOTTEN_AFTER_MS
from exotrio.manager.queries.load import (
    AT_RISK,
    BUFFERED,
    MAX_COUNTED,
    REPORTING,
    UNCOUNTED,
    Backlog,
    Held,
    count_held,
)
from exotrio.manager.rules.errors import NotFound
from exotrio.manager.store.driver import Row
from exotrio.manager.store.view import View

SILENT_AFTER_MS = 60_000
"""A runtime without a request for this long is not live, even if its leases are longer."""
Node = tuple[str, str]
"""Its namespace and its name."""
V0_RUNTIME = "a v0 runtime"
"""Stands among the names of runtimes for those that claim through v0."""
_REMEMBERED = "seen_at >= ? AND (phase <> 'stopped' OR seen_at >= ?)"


class RuntimeRow(RuntimeInfo):
    """A runtime, with its last heartbeat and its last task tree.

    A claim counts as a request as long as it is kept (``keep_claim``).

    Fields:
        heartbeat: An empty one if it has only claimed so far.
        tasks_requested: Whether its next heartbeat is to bring its task tree.
        tasks_ms: Age of ``tasks``.
    """

    heartbeat: HeartbeatRequest
    tasks_requested: bool
    tasks: str | None
    tasks_ms: int | None

    @property
    def has_tasks(self) -> bool:
        """Whether it shows its task tree, or has shown it."""
        return self.shows_tasks or self.tasks is not None


def runtimes_of(view: View, namespace: str, held: Held | None = None) -> list[RuntimeRow]:
    """Return the runtimes of a namespace that sent a request lately: the live ones first, by name and id.

    ``held`` is what ``count_held`` returned; without it, the counts of states are 0.
    """
    rows = view.execute(
        f"SELECT * FROM workers WHERE namespace = ? AND {_REMEMBERED} ORDER BY runtime, worker_id",
        (namespace, *_remembered_since(view)),
    )
    runtimes = [_runtime(row, view.lease_now, held or Held()) for row in rows]
    return sorted(runtimes, key=lambda runtime: not runtime.live)


def find_runtime(view: View, namespace: str, worker_id: str) -> RuntimeRow:
    """Return a runtime; raise NotFound if it sent no request lately."""
    row = view.row(
        f"SELECT * FROM workers WHERE namespace = ? AND worker_id = ? AND {_REMEMBERED}",
        (namespace, worker_id, *_remembered_since(view)),
    )
    if row is None:
        raise NotFound(f"no runtime {worker_id!r} was heard of in namespace {namespace!r}")
    return _runtime(row, view.lease_now, Held())


def _remembered_since(view: View) -> tuple[int, int]:
    now = view.lease_now
    return now - FORGOTTEN_AFTER_MS, now - STOPPED_FORGOTTEN_AFTER_MS


def _runtime(row: Row, now: int, held: Held) -> RuntimeRow:
    def age(at: int | None) -> int | None:
        # The clock of another state manager that wrote it may be ahead by a little.
        return None if at is None else max(0, now - at)

    beat, phase = row["beat"], row["phase"] or "starting"
    busy, buffered, reporting = (held[stage, row["worker_id"]] for stage in (QUEUED, BUFFERED, REPORTING))
    heartbeat = HeartbeatRequest.model_validate_json(beat or to_json({"worker_id": row["worker_id"]}))
    return RuntimeRow(
        worker_id=row["worker_id"],
        runtime=row["runtime"],
        phase=phase,
        # ``heard`` is 0 once its leases have ended.
        live=row["heard"] > 0 and now - row["seen_at"] < SILENT_AFTER_MS and phase != "stopped",
        asked_to_drain=row["drain_asked"] > 0,
        workers=heartbeat.workers,
        busy=busy,
        buffered=buffered,
        reporting=reporting,
        holds=busy + buffered + reporting,
        work_at_risk_ms=held[AT_RISK, row["worker_id"]],
        work_at_risk_is_more=held[UNCOUNTED, row["worker_id"]] > 0,
        heard_ms=max(0, now - row["seen_at"]),
        polled_ms=age(row["polled_at"]),
        nodes=from_json(row["nodes"]),
        run_id=row["run_id"],
        shows_tasks=heartbeat.shows_tasks,
        version=heartbeat.version,
        heartbeat=heartbeat,
        tasks_requested=bool(row["tasks_asked"]),
        tasks=row["tasks"],
        tasks_ms=age(row["tasks_at"]),
    )


def v0_runtimes(view: View, namespace: str) -> list[V0Runtime]:
    """Return which nodes were claimed through v0, the latest claim first."""
    now = view.lease_now
    rows = view.execute(
        "SELECT nodes, seen_at FROM v0_runtimes WHERE namespace = ? AND seen_at >= ?"
        " ORDER BY seen_at DESC, id DESC",
        (namespace, now - FORGOTTEN_AFTER_MS),
    )
    return [V0Runtime(nodes=from_json(row["nodes"]), polled_ms=max(0, now - row["seen_at"])) for row in rows]


def live_v0_runtimes(view: View, namespace: str) -> list[V0Runtime]:
    """Return which nodes were claimed through v0 within the last minute."""
    return [each for each in v0_runtimes(view, namespace) if each.polled_ago * 1000 < SILENT_AFTER_MS]


def list_runtimes(view: View, namespace: str) -> RuntimeList:
    runtimes = runtimes_of(view, namespace, count_held(view, namespace))
    return RuntimeList(workers=list[RuntimeInfo](runtimes), v0=v0_runtimes(view, namespace))


def list_stops(view: View, namespace: str, within_ms: int, limit: int = MAX_STOPS) -> StopList:
    """Return the receipts of the runtimes that ended within so many ms, the latest first."""
    rows = view.execute(
        "SELECT receipt FROM stops WHERE ended_at >= ? AND namespace = ?"
        " ORDER BY ended_at DESC, id DESC LIMIT ?",
        (view.now_ms - within_ms, namespace, limit),
    )
    return StopList(receipts=[StopReceipt.model_validate_json(row["receipt"]) for row in rows])


def progress_of(view: View, runtimes: Iterable[RuntimeRow]) -> dict[str, HeartbeatProgress]:
    """Return the last progress of running nodes by state, as heartbeats said it of these executions.

    The last heartbeat of a runtime that was lost, or lost a lease, is about an earlier execution.
    """
    reported = {
        (state.state_id, state.token): state.progress
        for runtime in runtimes
        for state in runtime.heartbeat.states
        if state.progress is not None
    }
    if not reported:
        return {}
    seqs = sorted({seq for state_id, _ in reported if (seq := view.seq(state_id)) is not None})
    held = view.execute(
        f"SELECT seq, token FROM states WHERE {view.any_of('seq')} AND status = 'QUEUED'", (view.items(seqs),)
    )
    tokens = [(view.state_id(row["seq"]), row["token"]) for row in held]
    return {key[0]: progress for key in tokens if (progress := reported.get(key)) is not None}


class Offer(NamedTuple):
    """A live runtime that has a node: its name, the only run that it works on, if so, and whether it drains
    and so claims no more."""

    name: str
    run_id: str | None = None
    drains: bool = False

    def __str__(self) -> str:
        return self.name if self.run_id is None else f"{self.name} (only for run {self.run_id[:8]})"


Offers = Mapping[str, Sequence[Offer]]
"""By node, in the order of their names; one for each process, and one of all that claim through v0."""


def offer_texts(offers: Iterable[Offer]) -> list[str]:
    """Return the names of runtimes, each once, with the number of its processes."""
    processes = Counter(map(str, offers))
    return [name if count == 1 else f"{name} ({count:,} processes)" for name, count in processes.items()]


def offered(view: View, namespace: str) -> Offers:
    """Return which live runtimes have each node."""
    return {name: offers for (_, name), offers in offered_in(view, [namespace]).items()}


def offered_in(view: View, namespaces: Collection[str]) -> Mapping[Node, Sequence[Offer]]:
    """Return which live runtimes have each node of some namespaces."""
    offers: defaultdict[Node, list[Offer]] = defaultdict(list)
    of_these = view.any_of("namespace"), (view.items(sorted(namespaces)), view.lease_now - SILENT_AFTER_MS)
    for row in view.execute(
        # Without their heartbeats: pages need this often.
        "SELECT namespace, runtime, worker_id, nodes, run_id, phase FROM workers"
        f" WHERE {of_these[0]} AND seen_at > ? AND phase <> 'stopped' AND heard > 0",
        of_these[1],
    ):
        drains = (row["phase"] or "starting") not in CLAIMING
        offer = Offer(row["runtime"] or row["worker_id"], row["run_id"], drains)
        for node in from_json(row["nodes"]):
            offers[row["namespace"], node].append(offer)
    v0 = view.execute(
        f"SELECT namespace, nodes FROM v0_runtimes WHERE {of_these[0]} AND seen_at > ?", of_these[1]
    )
    for node in {(row["namespace"], name) for row in v0 for name in from_json(row["nodes"])}:
        offers[node].append(Offer(V0_RUNTIME))
    return {node: sorted(each, key=str) for node, each in offers.items()}


def unserved(view: View, backlog: Backlog, offers: Offers) -> int:
    """Return how many waiting states of a node no live runtime claims."""
    of_node = offers.get(backlog.name, ())
    runs = [offer.run_id for offer in of_node if offer.run_id is not None]
    if not backlog.waiting or len(runs) < len(of_node):
        return 0
    served = view.one(
        "SELECT count(*) AS number FROM (SELECT seq FROM states WHERE status = 'CREATED' AND node_id = ?"
        f" AND coalesce(lane, '') <> '{WAITING}'"
        f" AND run IN (SELECT id FROM runs WHERE {view.any_of('run_id')}) LIMIT ?) AS waits",
        (backlog.node_id, view.items(runs), MAX_COUNTED),
    )
    return max(0, backlog.waiting - int(served["number"]))


def disagreements(runtimes: Iterable[RuntimeRow]) -> list[Disagreement]:
    """Return the nodes that live runtimes have with different inputs or outputs, and which have which."""
    versions: dict[str, dict[str, list[str]]] = {}
    for runtime in runtimes:
        for node, fields in runtime.heartbeat.nodes.items() if runtime.live else ():
            name = f"{runtime.runtime} ({runtime.worker_id})"
            versions.setdefault(node, {}).setdefault(fields, []).append(name)
    return [
        Disagreement(
            node=node,
            versions=[
                NodeVersion(fields=fields, runtimes=names) for fields, names in sorted(different.items())
            ],
        )
        for node, different in sorted(versions.items())
        if len(different) > 1
    ]
