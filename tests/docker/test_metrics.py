"""Metrics of a running service as they are scraped: while a worker dies, and whatever callers ask for."""

import http.client
import itertools
import random
import time
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.docker.containers import Container
from tests.docker.containers import Run
from tests.docker.containers import ask
from tests.docker.containers import eventually
from tests.docker.load import KeepAliveLoad

pytestmark = pytest.mark.docker

# Python for inside a container: one process that is neither the first nor this one ends as by the out-of-memory killer.
KILL_ONE = """
import os
os.kill(max(int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) not in (1, os.getpid())), 9)
"""
LIMIT = "http_server_active_requests_limit"

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(port: int) -> Samples:
    """Return the samples by name and labels."""
    families = text_string_to_metric_families(ask(port, "/metrics")[2].decode())
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def gauge(port: int, name: str) -> float:
    """Return the value of a metric without labels."""
    return scrape(port)[(name, frozenset())]


def fallen(earlier: Samples, later: Samples) -> list[str]:
    """The counters that went down, or away; of other metrics those that count by their name."""
    counts = {key: value for key, value in earlier.items() if key[0].endswith(("_total", "_count", "_sum", "_bucket"))}
    return [f"{key}: {value} to {later.get(key)}" for key, value in counts.items() if later.get(key, -1.0) < value]


@pytest.fixture
def two(run: Run) -> Container:
    """The service with two workers that both have counted."""
    container = run("--env", "WORKERS=2").wait_until_ready()
    port = container.port
    for _ in range(100):
        ask(port, "/v1/products/tea")
    return container


@pytest.fixture
def load(two: Container) -> Iterator[KeepAliveLoad]:
    """Clients that go on while it is restarted."""
    load = KeepAliveLoad(two.port, "/v1/products", clients=2)
    yield load
    load.stop()


def scrapes(port: int, seconds: float) -> list[Samples]:
    """Scrape in a row, new connections all; those that meet no worker give nothing."""
    until, seen = time.monotonic() + seconds, []
    while time.monotonic() < until:
        try:
            seen.append(scrape(port))
        except OSError:
            time.sleep(0.05)
    return seen


@pytest.mark.usefixtures("load")
def test_counters_never_go_down_when_a_worker_is_killed_under_load(two: Container) -> None:
    port = two.port
    eventually(lambda: gauge(port, "process_open_fds") > 0, "the load's thread has told of the process")
    seen = scrapes(port, 2)
    two.python(KILL_ONE)
    seen += scrapes(port, 8)
    assert len(seen) > 20
    assert [fallen(*pair) for pair in itertools.pairwise(seen) if fallen(*pair)] == []


@pytest.mark.usefixtures("load")
def test_gauges_drop_the_dead_worker_and_take_in_the_next(two: Container) -> None:
    port = two.port
    both, began = gauge(port, LIMIT), gauge(port, "process_start_time_seconds")
    series = set(scrape(port))
    two.python(KILL_ONE)
    eventually(lambda: any(one[(LIMIT, frozenset())] == both / 2 for one in scrapes(port, 0.1)), "one worker")
    eventually(lambda: any(one[(LIMIT, frozenset())] == both for one in scrapes(port, 0.1)), "two workers again")
    eventually(lambda: gauge(port, "process_start_time_seconds") > began, "the restart can be told")
    assert series - set(scrape(port)) == set()
    assert max(one[(LIMIT, frozenset())] for one in scrapes(port, 2)) == both


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_thousand_random_urls_add_no_series(run: Run, workers: str) -> None:
    port = run("--env", f"WORKERS={workers}").wait_until_ready().port
    known = ("/none", "/v1/products/none")
    for path, method in itertools.product(known, ("GET", "X-METHOD")):
        ask(port, path, method)
    before, draw = set(scrape(port)), random.Random(5)
    for _ in range(20):  # connections, so that every worker has some
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        for _ in range(50):
            path = draw.choice(known) + "".join(draw.choices("abcdefghijkl.%-~0123456789", k=draw.randint(1, 60)))
            connection.request(draw.choice(["GET", f"X{draw.randrange(10**6)}"]), path)
            reply = connection.getresponse()
            assert (reply.status, bool(reply.read())) in ((404, True), (405, True))
        connection.close()
    assert set(scrape(port)) - before == set()
