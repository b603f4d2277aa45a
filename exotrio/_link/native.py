"""Adapter of the link for our state manager: leases, batches, long poll.

Every claim has an id that is chosen here: the same id returns the states that are still held under it, so a
claim may be repeated.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import Any
from uuid import uuid4

import trio
from pydantic import BaseModel, Field, ValidationError

from exotrio._http.client import REQUEST_TIMEOUT, HttpClient
from exotrio._http.response import NotAccepted, ResponseTooSlow, ServerError
from exotrio._link.batches import (
    BATCH_BYTES,
    BatchItem,
    check_same_states,
    deliver,
    item_of,
    send_or_shorten,
    settlements_of,
)
from exotrio._link.port import Claim, Exchanged, Fate, HeartbeatAnswer, Room, Settlement
from exotrio._link.v0 import UNUSABLE_DELAY_MS, V0Link, settle_failure
from exotrio._nodes.outcome import (
    AwaitedEvent,
    CheckpointText,
    ChildResult,
    Outcome,
    Released,
    Report,
)
from exotrio._util.backoff import WITHIN_CALL
from exotrio._util.json import NotJson
from exotrio._wire.children import EndedChild
from exotrio._wire.heartbeats import HeartbeatReply, HeartbeatRequest, HeartbeatState, HeartbeatStateReply
from exotrio._wire.native import ItemsReply, NativeClaimRequest, NativeState, PiggybackedClaim, ReleaseRequest
from exotrio._wire.vocabulary import MAX_BATCH, MAX_WAIT_MS, from_ms, native_path, to_ms
from exotrio.errors import ManagerError, ManagerUnavailable
from exotrio.graph import pinned_name

log = logging.getLogger("exotrio")

CLAIM_TRIES = 3
RELEASE_TIMEOUT = 3.0
"""Bound of releasing a claim that was given up; after it the leases expire."""


@dataclass(eq=False, slots=True)
class NativeLink:
    """Work with our state manager.

    Attributes:
        v0: For claims that were made without a lease.
        version: That of the code: states of the nodes of that version are claimed, too.
        pinned_only: Only these are.
        run_id: The only run whose states are claimed; None for any.
        on_unregistered: Called when the state manager does not know a node of which states are claimed.
    """

    http: HttpClient
    namespace: str
    _: KW_ONLY
    worker_id: str
    v0: V0Link
    on_unregistered: Callable[[], object] = lambda: None
    version: str | None = None
    pinned_only: bool = False
    run_id: str | None = None
    _names: dict[str, str] = field(default_factory=dict)
    """Nodes by their names with the version."""

    async def claim(self, limits: Mapping[str, int], limit: int, *, wait: float = 0.0) -> list[Claim]:
        """Claim states under a lease, as ``Link.claim`` says; waits up to ``wait`` for a first one."""
        called_at = trio.current_time()
        request = NativeClaimRequest(
            worker_id=self.worker_id,
            limits=self._with_version(limits),
            limit=limit,
            wait_ms=min(to_ms(max(wait, 0.0)), MAX_WAIT_MS),
            claim_id=uuid4().hex,
            run_id=self.run_id,
            announces=True,
        )
        unanswered, attempt = False, 0
        try:
            while True:
                try:
                    claims = await self._claim_once(request, called_at)
                    if unanswered and not claims:
                        # The request whose answer was lost may still wait there, or arrive after this one,
                        # and take states that no runtime would run.
                        await self._void(request.claim_id)
                    return claims
                except ManagerError as error:
                    lost = isinstance(error, ManagerUnavailable) and error.sent
                    unanswered = unanswered or (lost and not isinstance(error, NotAccepted))
                    if not unanswered:
                        raise
                    attempt += 1
                    # A claim whose answer was too slow would bring as much again, as slowly.
                    last = attempt == CLAIM_TRIES or isinstance(error, ResponseTooSlow)
                    if last or not isinstance(error, ManagerUnavailable):
                        await self._void(request.claim_id)
                        raise
                    pause = WITHIN_CALL.pause(attempt, min(error.retry_after or 0.0, 5.0))
                # The lost request may have taken states, which the same id returns at once: no time to wait.
                request = request.model_copy(update={"wait_ms": 0})
                await trio.sleep(pause)
        except (trio.Cancelled, BaseExceptionGroup):  # older Trio groups it while it connects
            # The request may be answered at this moment, or never: its id releases what it takes either way.
            await self._void(request.claim_id)
            raise

    async def report(self, items: Sequence[tuple[Claim, Report]]) -> list[Settlement]:
        """Report outcomes and releases in as few requests as possible, as ``Link.report`` says."""
        unleased: dict[int, tuple[Claim, Report]] = {}
        released: dict[int, tuple[Claim, Released]] = {}
        ended: dict[int, tuple[Claim, Outcome]] = {}
        for index, (claim, report) in enumerate(items):
            if claim.token is None:
                unleased[index] = claim, report
            elif isinstance(report, Released):
                released[index] = claim, report
            else:
                ended[index] = claim, report
        settlements: dict[int, Settlement] = {}
        if ended:
            settlements |= await send_or_shorten(partial(self._deliver, "outcomes", b"[%s]"), ended)
        if released:
            send = partial(self._deliver, "release", b'{"states":[%s]}')
            settlements |= await send_or_shorten(send, released)
        if unleased:
            results = await self.v0.report(list(unleased.values()))
            settlements |= zip(unleased, results, strict=True)
        return [settlements[index] for index in range(len(items))]

    async def heartbeat(
        self, heartbeat: HeartbeatRequest, states: Sequence[HeartbeatState], *, timeout: float
    ) -> HeartbeatAnswer:
        items: list[HeartbeatStateReply] = []
        ttls: list[int] = []
        commands: set[str] = set()
        for start in range(0, max(len(states), 1), MAX_BATCH):
            batch = list(states[start : start + MAX_BATCH])
            request = heartbeat.model_copy(update={"states": batch})
            if start > 0:
                request.tasks = None
            answer = await self.http.ask("POST", self._path("heartbeat"), body=request, timeout=timeout)
            reply = answer.parse(HeartbeatReply)
            check_same_states(
                answer, [item.state_id for item in reply.items], [each.state_id for each in batch]
            )
            items += reply.items
            ttls += [] if reply.ttl_ms is None else [reply.ttl_ms]
            commands.update(reply.commands)
        return HeartbeatAnswer(
            tuple(item.result for item in items),
            from_ms(min(ttls)) if ttls else None,
            frozenset(commands),
            tuple(item.checkpoint for item in items),
            frozenset(item.state_id for item in items if item.release),
        )

    def _with_version(self, limits: Mapping[str, int]) -> dict[str, int]:
        """Return the limits of a claim: a node and its version share theirs."""
        if self.version is None:
            return dict(limits)
        pinned = {name: pinned_name(name, self.version) for name in limits}
        self._names |= {named: name for name, named in pinned.items()}
        named = {pinned[name]: limit for name, limit in limits.items()}
        return named if self.pinned_only else {**limits, **named}

    def _path(self, route: str) -> str:
        return native_path(self.namespace, route)

    # -- claiming

    async def _claim_once(self, request: NativeClaimRequest, called_at: float) -> list[Claim]:
        delay = trio.current_time() - called_at
        answer = await self.http.ask(
            "POST",
            self._path("claim"),
            body=request,
            timeout=REQUEST_TIMEOUT + from_ms(request.wait_ms),
        )
        reply = answer.parse(_ClaimReply)
        if reply.register_nodes:
            self.on_unregistered()
        return await self._usable(reply.states, delay)

    async def _usable(self, states: Sequence[object], delay: float = 0.0) -> list[Claim]:
        """Return the claims on the states of an answer; release those that this client cannot use.

        ``delay``: seconds from the call of ``claim`` to the request that was answered.
        """
        claims: list[Claim] = []
        unusable: list[object] = []
        for state in states:
            try:
                claims.append(_claim(NativeState.model_validate(state), self._names, delay))
            except ValidationError:
                unusable.append(state)
        if unusable:
            await self._release_unusable(unusable)
        return claims

    async def _release_unusable(self, states: Sequence[object]) -> None:
        """Release states of an answer that this client cannot use; log each."""
        held: list[dict[str, str]] = []
        for state in states:
            lease = state.get("lease") if isinstance(state, dict) else None
            token = lease.get("token") if isinstance(lease, dict) else None
            state_id = state.get("state_id") if isinstance(state, dict) else None
            log.error("releasing state %r: it came in a form this client cannot use", state_id)
            if isinstance(state_id, str) and isinstance(token, str):
                held.append({"state_id": state_id, "token": token})
        if held:
            request = {"states": held, "delay_ms": UNUSABLE_DELAY_MS}
            try:
                await self.http.ask("POST", self._path("release"), body=request)
            except ManagerError as error:
                log.warning("these states could not be released; their leases have to expire: %s", error)

    async def _void(self, claim_id: str) -> None:
        """Release whatever a claim took, or will take when it arrives late, even if cancelled."""
        path, body = self._path("release"), ReleaseRequest(claim_id=claim_id)
        why, attempt = "no time was left", 0
        with self.v0.shields.shield(RELEASE_TIMEOUT) as shield, shield:
            while True:
                try:
                    await self.http.ask("POST", path, body=body)
                except ManagerError as error:  # a refusal, too: it may come from something in between
                    why = error.what
                    await trio.sleep(WITHIN_CALL.pause(attempt))
                    attempt += 1
                else:
                    return
        log.warning("a claim that was given up could not be released, and its leases have to expire: %s", why)

    # -- reporting

    async def exchange(self, items: Sequence[tuple[Claim, Outcome]], room: Room) -> Exchanged | None:
        """Report outcomes and claim states in one request, as ``Link.exchange`` says.

        Returns None, with nothing claimed, if the outcomes have to be reported separately: they do not fit
        into one request, or it was refused as a whole, and a report finds out what is wrong.
        """
        try:
            encoded = [BatchItem(0, claim.state_id, item_of(claim, outcome)) for claim, outcome in items]
        except NotJson:
            return None
        unleased = any(claim.token is None for claim, _ in items)
        # The claim is an item of the list, too.
        if unleased or len(items) >= MAX_BATCH or sum(len(item.content) for item in encoded) > BATCH_BYTES:
            return None
        claim = PiggybackedClaim(
            worker_id=self.worker_id,
            limits=self._with_version(room.limits),
            limit=room.limit,
            at_once=room.at_once,
            claim_id=uuid4().hex,
            run_id=self.run_id,
            announces=True,
        )
        outcomes = b",".join(item.content for item in encoded)
        content = b'[%s,{"claim":%s}]' % (outcomes, claim.model_dump_json().encode())
        try:
            answer = await self.http.ask("POST", self._path("outcomes"), body=content)
            reply = answer.parse(_OutcomesReply)
            settlements = settlements_of(answer, reply.items, encoded)
            return Exchanged(settlements, await self._usable(reply.states))
        except ManagerError as failure:
            error = failure
        except (trio.Cancelled, BaseExceptionGroup):
            await self._void(claim.claim_id)
            raise
        if not isinstance(error, ManagerUnavailable):
            return None
        if error.sent and not isinstance(error, NotAccepted):
            # The request may still arrive, and take states that no runtime would run.
            await self._void(claim.claim_id)
        if isinstance(error, ServerError):
            return None
        return Exchanged([settle_failure(error)] * len(items), too_slow=isinstance(error, ResponseTooSlow))

    async def _deliver(
        self, route: str, frame: bytes, items: Mapping[int, tuple[Claim, Report]]
    ) -> dict[int, Settlement]:
        settlements: dict[int, Settlement] = {}
        encoded: list[BatchItem] = []
        for index, (claim, report) in items.items():
            try:
                encoded.append(BatchItem(index, claim.state_id, item_of(claim, report)))
            except NotJson as error:
                settlements[index] = Settlement(Fate.REFUSED, f"it cannot be sent as JSON: {error}")
        return settlements | await deliver(self.http, self._path(route), encoded, frame)


class _ClaimReply(BaseModel):
    """The reply to a claim, its states unchecked, so that one bad state does not hide the others."""

    states: list[Any]
    register_nodes: bool = Field(False, alias="register")


class _OutcomesReply(ItemsReply):
    states: list[Any]


def _claim(state: NativeState, names: Mapping[str, str], delay: float) -> Claim:
    ttl_ms, stored = state.lease.ttl_ms, state.checkpoint
    return Claim(
        state.state_id,
        names.get(state.node_name, state.node_name),
        state.identifier,
        state.inputs,
        graph_name=state.graph_name,
        run_id=state.run_id,
        token=state.lease.token,
        attempt=state.lease.attempt,
        announce=state.lease.announce,
        alone=state.lease.alone,
        timeout=None if state.timeout_ms is None else from_ms(state.timeout_ms),
        timeout_overrides=state.timeout_overrides,
        # ``lease`` counts from the call, ``ttl_ms`` from the request that was answered, ``delay`` later.
        lease=None if ttl_ms is None else from_ms(ttl_ms) + delay,
        waited=None if state.waited_ms is None else from_ms(state.waited_ms),
        trace=state.trace,
        checkpoint=None if stored is None else CheckpointText(stored.number, stored.value),
        event=None if state.event is None else AwaitedEvent(state.event.name, state.event.value),
        children=None if state.children is None else _results(state.children),
    )


def _results(children: Mapping[str, EndedChild]) -> dict[str, ChildResult]:
    return {id: ChildResult(child.run_id, child.outputs, child.error) for id, child in children.items()}
