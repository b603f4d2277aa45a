"""What a state keeps of the trace that its executions belong to. Pure text: tracing is done by runtimes.

While a state waits or runs, it is what its next execution is told: W3C trace contexts (``traceparent``), with
a space between them. The first is the parent: the execution whose outcome created the state, that of the
target state of a united one, or the trigger of the run. The others are executions to link to: earlier ones of
the same state or of the attempts before it, and those that completed the group of a united node. Once a state
ended, it is the one context of the execution that ended it. None if nobody traces.

A runtime that does not trace leaves no gap: what follows has the same parent as its execution had.
"""

from __future__ import annotations

from collections.abc import Sequence

MAX_LINKS = 8
"""Of one execution. A node may requeue itself for days, and the outcomes of a batch complete one group."""


def parent_in(trace: str | None) -> str | None:
    """Return the parent in what a state keeps."""
    return trace.partition(" ")[0] if trace else None


def linked(trace: str | None, executions: Sequence[str | None]) -> str | None:
    """Return ``trace`` with links to these executions; of more than ``MAX_LINKS`` the last ones stay.

    Without a parent the first of them becomes it, so that all stay in one trace.
    """
    contexts = list(dict.fromkeys([*(trace or "").split(), *filter(None, executions)]))
    return " ".join([*contexts[:1], *contexts[1:][-MAX_LINKS:]]) or None
