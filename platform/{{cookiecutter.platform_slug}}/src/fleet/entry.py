"""The gateway's one entry as Envoy's listener: gateway/entry.yaml with the settings put in."""

from copy import deepcopy

from fleet.resources import COLLECTOR
from fleet.resources import ENTRY_PORT
from fleet.resources import FOLDER
from fleet.resources import TYPES
from fleet.resources import Resource
from fleet.settings import Settings

# What a proxy in front says of its client, if it is trusted.
SAID_BY_PROXIES = {"x-forwarded-", "forwarded", "x-real-ip"}
# What the gateway itself may answer, with the titles that the services use.
TITLES = {
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    408: "Request Timeout",
    413: "Request Entity Too Large",
    414: "Request URI Too Long",
    415: "Unsupported Media Type",
    426: "Upgrade Required",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}
RATE_KEY = "masked_remote_address"


def listener(entry: Resource, settings: Settings, gateway: str) -> Resource:
    """Return the one entry; requests of trusted proxies take a chain of filters of their own."""
    manager = deepcopy(entry)
    _complete(manager, settings, gateway)
    chains: list[Resource] = [{"filters": [_filter(manager)]}]
    if settings.trusted_proxies:
        believing = deepcopy(manager)
        (early,) = believing["early_header_mutation_extensions"]
        early["typed_config"]["mutations"] = _without_said(early["typed_config"]["mutations"])
        believing["xff_num_trusted_hops"] = 1
        networks = [_range(network) for network in settings.trusted_proxies]
        match = {"source_prefix_ranges": networks}
        chains.insert(0, {"filter_chain_match": match, "filters": [_filter(believing)]})
    if settings.has_certificate:
        for chain in chains:
            chain["transport_socket"] = _tls()
    return {
        "@type": f"{TYPES}.config.listener.v3.Listener",
        "name": "entry",
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": ENTRY_PORT}},
        "per_connection_buffer_limit_bytes": 65536,
        "filter_chains": chains,
    }


def _without_said(mutations: list[Resource]) -> list[Resource]:
    """Return the mutations but those of headers that a trusted proxy may send."""
    return [item for item in mutations if not set(_names(item)) & SAID_BY_PROXIES]


def _names(mutation: Resource) -> list[str]:
    matched = mutation.get("remove_on_match", {}).get("key_matcher", {})
    return [mutation.get("remove", ""), matched.get("prefix", "")]


def _filter(manager: Resource) -> Resource:
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}


def _range(network: str) -> Resource:
    address, _, length = network.partition("/")
    return {"address_prefix": address, "prefix_len": int(length)}


def _complete(manager: Resource, settings: Settings, gateway: str) -> None:
    """Add rates, problems and traces to what entry.yaml says."""
    filters = {item["name"]: item["typed_config"] for item in manager["http_filters"]}
    filters["envoy.filters.http.buffer"]["max_request_bytes"] = settings.max_request_bytes
    rate = {
        "max_tokens": settings.burst,
        "tokens_per_fill": settings.requests_per_second,
        "fill_interval": "1s",
    }
    limit = filters["envoy.filters.http.local_ratelimit"]
    limit["descriptors"] = [{"entries": [{"key": RATE_KEY}], "token_bucket": rate}]
    limit["token_bucket"] = rate
    model = manager["local_reply_config"]["mappers"].pop()
    manager["local_reply_config"]["mappers"] = [_problem(*pair, model) for pair in TITLES.items()]
    manager["tracing"] = _tracing(settings, gateway)


def _problem(status: int, title: str, model: Resource) -> Resource:
    """Return the model of a problem, for one status."""
    problem = deepcopy(model)
    problem["filter"]["status_code_filter"]["comparison"] = {
        "op": "EQ",
        "value": {"default_value": status, "runtime_key": f"problem_{status}"},
    }
    problem["body_format_override"]["json_format"]["title"] = title
    return problem


def _tracing(settings: Settings, gateway: str) -> Resource:
    """Return the tracer, which also without a collector gives every request its trace id."""
    # A new collector gets the last spans of the tracer before it too, by a path that it knows.
    address = settings.collector.geturl() if settings.collector else "http://nowhere/v1/traces"
    target = {"uri": address, "cluster": COLLECTOR, "timeout": "10s"}
    tracer = {
        "@type": f"{TYPES}.config.trace.v3.OpenTelemetryConfig",
        "service_name": gateway,
        "http_service": {"http_uri": target},
        "sampler": _sampler(settings),
    }
    return {"provider": {"name": "envoy.tracers.opentelemetry", "typed_config": tracer}}


def _sampler(settings: Settings) -> Resource:
    """Return the services' sampler; Envoy's own goes by request ids, which clients may choose."""
    percentage = {"numerator": round(settings.sampled_percent * 10_000), "denominator": "MILLION"}
    ratio = _one_sampler("TraceIdRatioBased", {"sampling_percentage": percentage})
    if not settings.follows_caller:
        return ratio
    return _one_sampler("ParentBased", {"wrapped_sampler": ratio})


def _one_sampler(kind: str, config: Resource) -> Resource:
    typed = f"{TYPES}.extensions.tracers.opentelemetry.samplers.v3.{kind}SamplerConfig"
    return {"name": kind, "typed_config": {"@type": typed, **config}}


def _tls() -> Resource:
    source = {"path": f"{FOLDER}/certificate.json", "watched_directory": {"path": FOLDER}}
    config = {"name": "entry", "sds_config": {"path_config_source": source}}
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{TYPES}.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_certificate_sds_secret_configs": [config],
            },
        },
    }


def certificate() -> Resource:
    """Return where the certificate lies; Envoy watches its folder for a newer one."""
    return {
        "@type": f"{TYPES}.extensions.transport_sockets.tls.v3.Secret",
        "name": "entry",
        "tls_certificate": {
            "certificate_chain": {"filename": "/etc/tls/tls.crt"},
            "private_key": {"filename": "/etc/tls/tls.key"},
            "watched_directory": {"path": "/etc/tls"},
        },
    }
