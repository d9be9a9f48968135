"""OpenTelemetry's API, implemented: spans that cost little, and none where nothing is sampled."""

import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import getrandbits
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.context import Context, create_key, get_value
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util._decorator import _agnosticcontextmanager

if TYPE_CHECKING:
    from service.chassis.telemetry.otlp import Exporter

Ids = Mapping[str, str]
NO_IDS: Ids = MappingProxyType({})
REQUEST_ID = create_key("request_id")
Attributes = Mapping[str, Any] | None
# Whether a trace is recorded, by its id and the caller's flags; None where it begins here.
Sampler = Callable[[int, int | None], bool]


def ids_of(span: trace.Span) -> Ids:
    """Return `trace_id`, `span_id` and `trace_flags`, in hexadecimal; none of an invalid span."""
    ids: Ids | None = getattr(span, "ids", None)
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


def current_ids() -> Ids:
    """Return the ids that join lines, spans, problems and calls, within a request its own too."""
    ids = ids_of(trace.get_current_span())
    request_id = get_value(REQUEST_ID)
    return {"request_id": str(request_id), **ids} if request_id else ids


class UnsampledSpan(trace.NonRecordingSpan):
    """Stands for all spans of a request that is not sampled; it only passes its ids on."""

    def __init__(self, ids: Ids, parent: SpanContext) -> None:
        self.ids = ids
        self.parent = parent

    def get_span_context(self) -> SpanContext:
        trace_id, span_id, flags = (
            int(self.ids[name], 16) for name in ("trace_id", "span_id", "trace_flags")
        )
        return SpanContext(trace_id, span_id, False, TraceFlags(flags), self.parent.trace_state)


@dataclass(eq=False)
class Span(trace.Span):
    """A recorded span, which its exporter takes when it ends."""

    exporter: "Exporter"
    scope: dict[str, str]
    ids: Ids
    parent: SpanContext
    name: str
    kind: SpanKind
    attributes: dict[str, Any] = field(default_factory=dict)
    start_time: int = field(default_factory=time.time_ns)
    end_time: int | None = None
    status: Status = field(default_factory=Status)
    events: list[tuple[str, int, Attributes]] = field(default_factory=list)
    links: list[trace.Link] = field(default_factory=list)

    get_span_context = UnsampledSpan.get_span_context

    def is_recording(self) -> bool:
        return self.end_time is None

    def set_attribute(self, key: str, value: Any) -> None:
        self.attributes[key] = value

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        self.attributes.update(attributes)

    def update_name(self, name: str) -> None:
        self.name = name

    def add_event(
        self, name: str, attributes: Attributes = None, timestamp: int | None = None
    ) -> None:
        self.events.append((name, timestamp or time.time_ns(), attributes))

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        self.links.append(trace.Link(context, attributes))

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        if not isinstance(status, Status):
            status = Status(status, description)
        if self.status.status_code is not StatusCode.OK and not status.is_unset:
            self.status = status

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        kind = type(exception).__qualname__
        self.attributes.setdefault("error.type", kind)
        details = {
            "exception.type": kind,
            "exception.message": str(exception),
            "exception.stacktrace": "".join(traceback.format_exception(exception)),
        }
        self.add_event("exception", details | dict(attributes or {}), timestamp)

    def end(self, end_time: int | None = None) -> None:
        if self.end_time is None:
            self.end_time = end_time or time.time_ns()
            self.exporter.add(self)


class Tracer(trace.Tracer):
    """Makes the spans of one library, or of the service's own code.

    A child goes where its parent goes; for others the provider decides.
    """

    def __init__(self, provider: "Provider", name: str, version: str | None) -> None:
        self._provider = provider
        self._scope = {"name": name, "version": version or ""}

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[trace.Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> trace.Span:
        parent = trace.get_current_span(context)
        if isinstance(parent, UnsampledSpan):
            return parent
        parent_context = parent.get_span_context()
        exporter = self._provider.exporter
        if isinstance(parent, Span):
            exporter = parent.exporter
            ids = {**parent.ids, "span_id": new_span_id()}
        else:
            ids = self._provider.start_trace(parent_context)
        if exporter is None or ids["trace_flags"] == "00":
            return UnsampledSpan(ids, parent_context)
        span = Span(exporter, self._scope, ids, parent_context, name, kind)
        span.attributes.update(attributes or {})
        span.links.extend(links or ())
        span.start_time = start_time or span.start_time
        return span

    @_agnosticcontextmanager
    def start_as_current_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[trace.Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
        end_on_exit: bool = True,
    ) -> Iterator[trace.Span]:
        span = self.start_span(name, context, kind, attributes, links, start_time)
        if span is trace.get_current_span():  # that of a request that is not sampled
            yield span
            return
        with trace.use_span(span, end_on_exit, record_exception, set_status_on_exception):
            yield span


def new_span_id() -> str:
    """Return a random id, which is not zero."""
    return trace.format_span_id(getrandbits(64) or 1)


def follow_caller(_trace_id: int, flags: int | None) -> bool:
    """Sample what the caller samples."""
    return flags is not None and flags & 1 == 1


class Provider(trace.TracerProvider):
    """Gives tracers that sample and export alike."""

    def __init__(self, exporter: "Exporter | None" = None, sample: Sampler = follow_caller) -> None:
        self.exporter = exporter
        self.sample = sample

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes = None,
    ) -> Tracer:
        return Tracer(self, instrumenting_module_name, instrumenting_library_version)

    def start_trace(self, caller: SpanContext) -> dict[str, str]:
        """Return the ids of a span that continues another process's trace, or begins one."""
        trace_id = caller.trace_id if caller.is_valid else getrandbits(128) or 1
        is_sampled = self.sample(trace_id, caller.trace_flags if caller.is_valid else None)
        return {
            "trace_id": trace.format_trace_id(trace_id),
            "span_id": new_span_id(),
            "trace_flags": "01" if is_sampled else "00",
        }
