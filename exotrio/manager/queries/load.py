"""How many states of each node wait, are held and failed, and how long they took.

Each query reads a partial index that finished states are not in, or the tallies. Counting stops at
``MAX_COUNTED``: a larger number is of no use, and a scrape has to be short.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from exotrio._util.times import from_unix_ms
from exotrio._wire.overview import NodeBacklog
from exotrio.graph import WITHOUT_RUNTIME
from exotrio.manager.engine.order import LATER, PRIORITIES, WAITING
from exotrio.manager.engine.states import ERRORED, NEXT_CREATED_ERROR, QUEUED, RETRY_CREATED
from exotrio.manager.queries.paging import Where
from exotrio.manager.store import tallies
from exotrio.manager.store.driver import Row
from exotrio.manager.store.view import View

MAX_COUNTED = 100_000
FAILED = "status IN ('ERRORED', 'NEXT_CREATED_ERROR') AND error <> 'cancelled'"
"""The same text as in the index states_failed_by_time: otherwise SQLite would not use that."""
MAX_FIRST = 100
"""How many of a node's due states, in the order of claims, are searched for the one that has waited longest:
some were held before, and given back."""
MAX_READ = 1_000
"""Failed states of one node that are read: their values may be large."""
MAX_HELD = 20_000
"""Maximum of states that are read."""


def _held(condition: str) -> str:
    return (
        "(SELECT states.seq, run, place, node_id, worker, claimed_at, begun, checkpoint_size,"
        " nodes.namespace, coalesce(begun_at, claimed_at) AS begun_at,"
        # A heartbeat has said how long it ran: its node has ended.
        " CASE WHEN ran_ms IS NOT NULL THEN 'REPORTING' WHEN worker IS NULL OR begun_at IS NOT NULL"
        " OR begun = 0 AND row_number() OVER (PARTITION BY nodes.namespace, worker, ran_ms IS NOT NULL"
        " ORDER BY begun DESC, claimed_at, enqueue_after, states.seq) <= slots"
        " THEN 'QUEUED' ELSE 'BUFFERED' END AS stage"
        " FROM states INDEXED BY states_held JOIN nodes ON nodes.id = node_id"
        " LEFT JOIN workers ON workers.namespace = nodes.namespace AND worker_id = worker"
        f" WHERE status = 'QUEUED' AND {condition}) AS held"
    )


HELD = _held("TRUE")
"""The states that are claimed, as a table, and the ``stage`` of each.

