"""A run as one page that stands alone: for a mail, a ticket, or an archive.

It has no script and asks nobody for anything: its policy forbids both. What it shows is bounded, however
many states the run has; what is left out it says. Secrets of the graph are masked, whatever text they got
into.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.metadata import version

from markupsafe import Markup

from exotrio._wire.overview import EXPORT_TYPE
from exotrio.manager.queries.run_detail import (
    boxes_of,
    counts_of,
    events_of,
    find_run,
    run_classed,
    spans_of,
    store_of,
)
from exotrio.manager.queries.runs import run_row
from exotrio.manager.rules.errors import not_found
from exotrio.manager.store.cipher import Cipher, open_secrets
from exotrio.manager.store.port import View
from exotrio.manager.web.assets import style
from exotrio.manager.web.export.redactor import Shareable
from exotrio.manager.web.export.states import faults_of, pick_states
from exotrio.manager.web.format import CANCELLED, CLASSES
from exotrio.manager.web.page import Data, render
from exotrio.manager.web.svg.graph import draw_graph
from exotrio.manager.web.svg.timeline import draw_timeline

MOST_EVENTS = 200


def export(view: View, namespace: str, run_id: str, cipher: Cipher, *, values: bool = True) -> str:
    """Return the page of a run.

    Args:
        cipher: Opens the secrets of its graph, which are masked.
        values: With inputs, outputs and values of the store; names and errors it has anyway.

    Raises:
        Refused: there is no such run.
    """
    run = find_run(view, namespace, run_id)
    if run is None:
        raise not_found(f"there is no run {run_id!r} in namespace {namespace!r}")
    template = view.template(run["template"])
    counts = counts_of(view, run["id"])
    totals = [sum(counts.get(place.index, {}).values()) for place in template.places]
    secrets, unknown = open_secrets(view, run["graph"], cipher)
    texts = Shareable(secrets)
    faults = faults_of(view, run, template.places, texts)
    picked = pick_states(view, run, template.places, totals, texts, values=values)
    # With links to the states where all of them are shown; to their groups in any case.
    spans = spans_of(view, run, template, {"before": "#s", "after": ""})
    boxes = boxes_of(template, counts, run, lambda place: f"#n{place.index}" if totals[place.index] else None)
    lanes = [(place.identifier, total) for place, total in zip(template.places, totals, strict=True)]
    places: list[Data] = [
        {
            "identifier": place.identifier,
            "node": place.node_name,
            "anchor": f"n{place.index}",
            "total": total,
            "counts": run_classed(counts.get(place.index, {}), run),
        }
        for place, total in zip(template.places, totals, strict=True)
    ]
    events, more_events = events_of(view, run, template, MOST_EVENTS)
    store = store_of(view, run, template)
    policy = f"default-src 'none'; style-src '{_digest(sheet())}'; base-uri 'none'; form-action 'none'"
    return render(
        "export/page.html",
        policy=policy,
        style=Markup(sheet()),
        version=version("exotrio"),
        made_at=view.now_ms,
        now=view.now_ms,
        namespace=namespace,
        run=run_row(run, view.now_ms),
        finished_at=run["finished_at"],
        cancelled_at=run["cancelled_at"],
        graph=draw_graph(boxes, title=f"Graph {run['graph_name']}"),
        places=places,
        classes=[name for name in (*CLASSES, CANCELLED) if any(name in place["counts"] for place in places)],
        timeline={
            "picture": draw_timeline(lanes, spans.spans, until=spans.until, each=spans.each),
            "each": spans.each,
            "many": len(spans.spans) > 500,
        },
        faults=faults,
        picked=picked,
        values=values,
        store=texts.pairs(store) if values else [],
        store_keys=[texts.begin(key) for key, _ in store],
        masked=len(secrets),
        unknown_secrets=unknown,
        events=events,
        more_events=more_events,
    )


def headers(run_id: str) -> dict[str, str]:
    """Return the headers of a reply with such a page: to be kept, not to be shown from here."""
    return {
        "content-type": EXPORT_TYPE,
        "content-disposition": f'attachment; filename="run-{run_id[:8]}.html"',
        "content-security-policy": "default-src 'none'; sandbox",
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
    }


def sheet() -> str:
    """Return the style sheet of the page."""
    return style() + style("export.css")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
