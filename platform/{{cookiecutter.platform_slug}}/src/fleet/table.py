"""The services' routes as the table by which Envoy finds a request's service."""

import json
from collections.abc import Sequence
from copy import deepcopy

from fleet.resources import TYPES
from fleet.resources import Resource
from fleet.routes import Route
from fleet.settings import Settings

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
# A replica that did not see the request, or sees it a second time without harm.
RETRY_UNSEEN = "connect-failure,refused-stream,reset-before-request"
RETRY_SAFE = f"{RETRY_UNSEEN},reset,retriable-status-codes"
RETRIED_STATUSES = [502, 503, 504]


def table(found: Sequence[Route], settings: Settings) -> Resource:
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
