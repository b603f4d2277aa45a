"""Which state a log line belongs to, whoever writes it: node code, or a library that it calls.

Kept in context variables, which tasks and threads that a node starts inherit. Written where states
are run; read by the formatters of the command line.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exotrio._util.redaction import NO_SECRETS, Redactor

if TYPE_CHECKING:
    from collections.abc import Callable

    from exotrio._link.port import Claim


@dataclass(slots=True)
class StateContext:
    """The state whose node runs, and what masks the secrets that it was given."""

    claim: Claim
    redactor: Redactor = NO_SECRETS


state_context: ContextVar[StateContext | None] = ContextVar("exotrio_state", default=None)
phase_context: ContextVar[Callable[[], str] | None] = ContextVar("exotrio_phase", default=None)
"""Returns the phase of the runtime that the line comes from."""


def hide(redactor: Redactor) -> None:
    """Keep the secrets that ``redactor`` masks out of log lines about the state whose node runs."""
    context = state_context.get()
    if context is not None:
        context.redactor = redactor


def claim_fields(claim: Claim) -> dict[str, object]:
    """Return what a log says of a state; what v0 does not tell is left out."""
    names = {"run": claim.run_id, "state": claim.state_id, "node": claim.node_name, "attempt": claim.attempt}
    return {name: value for name, value in names.items() if value is not None}
