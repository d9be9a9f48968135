"""Calls over real connections, to a callee that behaves well, and in every bad way."""

import gzip
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from contextvars import copy_context
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from callee import ANSWER
from callee import Behaviour
from callee import Callee
from callee import Connection
from prometheus_client import CollectorRegistry
from pydantic import BaseModel, HttpUrl
from support import wait_until

from service.chassis.client import calls
from service.chassis.client import limits
from service.chassis.client import transport
from service.chassis.client.calls import Client
from service.chassis.client.failures import (
    BadAnswer,
    BadStatus,
    BreakerOpen,
    CallFailed,
    Saturated,
    TimedOut,
    Unreachable,
)
from service.chassis.client.settings import CalleeToken
from service.chassis.client.settings import CalleeUrl
from service.chassis.client.settings import ClientSettings
from service.chassis.deadline import time_left, time_limit
from service.chassis.http.validation import Model

KEY = {"Idempotency-Key": "k"}
send = Connection.send
Connect = Callable[..., Client]


class Calling(ClientSettings):
    """The settings of a service that calls one."""

    stock_url: CalleeUrl = HttpUrl("http://127.0.0.1:9")
    stock_token: CalleeToken = None


class Thing(BaseModel):
    name: str


class StrictThing(Model):
    name: str


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def connect(registry: CollectorRegistry) -> Connect:
    """Makes a client of a callee, with limits of its own; the first one's metrics are kept."""
    registries = [registry]

    def connect(callee: Callee | str, **settings: Any) -> Client:
        url = callee if isinstance(callee, str) else callee.url
        limits = {"call_timeout": 9, "call_connect_timeout": 9, "call_read_timeout": 9}
        given = {"stock_url": url, **limits, **settings}
        clients = calls.make_clients(Calling.model_validate(given), *registries)
        registries.clear()
        return clients["stock"]

    return connect


def fail(client: Client, kind: type[CallFailed], method: str = "POST", **options: Any) -> Any:
    """Call once, without retries unless by the method; return the failure and its seconds."""
    started = time.monotonic()
    with pytest.raises(CallFailed) as failed:
        client.call(method, "/things", Thing, **options)
    assert type(failed.value) is kind, failed.value
    return failed.value, time.monotonic() - started


def works(client: Client) -> bool:
    """Return whether a call is let through, and succeeds."""
    with suppress(BreakerOpen, Saturated):
        return client.get("/things", Thing).name == "a"
    return False


def flapping(*behaviours: Behaviour) -> Behaviour:
    """Behave so one after the other, and as the last from then on."""
    left = list(behaviours)
    return lambda connection: (left.pop(0) if len(left) > 1 else left[0])(connection)


def status(code: int, **headers: str) -> Behaviour:
    return lambda connection: connection.send(code, b"{}", **headers)


# Answers


def test_an_answer_is_a_model_whose_unknown_fields_are_ignored(
    callee: Callee, connect: Connect
) -> None:
    client = connect(callee)
    assert client.get("/things/1", Thing) == Thing(name="a")
    assert client.get("/things/1", StrictThing) == StrictThing(name="a")
    callee.behave = lambda connection: connection.send(200, b'[{"name": "b"}]')
    assert client.get("/things", list[Thing]) == [Thing(name="b")]


def test_a_request_has_its_path_query_body_headers_and_credentials(
    callee: Callee, connect: Connect
) -> None:
    client = connect(f"{callee.url}/base/", stock_token="secret")  # noqa: S106 of a test
    body = StrictThing(name="Río")
    client.call("PUT", "/a%2Fb c", Thing, query={"tag": ["x", "y"]}, body=body, headers=KEY)
    (request,) = callee.requests
    assert (request.method, request.path) == ("PUT", "/base/a%2Fb%20c?tag=x&tag=y")
    assert request.body == '{"name":"Río"}'.encode()
    wanted = {
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "Authorization": "Bearer secret",
        "Content-Type": "application/json",
        "Host": f"localhost:{callee.port}",
        "Idempotency-Key": "k",
    }
    assert {name: request.headers[name] for name in wanted} == wanted


