"""Routes and settings as what Envoy reads: its listeners, routes, clusters and certificate."""

import json
from collections.abc import Sequence
from copy import deepcopy
from typing import Any
from urllib.parse import urlsplit

from fleet.routes import Route
from fleet.settings import Settings

Resource = dict[str, Any]

FOLDER = "/etc/gateway"  # where the container sees the files
ENTRY_PORT = 8080
INTERNAL_PORT = 8081
COLLECTOR = "traces-collector"
TYPES = "type.googleapis.com/envoy"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
# A replica that did not see the request, or sees it a second time without harm.
RETRY_UNSEEN = "connect-failure,refused-stream,reset-before-request"
RETRY_SAFE = f"{RETRY_UNSEEN},reset,retriable-status-codes"
RETRIED_STATUSES = [502, 503, 504]
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


def routes(found: Sequence[Route], settings: Settings) -> Resource:
    """Return the one RouteConfiguration: the list of services, and each service's routes."""
    listed = sorted({route.path for route in found if route.replacement == "/"})
    names = {route.path: route.service for route in found}
    services = [{"name": names[path], "path": f"{path}/"} for path in listed]
    body = json.dumps({"services": services}) + "\n"
    entries: list[Resource] = [_list_of_services(body)]
    for route in sorted(found, key=lambda route: (-len(route.path), route.is_prefix, route.path)):
        entries += _route(route, settings)
    # As a route, so that what leads nowhere has a trace id too.
    entries.append({"match": {"prefix": "/"}, "direct_response": {"status": 404}})
    return {
        "@type": f"{TYPES}.config.route.v3.RouteConfiguration",
        "name": "services",
        "max_direct_response_body_size_bytes": max(4096, len(body.encode())),
        "response_headers_to_remove": ["x-envoy-upstream-service-time"],
        "virtual_hosts": [{"name": "services", "domains": ["*"], "routes": entries}],
    }


def _list_of_services(body: str) -> Resource:
    return {
        "match": {"path": "/", "headers": [_methods("GET", "HEAD")]},
        "direct_response": {"status": 200, "body": {"inline_string": body}},
        "response_headers_to_add": [_header("content-type", "application/json")],
    }


def _route(route: Route, settings: Settings) -> list[Resource]:
    """Return the entries of one route, the more special first."""
    hidden = [
        {"match": {"path": path}, "direct_response": {"status": 404}} for path in route.hidden
    ]
    if not route.is_prefix:
        return _forwarded(route, {"path": route.path}, settings)
    inside = {"prefix": f"{route.path}/"}
    if route.replacement == "/":
        # Relative references of the service's root count from the slash.
        itself = [
            {
                "match": {"path": route.path},
                "direct_response": {"status": 308},
                "response_headers_to_add": [
                    _header("location", f"{route.path.rpartition('/')[2]}/")
                ],
            }
        ]
    else:
        itself = _forwarded(route, {"path": route.path}, settings)
    return [*hidden, *itself, *_forwarded(route, inside, settings)]


def _methods(*methods: str) -> Resource:
    pattern = {"safe_regex": {"regex": "|".join(methods)}}
    return {"name": ":method", "string_match": pattern}


def _header(key: str, value: str) -> Resource:
    return {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _forwarded(route: Route, match: Resource, settings: Settings) -> list[Resource]:
    """Return two entries, as only some methods may be tried again once a replica saw them."""
    timeout = settings.request_timeout if route.timeout is None else route.timeout
    action: Resource = {"cluster": route.service, "timeout": f"{timeout:g}s"}
    if route.replacement is not None:
        ending = "/" if "prefix" in match else ""
        action["prefix_rewrite"] = route.replacement.rstrip("/") + ending or "/"
    entry: Resource = {
        "match": match,
        "request_headers_to_add": [
            {
                "header": {"key": "x-forwarded-host", "value": "%REQ(:AUTHORITY)%"},
                "append_action": "ADD_IF_ABSENT",
            }
        ],
        "typed_per_filter_config": {
            "envoy.filters.http.buffer": {
                "@type": f"{TYPES}.extensions.filters.http.buffer.v3.BufferPerRoute",
                "buffer": {"max_request_bytes": route.max_body or settings.max_request_bytes},
            }
        },
    }
    if route.replacement == "/":
        entry["request_headers_to_add"].append(_header("x-forwarded-prefix", route.path))
    safe = deepcopy(entry)
    safe["match"] = {**match, "headers": [_methods(*SAFE_METHODS)]}
    safe["route"] = {**action, "retry_policy": _retries(route, RETRY_SAFE)}
    safe["route"]["retry_policy"]["retriable_status_codes"] = RETRIED_STATUSES
    return [safe, {**entry, "route": {**action, "retry_policy": _retries(route, RETRY_UNSEEN)}}]


def _retries(route: Route, causes: str) -> Resource:
    elsewhere = f"{TYPES}.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    predicate = "envoy.retry_host_predicates.previous_hosts"
    policy: Resource = {
        "retry_on": causes,
        "num_retries": 3,
        "retry_host_predicate": [{"name": predicate, "typed_config": {"@type": elsewhere}}],
        "host_selection_retry_max_attempts": "5",
        "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
    }
    if route.try_timeout:
        policy["per_try_timeout"] = f"{route.try_timeout:g}s"
    return policy


def clusters(found: Sequence[Route], model: Resource, settings: Settings) -> list[Resource]:
    """Return a cluster for each service, and one for the collector of traces."""
    ports = {route.service: route.port for route in found}
    made = [_cluster(deepcopy(model), name, name, port) for name, port in sorted(ports.items())]
    return [*made, _collector(settings)]


def _cluster(model: Resource, name: str, host: str, port: int) -> Resource:
    address = {"socket_address": {"address": host, "port_value": port}}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    return {
        "@type": f"{TYPES}.config.cluster.v3.Cluster",
        "name": name,
        **model,
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
    }


def _collector(settings: Settings) -> Resource:
    """Return where traces go; without a collector, to a route of bootstrap.yaml that drops them."""
    address = settings.collector or urlsplit(f"http://127.0.0.1:{INTERNAL_PORT}")
    host = str(address.hostname)
    port = address.port or {"http": 80, "https": 443}[address.scheme]
    model: Resource = {"type": "STRICT_DNS", "connect_timeout": "1s"}
    if address.scheme == "https":
        model["transport_socket"] = _client_tls(host)
    return _cluster(model, COLLECTOR, host, port)


def _client_tls(host: str) -> Resource:
    named = {"san_type": "DNS", "matcher": {"exact": host}}
    validation = {
        "trusted_ca": {"filename": "/etc/ssl/certs/ca-certificates.crt"},
        "match_typed_subject_alt_names": [named],
    }
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{TYPES}.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "sni": host,
            "common_tls_context": {"validation_context": validation},
        },
    }


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
    address = settings.collector.geturl().rstrip("/") if settings.collector else "http://nowhere"
    target = {"uri": f"{address}/v1/traces", "cluster": COLLECTOR, "timeout": "10s"}
    tracer = {
        "@type": f"{TYPES}.config.trace.v3.OpenTelemetryConfig",
        "service_name": gateway,
        "http_service": {"http_uri": target},
    }
    return {
        "provider": {"name": "envoy.tracers.opentelemetry", "typed_config": tracer},
        "random_sampling": {"value": settings.sampled_percent},
    }


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
