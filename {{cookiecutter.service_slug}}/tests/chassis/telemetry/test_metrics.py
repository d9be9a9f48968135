"""The metrics of an application as they are scraped."""

import re
from collections.abc import Iterator

import pytest
from flask.testing import FlaskClient
from lab import create_app
from prometheus_client import REGISTRY, Counter
from support import SAMPLED
from support import TRACE
from support import samples

from service.chassis.http.application import Application
from service.chassis.project import PROJECT
from service.settings import Settings

COUNT = "http_server_request_duration_seconds_count"
SATURATION = (
    "http_server_active_requests",
    "http_server_active_requests_limit",
    "http_server_waiting_requests",
    "http_server_saturation_ratio",
)
OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}


def saturation(client: FlaskClient) -> list[float]:
    """Return the values of the four gauges, of which each has no labels."""
    return [samples(client, name)[()] for name in SATURATION]


def test_the_duration_is_counted_by_method_route_and_status(client: FlaskClient) -> None:
    client.get("/lab/things/tea")
    client.get("/lab/things/coffee")
    client.get("/lab/things/none")
    assert samples(client, COUNT) == {
        ("GET", "200", "/lab/things/<name>"): 2,
        ("GET", "404", "/lab/things/<name>"): 1,
    }


def test_random_urls_and_methods_add_no_series(client: FlaskClient) -> None:
    client.get("/v1/random")
    client.open("/v1/random", method="PROPFIND")
    before = len(samples(client, COUNT))
    for number in range(100):
        client.get(f"/v1/random/{number}")
        client.open("/v1/random", method=f"X{number}")
    assert len(samples(client, COUNT)) == before


def test_saturation_is_one_gauge_and_its_three_parts(app: Application, settings: Settings) -> None:
    seen: list[float] = []

    @app.get("/look")
    def look() -> str:
        seen.extend(saturation(app.test_client()))
        return ""

    app.test_client().get("/look")
    assert seen == [1, settings.concurrency, 0, 0.25]
    assert saturation(app.test_client()) == [0, settings.concurrency, 0, 0]


def test_each_application_shows_its_own_saturation_and_requests() -> None:
    apps = [create_app(Settings(concurrency=limit)) for limit in (2, 4)]
    seen: list[list[float]] = []

    def look() -> str:
        seen.extend(saturation(app.test_client()) for app in apps)
        return ""

    for app in apps:
        app.add_url_rule("/look", view_func=look)
        app.test_client().get("/look")
    assert seen == [[1, 2, 0, 0.5], [0, 4, 0, 0], [0, 2, 0, 0], [1, 4, 0, 0.25]]
    apps[1].test_client().get("/look")
    counts = [samples(app.test_client(), COUNT) for app in apps]
    assert counts == [{("GET", "200", "/look"): 1}, {("GET", "200", "/look"): 2}]


def test_the_service_and_its_release_are_a_metric(client: FlaskClient) -> None:
    assert samples(client, "target_info") == {(PROJECT.name, PROJECT.version): 1}


@pytest.fixture
def counter() -> Iterator[Counter]:
    """A metric that was made without a registry, as the service's own are."""
    counter = Counter("orders_paid", "Orders that were paid.")
    yield counter
    REGISTRY.unregister(counter)


def test_every_application_shows_the_metrics_of_the_process(
    client: FlaskClient, counter: Counter
) -> None:
    counter.inc(3)
    for each in (client, create_app().test_client()):
        assert samples(each, "orders_paid_total") == {(): 3}
        assert sum(samples(each, "python_gc_collections_total").values()) > 0


def test_openmetrics_is_given_where_it_is_asked_for(client: FlaskClient) -> None:
    answer = client.get("/metrics", headers=OPENMETRICS)
    assert answer.mimetype == "application/openmetrics-text"
    assert answer.text.endswith("# EOF\n")


def test_the_histogram_names_a_trace_as_its_example(traced: Application) -> None:
    client = traced.test_client()
    client.get("/lab/things/tea", headers=SAMPLED)
    text = client.get("/metrics", headers=OPENMETRICS).text
    assert re.search(rf'# {{span_id="[0-9a-f]{{16}}",trace_id="{TRACE}"}}', text)
    assert TRACE not in client.get("/metrics").text
