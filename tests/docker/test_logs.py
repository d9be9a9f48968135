"""The log of a running service: whole lines without secrets, whatever callers send; stacks too."""

import http.client
import random
import socket
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.docker.containers import Container
from tests.docker.containers import Run
from tests.docker.containers import ask
from tests.docker.containers import docker
from tests.docker.containers import eventually
from tests.docker.containers import replaced
from tests.docker.containers import status

pytestmark = pytest.mark.docker

SECRET = 'authorization=q"uo\\te'
WITH_SECRET = ("--env", f"OTEL_EXPORTER_OTLP_HEADERS={SECRET}")
# Routes that log and raise with what a caller sent and with a secret, and one that takes its time.
ADDED = """

def make_app(settings=None, create_app=create_app):
    import logging
    import threading

    from flask import request

    released = threading.Event()
    settings = settings or Settings.load()
    secret = settings.otel_exporter_otlp_headers
    text = secret.get_secret_value() if secret else ""
    app = create_app(settings)

    @app.get("/say")
    def say():
        given = request.headers.get("User-Agent", "") + text
        extra = {"given": given, given: text, "all": settings}
        logging.getLogger("service.said").warning("%s", given, extra=extra)
        raise RuntimeError(given)

    @app.get("/slow")
    def slow():
        released.wait(120)
        return "slept"

    @app.get("/release")
    def release():
        released.set()
        return "released"

    return app


create_app = make_app
"""
SLOW_START = """

def make_app(settings=None, create_app=create_app):
    import time

    print("loading", flush=True)
    time.sleep(3)
    return create_app(settings)


create_app = make_app
"""
# The service and its children: no health check, which Docker starts from outside.
PIDS = """
import glob
stats = [open(name).read().rpartition(")") for name in glob.glob("/proc/[0-9]*/stat")]
ids = [(head.split()[0], tail.split()[1]) for head, _, tail in stats]
print(sorted(pid for pid, parent in ids if "1" in (pid, parent)))
"""

# What the server's parser lets through in a header, and rarely what it does not.
VISIBLE = bytes([9, *range(32, 127), *range(128, 256)])
ANY = bytes(range(256))
PIECES = (
    b"%0a",
    b"%0d%0a",
    b"%00",
    b"%1b%5b31m",
    b"%ff%fe",
    b"%c3%28",
    b"%ed%a0%80",
    b"%e2%80%a8",
    b"%22%7d%2c",
    b"%5c",
    b"%01",
)
METHODS = (b"GET", b"GET", b"GET", b"POST", b"HEAD", b"G!T", b"M" * 60)
NAMES = (b"User-Agent", b"X-Request-ID", b"traceparent", b"Accept", b"Content-Type", b"X-Any")


def hostile(draw: random.Random) -> bytes:
    """One request with control characters, invalid UTF-8 and quotes in its path and headers."""

    def some(alphabet: bytes, most: int) -> bytes:
        return bytes(draw.choices(alphabet, k=draw.randint(0, most)))

    path = b"".join(draw.choices((*PIECES, "é\u2028".encode(), b"a"), k=draw.randint(0, 20)))
    path *= 40 if draw.random() < 0.1 else 1
    path = draw.choice([b"/", b"/say?", b"/v1/products/", b"/v1/products?"]) + path
    values = [some(ANY if draw.random() < 0.01 else VISIBLE, 80) for _ in NAMES]
    headers = b"".join(b"%b: %b\r\n" % pair for pair in zip(NAMES, values, strict=True))
    return b"%b %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % (draw.choice(METHODS), path, headers)


def send(port: int, requests: Iterable[bytes]) -> list[str]:
    """Send them in turn; return the request ids of those that reached the application."""
    reached = []
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    for raw in requests:
        connection.sendall(raw)
        reply = http.client.HTTPResponse(connection, method=raw.partition(b" ")[0].decode())
        reply.begin()
        reply.read()
        if request_id := reply.getheader("X-Request-ID"):
            reached.append(request_id)
        if reply.will_close:
            connection.close()
            connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.close()
    return reached


def send_all(port: int, batches: list[list[bytes]]) -> list[str]:
    """Send each batch on a connection of its own, all at once; return all request ids."""
    with ThreadPoolExecutor(len(batches)) as pool:
        return list(chain.from_iterable(pool.map(partial(send, port), batches)))


