"""Tracing by OpenTelemetry's settings, and the short form for a step of one's own."""

import logging
from contextlib import AbstractContextManager
from multiprocessing.util import Finalize

from opentelemetry import trace

from service.chassis.project import PROJECT
from service.chassis.telemetry import Fields
from service.chassis.telemetry import Observed
from service.chassis.telemetry.otlp import Exporter
from service.chassis.telemetry.settings import TelemetrySettings
from service.chassis.telemetry.spans import Provider, Sampler

log = logging.getLogger("service.tracing")
tracer = trace.get_tracer("service", PROJECT.version)


def make_sampler(name: str, ratio: float) -> Sampler:
    """Make what decides, before a span exists, whether a trace is recorded."""
    follows_caller = name.startswith("parentbased_")
    ratio = {"always_on": 1.0, "always_off": 0.0}.get(name.removeprefix("parentbased_"), ratio)
    bound = 2**64 * ratio

    def sample(trace_id: int, flags: int | None) -> bool:
        if flags is not None and follows_caller:
            return flags & 1 == 1
        return trace_id % 2**64 < bound

    return sample


def span(
    name: str, kind: str = "internal", attributes: Fields | None = None
) -> AbstractContextManager[trace.Span]:
    """Make what is done within it a span, a child of the current one; no-op if not sampled.

    `kind` is internal, client, producer or consumer. Attributes are named as in
    https://opentelemetry.io/docs/specs/semconv/
    """
    kinds = trace.SpanKind.__members__
    return tracer.start_as_current_span(name, kind=kinds[kind.upper()], attributes=attributes)


def init_app(app: Observed, settings: TelemetrySettings) -> None:
    """Trace the application's requests, if the settings name a collector.

    Where a provider was set before, such as OpenTelemetry's SDK, that one makes all spans.
    """
    current = trace.get_tracer_provider()
    if not isinstance(current, trace.ProxyTracerProvider | Provider):
        log.info("spans are made by %s", type(current).__module__)
        app.telemetry.tracer = current.get_tracer("service", PROJECT.version)
        # `atexit`, by which the SDK sends its last spans, does not run in a worker process.
        if hasattr(current, "shutdown"):
            Finalize(None, current.shutdown, exitpriority=10)
        return
    endpoint = settings.traces_endpoint()
    if endpoint is not None:
        sample = make_sampler(settings.otel_traces_sampler, settings.otel_traces_sampler_arg)
        exporter = Exporter(endpoint, settings, app.telemetry.registry)
        app.telemetry.exporter = exporter
        provider = Provider(exporter, sample)
        app.telemetry.tracer = provider.get_tracer("service", PROJECT.version)
        if not isinstance(current, Provider):  # else that of the process's first application
            trace.set_tracer_provider(provider)
