"""The context of the request being handled, and what watches an application's requests."""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from random import getrandbits
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from prometheus_client import CollectorRegistry

if TYPE_CHECKING:
    from service.chassis.telemetry.otlp import Exporter

Fields = dict[str, Any]  # by their names in OpenTelemetry's semantic conventions


class RequestContext(NamedTuple):
    """The ids that join a request's lines, spans and answer, and its exporter if it is sampled."""

    ids: Mapping[str, str]  # request_id, trace_id, span_id and trace_flags
    exporter: "Exporter | None" = None

    def add_span(
        self,
        name: str,
        kind: str,
        seconds: float,
        attributes: Fields,
        span_id: str | None = None,
    ) -> None:
        """Add a step that lasted `seconds` and ends now, if the request is sampled."""
        if self.exporter is not None:
            ids = {**self.ids, "span_id": span_id or new_span_id()}
            self.exporter.add(ids, self.ids["span_id"], name, kind, seconds, attributes)


NO_REQUEST = RequestContext(MappingProxyType({}))
current: ContextVar[RequestContext] = ContextVar("request", default=NO_REQUEST)


def new_span_id() -> str:
    """Return 16 random hexadecimal digits that are not all zero."""
    return f"{getrandbits(64) or 1:016x}"


@dataclass
class Telemetry:
    """What watches the requests of one application; each of telemetry's modules adds its part."""

    registry: CollectorRegistry | None = None  # what is scraped
    exporter: "Exporter | None" = None
    # Whether a trace is recorded, by its id and the caller's flags; None where it begins here.
    sample: Callable[[str, str | None], bool] | None = None
    # Called with each answered request: its context, its fields and its duration in seconds.
    recorders: list[Callable[[RequestContext, Fields, float], None]] = field(default_factory=list)


class Observed(Protocol):
    """An application whose requests are watched."""

    telemetry: Telemetry
