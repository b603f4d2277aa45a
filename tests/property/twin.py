"""A state manager and its model, moved together and compared after every step."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from exotrio.graph import pinned_name
from exotrio.manager.engine.due_work import Step, due_work
from exotrio.manager.store.view import View
from tests.property.model import TIMEOUT_MS, VERSIONS, Aggregate, Model, Outputs, Plan, Refused, State
from tests.property.plans import BELOW, BRANCH, FIELD, declaration, wire_places
from tests.support.due import CHILDREN, handle_due
from tests.support.helpers import NO_RETRY, SettableClock, node_name, ok, place
from tests.support.manager import Manager

GRAPH = "graph"
TRIGGER = f"graph/{GRAPH}/trigger"
ALERT = "alert"
"""The graph of which a run is started at each end with errors, and its node, which no step claims."""
KEY = "order 1"
"""Of the run: however often it is triggered, it is this one."""
Saves = tuple[int, str]
"""Number and value of a checkpoint."""


class Twin:
    """One run, twice."""

    def __init__(
        self, manager: Manager, clock: SettableClock, plan: Plan, run_id: str, version: str | None
    ) -> None:
        self.api = manager.api
        self.service, self.store = manager.service, manager.service.store
        self.read: Callable[..., Awaitable[Any]] = self.store.read
        self.clock = clock
        self.model = Model(plan, clock.now_ms, version)
        self.run_id = run_id
        self.ids: dict[State, str] = {}
        self.tokens: dict[State, list[str]] = {}
        """Of the native claims of each state; the last one is empty if a v0 claim has it."""
        self.nodes = [node_name(place.identifier) for place in plan.places if place.runs_node]
        self.status = ""
        self.failures = 0
        """How often the run ended with errors."""

    @classmethod
    async def start(
        cls, manager: Manager, clock: SettableClock, plan: Plan, version: str | None = None
    ) -> Twin:
        """Start a run, which is pinned to a version if there is one."""
        api, nodes = manager.api, [place for place in plan.places if place.runs_node]
        for each in VERSIONS:
            declared = [one for p in nodes for one in _declarations(p.identifier, set(p.inputs), each)]
            ok(await api.register(declared))
        if any(each.runs_graph for each in plan.places):
            ok(await api.register([one for each in VERSIONS for one in _declarations(BELOW, set(), each)]))
            names = [FIELD, "n", *([BRANCH] if any(each.when for each in plan.places) else [])]
            outputs = {name: f"${{{{ {BELOW}.outputs.{name} }}}}" for name in names}
            body = api.body([place(BELOW)], outputs=outputs, retry_policy=NO_RETRY)
            ok(await api.put_graph(BELOW, body), 201)
        policy = {"max_retries": plan.max_retries, "strategy": "FIXED", "backoff_factor": plan.backoff_ms}
        ok(await api.register([one for each in VERSIONS for one in _declarations(ALERT, set(), each)]))
        ok(await api.put_graph(ALERT, api.body([place(ALERT)])), 201)
        fields = {} if version is None else {"version": version}
        body = api.body(wire_places(plan), retry_policy=policy, on_failure=ALERT, **fields)
        reply = ok(await api.put_graph(GRAPH, body), 201)
        assert reply["validation_status"] == "VALID", reply["validation_errors"]
        reply = ok(await api.v0("POST", TRIGGER, json={"key": KEY}))
        assert reply["created"] is True
        twin = cls(manager, clock, plan, reply["run_id"], version)
        await twin.compare()
        return twin

    # -- steps

    async def claim(self, natively: bool = True, version: str | None = None) -> None:
        """Claim everything that is due, as a runtime of a version does; over v0 there is none."""
        version = version if natively else None
        expected = {self.ids[state]: state for state in self.model.claim(version)}
        if natively:
            limits = {name: 500 for node in self.nodes for name in _names(node, version)}
            reply = ok(await self.api.native_claim(limits, limit=500))
        else:
            reply = ok(await self.api.claim(self.nodes, 500))
        assert Counter(claimed["state_id"] for claimed in reply["states"]) == Counter(expected.keys())
        for claimed in reply["states"]:
            state = expected[claimed["state_id"]]
            self.tokens.setdefault(state, []).append(claimed["lease"]["token"] if natively else "")
            checkpoint = claimed.get("checkpoint")
            if natively or checkpoint is not None:
                assert _same_checkpoint(state, checkpoint), f"{state} was claimed with {checkpoint}"
            if natively and state.event is not None:
                value = self.model.mailbox.get(state.event)
                assert claimed["event"] == {"name": state.event, "value": value}
            else:
                assert "event" not in claimed

    def queued(self) -> list[State]:
        return [state for state in self.model.states if state.status == "QUEUED"]

    async def saved(self, saves: dict[State, Saves]) -> None:
        """Save checkpoints as the holders of these states; former holders try the same in vain."""
        beats = [
            ({"state_id": self.ids[state], "token": token, "checkpoint": _checkpoint(*save)}, state, token)
            for state, save in saves.items()
            for token in reversed(self.tokens[state])
            if token
        ]
        for state, save in saves.items():
            self.model.saved(state, *save)
        replies = ok(await self.api.heartbeat(states=[beat for beat, _, _ in beats]))["items"]
        for reply, (_, state, token) in zip(replies, beats, strict=True):
            assert reply["result"] == ("ok" if token == self.tokens[state][-1] else "lost")
        for state in saves:
            await self._check(state)

    async def released(self, state: State, saves: Saves | None = None) -> None:
        held = self._held(state, saves)
        self.model.released(state)
        (reply,) = ok(await self.api.release(states=[held]))["items"]
        assert reply["result"] == "ok"
        await self._check(state)
        await self.compare()

    async def executed(self, state: State, outputs: list[Outputs], saves: Saves | None = None) -> None:
        held = self._held(state, saves)
        self.model.executed(state, outputs)
        if held is not None:
            await self._report(held, outcome="executed", outputs=outputs)
        else:
            ok(await self.api.executed(self.ids[state], *outputs))
        await self.compare()

    async def errored(self, state: State, saves: Saves | None = None) -> None:
        held = self._held(state, saves)
        retried = self.model.errored(state)
        if held is not None:
            await self._report(held, outcome="errored", error="failed on purpose")
        else:
            assert ok(await self.api.errored(self.ids[state]))["retry_created"] is retried
        await self.compare()

    async def pruned(self, state: State, saves: Saves | None = None) -> None:
        held = self._held(state, saves)
        self.model.pruned(state)
        if held is not None:
            await self._report(held, outcome="pruned", data={"why": "drawn"})
        else:
            ok(await self.api.prune(self.ids[state], {"why": "drawn"}))
        await self.compare()

    async def requeued(self, state: State, delay_ms: int, saves: Saves | None = None) -> None:
        held = self._held(state, saves)
        self.model.requeued(state, delay_ms)
        if held is not None:
            await self._report(held, outcome="requeued", delay_ms=delay_ms)
        else:
            assert ok(await self.api.requeue(self.ids[state], delay_ms))["enqueue_after"] == state.due_ms
        await self.compare()

    async def waited(self, state: State, event: str, saves: Saves | None = None) -> None:
        held = self._held(state, saves)
        if held is None:  # v0 has no such request
            return
        self.model.waited(state, event)
        await self._report(held, outcome="waiting", event=event, timeout_ms=TIMEOUT_MS)
        await self.compare()

    async def sent(self, name: str, value: Outputs) -> None:
        body = {"name": name, "value": value}
        response = await self.api.native("POST", f"run/{self.run_id}/events", json=body)
        try:
            woken = self.model.sent(name, value)
        except Refused:
            assert response.status_code == 409, response.text
        else:
            assert ok(response)["woken"] == woken
        await self.compare()

    async def run_ended(self, state: State, how: str, outputs: Outputs) -> None:
        """Let the run that a state waits for end."""

        def run_of(view: View) -> str:
            number = view.seq(self.ids[state])
            return str(view.one("SELECT run_id FROM runs WHERE parent_state = ?", (number,))["run_id"])

        run_id = await self.store.read(run_of)
        if how == "cancelled":
            ok(await self.api.native("POST", f"run/{run_id}/cancel"))
        else:
            # Its graph names no version, so it has the one that this run had when it began.
            limits = {name: 1 for version in VERSIONS for name in _names(node_name(BELOW), version)}
            (claimed,) = ok(await self.api.native_claim(limits, run_id=run_id))["states"]
            held = {"state_id": claimed["state_id"], "token": claimed["lease"]["token"]}
            fields: dict[str, Any] = {
                "executed": {"outputs": [outputs]},
                "errored": {"error": "below"},
                "pruned": {"data": {}},
            }
            await self._report(held, outcome=how, **fields[how])
        self.model.run_ended(state, outputs if how == "executed" else None)
        await self.compare()

    async def delivered(self) -> None:
        """Do all that is noted about runs that states wait for."""
        while await handle_due(self.service, *CHILDREN) or await self.read(due_work, CHILDREN):
            pass

    async def expired(self) -> None:
        expired = self.model.expired()
        assert await handle_due(self.service, Step.WAIT) == expired
        await self.compare()

    def _held(self, state: State, saves: Saves | None) -> dict[str, Any] | None:
        """Save a checkpoint in the model, and return the fields that name the state and have it.

        None if the state was claimed by v0.
        """
        token = self.tokens[state][-1]
        if not token:
            return None
        held = {"state_id": self.ids[state], "token": token}
        if saves is None:
            return held
        self.model.saved(state, *saves)
        return {**held, "checkpoint": _checkpoint(*saves)}

    async def _report(self, held: dict[str, Any], **outcome: Any) -> None:
        (reply,) = ok(await self.api.outcomes({**held, **outcome}))["items"]
        assert reply["result"] == "ok"

    async def retried(self, state: State, from_beginning: bool = False) -> None:
        response = await self.api.manual_retry(self.ids[state], from_beginning=from_beginning)
        try:
            again = self.model.retried(state, from_beginning)
        except Refused:
            assert response.status_code == 409, f"{state}: {response.text}"
        else:
            self.ids[again] = ok(response)["id"]
            self.status = ""  # it may end again in the same commit
            # Bound by what the reply says; the comparison below only looks at states it has not met.
            await self._check(again)
        await self.compare()

    async def retried_run(self, from_beginning: bool = False) -> None:
        response = await self.api.retry_run(self.run_id, from_beginning=from_beginning)
        retried, refused, replaced = self.model.retried_run(from_beginning)
        if not retried and not refused:
            assert response.status_code == 409, response.text
        else:
            reply = ok(response)
            new = {one["state_id"]: one["new_state_id"] for one in reply["retried"]}
            assert set(new) == {self.ids[state] for state, _ in retried}
            assert {one["state_id"] for one in reply["refused"]} == {self.ids[state] for state in refused}
            assert Counter(reply["runs_again"]) == Counter(state.identifier for state in replaced)
            for state, again in retried:
                self.ids[again] = new[self.ids[state]]
            if retried:
                self.status = ""
            # What each replaced state became decides what hangs below it, so all are bound before the rest.
            for _, again in retried:
                await self._check(again)
        await self.compare()

    async def forget_inputs(self, identifier: str, version: str | None) -> None:
        self.model.forget_inputs(identifier, version)
        ok(await self.api.register(_declarations(identifier, set(), version)))

    async def repinned(self, version: str) -> None:
        before = self.model.version
        self.model.repinned(version)
        reply = ok(await self.api.native("POST", f"run/{self.run_id}/repin", json={"version": version}))
        assert (reply["before"], reply["version"]) == (before, version)
        await self.compare()

    async def pause_or_resume(self, identifier: str) -> None:
        """Pause a node that is not paused, or resume one that is."""
        self.model.paused ^= {identifier}
        do = "pause" if identifier in self.model.paused else "resume"
        ok(await self.api.native("POST", f"node/{node_name(identifier)}/{do}"))

    async def trigger_again(self, through: str, **values: dict[str, str]) -> None:
        """Trigger the run again by its key, which finds it, or is refused if it had other values."""
        if through == "a list":
            response = await self.api.trigger_many(GRAPH, {"key": KEY, **values}, {"key": KEY, **values})
        else:
            send = self.api.v0 if through == "v0" else self.api.native
            response = await send("POST", TRIGGER, json={"key": KEY, **values})
        if values:
            assert response.status_code == (422 if through == "a list" else 409), response.text
        elif through == "a list":
            reply = ok(response)
            assert (reply["run_ids"], reply["created"]) == ([self.run_id] * 2, [False] * 2)
        else:
            reply = ok(response)
            assert (reply["run_id"], reply["created"]) == (self.run_id, False)
        await self.compare()

    def advance(self, ms: int) -> None:
        self.clock.advance(ms)
        self.model.now_ms = self.clock.now_ms

    # -- comparison

    async def compare(self, *, thoroughly: bool = False) -> None:
        """Check that both hold the same states; the new ones, or all of them, field by field."""
        if any(place.runs_graph for place in self.model.plan.places):
            await self.delivered()
        shown = ok(await self.api.run_graph(self.run_id))
        statuses = {node["id"]: node["status"] for node in shown["nodes"]}
        await self._meet([state_id for state_id in statuses if state_id not in self.ids.values()])
        assert set(statuses) == set(self.ids.values()), f"gone: {set(self.ids.values()) - set(statuses)}"
        for state, state_id in self.ids.items():
            assert statuses[state_id] == state.status, f"{state}, the server says {statuses[state_id]}"
        summary = {status: count for status, count in shown["execution_summary"].items() if count}
        assert summary == Counter(state.status for state in self.model.states)
        runs = ok(await self.api.runs(1, 100))["runs"]
        (run,) = [each for each in runs if each["run_id"] == self.run_id]
        status = self.model.run_status()
        assert (run["status"], run["total_count"]) == (status, len(self.model.states))
        self.failures += status == "FAILED" != self.status
        self.status = status
        alerts = await self.store.read(lambda view: view.one("SELECT count(*) FROM alerts")[0])
        assert alerts == self.failures
        if thoroughly:
            for state in self.model.states:
                await self._check(state)
            edges = Counter((edge["source"], edge["target"]) for edge in shown["edges"])
            assert edges == Counter(
                (self.ids[list(state.parents.values())[-1]], self.ids[state])
                for state in self.model.states
                if state.parents
            )

    async def _meet(self, state_ids: list[str]) -> None:
        """Pair states not seen before with those the model has added, ancestors first."""
        details = [await self._detail(state_id) for state_id in state_ids]
        unmet = [state for state in self.model.states if state not in self.ids]
        for detail in sorted(details, key=lambda detail: len(detail["parents"])):
            for state in unmet:
                if self._same(state, detail):
                    self.ids[state] = detail["id"]
                    unmet.remove(state)
                    break
            else:
                raise AssertionError(f"the server has {detail}\nthe model would have one of {unmet}")
        assert not unmet, f"the server lacks {unmet}"

    async def _check(self, state: State) -> None:
        detail = await self._detail(self.ids[state])
        assert self._same(state, detail), f"the server has {detail}\nthe model {state}"
        checkpoint = ok(await self.api.history(self.ids[state]))["checkpoint"]
        assert _same_checkpoint(state, checkpoint), f"the server has {checkpoint}\nthe model {state}"

    def _same(self, state: State, detail: dict[str, Any]) -> bool:
        parents = [(name, self.ids.get(parent)) for name, parent in state.parents.items()]
        return (
            (detail["identifier"], detail["status"]) == (state.identifier, state.status)
            and list(detail["parents"].items()) == parents
            and detail["outputs"] == state.outputs
            and (state.unbuilt or _same_inputs(state, detail["inputs"]))
            and bool(detail["error"]) >= (state.status in {"ERRORED", "NEXT_CREATED_ERROR"})
        )

    async def _detail(self, state_id: str) -> dict[str, Any]:
        detail: dict[str, Any] = ok(await self.api.state(GRAPH, self.run_id, state_id))
        return detail


def _names(node: str, version: str | None) -> list[str]:
    """Return the names under which a runtime of a version has a node."""
    return [node] if version is None else [node, pinned_name(node, version)]


def _declarations(identifier: str, inputs: set[str], version: str | None) -> list[dict[str, Any]]:
    declared = declaration(identifier, inputs)
    return [{**declared, "name": name} for name in _names(declared["name"], version)]


def _checkpoint(number: int, value: str) -> dict[str, Any]:
    return {"number": number, "value": json.dumps({"v": value})}


def _same_checkpoint(state: State, shown: dict[str, Any] | None) -> bool:
    if shown is None or state.checkpoint is None:
        return shown is None and state.checkpoint is None
    value = json.loads(shown["value"]) if isinstance(shown["value"], str) else shown["value"]
    return (shown["number"], value) == (state.checkpoint.number, {"v": state.checkpoint.value})


def _same_inputs(state: State, inputs: dict[str, Any]) -> bool:
    if set(inputs) != set(state.inputs):
        return False
    for name, expected in state.inputs.items():
        if isinstance(expected, Aggregate):
            values = json.loads(inputs[name])
            same = values == list(expected.values)
            if not same and (expected.ordered or sorted(values) != sorted(expected.values)):
                return False
        elif inputs[name] != expected:
            return False
    return True
