"""Spans to an OTLP collector, by OpenTelemetry's SDK. Nothing of it is imported before :func:`open_tracing`.

A process makes its own provider; none is set for the whole interpreter, where vLLM may have one too.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from segue.base.errors import SettingsError
from segue.base.trace_parent import TraceParent

Attributes = Mapping[str, str] | Mapping[str, str | int] | Mapping[str, str | int | float | bool]
Kind = Literal["internal", "server", "client"]

_EXPORT_TIMEOUT_S = 2.0
_STOP_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class TracingSettings:
    """``endpoint`` is the URL of a collector's OTLP over gRPC. ``ratio`` of the requests that bring no decision of
    their own are traced; a ``traceparent`` header's decision is kept."""

    endpoint: str
    ratio: float = 1.0


class Span:
    """One piece of work. What isn't sampled costs next to nothing and is sent nowhere."""

    def __init__(self, span: Any) -> None:
        self._span = span
        context = span.get_span_context()
        self.parent = TraceParent(
            format(context.trace_id, "032x"), format(context.span_id, "016x"), bool(context.trace_flags.sampled)
        )

    def set(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def event(self, name: str, attributes: Attributes, at_ns: int | None = None) -> None:
        self._span.add_event(name, attributes, timestamp=at_ns)

    def fail(self, message: str) -> None:
        from opentelemetry.trace import StatusCode

        self._span.set_status(StatusCode.ERROR, message)

    def end(self, at_ns: int | None = None) -> None:
        """Unix nanoseconds; None is now. Ending twice is not an error."""
        if self._span.is_recording():
            self._span.end(at_ns)


class Tracing:
    """Begins spans."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("segue")

    def begin(
        self,
        name: str,
        parent: TraceParent | None,
        attributes: Attributes,
        *,
        kind: Kind = "internal",
        at_ns: int | None = None,
    ) -> Span:
        """A span under ``parent``; without one, the root of a new trace. ``at_ns`` as in :meth:`Span.end`."""
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind

        context = Context() if parent is None else _context(parent)
        otel_kind = SpanKind[kind.upper()]
        return Span(self._tracer.start_span(name, context, kind=otel_kind, attributes=attributes, start_time=at_ns))

    def stop(self) -> None:
        """Send what waits, for a few seconds at most: a collector that is away keeps no process from leaving."""
        stopping = threading.Thread(target=self._provider.shutdown, name="otlp-shutdown", daemon=True)
        stopping.start()
        stopping.join(_STOP_TIMEOUT_S)


def open_tracing(settings: TracingSettings, service: str, instance: str) -> Tracing:
    """Raises SettingsError: the packages are not installed, or the endpoint is none."""
    parts = urlsplit(settings.endpoint)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise SettingsError(
            f"--otlp-endpoint is {settings.endpoint!r}; it must be a URL such as http://127.0.0.1:4317, at which a "
            "collector takes OTLP over gRPC"
        )
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"--otlp-endpoint needs OpenTelemetry, and {error.name} is not installed; install segue[otel]"
        ) from error
    exporter = OTLPSpanExporter(endpoint=settings.endpoint, insecure=parts.scheme == "http", timeout=_EXPORT_TIMEOUT_S)
    return tracing_into(BatchSpanProcessor(exporter), settings.ratio, service, instance)


def tracing_into(processor: Any, ratio: float, service: str, instance: str) -> Tracing:
    """Tracing whose spans go to an SDK span processor."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    resource = Resource.create({"service.name": service, "service.instance.id": instance})
    sampler = ParentBased(TraceIdRatioBased(ratio))
    provider = TracerProvider(sampler=sampler, resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(processor)
    return Tracing(provider)


def _context(parent: TraceParent) -> Any:
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    flags = TraceFlags(TraceFlags.SAMPLED if parent.sampled else TraceFlags.DEFAULT)
    remote = SpanContext(int(parent.trace_id, 16), int(parent.span_id, 16), is_remote=True, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(remote))
