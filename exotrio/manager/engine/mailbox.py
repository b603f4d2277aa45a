"""Events: sending them to runs, and the states that wait for them.

A run has a mailbox: the first value that is sent under a name is kept in it, whether or not a state waits for
it yet. A state that waits is CREATED and in the lane ``WAITING``, where no claim finds it, with the name in
``event`` and its deadline in ``enqueue_after``. It is woken in the commit that sends the event, in the one in
which it begins to wait if the event was sent before, or by its deadline. All of these have locked the run, so
one of them comes first, and none is missed. A sweep may come to a deadline late, but an event that is sent
after it is too late all the same: the states whose deadlines have passed are woken without it first.

A place that waits runs no node: when it is woken, its state ends, and what follows is created. The state of a
node that waits is claimed again, and ``event`` stays: a claim brings the value, or says that there is none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice

from pydantic_core import from_json, to_json

from exotrio._util.times import format_duration, timestamp
from exotrio._util.words import closest, listed, suggestion
from exotrio._wire.events import SentEvent
from exotrio._wire.vocabulary import MAX_EVENT, from_ms
from exotrio.manager.engine.changes import Changes
from exotrio.manager.engine.following import Follow, need_to_follow
from exotrio.manager.engine.order import LATER
from exotrio.manager.engine.sources import Shared, read_shared
from exotrio.manager.engine.states import (
    CREATED,
    ERRORED,
    NEXT_CREATED_ERROR,
    PRUNED,
    SUCCESS,
    State,
    numbered,
    read_states,
)
from exotrio.manager.rules.errors import Conflict, InvalidRequest
from exotrio.manager.rules.lineage import output_path
from exotrio.manager.rules.template import Place, Template, Wait
from exotrio.manager.store.view import View

Texts = Mapping[str, str]
MAX_EVENTS = 100_000
"""Of one run."""
MAX_NAMED = 10
"""Fields of an event that a refusal names."""
FOR_EVENT, FOR_RUN = "for_event", "for_run"
WAITS = {"began to wait for an event": FOR_EVENT, "began to wait for a run": FOR_RUN}
"""What the state of a node waited for, by the event in its history; the one after it says why it went on."""
_WAITING = "status = 'CREATED' AND lane = 'waiting'"
_OVERDUE = f"run = ? AND event = ? AND {_WAITING} AND enqueue_after <= ?"


def find_event(view: View, run_id: int, name: str) -> tuple[Texts | None, int | None]:
    """Return the value of an event, if it was sent, and the last deadline that has passed of the states that
    still wait for it."""
    row = view.one(
        "SELECT (SELECT value FROM mailbox WHERE run = ? AND name = ?) AS value,"
        f" (SELECT max(enqueue_after) FROM states WHERE {_OVERDUE}) AS overdue",
        (run_id, name, run_id, name, view.now_ms),
    )
    return None if row["value"] is None else from_json(row["value"]), row["overdue"]


def put_event(
    changes: Changes,
    run_id: int,
    template: Template,
    name: str,
    value: Texts,
    earlier: Texts | None,
    overdue: int | None,
) -> SentEvent:
    """Put an event into the mailbox of a run, which is locked, and wake the states that wait for it.

    ``earlier`` is its value if it was sent before. ``overdue`` is the deadline of states that were woken just
    now without it.

    Raises:
        Conflict: another value was sent under this name, the run has ended, or its mailbox is full.
        InvalidRequest: the value does not fit a place of the graph that may wait for this name.
    """
    tx, run = changes.tx, changes.locked[run_id]
    if earlier is not None:
        if is_same_event(template, name, earlier, value):
            return SentEvent(run_id=run.run_id, name=name, created=False, woken=0)
        raise Conflict(f"the event {name!r} of the run {run.run_id} was sent before, with another value")
    if not run.pending and overdue is not None:
        # It ends in this transaction, which a refusal undoes: until a sweep comes, it is shown as pending.
        raise Conflict(
            f"the event {name!r} of the run {run.run_id} is too late: the wait for it ended at"
            f" {timestamp(overdue)}, and no other state waits"
        )
    if not run.pending or run.cancelled_at is not None:
        raise Conflict(f"the run {run.run_id} has ended: it takes no events")
    text = check_event(template, name, value)
    counted = "UPDATE runs SET events = events + 1 WHERE id = ? AND events < ?"
    if not tx.execute(counted, (run_id, MAX_EVENTS)).rowcount:
        raise Conflict(f"the run {run.run_id} has {MAX_EVENTS:,} events already")
    tx.insert("mailbox", ("run", "name", "value", "sent_at"), [(run_id, name, text, tx.now_ms)])
    states = _waiting(changes, f"run = ? AND event = ? AND {_WAITING}", (run_id, name))
    _wake(changes, [(state, value) for state in states])
    similar = None if states else _similar(template, name)
    return SentEvent(run_id=run.run_id, name=name, created=True, woken=len(states), similar=similar)


def _similar(template: Template, name: str) -> str | None:
    """Return the event of a place that resembles a name for which no place waits; a node may wait for it."""
    waits = [place.wait for place in template.places if place.wait is not None]
    if any(wait.may_wait_for(name) for wait in waits):
        return None
    names = (wait.event for wait in waits)
    return closest(
        name, ["".join(map(str, each)) for each in names if all(isinstance(one, str) for one in each)]
    )


def is_same_event(template: Template, name: str, one: Texts, other: Texts) -> bool:
    """Whether two values of an event are the same: one may give defaults that the other leaves out."""
    waits = (place.wait for place in template.places if place.wait and place.wait.may_wait_for(name))
    defaults = {field: text for wait in waits for field, text in wait.defaults.items()}
    return defaults | {**one} == defaults | {**other}


def deliver(changes: Changes) -> None:
    """Wake the states that begin to wait for events that were sent before."""
    tx, waiting = changes.tx, changes.waiting.copy()
    changes.waiting.clear()
    values = read_events(tx, waiting.values())
    there = {seq: values[event] for seq, event in waiting.items() if event in values}
    if there:
        states = _waiting(changes, _numbered(tx), (tx.items(sorted(there)),))
        _wake(changes, [(state, there[state.seq]) for state in states])


def read_events(view: View, events: Collection[tuple[int, str]]) -> dict[tuple[int, str], Texts]:
    """Return the values of those of these events, given as (run, name), that were sent."""
    if not events:
        return {}
    rows = view.execute(
        f"SELECT run, name, value FROM mailbox WHERE {view.any_of('run')} AND {view.any_of('name')}",
        (
            view.items(sorted({run for run, _ in events})),
            view.items(sorted({name for _, name in events})),
        ),
    )
    return {(run, name): from_json(value) for run, name, value in rows}


def end_waiting(changes: Changes, seqs: Sequence[int]) -> int:
    """Wake those of these states that still wait without an event, and return how many. Their runs are
    locked."""
    tx = changes.tx
    which = f"{_numbered(tx)} AND enqueue_after <= ? AND event IS NOT NULL"
    states = _waiting(changes, which, (tx.items(seqs), tx.now_ms))
    _wake(changes, [(state, None) for state in states])
    return len(states)


def end_overdue(changes: Changes, run_id: int, name: str) -> None:
    """Wake the states of a run, which is locked, that wait for an event and whose deadlines have passed."""
    states = _waiting(changes, _OVERDUE, (run_id, name, changes.tx.now_ms))
    _wake(changes, [(state, None) for state in states])


def _waiting(changes: Changes, which: str, parameters: tuple[object, ...]) -> list[State]:
    """Lock and return states that meet a condition."""
    tx = changes.tx
    return read_states(tx, changes.locked, which, parameters, tx.for_update("states"))


def _numbered(view: View) -> str:
    return f"{numbered(view, CREATED)} AND lane = 'waiting'"


def _wake(changes: Changes, woken: Sequence[tuple[State, Texts | None]]) -> None:
    """Let states go on that waited, each with its event; None: its deadline has passed."""
    tx = changes.tx
    places = {state.seq: state.scope(tx).template.places[state.place] for state, _ in woken}
    ends = [state for state, _ in woken if places[state.seq].wait is not None]
    shared = read_shared(tx, (need_to_follow(state.scope(tx), state) for state in ends))
    for state, value in woken:
        if (wait := places[state.seq].wait) is not None:
            _end(changes, shared, state, wait, value)
        else:
            resume(changes, state, "the event came" if value is not None else "no event came in time")


def _end(changes: Changes, shared: Shared, state: State, wait: Wait, value: Texts | None) -> None:
    """End the state of a place that waited for an event."""
    status, error, outputs = SUCCESS, None, {}
    if value is not None:
        outputs = wait.defaults | {**value}
    elif isinstance(wait.model.on_timeout, dict):
        outputs = wait.model.on_timeout
    elif wait.model.on_timeout == "prune":
        status = PRUNED
    else:
        after = format_duration(from_ms(wait.model.timeout_ms or 0))
        status, error = ERRORED, f"no event {state.event!r} was sent within {after}"
    now = changes.tx.now_ms
    # Before the end: no event came, and what is shown of the state says so.
    until = now if value is not None else min(state.enqueue_after, now - 1)
    end_state(changes, shared, state, status, outputs=outputs, error=error, until=until)


def resume(changes: Changes, state: State, why: str) -> None:
    """Let the state of a node that waited be claimed again, and keep for how long it waited."""
    now, waited = changes.tx.now_ms, FOR_RUN if state.event is None else FOR_EVENT
    # A sweep may come to a deadline late: from then on the state has waited for a runtime.
    at = min(state.enqueue_after, now) if waited == FOR_EVENT else now
    for kind, name in WAITS.items():
        if name == waited:
            changes.add_event(state.seq, kind, state.updated_at)
    changes.add_event(state.seq, why, at)
    changes.tally_wait(state.node_id, at - state.updated_at)
    # What ``outcomes`` kept of a node that called graphs after an event.
    kept = {} if state.data is None else {"event": from_json(state.data), "data": None}
    changes.update(state, lane=LATER, enqueue_after=at, updated_at=at, **kept)
    changes.effects.announce(state.run, state.node_id)


def end_state(
    changes: Changes,
    shared: Shared,
    state: State,
    status: str,
    *,
    outputs: Texts,
    error: str | None,
    until: int,
    lane: str | None = None,
) -> None:
    """End a state that waited ``until`` a time, and let what follows its success begin."""
    run, now, path = state.scope(changes.tx), changes.tx.now_ms, state.path
    if status == SUCCESS:
        path = output_path(state.path, 0)
        error = Follow(changes, run, state, shared).create(state.seq, {**outputs}, path)
        status = NEXT_CREATED_ERROR if error else SUCCESS
    changes.update(
        state,
        status=status,
        lane=lane,
        outputs=to_json(outputs).decode(),
        data="{}" if status == PRUNED else None,
        error=error,
        path=path,
        enqueue_after=until,
        finished_at=now,
    )
    changes.transition(run, state.place, state.groups, state.status, status)
    took_ms = max(0, until - state.updated_at)
    graph = state.run_row.graph
    changes.tally(graph, state.node_id, status, waited_ms=None, buffered_ms=None, took_ms=took_ms)
    if status == SUCCESS:
        changes.add_member(run, state.seq, state.place, state.groups, path)


def check_event(template: Template, name: str, value: Texts) -> str:
    """Return the JSON of the value of an event.

    Raises:
        InvalidRequest: it does not fit a place of the graph that may wait for this event, or cannot be kept.
    """
    places = [place for place in template.places if place.wait and place.wait.may_wait_for(name)]
    if problems := list(islice((each for place in places for each in _problems(place, value)), MAX_NAMED)):
        raise InvalidRequest(f"the event {name!r} does not fit: {'; '.join(problems)}")
    text = to_json(dict(sorted(value.items()))).decode()
    if (size := len(text.encode())) > MAX_EVENT:
        raise InvalidRequest(f"the event {name!r} has {size:,} bytes; at most {MAX_EVENT:,} are allowed")
    if any("\0" in each for each in (*value.keys(), *value.values())):
        raise InvalidRequest(f"the event {name!r} contains the character NUL, which a database cannot hold")
    return text


def _problems(place: Place, value: Texts) -> Iterator[str]:
    assert place.wait is not None
    fields, of = place.wait.model.outputs, f"for {place.identifier!r}"
    for name in sorted(value.keys() - fields.keys()):
        yield f"there is no field {name!r} {of}{suggestion(name, fields) or f': it has {listed(fields)}'}"
    for name in sorted(fields.keys() - value.keys() - place.wait.defaults.keys()):
        yield f"the field {name!r} {of} is missing"
    for name, declared in place.wait.typed_outputs.items():
        if name in value and (problem := declared.problem(value[name])):
            yield f"the field {name!r} {of} {problem}"
