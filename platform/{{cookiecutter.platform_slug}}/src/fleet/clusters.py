"""The services' replicas, and the collector of traces, as Envoy's clusters."""

from collections.abc import Sequence
from copy import deepcopy
from urllib.parse import urlsplit

from fleet.resources import COLLECTOR
from fleet.resources import INTERNAL_PORT
from fleet.resources import TYPES
from fleet.resources import Resource
from fleet.routes import Route
from fleet.settings import Settings


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
