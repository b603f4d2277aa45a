"""Adapter of the link for every v0 server: no leases, no batches, no long poll. Rules 1 to 3 of ``_link``.

The answers to claims and to re-enqueue-after must not be lost, so neither is sent on a connection on which an
outcome was sent: each outcome is the last request on its connection (``close_after`` of ``HttpClient.ask``).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import trio

from exotrio._http.client import HttpClient
from exotrio._http.discovery import require_v0
from exotrio._http.response import NotAccepted, ResponseTooSlow, ServerError, log_text
from exotrio._link.outcomes import name_and_fields, requeue_delay_ms
from exotrio._link.port import Claim, ClaimLost, Fate, HeartbeatAnswer, Settlement
from exotrio._nodes.outcome import Calling, Errored, Released, Report, Requeued, Waiting
from exotrio._util.backoff import WITHIN_CALL
from exotrio._util.json import NotJson, encode
from exotrio._util.words import shortened
from exotrio._wire.heartbeats import HeartbeatRequest, HeartbeatState
from exotrio._wire.native import AfterError
from exotrio._wire.v0 import (
    ClaimRequest,
    NodeDeclaration,
    OutcomeReply,
    RegisterReply,
    RequeueRequest,
    SecretsReply,
)
from exotrio._wire.vocabulary import LEASE_HEADER, v0_path
from exotrio.errors import KeyRefused, ManagerError, ManagerUnavailable, NotFound

log = logging.getLogger("exotrio")

CLAIM_TIMEOUT = 60.0
"""Long, since giving up on a v0 claim may strand states."""
RELEASE_TIMEOUT = 5.0
"""Maximum seconds of releasing the states of a cancelled claim."""
UNUSABLE_DELAY_MS = 60_000
"""Delay of a state this client cannot run, which would otherwise come back with every poll."""
MIN_DELAY_MS = 1
"""Of a release: v0 refuses less."""
MAX_REMEMBERED = 100_000
MAX_BROKEN_RUNS = 2_000
"""Characters of the line that names them."""
_ROUTES = {"executed": "executed", "errored": "errored", "pruned": "prune"}


class Shields:
    """Cancel scopes that protect the settling of claims from cancellation, and the deadline of them all."""

    def __init__(self) -> None:
        self._deadline = math.inf
        self._open: set[trio.CancelScope] = set()

    def settle_by(self, deadline: float) -> None:
        """End all shields, and later ones, by ``deadline`` on Trio's clock. An earlier deadline stays."""
        self._deadline = min(self._deadline, deadline)
        for shield in self._open:
            shield.deadline = min(shield.deadline, self._deadline)

    @contextmanager
    def shield(self, limit: float = math.inf) -> Iterator[trio.CancelScope]:
        """Make a shield, which the caller enters, and which ends after ``limit`` seconds in any case."""
        deadline = min(self._deadline, trio.current_time() + limit)
        shield = trio.CancelScope(shield=True, deadline=deadline)
        self._open.add(shield)
        try:
            yield shield
        finally:
            self._open.discard(shield)


_ONLY_V0 = "needs exotrio's own state manager (python -m exotrio server); this one has only v0"


