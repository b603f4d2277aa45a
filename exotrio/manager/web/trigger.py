"""Starting runs from the dashboard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from exotrio.manager.engine import runs
from exotrio.manager.rules.errors import Refused
from exotrio.manager.store.port import Transaction, View
from exotrio.manager.web.guard import field

INPUT, STORE = "input.", "store."
"""What the names of a form's fields begin with; the rest is the name of the input or the key."""
LONGEST_DELAY = 30 * 86_400.0


def read(form: dict[str, list[str]]) -> tuple[dict[str, str], dict[str, str], int]:
    """Return the inputs, the store and the delay in milliseconds that a form was filled in with.

    A field that was left empty keeps what the graph says, unless its box for an empty text is ticked.
    """
    given = {name: values[0] for name, values in form.items() if values[0] or f"empty.{name}" in form}
    inputs = {name.removeprefix(INPUT): text for name, text in given.items() if name.startswith(INPUT)}
    store = {name.removeprefix(STORE): text for name, text in given.items() if name.startswith(STORE)}
    text = field(form, "delay").strip() or "0"
    try:
        delay = float(text)
    except ValueError:
        delay = -1.0
    if not 0 <= delay <= LONGEST_DELAY:
        raise Refused(400, f"the delay is {text!r}: it must be from 0 to {LONGEST_DELAY:.0f} seconds")
    return inputs, store, round(delay * 1000)


def again(tx: Transaction, namespace: str, run_id: str, new_run_id: str) -> str:
    """Start a run of the same graph with the inputs and the store of another, and return its id."""
    run = runs.find_run(tx, namespace, run_id)
    graph = tx.row("SELECT name FROM graphs WHERE id = ?", (run["graph"],))
    assert graph is not None, "a graph is never removed"
    store = tx.execute("SELECT key, value FROM store WHERE run = ?", (run["id"],))
    return runs.trigger(
        tx,
        namespace,
        graph["name"],
        inputs=first_inputs(tx, run["id"]),
        store={row["key"]: row["value"] for row in store},
        run_id=new_run_id,
    )


def first_inputs(view: View, run: int) -> dict[str, Any]:
    """Return the inputs of the first state of a run."""
    row = view.row("SELECT inputs FROM states WHERE run = ? ORDER BY seq LIMIT 1", (run,))
    inputs: Mapping[str, Any] = {} if row is None else from_json(row["inputs"])
    return dict(inputs)
