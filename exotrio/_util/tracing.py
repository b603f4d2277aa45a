"""Spans of OpenTelemetry, if the program traces: it has imported that and configured a provider of tracers.

This module imports OpenTelemetry only after the program has; in a program that does not trace it only looks
into a dict. An error of a provider, or of one of its processors, is logged; then the span is lost, nothing
else.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from exotrio._version import VERSION

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span as OtelSpan
    from opentelemetry.trace import SpanContext

log = logging.getLogger("exotrio.tracing")

Value = str | int | bool


class Span:
    """A span that began. It is ended once, by ``end``.

    Attributes:
        context: Its trace context as W3C's ``traceparent``, by which other processes continue the trace.
    """

    __slots__ = ("_before", "_span", "context")

    def __init__(self, span: OtelSpan, context: str) -> None:
        self._span = span
        self._before: Context | None = None
        self.context = context

    def enter(self) -> None:
        """Make it the current span of this task, and of the tasks and threads that are begun in it."""
        from opentelemetry import context, trace

        self._before = context.get_current()
        context.attach(trace.set_span_in_context(self._span, self._before))

    def leave(self) -> None:
        """Make the span current again that was current before ``enter``. Call this in the same task."""
        from opentelemetry import context

        if self._before is not None:
            # Not ``detach``: other code may have attached its own context meanwhile.
            context.attach(self._before)

    def add(self, attributes: Mapping[str, Value]) -> None:
        """Give it more attributes."""
        with _failures_logged():
            self._span.set_attributes(attributes)

    def end(self, error: tuple[str, str, str] | None = None) -> None:
        """End it, with an error (its type, its message, its text) or without."""
        from opentelemetry.trace import Status, StatusCode

        if error is not None:
            with _failures_logged():
                kind, message, text = error
                self._span.set_attribute("error.type", kind)
                # Not record_exception, which knows nothing of secrets.
                event = {"exception.type": kind, "exception.message": message, "exception.stacktrace": text}
                self._span.add_event("exception", event)
                self._span.set_status(Status(StatusCode.ERROR, message))
        with _failures_logged():
            self._span.end()


def begin(
    name: str,
    kind: Literal["producer", "consumer"],
    attributes: Callable[[], Mapping[str, Value]],
    trace: str | None = None,
) -> Span | None:
    """Begin a span; None if the program does not trace.

    Args:
        kind: A producer begins work that a consumer does.
        attributes: Called only if the program traces.
        trace: Trace contexts with a space between them: its parent, and spans to link to. A consumer without
            one is the root of a trace; the parent of a producer is the current span.
    """
    if "opentelemetry.trace" not in sys.modules:
        return None
    with _failures_logged():
        return _begun(name, kind, attributes, trace)
    return None


@contextmanager
def producing(name: str, attributes: Callable[[], Mapping[str, Value]]) -> Iterator[Span | None]:
    """Provide the span of a producer, which is current in the body; None if nothing is traced."""
    span = begin(name, "producer", attributes)
    if span is None:
        yield None
        return
    span.enter()
    error = None
    try:
        yield span
    except BaseException as failure:
        error = (type(failure).__qualname__, type(failure).__qualname__, "")
        raise
    finally:
        span.leave()
        span.end(error)


@contextmanager
def following(trace_context: str | None) -> Iterator[None]:
    """Make a span of another process, if there is one, the current one in the body."""
    parent = None if trace_context is None else _parsed(trace_context)
    if parent is None:
        yield
        return
    from opentelemetry import context, trace

    token = context.attach(trace.set_span_in_context(trace.NonRecordingSpan(parent)))
    try:
        yield
    finally:
        context.detach(token)


@contextmanager
def _failures_logged() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        log.warning("a span is lost, since a provider of tracers failed: %s: %s", type(error).__name__, error)


def _begun(
    name: str, kind: str, attributes: Callable[[], Mapping[str, Value]], trace_contexts: str | None
) -> Span | None:
    from opentelemetry import trace
    from opentelemetry.context import Context, get_current

    provider = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):  # none was set
        return None
    contexts = [each for text in (trace_contexts or "").split() if (each := _parsed(text)) is not None]
    parent = get_current() if kind == "producer" else Context()
    if contexts:
        parent = trace.set_span_in_context(trace.NonRecordingSpan(contexts[0]), parent)
    span = provider.get_tracer("exotrio", VERSION).start_span(
        name,
        parent,
        kind=trace.SpanKind.PRODUCER if kind == "producer" else trace.SpanKind.CONSUMER,
        attributes=attributes(),
        links=[trace.Link(context) for context in contexts[1:]],
    )
    own = span.get_span_context()
    if not own.is_valid:  # of a provider that is switched off, as by OTEL_SDK_DISABLED
        return None
    return Span(span, f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}")


def _parsed(text: str) -> SpanContext | None:
    from opentelemetry import trace

    try:
        _, trace_id, span_id, flags = text.split("-")
        context = trace.SpanContext(
            int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=trace.TraceFlags(int(flags, 16))
        )
    except ValueError:
        return None
    return context if context.is_valid else None
