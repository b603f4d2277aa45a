"""What has to hold after every case."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pydantic_core import from_json

from exotrio._runtime.lifecycle import Summary
from exotrio.manager.store.port import View
from tests.chaos.point_nodes import (
    EXPECTED_RESULT,
    EXPECTED_STATES,
    EXPECTED_WORK,
    FAILS,
    GRAPH,
    REQUEUES,
)
from tests.chaos.point_world import World
from tests.chaos.points import Case, Fault
from tests.support.manager import recount
from tests.support.spans import context_of, id_of, parent_of

F = Fault
ANSWER_LOST = {F.RESET, F.SILENCE, F.HTTP_500, F.HTTP_502}


async def check(world: World) -> None:
    """Raise AssertionError with everything that is wrong."""
    problems = world.problems
    await world.server.store.read(recount)
    await world.server.store.read(_check_states, world, problems)
    _check_executions(world, problems)
    _check_summaries(world, problems)
    _check_traces(world, problems)
    if world.expired and not leases_may_end(world.case):
        problems.append(f"{world.expired} leases ended, though nothing kept anybody from handing back")
    if world.case.strike is not None and world.case.strike not in world.struck:
        visits = world.visits[world.case.strike.point]
        problems.append(f"nothing struck: the point was reached {visits} times")
    assert not problems, "\n".join([f"{world.case}:", *problems])


def _check_states(view: View, world: World, problems: list[str]) -> None:
    states = {}
    for row in view.execute(
        "SELECT states.*, json_extract(inputs, '$.place') AS name FROM states ORDER BY seq"
    ):
        states[view.state_id(row["seq"])] = row
    found = Counter((row["name"], row["status"]) for row in states.values())
    if found != EXPECTED_STATES:
        problems.append(f"states are {dict(found - EXPECTED_STATES)} and not {dict(EXPECTED_STATES - found)}")
    result = [from_json(row["outputs"]).get("key") for row in states.values() if row["name"] == "Outer"]
    if result != [EXPECTED_RESULT]:
        problems.append(f"the result is {result}")
    for state_id, what, item in world.acknowledged:
        if not _is_stored(world, state_id, states[state_id], what, item):
            problems.append(f"{what} of {world.keys[state_id]} was acknowledged, and is not what is stored")
    for state_id, times in world.ended.items():
        if times > 1:
            problems.append(f"{times} outcomes of one attempt at {world.keys[state_id]} were accepted")


def _is_stored(world: World, state_id: str, row: sqlite3.Row, what: str, item: Mapping[str, Any]) -> bool:
    match what:
        case "executed":
            return [from_json(row["outputs"])] == list(item["outputs"])[:1]
        case "errored":
            return bool(row["error"] == item["error"])
        case "prune" | "pruned":
            return row["status"] == "PRUNED" and bool(from_json(row["data"]) == item["data"])
    # Of a requeue nothing stays but that it happened.
    return world.accepted["requeued", world.keys[state_id]] > 0


def _check_executions(world: World, problems: list[str]) -> None:
    if set(world.executions) != EXPECTED_WORK:
        problems.append(f"executed was {set(world.executions) ^ EXPECTED_WORK} too much or too little")
    # Which state a lost lease touched is not written down; each may cost one execution.
    spare = world.expired if world.case.strike is None else 0
    for key, times in world.executions.items():
        planned = 2 if key in (FAILS, REQUEUES) else 1
        if times > planned + world.touched[key] + spare:
            problems.append(f"{key} was executed {times} times, and touched by {world.touched[key]} faults")


def _check_summaries(world: World, problems: list[str]) -> None:
    for hand in world.hands:
        summary = hand.summary
        if hand.killed or summary is None:
            continue
        counts = [getattr(summary, each.name) for each in fields(Summary)]
        total = sum(each for each in counts if isinstance(each, int)) - summary.lost_claims
        least = 0 if hand.mid_claim else hand.claimed - hand.repeated
        if not least <= total <= hand.claimed:
            problems.append(f"{hand.name} claimed {hand.claimed} states, and its summary says: {summary}")
        if summary.exit_code and not something_may_stay_behind(world.case):
            problems.append(f"{hand.name} left something behind: {summary}")


def _check_traces(world: World, problems: list[str]) -> None:
    if world.spans is None or world.case.api == "v0":
        # v0 has no field for it.
        traced = [trace for trace in world.traced if trace is not None]
        if traced:
            problems.append(f"nobody traces, and outcomes came with {traced}")
        return
    trigger = context_of(world.spans.one(f"trigger {GRAPH.name}"))
    ended = {id_of(span): span for span in world.spans.all}
    if len(set(world.traced)) < len(world.traced):
        problems.append("two accepted outcomes came with the same trace context")
    for context in world.traced:
        _, trace_id, span_id, _ = (context or "-0-0-").split("-")
        if int(trace_id, 16) != trigger.trace_id:
            problems.append(f"an execution that was accepted is not in the trace of its trigger: {context}")
        at: int | None = int(span_id, 16)
        while at is not None and at != trigger.span_id and at in ended:
            at = parent_of(ended[at])
        if at != trigger.span_id:
            problems.append(f"nothing leads from an accepted execution to its trigger: {context}")


def leases_may_end(case: Case) -> bool:
    """Whether states may have to wait for the end of a lease or claim timeout, seen from the design."""
    strike = case.strike
    if strike is None or F.KILL in {each.fault for each in case.strikes}:
        return True
    if strike.fault is F.LATE:
        # Natively heartbeats keep what a slow node holds.
        return case.api == "v0" or strike.about != "execute"
    if case.api == "native":
        # A claim nobody hears of holds until it is asked for again; releases are bounded by the stop.
        return strike.fault is F.SILENCE and strike.about in ("claim", "report", "release", "void")
    if strike.fault is F.RESTART:
        return True
    if strike.about in ("requeue", "release"):
        # Rule 3: it is repeated only if it was provably not sent, and a 503 may come from a gateway.
        return strike.fault in {*ANSWER_LOST, F.HTTP_503}
    if strike.point == "after the send of claim":
        return strike.fault in ANSWER_LOST
    return strike.fault is F.SILENCE and strike.about in ("report", "secrets")


def something_may_stay_behind(case: Case) -> bool:
    """Whether a worker may end with exit code 75."""
    strike = case.strike
    if strike is None:
        return True
    if case.api == "native":
        return bool(case.others) and strike.fault in (F.SILENCE, F.LATE)
    if strike.fault in (F.RESTART, F.LATE):
        return True
    return strike.about in ("claim", "requeue", "release") and strike.fault in {*ANSWER_LOST, F.HTTP_503}
