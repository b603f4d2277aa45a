"""Why states wait, as pages, the API and commands say it; the events of a run, and what it waits for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

from pydantic_core import from_json, to_json

from exotrio._util.times import from_unix_ms, iso_time
from exotrio._wire.events import MAX_SHOWN, EventWait, KeptEvent, RunEvents
from exotrio._wire.limits import LimitWait
from exotrio._wire.runs import WaitReason
from exotrio._wire.vocabulary import StateStatus
from exotrio.graph import split_name
from exotrio.manager.engine.order import LATER, waits_until
from exotrio.manager.engine.runs import find_run
from exotrio.manager.engine.states import CREATED, shown_status, waits_for_run
from exotrio.manager.queries.limits import FOR_LIMITS, waits_of
from exotrio.manager.queries.load import claimed_by
from exotrio.manager.queries.obstacles import Obstacles
from exotrio.manager.queries.related import Awaited, awaited_by
from exotrio.manager.queries.runtimes import V0_RUNTIME, Node, Offer, RuntimeRow, runtimes_of
from exotrio.manager.rules.template import Template
from exotrio.manager.store.driver import Row
from exotrio.manager.store.view import View

MAX_FIELDS = 1024 * 1024
"""Bytes of the schemas of the fields of what a run waits for, each state of a fan-out with its own."""
SENTENCES = {
    "paused": "waits: node {node} is paused since {at}",
    "not offered": "waits: no runtime offers {node}; start one that has it",
    "no version": "waits: {node} is pinned to version {version}; no runtime of that version is alive",
    "other runs": "waits: the runtimes that offer {node} only work on other runs; start one that does not",
    "later": "waits: {node} is due {due}",
    "draining": "waits: all runtimes that offer {node} drain",
    "limit": "{node} waits for limit {limit}",
    "busy": "waits for a free worker: all {workers} that can run {node} are busy",
    "event": "waits for event {event} since {since}",
    "event until": "waits for event {event} since {since}, until {at}",
    "run": "waits for run {run} of graph {graph} since {since}",
    "runs": "waits for {runs} runs since {since}, first for {run} of graph {graph}",
    "runs elsewhere": "waits for runs of another namespace since {since}",
    "start": "waits for its run, which is about to be started",
}
"""What is said of a ``WaitReason``, by ``sentence_of``. Pages replace the values by links."""


def sentence_of(reason: WaitReason) -> str:
    """Return the sentence about a reason, in which its values are to be inserted."""
    if reason.kind == "run" and reason.runs and reason.run_id is None:
        return SENTENCES["runs elsewhere"]
    if reason.kind == "run" and reason.runs != 1:
        return SENTENCES["runs" if reason.runs else "start"]
    return SENTENCES["event until" if reason.kind == "event" and reason.at else reason.kind]


class Waiting:
    """Finds the reasons that one answer has. Runtimes of other namespaces are not known."""

    def __init__(self, view: View, namespace: str) -> None:
        self._view, self._namespace = view, namespace
        self.obstacles = Obstacles(view, [namespace])
        self._found: dict[str, list[RuntimeRow]] = {}

    # Each is read only if something waits.

    @cached_property
    def _runtimes(self) -> list[RuntimeRow]:
        return runtimes_of(self._view, self._namespace)

    @cached_property
    def _claimed(self) -> Counter[str]:
        return claimed_by(self._view, self._namespace)

    def obstacle(self, node: Node, run_id: str) -> WaitReason | None:
        """Return why no state of a node in a run can be claimed, however many workers are free."""
        kind, since = self.obstacles.find(node, run_id), self.obstacles.paused.get(node)
        return None if kind is None else _reason(kind, node, at=from_unix_ms(since))

    def reason(self, node: Node, run_id: str, due: int, limit: LimitWait | None = None) -> WaitReason | None:
        """Return why states of a node in a run wait, of which the first is due at ``due``, in Unix ms, and
        waits for ``limit``, if for one.

        None if they are about to be claimed.
        """
        obstacle = self.obstacle(node, run_id)
        if obstacle and obstacle.kind != "draining":
            return obstacle
        if due > self._view.now_ms:
            # Not for a retry at once: the line would come and go.
            return _reason("later", node, at=from_unix_ms(due)) if due - self._view.now_ms >= 1_000 else None
        if obstacle:
            return obstacle
        if limit is not None:
            return _reason("limit", node, limit=limit)
        return self._lack_of_workers(node, run_id)

    def _lack_of_workers(self, node: Node, run_id: str) -> WaitReason | None:
        namespace, name = node
        if namespace != self._namespace or Offer(V0_RUNTIME) in self.obstacles.offers[node]:
            return None
        claiming = [
            runtime for runtime in self._offering(name) if runtime.claims and runtime.run_id in (None, run_id)
        ]
        # Of those that have sent no heartbeat yet, the workers are not known.
        if all(0 < runtime.workers <= self._claimed[runtime.worker_id] for runtime in claiming):
            return _reason("busy", node, workers=sum(runtime.workers for runtime in claiming))
        return None

    def _offering(self, name: str) -> list[RuntimeRow]:
        """Return the live runtimes that offer a node."""
        if name not in self._found:
            live = (runtime for runtime in self._runtimes if runtime.live)
            self._found[name] = [runtime for runtime in live if name in runtime.nodes]
        return self._found[name]


def waiting_nodes(template: Template, counts: Mapping[int, Mapping[str, int]]) -> dict[Node, None]:
    """Return the nodes of which states wait; each may occur several times in the graph."""
    waiting = (place for place in template.places if CREATED in counts.get(place.index, {}))
    return dict.fromkeys((place.namespace, place.node_name) for place in waiting)


def reasons_in(
    view: View, run: Row, counts: Mapping[int, Mapping[str, int]], limit: int | None = None
) -> dict[Node, WaitReason]:
    """Return why states of a run wait, by their node; of so many nodes at most."""
    waiting, reasons = Waiting(view, run["namespace"]), {}
    for node in islice(waiting_nodes(view.template(run["template"]), counts), limit):
        first = _first_waiting(view, run, node)
        wait = None if first is None else waits_of(view, [first], waiting.obstacles).get(first["seq"])
        if reason := waiting.reason(node, run["run_id"], first["enqueue_after"] if first else 0, wait):
            reasons[node] = reason
    return reasons


def event_reasons_in(view: View, run: Row, counts: Mapping[int, Mapping[str, int]]) -> dict[str, WaitReason]:
    """Return which events places of a run wait for, of each the first one, or that they wait for runs."""
    if not any(StateStatus.WAITING in each for each in counts.values()):
        return {}
    reasons: dict[str, WaitReason] = {}
    for wait in waits_in(view, run):
        if wait.identifier not in reasons:
            node = run["namespace"], wait.node_name
            reasons[wait.identifier] = _reason(
                "event", node, event=wait.name, since=wait.since, at=wait.until
            )
    waiting = view.execute(
        "SELECT place, min(updated_at), min(seq) FROM states INDEXED BY states_waiting"
        " WHERE status = 'CREATED'"
        " AND lane = 'waiting' AND run = ? AND event IS NULL GROUP BY place",
        (run["id"],),
    ).fetchall()
    awaited = awaited_by(view, run["namespace"], [seq for _, _, seq in waiting])
    for index, since, seq in waiting:
        place = view.template(run["template"]).places[index]
        node = place.namespace, place.node_name
        reasons[place.identifier] = _run_reason(node, since, awaited.get(seq))
    return reasons


def wait_reasons(view: View, namespace: str, states: Sequence[Row]) -> dict[int, WaitReason]:
    """Return why states wait that are shown in a namespace, by their numbers, without those about to be
    claimed. Runs of other namespaces are not named."""
    shown = {each["seq"]: shown_status(each["status"], each["lane"]) for each in states}
    waiting, reasons = Waiting(view, namespace), dict[int, WaitReason]()
    limits = waits_of(view, [each for each in states if shown[each["seq"]] == CREATED], waiting.obstacles)
    awaited = awaited_by(view, namespace, [each["seq"] for each in states if waits_for_run(each)])
    for state in states:
        reason, seq, node = None, state["seq"], (state["namespace"], state["name"])
        if shown[seq] == StateStatus.WAITING:
            since, until = state["updated_at"], from_unix_ms(waits_until(state["enqueue_after"]))
            if state["event"] is None:
                reason = _run_reason(node, since, awaited.get(seq))
            else:
                reason = _reason("event", node, event=state["event"], since=from_unix_ms(since), at=until)
        elif shown[seq] == CREATED:
            reason = waiting.reason(node, state["run_id"], state["enqueue_after"], limits.get(seq))
        if reason is not None:
            reasons[seq] = reason
    return reasons


def _run_reason(node: Node, since_ms: int, awaited: Awaited | None) -> WaitReason:
    run_id, graph, runs = awaited or (None, None, 0)
    return _reason("run", node, since=from_unix_ms(since_ms), run_id=run_id, graph=graph, runs=runs)


def _first_waiting(view: View, run: Row, node: Node) -> Row | None:
    """Return the first of a node's states that wait in a run: one that could be claimed, one that waits for a
    limit, or the one that is due next."""
    for which in (
        "lane IS NULL",
        f"lane < '{LATER}' ORDER BY lane, enqueue_after, seq",
        f"lane = '{LATER}' ORDER BY enqueue_after",
    ):
        first = view.row(
            f"SELECT {FOR_LIMITS}, enqueue_after FROM states WHERE status = 'CREATED' AND run = ?"
            f" AND node_id = (SELECT id FROM nodes WHERE namespace = ? AND name = ?) AND {which} LIMIT 1",
            (run["id"], *node),
        )
        if first is not None:
            return first
    return None


def _reason(kind: str, node: Node, **about: Any) -> WaitReason:
    """Return a reason with its text; ``about`` has the fields that this kind has."""
    namespace, name = node
    reason = WaitReason(kind=kind, namespace=namespace, node=name, text="", **about)
    if reason.limit is not None:
        reason.text = reason.limit.text()
        return reason
    at, since = (moment and iso_time(moment) for moment in (reason.at, reason.since))
    reason.text = sentence_of(reason).format(
        node=name,
        version=split_name(name)[1],
        at=at,
        due=f"at {at}",
        since=since,
        event=reason.event,
        run=reason.run_id,
        graph=reason.graph,
        runs=f"{reason.runs:,}",
        workers=f"{reason.workers:,}",
    )
    return reason


def show_events(view: View, namespace: str, run_id: str) -> RunEvents:
    run = find_run(view, namespace, run_id)
    sent = view.execute(
        "SELECT name, value, sent_at FROM mailbox WHERE run = ? ORDER BY sent_at DESC, name LIMIT ?",
        (run["id"], MAX_SHOWN),
    )
    return RunEvents(
        sent=[
            KeptEvent(name=name, value=from_json(value), sent_at=from_unix_ms(at)) for name, value, at in sent
        ],
        waiting=waits_in(view, run),
    )


def waits_in(view: View, run: Row) -> list[EventWait]:
    """Return what the states of a run wait for, the oldest first: fewer if their fields have much text."""
    places = view.template(run["template"]).places
    rows = view.execute(
        # Since when: a node began to wait when its state was changed last.
        "SELECT event, place, count(*) AS states, min(updated_at) AS since, min(enqueue_after) AS until"
        " FROM states INDEXED BY states_waiting WHERE status = 'CREATED' AND lane = 'waiting' AND run = ?"
        " AND event IS NOT NULL"
        " GROUP BY event, place ORDER BY since, event, place LIMIT ?",
        (run["id"], MAX_SHOWN),
    )
    waits: list[EventWait] = []
    sizes, left = dict[int, int](), MAX_FIELDS
    for row in rows:
        place, until = places[row["place"]], waits_until(row["until"])
        fields = None if place.wait is None else place.wait.model.outputs
        if place.index not in sizes:
            sizes[place.index] = len(to_json(fields))
        left -= sizes[place.index]
        if left < 0 and waits:
            break
        waits.append(
            EventWait(
                name=row["event"],
                identifier=place.identifier,
                node_name=place.node_name,
                states=row["states"],
                since=from_unix_ms(row["since"]),
                until=None if until is None else from_unix_ms(until),
                fields=fields,
            )
        )
    return waits
