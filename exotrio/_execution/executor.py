"""Runs executions, and returns what is to be reported of each. The only request that it sends is that for
secrets. Nothing that a node raises leaves it, except a ``trio.Cancelled`` that came from outside, and a
Ctrl-C that is meant for the application."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import trio

from exotrio._execution.backends import AsyncioBackend, ExecutionBackend, ThreadBackend, TrioBackend
from exotrio._execution.error_text import bounded, error_text
from exotrio._execution.handle import RELEASED, Execution, execution_context
from exotrio._execution.node_task import NodeTask
from exotrio._execution.output import output_context
from exotrio._execution.processes import ProcessBackend
from exotrio._execution.results import failure_of, invalid_values
from exotrio._execution.threads import MAX_STUCK_PER_WORKER
from exotrio._nodes.base import BaseNode, RunsIn, checkpoint_class_of, runs_in_of
from exotrio._nodes.checkpoint import CheckpointView
from exotrio._nodes.outcome import Errored, HandedOver, Released, Report, Waiting
from exotrio._util.backoff import Backoff
from exotrio._util.error_message import message_line
from exotrio._util.exceptions import leaves, readable
from exotrio._util.redaction import redactor_of
from exotrio.errors import CheckpointNotSaved, ManagerError, ManagerUnavailable

if TYPE_CHECKING:
    from exotrio._link.port import Claim

log = logging.getLogger("exotrio.worker")

SECRETS_TRIES = 5
"""Within about four seconds, in which a state manager can restart; then another runtime may try."""
SECRETS_PAUSES = Backoff(0.5, 10.0)


class Executor:
    """Runs executions, each by the backend of its node.

    Args:
        workers: Tasks that run nodes: how many nodes may be stuck grows with them.
        changed: Called in the Trio loop when what ``accepts`` returns may have changed.
        stores_checkpoints: Returns whether the state manager stores checkpoints; called from any thread.
        send_heartbeat: Called from any thread to have checkpoints stored, and stages told, at once.
        owns_signals: True if a KeyboardInterrupt can only come from node code; otherwise Trio may
            raise the application's Ctrl-C inside a node, and it has to pass.
    """

    def __init__(
        self,
        *,
        nodes: Mapping[str, type[BaseNode]],
        fetch_secrets: Callable[[Claim], Awaitable[Mapping[str, str]]],
        workers: int = 1,
        changed: Callable[[], None] = lambda: None,
        stores_checkpoints: Callable[[], bool] = lambda: False,
        send_heartbeat: Callable[[], object] = lambda: None,
        owns_signals: bool = False,
    ) -> None:
        self._nodes = nodes
        self._have_checkpoints = {node for node in nodes.values() if checkpoint_class_of(node) is not None}
        self._have_secrets = {node for node in nodes.values() if node.Secrets.model_fields}
        self._stores_checkpoints = stores_checkpoints
        self._send_heartbeat = send_heartbeat
        self._fetch = fetch_secrets
        self._owns_signals = owns_signals
        max_stuck = MAX_STUCK_PER_WORKER * workers
        self._backends: dict[RunsIn, ExecutionBackend] = {
            "trio": TrioBackend(),
            "thread": ThreadBackend(max_stuck, changed),
            "asyncio": AsyncioBackend(max_stuck, changed, nodes.values()),
            "process": ProcessBackend(send_heartbeat),
        }
        # As they were checked: node code can change its class. Also, computing it for each state takes 2 us.
        self._backend_of = {node: self._backends[runs_in_of(node)] for node in nodes.values()}

    def accepts(self, node: type[BaseNode]) -> bool:
        """Whether a state of ``node`` should be begun: not if too many nodes of its backend are stuck."""
        return not self._refusal_reason(node)

    @property
    def stuck(self) -> str:
        """Why states of some nodes are not begun; empty if all are. From any thread."""
        why = next(filter(None, map(self._refusal_reason, self._nodes.values())), "")
        return f"{why}: no such node is begun" if why else ""

    def _refusal_reason(self, node: type[BaseNode]) -> str:
        return self._backend_of[node].refusal_reason

    async def aclose(self) -> None:
        """End what the backends have begun. Shielded, for up to ``deadlines.CLOSE``."""
        async with trio.open_nursery() as nursery:
            for backend in self._backends.values():
                nursery.start_soon(backend.aclose)

    async def run(
        self,
        execution: Execution,
        *,
        confirm: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
    ) -> Report:
        """Run an execution in a separate task, and return what is to be reported: ``run_in`` in one call."""
        await NodeTask().run(partial(self.run_in, execution, confirm=confirm))
        return self.report_of(execution)

    async def run_in(
        self,
        execution: Execution,
        task: NodeTask,
        *,
        confirm: Callable[[], Awaitable[None]],
    ) -> None:
        """Run the node of ``execution`` in ``task``. ``report_of`` returns how it ended.

        Args:
            confirm: Awaited last before the node begins, to be sure that the state is still held after
                the time its secrets took.

        Raises:
            Spoiled: the task has to end before anything else is awaited in it.

        Cancellation:
            Ends the node, and is then raised by ``report_of``. ``execution.cancel()`` instead ends the node
            without an outcome, and its timeout ends it with an error; in both cases a value that the node
            returns all the same is the outcome.
        """
        claim = execution.claim
        execution_context.set(execution)
        output_context.set(execution.output)
        node = self._nodes.get(claim.node_name)
        if node is None:
            known = ", ".join(sorted(self._nodes))
            what = f"this runtime has no node class named {claim.node_name!r:.300}; it has: {known}"
            execution.error = None
            execution.report = invalid_values(what, (), "its class has to be given to a runtime")
            return
        if why := self._refusal_reason(node):
            log.warning("releasing state %s: %s", claim.state_id, why)
            execution.error = None
            return
        if node in self._have_checkpoints or claim.checkpoint is not None:
            execution.checkpoint = self._checkpoint_of(claim)
        task.begin(execution)
        try:
            with execution.scope:
                if node not in self._have_secrets or await self._fetch_secrets(execution):
                    await confirm()
                    # It may have been cancelled before this task came to its first line.
                    await trio.lowlevel.checkpoint_if_cancelled()
                    execution.report = await self._backend_of[node].run(node, execution)
            # If the scope caught a Cancelled, the runtime ended the node.
            execution.error = None
        except BaseException as error:
            execution.error = error
        task.end()

    def report_of(self, execution: Execution) -> Report:
        """Return the outcome of an execution that ended, with what it logged; or that its state is released.

        Raises:
            BaseException: what is meant for the runtime or the application, not for the node.
        """
        execution.ended_at = trio.current_time()
        if execution.checkpoint is not None:
            execution.checkpoint.end()
        error, execution.error = execution.error, None  # its traceback refers to the execution: a cycle
        report = execution.report
        if error is not None:
            error = readable(error)
            if passing := self._passing(error, execution):
                raise passing
            report = self._failed(error, execution)
        elif isinstance(report, Released) and execution.timed_out:
            report = self._timed_out(execution)
        logs = () if execution.output is None else execution.output.close()
        if isinstance(report, Released):
            logs = ()
        if logs or execution.span is not None:
            report = replace(report, logs=logs, trace=execution.trace)
        return report

    def _checkpoint_of(self, claim: Claim) -> CheckpointView:
        return CheckpointView(
            claim.checkpoint,
            now=trio.lowlevel.current_clock().current_time,
            is_stored=lambda: claim.token is not None and self._stores_checkpoints(),
            send=self._send_heartbeat,
        )

    async def _fetch_secrets(self, execution: Execution) -> bool:
        """Fetch the secrets that the node needs, which are masked from now on.

        False if that failed several times, which is not an error of the state.
        """
        state_id = execution.claim.state_id
        for attempt in range(SECRETS_TRIES):
            try:
                execution.secrets = await self._fetch(execution.claim)
            except ManagerError as error:
                if execution.draining or attempt == SECRETS_TRIES - 1:
                    log.warning("releasing state %s: its secrets cannot be fetched: %s", state_id, error)
                    return False
                at_least = error.retry_after if isinstance(error, ManagerUnavailable) else None
                delay = min(SECRETS_PAUSES.pause(attempt, at_least), SECRETS_PAUSES.cap)
                log.debug("state %s: fetching its secrets again in %.2f s: %s", state_id, delay, error)
            else:
                execution.progress.redactor = redactor_of(execution.secrets.values())
                return True
            await trio.sleep(delay)
        raise AssertionError("unreachable")

    def _failed(self, error: BaseException, execution: Execution) -> Report:
        claim, redactor = execution.claim, execution.progress.redactor
        outcome = failure_of(self._nodes[claim.node_name], error, redactor)
        if execution.cancelled:
            if isinstance(outcome, HandedOver):
                return outcome
            if isinstance(outcome, Errored) and not isinstance(error, CheckpointNotSaved):
                log.warning(
                    "state %s: %s raised while it was cancelled: %s",
                    claim.state_id,
                    claim.node_name,
                    message_line(outcome.error),
                )
            return RELEASED
        if execution.timed_out:
            errored = outcome
            if not isinstance(errored, Errored):  # a signal came too late: it would make the timeout endless
                errored = Errored(error_text(error, redactor))
            return self._timed_out(execution, errored.error, retry=errored.retry)
        had = None if claim.event is None or claim.event.timed_out else claim.event.name
        if isinstance(outcome, Waiting) and outcome.event == had:
            # It would run again at once, without end.
            what = f"{claim.node_name} waits for the event {outcome.event!r}, which self.event has"
            return invalid_values(what, (), "the code of the node has to be corrected")
        return outcome

    def _timed_out(self, execution: Execution, then: str = "", *, retry: bool = True) -> Errored:
        claim = execution.claim
        whose = f"timeout of {claim.node_name}"
        if execution.timeout == claim.timeout:
            option = "timeout" if claim.timeout_overrides else "timeout_minutes"
            whose = f"{option} of {claim.identifier} in its graph"
        text = f"timed out after {execution.timeout:g} s ({whose})"
        if then:
            text = bounded(f"{text}; it then raised\n{then}")
        return Errored(text, retry=retry)

    def _passing(self, error: BaseException, execution: Execution) -> BaseException | None:
        """Return the part of ``error`` that is meant for the runtime or the application, if any."""
        # If this is not cancelled, a Cancelled is an earlier one, which a node has kept and raised again.
        cancelled = trio.current_effective_deadline() == -math.inf
        interrupts = not self._owns_signals and not execution.elsewhere
        passing = None
        for leaf in leaves(error):
            if interrupts and isinstance(leaf, KeyboardInterrupt):
                return leaf
            if cancelled and isinstance(leaf, trio.Cancelled):
                passing = leaf
        return passing