class V0Link:
    """Work with any v0 state manager, with ``concurrency`` reports and as many releases at once.

    ``Link`` documents its methods.

    Attributes:
        shields: Protect the settling of claims, here and in the native link.
    """

    def __init__(self, http: HttpClient, namespace: str, *, concurrency: int = 8) -> None:
        self._http = http
        self._namespace = namespace
        self._reports = trio.CapacityLimiter(concurrency)
        # Apart from the reports: a release has a deadline, and must not wait behind slow reports.
        self._releases = trio.CapacityLimiter(concurrency)
        self._turn = 0
        self.shields = Shields()
        # Reports sent without a usable answer, oldest first: they decide the meaning of a later "not queued".
        self._unanswered: dict[str, None] = {}
        self.lost_claims = 0

    async def register(
        self, runtime_name: str, nodes: Sequence[NodeDeclaration], *, is_ours: bool = False
    ) -> None:
        """As ``Link.register``. ``is_ours``: the state manager speaks the native API."""
        declared = [{**node.model_dump(mode="json"), "namespace": self._namespace} for node in nodes]
        body = {
            "runtime_name": runtime_name,
            "runtime_namespace": self._namespace,
            "nodes": declared,
            **({"wants_broken_runs": True} if is_ours else {}),
        }
        try:
            reply = await self._http.fetch(
                RegisterReply, "PUT", v0_path(self._namespace, "nodes", ""), body=body
            )
        except NotFound as error:
            # Every state manager has this route: the answer comes from something else.
            raise ManagerUnavailable(
                error.what, status=error.status, where=error.where, fix="check the proxies in between"
            ) from error
        if reply.broken_runs:
            log.warning("%s", shortened(reply.broken_runs, MAX_BROKEN_RUNS))

    async def claim(self, limits: Mapping[str, int], limit: int, *, wait: float = 0.0) -> list[Claim]:
        # ``wait`` is ignored.
        claims: list[Claim] = []
        try:
            for nodes, portion in self._portions(limits, limit):
                await trio.lowlevel.checkpoint_if_cancelled()
                try:
                    claims += await self._claim_once(nodes, min(portion, limit - len(claims)))
                except (ManagerError, ClaimLost):
                    await trio.lowlevel.checkpoint_if_cancelled()
                    if claims:  # these must not be lost; the next claim will fail in the same way
                        break
                    raise
                if len(claims) >= limit:
                    break
            await trio.lowlevel.checkpoint_if_cancelled()
        except trio.Cancelled:
            await self._release_all(claims)
            raise
        return claims

    async def report(self, items: Sequence[tuple[Claim, Report]]) -> list[Settlement]:
        return await _each(items, lambda item: self._report(*item))

    async def heartbeat(
        self, heartbeat: HeartbeatRequest, states: Sequence[HeartbeatState], *, timeout: float
    ) -> HeartbeatAnswer | None:
        return None  # v0 has neither leases nor heartbeats

    async def secrets(self, claim: Claim) -> dict[str, str]:
        headers = {} if claim.token is None else {LEASE_HEADER: claim.token}
        path = v0_path(self._namespace, "state", claim.state_id, "secrets")
        return (await self._http.fetch(SecretsReply, "GET", path, headers=headers)).secrets

    # -- claiming

    def _portions(self, limits: Mapping[str, int], limit: int) -> list[tuple[list[str], int]]:
        """Split a claim into requests, since v0 knows a limit per request but none per node."""
        free = [name for name, of_node in limits.items() if of_node >= limit]
        tight = [([name], of_node) for name, of_node in limits.items() if of_node < limit]
        portions = [(free, limit), *tight] if free else tight
        # They take turns at going first: a busy first portion would starve the others.
        self._turn += 1
        first = self._turn % len(portions)
        return portions[first:] + portions[:first]

    async def _claim_once(self, nodes: list[str], limit: int) -> list[Claim]:
        # Every exit of this call knows what the request took, or counts and logs that it does not.
        # The shield lasts until the last moment: an answer that leaves no time to release its states still
        # names them.
        try:
            with self.shields.shield() as shield:
                answer = await self._http.ask(
                    "POST",
                    v0_path(self._namespace, "states", "enqueue"),
                    body=ClaimRequest(nodes=nodes, batch_size=limit),
                    timeout=CLAIM_TIMEOUT,
                    scope=shield,
                    chunk_timeout=CLAIM_TIMEOUT,
                )
        except ManagerUnavailable as error:
            if not error.sent or isinstance(error, NotAccepted):
                raise
            raise self._lost(limit, error.what, too_slow=isinstance(error, ResponseTooSlow)) from error
        states = answer.body.get("states") if isinstance(answer.body, dict) else None
        if not isinstance(states, list):
            raise self._lost(limit, f"answered {answer.status} without a list of states")
        claims = [claim for claim in map(_usable, states) if claim is not None]
        for claim in claims:
            # A requeue of unknown fate arrived after all, since the state was claimed again.
            self._forget(claim.state_id)
        if len(claims) < len(states):
            await self._release_unusable([state for state in states if _usable(state) is None])
        return claims

    def _lost(self, limit: int, why: str, *, too_slow: bool = False) -> ClaimLost:
        self.lost_claims += limit
        log.error("a claim of up to %d states was sent and its answer is lost: %s", limit, why)
        return ClaimLost(limit, too_slow=too_slow)

    async def _release_unusable(self, states: Iterable[object]) -> None:
        """Release states of an answer that this client cannot use; log each."""
        known: list[Claim] = []
        for state in states:
            state_id = state.get("state_id") if isinstance(state, dict) else None
            if isinstance(state_id, str) and state_id:
                log.error("releasing state %s: it came without a usable node_name or inputs", state_id)
                known.append(Claim(state_id, "", "", {}))
            else:
                self.lost_claims += 1
                log.error("a state without a usable state_id stays claimed: %.200r", state)
        await self._release_all(known, UNUSABLE_DELAY_MS)

    async def _release_all(self, claims: Sequence[Claim], delay_ms: int = MIN_DELAY_MS) -> None:
        """Release what will never run here, even if cancelled; log what could not be released."""
        left = {claim.state_id: claim for claim in claims}

        async def release_one(claim: Claim) -> None:
            settlement = await self._requeue(claim, delay_ms, self._releases)
            if settlement.fate is Fate.SETTLED or (
                settlement.fate is Fate.DROPPED and await self._answers_as_v0()
            ):
                left.pop(claim.state_id, None)
            elif settlement.fate in (Fate.RETRY, Fate.DROPPED):
                retry.append(claim)

        retry, attempt = list(claims), 0
        with self.shields.shield(RELEASE_TIMEOUT) as shield, shield:
            while retry:
                batch, retry = retry, []
                await _each(batch, release_one)
                if retry:
                    await trio.sleep(WITHIN_CALL.pause(attempt))
                    attempt += 1
        if left:
            self.lost_claims += len(left)
            log.error("claimed states could not be released: %s", ", ".join(left))

    async def _answers_as_v0(self) -> bool:
        """Whether a state manager refused, and not something in front of it."""
        try:
            await require_v0(self._http, self._namespace)
        except ManagerError:
            return False
        return True

    # -- reporting

    async def _report(self, claim: Claim, report: Report) -> Settlement:
        if isinstance(report, Released):
            return await self._requeue(claim, MIN_DELAY_MS, self._releases)
        if isinstance(report, Requeued):
            return await self._requeue(claim, requeue_delay_ms(report.delay), self._reports)
        if isinstance(report, Waiting):
            error = f"{report.event!r}: WaitForEvent {_ONLY_V0}"
            report = Errored(error, trace=report.trace, logs=report.logs)
        if isinstance(report, Calling):
            error = f"{report.calls[0].graph!r}: self.call {_ONLY_V0}"
            report = Errored(error, retry=False, trace=report.trace, logs=report.logs)
        name, body = name_and_fields(report)
        try:
            content = encode(body)
        except NotJson as error:
            return Settlement(Fate.REFUSED, f"it cannot be sent as JSON: {error}")
        async with self._reports:
            earlier = claim.state_id in self._unanswered
            self._remember(claim.state_id)
            try:
                path = v0_path(self._namespace, "state", claim.state_id, _ROUTES[name])
                answer = await self._http.ask("POST", path, body=content, close_after=True)
                answer.parse(OutcomeReply)
            except ManagerUnavailable as error:
                if not earlier and (not error.sent or isinstance(error, NotAccepted)):
                    self._forget(claim.state_id)
                return settle_failure(error)
            except ManagerError as error:
                settlement = settle_refusal(error)
                if settlement.fate is not Fate.RETRY:
                    self._forget(claim.state_id)
                if error.status == 400:
                    meaning = (
                        "no longer queued: probably recorded by an earlier report whose answer was lost"
                        if earlier
                        else "no longer queued: it ended, or another runtime has it"
                    )
                    return Settlement(settlement.fate, meaning, status=400)
                return settlement
            self._forget(claim.state_id)
            retried = answer.body.get("retry_created") if isinstance(answer.body, dict) else None
            after = AfterError(retried=retried) if isinstance(retried, bool) else None
            return Settlement(Fate.SETTLED, status=answer.status, after_error=after)

    async def _requeue(self, claim: Claim, delay_ms: int, slots: trio.CapacityLimiter) -> Settlement:
        async with slots:
            if claim.state_id in self._unanswered:
                return Settlement(
                    Fate.UNKNOWN, "an earlier report may have arrived: re-enqueueing could run it twice"
                )
            self._remember(claim.state_id)
            try:
                path = v0_path(self._namespace, "state", claim.state_id, "re-enqueue-after")
                answer = await self._http.ask("POST", path, body=RequeueRequest(enqueue_after=delay_ms))
                answer.parse(OutcomeReply)
            except ManagerUnavailable as error:
                if error.sent:
                    return Settlement(Fate.UNKNOWN, log_text(error), status=error.status)
                self._forget(claim.state_id)
                return Settlement(Fate.RETRY, log_text(error), retry_after=error.retry_after)
            except ManagerError as error:
                self._forget(claim.state_id)
                return settle_refusal(error)
            self._forget(claim.state_id)
            return Settlement(Fate.SETTLED, status=answer.status)

    def _remember(self, state_id: str) -> None:
        self._unanswered[state_id] = None
        while len(self._unanswered) > MAX_REMEMBERED:
            del self._unanswered[next(iter(self._unanswered))]

    def _forget(self, state_id: str) -> None:
        self._unanswered.pop(state_id, None)