def test_an_answer_may_be_taken_as_it_came(callee: Callee, connect: Connect) -> None:
    callee.behave = lambda connection: connection.send(201, b"", ETag='"1"')
    reply = connect(callee).send("DELETE", "/things/1")
    assert (reply.status, reply.headers["etag"], reply.body) == (201, '"1"', b"")


@pytest.mark.parametrize("body", [b'{"name": 1}', b"{", b"", b"null", b'{"name": "\xff"}'])
def test_an_answer_that_is_not_what_was_expected_fails(
    callee: Callee, connect: Connect, body: bytes
) -> None:
    callee.behave = lambda connection: connection.send(200, body)
    failure, _ = fail(connect(callee), BadAnswer, "GET")
    assert "errors" in failure.description
    assert len(callee.requests) == 1


def test_a_text_is_no_number(callee: Callee, connect: Connect) -> None:
    callee.behave = lambda connection: connection.send(200, b'"1"')
    with pytest.raises(BadAnswer):
        connect(callee).get("/things", int)


@pytest.mark.parametrize("code", [301, 404, 409, 500])
def test_another_status_fails_with_its_body_and_is_not_repeated(
    callee: Callee, connect: Connect, code: int
) -> None:
    callee.behave = lambda connection: connection.send(code, b"{}", Location="/other")
    failure, _ = fail(connect(callee), BadStatus, "GET")
    assert (failure.status, failure.body, len(callee.requests)) == (code, b"{}", 1)


@pytest.mark.parametrize("place", ["http://[::bad", "\xff//", "http://127.0.0.1:9/"])
def test_a_redirection_is_not_followed_wherever_it_leads(
    callee: Callee, connect: Connect, place: str
) -> None:
    callee.behave = lambda connection: connection.send(302, b"{}", Location=place)
    client = connect(callee, call_concurrency=1)
    for _ in range(2):  # the slot is free again
        failure, _ = fail(client, BadStatus, "GET")
        assert failure.status == 302


@pytest.mark.parametrize("code", [100, 102, 103])
def test_an_answer_that_is_not_the_last_one_is_passed_over(
    callee: Callee, connect: Connect, code: int
) -> None:
    def hint(connection: Connection) -> None:
        connection.wfile.write(f"HTTP/1.1 {code} Early\r\nLink: </a>\r\n\r\n".encode() * 2)
        connection.send(200, b'{"name": "%s"}' % connection.received.path[1:].encode())

    callee.behave = hint
    client = connect(callee)
    assert [client.get(path, Thing).name for path in ("/a", "/b", "/c")] == ["a", "b", "c"]
    assert len(callee.connections) == 1


@pytest.mark.parametrize(
    ("method", "head"),
    [
        ("GET", "101 X\r\nUpgrade: b"),
        ("GET", "204 X\r\nContent-Length: 9"),
        ("GET", "204 X\r\nTransfer-Encoding: gzip, chunked"),
        ("GET", "304 X\r\nTransfer-Encoding: chunked"),
        ("HEAD", "200 X\r\nContent-Length: 9"),
        ("HEAD", "200 X\r\nTransfer-Encoding: chunked"),
        ("GET", "200 X\r\nTransfer-Encoding: gzip, chunked\r\nContent-Length: 0"),
    ],
)
def test_what_may_follow_the_end_of_an_answer_is_not_the_next_answer(
    callee: Callee, connect: Connect, method: str, head: str
) -> None:
    callee.behave = flapping(
        lambda connection: connection.wfile.write(f"HTTP/1.1 {head}\r\n\r\n".encode()), send
    )
    client = connect(callee)
    with suppress(BadStatus):
        assert client.send(method, "/things").body == b""
    assert works(client)
    assert len(callee.connections) == 2


