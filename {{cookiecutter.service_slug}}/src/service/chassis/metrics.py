"""Prometheus metrics under OpenTelemetry's names, and `/metrics`; right with several workers and after one's death."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import REGISTRY, CollectorRegistry, Gauge, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from service.chassis.configuration import PROJECT
from service.chassis.health import answer

TARGET_LABELS = ("service_name", "service_version")
LABELS = ("http_request_method", "http_route", "http_response_status_code")
# The boundaries that OpenTelemetry advises for this metric, in seconds.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

DURATION = Histogram("http_server_request_duration_seconds", "Time to answer a request.", LABELS, buckets=BUCKETS)
ACTIVE = Gauge("http_server_active_requests", "Requests being worked on.", multiprocess_mode="livesum")
LIMIT = Gauge("http_server_active_requests_limit", "Requests allowed at once.", multiprocess_mode="livesum")

_children: dict[tuple[str, str, int], Histogram] = {}


def observe(method: str, route: str, status: int, seconds: float) -> None:
    """Count one answered request; `route` is the template, so that the number of series has a bound."""
    key = (method if method in METHODS else "_OTHER", route, status)
    if key not in _children:
        _children[key] = DURATION.labels(*map(str, key))
    _children[key].observe(seconds)


class TargetInfo:
    """`target_info`, as OpenTelemetry names what tells one service and release from another."""

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("target_info", "The service and its release.", labels=TARGET_LABELS)
        info.add_metric((PROJECT.name, PROJECT.version), 1)
        yield info


REGISTRY.register(TargetInfo())


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


def _registry() -> CollectorRegistry:
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if folder is None:
        return REGISTRY
    for pid in {int(file.stem.rpartition("_")[2]) for file in Path(folder).glob("gauge_live*.db")}:
        if not _alive(pid):
            mark_process_dead(pid, folder)
    registry = CollectorRegistry()
    MultiProcessCollector(registry, folder)
    registry.register(TargetInfo())
    return registry


def scrape(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """`/metrics` as a WSGI application: the text format, or OpenMetrics where it is asked for."""
    encoder, content_type = choose_encoder(environ.get("HTTP_ACCEPT", ""))
    return answer(start_response, encoder(_registry()), content_type)
