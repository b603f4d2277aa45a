"""What a program that traces would export: spans of OpenTelemetry, kept in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext


class Spans:
    """The spans that ended so far."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    @property
    def all(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()

    @property
    def traces(self) -> set[int]:
        return {context_of(span).trace_id for span in self.all}

    def of(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.of(name)
        return span


def id_of(span: ReadableSpan) -> int:
    return int(context_of(span).span_id)


def context_of(span: ReadableSpan) -> SpanContext:
    context = span.get_span_context()
    assert context is not None
    return context


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def linked_by(span: ReadableSpan) -> list[int]:
    return [link.context.span_id for link in span.links]


@contextmanager
def recording() -> Iterator[Spans]:
    """Trace in the body."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with traced_by(provider):
        yield Spans(exporter)


@contextmanager
def traced_by(provider: TracerProvider) -> Iterator[None]:
    """Have this provider of tracers in the body: OpenTelemetry itself lets it be set once in a process."""
    with mock.patch.object(trace, "_TRACER_PROVIDER", provider):
        yield
    provider.shutdown()