def settle_failure(error: ManagerUnavailable) -> Settlement:
    """Return the settlement of an item that may be repeated, after a request without a usable answer."""
    fate = Fate.FAILED if isinstance(error, ServerError) else Fate.RETRY
    return Settlement(fate, log_text(error), retry_after=error.retry_after, status=error.status)


def settle_refusal(error: ManagerError) -> Settlement:
    """Return the settlement of one state on v0 after a definite answer other than success."""
    if isinstance(error, KeyRefused):
        fate = Fate.KEY_REFUSED
    elif isinstance(error, NotFound) or error.status in {400, 409}:
        fate = Fate.DROPPED
    elif error.status in {413, 422}:
        fate = Fate.REFUSED
    else:
        # A redirect, a 405: about the route, not the state. It may be fixed while we keep the outcome.
        fate = Fate.RETRY
    return Settlement(fate, log_text(error), status=error.status)


async def _each(items: Sequence[Any], do: Callable[[Any], Awaitable[Any]]) -> list[Any]:
    """Call ``do`` for all items at once; return the results in their order."""
    results: list[Any] = [None] * len(items)

    async def one(index: int, item: Any) -> None:
        results[index] = await do(item)

    async with trio.open_nursery() as nursery:
        for index, item in enumerate(items):
            nursery.start_soon(one, index, item)
    return results


def _usable(state: object) -> Claim | None:
    if not isinstance(state, dict):
        return None
    state_id, node_name, inputs = state.get("state_id"), state.get("node_name"), state.get("inputs")
    if not (
        isinstance(state_id, str) and state_id and isinstance(node_name, str) and isinstance(inputs, dict)
    ):
        return None
    return Claim(state_id, node_name, str(state.get("identifier", "")), inputs)