def accessed(lines: Iterable[dict[str, Any]]) -> list[str]:
    """The request ids of all access lines, in an order of their own."""
    return sorted(line["request_id"] for line in lines if line["logger"] == "service.access")


def texts(lines: Iterable[dict[str, Any]]) -> list[str]:
    """All names and values of all lines, as they were before they became JSON."""
    return [str(text) for line in lines for pair in line.items() for text in pair]


@pytest.fixture
def added(service: Path, tmp_path: Path) -> tuple[str, str]:
    """The option that gives the service the routes above."""
    return replaced(tmp_path, service, ADDED)


def test_ten_thousand_hostile_requests_make_whole_lines_of_json_without_the_secret(
    run: Run, added: tuple[str, str]
) -> None:
    container = run(*added, *WITH_SECRET).wait_until_ready()
    draw = random.Random(5)
    batches = [[hostile(draw) for _ in range(2500)] for _ in range(4)]
    reached = send_all(container.port, batches)
    assert len(reached) > 8000
    eventually(lambda: accessed(container.lines()) == sorted(reached), "all lines")
    lines = container.lines()
    assert [text for text in texts(lines) if SECRET in text] == []
    said = [line["given"] for line in lines if line["logger"] == "service.said"]
    assert len([given for given in said if given.endswith("***")]) > 500


@pytest.mark.parametrize(
    "path", [f"/{quote(SECRET)}", f"/say?{quote(SECRET)}"], ids=["path", "query"]
)
def test_a_secret_is_not_logged_even_where_a_caller_sends_it(
    run: Run, added: tuple[str, str], path: str
) -> None:
    container = run(*added, *WITH_SECRET).wait_until_ready()
    ask(container.port, path, headers={"X-Request-ID": "sent"})
    eventually(lambda: accessed(container.lines()) == ["sent"], "a line")
    assert [text for text in texts(container.lines()) if SECRET in text] == []


def test_a_header_for_the_collector_that_cannot_be_sent_ends_the_start_and_is_not_told(
    run: Run,
) -> None:
    container = run("--env", "OTEL_EXPORTER_OTLP_HEADERS=authorization=Bearer%20tell%0Anobody")
    assert container.exit_code() == 2
    assert "OTEL_EXPORTER_OTLP_HEADERS" in container.logs()
    assert "nobody" not in container.logs()


def test_no_line_is_torn_by_those_of_other_threads(run: Run, added: tuple[str, str]) -> None:
    container = run(*added).wait_until_ready()
    long = b"GET /%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % (b"%01" * 1020)
    failing = b"GET /say HTTP/1.1\r\nHost: localhost\r\nUser-Agent: %b\r\n\r\n" % (b"\xe9" * 3000)
    reached = send_all(container.port, [[long, failing] * 100 for _ in range(9)])
    eventually(lambda: accessed(container.lines()) == sorted(reached), "all lines")
    assert len(reached) == 1800


def shown(container: Container, stacks: int) -> bool:
    """Whether the log has the stacks so many times."""
    return container.logs().count("Current thread") == stacks


def test_sigquit_shows_the_stacks_of_the_worker_and_changes_nothing(
    run: Run, added: tuple[str, str]
) -> None:
    container = run(*added).wait_until_ready()
    port = container.port
    pids = container.python(PIDS)
    started = container.state["StartedAt"]
    answers: list[tuple[int, bytes]] = []

    def slow() -> None:
        answers.append(ask(port, "/slow", timeout=120)[::2])

    in_flight = threading.Thread(target=slow)
    in_flight.start()
    eventually(lambda: b"http_server_active_requests 1.0" in ask(port, "/metrics")[2], "in flight")
    for dumps in (1, 2):
        docker("kill", "--signal", "QUIT", container.id)
        eventually(partial(shown, container, dumps), "stacks")
    assert container.logs().count(" in slow\n") == 2
    ask(port, "/release")
    in_flight.join(120)
    assert answers == [(200, b"slept")]
    assert (container.python(PIDS), container.state["StartedAt"]) == (pids, started)
    assert status(port, "/readyz") == 200


def test_sigquit_during_the_start_does_not_end_it(run: Run, service: Path, tmp_path: Path) -> None:
    container = run(*replaced(tmp_path, service, SLOW_START))
    eventually(lambda: "loading" in container.logs(), "loading")
    docker("kill", "--signal", "QUIT", container.id)
    container.wait_until_ready()
