"""The link that finds out which API the server speaks, and does so again when the server may be another one.

A runtime works through one ``AutoLink`` for its whole life. It holds both adapters over the same
connections and points at the one that fits the server, so that switching loses nothing: claims
carry their own token (or none), and each adapter keeps what it knows of them. Registrations and secrets have
no native route: they always go through the adapter for v0.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import trio

from exotrio._http.client import HttpClient
from exotrio._http.discovery import discover, discover_native, require_v0
from exotrio._http.endpoint import Endpoint
from exotrio._http.response import ServerError, log_text
from exotrio._link.native import NativeLink
from exotrio._link.port import (
    Claim,
    ClaimLost,
    Exchanged,
    Fate,
    HeartbeatAnswer,
    LinkKind,
    Room,
    Settlement,
)
from exotrio._link.v0 import V0Link
from exotrio._nodes.outcome import Executed, Outcome, Released, Report, Requeued
from exotrio._shared.events import Events
from exotrio._wire.heartbeats import HeartbeatRequest, HeartbeatState
from exotrio._wire.v0 import NodeDeclaration
from exotrio._wire.vocabulary import NATIVE_VERSION, Capability
from exotrio.errors import KeyRefused, ManagerError, ManagerUnavailable, NotFound, RequestRefused
from exotrio.graph import pinned_name

log = logging.getLogger("exotrio")

FIND_NATIVE_INTERVAL = 60.0
"""Seconds between two checks whether a server that spoke only v0 now speaks the native API."""
REGISTER_INTERVAL = 10.0
"""Minimum seconds between two registrations because the state manager lacks nodes: it may refuse them."""
_INCONCLUSIVE_STATUSES = frozenset({401, 403, 408, 425, 429})
"""Statuses of failures that do not put in doubt which API the server speaks."""

_PROBE = (Claim("f" * 24, "", "", {}, token="none"), Executed([]))
"""An outcome of a state that does not exist. On a stock server an id begins with the time of its creation:
this one with a time in the year 2106."""

T = TypeVar("T")


class AutoLink:
    """The link of a runtime: v0 or native, whichever the server speaks, also after the server was replaced.

    ``Link`` documents its methods.

    When the server may be another one (an outage ended, something was refused), or says that it lacks nodes,
    the next call first finds out what it is, and registers the nodes again in case it does not know them.
    During an outage that request fails in place of the call. So no v0 claim, whose lost answer would leave
    states claimed, is sent to a server that is away. After the server itself has answered 500, v0 releases
    and requeues, which can be sent only once, wait until it is identified again: its database may be away.
    Any other 500 comes from a proxy in between, and is an outage.

    A server that speaks only v0 is checked every minute for the native API.

    Args:
        endpoint: The state manager. Nothing is sent to it before the first ``register``.
        kind: ``"v0"`` or ``"native"`` to use that API, and check only whether the server has it.
        worker_id: Names this process in leases.
        workers: Tasks that run nodes; up to twice as many v0 reports are in flight at once.
        version: That of the code: over the native API, the nodes of that version are registered and claimed,
            too.
        pinned_only: Only these are.
        until_drained: The server must be able to say that nothing needs the version any more.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        namespace: str,
        *,
        kind: LinkKind = "auto",
        worker_id: str,
        workers: int,
        events: Events | None = None,
        version: str | None = None,
        pinned_only: bool = False,
        until_drained: bool = False,
    ) -> None:
        # At most 2 x workers reports, as many releases, the secrets of each worker, a claim, a discovery.
        http = HttpClient(endpoint, tasks=5 * workers + 8, events=events)
        v0 = V0Link(http, namespace, concurrency=2 * workers)
        native = NativeLink(
            http,
            namespace,
            worker_id=worker_id,
            v0=v0,
            on_unregistered=self.register_again,
            version=version,
            pinned_only=pinned_only,
        )
        self._version, self._pinned_only = version, pinned_only
        self._until_drained = until_drained
        self._http = http
        self._namespace = namespace
        self._v0 = v0
        self._native = native
        self._kind = kind
        self._current: V0Link | NativeLink = native if kind == "native" else v0
        self._identified = kind != "auto"
        self._answered_500 = False
        self._find_native_at = math.inf
        self._warned_of: str | None = None
        self._registration: tuple[str, Sequence[NodeDeclaration]] | None = None
        self._registered_at = -math.inf
        self._register_again_at = -math.inf
        self._discovering = trio.Lock()
        self._failure: ManagerUnavailable | None = None
        self._failures = 0

    @property
    def is_native(self) -> bool:
        return self._current is self._native

    @property
    def lost_claims(self) -> int:
        return self._v0.lost_claims

    def work_on(self, run_id: str) -> None:
        """Claim only states of this run, over the native API. v0 cannot restrict claims to a run."""
        self._native.run_id = run_id

    def settle_by(self, deadline: float) -> None:
        # Without it a v0 claim may last 60 s after a cancellation.
        self._v0.shields.settle_by(deadline)

    async def register(self, runtime_name: str, nodes: Sequence[NodeDeclaration]) -> None:
        if self._until_drained and self._registration is None:
            await self._call(self._require_versions())
        link = await self._adapter()
        await self._call(self._register(link, runtime_name, nodes))
        self._registration = (runtime_name, nodes)

    @property
    def registered_for(self) -> float:
        # Not on Trio's clock: the thread that sends heartbeats has another one.
        return time.monotonic() - self._registered_at

    def register_again(self) -> None:
        now = trio.current_time()
        if self._registration is not None and now >= self._register_again_at:
            self._register_again_at = now + REGISTER_INTERVAL
            self._identified = False
            log.warning("the state manager lacks nodes of this runtime; they are registered again")

    async def claim(self, limits: Mapping[str, int], limit: int, *, wait: float = 0.0) -> list[Claim]:
        if self._current is self._v0 and trio.current_time() >= self._find_native_at:
            await self._find_native()
        link = await self._adapter()
        try:
            return await self._call(link.claim(limits, limit, wait=wait))
        except NotFound:
            replacement = await self._adapter()
            if replacement is link:
                raise
            return await self._call(replacement.claim(limits, limit, wait=wait))

    async def report(self, items: Sequence[tuple[Claim, Report]]) -> list[Settlement]:
        unrepeatable = any(isinstance(report, Requeued | Released) for _, report in items)
        settlements = await self._report(items, unrepeatable=unrepeatable)
        refused = [index for index, settlement in enumerate(settlements) if _is_refusal(settlement)]
        if refused:
            # Race: the server may have been replaced by one that does not know these states.
            self._identified = False
            repeated = await self._report([items[index] for index in refused], unrepeatable=unrepeatable)
            for index, settlement in zip(refused, repeated, strict=True):
                first = settlements[index]
                # If it is the same again, the first one stays: its text takes earlier reports of the state
                # into account.
                if (settlement.fate, settlement.status) != (first.fate, first.status):
                    settlements[index] = settlement
        return settlements

    async def exchange(self, items: Sequence[tuple[Claim, Outcome]], room: Room) -> Exchanged:
        if self._identified and self.is_native:
            exchanged = await self._native.exchange(items, room)
            if exchanged is not None:
                self._learn_from(exchanged.settlements)
                return exchanged
        return Exchanged(await self.report(items))

    async def probe(self) -> Settlement:
        # Both have to succeed: registering again, which writes into its database, and a report, which uses
        # the route of all reports. A database that is full can still be read, and a proxy may close one
        # route.
        self._identified = False
        (settlement,) = await self._report([_PROBE], unrepeatable=False)
        if settlement.fate in {Fate.DROPPED, Fate.REFUSED}:  # it read the outcome
            return Settlement(Fate.SETTLED)
        return replace(settlement, fate=Fate.RETRY) if settlement.fate is Fate.FAILED else settlement

    async def heartbeat(
        self, heartbeat: HeartbeatRequest, states: Sequence[HeartbeatState], *, timeout: float
    ) -> HeartbeatAnswer | None:
        # Sent even while the server is not identified: an answer of the right form is about these leases.
        return await self._call(self._current.heartbeat(heartbeat, states, timeout=timeout))

    async def secrets(self, claim: Claim) -> dict[str, str]:
        await self._adapter()
        return await self._call(self._v0.secrets(claim))

    async def aclose(self) -> None:
        await self._http.aclose()

    async def _adapter(self, *, unrepeatable: bool = False) -> V0Link | NativeLink:
        """Return the adapter that fits the server; find out first if that is in doubt.

        ``unrepeatable`` says that the call may send something that v0 allows to be sent only once.
        """
        failures = self._failures
        if self._may_send(unrepeatable):
            return self._current
        async with self._discovering:
            if self._may_send(unrepeatable):
                return self._current
            if self._failure is not None and self._failures > failures:
                # Race: another task failed to find out while this one waited for the lock. One attempt for
                # each waiting task would add up their timeouts.
                raise _unsent(self._failure)
            try:
                self._current = await self._choose()
            except ManagerUnavailable as error:
                self._failure = error
                self._failures += 1
                raise _unsent(error) from error
            self._identified = True
            self._answered_500 = False
        return self._current

    def _may_send(self, unrepeatable: bool) -> bool:
        return self._identified and not (unrepeatable and self._answered_500 and self._current is self._v0)

    async def _choose(self) -> V0Link | NativeLink:
        link = self._current
        if self._kind == "auto":
            link = await self._discover()
            if self._registration is not None and link is not self._current:
                speaks = "the native API" if link is self._native else "v0 only"
                log.warning("the state manager was replaced; it now speaks %s", speaks)
        elif self._kind == "v0":
            await require_v0(self._http, self._namespace)
        elif await discover_native(self._http) is None:
            raise ManagerUnavailable(
                f"{self._http.endpoint.name} does not speak the native API now",
                status=404,
                fix="leave out link='native' if it never does",
            )
        if self._registration is not None:
            try:
                await self._register(link, *self._registration)
            except RequestRefused as error:
                # Finished work is still to be reported, even if the server does not accept our nodes.
                log.error("the nodes could not be registered again: %s", log_text(error))
        return link

    async def _register(
        self, link: V0Link | NativeLink, runtime_name: str, nodes: Sequence[NodeDeclaration]
    ) -> None:
        began = time.monotonic()
        if self._version is not None and link is self._native:
            version = self._version
            names = [node.model_copy(update={"name": pinned_name(node.name, version)}) for node in nodes]
            # The declarations without a version stay those of the newer code, not of code that is to end.
            nodes = names if self._pinned_only else [*nodes, *names]
        await self._v0.register(runtime_name, nodes, is_ours=link is self._native)
        self._registered_at = began

    async def _discover(self) -> V0Link | NativeLink:
        # Not if it is only hidden: over v0, the states that this runtime holds would lose their leases.
        native = await discover(self._http, self._namespace, may_be_hidden=False)
        version = None if native is None else native.version
        self._find_native_at = trio.current_time() + FIND_NATIVE_INTERVAL
        if version == NATIVE_VERSION:
            return self._native
        if version not in (None, self._warned_of):
            self._warned_of = version
            log.warning(
                "the state manager at %s speaks version %s of the native API, and this exotrio version %s: "
                "it is used over v0, without leases; upgrade exotrio",
                self._http.endpoint.shown,
                version,
                NATIVE_VERSION,
            )
        return self._v0

    async def _require_versions(self) -> None:
        """Raise RequestRefused if the server does not know versions, and so never says that one is done."""
        native = await discover(self._http, self._namespace)
        if native is None or Capability.VERSIONS not in native.capabilities:
            why = "speaks v0 only" if native is None else "is an exotrio too old for that"
            raise RequestRefused(
                "a runtime cannot stop once nothing needs its version:"
                f" {self._http.endpoint.name} {why}, and does not know versions",
                fix="upgrade the state manager, or leave out --until-drained",
            )

    async def _find_native(self) -> None:
        self._find_native_at = trio.current_time() + FIND_NATIVE_INTERVAL
        native = await self._call(discover_native(self._http))
        if native is not None and native.version == NATIVE_VERSION:
            self._identified = False

    async def _report(self, items: Sequence[tuple[Claim, Report]], *, unrepeatable: bool) -> list[Settlement]:
        try:
            link = await self._adapter(unrepeatable=unrepeatable)
        except KeyRefused as error:
            settlement = Settlement(Fate.KEY_REFUSED, log_text(error), status=error.status)
        except ManagerUnavailable as error:
            # No status: it is not about the item, which was not sent.
            settlement = Settlement(Fate.RETRY, log_text(error), retry_after=error.retry_after)
        else:
            return self._learn_from(await link.report(items))
        return [settlement] * len(items)

    async def _call(self, call: Awaitable[T]) -> T:
        try:
            return await call
        except ClaimLost:
            self._identified = False
            raise
        except ServerError:
            self._answered_500 = True
            raise
        except ManagerError as error:
            self._note_failure(error.status)
            raise

    def _learn_from(self, settlements: list[Settlement]) -> list[Settlement]:
        for settlement in settlements:
            if settlement.fate is Fate.FAILED:
                # Perhaps only this request failed. What may be repeated is still sent without identifying the
                # server.
                self._answered_500 = True
            elif settlement.fate is Fate.RETRY or settlement.fate is Fate.UNKNOWN:
                self._note_failure(settlement.status)
        return settlements

    def _note_failure(self, status: int | None) -> None:
        """Identify the server again before the next call, unless failures with this status are
        inconclusive."""
        if status not in _INCONCLUSIVE_STATUSES:
            self._identified = False


def _is_refusal(settlement: Settlement) -> bool:
    """Whether an item was given up because of the status of the answer, and not by its own entry in a 200."""
    final = settlement.fate in {Fate.DROPPED, Fate.REFUSED}
    return final and settlement.status is not None and settlement.status >= 400


def _unsent(error: ManagerUnavailable) -> ManagerUnavailable:
    """Return the error of a call that was not made, since ``error`` came before it."""
    return ManagerUnavailable(
        error.what,
        status=error.status,
        sent=False,
        retry_after=error.retry_after,
        where=error.where,
        fix=error.fix,
    )
