"""What the outermost layer does before and after the application: probes, admission, limits, containment."""

import io
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from conftest import wait_until
from flask import Response, after_this_request
from flask.testing import FlaskClient
from werkzeug.exceptions import RequestTimeout
from werkzeug.test import EnvironBuilder
from werkzeug.test import run_wsgi_app

from service.chassis import health
from service.chassis.edge import Body
from service.chassis.edge import Edge
from service.chassis.framework import DirectResponse
from service.chassis.framework import Service
from service.settings import Settings

CHUNKED = {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}


def call(app: Any, path: str = "/", **options: Any) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body that a bare WSGI application gives."""
    body, status, headers = run_wsgi_app(app, EnvironBuilder(path, **options).get_environ(), buffered=True)
    return int(status[:3]), dict(headers), b"".join(body)


def answering(body: Iterable[bytes], status: str = "200 OK", headers: Iterable[tuple[str, str]] = ()) -> Any:
    def app(_environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response(status, list(headers))
        return body

    return app


def test_livez_and_readyz_say_so(client: FlaskClient) -> None:
    assert client.get("/livez").json == {"status": "live"}
    assert client.get("/readyz").json == {"status": "ready"}


def test_while_draining_it_is_not_ready_but_live_and_serves(app: Service, client: FlaskClient) -> None:
    app.extensions["health"].drain()
    answer = client.get("/readyz")
    assert (answer.status_code, answer.mimetype) == (503, "application/problem+json")
    assert client.get("/livez").status_code == 200
    served = client.get("/v1/products/tea")
    assert (served.status_code, served.headers["Connection"]) == (200, "close")


def test_readiness_names_the_check_that_fails_and_recovers(
    app: Service, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "PAUSE", 0.01)
    working = threading.Event()

    def ask() -> None:
        if not working.is_set():
            raise ConnectionError("refused")

    app.extensions["health"]._checks.clear()
    app.extensions["health"].require("store", ask)
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json["detail"]) == (503, "not ready: store")  # type: ignore[index]
    working.set()
    wait_until(lambda: client.get("/readyz").status_code == 200)
    working.clear()
    wait_until(lambda: client.get("/readyz").status_code == 503)
    working.set()  # the thread outlives the test and would log on
    wait_until(lambda: client.get("/readyz").status_code == 200)


def test_however_many_probes_come_a_check_is_asked_once_a_second() -> None:
    asked: list[int] = []
    check = health.Check("store", lambda: asked.append(1))
    wait_until(check.passed)
    assert [check.passed() for _ in range(100)] == [True] * 100
    assert asked == [1]


def test_a_check_that_hangs_fails_and_no_probe_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "PAUSE", 0.01)
    monkeypatch.setattr(health, "LIMIT", 0.05)
    asked, hang, go_on = [], threading.Event(), threading.Event()

    def ask() -> None:
        asked.append(1)
        if hang.is_set():
            go_on.wait(10)

    check = health.Check("store", ask)
    wait_until(check.passed)
    hang.set()
    wait_until(lambda: not check.passed())
    before = len(asked)
    assert not any(check.passed() for _ in range(100))
    assert len(asked) == before
    go_on.set()


def test_the_slot_of_an_answered_request_is_free_again(client: FlaskClient) -> None:
    paths = ["/v1/products/tea", "/v1/nothing", "/v1/products?limit=x"]
    assert {client.get(path).status_code for path in paths * 5} == {200, 404, 422}


def test_requests_beyond_the_limit_get_503_before_any_work(settings: Settings) -> None:
    called: list[int] = []

    def app(_environ: Any, start_response: Any) -> Iterable[bytes]:
        called.append(1)
        start_response("200 OK", [])
        return endless()

    def endless() -> Iterator[bytes]:
        while True:
            yield b"x"

    edge = Edge(app, settings)
    streams = [run_wsgi_app(edge, EnvironBuilder().get_environ())[0] for _ in range(settings.concurrency)]
    status, headers, _ = call(edge)
    assert (status, headers["Retry-After"], len(called)) == (503, "1", settings.concurrency)
    streams[0].close()  # type: ignore[attr-defined]
    streams[0], again, _ = run_wsgi_app(edge, EnvironBuilder().get_environ())
    assert again.startswith("200")
    for stream in streams:
        stream.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("status", ["99 X", "101 Switching Protocols", "600 X", "1000 X", "", "OK"])
def test_a_status_that_the_server_cannot_send_becomes_500(settings: Settings, status: str) -> None:
    assert call(Edge(answering([b"x"], status), settings))[0] == 500


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), RuntimeError("secret")])
def test_no_error_gets_past_it_and_nothing_of_it_is_told(settings: Settings, error: BaseException) -> None:
    def app(_environ: Any, _start_response: Any) -> Iterable[bytes]:
        raise error

    edge = Edge(app, settings)
    for _ in range(settings.concurrency + 1):
        status, headers, body = call(edge)
        assert (status, headers["Content-Type"]) == (500, "application/problem+json")
        assert b"secret" not in body


def test_a_short_answer_that_fails_while_it_is_read_becomes_500(settings: Settings) -> None:
    def broken() -> Iterator[bytes]:
        yield b"first"
        raise RuntimeError

    assert call(Edge(answering(broken(), headers=[("Content-Length", "9")]), settings))[0] == 500


def test_a_stream_that_breaks_off_is_logged(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Iterator[bytes]:
        yield b"first"
        raise RuntimeError("lost")

    body, _, _ = run_wsgi_app(Edge(answering(broken()), settings), EnvironBuilder().get_environ())
    with caplog.at_level(logging.ERROR), pytest.raises(RuntimeError, match="lost"):
        list(body)
    body.close()  # type: ignore[attr-defined]
    assert "broke off" in caplog.text


def test_a_body_above_the_limit_gets_413(client: FlaskClient, settings: Settings) -> None:
    fits = client.post("/v1/quotes", data=b" " * settings.max_body_size, content_type="application/json")
    more = client.post("/v1/quotes", data=b" " * (settings.max_body_size + 1), content_type="application/json")
    assert (fits.status_code, more.status_code) == (400, 413)


@pytest.mark.parametrize("extra", [0, 1])
def test_a_chunked_body_has_the_same_limit(client: FlaskClient, settings: Settings, extra: int) -> None:
    body = io.BytesIO(b" " * (settings.max_body_size + extra))
    answer = client.post("/v1/quotes", input_stream=body, content_type="application/json", environ_overrides=CHUNKED)
    assert answer.status_code == (413 if extra else 400)


@pytest.mark.parametrize("media_type", ["application/json; charset=utf-8", "application/merge-patch+json"])
def test_a_chunked_json_body_reaches_the_view_whole(client: FlaskClient, media_type: str) -> None:
    body = io.BytesIO(b'{"lines": [{"sku": "tea", "quantity": 1}]}')
    answer = client.post("/v1/quotes", input_stream=body, content_type=media_type, environ_overrides=CHUNKED)
    assert answer.status_code == 200


@pytest.mark.parametrize("media_type", ["text/csv", "application/x-ndjson", ""])
def test_a_chunked_body_whose_cut_nobody_would_see_gets_411(client: FlaskClient, media_type: str) -> None:
    answer = client.post(
        "/v1/quotes", input_stream=io.BytesIO(b"a"), content_type=media_type, environ_overrides=CHUNKED
    )
    assert answer.status_code == 411


def test_a_body_shorter_than_its_length_gets_400(client: FlaskClient) -> None:
    answer = client.post(
        "/v1/quotes",
        input_stream=io.BytesIO(b'{"lines": []}'),
        content_type="application/json",
        environ_overrides={"CONTENT_LENGTH": "100", "wsgi.input_terminated": True},
    )
    assert answer.status_code == 400


def test_a_body_is_read_in_small_pieces_until_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("service.chassis.edge.time.monotonic", lambda: now[0])
    body = Body(io.BytesIO(b"x" * 2000), limit=2000, deadline=101.0)
    assert (len(body.read()), len(body.read(10)), len(body.read(5000)), body.read()) == (1024, 10, 966, b"")
    now[0] = 101.1
    with pytest.raises(RequestTimeout):
        body.read()


def test_variables_of_the_process_are_no_headers(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []
    monkeypatch.setenv("HTTP_X_USER", "admin")
    monkeypatch.setenv("REMOTE_USER", "admin")

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        seen.append(environ.get("HTTP_X_USER") or environ.get("REMOTE_USER"))
        start_response("200 OK", [])
        return []

    edge = Edge(app, settings)
    call(edge, environ_overrides={"HTTP_X_USER": "admin", "REMOTE_USER": "admin"})
    call(edge, headers={"X-User": "ann"})
    assert seen == [None, "ann"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "make",
    [
        lambda kind: kind("text"),
        lambda kind: kind(b"bytes", 201, {"Location": "/\u00e9"}),
        lambda kind: kind("kept", headers={"Content-Location": "/\u00e9"}),
        lambda kind: kind("not sent", 204),
        lambda kind: kind(["te", b"xt"]),
        lambda kind: kind(["te", "xt"], headers={"Content-Type": "text/plain", "Content-Length": "4"}),
        lambda kind: kind(iter(["text"]), headers={"Content-Type": "text/plain", "Content-Length": "4"}),
    ],
)
def test_an_answer_is_that_of_flask(method: str, make: Callable[[type[Response]], Response]) -> None:
    assert call(make(DirectResponse), method=method) == call(make(Response), method=method)


def test_what_is_to_be_done_when_an_answer_was_sent_is_done(settings: Settings) -> None:
    sent: list[Response] = []
    app = Service(__name__)

    def view() -> Response:
        @after_this_request
        def mark(response: Response) -> Response:
            response.call_on_close(lambda: sent.append(response))
            return response

        return DirectResponse("text")

    app.add_url_rule("/", view_func=view)
    assert call(Edge(app.wsgi_app, settings))[2] == b"text"
    assert len(sent) == 1


def test_a_view_may_return_a_response_of_its_own_kind(settings: Settings) -> None:
    class Shouting(Response):
        def iter_encoded(self) -> Iterator[bytes]:
            return (piece.upper() for piece in super().iter_encoded())

    app = Service(__name__)
    app.add_url_rule("/", view_func=lambda: Shouting("text"))
    assert call(Edge(app.wsgi_app, settings))[2] == b"TEXT"


def test_every_answer_forbids_sniffing(client: FlaskClient) -> None:
    for path in ("/v1/products/tea", "/v1/nothing", "/docs/"):
        assert client.get(path).headers["X-Content-Type-Options"] == "nosniff", path


def test_an_application_that_writes_instead_of_returning_is_told_so(settings: Settings) -> None:
    def app(_environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])(b"x")
        return []

    assert call(Edge(app, settings))[0] == 500
