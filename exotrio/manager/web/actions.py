"""What the forms of the dashboard do: each changes something and says so, or refuses."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable

from pydantic import ValidationError

from exotrio._util.words import plural, readable_errors
from exotrio._wire.limits import LimitChange
from exotrio._wire.vocabulary import Priority
from exotrio.graph import check_name
from exotrio.manager.engine import limits, pausing, retries, runs, schedules, sending, triggers, workers
from exotrio.manager.engine.order import LEVELS, share_of
from exotrio.manager.engine.stops import DrainSource
from exotrio.manager.rules.access import Permission
from exotrio.manager.rules.errors import Conflict, InvalidRequest, Refused
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View
from exotrio.manager.web.event_form import sent_event
from exotrio.manager.web.guard import Form, field
from exotrio.manager.web.page import FormRejected, PageRequest
from exotrio.manager.web.pages.runs import filters_of, matching
from exotrio.manager.web.start_form import sent_form

MAX_AT_ONCE = 1_000
"""Runs that one form retries or cancels."""

Done = tuple[str, str]
"""The message for the next page, which says what was done, and the address of that page."""
Action = Callable[[PageRequest, Form], Awaitable[Done]]

_FOLDERS = {"run_id": "runs", "graph": "graphs", "node": "nodes"}
"""Parameter of a path to the part of the path before it."""


async def retry_run(request: PageRequest, form: Form) -> Done:
    run_id = request.params["run_id"]
    reply = await request.service.store.write_as(
        request.caller,
        retries.retry_run,
        request.namespace,
        run_id,
        _request_id(form),
        from_beginning="from_beginning" in form,
    )
    flash = f"{reply.text()}."
    if reply.refused:
        flash += f" {len(reply.refused):,} could not be retried: {reply.refused[0].reason}."
    return (flash, request.link("runs", run_id))


async def change_runs(request: PageRequest, form: Form) -> Done:
    """Retry or cancel those of the ticked runs for which it is possible, or of all that match the filters."""
    filters = filters_of({name: texts[-1] for name, texts in form.items()})
    verb, back = field(form, "do"), request.link("runs", **filters)
    if verb not in ("retry", "cancel"):
        return ("Nothing changed: choose what to do with the ticked runs, retry or cancel.", back)
    chosen = dict.fromkeys(form.get("run", []))
    if not chosen:
        return ("No run was ticked, so nothing changed.", back)
    before: str | None = "" if "others" in form else None
    while before is not None and len(chosen) <= MAX_AT_ONCE:
        page = await request.service.store.read_with_deadline(matching, request, filters, before)
        # Of those that were not ticked, only those that the verb can change.
        chosen |= {
            run.run_id: None
            for run in (found.run for found in page.rows)
            if (run.pending_count if verb == "cancel" else run.errored_count) and run.cancelled_at is None
        }
        before = page.next
    done, refused = 0, []
    for run_id in list(chosen)[:MAX_AT_ONCE]:
        try:
            if verb == "cancel":
                await request.service.store.write_as(request.caller, runs.cancel, request.namespace, run_id)
            else:
                request_id = _request_id(form)
                await request.service.store.write_as(
                    request.caller, retries.retry_run, request.namespace, run_id, request_id
                )
            done += 1
        except Refused as refusal:
            refused.append(refusal.detail)
    flash = f"{plural(done, 'run')} {'cancelled' if verb == 'cancel' else 'retried'}."
    if refused:
        flash += f" {len(refused):,} could not be: {refused[0]}."
    if len(chosen) > MAX_AT_ONCE:
        flash += f" This was done for {MAX_AT_ONCE:,} runs; do it again for the others."
    return (flash, back)


async def send_event(request: PageRequest, form: Form) -> Done:
    """Send a run what it waits for."""
    store, run_id = request.service.store, request.params["run_id"]

    def read(view: View) -> tuple[str, dict[str, str]]:
        return sent_event(view, runs.find_run(view, request.namespace, run_id), form)

    name, value = await store.read_with_deadline(read)
    try:
        await store.write_as(request.caller, sending.send, request.namespace, run_id, name, value)
    except InvalidRequest as refusal:
        raise FormRejected(form, {"": refusal.detail}) from None
    return (f"The event {name} was sent.", request.link("runs", run_id))


async def set_priority(request: PageRequest, form: Form) -> Done:
    """Change the priority of a run."""
    priority = _priority(form)
    run_id = request.params["run_id"]
    await request.service.store.write_as(
        request.caller, runs.set_priority, request.namespace, run_id, priority
    )
    return (f"The run has the priority {priority} now.", request.link("runs", run_id))


async def retry_state(request: PageRequest, form: Form) -> Done:
    """Retry one state, and show the new attempt."""
    reply = await request.service.store.write_as(
        request.caller,
        retries.retry_by_hand,
        request.namespace,
        request.params["state_id"],
        _request_id(form),
        from_beginning="from_beginning" in form,
        or_run=True,
    )
    new_id = reply.retried[0].new_state_id
    return (f"{reply.text()}. This is its new attempt.", request.link("states", new_id))


async def trigger_again(request: PageRequest, form: Form) -> Done:
    """Start a run with the inputs and the store of another one."""
    started = await request.service.store.write_as(
        request.caller,
        triggers.trigger_again,
        request.namespace,
        request.params["run_id"],
        _request_id(form),
        request.service.cipher,
    )
    return ("A new run with the same inputs and store was started.", request.link("runs", started.run_id))


async def trigger(request: PageRequest, form: Form) -> Done:
    store = request.service.store
    filled = await store.read_with_deadline(sent_form, request, form)
    key = field(form, "key").strip() or None
    run = triggers.NewRun(
        inputs=filled.texts_of(filled.inputs),
        store=filled.texts_of(filled.store),
        start_delay_ms=round(float(field(form, "delay") or 0) * 1000),
        run_id=_request_id(form) if key is None else None,
        key=key,
        origin=triggers.DASHBOARD,
        priority=LEVELS[_priority(form)],
        share=share_of(float(field(form, "weight") or 1)),
        fair_key=field(form, "fair_key").strip() or None,
    )
    try:
        started = await store.write_as(
            request.caller,
            triggers.trigger,
            request.namespace,
            request.params["graph"],
            run,
            request.service.cipher,
        )
    except Refused as refusal:
        # Of these refusals, only that of a key which another run has is about a field.
        raise FormRejected(
            form, {"key" if key and isinstance(refusal, Conflict) else "": refusal.detail}
        ) from None
    to = request.link("runs", started.run_id)
    if key is None or started.created:
        return ("The run was started.", to)
    return (f"The run with the key {key} existed already. No other one was started; this is it.", to)


async def delete_graph(request: PageRequest, form: Form) -> Done:
    name = request.params["graph"]
    deleted, _ = await request.service.delete_graph(
        request.caller, request.namespace, name, cancel_runs="cancel_runs" in form
    )
    return (f"Graph {name} was deleted with {plural(deleted, 'run')}.", request.link("graphs"))


def write(what: str, use_case: Callable[[Transaction, str, str], object], flash: str) -> Action:
    """Return an action that runs a use case on the run, graph or node in the path, and shows its page."""

    async def act(request: PageRequest, form: Form) -> Done:
        name = request.params[what]
        await request.service.store.write_as(request.caller, use_case, request.namespace, name)
        return (flash, request.link(_FOLDERS[what], name))

    return act


async def set_limit(request: PageRequest, form: Form) -> Done:
    """Make a limit, or replace what it allows; an empty field is for no limit."""
    name = request.params.get("limit") or field(form, "name").strip()
    values: dict[str, object] = {each: field(form, each) or None for each in ("at_most", "starts")}
    try:
        check_name(name)
    except ValueError as error:
        raise InvalidRequest(f"the name {error}") from None
    try:
        seconds = field(form, "period")
        values["period_ms"] = round(float(seconds) * 1000) if seconds else None
    except (ValueError, OverflowError):
        raise InvalidRequest("the period is not a number of seconds") from None
    try:
        change = LimitChange.model_validate(values)
    except ValidationError as error:
        raise InvalidRequest("; ".join(readable_errors(error))) from None
    await request.service.store.write_as(request.caller, limits.set_limit, request.namespace, name, change)
    return (f"Limit {name} is set.", request.link("limits", name))


async def delete_limit(request: PageRequest, form: Form) -> Done:
    name = request.params["limit"]
    await request.service.store.write_as(
        request.caller, limits.remove_limit, request.namespace, name, force="force" in form
    )
    return (f"Limit {name} was deleted.", request.link("limits"))


async def cancel_schedule(request: PageRequest, form: Form) -> Done:
    """Cancel the schedule of a graph, until it is stored again."""
    graph = request.params["graph"]
    count = await request.service.store.write_as(
        request.caller, schedules.cancel_schedules, request.namespace, graph
    )
    done = "The schedule is cancelled." if count else "No run was scheduled."
    return (done, request.link("graphs", graph))


async def drain(request: PageRequest, form: Form) -> Done:
    """Ask a runtime to drain: to stop claiming, finish running states, and end."""
    await request.service.store.write_as(
        request.caller, workers.ask_to_drain, request.namespace, field(form, "worker"), DrainSource.DASHBOARD
    )
    return ("The runtime drains after its next heartbeat.", request.link("runtimes"))


async def ask_tasks(request: PageRequest, form: Form) -> Done:
    await request.service.ask_for_tasks(request.namespace, field(form, "worker"))
    return ("The task tree will come with the next heartbeat of the runtime.", request.link("runtimes"))


def _priority(form: Form) -> Priority:
    try:
        return Priority(field(form, "priority") or Priority.NORMAL)
    except ValueError:
        raise InvalidRequest("there is no such priority") from None


def _request_id(form: Form) -> str:
    """Return the id that the form was rendered with, so that a form sent twice acts once."""
    try:
        return str(uuid.UUID(form.get("request_id", [""])[0]))
    except ValueError:
        return str(uuid.uuid4())


ACTIONS: dict[str, tuple[Permission, Action]] = {
    "/ns/{namespace}/runs/change": (Permission.GRAPHS, change_runs),
    "/ns/{namespace}/runs/{run_id}": (Permission.GRAPHS, send_event),
    "/ns/{namespace}/runs/{run_id}/retry": (Permission.GRAPHS, retry_run),
    "/ns/{namespace}/runs/{run_id}/cancel": (
        Permission.GRAPHS,
        write("run_id", runs.cancel, "The run was cancelled."),
    ),
    "/ns/{namespace}/runs/{run_id}/again": (Permission.TRIGGER, trigger_again),
    "/ns/{namespace}/runs/{run_id}/priority": (Permission.GRAPHS, set_priority),
    "/ns/{namespace}/states/{state_id}/retry": (Permission.GRAPHS, retry_state),
    "/ns/{namespace}/graphs/{graph}": (Permission.TRIGGER, trigger),
    "/ns/{namespace}/graphs/{graph}/delete": (Permission.GRAPHS, delete_graph),
    "/ns/{namespace}/graphs/{graph}/pause": (
        Permission.GRAPHS,
        write("graph", pausing.pause_schedule, "The schedule is paused: it starts no runs."),
    ),
    "/ns/{namespace}/graphs/{graph}/resume": (
        Permission.GRAPHS,
        write("graph", pausing.resume_schedule, "The schedule starts runs again, from its next time on."),
    ),
    "/ns/{namespace}/graphs/{graph}/cancel": (Permission.GRAPHS, cancel_schedule),
    "/ns/{namespace}/limits": (Permission.GRAPHS, set_limit),
    "/ns/{namespace}/limits/{limit}": (Permission.GRAPHS, set_limit),
    "/ns/{namespace}/limits/{limit}/delete": (Permission.GRAPHS, delete_limit),
    "/ns/{namespace}/nodes/{node}/pause": (
        Permission.GRAPHS,
        write("node", pausing.pause_node, "The node is paused: none of its states are claimed."),
    ),
    "/ns/{namespace}/nodes/{node}/resume": (
        Permission.GRAPHS,
        write("node", pausing.resume_node, "States of the node are claimed again."),
    ),
    "/ns/{namespace}/runtimes/drain": (Permission.GRAPHS, drain),
    "/ns/{namespace}/runtimes/tasks": (Permission.GRAPHS, ask_tasks),
}
"""Path to the action of a form that is sent there, and the permission that it needs in the namespace."""
