"""Logs, metrics and traces, which know nothing of the web framework and the server."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from opentelemetry import trace

from service.chassis.telemetry.spans import Ids, Provider

if TYPE_CHECKING:  # the server's supervisor needs neither
    from prometheus_client import CollectorRegistry

    from service.chassis.telemetry.otlp import Exporter

Fields = dict[str, Any]  # by their names in OpenTelemetry's semantic conventions


@dataclass
class Telemetry:
    """What watches the requests of one application; each of telemetry's modules adds its part."""

    registry: "CollectorRegistry | None" = None  # what is scraped
    exporter: "Exporter | None" = None
    tracer: trace.Tracer = field(default_factory=lambda: Provider().get_tracer("service"))
    # Called with each answered request: its span, its ids, its fields and its seconds.
    recorders: list[Callable[[trace.Span, Ids, Fields, float], None]] = field(default_factory=list)


class Observed(Protocol):
    """An application whose requests are watched."""

    telemetry: Telemetry
