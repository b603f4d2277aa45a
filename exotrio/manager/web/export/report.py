"""A run as one page that stands alone: for a mail, a ticket, or an archive.

It has no script and loads nothing: its policy forbids both. Its size is bounded, however many states the run
has, and it says what is left out. Secrets of the graph are masked in every text.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.metadata import version

from markupsafe import Markup

from exotrio._wire.overview import EXPORT_TYPE
from exotrio.manager.engine.runs import find_run
from exotrio.manager.queries.run_detail import (
    MAX_BARS,
    events_of,
    spans_of,
)
from exotrio.manager.queries.runs import counts_of, run_row, unreached_in
from exotrio.manager.store.cipher import Cipher, open_secrets
from exotrio.manager.store.port import View
from exotrio.manager.web.export.states import pick_states
from exotrio.manager.web.faults import faults_of
from exotrio.manager.web.format import CANCELLED, CLASSES, classed
from exotrio.manager.web.page import render, style
from exotrio.manager.web.results import beginning_of, results_of
from exotrio.manager.web.svg.graph import boxes_of, draw_graph
from exotrio.manager.web.svg.timeline import draw_timeline
from exotrio.manager.web.texts import ReportTexts

MAX_EVENTS = 200


def export(view: View, namespace: str, run_id: str, cipher: Cipher, *, values: bool = True) -> str:
    """Return the page of a run; without ``values`` only names and errors are shown.

    Raises:
        Refused: there is no such run.
    """
    run = find_run(view, namespace, run_id)
    template = view.template(run["template"])
    by_place = counts_of(view, run["id"])
    totals = [sum(by_place.get(place.index, {}).values()) for place in template.places]
    cancelled = run["cancelled_at"] is not None
    counts = [classed(by_place.get(place.index, {}), cancelled=cancelled) for place in template.places]
    secrets, unknown = open_secrets(view, (run["graph"],), cipher)[run["graph"]]
    texts = ReportTexts(secrets)
    picked = pick_states(view, run, template.places, totals, texts, values=values)

    def href(state_id: str) -> str | None:
        return f"#s{state_id}" if state_id in picked["ids"] else None

    faults = faults_of(view, run, template.places, texts, href)
    spans = spans_of(view, run)
    unreached = unreached_in(view, run, by_place)
    boxes = boxes_of(
        template,
        counts=counts,
        href=lambda place: f"#n{place.index}" if totals[place.index] else None,
        unreached=unreached,
    )
    lanes = [(place.identifier, total) for place, total in zip(template.places, totals, strict=True)]
    events, more_events = events_of(view, run, template, MAX_EVENTS)
    row = run_row(run, view.now_ms)
    row["key"] = texts.begin(row["key"]) if row["key"] and values else None
    sheet = style() + style("export.css")
    digest = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return render(
        "export/page.html",
        policy=policy,
        style=Markup(sheet),
        version=version("exotrio"),
        made_at=view.now_ms,
        now=view.now_ms,
        namespace=namespace,
        run=row,
        finished_at=run["finished_at"],
        cancelled_at=run["cancelled_at"],
        graph=draw_graph(boxes, title=f"Graph {run['graph_name']}"),
        unreached=[(template.places[index].identifier, why.text) for index, why in unreached.items()],
        further=0,
        places=template.places,
        totals=totals,
        counts=counts,
        classes=[name for name in (*CLASSES, CANCELLED) if any(name in each for each in counts)],
        timeline={
            "picture": draw_timeline(lanes, spans, lambda state_id: f"#s{state_id}"),
            "each": spans.each,
            "many": len(spans.spans) > MAX_BARS,
        },
        faults=faults,
        linked=False,
        picked=picked,
        values=values,
        beginning=beginning_of(view, run, template, texts, values=values),
        result=results_of(view, run, template, by_place, texts, href) if values else None,
        masked=len(secrets),
        unknown_secrets=unknown,
        events=events,
        more_events=more_events,
    )


def headers(run_id: str) -> dict[str, str]:
    """Return the headers of a response with such a page: browsers save it and do not show it."""
    return {
        "content-type": EXPORT_TYPE,
        "content-disposition": f'attachment; filename="run-{run_id[:8]}.html"',
        "content-security-policy": "default-src 'none'; sandbox",
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
    }
