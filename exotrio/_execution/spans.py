"""The span of an execution: its name, its attributes and its end."""

from __future__ import annotations

import re

from exotrio._execution.handle import Execution
from exotrio._link.outcomes import name_and_value
from exotrio._link.port import Claim
from exotrio._nodes.outcome import Errored, HandedOver, Released, Report
from exotrio._util import tracing
from exotrio._util.error_message import message_line
from exotrio._util.tracing import Span, Value

_KIND = re.compile(r"[\w.]+(?=:|$)")
"""The type of an exception, at the beginning of the line that names it."""


def begin_execution(claim: Claim, namespace: str) -> Span | None:
    """Begin the span of an execution; None if the program does not trace.

    The state manager names its parent. With v0, which does not, each execution is the root of a trace.
    """
    return tracing.begin(
        f"execute {claim.node_name}", "consumer", lambda: _attributes(claim, namespace), claim.trace
    )


def end_execution(span: Span, report: Report, execution: Execution, buffered: float | None) -> None:
    """End the span of an execution by what is reported of it.

    ``buffered``: seconds from its claim until ``execute`` began, if it did.
    """
    if isinstance(report, Released):
        outcome = "handed over" if isinstance(report, HandedOver) else "released"
    else:
        outcome = name_and_value(report)[0]
    attributes: dict[str, Value] = {"exotrio.outcome": outcome}
    ran = execution.ended_at - execution.begun_at if buffered is not None else None
    for name, seconds in (("waited", execution.claim.waited), ("buffered", buffered), ("ran", ran)):
        if seconds is not None:
            attributes[f"exotrio.{name}_ms"] = round(seconds * 1000)
    if why := execution.view.why:
        attributes["exotrio.stopping"] = why.value
    error = None
    if isinstance(report, Errored):
        attributes["exotrio.retry"] = report.retry
        line = message_line(report.error)
        kind = _KIND.match(line)
        # "_OTHER" is what OpenTelemetry calls an error without a type.
        error = (kind[0] if kind else "_OTHER", line, report.error)
    span.add(attributes)
    span.end(error)


def _attributes(claim: Claim, namespace: str) -> dict[str, Value]:
    known = {
        "exotrio.graph": claim.graph_name,
        "exotrio.run_id": claim.run_id,
        "exotrio.attempt": claim.attempt,
    }
    return {
        # As OpenTelemetry has them for messages.
        "messaging.system": "exotrio",
        "messaging.operation.type": "process",
        "messaging.operation.name": "execute",
        "messaging.destination.name": claim.node_name,
        "messaging.message.id": claim.state_id,
        "exotrio.namespace": namespace,
        "exotrio.identifier": claim.identifier,
        **{name: value for name, value in known.items() if value is not None},
    }
