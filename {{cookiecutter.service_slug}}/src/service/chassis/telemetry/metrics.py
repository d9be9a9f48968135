"""Prometheus metrics of an application's requests, under OpenTelemetry's names."""

from collections.abc import Callable

from opentelemetry.trace import Span
from prometheus_client import REGISTRY, CollectorRegistry, Gauge, Histogram, Info

from service.chassis.project import PROJECT
from service.chassis.telemetry import Fields
from service.chassis.telemetry import Observed
from service.chassis.telemetry.spans import Ids

LABELS = ("http_request_method", "http_route", "http_response_status_code")
# The boundaries that OpenTelemetry advises, in seconds, and that of the objective in service.yaml.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.3, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)


class RequestMetrics:
    """Counts and times the answered requests of one application."""

    def __init__(self, registry: CollectorRegistry) -> None:
        name = "http_server_request_duration_seconds"
        help_text = "Time to answer a request."
        self._duration = Histogram(name, help_text, LABELS, buckets=BUCKETS, registry=registry)
        self._children: dict[tuple[str, str, int], Histogram] = {}

    def __call__(self, span: Span, ids: Ids, fields: Fields, seconds: float) -> None:
        key = (
            fields["http.request.method"],
            fields["http.route"],
            fields["http.response.status_code"],
        )
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = self._duration.labels(*map(str, key))
        exemplar = None
        if span.is_recording():
            exemplar = {name: ids[name] for name in ("trace_id", "span_id")}
        child.observe(seconds, exemplar)


def show(
    name: str, help_text: str, registry: CollectorRegistry | None, value: Callable[[], float]
) -> None:
    """Add a gauge that is, when scraped, what `value` returns."""
    Gauge(name, help_text, registry=registry).set_function(value)


def init_app(app: Observed) -> None:
    """Give the application metrics; call it before those that add to them."""
    registry = app.telemetry.registry = CollectorRegistry()
    registry.register(REGISTRY)  # the process's, and those that are made without a registry
    target = {"service_name": PROJECT.name, "service_version": PROJECT.version}
    Info("target", "The service and its release.", registry=registry).info(target)
    app.telemetry.recorders.append(RequestMetrics(registry))
