"""Routes of the native API: leases, batches and long polls for exotrio's own runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from exotrio._httpd import call_when_lost, is_crowded, while_connected
from exotrio._util.words import readable_errors
from exotrio._wire import heartbeats, native
from exotrio._wire.vocabulary import (
    MAX_BATCH,
    MAX_OUTPUTS,
    NATIVE_ROOT,
    NATIVE_VERSION,
    Capability,
    ItemResult,
)
from exotrio.manager.api.bodies import body_reader, masked
from exotrio.manager.api.json import (
    CLAIM_LIMIT,
    ClaimReply,
    in_time,
    max_wait_of,
    parse_json,
    reply,
    unprocessable,
)
from exotrio.manager.api.routing import ANY_KEY, NS, RUNTIME, Endpoints, get, post
from exotrio.manager.engine import claims, leases, outcomes, releases, workers
from exotrio.manager.security.access import LOCAL, owner_of, while_valid

T = TypeVar("T")


class Native(Endpoints):
    @get(NATIVE_ROOT, "Say which native API this is", ANY_KEY, native.Discovery)
    async def discover(self) -> object:
        return {"version": NATIVE_VERSION, "capabilities": list(Capability)}

    @post(NS + "/claim", "Claim states under a lease", RUNTIME)
    async def claim(self, request: Request, namespace: str, body: native.NativeClaimRequest) -> Response:
        claimed = await self._claim_or_wait(request, namespace, body)
        answer = self._claim_reply(claimed)
        if body.wait_ms and not claimed.states and is_crowded(request.scope):
            # A client that claims again each second would keep its connection: it never counts as idle.
            answer.headers["connection"] = "close"
        return answer

    async def _claim_or_wait(
        self, request: Request, namespace: str, body: native.NativeClaimRequest
    ) -> claims.Claimed:
        """Claim; if there is nothing to claim, wait for it until ``wait_ms`` is over, the client disconnects
        or the server stops."""
        limit = min(body.limit, MAX_BATCH)
        arguments = (namespace, body.limits, limit)
        claimer = self._claimer(request, body)
        max_wait = max_wait_of(request, body.wait_ms) if limit else 0.0

        async def claim() -> claims.Claimed | None:
            await self._service.polled(namespace, body.worker_id, body.limits, body.run_id)
            if max_wait == 0:
                return await self._store.write(claims.claim, *arguments, claimer())
            # The commit that makes a state claimable also serves this claim. If it were woken to try again,
            # there would be a second commit between the end of a node and the start of the next.
            with self._service.waiting.entered(namespace, body.worker_id, body.limits):
                return await self._store.write_once_ready(
                    max_wait, claims.claim_once_ready, *arguments, claimer
                )

        claimed = None
        if max_wait == 0:
            claimed = await in_time(claim())
        else:
            with while_valid(request.scope), while_connected(request.scope, max_wait + CLAIM_LIMIT):
                claimed = await claim()
        return claimed or claims.Claimed()

    def _claimer(self, request: Request, body: native.NativeClaimRequest) -> Callable[[], claims.Claimer]:
        return partial(
            self._service.claimer,
            local=LOCAL in request.scope,
            worker=body.worker_id,
            claim_id=body.claim_id,
            run_id=body.run_id,
            announces=body.announces,
            owner=owner_of(request.scope),
        )

    def _claim_reply(self, claimed: claims.Claimed, **fields: object) -> ClaimReply:
        register = {"register": True} if claimed.unregistered else {}
        return ClaimReply(
            {**fields, **register, "states": claimed.states},
            undo=claimed.undo and partial(self._store.write_later, claimed.undo),
        )

    @post(
        NS + "/outcomes",
        "Report outcomes, and claim more states",
        RUNTIME,
        native.ItemsReply,
        body=list[native.OutcomeItem | native.ClaimItem],
    )
    async def record(self, request: Request, namespace: str) -> Response:
        items, claim = await body_reader(request).parse(request, _read_outcomes)
        good = await masked(self._service, [item for item in items if not isinstance(item, native.ItemReply)])
        *earlier, last = _in_steps(good)
        owner = owner_of(request.scope)
        replies: list[native.ItemAnswer] = []
        for step in earlier:
            replies += await self._store.write(outcomes.record_batch, namespace, step, owner)
        claimed = claims.Claimed()
        if claim is not None:
            limit = min(claim.limit, MAX_BATCH)
            if self._service.waiting.has_others(namespace, claim.worker_id, claim.limits):
                limit = min(limit, claim.at_once)
            await self._service.polled(namespace, claim.worker_id, claim.limits, claim.run_id)
            recorded, claimed = await self._store.write(
                claims.record_and_claim, namespace, last, claim.limits, limit, self._claimer(request, claim)
            )
            replies += recorded
        elif last:
            replies += await self._store.write(outcomes.record_batch, namespace, last, owner)
        in_order = iter(replies)
        answers = [item if isinstance(item, native.ItemReply) else next(in_order) for item in items]
        return reply({"items": answers}) if claim is None else self._claim_reply(claimed, items=answers)

    @post(NS + "/release", "Hand states back", RUNTIME, native.ItemsReply)
    async def release(self, request: Request, namespace: str, body: native.ReleaseRequest) -> object:
        if (body.states is None) == (body.claim_id is None):
            raise unprocessable("value_error", ["body"], "give states or claim_id")
        owner = owner_of(request.scope)
        if body.claim_id is not None:
            now = self._service.monotonic()
            items = await self._store.write(
                releases.release_claim, namespace, body.claim_id, now, body.delay_ms, owner
            )
        else:
            items = await self._store.write(
                releases.release, namespace, body.states or [], body.delay_ms, owner
            )
        return {"items": items}

    @post(NS + "/heartbeat", "Renew leases", RUNTIME, heartbeats.HeartbeatReply)
    async def heartbeat(self, request: Request, namespace: str, body: heartbeats.HeartbeatRequest) -> object:
        terms, now = self._service.terms, self._service.monotonic()
        manager = self._service.manager if LOCAL in request.scope else None
        ttl_ms = terms.lease_ttl_ms if manager is None else None
        runtime = namespace, body.worker_id
        # Not after it was stored, which may fail: each request of the connection is to be counted.
        call_when_lost(
            request.scope, runtime, partial(self._end_leases_early, *runtime, now + terms.lease_ttl_ms)
        )
        items, commands = await self._store.write(
            workers.heartbeat, namespace, body, now, terms, manager=manager, owner=owner_of(request.scope)
        )
        return {"items": items, "ttl_ms": ttl_ms, "commands": commands}

    def _end_leases_early(self, namespace: str, worker: str, renewed_until: int) -> None:
        """Let the leases of a runtime end early: its side closed the connection of its heartbeats, as the
        kernel does when a process is killed. If it lives, its next heartbeat renews them in time."""
        at = self._service.monotonic() + self._service.terms.silence_ms
        if at < renewed_until:
            self._store.write_later(
                lambda tx: leases.end_leases(tx, namespace, worker, at, renewed_until=renewed_until)
            )


def _read_outcomes(
    body: bytes,
) -> tuple[list[native.OutcomeItem | native.ItemReply], native.PiggybackedClaim | None]:
    """Parse a batch: outcomes, and a claim if the last item is one.

    An item that cannot be read becomes its own reply and does not affect the others.
    """
    raw = parse_json(body)
    if not isinstance(raw, list) or len(raw) > MAX_BATCH:
        raise unprocessable("list_type", ["body"], f"a list of at most {MAX_BATCH} outcomes is required")
    claim = None
    if raw and isinstance(raw[-1], dict) and "claim" in raw[-1]:
        last = _read_item(native.ClaimItem.model_validate, raw[-1])
        if isinstance(last, native.ClaimItem):
            claim = last.claim
            del raw[-1]
    try:
        return [*native.outcome_items.validate_python(raw)], claim
    except ValidationError:
        return [_read_item(native.outcome_item.validate_python, item) for item in raw], claim


def _in_steps(items: Sequence[native.OutcomeItem]) -> list[list[native.OutcomeItem]]:
    """Return outcomes in groups, each for one transaction: with at most ``MAX_OUTPUTS`` outputs together."""
    steps: list[list[native.OutcomeItem]] = [[]]
    outputs = 0
    for item in items:
        if isinstance(item, native.ExecutedItem):
            outputs += len(item.outputs)
            if outputs > MAX_OUTPUTS:
                outputs = len(item.outputs)
                steps.append([])
        steps[-1].append(item)
    return steps


def _read_item(read: Callable[[Any], T], raw: Any) -> T | native.ItemReply:
    try:
        return read(raw)
    except ValidationError as error:
        state_id = raw.get("state_id") if isinstance(raw, dict) else None
        return native.ItemReply(
            state_id=state_id if isinstance(state_id, str) else "",
            result=ItemResult.INVALID,
            detail=readable_errors(error)[0],
        )
