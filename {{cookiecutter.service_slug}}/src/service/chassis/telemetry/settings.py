"""The settings of logs and traces."""

import os
import re
import sys
from importlib.metadata import entry_points
from typing import Annotated, Literal, Self
from urllib.parse import unquote

from pydantic import AfterValidator, Field, HttpUrl, SecretStr, model_validator

from service.chassis.settings import EnvironmentSettings

# Variables of OpenTelemetry's SDK for traces: those that are no settings here do nothing here.
SDK_VARIABLE = re.compile(r"OTEL_(BSP|SPAN|ATTRIBUTE)_|OTEL_EXPORTER_OTLP_(?!METRICS_|LOGS_)")
API_PLUGINS = ("context", "tracer_provider", "meter_provider", "logger_provider")
RATIOS = ("always_on", "always_off", "traceidratio")
SAMPLERS = (*RATIOS, *(f"parentbased_{name}" for name in RATIOS))
HEADER_NAME = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)


def parse_key_values(text: str) -> dict[str, str]:
    """Parse `name=value,name=value`, percent-encoded; raise ValueError for anything else."""
    items = [item.partition("=") for item in text.split(",") if item.strip()]
    if not all(separator and name.strip() for name, separator, _ in items):
        raise ValueError("must be `name=value,...`")
    return {name.strip(): unquote(value.strip()) for name, _, value in items}


def _check_key_values(text: str | None) -> str | None:
    parse_key_values(text or "")
    return text


def _check_headers(headers: SecretStr | None) -> SecretStr | None:
    """Refuse what would fail later, at every export, with the secret in the error."""
    text = headers.get_secret_value() if headers else ""
    for name, value in parse_key_values(text).items():
        if not (HEADER_NAME.fullmatch(name) and value.isascii() and value.isprintable()):
            raise ValueError("must be `name=value,...` of printable ASCII characters")
    return headers


def _check_collector(url: HttpUrl | None) -> HttpUrl | None:
    """Refuse credentials where logs and `config` would show them."""
    if url and (url.username or url.password):
        raise ValueError("must not hold credentials; set OTEL_EXPORTER_OTLP_HEADERS")
    return url


Collector = Annotated[HttpUrl | None, AfterValidator(_check_collector)]


def has_sdk() -> bool:
    """Return whether OpenTelemetry's SDK is loaded, which takes all of its variables."""
    return "opentelemetry.sdk" in sys.modules


def one_of(*supported: str) -> AfterValidator:
    """Refuse other values of one of OpenTelemetry's variables."""

    def check(value: str) -> str:
        if value not in supported and not has_sdk():
            raise ValueError(f"must be {' or '.join(supported)}; others need OpenTelemetry's SDK")
        return value

    return AfterValidator(check)


def _check_propagators(text: str) -> str:
    known = {"none", *entry_points(group="opentelemetry_propagator").names}
    if unknown := {name.strip() for name in text.split(",")} - known:
        raise ValueError(f"no such propagator is installed: {', '.join(sorted(unknown))}")
    return text


class TelemetrySettings(EnvironmentSettings):
    """Logs by names of our own, traces by OpenTelemetry's.

    https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
    """

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Minimum log level"""
    log_format: Literal["auto", "json", "text"] = "auto"
    """`auto` is text on a terminal, else JSON"""
    slow_request: float = Field(1, gt=0)
    """Seconds from which a request is logged as a warning"""
    otel_sdk_disabled: bool = False
    """Disables tracing; overrides the other `OTEL_*` settings"""
    otel_exporter_otlp_endpoint: Collector = None
    """Collector, OTLP over HTTP, as in `http://collector:4318`; unset: no traces"""
    otel_exporter_otlp_traces_endpoint: Collector = None
    """Full URL for traces, instead of the collector's"""
    otel_traces_exporter: Annotated[str, one_of("otlp", "none")] = "otlp"
    """`otlp`, or `none` to make no traces"""
    otel_exporter_otlp_protocol: Annotated[str, one_of("http/json")] = "http/json"
    """Export protocol; collectors accept it on their HTTP port"""
    otel_exporter_otlp_headers: Annotated[SecretStr | None, AfterValidator(_check_headers)] = None
    """Headers for the collector: `name=value,...`"""
    otel_exporter_otlp_timeout: int = Field(10_000, ge=1, le=3_600_000)
    """Timeout of an export, in milliseconds"""
    otel_service_name: str | None = None
    """Service name in traces; unset: the project's"""
    otel_resource_attributes: Annotated[str | None, AfterValidator(_check_key_values)] = None
    """Attributes of all spans: `name=value,...`"""
    otel_traces_sampler: Annotated[str, one_of(*SAMPLERS)] = Field(
        "parentbased_always_on",
        description="`always_on`, `always_off` or `traceidratio`;"
        " with `parentbased_` the caller's decision comes first",
    )
    otel_traces_sampler_arg: float = Field(1, ge=0, le=1)
    """Ratio of sampled traces, for `traceidratio`"""
    otel_propagators: Annotated[str, AfterValidator(_check_propagators)] = "tracecontext,baggage"
    """Formats of the trace context in headers"""

    @model_validator(mode="after")
    def refuse_unsupported(self) -> Self:
        """Refuse variables that would be ignored, unless OpenTelemetry's SDK takes them."""
        known = {name.upper() for name in type(self).model_fields}
        names = {name.removesuffix("_FILE") for name in os.environ if SDK_VARIABLE.match(name)}
        if names - known and not has_sdk():
            raise ValueError(f"needs OpenTelemetry's SDK: {', '.join(sorted(names - known))}")
        for plugin in API_PLUGINS:
            variable = f"OTEL_PYTHON_{plugin.upper()}"
            name = os.environ.get(variable)
            if name is not None and name not in entry_points(group=f"opentelemetry_{plugin}").names:
                raise ValueError(f"{variable}: {name!r} is not installed; unset it")
        return self

    def traces_endpoint(self) -> str | None:
        """Return the URL for traces; None where none are to be made."""
        if self.otel_sdk_disabled or self.otel_traces_exporter == "none":
            return None
        if self.otel_exporter_otlp_traces_endpoint:
            return str(self.otel_exporter_otlp_traces_endpoint)
        base = self.otel_exporter_otlp_endpoint
        return f"{str(base).rstrip('/')}/v1/traces" if base else None