@pytest.mark.parametrize("code", [204, 304])
def test_a_connection_is_used_again_after_an_answer_without_a_body(
    callee: Callee, connect: Connect, code: int
) -> None:
    callee.behave = flapping(lambda connection: connection.send(code, b""), send)
    client = connect(callee)
    with suppress(BadStatus):
        client.send("DELETE", "/things")
    assert works(client)
    assert len(callee.connections) == 1


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
TOO_LARGE = "more than 100000 bytes"


@pytest.mark.parametrize(
    ("head", "size", "kind", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", b"", BadAnswer, TOO_LARGE),
        (CHUNKED, b"2710\r\n", BadAnswer, TOO_LARGE),
        (CHUNKED + b"-1\r\n", b"", Unreachable, "no size"),
    ],
    ids=["whole", "in pieces", "in a piece without end"],
)
def test_an_answer_that_is_too_large_is_not_read_to_its_end(
    callee: Callee,
    connect: Connect,
    head: bytes,
    size: bytes,
    kind: type[CallFailed],
    reason: str,
) -> None:
    sent = 0
    ended = threading.Semaphore(0)

    def stream(connection: Connection) -> None:
        nonlocal sent
        connection.wfile.write(head)
        with suppress(OSError):
            for _ in range(9999):
                piece = b"x" * 10_000
                connection.wfile.write(size + piece + b"\r\n" if size else piece)
                sent += len(piece)
        ended.release()

    callee.behave = stream
    client = connect(callee, call_max_size=100_000, call_concurrency=1)
    for _ in range(2):  # the slot is free again
        failure, _ = fail(client, kind)
        assert reason in failure.description
        assert ended.acquire(timeout=15)  # the connection is closed at once
    assert sent < 50_000_000


@pytest.mark.parametrize("size", [99, 100])
def test_an_answer_may_be_as_large_as_the_limit(
    callee: Callee, connect: Connect, size: int
) -> None:
    callee.behave = lambda connection: connection.send(200, b" " * (size - len(ANSWER)) + ANSWER)
    assert connect(callee, call_max_size=100).get("/", Thing).name == "a"


def test_an_answer_is_not_unpacked(callee: Callee, connect: Connect) -> None:
    packed = gzip.compress(b" " * 1_000_000 + ANSWER)
    callee.behave = lambda connection: connection.send(200, packed, Content_Encoding="gzip")
    client = connect(callee, call_max_size=len(packed))
    assert client.send("GET", "/things").body == packed
    fail(client, BadAnswer, "GET")


# Time


def headers_then(body: bytes) -> Behaviour:
    def behave(connection: Connection) -> None:
        connection.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        connection.dribble(body, 0.05)

    return behave


SLOW: dict[str, Behaviour] = {
    "hangs": Connection.hang,
    "dribbles its header": lambda connection: connection.dribble(b"HTTP/1.1 200 OK" * 99, 0.05),
    "dribbles its body": headers_then(b"x" * 1000),
}


@pytest.fixture(params=["plain", "tls"])
def slow(request: pytest.FixtureRequest, tls: Any) -> Iterator[Callee]:
    """A callee that may speak TLS."""
    with Callee(tls=tls if request.param == "tls" else None) as server:
        yield server


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A certificate for localhost, which clients trust."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext"
    files = ("-keyout", str(key), "-out", str(certificate))
    subprocess.run(  # noqa: S603 the command is this file's own
        (*command.split(), "subjectAltName=DNS:localhost", *files), check=True, capture_output=True
    )
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


@pytest.mark.parametrize("behave", SLOW.values(), ids=SLOW.keys())
def test_a_callee_that_is_slow_gets_the_time_of_the_call_and_no_more(
    slow: Callee, connect: Connect, behave: Behaviour
) -> None:
    client = connect(slow, call_timeout=60, call_read_timeout=60, call_connect_timeout=60)
    assert client.get("/things", Thing).name == "a"
    slow.behave = behave
    with time_limit(0.6):
        _, seconds = fail(client, TimedOut, "GET")
    assert 0.5 < seconds < 30


