"""What the forms of the dashboard do: each changes something and says so, or refuses."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping

from pydantic import ValidationError

from exotrio._util.words import plural, suggestion
from exotrio._wire.limits import LimitChange
from exotrio._wire.vocabulary import Priority
from exotrio.graph import MAX_LIMIT, MAX_PERIOD_MS
from exotrio.manager.engine import limits, pausing, retries, runs, schedules, sending, triggers, workers
from exotrio.manager.engine.order import LEVELS, share_of
from exotrio.manager.engine.stops import DrainSource
from exotrio.manager.queries.limits import list_limits
from exotrio.manager.rules.access import Permission
from exotrio.manager.rules.errors import Conflict, InvalidRequest, Refused
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View
from exotrio.manager.web.event_form import sent_event
from exotrio.manager.web.guard import Form, field
from exotrio.manager.web.page import FormRejected, PageRequest
from exotrio.manager.web.pages.runs import filters_of, matching
from exotrio.manager.web.start_form import sent_form

_LIMIT_FIELDS = {
    "at_most": f"\u201cAt once, at most\u201d takes a whole number from 0 to {MAX_LIMIT:,}",
    "starts": f"\u201cStarts, at most\u201d takes a whole number from 0 to {MAX_LIMIT:,}",
    "period_ms": f"\u201cin seconds\u201d takes a number from 1 to {MAX_PERIOD_MS // 1000:,}",
}
"""What the fields of the form of a limit take, by those of ``LimitChange``."""
_READ_LIMIT: Mapping[str, Callable[[str], int]] = {
    "at_most": int,
    "starts": int,
    "period_ms": lambda text: round(float(text) * 1000),
}
MAX_AT_ONCE = 1_000
"""Runs that one form retries or cancels."""

Done = tuple[str, str]
"""The message for the next page, which says what was done, and the address of that page."""
Action = Callable[[PageRequest, Form], Awaitable[Done]]

ACTIONS: dict[str, tuple[Permission, Action]] = {}
"""Path to the action of a form that is sent there, and the permission that it needs in the namespace."""


def action(path: str, needs: Permission) -> Callable[[Action], Action]:
    """Decorate the action of the forms that are sent to a path below that of the namespace."""

    def add(act: Action) -> Action:
        ACTIONS[f"/ns/{{namespace}}{path}"] = needs, act
        return act

    return add


@action("/runs/{run_id}/retry", Permission.GRAPHS)
async def retry_run(request: PageRequest, form: Form) -> Done:
    run_id = request.params["run_id"]
    reply = await request.write(
        retries.retry_run, run_id, _request_id(form), from_beginning="from_beginning" in form
    )
    flash = f"{reply.text()}."
    if reply.refused:
        flash += f" {len(reply.refused):,} could not be retried: {reply.refused[0].reason}."
    return (flash, request.link("runs", run_id))


@action("/runs/change", Permission.GRAPHS)
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
                await request.write(runs.cancel, run_id)
            else:
                await request.write(retries.retry_run, run_id, _request_id(form))
            done += 1
        except Refused as refusal:
            refused.append(refusal.detail)
    flash = f"{plural(done, 'run')} {'cancelled' if verb == 'cancel' else 'retried'}."
    if refused:
        flash += f" {len(refused):,} could not be: {refused[0]}."
    if len(chosen) > MAX_AT_ONCE:
        flash += f" This was done for {MAX_AT_ONCE:,} runs; do it again for the others."
    return (flash, back)


@action("/runs/{run_id}", Permission.GRAPHS)
async def send_event(request: PageRequest, form: Form) -> Done:
    """Send a run what it waits for."""
    store, run_id = request.service.store, request.params["run_id"]

    def read(view: View) -> tuple[str, dict[str, str]]:
        return sent_event(view, runs.find_run(view, request.namespace, run_id), form)

    name, value = await store.read_with_deadline(read)
    try:
        await request.write(sending.send, run_id, name, value)
    except InvalidRequest as refusal:
        raise FormRejected(form, {"": refusal.detail}) from None
    return (f"The event {name} was sent.", request.link("runs", run_id))


@action("/runs/{run_id}/priority", Permission.GRAPHS)
async def set_priority(request: PageRequest, form: Form) -> Done:
    """Change the priority of a run."""
    priority = _priority(form)
    run_id = request.params["run_id"]
    to_move = await request.write(runs.set_priority, run_id, priority)
    done = f"The run has the priority {priority} now."
    if to_move:
        done += f" {plural(to_move, 'more state')} will have it soon: they are moved in portions."
    return (done, request.link("runs", run_id))


@action("/states/{state_id}/retry", Permission.GRAPHS)
async def retry_state(request: PageRequest, form: Form) -> Done:
    """Retry one state, and show the new attempt."""
    reply = await request.write(
        retries.retry_by_hand,
        request.params["state_id"],
        _request_id(form),
        from_beginning="from_beginning" in form,
    )
    new_id = reply.retried[0].new_state_id
    return (f"{reply.text()}. This is its new attempt.", request.link("states", new_id))


@action("/runs/{run_id}/again", Permission.TRIGGER)
async def trigger_again(request: PageRequest, form: Form) -> Done:
    """Start a run with the inputs and the store of another one."""
    started = await request.write(
        triggers.trigger_again, request.params["run_id"], _request_id(form), request.service.cipher
    )
    return ("A new run with the same inputs and store was started.", request.link("runs", started.run_id))


@action("/graphs/{graph}", Permission.TRIGGER)
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
        started = await request.write(triggers.trigger, request.params["graph"], run, request.service.cipher)
    except Refused as refusal:
        # Of these refusals, only that of a key which another run has is about a field.
        raise FormRejected(
            form, {"key" if key and isinstance(refusal, Conflict) else "": refusal.detail}
        ) from None
    to = request.link("runs", started.run_id)
    if key is None or started.created:
        return ("The run was started.", to)
    return (f"The run with the key {key} existed already. No other one was started; this is it.", to)


@action("/graphs/{graph}/delete", Permission.GRAPHS)
async def delete_graph(request: PageRequest, form: Form) -> Done:
    name = request.params["graph"]
    deleted, _ = await request.service.delete_graph(
        request.caller, request.namespace, name, cancel_runs="cancel_runs" in form
    )
    return (f"Graph {name} was deleted with {plural(deleted, 'run')}.", request.link("graphs"))


def _write(path: str, use_case: Callable[[Transaction, str, str], object], flash: str) -> None:
    """Add an action that runs a use case on the run, graph or node in the path, and shows its page."""

    @action(path, Permission.GRAPHS)
    async def act(request: PageRequest, form: Form) -> Done:
        (name,) = request.params.values()
        await request.write(use_case, name)
        return (flash, request.link(path.split("/")[1], name))


_write("/runs/{run_id}/cancel", runs.cancel, "The run is cancelled.")
_write("/graphs/{graph}/pause", pausing.pause_schedule, "The schedule is paused: it starts no runs.")
_write(
    "/graphs/{graph}/resume",
    pausing.resume_schedule,
    "The schedule starts runs again, from its next time on.",
)
_write("/nodes/{node}/pause", pausing.pause_node, "The node is paused: none of its states are claimed.")
_write("/nodes/{node}/resume", pausing.resume_node, "States of the node are claimed again.")


@action("/limits", Permission.GRAPHS)
@action("/limits/{limit}", Permission.GRAPHS)
async def set_limit(request: PageRequest, form: Form) -> Done:
    """Make a limit, or replace what it allows; an empty field is for no limit."""
    name = request.params.get("limit") or field(form, "name").strip()
    values: dict[str, int | None] = {}
    for each, read in _READ_LIMIT.items():
        text = field(form, each.removesuffix("_ms")).strip()
        try:
            values[each] = read(text) if text else None
        except (ValueError, OverflowError):
            raise InvalidRequest(_LIMIT_FIELDS[each]) from None
    try:
        change = LimitChange.model_validate(values)
    except ValidationError as error:
        problems = [_LIMIT_FIELDS[str(each["loc"][0])] for each in error.errors(include_url=False)]
        raise InvalidRequest("; ".join(problems)) from None
    await request.write(limits.set_limit, name, change)
    flash, known = f"Limit {name} is set.", []
    if "limit" not in request.params:  # it may be mistyped
        known = await request.service.store.read_with_deadline(list_limits, request.namespace)
    if any(each.name == name and each.created_at == each.updated_at and not each.graphs for each in known):
        likely = suggestion(name, (each.name for each in known if each.name != name))
        flash = f"Limit {name} is set, and no graph names it{likely or '.'}"
    return (flash, request.link("limits", name))


@action("/limits/{limit}/delete", Permission.GRAPHS)
async def delete_limit(request: PageRequest, form: Form) -> Done:
    name = request.params["limit"]
    how = "tick \u201cDelete it anyway\u201d"
    await request.write(limits.remove_limit, name, force="force" in form, how=how)
    return (f"Limit {name} was deleted.", request.link("limits"))


@action("/graphs/{graph}/cancel", Permission.GRAPHS)
async def cancel_schedule(request: PageRequest, form: Form) -> Done:
    """Cancel the schedule of a graph, until it is stored again."""
    graph = request.params["graph"]
    count = await request.write(schedules.cancel_schedules, graph)
    done = "The schedule is cancelled." if count else "No run was scheduled."
    return (done, request.link("graphs", graph))


@action("/runtimes/drain", Permission.GRAPHS)
async def drain(request: PageRequest, form: Form) -> Done:
    """Ask a runtime to drain: to stop claiming, finish running states, and end."""
    await request.write(workers.ask_to_drain, field(form, "worker"), DrainSource.DASHBOARD)
    return ("The runtime drains after its next heartbeat.", request.link("runtimes"))


@action("/runtimes/tasks", Permission.GRAPHS)
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
