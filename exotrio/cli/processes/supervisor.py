"""The parent of several processes that run the same Runtime: it starts, replaces and ends them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import trio

from exotrio._util.backoff import Backoff
from exotrio.cli.exit_codes import (
    ABANDONED,
    BUSY,
    INVALID,
    KEY_REFUSED,
    NOT_FOUND,
    SUCCESS,
    UNREACHABLE,
    USAGE,
    bare_errors,
)
from exotrio.cli.processes.child import Child
from exotrio.cli.processes.health import ProcessesHealth
from exotrio.cli.runtime_process import Order

log = logging.getLogger("exotrio.cli")

RESTART = Backoff(1.0, 30.0)
"""Pauses before a process is started again; they grow with each failure in a row."""
STEADY = 60.0
"""Seconds after which a process that dies counts as the first failure again."""
LASTING = frozenset({USAGE, INVALID, UNREACHABLE, KEY_REFUSED, NOT_FOUND, BUSY})
"""If a process ends with one of these before its nodes are registered, so would the next one."""


@dataclass(kw_only=True, eq=False)
class Supervisor:
    """One call of ``worker --processes``.

    Attributes:
        count: How many processes.
        arguments: The arguments of ``worker``, passed to each process.
        health: Host and port to serve health on; None for no port.
        shows_tasks: Whether the task trees are served there, too.
    """

    count: int
    arguments: Sequence[str]
    health: tuple[str, int] | None
    shows_tasks: bool
    _children: dict[int, Child] = field(default_factory=dict, init=False)
    _order: Order | None = field(default=None, init=False)
    _stopping: trio.Event = field(default_factory=trio.Event, init=False)
    _first_works: trio.Event = field(default_factory=trio.Event, init=False)
    """The first process is registered, or has ended: the others may start."""
    _codes: list[int] = field(default_factory=list, init=False)
    """Exit codes of those that were not replaced."""

    def __post_init__(self) -> None:
        self._health = ProcessesHealth(self.count, self._children)

    # -- signals

    def stop(self, grace: float | None, why: str) -> None:
        """Called at a first signal with None, at a second one with 0."""
        self._order_all(Order("drain" if grace is None else "cancel", why))

    def exiting(self) -> None:
        """Called from the signal handler just before this process exits: no process may outlive it."""
        for child in list(self._children.values()):
            child.kill()

    def _order_all(self, order: Order) -> None:
        self._order = order
        log.info("all processes are ordered to %s: %s", order.action, order.why)
        self._stopping.set()
        for child in self._children.values():
            child.order(order)

    # -- the processes

    async def main(self) -> int:
        """Work until stopped; return the exit code.

        It is 75 if a process abandoned outcomes or claims, or died during the stop; else that of the process
        whose error ended all; else 0. A process that was replaced does not count: others run its states.

        Raises:
            PortBusy, ConfigurationError: the health port cannot be opened, or no process started.
        """
        with bare_errors():
            async with trio.open_nursery() as around:
                ended = trio.Event()
                if self.health is not None:
                    # Here, since it imports the runtime: without it the parent is small.
                    from exotrio.cli.health_server import serve_health

                    serve = partial(serve_health, tasks=self.shows_tasks, stopping=ended)
                    await around.start(serve, self._health, *self.health)
                async with trio.open_nursery() as nursery:
                    for number in range(1, self.count + 1):
                        nursery.start_soon(self._keep, number, nursery)
                ended.set()
        if ABANDONED in self._codes:
            return ABANDONED
        return next((code for code in self._codes if code != SUCCESS), SUCCESS)

    async def _keep(self, number: int, nursery: trio.Nursery) -> None:
        """Run a process, and replace it whenever it dies. Returns once one has ended in another way."""
        if number > 1:
            # The others start after the first one, so that an error in the code is printed only once.
            await self._first_works.wait()
        failures = 0
        while not self._stopping.is_set():
            begin = trio.current_time()
            child = await self._run(number, nursery)
            if not self._is_to_be_replaced(child):
                break
            failures = 0 if trio.current_time() - begin > STEADY else failures
            pause = RESTART.pause(failures)
            failures += 1
            self._health.restarts += 1
            log.error("%s %s; another one is started in %.1f s", child, _how_it_ended(child), pause)
            with trio.move_on_after(pause):
                await self._stopping.wait()
        if number == 1:
            self._first_works.set()

    async def _run(self, number: int, nursery: trio.Nursery) -> Child:
        """Run a process until it ends.

        Cancellation:
            The process is drained first, in limited time.
        """
        child = Child(number, self.count, self.arguments)
        self._children[number] = child
        if self._order is not None:
            # The stop came while no process of this number ran.
            child.order(self._order)
        try:
            await child.run(child.handle, partial(self._when_registered, child, nursery))
        finally:
            self._health.retire(child)
            del self._children[number]
        return child

    async def _when_registered(self, child: Child, nursery: trio.Nursery) -> None:
        await child.registered.wait()
        assert child.loaded is not None, "that is reported first"
        log.info("%s works as %s", child, child.loaded.worker_id)
        if child.number > self.count:
            why = f"--processes {self.count}: this one only delivers what its outbox holds"
            child.order(Order("drain", why))
        elif not self._first_works.is_set():
            self._first_works.set()
            for number in child.loaded.left:
                nursery.start_soon(self._keep, number, nursery)

    def _is_to_be_replaced(self, child: Child) -> bool:
        """Record how a process ended, and end the others if they would end in the same way."""
        code, is_extra = child.code, child.number > self.count
        if self._stopping.is_set():
            # The stop began first. The process may have ended by itself before it received the order; if its
            # nodes were not yet registered, it held no claim.
            is_clean = code == SUCCESS or not child.registered.is_set()
            self._codes.append(SUCCESS if is_clean else ABANDONED)
            if not is_clean and code != ABANDONED:
                log.error("%s %s while it stopped", child, _how_it_ended(child))
            return False
        if code in (SUCCESS, ABANDONED):
            self._codes.append(code)
            if is_extra:
                log.info("%s ended; its outbox %s", child, "holds some still" if code else "is empty")
            else:
                # A request at the state manager, or a signal to this one process, made it drain.
                log.info("%s drained, as it was asked to; it is not replaced", child)
            return False
        if child.registered.is_set() or code not in LASTING:
            return True
        log.error("%s %s, and so would another one", child, _how_it_ended(child))
        if not is_extra:
            self._codes.append(code)
            self._order_all(Order("drain", f"exit code {code} of {child}"))
        return False


def _how_it_ended(child: Child) -> str:
    if child.was_killed:
        return "did not end in time and was killed; what it held stays claimed until its leases end"
    held = "; what it held stays claimed until its leases end" if child.registered.is_set() else ""
    return child.ending + held
