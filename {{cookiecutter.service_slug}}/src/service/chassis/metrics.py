"""Prometheus metrics under OpenTelemetry's names, and `/metrics`; right with several workers and after one's death."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, GCCollector, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from service.chassis.configuration import PROJECT
from service.chassis.health import answer

TARGET_LABELS = ("service_name", "service_version")
LABELS = ("http_request_method", "http_route", "http_response_status_code")
# The boundaries that OpenTelemetry advises for this metric, in seconds, and that of the objective in service.yaml.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.3, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

DURATION = Histogram("http_server_request_duration_seconds", "Time to answer a request.", LABELS, buckets=BUCKETS)
ACTIVE = Gauge("http_server_active_requests", "Requests being worked on.", multiprocess_mode="livesum")
LIMIT = Gauge("http_server_active_requests_limit", "Requests allowed at once.", multiprocess_mode="livesum")
SATURATION = Gauge("http_server_saturation_ratio", "Active over allowed; of the busiest.", multiprocess_mode="livemax")
SPANS_WAITING = Gauge("trace_spans_waiting", "Spans that are to be sent.", multiprocess_mode="livesum")
SPANS_DROPPED = Counter("trace_spans_dropped", "Spans that the collector did not take.")

_children: dict[tuple[str, str, int], Histogram] = {}
_shown: list[tuple[Gauge, Callable[[], float]]] = []


def observe(method: str, route: str, status: int, seconds: float, exemplar: dict[str, str] | None) -> None:
    """Count one answered request; `method` is of METHODS or `_OTHER`, `route` the template: series have a bound.

    The exemplar names a trace that shows such a request; several workers keep none.
    """
    key = (method, route, status)
    if key not in _children:
        _children[key] = DURATION.labels(*map(str, key))
    _children[key].observe(seconds, exemplar)


def show(gauge: Gauge, value: Callable[[], float]) -> None:
    """Let a gauge say what `value` returns: as it is when scraped, or with several workers within the last second."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        gauge.set_function(value)
        return
    if not _shown:
        threading.Thread(target=_publish, name="metrics", daemon=True).start()
    _shown.append((gauge, value))


def _publish() -> None:
    process = SharedProcess()
    while True:
        for gauge, value in _shown:
            gauge.set(value())
        process.publish()
        time.sleep(1)


class SharedProcess:
    """The metrics of the process and its garbage collector, which the library does not add up over workers."""

    def __init__(self) -> None:
        own = CollectorRegistry()
        self._sources = (ProcessCollector(registry=own), GCCollector(registry=own))
        self._shared: dict[tuple[str, ...], Counter | Gauge] = {}
        self._counted: dict[tuple[str, ...], float] = {}

    def publish(self) -> None:
        for metric in (metric for source in self._sources for metric in source.collect()):
            for sample in metric.samples:
                key = (sample.name, *sample.labels.values())
                if key not in self._shared:
                    self._shared[key] = self._share(metric, sample.labels)
                shared = self._shared[key]
                if isinstance(shared, Gauge):
                    shared.set(sample.value)
                else:
                    shared.inc(sample.value - self._counted.get(key, 0))
                    self._counted[key] = sample.value

    def _share(self, metric: Metric, labels: dict[str, str]) -> Counter | Gauge:
        arguments: dict[str, Any] = {"documentation": metric.documentation, "labelnames": labels, "registry": None}
        if metric.type == "counter":
            shared: Counter | Gauge = Counter(metric.name, **arguments)
        else:  # of the starts the latest, so that a worker's restart can be told
            mode: Literal["livemax", "livesum"] = "livemax" if "start_time" in metric.name else "livesum"
            shared = Gauge(metric.name, **arguments, multiprocess_mode=mode)
        return shared.labels(**labels) if labels else shared


class TargetInfo:
    """`target_info`, as OpenTelemetry names what tells one service and release from another."""

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("target_info", "The service and its release.", labels=TARGET_LABELS)
        info.add_metric((PROJECT.name, PROJECT.version), 1)
        yield info


REGISTRY.register(TargetInfo())


class SharedFiles:
    """What all workers have counted, in the files of one folder."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def collect(self) -> Iterable[Metric]:
        # A worker that starts makes a file first and fills it then; the library cannot read an empty one.
        files = [str(file) for file in self._folder.glob("*.db") if _size(file)]
        metrics: Iterable[Metric] = MultiProcessCollector.merge(files)
        return metrics


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # a dead worker's
        return 0


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
            with contextlib.suppress(FileNotFoundError):  # another worker is scraped at the same time
                mark_process_dead(pid, folder)
    registry = CollectorRegistry()
    registry.register(SharedFiles(folder))
    registry.register(TargetInfo())
    return registry


def scrape(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """`/metrics` as a WSGI application: the text format, or OpenMetrics where it is asked for."""
    encoder, content_type = choose_encoder(environ.get("HTTP_ACCEPT", ""))
    return answer(start_response, encoder(_registry()), content_type)
