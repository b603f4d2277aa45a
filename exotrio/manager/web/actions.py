"""What the forms of the dashboard do. Each changes something and says what, or refuses."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from exotrio._util.words import plural
from exotrio.manager.engine import retries, runs
from exotrio.manager.rules.errors import Refused, not_found
from exotrio.manager.store.port import Transaction
from exotrio.manager.web import trigger as trigger_web
from exotrio.manager.web.guard import field
from exotrio.manager.web.page import Asked

Form = Mapping[str, list[str]]

MOST_AT_ONCE = 100
"""Runs that one form retries or cancels."""


@dataclass(frozen=True, slots=True)
class Done:
    """What was done, and where to look at it."""

    said: str
    to: str


Action = Callable[[Asked, dict[str, list[str]]], Awaitable[Done]]


async def retry_run(asked: Asked, form: dict[str, list[str]]) -> Done:
    """Retry the failed states of a run."""
    run_id = asked.params["run_id"]
    reply = await asked.service.store.write(retries.retry_run, asked.namespace, run_id, _request_id(form))
    said = f"{plural(len(reply.retried), 'failed state')} will run again."
    if reply.refused:
        said += f" {len(reply.refused):,} could not be retried: {reply.refused[0].reason}."
    return Done(said, asked.link("runs", run_id))


async def cancel_run(asked: Asked, form: dict[str, list[str]]) -> Done:
    """Cancel a run."""
    run_id = asked.params["run_id"]
    await asked.service.store.write(runs.cancel, asked.namespace, run_id)
    return Done("The run was cancelled.", asked.link("runs", run_id))


async def change_runs(asked: Asked, form: dict[str, list[str]]) -> Done:
    """Retry or cancel the runs that are ticked, as far as each can be."""
    wanted = field(form, "do")
    if wanted not in ("retry", "cancel"):
        raise Refused(400, "choose what to do with the runs: retry or cancel")
    back = asked.link("runs", **{name: field(form, name) for name in ("graph", "status", "since", "text")})
    chosen = list(dict.fromkeys(form.get("run", [])))
    if not chosen:
        return Done("No run was ticked, so nothing was done.", back)
    if len(chosen) > MOST_AT_ONCE:
        raise Refused(400, f"at most {MOST_AT_ONCE} runs can be changed at once; {len(chosen)} are ticked")
    done, refused = 0, []
    for run_id in chosen:
        try:
            if wanted == "cancel":
                await asked.service.store.write(runs.cancel, asked.namespace, run_id)
            else:
                request_id = _request_id(form)
                await asked.service.store.write(retries.retry_run, asked.namespace, run_id, request_id)
            done += 1
        except Refused as refusal:
            refused.append(refusal.detail)
    said = f"{plural(done, 'run')} {'cancelled' if wanted == 'cancel' else 'retried'}."
    if refused:
        said += f" {len(refused)} not: {refused[0]}."
    return Done(said, back)


async def retry_state(asked: Asked, form: dict[str, list[str]]) -> Done:
    """Retry one state; the page of the new one follows."""
    new_id = await asked.service.store.write(_retry_state, asked.params["state_id"], _request_id(form))
    return Done("The state will run again: this is its new attempt.", asked.link("states", new_id))


def _retry_state(tx: Transaction, state_id: str, request_id: str) -> str:
    row = tx.row(
        "SELECT namespace FROM states JOIN nodes ON nodes.id = node_id WHERE seq = ?", (tx.seq(state_id),)
    )
    if row is None:
        raise not_found(f"there is no state {state_id!r}")
    # The page may be of the run's namespace; a state is that of its node.
    return retries.retry_by_hand(tx, row["namespace"], state_id, request_id)


async def trigger_again(asked: Asked, form: dict[str, list[str]]) -> Done:
    """Start a run like another one."""
    run_id = await asked.service.store.write(
        trigger_web.again, asked.namespace, asked.params["run_id"], _request_id(form)
    )
    return Done("A new run with the same inputs and store was started.", asked.link("runs", run_id))


async def trigger(asked: Asked, form: dict[str, list[str]]) -> Done:
    """Start a run with what was filled in."""
    inputs, store, delay_ms = trigger_web.read(form)
    run_id = await asked.service.store.write(
        runs.trigger,
        asked.namespace,
        asked.params["graph"],
        inputs=inputs,
        store=store,
        start_delay_ms=delay_ms,
        run_id=_request_id(form),
    )
    return Done("The run was started.", asked.link("runs", run_id))


async def drain(asked: Asked, form: dict[str, list[str]]) -> Done:
    """Ask a runtime to take no more work and to stop when it is done."""
    worker_id = field(form, "worker")
    if not asked.service.workers.ask(asked.namespace, worker_id, "drain"):
        raise Refused(404, f"no runtime {worker_id!r} was heard of in namespace {asked.namespace!r}")
    return Done("The runtime will drain with its next heartbeat.", asked.link("runtimes"))


async def ask_tasks(asked: Asked, form: dict[str, list[str]]) -> Done:
    """Ask a runtime for its task tree."""
    worker_id = field(form, "worker")
    worker = asked.service.workers.find(asked.namespace, worker_id)
    if worker is None:
        raise Refused(404, f"no runtime {worker_id!r} was heard of in namespace {asked.namespace!r}")
    if not worker.last.shows_tasks:
        raise Refused(409, f"the runtime {worker_id!r} shows no tasks; start it with --health-tasks")
    asked.service.workers.ask(asked.namespace, worker_id, "tasks")
    return Done("The task tree comes with its next heartbeat.", asked.link("runtimes"))


def _request_id(form: Form) -> str:
    """Return the id that the form was made with: sent twice, it does what it does once."""
    try:
        return str(uuid.UUID(form.get("request_id", [""])[0]))
    except ValueError:
        return str(uuid.uuid4())


ACTIONS: dict[str, Action] = {
    "/ns/{namespace}/runs/change": change_runs,
    "/ns/{namespace}/runs/{run_id}/retry": retry_run,
    "/ns/{namespace}/runs/{run_id}/cancel": cancel_run,
    "/ns/{namespace}/runs/{run_id}/again": trigger_again,
    "/ns/{namespace}/states/{state_id}/retry": retry_state,
    "/ns/{namespace}/graphs/{graph}/trigger": trigger,
    "/ns/{namespace}/runtimes/drain": drain,
    "/ns/{namespace}/runtimes/tasks": ask_tasks,
}
"""Path to what a form sent there does."""
