"""A real Prometheus scrapes the service and evaluates its rules; a real Alertmanager is told."""

import re
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from typing import NamedTuple

import pytest
import yaml

from tests.docker.collector import Collector
from tests.docker.containers import Container
from tests.docker.containers import ask
from tests.docker.containers import docker
from tests.docker.containers import eventually
from tests.docker.containers import replaced
from tests.docker.load import KeepAliveLoad
from tests.docker.monitoring import Alertmanager
from tests.docker.monitoring import Prometheus
from tests.docker.monitoring import promtool

pytestmark = pytest.mark.docker

TRACE = "0af7651916cd43dd8448eb211c80319c"
DURATION = "http_server_request_duration_seconds"
SAMPLED = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
FAILING = """

def make_app(settings=None, create_app=create_app):
    app = create_app(settings)
    app.add_url_rule("/fail", view_func=lambda: 1 // 0)
    return app


create_app = make_app
"""


class Watched(NamedTuple):
    """A service under load, some of whose requests fail, and those who watch it."""

    port: int
    prometheus: Prometheus
    alertmanager: Alertmanager


@pytest.fixture(scope="module")
def watched(
    service: Path, image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watched]:
    """All of it."""
    folder = tmp_path_factory.mktemp("watched")
    network = f"watched-{uuid.uuid4().hex[:12]}"
    with ExitStack() as stack:
        docker("network", "create", network)
        stack.callback(docker, "network", "rm", network)
        places = ("--network", network, "--network-alias=service", "--publish=127.0.0.1::5000")
        collector = Collector()
        stack.callback(collector.close)
        options = (*replaced(folder, service, FAILING), *collector.options)
        container = Container(image, *places, *options)
        stack.callback(container.remove)
        alertmanager = Alertmanager(network, folder)
        stack.callback(alertmanager.remove)
        prometheus = Prometheus(network, service, folder)
        stack.callback(prometheus.remove)
        port = container.wait_until_ready().port
        for path in ("/v1/products/tea", "/fail"):
            stack.callback(KeepAliveLoad(port, path, clients=1, headers=SAMPLED).stop)
        yield Watched(port, prometheus, alertmanager)


def counted(port: int, media_type: str) -> str:
    """Return the metrics once a request has been counted."""

    def given() -> str:
        return ask(port, "/metrics", headers={"Accept": media_type})[2].decode()

    eventually(lambda: f"{DURATION}_bucket" in given(), "a request is counted")
    return given()


def rules(service: Path, kind: str) -> list[dict[str, Any]]:
    """The service's rules of one kind: `record` or `alert`."""
    groups = yaml.safe_load((service / "rules.yaml").read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def compared(expression: str) -> list[str]:
    """What an alert compares with a number, or misses."""
    comparison = r"^absent\((.*) == 1\)$| > [\d.]+$"
    return [re.sub(comparison, r"\1", part) for part in expression.split(" and ")]


def test_what_an_alert_compares_is_found_in_its_expression() -> None:
    assert compared("absent(up{job='x'} == 1)") == ["up{job='x'}"]
    assert compared("a{b='c'} > 0.06 and max(d[5m]) > 2") == ["a{b='c'}", "max(d[5m])"]


def test_prometheus_finds_every_rule_in_good_health(watched: Watched, service: Path) -> None:
    names = {rule[kind] for kind in ("record", "alert") for rule in rules(service, kind)}

    def healthy() -> set[str]:
        return {rule["name"] for rule in watched.prometheus.rules() if rule["health"] == "ok"}

    eventually(lambda: healthy() == names, "all rules evaluated")
    assert [rule["lastError"] for rule in watched.prometheus.rules() if rule.get("lastError")] == []


def test_every_recorded_series_has_data(watched: Watched, service: Path) -> None:
    names = [rule["record"] for rule in rules(service, "record")]
    query = watched.prometheus.query
    eventually(lambda: all(query(name) for name in names), "data of every recording rule")


def test_whatever_an_alert_compares_has_data(watched: Watched, service: Path) -> None:
    parts = [part for rule in rules(service, "alert") for part in compared(rule["expr"])]
    query = watched.prometheus.query
    eventually(lambda: all(query(part) for part in parts), "data for every alert")


def test_the_share_of_failures_is_what_the_requests_were(watched: Watched) -> None:
    eventually(lambda: bool(watched.prometheus.query("service:http_failed:ratio_5m")), "recorded")
    share = float(watched.prometheus.query("service:http_failed:ratio_5m")[0]["value"][1])
    assert 0.1 < share < 0.9


def test_an_instance_that_is_up_can_be_joined_with_its_release(watched: Watched) -> None:
    joined = "up * on (job, instance) group_left (service_name, service_version) target_info"
    query = watched.prometheus.query
    # A scrape that took too long makes it 0 for a moment.
    eventually(lambda: [one["value"][1] for one in query(joined)] == ["1"], "it is up")
    (series,) = query(joined)
    assert series["metric"]["service_name"] == series["metric"]["job"] == "flask-microservice"
    assert series["metric"]["service_version"] == "0.1.0"


def test_alertmanager_gets_the_page_for_real_failures_and_no_other_cause(
    watched: Watched, service: Path
) -> None:
    eventually(lambda: "AvailabilityBurn1h" in watched.alertmanager.alerts(), "an alert")
    alerts = watched.alertmanager.alerts()
    page = alerts["AvailabilityBurn1h"]
    assert page["labels"]["severity"] == "page"
    assert page["labels"]["service"] == service.name
    assert page["annotations"]["runbook_url"] == "RUNBOOK.md#availability"
    assert "\n## Availability\n" in (service / "RUNBOOK.md").read_text("utf-8")
    assert re.match(r"[\d.]+% of requests failed within 1h", page["annotations"]["summary"])
    assert not {"Down", "Saturation", "Restarts"} & alerts.keys()


def test_prometheus_stores_the_callers_trace_as_an_exemplar(watched: Watched) -> None:
    name = f"{DURATION}_bucket"
    eventually(lambda: bool(watched.prometheus.query(name)), "scraped")
    always = {"start": "0", "end": "4102444800"}
    found = watched.prometheus.get("/api/v1/query_exemplars", query=name, **always)["data"]
    exemplars = [exemplar for series in found for exemplar in series["exemplars"]]
    assert {exemplar["labels"]["trace_id"] for exemplar in exemplars} == {TRACE}


def test_promtool_finds_nothing_in_the_metrics(watched: Watched) -> None:
    metrics = counted(watched.port, "text/plain; version=0.0.4")
    assert promtool("check", "metrics", stdin=metrics) == (0, "")


def test_openmetrics_bears_exemplars_and_the_text_format_none(watched: Watched) -> None:
    assert TRACE not in counted(watched.port, "text/plain; version=0.0.4")
    given = counted(watched.port, "application/openmetrics-text; version=1.0.0")
    assert (TRACE in given, given.endswith("# EOF\n")) == (True, True)
