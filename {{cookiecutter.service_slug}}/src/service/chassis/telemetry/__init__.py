"""Logs, metrics and traces, which know nothing of the web framework and the server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # the server's supervisor needs none, and the settings are still to be checked
    from opentelemetry import trace
    from prometheus_client import CollectorRegistry

    from service.chassis.telemetry.otlp import Exporter
    from service.chassis.telemetry.spans import Ids

Fields = dict[str, Any]  # by their names in OpenTelemetry's semantic conventions


def _no_tracer() -> trace.Tracer:
    from service.chassis.telemetry.spans import Provider

    return Provider().get_tracer("service")


@dataclass
class Telemetry:
    """What watches the requests of one application; each of telemetry's modules adds its part."""

    registry: CollectorRegistry | None = None  # what is scraped
    exporter: Exporter | None = None
    tracer: trace.Tracer = field(default_factory=_no_tracer)
    # Called with each answered request: its span, its ids, its fields and its seconds.
    recorders: list[Callable[[trace.Span, Ids, Fields, float], None]] = field(default_factory=list)


class Observed(Protocol):
    """An application whose requests are watched."""

    telemetry: Telemetry
