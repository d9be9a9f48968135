"""Hostile and clumsy clients at the platform's gateway: nothing gets around its rules."""

import contextlib
import json
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.containers import Bake
from tests.docker.containers import ask
from tests.docker.containers import eventually
from tests.docker.containers import fetch
from tests.docker.containers import status
from tests.docker.load import Client
from tests.docker.load import Load
from tests.docker.system import Shop
from tests.docker.system import system

pytestmark = pytest.mark.docker

PROBLEM = "application/problem+json"
HIDDEN = ("livez", "readyz", "metrics")
# Where `{}` is a service's name and `[]` what is hidden.
TRICKS = [
    "/{}/[]",
    "/{}/[]/",
    "/{}/[]?x=1",
    "/{}//[]",
    "//{}/[]",
    "/{}/./[]",
    "/{}/x/../[]",
    "/{}/x/%2e%2e/[]",
    "/{}/%2e/[]",
    "/{}/%2f[]",
    "/{}%2f[]",
    "/{}/%5c[]",
    "/{}/\\[]",
    "/{}/x/..%2f[]",
    "/{}/x/..%5c[]",
    "/{}/[];x=1",
    "/{};x=1/[]",
    "/{}/..;/{}/[]",
    "/x/../{}/[]",
    "/{}/[]%00",
    "/{}/[]%20",
    "/{}/[]%23",
    "/{}/[]#x",
    "/{}/%252e%252e/[]",
    "/{}/%c0%ae%c0%ae/[]",
    "http://elsewhere.example/{}/[]",
    "/[]",
    "/../[]",
]
REQUEST = b"Host: localhost\r\nConnection: close\r\n"


