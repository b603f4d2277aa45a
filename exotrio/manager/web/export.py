"""A run as one HTML file: for a mail, a ticket, or an archive.

It has no script and loads nothing: its policy forbids both. Its size is limited, also for runs with many
states, and it says what it leaves out. ``texts`` masks the secrets of the graph in every text.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.metadata import version

from markupsafe import Markup

from exotrio._wire.overview import EXPORT_TYPE
from exotrio.manager.engine.runs import find_run
from exotrio.manager.engine.states import PRUNED, shown_status
from exotrio.manager.queries.related import children_of
from exotrio.manager.queries.run import counts_of, further_of, stages_of, unreached_in
from exotrio.manager.queries.run_detail import choose_states, events_of, read_states, spans_of
from exotrio.manager.queries.runs import read_run
from exotrio.manager.queries.state_detail import logs_of
from exotrio.manager.queries.state_times import Times, times_among
from exotrio.manager.queries.states import MAX_SEARCHED, was_cancelled
from exotrio.manager.rules.template import Place
from exotrio.manager.store.cipher import Cipher, open_secrets
from exotrio.manager.store.driver import Row
from exotrio.manager.store.view import View
from exotrio.manager.web.faults import end_of, faults_of, message_of
from exotrio.manager.web.format import CANCELLED, CLASSES, classed, line_of, short, times_of
from exotrio.manager.web.page import Data, render, style
from exotrio.manager.web.results import beginning_of, results_of
from exotrio.manager.web.svg.graph import boxes_of, draw_graph
from exotrio.manager.web.svg.timeline import draw_timeline
from exotrio.manager.web.texts import ShownTexts

MAX_EVENTS = 200
MAX_ERROR = 4_000
"""Characters of a state's error; states that failed alike have one traceback in full."""
MAX_BRIEF = 160
MAX_TEXT = 8_000_000
"""Characters of values and errors in an export."""


def export_run(view: View, namespace: str, run_id: str, cipher: Cipher, *, values: bool = True) -> str:
    """Return the file of a run, or refuse with 404; without ``values`` it shows only names and errors."""
    run = find_run(view, namespace, run_id)
    template = view.template(run["template"])
    by_place = counts_of(view, run["id"])
    totals = [sum(by_place.get(place.index, {}).values()) for place in template.places]
    cancelled = run["cancelled_at"] is not None
    stages = stages_of(view, run["id"], by_place)
    counts = [classed(stages.get(place.index, {}), cancelled=cancelled) for place in template.places]
    secrets, unknown = open_secrets(view, (run["graph"],), cipher)[run["graph"]]
    texts = ShownTexts(secrets)
    picked = _pick_states(view, run, template.places, totals, texts, values=values)

    def href(state_id: str) -> str | None:
        return f"#s{state_id}" if state_id in picked["ids"] else None

    faults = faults_of(view, run, template.places, texts, href)
    spans = spans_of(view, run)
    unreached, further = unreached_in(view, run, by_place), further_of(view, run)
    boxes = boxes_of(
        template,
        counts=counts,
        further=further,
        href=lambda place: f"#n{place.index}" if totals[place.index] else None,
        unreached=unreached,
    )
    events, more_events = events_of(view, run, template, MAX_EVENTS)
    events = [{**event, "worker": texts.begin(event["worker"] or "")} for event in events]
    children, total = children_of(view, run)
    summary = read_run(run)
    summary.key = texts.begin(summary.key) if summary.key and values else None
    sheet = style() + style("export.css")
    digest = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return render(
        "export/page.html",
        policy=policy,
        style=Markup(sheet),
        version=version("exotrio"),
        now=view.now_ms,
        namespace=namespace,
        run=summary,
        graph=draw_graph(boxes, title=f"Graph {run['graph_name']}"),
        # While the run goes on, others may still be reached.
        unreached=[
            (template.places[index].identifier, why.text)
            for index, why in unreached.items()
            if why.is_final or not run["pending"]
        ],
        further=0,
        places=template.places,
        totals=totals,
        counts=counts,
        classes=[name for name in (*CLASSES, CANCELLED) if any(name in each for each in counts)],
        timeline=draw_timeline(spans, lambda state_id: f"#s{state_id}"),
        spans=spans,
        faults=faults,
        linked=False,
        picked=picked,
        values=values,
        beginning=beginning_of(view, run, template, texts, values=values, linked=False),
        result=results_of(view, run, template, by_place, texts, href) if values else None,
        masked=len(secrets),
        unknown_secrets=unknown,
        children={"runs": children, "total": total},
        events=events,
        more_events=more_events,
    )


