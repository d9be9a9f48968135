"""What Envoy is given: routes, clusters and the entry, by the services' routes and the settings."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from platforms import ROOT
from platforms import ROUTE

from fleet import envoy
from fleet.clusters import clusters
from fleet.entry import listener
from fleet.envoy import Prepared
from fleet.project import Project
from fleet.project import Refusal
from fleet.routes import Route
from fleet.settings import Settings
from fleet.settings import read_settings
from fleet.table import table

SETTINGS = Settings([], 200, 400, 1_048_576, 15, None, 100.0, True, False)
ORDERS = Route("routes/orders.yaml", "orders", 5000, "/orders", True, "/", 30, None, None)
CONFIG = "config/common.env"


def entries(*routes: Route) -> list[dict[str, Any]]:
    """Return the routes of the one host."""
    (host,) = table(routes, SETTINGS)["virtual_hosts"]
    return list(host["routes"])


def entry(**settings: Any) -> dict[str, Any]:
    """Return the listener with these settings."""
    model = yaml.safe_load((ROOT / "gateway/entry.yaml").read_text("utf-8"))
    return listener(model, replace(SETTINGS, **settings), "shop-gateway")


def managers(made: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the connection managers of a listener's chains of filters."""
    return [chain["filters"][0]["typed_config"] for chain in made["filter_chains"]]


def gateway_files(folder: Path) -> Project:
    """Return a platform that has the gateway's files."""
    for name in ("gateway", "config", "routes"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("rendered"))
    shutil.copy(ROOT / "compose.yaml", folder)
    return Project(folder)


def test_the_list_names_each_service_and_its_path() -> None:
    body = entries(ORDERS)[0]["direct_response"]["body"]["inline_string"]
    assert json.loads(body) == {"services": [{"name": "orders", "path": "/orders/"}]}


def test_what_is_hidden_comes_before_what_is_forwarded() -> None:
    found = entries(ORDERS)
    hidden = [place for place, one in enumerate(found) if one["match"].get("path") in ORDERS.hidden]
    forwarded = [place for place, one in enumerate(found) if "route" in one]
    assert len(hidden) == 3
    assert max(hidden) < min(forwarded)


def test_only_safe_methods_are_tried_again_once_a_replica_saw_them() -> None:
    safe, others = (one for one in entries(ORDERS) if "route" in one)
    assert safe["match"]["headers"][0]["string_match"]["safe_regex"]["regex"] == "GET|HEAD|OPTIONS"
    assert "reset," in safe["route"]["retry_policy"]["retry_on"]
    assert "headers" not in others["match"]
    unseen = "connect-failure,refused-stream,reset-before-request"
    assert others["route"]["retry_policy"]["retry_on"] == unseen


@pytest.mark.parametrize(
    ("replacement", "rewritten"), [("/", "/"), ("/v1", "/v1/"), ("/v1/orders", "/v1/orders/")]
)
def test_a_stripped_path_never_begins_with_two_slashes(replacement: str, rewritten: str) -> None:
    route = replace(ORDERS, replacement=replacement)
    found = [one for one in entries(route) if one["match"].get("prefix") == "/orders/"]
    assert [one["route"]["prefix_rewrite"] for one in found] == [rewritten, rewritten]


def test_the_longer_path_comes_first() -> None:
    longer = replace(ORDERS, path="/orders/v1/photos", replacement="/v1/photos")
    paths = [one["match"].get("prefix") for one in entries(ORDERS, longer) if "route" in one]
    assert [path for path in paths if path][:2] == ["/orders/v1/photos/"] * 2


@pytest.mark.parametrize(
    ("timeout", "rendered"), [(None, "15s"), (0.0, "0s"), (0.5, "0.5s"), (90.0, "90s")]
)
def test_a_route_without_a_time_of_its_own_has_the_gateways(
    timeout: float | None, rendered: str
) -> None:
    found = entries(replace(ORDERS, timeout=timeout, try_timeout=2.0))
    actions = [one["route"] for one in found if "route" in one]
    assert {action["timeout"] for action in actions} == {rendered}
    assert {action["retry_policy"]["per_try_timeout"] for action in actions} == {"2s"}


@pytest.mark.parametrize(("max_body", "rendered"), [(None, 1_048_576), (5_000_000, 5_000_000)])
def test_a_route_with_uploads_has_a_limit_of_its_own(max_body: int | None, rendered: int) -> None:
    found = entries(replace(ORDERS, max_body=max_body))
    configs = [one["typed_per_filter_config"] for one in found if "route" in one]
    limits = {
        config["envoy.filters.http.buffer"]["buffer"]["max_request_bytes"] for config in configs
    }
    assert limits == {rendered}


