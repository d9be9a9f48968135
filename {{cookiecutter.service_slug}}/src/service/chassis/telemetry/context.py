"""The ids of the request being handled, and what watches an application's requests."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from opentelemetry import context, trace
from prometheus_client import CollectorRegistry

from service.chassis.telemetry.spans import Provider

if TYPE_CHECKING:
    from service.chassis.telemetry.otlp import Exporter

Fields = dict[str, Any]  # by their names in OpenTelemetry's semantic conventions
NO_IDS: Mapping[str, str] = MappingProxyType({})
REQUEST_ID = context.create_key("request_id")


def ids_of(span: trace.Span) -> Mapping[str, str]:
    """Return `trace_id`, `span_id` and `trace_flags`, in hexadecimal; none of an invalid span."""
    ids: Mapping[str, str] | None = getattr(span, "ids", None)
    if ids is not None:
        return ids
    span_context = span.get_span_context()  # of another provider
    if not span_context.is_valid:
        return NO_IDS
    return {
        "trace_id": trace.format_trace_id(span_context.trace_id),
        "span_id": trace.format_span_id(span_context.span_id),
        "trace_flags": f"{span_context.trace_flags:02x}",
    }


def current_ids() -> Mapping[str, str]:
    """Return the ids that join lines, spans, problems and calls, within a request its own too."""
    ids = ids_of(trace.get_current_span())
    request_id = context.get_value(REQUEST_ID)
    return {"request_id": str(request_id), **ids} if request_id else ids


@dataclass
class Telemetry:
    """What watches the requests of one application; each of telemetry's modules adds its part."""

    registry: CollectorRegistry | None = None  # what is scraped
    exporter: "Exporter | None" = None
    tracer: trace.Tracer = field(default_factory=lambda: Provider().get_tracer("service"))
    # Called with each answered request: its span, its fields and its duration in seconds.
    recorders: list[Callable[[trace.Span, Fields, float], None]] = field(default_factory=list)


class Observed(Protocol):
    """An application whose requests are watched."""

    telemetry: Telemetry
