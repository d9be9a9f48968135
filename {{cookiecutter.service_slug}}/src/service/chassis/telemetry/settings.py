"""The settings of logs and traces."""

import re
from typing import Annotated, Literal
from urllib.parse import unquote

from pydantic import AfterValidator, Field, HttpUrl, SecretStr

from service.chassis.settings import EnvironmentSettings

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


class TelemetrySettings(EnvironmentSettings):
    """Logs by names of our own, traces by OpenTelemetry's.

    https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
    """

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Minimum log level"
    )
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="`auto` is text on a terminal, else JSON"
    )
    slow_request: float = Field(
        1, gt=0, description="Seconds from which a request is logged as a warning"
    )
    otel_sdk_disabled: bool = Field(
        False, description="Disables tracing; overrides the other `OTEL_*` settings"
    )
    otel_exporter_otlp_endpoint: HttpUrl | None = Field(
        None,
        description="Collector, OTLP over HTTP, as in `http://collector:4318`; unset: no traces",
    )
    otel_exporter_otlp_traces_endpoint: HttpUrl | None = Field(
        None, description="Full URL for traces, instead of the collector's"
    )
    otel_exporter_otlp_headers: Annotated[SecretStr | None, AfterValidator(_check_headers)] = Field(
        None, description="Headers for the collector: `name=value,...`"
    )
    otel_exporter_otlp_timeout: int = Field(
        10_000, ge=1, description="Timeout of an export, in milliseconds"
    )
    otel_service_name: str | None = Field(
        None, description="Name of the service in traces, if not its own"
    )
    otel_resource_attributes: Annotated[str | None, AfterValidator(_check_key_values)] = Field(
        None, description="Attributes of all spans: `name=value,...`"
    )
    otel_traces_sampler: str = Field(
        "parentbased_always_on",
        pattern=r"^(parentbased_)?(always_on|always_off|traceidratio)$",
        description="`always_on`, `always_off` or `traceidratio`;"
        " with `parentbased_` the caller's decision comes first",
    )
    otel_traces_sampler_arg: float = Field(
        1, ge=0, le=1, description="Ratio of sampled traces, for `traceidratio`"
    )