def test_a_service_is_one_cluster_whatever_its_routes() -> None:
    model = yaml.safe_load((ROOT / "gateway/cluster.yaml").read_text("utf-8"))
    other = replace(ORDERS, path="/orders/v1")
    made = clusters([ORDERS, other], model, SETTINGS)
    assert [cluster["name"] for cluster in made] == ["orders", "traces-collector"]
    (group,) = made[0]["load_assignment"]["endpoints"]
    (endpoint,) = group["lb_endpoints"]
    address = endpoint["endpoint"]["address"]["socket_address"]
    assert address == {"address": "orders", "port_value": 5000}


@pytest.mark.parametrize(
    ("line", "port", "is_secure", "uri"),
    [
        ("ENDPOINT=http://c:4318", 4318, False, "http://c:4318/v1/traces"),
        ("ENDPOINT=https://c", 443, True, "https://c/v1/traces"),
        ("ENDPOINT=http://c/base/", 80, False, "http://c/base/v1/traces"),
        ("TRACES_ENDPOINT=http://c:1/x\nENDPOINT=http://d", 1, False, "http://c:1/x"),
        ("TRACES_ENDPOINT=\nENDPOINT=http://d", 80, False, "http://d/v1/traces"),
    ],
)
def test_spans_go_to_the_collector(
    tmp_path: Path, line: str, port: int, is_secure: bool, uri: str
) -> None:
    project = gateway_files(tmp_path)
    lines = [f"OTEL_EXPORTER_OTLP_{one}\n" for one in line.splitlines()]
    (tmp_path / CONFIG).write_text("".join(lines), "utf-8")
    collector = read_settings(project).collector
    (made,) = clusters([], {}, replace(SETTINGS, collector=collector))
    assert f"'port_value': {port}" in str(made)
    assert ("transport_socket" in made) is is_secure
    (manager,) = managers(entry(collector=collector))
    target = manager["tracing"]["provider"]["typed_config"]["http_service"]["http_uri"]
    assert (target["uri"], target["cluster"]) == (uri, made["name"])


def test_only_the_chain_of_named_proxies_believes_them() -> None:
    made = entry(trusted_proxies=["10.0.0.0/8", "fd00::/8"])
    believing, others = managers(made)
    assert made["filter_chains"][0]["filter_chain_match"] == {
        "source_prefix_ranges": [
            {"address_prefix": "10.0.0.0", "prefix_len": 8},
            {"address_prefix": "fd00::", "prefix_len": 8},
        ]
    }
    assert "x-forwarded-" in str(others["early_header_mutation_extensions"])
    assert "x-forwarded-" not in str(believing["early_header_mutation_extensions"])
    assert "x-envoy-" in str(believing["early_header_mutation_extensions"])
    assert (believing["xff_num_trusted_hops"], "xff_num_trusted_hops" in others) == (1, False)


def test_a_certificate_is_for_every_chain() -> None:
    made = entry(has_certificate=True, trusted_proxies=["10.0.0.0/8"])
    assert all("transport_socket" in chain for chain in made["filter_chains"])
    assert not any("transport_socket" in chain for chain in entry()["filter_chains"])


def test_the_files_say_what_the_settings_are(tmp_path: Path) -> None:
    project = gateway_files(tmp_path)
    assert read_settings(project) == SETTINGS
    (tmp_path / "gateway/tls/tls.crt").touch()
    with pytest.raises(Refusal, match=r"^gateway/tls: a certificate is tls.crt and tls.key"):
        read_settings(project)
    (tmp_path / "gateway/tls/tls.key").touch()
    assert read_settings(project).has_certificate


SETTINGS_FILE = "gateway/settings.yaml"
BAD_SETTINGS = {
    "an unknown one": ("trusted_proxies: []", "trusted_proxies: []\nx: 1", "x: not known"),
    "a network": ("proxies: []", "proxies: [10.0.0.1/8]", "[0]: write a network such as"),
    "a name": ("proxies: []", "proxies: [proxy]", "[0]: write a network such as"),
    "a rate": ("second: 200", "second: 0", "requests_per_second: write a whole number"),
    "a burst": ("burst: 400", "burst: 100", "burst: write a whole number from 200"),
    "a time": ("request_timeout: 15", "request_timeout: 15s", "request_timeout: write a whole"),
    "a size": ("1048576", "yes", "max_request_bytes: write a whole number"),
    "one missing": ("request_timeout: 15", "", "request_timeout is missing; add it"),
}