def test_a_callee_that_starts_no_tls_gets_no_more_time_either(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"https://127.0.0.1:{server.getsockname()[1]}"
        client = connect(url, call_timeout=0.4, call_read_timeout=60, call_connect_timeout=60)
        _, seconds = fail(client, TimedOut, "GET")
    assert seconds < 30


def test_a_certificate_of_nobody_known_is_refused(
    slow: Callee, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    if slow.tls is None:
        return
    monkeypatch.delenv("SSL_CERT_FILE")
    failure, _ = fail(connect(slow), Unreachable)
    assert "CERTIFICATE_VERIFY_FAILED" in failure.description


def test_the_time_to_wait_for_a_part_may_be_shorter(callee: Callee, connect: Connect) -> None:
    callee.behave = Connection.hang
    _, seconds = fail(connect(callee, call_timeout=30, call_read_timeout=0.2), TimedOut)
    assert seconds < 25


def test_the_time_to_connect_may_be_shorter(connect: Connect) -> None:
    with full_backlog() as url:
        client = connect(url, call_timeout=30, call_connect_timeout=0.2)
        _, seconds = fail(client, Unreachable)
    assert seconds < 25


class full_backlog:  # noqa: N801 it is used like a function
    """A port that answers no attempt to connect, as a host does that is gone."""

    def __enter__(self) -> str:
        self._server = socket.socket()
        self._server.bind(("127.0.0.1", 0))
        self._server.listen(0)
        address = self._server.getsockname()
        self._clients = [socket.socket() for _ in range(3)]
        for one in self._clients:
            one.setblocking(False)
            with suppress(BlockingIOError):
                one.connect(address)
        return f"http://127.0.0.1:{address[1]}"

    def __exit__(self, *_: object) -> None:
        for one in (*self._clients, self._server):
            one.close()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_callee_that_reads_slowly_gets_no_more_time(
    connect: Connect, tls: ssl.SSLContext, scheme: str
) -> None:
    ended = threading.Event()

    def read_slowly() -> None:
        with suppress(OSError), ExitStack() as opened:
            connection = opened.enter_context(server.accept()[0])
            if scheme == "https":
                connection = opened.enter_context(tls.wrap_socket(connection, server_side=True))
            while connection.recv(10_000) and not ended.wait(0.05):
                pass

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 10_000)
        reader = threading.Thread(target=read_slowly)
        reader.start()
        url = f"{scheme}://localhost:{server.getsockname()[1]}"
        client = connect(url, call_timeout=3, call_connect_timeout=3)
        _, seconds = fail(client, TimedOut, body={"text": "x" * 30_000_000})
        ended.set()
        reader.join()
    assert seconds < 30


def test_a_call_without_time_left_sends_nothing(callee: Callee, connect: Connect) -> None:
    client = connect(callee)
    with time_limit(0.0):
        fail(client, TimedOut, "GET")
        assert time_left() <= 0
    assert callee.requests == []


def test_the_time_that_is_left_travels_with_the_call(callee: Callee, connect: Connect) -> None:
    client = connect(callee, call_timeout=60)
    client.get("/things", Thing)
    with time_limit(30), time_limit(60):
        client.get("/things", Thing)
    times = [int(one.headers["x-envoy-expected-rq-timeout-ms"]) for one in callee.requests]
    assert 55_000 < times[0] <= 60_000
    assert 25_000 < times[1] <= 30_000


def test_a_limit_ends_with_what_it_is_around() -> None:
    with time_limit(1):
        assert time_left() <= 1
    assert time_left() == float("inf")


# Retries


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between the attempts of calls, which take no time."""
    made: list[float] = []
    monkeypatch.setattr("service.chassis.client.calls.time.sleep", made.append)
    return made


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("code", [429, 502, 503, 504])
def test_an_idempotent_call_is_repeated(
    callee: Callee, connect: Connect, method: str, code: int
) -> None:
    callee.behave = flapping(status(code), lambda connection: connection.send(200, b""))
    assert connect(callee).send(method, "/things").status == 200
    assert len(callee.requests) == 2


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_another_call_is_repeated_only_with_a_key(
    callee: Callee, connect: Connect, method: str
) -> None:
    callee.behave = flapping(status(503), send)
    fail(connect(callee), BadStatus, method)
    assert len(callee.requests) == 1
    for name in ("Idempotency-Key", "idempotency-key"):
        callee.behave = flapping(status(503), send)
        connect(callee).call(method, "/things", Thing, headers={name: "k"})
    assert len(callee.requests) == 5


def test_a_call_is_repeated_twice_at_most(
    callee: Callee, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "Budget", lambda: Plenty())
    callee.behave = status(503)
    fail(connect(callee), BadStatus, "GET")
    assert len(callee.requests) == 3


class Plenty(limits.Budget):
    def spend(self) -> bool:
        return True


def test_all_callers_together_repeat_a_tenth_of_their_calls(
    callee: Callee, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MIN_RESULTS", 1_000_000)  # no breaker
    monkeypatch.setattr(calls, "BACK_OFF", 0.0)
    callee.behave = status(503)
    client = connect(callee)
    for _ in range(200):
        fail(client, BadStatus, "GET")
    assert 215 <= len(callee.requests) <= 221


def test_the_pauses_are_random_and_grow(
    callee: Callee, connect: Connect, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "Budget", lambda: Plenty())
    monkeypatch.setattr(limits, "MIN_RESULTS", 1_000_000)
    callee.behave = status(503)
    client = connect(callee)
    for _ in range(20):
        fail(client, BadStatus, "GET")
    assert len(set(pauses)) == 40
    assert max(pauses[::2]) <= calls.BACK_OFF < max(pauses[1::2]) <= 2 * calls.BACK_OFF


def date_in(seconds: float) -> str:
    return formatdate(time.time() + seconds, usegmt=True)


in_one_of_two_ways = pytest.mark.parametrize("after", [str, date_in], ids=["seconds", "date"])


@in_one_of_two_ways
def test_what_a_callee_says_of_the_pause_is_done(
    callee: Callee, connect: Connect, pauses: list[float], after: Callable[[int], str]
) -> None:
    callee.behave = flapping(status(503, Retry_After=after(60)), send)
    connect(callee, call_timeout=120).get("/things", Thing)
    (pause,) = pauses
    assert 40 < pause <= 60


@in_one_of_two_ways
def test_a_pause_beyond_the_deadline_ends_the_call_at_once(
    callee: Callee, connect: Connect, pauses: list[float], after: Callable[[int], str]
) -> None:
    callee.behave = status(503, Retry_After=after(3600))
    failure, _ = fail(connect(callee), BadStatus, "GET")
    assert pauses == []
    assert (len(callee.requests), failure.retry_after > 3590) == (1, True)


@pytest.mark.parametrize(
    "after", ["soon", "-1", "", "1e9", "9" * 5000, "Mon, 01 Jan 99999 00:00:00 GMT"]
)
def test_a_pause_that_is_none_is_no_pause(callee: Callee, connect: Connect, after: str) -> None:
    callee.behave = flapping(status(503, Retry_After=after), send)
    assert connect(callee).get("/things", Thing).name == "a"


def test_a_pause_does_not_occupy_a_slot(
    callee: Callee, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    woken = threading.Event()
    clock = SimpleNamespace(perf_counter=time.perf_counter, sleep=lambda _: woken.wait(60))
    monkeypatch.setattr(calls, "time", clock)
    callee.behave = flapping(status(503, Retry_After="2"), send)
    client = connect(callee, call_concurrency=1, call_timeout=60)
    first = threading.Thread(target=client.get, args=("/things", Thing))
    first.start()
    wait_until(lambda: len(callee.requests) == 1)
    wait_until(lambda: works(client))
    assert first.is_alive()
    woken.set()
    first.join()


# Connections


def test_a_connection_is_used_again(callee: Callee, connect: Connect) -> None:
    client = connect(callee)
    for code in (200, 200, 404):
        callee.behave = status(code)
        with suppress(BadStatus):
            client.send("GET", "/")
    assert (len(callee.requests), len(callee.connections)) == (3, 1)


def test_a_body_is_sent_before_its_header_is_acknowledged(callee: Callee, connect: Connect) -> None:
    client = connect(callee)
    client.post("/things", Thing, body={})
    kept: Any = client._transport._pool._get_conn()
    assert kept.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    kept.close()


def test_a_connection_is_given_up_when_it_is_old(
    callee: Callee, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "MAX_AGE", 0)
    client = connect(callee)
    client.get("/things", Thing)
    client.get("/things", Thing)
    assert len(callee.connections) == 2


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_callee_that_has_restarted_is_called_once(connect: Connect, method: str) -> None:
    first = Callee()
    client = connect(first)
    client.get("/things", Thing)
    first.stop()
    with Callee(port=first.port) as second:
        assert client.call(method, "/things", Thing).name == "a"
        assert len(second.requests) == 1


def test_a_connection_that_closes_under_a_call_is_tried_again_if_that_is_safe(
    callee: Callee, connect: Connect
) -> None:
    closes = flapping(send, lambda _: False, send)
    callee.behave = closes
    client = connect(callee)
    client.get("/things", Thing)
    assert client.get("/things", Thing).name == "a"
    callee.behave = flapping(lambda _: False, send)
    fail(client, Unreachable, "POST")


def test_all_addresses_of_a_name_are_called(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Callee()
    second = Callee(port=first.port, address="127.0.0.2")
    addresses = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, first.port))
        for address in ("127.0.0.1", "127.0.0.2")
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
    for _ in range(40):
        connect(f"http://replicas:{first.port}").get("/things", Thing)
    assert len(first.requests) > 5
    assert len(second.requests) > 5
    first.stop()  # and one that is gone costs nothing
    for _ in range(10):
        connect(f"http://replicas:{first.port}").get("/things", Thing)
    second.stop()


def test_a_callee_is_found_where_it_has_moved_to(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Callee()
    place = ["127.0.0.1"]

    def look_up(*_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (place[0], first.port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    client = connect(f"http://stock:{first.port}")
    client.get("/things", Thing)
    first.stop()
    with Callee(port=first.port, address="127.0.0.2"):
        place[0] = "127.0.0.2"
        assert client.call("POST", "/things", Thing).name == "a"


def test_the_proxies_of_the_environment_are_not_asked(
    callee: Callee, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert connect(callee).get("/things", Thing).name == "a"


BROKEN: dict[str, Behaviour] = {
    "resets": Connection.reset,
    "closes": lambda _: False,
    "sends half an answer": lambda connection: (
        connection.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n" + ANSWER) and False
    ),
    "sends half of the pieces": lambda connection: (
        connection.wfile.write(CHUNKED + b"3\r\nabc\r\n") and False
    ),
    "sends a piece of negative size": lambda connection: (
        connection.wfile.write(CHUNKED + b"-5\r\nabc\r\n") and False
    ),
    "sends no HTTP": lambda connection: connection.wfile.write(b"SSH-2.0\r\n\r\n") and False,
}


@pytest.mark.parametrize("behave", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_answer_is_none(callee: Callee, connect: Connect, behave: Behaviour) -> None:
    callee.behave = behave
    failure, _ = fail(connect(callee, call_concurrency=1), Unreachable)
    assert (failure.code, failure.members) == (503, {"dependency": "stock"})
    callee.behave = flapping(behave, send)
    assert connect(callee).get("/things", Thing).name == "a"


def test_a_callee_that_is_away_is_unreachable(connect: Connect) -> None:
    fail(connect("http://127.0.0.1:9"), Unreachable)


def test_a_callee_whose_name_nobody_knows_is_unreachable(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(*_: object, **_options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    fail(connect("http://nowhere.invalid"), Unreachable)


def test_a_header_that_is_none_is_the_callers_fault(callee: Callee, connect: Connect) -> None:
    client = connect(callee, call_concurrency=1)
    for _ in range(limits.MIN_RESULTS + 1):
        with pytest.raises(ValueError, match="Invalid header value"):
            client.get("/things", Thing, headers={"X-Name": "a\nb"})
    assert client.get("/things", Thing).name == "a"


# The cap and the breaker


def test_no_more_calls_are_in_flight_than_the_cap(
    callee: Callee, connect: Connect, registry: CollectorRegistry
) -> None:
    callee.behave = Connection.hang
    client = connect(callee, call_concurrency=2, call_timeout=60, call_read_timeout=60)
    threads = [threading.Thread(target=fail, args=(client, Unreachable)) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(callee.requests) == 2)
    failure, seconds = fail(client, Saturated, "GET")
    assert (len(callee.requests), failure.retry_after) == (2, 1)
    assert samples(registry, "http_client_retries_total") == {("stock",): 0}
    assert seconds < 30
    callee.stop()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize(
    "behave", [*BROKEN.values(), status(503), status(429)], ids=[*BROKEN, "503", "429"]
)
def test_a_breaker_opens_and_closes(callee: Callee, connect: Connect, behave: Behaviour) -> None:
    now = [1000.0]
    callee.behave = behave
    client = connect(callee)
    client._breaker._clock = lambda: now[0]
    for _ in range(limits.MIN_RESULTS):
        with pytest.raises(CallFailed):
            client.send("POST", "/things")
    failure, _ = fail(client, BreakerOpen, "GET")
    assert 0.8 * limits.PAUSE <= failure.retry_after <= 1.2 * limits.PAUSE + 1
    assert len(callee.requests) == limits.MIN_RESULTS
    callee.behave = send
    now[0] += 1.2 * limits.PAUSE
    assert client.get("/things", Thing).name == "a"
    assert client.get("/things", Thing).name == "a"


@pytest.mark.parametrize("code", [404, 422, 500])
def test_what_is_wrong_with_one_request_opens_no_breaker(
    callee: Callee, connect: Connect, code: int
) -> None:
    callee.behave = status(code)
    client = connect(callee)
    for _ in range(2 * limits.MIN_RESULTS):
        fail(client, BadStatus, "GET")


def test_callers_in_a_hurry_open_no_breaker(callee: Callee, connect: Connect) -> None:
    callee.behave = Connection.hang
    client = connect(callee)
    for _ in range(2 * limits.MIN_RESULTS):
        with time_limit(0.01):
            fail(client, TimedOut, "GET")
    callee.behave = send
    assert client.get("/things", Thing).name == "a"


def test_the_breaker_of_one_callee_is_no_other_ones(callee: Callee) -> None:
    class Both(Calling):
        bank_url: CalleeUrl = HttpUrl(callee.url)

    clients = calls.make_clients(Both())
    for _ in range(limits.MIN_RESULTS):
        fail(clients["stock"], Unreachable)
    fail(clients["stock"], BreakerOpen)
    assert clients["bank"].get("/things", Thing).name == "a"


def test_a_process_without_an_application_calls_too(
    callee: Callee, registry: CollectorRegistry
) -> None:
    def work() -> Thing:
        calls.init_process(Calling(stock_url=HttpUrl(callee.url)), registry)
        return copy_context().run(lambda: calls.client("stock").get("/things", Thing))

    callee.behave = send
    assert copy_context().run(work).name == "a"
    labels = {"callee": "stock", "http_request_method": "GET", "outcome": "200"}
    name = "http_client_request_duration_seconds_count"
    assert registry.get_sample_value(name, labels) == 1
    with pytest.raises(RuntimeError, match="application context"):
        calls.client("stock")


# Settings


def test_a_callees_own_setting_comes_before_that_of_all() -> None:
    class Own(Calling):
        stock_timeout: float = 0.5
        bank_url: CalleeUrl = HttpUrl("http://bank")

    settings = Own(call_timeout=3)
    assert Own.callees() == ["stock", "bank"]
    assert [settings.of(name, "timeout") for name in Own.callees()] == [0.5, 3]
    assert settings.of("bank", "token") is None


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("STOCK_URL", "stock:5000", "URL scheme should be 'http' or 'https'"),
        ("STOCK_URL", "http://me:secret@stock", "no credentials"),
        ("STOCK_URL", "http://secret@stock", "no credentials"),
        ("STOCK_URL", "http://:secret@stock", "no credentials"),
        ("STOCK_URL", "http://stock/?a=b", "no query"),
        ("STOCK_URL", "http://stock/#secret", "no query"),
        ("STOCK_URL", "http://stock:99999", "invalid port"),
        ("STOCK_TOKEN", "two words", "without spaces"),
        ("STOCK_TOKEN", "Ü", "printable ASCII"),
        ("CALL_TIMEOUT", "0", "greater than 0"),
        ("CALL_CONCURRENCY", "0", "greater than or equal to 1"),
    ],
)
def test_a_wrong_setting_is_one_line(
    name: str,
    value: str,
    remedy: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stopped:
        Calling.load()
    said = capsys.readouterr().err
    assert (stopped.value.code, said.count("\n")) == (2, 1)
    assert said.startswith(f"configuration: {name}: ")
    assert remedy in said
    assert "secret" not in said


def test_a_token_is_a_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("abc\n")
    monkeypatch.setenv("STOCK_TOKEN_FILE", str(tmp_path / "token"))
    settings = Calling()
    assert settings.secrets() == ["abc"]
    assert "abc" not in repr(settings)


# What is seen of it


def samples(registry: CollectorRegistry, name: str) -> dict[tuple[str, ...], float]:
    found = [one for family in registry.collect() for one in family.samples if one.name == name]
    return {tuple(one.labels.values()): one.value for one in found}


def test_attempts_are_counted_by_their_outcome(
    callee: Callee, connect: Connect, registry: CollectorRegistry
) -> None:
    client = connect(callee)
    callee.behave = flapping(status(503), send, status(404), Connection.reset)
    client.get("/things/1", Thing)
    fail(client, BadStatus)
    fail(client, Unreachable)
    assert samples(registry, "http_client_request_duration_seconds_count") == {
        ("stock", "GET", "503"): 1,
        ("stock", "GET", "200"): 1,
        ("stock", "POST", "404"): 1,
        ("stock", "POST", "Unreachable"): 1,
    }
    assert samples(registry, "http_client_retries_total") == {("stock",): 1}
    assert samples(registry, "http_client_active_requests") == {("stock",): 0}


def test_an_open_breaker_and_what_it_refuses_are_seen(
    connect: Connect, registry: CollectorRegistry
) -> None:
    client = connect("http://127.0.0.1:9")
    assert samples(registry, "http_client_breaker_open") == {("stock",): 0}
    for kind in [Unreachable] * limits.MIN_RESULTS + [BreakerOpen] * 3:
        fail(client, kind)
    assert samples(registry, "http_client_breaker_open") == {("stock",): 1}
    counts = samples(registry, "http_client_request_duration_seconds_count")
    assert counts["stock", "POST", "BreakerOpen"] == 3


def test_calls_in_flight_are_seen(
    callee: Callee, connect: Connect, registry: CollectorRegistry
) -> None:
    seen: list[float] = []

    def look(connection: Connection) -> None:
        seen.extend(samples(registry, "http_client_active_requests").values())
        connection.send()

    callee.behave = look
    connect(callee).get("/things", Thing)
    assert seen == [1]
