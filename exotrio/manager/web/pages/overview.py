"""The overview: what happens now, and what happened in the last hour."""

from __future__ import annotations

from collections.abc import Collection, Hashable

from exotrio._util.error_message import message_line
from exotrio.manager.queries.load import FAILED, HOUR, backlog, failures, held_by_worker, nodes_of
from exotrio.manager.queries.overview import current, last_hour
from exotrio.manager.queries.runs import newest_runs, run_row
from exotrio.manager.queries.workers import live_anonymous, offered, shown_workers
from exotrio.manager.store import tallies
from exotrio.manager.store.port import View
from exotrio.manager.web.page import Asked, Data, Page
from exotrio.manager.web.svg.chart import draw_throughput

RUNS_SHOWN = 12


def load(view: View, asked: Asked, wanted: Collection[str]) -> dict[str, Data]:
    node_ids = nodes_of(view, asked.namespace)
    data: dict[str, Data] = {"page": {"title": "Overview", "now": view.now_ms}}
    if "now" in wanted:
        present = current(view, node_ids, backlog(view, namespace=asked.namespace))
        offers = offered(asked.workers, asked.anonymous, asked.monotonic)
        is_offered = present.oldest is None or present.oldest.node in offers
        data["now"] = {"current": present, "oldest_offered": is_offered}
    if "hour" in wanted:
        hour = last_hour(view, node_ids)
        last_minute = hour.first_minute + len(hour.ended) - 1
        data["hour"] = {
            "ended": sum(hour.ended),
            "failed": sum(hour.failed),
            "chart": draw_throughput(hour.ended, hour.failed, last_minute_ms=last_minute * tallies.MINUTE_MS),
        }
    if "failing" in wanted:
        data["failing"] = {"nodes": _failing(view, node_ids)}
    if "runtimes" in wanted:
        data["runtimes"] = {
            "workers": shown_workers(asked.workers, asked.monotonic),
            "held": held_by_worker(view, asked.namespace),
            "anonymous": len(live_anonymous(asked.anonymous, asked.monotonic)),
        }
    if "runs" in wanted:
        rows = newest_runs(view, asked.namespace, RUNS_SHOWN)
        runs = [run_row(row, view.now_ms) for row in rows]
        data["runs"] = {"runs": runs, "of_graph": None, "looked_at": None}
    return data


def _failing(view: View, node_ids: dict[int, str]) -> list[Data]:
    found = []
    for node_id, name in node_ids.items():
        statuses, _ = tallies.of_node(view, node_id, HOUR)
        failed = failures(statuses)
        if failed:
            last = view.row(
                f"SELECT seq, error FROM states WHERE node_id = ? AND {FAILED}"
                " ORDER BY finished_at DESC LIMIT 1",
                (node_id,),
            )
            found.append(
                {
                    "name": name,
                    "failed": failed,
                    "ended": statuses.total(),
                    "last": None if last is None else view.state_id(last["seq"]),
                    "error": "" if last is None else message_line(last["error"]),
                }
            )
    return sorted(found, key=lambda node: -node["failed"])


def versions(view: View, asked: Asked) -> dict[str, Hashable]:
    written, heard = asked.service.store.written, asked.service.workers.heard
    moment = view.now_ms // 5_000
    return {
        "now": (written, heard, moment),
        "hour": (written, view.now_ms // 60_000),
        "failing": (written, view.now_ms // 60_000),
        "runtimes": (heard, written, moment),
        "runs": (written, moment),
    }


PAGE = Page(
    path="/ns/{namespace}",
    folder="overview",
    fragments=("now", "hour", "failing", "runtimes", "runs"),
    load=load,
    versions=versions,
    pace={"hour": 2.0, "failing": 2.0, "now": 0.5, "runs": 0.5, "runtimes": 1.0},
)