@pytest.mark.parametrize(("old", "new", "told"), BAD_SETTINGS.values(), ids=BAD_SETTINGS)
def test_a_bad_setting_is_one_line(tmp_path: Path, old: str, new: str, told: str) -> None:
    project = gateway_files(tmp_path)
    path = tmp_path / SETTINGS_FILE
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")
    with pytest.raises(Refusal) as refused:
        read_settings(project)
    assert str(refused.value).startswith(SETTINGS_FILE)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT=collector:4318", "write an address such as"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT=http://u:p@collector", "write an address such as"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:x", "write an address such as"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=collector", "TRACES_ENDPOINT: write an address"),
        ("OTEL_TRACES_SAMPLER=traceidratio\nOTEL_TRACES_SAMPLER_ARG=2", "a number from 0 to 1"),
        ("OTEL_TRACES_SAMPLER=traceidratio\nOTEL_TRACES_SAMPLER_ARG=x", "a number from 0 to 1"),
        ("LOG LEVEL=x", "write NAME=value"),
        ("A=1\nA=2", "A is there twice; keep one"),
    ],
)
def test_a_bad_address_of_the_collector_is_one_line(tmp_path: Path, line: str, told: str) -> None:
    project = gateway_files(tmp_path)
    (tmp_path / CONFIG).write_text(f"{line}\n", "utf-8")
    with pytest.raises(Refusal) as refused:
        read_settings(project)
    assert CONFIG in str(refused.value)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("lines", "percent", "follows_caller", "has_collector"),
    [
        ("OTEL_TRACES_SAMPLER=parentbased_traceidratio ", 10, True, True),
        ("OTEL_TRACES_SAMPLER=traceidratio", 10, False, True),
        ("OTEL_TRACES_SAMPLER=parentbased_always_off", 0, True, True),
        ("OTEL_TRACES_SAMPLER=always_off", 0, False, True),
        ("OTEL_TRACES_SAMPLER=always_on", 100, False, True),
        ("OTEL_TRACES_SAMPLER=", 100, True, True),
        ("OTEL_SDK_DISABLED=True", 0, False, False),
        ("OTEL_TRACES_EXPORTER=none", 0, False, False),
        ("OTEL_TRACES_EXPORTER=otlp", 100, True, True),
    ],
)
def test_the_services_sampler_is_the_gateways(
    tmp_path: Path, lines: str, percent: float, follows_caller: bool, has_collector: bool
) -> None:
    project = gateway_files(tmp_path)
    shared = "OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318 \nOTEL_TRACES_SAMPLER_ARG=0.1\n"
    (tmp_path / CONFIG).write_text(f"{shared}{lines}\n", "utf-8")
    settings = read_settings(project)
    assert (settings.sampled_percent, settings.follows_caller) == (percent, follows_caller)
    assert (settings.collector is not None) is has_collector


def test_a_ratio_without_a_value_is_the_services_default(tmp_path: Path) -> None:
    project = gateway_files(tmp_path)
    lines = "OTEL_TRACES_SAMPLER=traceidratio\nOTEL_TRACES_SAMPLER_ARG=\n"
    (tmp_path / CONFIG).write_text(lines, "utf-8")
    assert read_settings(project).sampled_percent == 100


def test_files_are_replaced_where_they_differ_and_everyone_can_read_them(tmp_path: Path) -> None:
    (tmp_path / "gateway").mkdir()
    prepared = Prepared(Project(tmp_path), {"routes.json": "{}\n"})
    assert (prepared.write(), prepared.write()) == (True, False)
    path = tmp_path / "gateway/rendered/routes.json"
    assert (path.read_text("utf-8"), path.stat().st_mode & 0o777) == ("{}\n", 0o644)
    assert path.parent.stat().st_mode & 0o777 == 0o755
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_what_is_validated_holds_all_that_a_running_gateway_watches(tmp_path: Path) -> None:
    project = gateway_files(tmp_path)
    for name in ("tls.crt", "tls.key"):
        (tmp_path / "gateway/tls" / name).touch()
    resources = envoy._render(project, {"orders.yaml": ROUTE.format(slug="orders")})
    text = json.dumps(envoy._static(resources))
    assert "path_config_source" not in text
    for found in ('"prefix": "/orders/"', '"cluster_name": "orders"', "/etc/tls/tls.key"):
        assert found in text


def test_without_docker_one_line_says_so_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = gateway_files(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Refusal, match="docker: No such file or directory; install it"):
        envoy.prepare(project)
    assert not project.rendered.exists()
    assert list(project.gateway.glob(".validated-*")) == []