def export_headers(run_id: str) -> dict[str, str]:
    """Return the headers of the response: browsers save the file and do not show it."""
    return {
        "content-type": EXPORT_TYPE,
        "content-disposition": f'attachment; filename="run-{run_id[:8]}.html"',
        "content-security-policy": "default-src 'none'; sandbox",
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
    }


# -- its states


def _pick_states(
    view: View, run: Row, places: Sequence[Place], totals: Sequence[int], texts: ShownTexts, *, values: bool
) -> Data:
    """Return the states that an export shows, by node, and how many there are of each (``totals``).

    ``bare`` counts states that are shown without values, since the export was too long already; ``searched``
    counts the states from which the shown ones were picked.
    """
    chosen = choose_states(view, run, totals)
    groups: list[Data] = []
    bare = 0
    for place in places:
        states = []
        rows = read_states(view, chosen[place.index], error=2 * MAX_ERROR)
        times = times_among(view, rows)
        for row in rows:
            with_values = values and texts.spent < MAX_TEXT
            bare += values and not with_values
            at = times[row["seq"]]
            state = _shown(view, row, at, texts, values=with_values)
            states.append({**state, "stage": at.stage or shown_status(row["status"], row["lane"])})
        if totals[place.index]:
            groups.append({"place": place, "total": totals[place.index], "states": states})
    total = sum(totals)
    ids = frozenset(state["id"] for group in groups for state in group["states"])
    return {
        "groups": groups,
        "total": total,
        "shown": len(ids),
        "bare": bare,
        "searched": min(total, MAX_SEARCHED),
        "ids": ids,
    }


def _shown(view: View, row: Row, at: Times, texts: ShownTexts, *, values: bool) -> Data:
    state_id, cancelled = view.state_id(row["seq"]), was_cancelled(row["status"], row["error"])
    error = "" if cancelled else row["error"] or ""
    inputs: str = row["inputs"]
    came = "data" if row["status"] == PRUNED else "outputs"
    return {
        "id": state_id,
        "short": short(state_id),
        "cancelled": cancelled,
        "retry_count": row["retry_count"],
        "cause": row["cause"],
        "by_hand": row["by_hand"],
        "times": times_of(at, view.now_ms),
        # The name that a runtime gives itself may have any characters.
        "worker": texts.begin(row["worker"] or ""),
        "created_at": row["created_at"],
        "claimed_at": row["claimed_at"],
        "begun_at": at.begun,
        "finished_at": row["finished_at"],
        "line": message_of(error, 2 * MAX_ERROR, texts),
        "error": end_of(error, row["error_size"] or 0, MAX_ERROR, texts),
        "values": values,
        "brief": texts.begin(line_of(inputs), MAX_BRIEF, cut_after=row["inputs_size"] > len(inputs))
        if values and inputs != "{}"
        else "",
        "inputs": texts.values(inputs, row["inputs_size"]) if values else [],
        "pruned": came == "data",
        "outputs": texts.values(row[came], row[f"{came}_size"]) if values else [],
        # Log lines may contain values, and only those of failed states are needed.
        "logs": [
            {
                "at": line.at,
                "level": texts.begin(line.level or ""),
                "logger": texts.begin(line.logger or ""),
                "text": texts.begin(line.text),
            }
            for line in (logs_of(view, row["seq"]) if values and error else ())
        ],
    }
