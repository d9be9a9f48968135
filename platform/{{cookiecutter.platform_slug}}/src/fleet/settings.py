"""The gateway's settings: gateway/settings.yaml, and where traces go, which the services share."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult
from urllib.parse import urlsplit

from fleet.documents import Node
from fleet.project import Project
from fleet.project import Refusal
from fleet.project import read_environment
from fleet.project import read_yaml
from fleet.project import refuse
from fleet.routes import LARGEST_BODY

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"  # it comes first, and is a whole address
SAMPLER = "OTEL_TRACES_SAMPLER"
RATIO = "OTEL_TRACES_SAMPLER_ARG"
PARENT = "parentbased_"
PERCENTS = {"always_on": 100.0, "always_off": 0.0}
TRUE = {"1", "on", "t", "true", "y", "yes"}  # as services read it


@dataclass(frozen=True)
class Settings:
    """What gateway/settings.yaml and config/common.env say, and whether there is a certificate."""

    trusted_proxies: list[str]  # networks
    requests_per_second: int
    burst: int
    max_request_bytes: int
    request_timeout: int  # seconds
    collector: SplitResult | None  # the address to which spans are sent
    sampled_percent: float
    follows_caller: bool  # whether the caller's decision about a trace comes first
    has_certificate: bool


def read_settings(project: Project) -> Settings:
    """Read and check the settings."""
    path = project.gateway / "settings.yaml"
    fields = Node(read_yaml(path), project.shown(path)).fields(
        "trusted_proxies", "rate_limit", "max_request_bytes", "request_timeout"
    )
    rates = fields["rate_limit"].fields("requests_per_second", "burst")
    rate = rates["requests_per_second"].number(1, 100_000)
    name, variables = _about_traces(project)
    return Settings(
        trusted_proxies=[_network(node) for node in fields["trusted_proxies"].items()],
        requests_per_second=rate,
        burst=rates["burst"].number(rate, 1_000_000),
        max_request_bytes=fields["max_request_bytes"].number(1, LARGEST_BODY),
        request_timeout=fields["request_timeout"].number(1, 3600),
        collector=_collector(variables, name),
        sampled_percent=_percent(variables, name),
        follows_caller=_sampler(variables).startswith(PARENT),
        has_certificate=_has_certificate(project),
    )


def _network(node: Node) -> str:
    try:
        return str(ipaddress.ip_network(str(node.value)))
    except ValueError:
        raise node.refuse("write a network such as 10.0.0.0/8, or an address") from None


def _about_traces(project: Project) -> tuple[str, Mapping[str, str]]:
    """Return the name of the file that the services share, and what it says of traces."""
    path = project.config / "common.env"
    name = project.shown(path)
    variables, faults = read_environment(path, name)
    refuse(faults)
    is_off = variables.get("OTEL_SDK_DISABLED", "").lower() in TRUE
    if is_off or variables.get("OTEL_TRACES_EXPORTER") == "none":
        return name, {SAMPLER: "always_off"}
    return name, variables


def _collector(variables: Mapping[str, str], name: str) -> SplitResult | None:
    """Return the address to which spans are sent, if there is one."""
    setting = TRACES_ENDPOINT if variables.get(TRACES_ENDPOINT) else ENDPOINT
    endpoint = variables.get(setting, "")
    address = urlsplit(endpoint)
    try:
        is_good = address.scheme in ("http", "https") and address.hostname and address.port != 0
    except ValueError:  # its port is no number
        is_good = False
    if endpoint and (not is_good or address.username is not None):
        raise Refusal(f"{name}: {setting}: write an address such as http://collector:4318")
    if setting == ENDPOINT:
        address = address._replace(path=f"{address.path.rstrip('/')}/v1/traces")
    return address if endpoint else None


def _percent(variables: Mapping[str, str], name: str) -> float:
    """Return how many in a hundred of the traces that it begins a service records."""
    try:
        ratio = float(variables.get(RATIO) or 1)
    except ValueError:
        ratio = -1
    if not 0 <= ratio <= 1:
        raise Refusal(f"{name}: {RATIO}: write a number from 0 to 1")
    return PERCENTS.get(_sampler(variables).removeprefix(PARENT), ratio * 100)


def _sampler(variables: Mapping[str, str]) -> str:
    return variables.get(SAMPLER) or "parentbased_always_on"


def _has_certificate(project: Project) -> bool:
    there = [(project.gateway / "tls" / name).is_file() for name in ("tls.crt", "tls.key")]
    if any(there) and not all(there):
        raise Refusal(
            "gateway/tls: a certificate is tls.crt and tls.key; add the one or remove both"
        )
    return all(there)
