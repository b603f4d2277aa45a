"""What the routes of API and dashboard share: store, cipher, clock of leases, and the background tasks."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

import trio

from exotrio._shared.settings import Settings, read_settings
from exotrio._util.database_url import shown_database
from exotrio.manager.background import (
    DELETE_PAUSE,
    Deliveries,
    Retention,
    Scheduler,
    in_background,
    join,
    stay,
    sweep,
    sweep_at_start,
)
from exotrio.manager.database import must_share_keys, place_of_keys
from exotrio.manager.engine.claims import Claimer
from exotrio.manager.engine.deletion import MAX_PENDING, delete_graph, pending_runs
from exotrio.manager.engine.leases import Terms, recover, restart
from exotrio.manager.engine.managers import enter_alone, leave
from exotrio.manager.engine.runs import cancel
from exotrio.manager.engine.workers import ClaimsKept, ask_for_tasks, forget_all, keep_claim
from exotrio.manager.queries.runtimes import find_runtime
from exotrio.manager.rules.access import Caller
from exotrio.manager.rules.errors import (
    Conflict,
    Forbidden,
    InvalidQuery,
    InvalidRequest,
    NotFound,
    Refused,
    Unavailable,
)
from exotrio.manager.security.encryption import find_cipher, renew_at_start
from exotrio.manager.security.keys import Keys
from exotrio.manager.store.base import CLOSING_GRACE, Store
from exotrio.manager.store.catalog import MAX_INPUTS
from exotrio.manager.store.cipher import Cipher
from exotrio.manager.store.clock import Clock, monotonic_clock, wall_clock
from exotrio.manager.store.opening import open_store, write_at_start

P = ParamSpec("P")
T = TypeVar("T")


_STATUSES: dict[type[Refused], int] = {
    InvalidRequest: 400,
    Forbidden: 403,
    NotFound: 404,
    Conflict: 409,
    InvalidQuery: 422,
    Unavailable: 503,
}


def status_of(refusal: Refused) -> int:
    """Return the HTTP status of the response to a request that is refused."""
    return _STATUSES[type(refusal)]


class WaitingClaims:
    """Which runtimes wait for states of which nodes in this state manager."""

    def __init__(self) -> None:
        self._workers: defaultdict[tuple[str, str], list[str]] = defaultdict(list)

    @contextmanager
    def entered(self, namespace: str, worker_id: str, names: Iterable[str]) -> Iterator[None]:
        """Count a runtime as waiting for states of these nodes until the block ends."""
        nodes = [(namespace, name) for name in names]
        for node in nodes:
            self._workers[node].append(worker_id)
        try:
            yield
        finally:
            for node in nodes:
                self._workers[node].remove(worker_id)
                if not self._workers[node]:
                    del self._workers[node]

    def has_others(self, namespace: str, worker_id: str, names: Iterable[str]) -> bool:
        """Return whether another runtime waits for states of one of these nodes."""
        return any(other != worker_id for name in names for other in self._workers.get((namespace, name), ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A state manager, ready to serve."""

    store: Store
    cipher: Cipher
    terms: Terms
    monotonic: Clock
    scheduler: Scheduler
    retention: Retention
    keys: Keys
    manager: str
    """The id of this state manager among those on its database, from its start to its end."""
    database: str
    """Its database, without the password."""
    claims_kept: ClaimsKept = field(default_factory=ClaimsKept)
    waiting: WaitingClaims = field(default_factory=WaitingClaims)

    async def polled(
        self, namespace: str, worker_id: str | None, names: Iterable[str], run_id: str | None = None
    ) -> None:
        """Store that a runtime claims states of these nodes, unless that was stored just now."""
        node_names, now = frozenset(names), self.monotonic()
        if not self.claims_kept.has(namespace, worker_id, node_names, now):
            nodes = await self.store.write(keep_claim, namespace, worker_id, node_names, now, run_id)
            self.claims_kept.add(namespace, worker_id, node_names, nodes, now)

    async def delete_graph(
        self, caller: Caller, namespace: str, name: str, *, cancel_runs: bool
    ) -> tuple[int, int]:
        """Delete a graph with its runs, as ``engine.deletion`` says; return how many were deleted and how
        many of them cancelled.

        If this is cancelled, or the database fails, some of its runs may be gone; a repeated call goes on.
        """
        cancelled = deleted = 0
        try:
            while True:
                pending = await self.store.read(pending_runs, namespace, name, cancel_runs)
                for run_id in pending:
                    with suppress(Refused):  # the run has ended meanwhile
                        await self.store.write_as(caller, cancel, namespace, run_id)
                        cancelled += 1
                # Do not wait until there are none: others may begin as fast.
                more = len(pending) < MAX_PENDING
                while more:
                    step = await self.store.write_as(
                        caller, delete_graph, namespace, name, before=deleted, may_cancel=cancel_runs
                    )
                    deleted, cancelled = deleted + step.runs, cancelled + step.cancelled
                    if step.graph:
                        return deleted, cancelled
                    more = step.runs > 0
                # The last ones began just now, or something is still due about their ends.
                self.store.on_deliveries()
                await trio.sleep(DELETE_PAUSE)
        finally:
            self.retention.notify()

    async def ask_for_tasks(self, namespace: str, worker_id: str) -> None:
        """Ask a runtime for its task tree, which its next heartbeat contains."""
        runtime = await self.store.read_with_deadline(find_runtime, namespace, worker_id)
        if not runtime.shows_tasks:
            raise Conflict(f"runtime {worker_id!r} shows no tasks; start it with --health-tasks")
        await self.store.write(ask_for_tasks, namespace, worker_id)

    def claimer(
        self,
        *,
        local: bool,
        worker: str | None = None,
        claim_id: str | None = None,
        run_id: str | None = None,
        announces: bool = False,
        owner: str | None = None,
    ) -> Claimer:
        """Return who claims, with the term of the claim: None inside this process, until whose end it
        holds."""
        term = self.terms.claim_timeout_ms if claim_id is None else self.terms.lease_ttl_ms
        return Claimer(
            manager=self.manager if local else None,
            now=self.monotonic(),
            ttl_ms=None if local else term,
            worker=worker,
            claim_id=claim_id,
            run_id=run_id,
            announces=announces,
            owner=owner,
            alone_from=self.terms.alone_from,
        )