A heartbeat says which states a worker has, which of these have begun, and which have ended. Until the next
one, those that a runtime claimed first count as running, as many as it has other workers: it begins them in
this order. What was claimed through v0 counts as running, since no more is known of it.
"""
BUFFERED, REPORTING = "BUFFERED", "REPORTING"
"""Stages of states that are QUEUED and do not run: ``execute`` has not begun, since they wait for a worker,
their secrets or the start of their process; or their node has ended, and their outcome is not accepted yet.
QUEUED itself, as a stage, is that of states that run."""
HOUR, DAY = 60, 24 * 60
"""In minutes."""
FAILURES = (ERRORED, NEXT_CREATED_ERROR, RETRY_CREATED)
"""Statuses of failed attempts, those that were retried included."""


class Backlog(NodeBacklog):
    """The backlog of one node, of any namespace. ``node_id`` is its number."""

    node_id: int
    namespace: str


Held = Counter[tuple[str, int | str]]
"""How many states are claimed: by stage, and by the number of their node, or by the id of their runtime. And
``AT_RISK``: the milliseconds that running ones have worked since their last checkpoints. ``UNCOUNTED`` counts
those that are not in this sum, since no heartbeat has said when they began."""
AT_RISK, UNCOUNTED = "AT RISK", "UNCOUNTED"
_AT_RISK_SINCE = (
    "CASE WHEN begun = 0 AND worker IS NOT NULL THEN NULL WHEN checkpoint_size IS NULL THEN begun_at"
    " ELSE (SELECT CASE WHEN at > begun_at THEN at ELSE begun_at END FROM checkpoints WHERE state = held.seq)"
    " END"
)
"""Since when the work of a running state is at risk, in Unix ms: ``execute`` began, or its checkpoint was
stored. NULL before a heartbeat says that it began: it may have waited in the buffer for hours."""


def count_held(view: View, namespace: str | None = None) -> Held:
    """Count the states that are held, of all namespaces or of one. Each is read: call it once for a page."""
    where = Where()
    if namespace is not None:
        where.add("namespace = ?", namespace)
    held = Held()
    for node_id, worker, stage, number, at_risk_ms, counted in view.execute(
        f"SELECT node_id, worker, stage, count(*), CAST(sum(? - at_risk_since) AS BIGINT),"
        f" count(at_risk_since) FROM (SELECT *, {_AT_RISK_SINCE} AS at_risk_since FROM {HELD}) AS held"
        f" WHERE {where} GROUP BY node_id, worker, stage",
        (view.now_ms, *where.parameters),
    ):
        for key in (node_id,) if worker is None else (node_id, worker):
            held[stage, key] += number
            if stage == QUEUED:
                held[AT_RISK, key] += max(0, at_risk_ms or 0)
                held[UNCOUNTED, key] += number - counted
    return held


def claimed_by(view: View, namespace: str) -> Counter[str]:
    """Count the states that each runtime has claimed, and whose nodes have not ended.

    It is several times as fast as ``count_held``, and enough to say whether all workers are busy.
    """
    claimed = view.execute(
        "SELECT worker, count(*) AS number FROM states INDEXED BY states_held WHERE status = 'QUEUED'"
        " AND worker IS NOT NULL AND ran_ms IS NULL AND node_id IN (SELECT id FROM nodes WHERE namespace = ?)"
        " GROUP BY worker",
        (namespace,),
    )
    return Counter({row["worker"]: row["number"] for row in claimed})


def stages_among(view: View, statuses: Mapping[int, str]) -> dict[int, str]:
    """Return ``BUFFERED`` and ``REPORTING`` of those of these states to which they apply.

    ``statuses`` is by number, and so is what is returned.
    """
    claimed = [seq for seq, status in statuses.items() if status == QUEUED]
    if not claimed:
        return {}
    workers = [
        row["worker"]
        for row in view.execute(
            f"SELECT DISTINCT worker FROM states WHERE {view.any_of('seq')} AND worker IS NOT NULL",
            (view.items(claimed),),
        )
    ]
    # To number the states of all other runtimes, too, would take 100 ms if many are held.
    rows = view.execute(
        f"SELECT seq, stage FROM {_held(view.any_of('worker'))} WHERE {view.any_of('seq')}"
        f" AND stage <> '{QUEUED}'",
        (view.items(workers), view.items(claimed)),
    )
    return {row["seq"]: row["stage"] for row in rows}


def count_stages(view: View, run: int) -> dict[int, dict[str, int]]:
    """Return how many states of a run are in which stage, by place."""
    counts: defaultdict[int, dict[str, int]] = defaultdict(dict)
    for place, stage, number in view.execute(
        f"SELECT place, stage, count(*) FROM {HELD} WHERE run = ? GROUP BY place, stage", (run,)
    ):
        counts[place][stage] = number
    return counts


def backlog(
    view: View, *, namespace: str | None = None, node: str | None = None, held: Held | None = None
) -> list[Backlog]:
    """Return the backlog of every registered node, or of those with this namespace and this name.

    ``held`` is what ``count_held`` returned, if that was called before.
    """
    held = held or count_held(view, namespace)
    where = Where()
    if namespace is not None:
        where.add("namespace = ?", namespace)
    if node is not None:
        where.add("name = ?", node)
    # Each state is counted once: as due now, as due later, as waiting for a limit, whose lanes begin with a
    # number, or as waiting for an event.
    waits = "SELECT enqueue_after, updated_at FROM states WHERE node_id = nodes.id AND status = 'CREATED'"
    later = f"{waits} AND lane = '{LATER}' AND enqueue_after"
    # The states that wait longest are among the first ones of each priority, or of those that came due.
    first = " UNION ALL ".join(
        f"SELECT * FROM ({part} LIMIT {MAX_FIRST}) AS waiting"
        for part in (
            *(f"{waits} AND lane IS NULL AND priority = {each} ORDER BY turn, seq" for each in PRIORITIES),
            f"{later} <= ? ORDER BY enqueue_after",
        )
    )
    backlogs = []
    for row in view.execute(
        "SELECT id, namespace, name, paused_at,"
        f" (SELECT count(*) FROM ({waits} AND lane IS NULL LIMIT ?) AS waits) AS ready,"
        f" (SELECT count(*) FROM ({later} <= ? LIMIT ?) AS waits) AS due,"
        f" (SELECT count(*) FROM ({later} > ? LIMIT ?) AS waits) AS later,"
        f" (SELECT count(*) FROM ({waits} AND lane < '{LATER}' LIMIT ?) AS waits) AS limited,"
        f" (SELECT count(*) FROM ({waits} AND lane = '{WAITING}' LIMIT ?) AS waits) AS for_event,"
        " (SELECT min(CASE WHEN updated_at > enqueue_after THEN updated_at ELSE enqueue_after END)"
        f" FROM ({first}) AS waiting) AS first FROM nodes WHERE {where} ORDER BY namespace, name",
        (
            *(MAX_COUNTED, view.now_ms, MAX_COUNTED, view.now_ms, *[MAX_COUNTED] * 3, view.now_ms),
            *where.parameters,
        ),
    ):
        due = min(row["ready"] + row["due"], MAX_COUNTED)
        is_eligible = due and row["paused_at"] is None
        backlogs.append(
            Backlog(
                node_id=row["id"],
                namespace=row["namespace"],
                name=row["name"],
                waiting=min(due + row["later"] + row["limited"], MAX_COUNTED),
                for_event=row["for_event"],
                eligible=due if is_eligible else 0,
                oldest_ms=max(0, view.now_ms - row["first"]) if is_eligible else 0,
                limited=row["limited"],
                running=held[QUEUED, row["id"]],
                buffered=held[BUFFERED, row["id"]],
                reporting=held[REPORTING, row["id"]],
                work_at_risk_ms=held[AT_RISK, row["id"]],
                work_at_risk_is_more=held[UNCOUNTED, row["id"]] > 0,
                paused_at=from_unix_ms(row["paused_at"]),
            )
        )
    return backlogs


def waiting(view: View, namespace: str, limit: int) -> dict[str, int]:
    """Return how many states of each registered node of a namespace wait, counted up to a limit."""
    count = (
        "(SELECT count(*) FROM (SELECT seq FROM states WHERE node_id = nodes.id AND status = 'CREATED' AND {}"
        " LIMIT ?) AS waits)"
    )
    rows = view.execute(
        f"SELECT name, {count.format('lane IS NULL')} + {count.format('lane <= ?')} AS waiting"
        " FROM nodes WHERE namespace = ? AND name NOT IN (?, ?) ORDER BY name",
        (limit, LATER, limit, namespace, *WITHOUT_RUNTIME),
    )
    return {row["name"]: min(row["waiting"], limit) for row in rows}


def failing(view: View, node_ids: Iterable[int], since: int) -> dict[int, int]:
    """Return how many states of the nodes failed since then; at most ``MAX_COUNTED`` are counted."""
    rows = view.execute(
        "SELECT node_id, count(*) AS failed FROM"
        f" (SELECT node_id FROM states WHERE {view.any_of('node_id')} AND {FAILED}"
        " AND finished_at >= ? LIMIT ?) AS failed GROUP BY node_id",
        (view.items(list(node_ids)), since, MAX_COUNTED),
    )
    return {row["node_id"]: row["failed"] for row in rows}


def fails_since(view: View, node_id: int, since: int) -> int | None:
    """Return when the first attempt failed at a state of a node that failed since then, in Unix ms.

    Of more than ``MAX_READ`` states, those are read that failed first.
    """
    row = view.one(
        "SELECT min(COALESCE(failed_since, finished_at)) AS first FROM (SELECT failed_since, finished_at"
        f" FROM states WHERE node_id = ? AND {FAILED} AND finished_at >= ? ORDER BY finished_at LIMIT ?)"
        " AS failed",
        (node_id, since, MAX_READ),
    )
    first: int | None = row["first"]
    return first


def states_held(view: View, namespace: str) -> Mapping[str, list[Row]]:
    """Return the states of each runtime, by its id, as rows of ``HELD``: first claimed first."""
    held: defaultdict[str, list[Row]] = defaultdict(list)
    for row in view.execute(
        f"SELECT * FROM {HELD} WHERE namespace = ? AND worker IS NOT NULL LIMIT ?", (namespace, MAX_HELD)
    ):
        held[row["worker"]].append(row)
    for rows in held.values():
        rows.sort(key=lambda row: (row["claimed_at"], row["seq"]))
    return held


def failures(statuses: Counter[str]) -> int:
    """Return how many of these attempts failed."""
    return sum(statuses[status] for status in FAILURES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Performance:
    """The attempts of a node that ended in some time. Durations are in ms, and None without any.

    Attributes:
        unreported: Of how many it is not known when ``execute`` began, as of those that were claimed through
            v0. For these, the time from claim to end is in ``ran``.
        waits: How many waits of its states for events or runs were over, after which these went on.
        waited, buffered, ran, awaited: Share in percent to the time that so many did not exceed.
    """

    ended: int
    failed: int
    unreported: int
    waits: int
    waited: Mapping[int, float | None]
    buffered: Mapping[int, float | None]
    ran: Mapping[int, float | None]
    awaited: Mapping[int, float | None]


def performance(view: View, node_id: int, minutes: int, *, is_wait: bool = False) -> Performance:
    """Return how many attempts of a node ended in the last minutes, and how long they waited and took.

    With ``is_wait`` no runtime runs the node: ``ran`` is how long its states waited for events or runs.
    """
    counts = tallies.of_node(view, node_id, minutes)
    ended = counts.statuses.total()

    def quantiles(buckets: Counter[int]) -> dict[int, float | None]:
        return {percent: tallies.quantile(buckets, percent / 100) for percent in (50, 95, 99)}

    return Performance(
        ended=ended,
        failed=failures(counts.statuses),
        unreported=0 if is_wait else max(0, ended - counts.buffered.total()),
        waits=counts.awaited.total(),
        waited=quantiles(counts.waited),
        buffered=quantiles(counts.buffered),
        ran=quantiles(counts.took),
        awaited=quantiles(counts.awaited),
    )


def nodes_of(view: View, namespace: str) -> dict[int, str]:
    """Return the registered nodes of a namespace: number to name."""
    rows = view.execute("SELECT id, name FROM nodes WHERE namespace = ? ORDER BY name", (namespace,))
    return {row["id"]: row["name"] for row in rows}


def graphs_of(view: View, namespace: str) -> dict[int, str]:
    """Return the graphs of a namespace: number to name."""
    rows = view.execute("SELECT id, name FROM graphs WHERE namespace = ? ORDER BY name", (namespace,))
    return {row["id"]: row["name"] for row in rows}


def oldest_graphs(view: View, limit: int) -> list[tuple[str, str]]:
    """Return the graphs that were stored first, of all namespaces: namespace and name."""
    rows = view.execute("SELECT namespace, name FROM graphs ORDER BY id LIMIT ?", (limit,))
    return [(namespace, name) for namespace, name in rows]


def paused_nodes(view: View) -> dict[tuple[str, str], int]:
    """Return since when nodes of all namespaces are paused, by namespace and name, in Unix ms."""
    rows = view.execute("SELECT namespace, name, paused_at FROM nodes WHERE paused_at IS NOT NULL")
    return {(namespace, name): paused_at for namespace, name, paused_at in rows}


def schedules_paused(view: View) -> dict[tuple[str, str], bool]:
    """Return whether each graph's schedule is paused, by namespace and name; of those that have one."""
    rows = view.execute(
        "SELECT DISTINCT namespace, name, paused_at FROM cron_triggers JOIN graphs ON graphs.id = graph"
        " ORDER BY namespace, name"
    )
    return {(namespace, name): paused_at is not None for namespace, name, paused_at in rows}
