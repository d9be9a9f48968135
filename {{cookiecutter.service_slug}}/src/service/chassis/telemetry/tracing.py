"""Spans, as OpenTelemetry defines them; without an endpoint to send them to none is made."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from uuid import uuid4

from service.chassis.project import PROJECT
from service.chassis.telemetry.context import (
    Fields,
    Observed,
    RequestContext,
    current,
    new_span_id,
)
from service.chassis.telemetry.otlp import Exporter
from service.chassis.telemetry.settings import TelemetrySettings, parse_key_values

NO_SPAN = nullcontext()

Sampler = Callable[[str, str | None], bool]


def make_sampler(name: str, ratio: float) -> Sampler:
    """Make what decides, before a span exists, whether a trace is recorded.

    It takes the trace's id and the caller's flags, in hexadecimal; None where the trace begins.
    """
    follows_caller = name.startswith("parentbased_")
    ratio = {"always_on": 1.0, "always_off": 0.0}.get(name.removeprefix("parentbased_"), ratio)
    bound = 2**64 * ratio

    def sample(trace_id: str, flags: str | None) -> bool:
        if flags is not None and follows_caller:
            return int(flags, 16) & 1 == 1
        return int(trace_id[16:], 16) < bound

    return sample


class Span:
    """A step within a request, as a context manager; `attributes` may be added until it ends."""

    def __init__(self, parent: RequestContext, name: str, kind: str, attributes: Fields) -> None:
        self.attributes = attributes
        self._name = name
        self._kind = kind
        self._context = RequestContext({**parent.ids, "span_id": new_span_id()}, parent.exporter)

    def __enter__(self) -> "Span":
        self._token = current.set(self._context)
        self._started = time.perf_counter()
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        seconds = time.perf_counter() - self._started
        current.reset(self._token)
        if error:
            self.attributes["error.type"] = error.__qualname__
        span_id = self._context.ids["span_id"]
        current.get().add_span(self._name, self._kind, seconds, self.attributes, span_id)


def span(
    name: str, kind: str = "internal", attributes: Fields | None = None
) -> AbstractContextManager[Any]:
    """Make what is done within it a span, a child of the current one; no-op if not sampled.

    `kind` is internal, client, producer or consumer. Attributes are named as in
    https://opentelemetry.io/docs/specs/semconv/
    """
    parent = current.get()
    if parent.exporter is None:
        return NO_SPAN
    return Span(parent, name, kind, {} if attributes is None else attributes)


def init_app(app: Observed, settings: TelemetrySettings) -> None:
    """Trace the application's requests, if the settings name a collector."""
    base = settings.otel_exporter_otlp_endpoint
    endpoint = settings.otel_exporter_otlp_traces_endpoint
    if (endpoint is None and base is None) or settings.otel_sdk_disabled:
        return
    resource = {
        "service.name": PROJECT.name,
        "service.version": PROJECT.version,
        "service.instance.id": str(uuid4()),
        **parse_key_values(settings.otel_resource_attributes or ""),
    }
    if settings.otel_service_name:
        resource["service.name"] = settings.otel_service_name
    secret = settings.otel_exporter_otlp_headers
    app.telemetry.exporter = Exporter(
        str(endpoint or f"{str(base).rstrip('/')}/v1/traces"),
        parse_key_values(secret.get_secret_value() if secret else ""),
        resource,
        settings.otel_exporter_otlp_timeout / 1000,
        app.telemetry.registry,
    )
    app.telemetry.sample = make_sampler(
        settings.otel_traces_sampler, settings.otel_traces_sampler_arg
    )