async def take_over(store: Store, manager: str, monotonic: Clock, terms: Terms) -> None:
    """Enter as the only state manager of a file, after the process that had it last.

    States that were held inside that process are claimable again at once. Other claims get a new term.
    """
    await store.write(enter_alone, manager, monotonic())
    while await store.write(recover, manager, terms):
        pass
    await store.write(restart, monotonic(), terms)
    await store.write(forget_all, monotonic(), terms)


@asynccontextmanager
async def open_service(
    db: str | Path,
    *,
    clock: Clock = wall_clock,
    monotonic: Clock | None = None,
    terms: Terms | None = None,
    keep_ms: int | None = None,
    schedules: bool = True,
    max_inputs: int = MAX_INPUTS,
    grace: float = CLOSING_GRACE,
    host: str = "127.0.0.1",
    settings: Settings | None = None,
) -> AsyncIterator[Service]:
    """Open a state manager's database and make it ready to serve.

    States that were held inside state managers that are gone are claimable again at once. Claims of other
    processes get a new term, unless several state managers share the database.

    Args:
        db: Database file, ``":memory:"``, or the URL of a PostgreSQL.
        clock: Gives the time in Unix milliseconds.
        monotonic: Gives the milliseconds that leases are counted in. Defaults to a clock of this process,
            or that of the database if state managers share it.
        terms: How long claims hold.
        keep_ms: Delete runs that have been finished for longer. Defaults to None: keep all.
        schedules: Trigger graphs by their cron expressions. Defaults to True.
        max_inputs: Maximum of bytes of the inputs of a state. Defaults to 16 MiB.
        grace: Seconds that the last writes may take at the end. Defaults to 5.
        host: Where it is to be served. Off loopback, no key for secrets is generated for a PostgreSQL.
        settings: Defaults to what the environment says.

    Raises:
        DatabaseError: the database cannot be used.
        ConfigurationError: the key for secrets cannot be used, or does not fit those of other state managers.
    """
    settings = settings or read_settings()
    async with open_store(
        db, clock=clock, lease_clock=monotonic, max_inputs=max_inputs, grace=grace
    ) as store:
        monotonic = monotonic or store.lease_clock or monotonic_clock
        cipher = find_cipher(place_of_keys(db), settings, shared=must_share_keys(db, host))
        terms, scheduler, retention = terms or Terms(), Scheduler(store), Retention(store, keep_ms)
        keys = Keys(store)
        manager = secrets.token_hex(8)
        if store.is_shared:
            await join(store, manager, monotonic, cipher)
            while await write_at_start(store, lambda: store.write(recover, manager, terms)):
                pass
            await sweep_at_start(store, manager, monotonic, terms)
        else:
            await take_over(store, manager, monotonic, terms)
        try:
            await renew_at_start(store, cipher)
            async with in_background(
                *((scheduler.run,) if schedules else ()),
                *((partial(stay, store, manager, monotonic, cipher.key_ids),) if store.is_shared else ()),
                partial(sweep, store, manager, monotonic, terms),
                Deliveries(store, cipher).run,
                retention.run,
                keys.run,
            ):
                yield Service(
                    store=store,
                    cipher=cipher,
                    terms=terms,
                    monotonic=monotonic,
                    scheduler=scheduler,
                    retention=retention,
                    keys=keys,
                    manager=manager,
                    database=shown_database(db),
                )
        finally:
            if store.is_shared:
                # After ``stay`` has ended, which would insert the row again.
                store.write_later(partial(leave, manager=manager))
