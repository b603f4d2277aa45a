"""The overview: what happens now, and what happened in the last hour."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable

from exotrio.manager import _tally
from exotrio.manager._backlog import MOST_COUNTED, backlog
from exotrio.manager._transaction import View
from exotrio.manager.web._chart_svg import draw_throughput
from exotrio.manager.web._failed import FAILED, failed_since
from exotrio.manager.web._held import held_by_worker
from exotrio.manager.web._namespaces import kinds_of
from exotrio.manager.web._page import Asked, Data, Page
from exotrio.manager.web._page_nodes import FAILURES
from exotrio.manager.web._run_rows import newest_runs
from exotrio.manager.web._run_states import last_line
from exotrio.manager.web._workers_shown import offered, shown_workers

HOUR = 60
DAY_MS = 86_400_000
RUNS_SHOWN = 12


def load(view: View, asked: Asked, wanted: Collection[str]) -> dict[str, Data]:
    kinds = kinds_of(view, asked.namespace)
    data: dict[str, Data] = {"page": {"title": "Overview", "now": view.now_ms}}
    if "now" in wanted:
        data["now"] = _now(view, asked, kinds)
    if "hour" in wanted:
        minutes = _tally.by_minute(view, kinds, HOUR)
        failed = [sum(minutes[minute][status] for status in FAILURES) for minute in sorted(minutes)]
        ended = [minutes[minute].total() for minute in sorted(minutes)]
        data["hour"] = {
            "ended": sum(ended),
            "failed": sum(failed),
            "chart": draw_throughput(ended, failed, last_minute_ms=max(minutes) * _tally.MINUTE_MS),
        }
    if "failing" in wanted:
        data["failing"] = {"nodes": _failing(view, kinds)}
    if "runtimes" in wanted:
        data["runtimes"] = {
            "workers": shown_workers(asked),
            "held": held_by_worker(view),
            "anonymous": len(asked.anonymous),
        }
    if "runs" in wanted:
        runs = newest_runs(view, asked.namespace, RUNS_SHOWN)
        data["runs"] = {"runs": runs, "of_graph": None, "looked_at": None}
    return data


def _now(view: View, asked: Asked, kinds: dict[int, str]) -> Data:
    backlogs = backlog(view, namespace=asked.namespace)
    oldest = max((each for each in backlogs if each.eligible), key=lambda each: each.oldest, default=None)
    return {
        "running": sum(each.held for each in backlogs),
        "waiting": sum(each.waiting for each in backlogs),
        "waiting_is_more": any(each.waiting == MOST_COUNTED for each in backlogs),
        "oldest": oldest,
        "oldest_offered": oldest is None or oldest.node in offered(asked),
        "errored": failed_since(view, kinds, view.now_ms - DAY_MS),
    }


def _failing(view: View, kinds: dict[int, str]) -> list[Data]:
    found = []
    for kind, name in kinds.items():
        statuses, _ = _tally.of_kind(view, kind, HOUR)
        failed = _failures(statuses)
        if failed:
            last = view.row(
                f"SELECT seq, error FROM states WHERE kind = ? AND {FAILED}"
                " ORDER BY finished_at DESC LIMIT 1",
                (kind,),
            )
            found.append(
                {
                    "name": name,
                    "failed": failed,
                    "ended": statuses.total(),
                    "last": None if last is None else view.state_id(last["seq"]),
                    "error": "" if last is None else last_line(last["error"]),
                }
            )
    return sorted(found, key=lambda node: -node["failed"])


def _failures(statuses: Counter[str]) -> int:
    return sum(statuses[status] for status in FAILURES)


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
