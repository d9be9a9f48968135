"""Metrics of a running service as they are scraped, whatever callers ask for."""

import http.client
import itertools
import random

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.docker.containers import Run
from tests.docker.containers import ask

pytestmark = pytest.mark.docker

CHARACTERS = "abcdefghijkl.%-~0123456789"


def series(port: int) -> set[tuple[str, frozenset[tuple[str, str]]]]:
    """Return the name and labels of everything that is scraped."""
    families = text_string_to_metric_families(ask(port, "/metrics")[2].decode())
    samples = [sample for family in families for sample in family.samples]
    return {(sample.name, frozenset(sample.labels.items())) for sample in samples}


def test_a_thousand_random_urls_add_no_series(run: Run) -> None:
    port = run().wait_until_ready().port
    known = ("/none", "/v1/products/none")
    for path, method in itertools.product(known, ("GET", "X-METHOD")):
        ask(port, path, method)
    before = series(port)
    draw = random.Random(5)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    for _ in range(1000):
        path = draw.choice(known) + "".join(draw.choices(CHARACTERS, k=draw.randint(1, 60)))
        connection.request(draw.choice(["GET", f"X{draw.randrange(10**6)}"]), path)
        reply = connection.getresponse()
        assert (reply.status, bool(reply.read())) in ((404, True), (405, True))
    connection.close()
    assert series(port) - before == set()