class Answer:
    """What came back over a socket: the first answer, and how many there are."""

    def __init__(self, data: bytes) -> None:
        """Take it apart, as far as there is one."""
        head, self.has_ended, self.body = data.partition(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")
        self.status = int(line.split()[1]) if line else None
        pairs = (field.partition(": ") for field in fields)
        self.headers = {name.lower(): value for name, _, value in pairs}
        self.count = len(re.findall(rb"HTTP/1\.1 \d\d\d ", data))

    def is_whole(self) -> bool:
        """Tell whether head and body are there."""
        length = int(self.headers.get("content-length", "1000000"))
        return bool(self.has_ended) and len(self.body) >= length

    def is_problem(self) -> bool:
        """Tell whether it is a problem that says its own status."""
        if self.headers.get("content-type") != PROBLEM:
            return False
        return bool(json.loads(self.body)["status"] == self.status)


def sent(port: int, data: bytes, until_closed: bool = False) -> Answer:
    """Send bytes and return the first answer, or all that comes until the gateway closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(data)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while block := connection.recv(65536):
                received += block
                if not until_closed and Answer(received).is_whole():
                    break
    return Answer(received)


def get(path: str, headers: bytes = b"") -> bytes:
    return b"GET " + path.encode("latin-1") + b" HTTP/1.1\r\n" + REQUEST + headers + b"\r\n"


@pytest.mark.parametrize("trick", TRICKS)
@pytest.mark.parametrize("name", HIDDEN)
def test_no_path_leads_to_what_is_for_the_network_alone(shop: Shop, name: str, trick: str) -> None:
    encoded = "".join(f"%{ord(letter):02x}" for letter in name)
    for word in (name, encoded, f"%{ord(name[0]):02X}{name[1:]}", name.upper()):
        path = trick.replace("{}", shop.service).replace("[]", word)
        answer = sent(shop.port, get(path))
        assert answer.status in (400, 404), path
        assert answer.is_problem(), path


def test_a_path_out_of_a_service_and_into_it_is_one_path(shop: Shop) -> None:
    for path in ("/x/../{}/v1/products/tea", "/{}//v1/products/tea", "/{}/v1/./products/tea"):
        assert fetch(shop.port, path.replace("{}", shop.service))[0] == 200


CHUNKED = b"Transfer-Encoding: chunked\r\n"
INNER = b"GET /livez HTTP/1.1\r\n" + REQUEST + b"\r\n"
# Each is a head and a body of which one reader would take a part for a second request.
SMUGGLED = {
    "a length and chunks": (b"Content-Length: 6\r\n" + CHUNKED, b"0\r\n\r\n" + INNER),
    "chunks and a length": (CHUNKED + b"Content-Length: 60\r\n", b"0\r\n\r\n" + INNER),
    "two lengths": (b"Content-Length: 0\r\nContent-Length: 44\r\n", INNER),
    "two lengths in one": (b"Content-Length: 0, 44\r\n", INNER),
    "a signed length": (b"Content-Length: +0\r\n", INNER),
    "a length in hexadecimal": (b"Content-Length: 0x0\r\n", INNER),
    "a length with a space": (b"Content-Length : 0\r\n", INNER),
    "an unknown coding": (b"Transfer-Encoding: xchunked\r\nContent-Length: 0\r\n", INNER),
    "two codings": (b"Transfer-Encoding: chunked, identity\r\n", b"0\r\n\r\n" + INNER),
    "a coding after a tab": (b"Transfer-Encoding:\tchunked\r\nContent-Length: 4\r\n", INNER),
    "a coding with underscore": (b"Transfer_Encoding: chunked\r\n", b"0\r\n\r\n" + INNER),
    "a bare CR in a name": (b"X\rTransfer-Encoding: chunked\r\n", b"0\r\n\r\n" + INNER),
    "a chunk's bad size": (CHUNKED, b"0x0\r\n\r\n" + INNER),
}
# What the gateway reads in one way, and hands on in its own words.
LENIENT = {
    "a coding in two lines": (b"Transfer-Encoding:\r\n chunked\r\n", b"0\r\n\r\n" + INNER),
    "a chunk's bad end": (CHUNKED, b"1\r\nZQ\r\n0\r\n\r\n" + INNER),
}


def posted(shop: Shop, head: bytes, body: bytes) -> Answer:
    line = f"POST {shop.path('/v1/echo')} HTTP/1.1\r\nHost: localhost\r\n".encode()
    return sent(shop.port, line + head + b"\r\n" + body, until_closed=True)


@pytest.mark.parametrize(("head", "body"), SMUGGLED.values(), ids=SMUGGLED)
def test_a_request_of_two_readings_is_refused_and_has_one_answer(
    shop: Shop, head: bytes, body: bytes
) -> None:
    answer = posted(shop, head, body)
    assert answer.status in (400, 501)
    assert (answer.count, answer.is_problem()) == (1, True)


@pytest.mark.parametrize(("head", "body"), LENIENT.values(), ids=LENIENT)
def test_a_request_after_another_is_under_the_gateways_rules(
    shop: Shop, head: bytes, body: bytes
) -> None:
    answer = posted(shop, head, body)
    assert answer.count == 2
    assert b" 404 Not Found" in answer.body
    assert b'"live"' not in answer.body


# What the parser itself refuses.
MALFORMED = {
    "no HTTP": (b"HELLO\r\n\r\n", 400),
    "TLS": (bytes.fromhex("1603010200010001fc0303") + bytes(64), 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "a bad version": (b"GET / HTTP/9.9\r\nHost: a\r\n\r\n", 426),
    "a name with a space": (get("/", b"Bad Name: x\r\n"), 400),
    "a NUL": (get("/", b"X: a\0b\r\n"), 400),
    "an underscore": (get("/", b"X_Forwarded_For: 1.2.3.4\r\n"), 400),
    "a large header": (get("/", b"X: " + b"a" * 20_000 + b"\r\n"), 431),
    "many headers": (get("/", b"".join(b"X-%d: a\r\n" % i for i in range(120))), 431),
    "a long path": (get("/" + "a" * 20_000), 431),
}


@pytest.mark.parametrize(("data", "status"), MALFORMED.values(), ids=MALFORMED)
def test_what_the_parser_refuses_is_a_problem_too(shop: Shop, data: bytes, status: int) -> None:
    answer = sent(shop.port, data)
    assert (answer.status, answer.is_problem()) == (status, True)


def test_headers_that_the_gateway_passes_on_fit_into_a_service(shop: Shop) -> None:
    many = b"".join(b"X-%d: a\r\n" % number for number in range(70))
    large = b"X: " + b"a" * 11_000 + b"\r\n"
    for headers in (many, large):
        assert sent(shop.port, get(shop.path("/v1/echo"), headers)).status == 200


SPOOFED = {
    "X-Forwarded-For": "6.6.6.6",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Prefix": "/evil",
    "X-Forwarded-Port": "666",
    "X-Forwarded-Anything": "evil",
    "Forwarded": "for=6.6.6.6",
    "X-Real-Ip": "6.6.6.6",
    "X-Envoy-External-Address": "6.6.6.6",
    "X-Envoy-Internal": "true",
    "X-Envoy-Original-Path": "/evil",
    "X-Envoy-Upstream-Rq-Timeout-Ms": "666666",
    "X-Envoy-Expected-Rq-Timeout-Ms": "666666",
    "X-Envoy-Retry-On": "5xx",
}


def test_what_a_client_says_of_itself_does_not_reach_a_service(shop: Shop) -> None:
    headers = {"Host": "shop.example", **SPOOFED}
    echoed = json.loads(ask(shop.port, shop.path("/v1/echo"), headers=headers)[2])["headers"]
    said = {name: value for name, value in echoed.items() if SPOOFED.get(name) == value}
    assert said == {}
    assert re.fullmatch(r"172\.\d+\.\d+\.\d+|192\.168\.\d+\.\d+", echoed["X-Forwarded-For"])
    assert (echoed["X-Forwarded-Proto"], echoed["X-Forwarded-Host"]) == ("http", "shop.example")
    assert echoed["X-Forwarded-Prefix"] == shop.path("")
    assert echoed["X-Envoy-Expected-Rq-Timeout-Ms"] == "30000"  # of its route


def test_a_named_proxy_says_who_its_client_is(shop: Shop) -> None:
    named = "trusted_proxies: [172.16.0.0/12, 192.168.0.0/16]"
    given = {"X-Forwarded-For": "6.6.6.6, 7.7.7.7", "X-Forwarded-Proto": "https"}
    given |= {"X-Forwarded-Host": "shop.example", "X-Envoy-Upstream-Rq-Timeout-Ms": "666666"}

    def echoed() -> dict[str, str]:
        answer = ask(shop.port, shop.path("/v1/echo"), headers=given)
        return dict(json.loads(answer[2])["headers"])

    change = shop.platform.changed(
        "gateway/settings.yaml", lambda text: text.replace("trusted_proxies: []", named)
    )
    with change:
        eventually(lambda: echoed()["X-Forwarded-Proto"] == "https", "the proxy is believed")
        headers = echoed()
        assert headers["X-Forwarded-For"].startswith("6.6.6.6, 7.7.7.7,")
        assert headers["X-Forwarded-Host"] == "shop.example"
        assert headers["X-Envoy-External-Address"] == "7.7.7.7"  # what the proxy itself saw
        assert headers["X-Envoy-Expected-Rq-Timeout-Ms"] == "30000"
    eventually(lambda: echoed()["X-Forwarded-Proto"] == "http", "it no longer is")


def test_a_consumer_beyond_its_rate_gets_429_and_when_to_return(shop: Shop) -> None:
    def low(text: str) -> str:
        return re.sub(r"second: \d+\n  burst: \d+", "second: 5\n  burst: 10", text)

    with shop.platform.changed("gateway/settings.yaml", low):

        def limit() -> str | None:
            return ask(shop.port, shop.path("/v1/echo"))[1]["X-RateLimit-Limit"]

        eventually(lambda: limit() == "10", "the rate is taken")
        client = Client(shop.port)
        answers = [client("GET", shop.path("/v1/products/tea")) for _ in range(40)]
        client.close()
    counted = Counter(answer.status for answer in answers)
    assert counted.keys() == {200, 429}
    refused = [answer for answer in answers if answer.status == 429]
    assert all(answer.is_problem() for answer in refused)
    assert {answer.headers["Retry-After"] for answer in refused} == {"1"}
    eventually(lambda: limit() != "10", "the rate is taken back")


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_over_the_limit_gets_413(shop: Shop, is_chunked: bool) -> None:
    size = 1_048_577
    line = f"POST {shop.path('/v1/echo')} HTTP/1.1\r\n".encode() + REQUEST
    if is_chunked:
        data = line + CHUNKED + b"\r\n%x\r\n" % size + bytes(size) + b"\r\n0\r\n\r\n"
    else:
        data = line + b"Content-Length: %d\r\n\r\n" % size + bytes(size)
    answer = sent(shop.port, data)
    assert (answer.status, answer.is_problem()) == (413, True)


def test_an_answer_that_takes_too_long_is_504_and_one_that_nobody_gives_503(shop: Shop) -> None:
    route = f"routes/{shop.service}.yaml"
    with shop.platform.changed(route, lambda text: text.replace("request: 30s", "request: 500ms")):

        def answered() -> int:
            return ask(shop.port, shop.path("/v1/slow?seconds=2"), "POST")[0]

        eventually(lambda: answered() == 504, "the time is taken")
        answer = sent(shop.port, get(shop.path("/v1/slow?seconds=2")))
        assert (answer.status, answer.is_problem()) == (504, True)
    shop.platform.compose("stop", "--timeout", "0", shop.service)
    try:
        answer = sent(shop.port, get(shop.path("/v1/echo")))
        assert (answer.status, answer.is_problem()) == (503, True)
        assert b"172." not in answer.body
    finally:
        shop.platform.up("--scale", f"{shop.service}=2")
        shop.platform.reaches(shop.path("/v1/products/tea"))


@contextlib.contextmanager
def stalled(port: int, data: bytes, count: int) -> Iterator[list[socket.socket]]:
    """Hold so many connections that sent a part of a request."""
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(count):
            connection = socket.create_connection(("127.0.0.1", port), timeout=60)
            stack.callback(connection.close)
            connection.sendall(data)
            opened.append(connection)
        yield opened


@pytest.mark.parametrize("part", ["head", "body"])
def test_requests_go_on_beside_400_slow_clients(shop: Shop, part: str) -> None:
    head = f"POST {shop.path('/v1/echo')} HTTP/1.1\r\nHost: localhost\r\n".encode()
    length = b"Content-Length: 1000\r\n\r\n{" if part == "body" else b""
    asks = [lambda client: client("GET", shop.path("/v1/products/tea"))] * 4
    with stalled(shop.port, head + length, 400) as connections:
        with Load(shop.port, *asks, pause=0.05) as load:  # below the rate of a consumer
            eventually(lambda: len(load.answers) > 200, "200 requests")
        assert load.failures == []
        assert {answer.status for answer in load.answers} == {200}
        if part == "head":  # after 10 s
            answer = Answer(connections[0].recv(65536))
            assert (answer.status, answer.is_problem()) == (408, True)


def test_a_reader_that_stops_reading_keeps_no_other_waiting(shop: Shop) -> None:
    bundle = get(shop.path("/docs/swagger-ui-bundle.js")).replace(b"close", b"keep-alive")
    with stalled(shop.port, bundle * 4, 40):
        started = time.monotonic()
        assert fetch(shop.port, shop.path("/v1/products/tea"))[0] == 200
        assert time.monotonic() - started < 10


def test_beyond_its_connections_the_gateway_still_tells_how_it_is(
    bake_platform: Bake, tmp_path: Path
) -> None:
    with system(bake_platform, tmp_path) as small:
        bootstrap = small.root / "gateway/bootstrap.yaml"
        text = bootstrap.read_text("utf-8")
        bootstrap.write_text(text.replace("connections: 4096", "connections: 20"), "utf-8")
        small.up()
        with contextlib.ExitStack() as held:

            def is_full() -> bool:
                held.enter_context(stalled(small.port, b"", 20))
                return status(small.port, "/") is None

            eventually(is_full, "no more are taken")
            assert " 200 " in small.inside("/readyz").splitlines()[0]
        eventually(lambda: status(small.port, "/") == 200, "there is room again")
