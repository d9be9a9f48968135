"""What lies around the views: each middleware alone, the whole chain, and the Flask application."""

import io
import json
import logging
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextvars import copy_context
from typing import Any, cast
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import pytest
from flask import (
    Flask,
    Request,
    Response,
    after_this_request,
    has_request_context,
    request,
    request_tearing_down,
    url_for,
)
from flask.testing import FlaskClient
from lab import ITEM
from lab import problem
from prometheus_client import CollectorRegistry
from support import PARENT
from support import SAMPLED
from support import TRACE
from support import Collector
from support import Lines
from support import attributes
from support import in_threads
from support import samples
from support import wait_until
from werkzeug.exceptions import RequestTimeout
from werkzeug.test import EnvironBuilder
from werkzeug.test import run_wsgi_app

from service.chassis import lifecycle
from service.chassis.http import middleware
from service.chassis.http import problems
from service.chassis.http.access import GETTER, Access
from service.chassis.http.admission import Admission
from service.chassis.http.application import Application
from service.chassis.http.application import DirectResponse
from service.chassis.http.bodies import Body
from service.chassis.http.bodies import BodyTimeout
from service.chassis.http.middleware import MAX_COLLECTED
from service.chassis.http.middleware import Containment
from service.chassis.http.middleware import hide_process_environment
from service.chassis.http.probes import Probes
from service.chassis.lifecycle import Check
from service.chassis.lifecycle import Readiness
from service.chassis.server.settings import ServerSettings
from service.chassis.telemetry import Fields
from service.chassis.telemetry import Telemetry
from service.chassis.telemetry import metrics
from service.chassis.telemetry.spans import Ids, current_ids
from service.settings import Settings

CHUNKED = {
    "CONTENT_LENGTH": "",
    "HTTP_TRANSFER_ENCODING": "chunked",
    "wsgi.input_terminated": True,
}
ACTIVE = "http_server_active_requests"
DURATION_COUNT = "http_server_request_duration_seconds_count"


def call(
    app: WSGIApplication, path: str = "/", **options: Any
) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body that a WSGI application gives."""
    environ = EnvironBuilder(path, **options).get_environ()
    body, status, headers = run_wsgi_app(app, environ, buffered=True)
    return int(status[:3]), dict(headers), b"".join(body)


def begin(app: WSGIApplication, path: str = "/", **options: Any) -> Any:
    """Return what a WSGI application gives to the server to read and to close."""
    return app(EnvironBuilder(path, **options).get_environ(), lambda *_: lambda _data: None)


def answering(
    body: Iterable[bytes], status: str = "200 OK", headers: Iterable[tuple[str, str]] = ()
) -> WSGIApplication:
    """Make a WSGI application that answers so."""

    def app(_environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response(status, list(headers))
        return body

    return app


def raising(error: BaseException) -> WSGIApplication:
    """Make a WSGI application that fails."""

    def app(_environ: WSGIEnvironment, _start_response: StartResponse) -> Iterable[bytes]:
        raise error

    return app


def broken() -> Iterator[bytes]:
    """Yield a chunk and fail."""
    yield b"first"
    raise RuntimeError("lost")


class BrokenClose:
    """A streamed body that cannot be closed."""

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"x"])

    def close(self) -> None:
        """Fail."""
        raise RuntimeError("lost")


class Recorder:
    """Keeps what is recorded of each request."""

    def __init__(self) -> None:
        self.ids: list[dict[str, str]] = []
        self.fields: list[Fields] = []

    def __call__(self, _span: object, ids: Ids, fields: Fields, _seconds: float) -> None:
        self.ids.append(dict(ids))
        self.fields.append(fields)


def make_access(app: WSGIApplication, recorder: Recorder) -> Access:
    """Make the middleware that records, alone."""
    return Access(app, Readiness(), Telemetry(recorders=[recorder]))


def contain(app: WSGIApplication, **config: Any) -> Containment:
    """Lay the middleware that lets no error out around an application, alone."""
    application = Application(__name__)
    application.config.update(config)
    return Containment(app, application)


def admit(
    app: WSGIApplication,
    concurrency: int,
    registry: CollectorRegistry | None = None,
    max_queue: int = 0,
    queue_timeout: float = 60,
) -> Admission:
    """Lay the middleware that admits requests around an application, alone."""
    settings = ServerSettings(
        concurrency=concurrency, max_queue=max_queue, queue_timeout=queue_timeout
    )
    return Admission(app, settings, registry)


def make_chain(concurrency: int = 1) -> Application:
    """Make an application of two views with all of the middleware; no request waits."""
    app = Application(__name__)
    metrics.init_app(app)
    app.add_url_rule("/whole/<name>", "whole", lambda name: name)
    app.add_url_rule("/stream/<name>", "stream", lambda name: Response(iter([name, name])))
    middleware.init_app(app, ServerSettings(concurrency=concurrency, max_queue=0))
    return app


def test_livez_and_readyz_say_so(client: FlaskClient) -> None:
    assert client.get("/livez").json == {"status": "live"}
    assert client.get("/readyz").json == {"status": "ready"}


def test_while_draining_it_is_not_ready_but_live_and_serves(
    app: Application, client: FlaskClient
) -> None:
    app.readiness.drain()
    assert problem(client.get("/readyz"), 503).detail == "not ready: draining"
    assert client.get("/livez").status_code == 200
    served = client.get("/lab/things/tea")
    assert (served.status_code, served.headers["Connection"]) == (200, "close")


def test_readiness_names_the_check_that_fails_and_recovers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "CHECK_INTERVAL", 0.01)
    is_working = threading.Event()

    def check() -> None:
        if not is_working.is_set():
            raise ConnectionError("refused")

    readiness = Readiness()
    readiness.require("store", check)
    probes = Probes(answering([]), readiness, Telemetry())
    status, headers, body = call(probes, "/readyz")
    assert (status, headers["Content-Type"]) == (503, problems.MEDIA_TYPE)
    assert problems.Problem.model_validate_json(body).detail == "not ready: store"
    is_working.set()
    wait_until(lambda: call(probes, "/readyz")[0] == 200)
    is_working.clear()
    wait_until(lambda: call(probes, "/readyz")[0] == 503)
    is_working.set()  # the thread outlives the test and would log on
    wait_until(lambda: call(probes, "/readyz")[0] == 200)


def test_however_many_probes_come_a_check_is_asked_once_a_second() -> None:
    asked: list[int] = []
    check = Check("store", lambda: asked.append(1))
    wait_until(check.passed)
    assert [check.passed() for _ in range(100)] == [True] * 100
    assert asked == [1]


def test_a_check_that_hangs_fails_and_no_probe_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lifecycle, "CHECK_INTERVAL", 0.01)
    monkeypatch.setattr(lifecycle, "CHECK_TIMEOUT", 0.05)
    asked: list[int] = []
    hang = threading.Event()
    go_on = threading.Event()

    def ask() -> None:
        asked.append(1)
        if hang.is_set():
            go_on.wait(10)

    check = Check("store", ask)
    wait_until(check.passed)
    hang.set()
    wait_until(lambda: not check.passed())
    before = len(asked)
    assert not any(check.passed() for _ in range(100))
    assert len(asked) == before
    go_on.set()


def test_metrics_are_shown_only_where_they_are_collected() -> None:
    app = answering([], "404 Not Found")
    assert call(Probes(app, Readiness(), Telemetry()), "/metrics")[0] == 404
    telemetry = Telemetry(registry=CollectorRegistry())
    assert call(Probes(app, Readiness(), telemetry), "/metrics")[0] == 200


def test_probes_leave_no_line_and_no_sample(client: FlaskClient, lines: Lines) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        client.get(path)
    assert lines() == []
    assert samples(client, DURATION_COUNT) == {}


def test_probes_are_answered_while_no_request_is_admitted() -> None:
    app = make_chain(concurrency=1)
    stream = begin(app, "/stream/tea")
    paths = ("/whole/tea", "/livez", "/readyz", "/metrics")
    assert [call(app, path)[0] for path in paths] == [503, 200, 200, 200]
    stream.close()
    assert call(app, "/whole/tea")[0] == 200


def test_the_slot_of_an_answered_request_is_free_again(client: FlaskClient) -> None:
    paths = ["/lab/things/tea", "/v1/nothing", "/lab/items?limit=x"]
    assert {client.get(path).status_code for path in paths * 5} == {200, 404, 422}


def test_requests_beyond_the_limit_get_503_before_any_work() -> None:
    called: list[int] = []

    def app(_environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        called.append(1)
        start_response("200 OK", [])
        return iter([b"x"])

    registry = CollectorRegistry()
    admission = admit(app, 4, registry)
    streams = [begin(admission) for _ in range(4)]
    status, headers, _ = call(admission)
    assert (status, headers["Retry-After"], len(called)) == (503, "1", 4)
    gauges = (ACTIVE, f"{ACTIVE}_limit", "http_server_saturation_ratio")
    assert [registry.get_sample_value(name) for name in gauges] == [4, 4, 1]
    streams[0].close()
    assert [registry.get_sample_value(name) for name in gauges] == [3, 4, 0.75]
    assert call(admission)[0] == 200


class Callers:
    """Threads that each ask once, one after the other begun; statuses and order are kept."""

    def __init__(self, concurrency: int, **limits: Any) -> None:
        self.registry = CollectorRegistry()
        self.order: list[str] = []
        self.statuses: list[int] = []
        self.admission = admit(self._app, concurrency, self.registry, **limits)
        self._threads: list[threading.Thread] = []

    def _app(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.order.append(environ["PATH_INFO"])
        start_response("200 OK", [])
        return iter([b"x"]) if environ["PATH_INFO"] == "/stream" else [b"x"]

    def gauge(self, name: str) -> float | None:
        """Return the value of a metric."""
        return self.registry.get_sample_value(f"http_server_{name}")

    def ask(self, path: str) -> None:
        """Ask in this thread."""
        self.statuses.append(call(self.admission, path)[0])

    def start(self, path: str) -> None:
        """Ask in a thread of its own."""
        self._threads.append(threading.Thread(target=self.ask, args=(path,)))
        self._threads[-1].start()

    def wait(self, path: str) -> None:
        """Ask in a thread of its own; return once that waits for a slot."""
        before = self.gauge("waiting_requests") or 0
        self.start(path)
        wait_until(lambda: self.gauge("waiting_requests") == before + 1)

    def join(self) -> None:
        """Return once all have their answers."""
        for thread in self._threads:
            thread.join(60)


def test_requests_beyond_the_limit_are_served_in_the_order_in_which_they_came() -> None:
    callers = Callers(1, max_queue=5)
    stream = begin(callers.admission, "/stream")
    paths = [f"/{number}" for number in range(5)]
    for path in paths:
        callers.wait(path)
    assert callers.gauge("saturation_ratio") == 6
    stream.close()
    callers.join()
    assert callers.order == ["/stream", *paths]
    assert callers.statuses == [200] * 5
    assert callers.gauge("saturation_ratio") == 0


def test_who_comes_as_a_slot_comes_free_does_not_overtake_who_waits() -> None:
    callers = Callers(1, max_queue=2)

    class Slots(deque[int]):
        """Lets somebody come between a slot's return and the call of the next."""

        def append(self, slot: int) -> None:
            super().append(slot)
            if callers.order == ["/stream"]:
                callers.start("/second")
                wait_until(lambda: callers.order != ["/stream"])

    stream = begin(callers.admission, "/stream")
    callers.admission._slots = Slots()
    callers.wait("/first")
    stream.close()
    callers.join()
    assert callers.order == ["/stream", "/first", "/second"]


def test_beyond_the_queue_a_request_is_refused_at_once() -> None:
    callers = Callers(1, max_queue=2)
    stream = begin(callers.admission, "/stream")
    callers.wait("/1")
    callers.wait("/2")
    callers.start("/3")
    wait_until(lambda: callers.statuses == [503])
    stream.close()
    callers.join()
    assert callers.order == ["/stream", "/1", "/2"]


def test_a_request_that_has_waited_too_long_is_refused_and_takes_no_slot_with_it() -> None:
    callers = Callers(1, max_queue=2, queue_timeout=0.01)
    stream = begin(callers.admission, "/stream")
    status, headers, _ = call(callers.admission, "/late")
    assert (status, headers["Retry-After"]) == (503, "1")
    assert callers.gauge("waiting_requests") == 0
    stream.close()
    assert call(callers.admission)[0] == 200
    assert callers.order == ["/stream", "/"]


def test_however_requests_come_wait_and_give_up_no_slot_is_lost_or_made() -> None:
    callers = Callers(3, max_queue=8, queue_timeout=0.0001)
    most: list[float] = []

    def load() -> None:
        for _ in range(200):
            body = begin(callers.admission, "/stream")
            most.append(callers.gauge("active_requests") or 0)
            if not isinstance(body, list):
                body.close()

    in_threads(12, load)
    assert max(most) <= 3
    assert [callers.gauge(name) for name in ("active_requests", "waiting_requests")] == [0, 0]


def test_an_application_that_fails_gives_its_slot_back() -> None:
    registry = CollectorRegistry()
    with pytest.raises(SystemExit):
        call(admit(raising(SystemExit()), 4, registry))
    assert registry.get_sample_value(ACTIVE) == 0


def test_a_streamed_answer_whose_close_raises_gives_its_slot_back() -> None:
    registry = CollectorRegistry()
    stream = begin(admit(answering(BrokenClose()), 4, registry))
    assert registry.get_sample_value(ACTIVE) == 1
    with pytest.raises(RuntimeError, match="lost"):
        stream.close()
    assert registry.get_sample_value(ACTIVE) == 0


def test_a_stream_that_a_test_client_reads_and_leaves_open_gives_its_slot_back() -> None:
    client = make_chain(concurrency=1).test_client()

    def ask() -> None:
        for _ in range(3):
            answer = client.get("/stream/tea")
            assert (answer.status_code, answer.text) == (200, "teatea")

    copy_context().run(ask)  # the last request does not end


def test_a_stream_that_is_read_to_its_end_gives_its_slot_back() -> None:
    registry = CollectorRegistry()
    stream = begin(admit(answering(iter([b"x"])), 4, registry))
    assert list(stream) == [b"x"]
    assert registry.get_sample_value(ACTIVE) == 0


def test_a_stream_that_is_closed_twice_gives_its_slot_back_once() -> None:
    registry = CollectorRegistry()
    stream = begin(admit(answering(broken()), 4, registry))
    stream.close()
    stream.close()
    assert registry.get_sample_value(ACTIVE) == 0


@pytest.mark.parametrize(
    "status",
    ["99 X", "101 Switching Protocols", "600 X", "1000 X", "2000 X", "200OK", "", "OK"],
)
def test_a_status_that_the_server_cannot_send_becomes_500(status: str) -> None:
    assert call(contain(answering([b"x"], status)))[0] == 500


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), RuntimeError("secret")])
def test_no_error_gets_past_it_and_nothing_of_it_is_told(error: BaseException) -> None:
    admission = admit(contain(raising(error)), 1)
    for _ in range(2):
        status, headers, body = call(admission)
        assert (status, headers["Content-Type"]) == (500, problems.MEDIA_TYPE)
        assert b"secret" not in body


@pytest.mark.parametrize("name", ["TESTING", "DEBUG", "PROPAGATE_EXCEPTIONS"])
@pytest.mark.parametrize("error", [SystemExit(1), ZeroDivisionError()])
def test_errors_get_out_where_flask_lets_them_out(name: str, error: BaseException) -> None:
    with pytest.raises(type(error)):
        call(contain(raising(error), **{name: True}))
    assert call(contain(raising(error), TESTING=True, PROPAGATE_EXCEPTIONS=False))[0] == 500


def test_an_error_that_gets_out_is_recorded_and_gives_its_slot_back() -> None:
    recorder = Recorder()
    chain = contain(raising(ZeroDivisionError()), TESTING=True)
    access = make_access(admit(chain, 1), recorder)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            call(access)
    assert [fields["error.type"] for fields in recorder.fields] == ["ZeroDivisionError"] * 2
    assert {fields["http.response.status_code"] for fields in recorder.fields} == {500}


def test_a_short_answer_that_fails_while_it_is_read_becomes_500() -> None:
    assert call(contain(answering(broken(), headers=[("Content-Length", "9")])))[0] == 500


@pytest.mark.parametrize(
    ("method", "status", "headers", "is_whole"),
    [
        ("GET", "200 OK", {}, False),
        ("GET", "200 OK", {"X-A": "1", "content-length": str(MAX_COLLECTED)}, True),
        ("GET", "200 OK", {"X-A": "1", "Content-Length": str(MAX_COLLECTED + 1)}, False),
        ("HEAD", "200 OK", {}, True),
        ("GET", "204 No Content", {}, True),
        ("GET", "304 Not Modified", {}, True),
    ],
)
def test_only_a_short_answer_is_whole_before_it_is_sent(
    method: str, status: str, headers: dict[str, str], is_whole: bool
) -> None:
    body = b"x" * int(next((headers[name] for name in headers if name != "X-A"), 1))
    app = answering(iter([body]), status, headers.items())
    assert (begin(contain(app), method=method) == [body]) is is_whole


@pytest.mark.parametrize("length", ["1", "3", "+2", "two"])
@pytest.mark.parametrize("body", [[b"ab"], iter([b"ab"])])
def test_an_answer_of_another_length_than_it_says_is_not_sent(body: Any, length: str) -> None:
    app = answering(body, headers=[("Content-Length", length)])
    assert call(contain(app))[0] == 500


def test_an_application_that_writes_instead_of_returning_is_told_so() -> None:
    def app(_environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])(b"x")
        return []

    assert call(contain(app))[0] == 500


def test_an_application_whose_headers_are_no_list_takes_no_slot_with_it() -> None:
    def app(_environ: WSGIEnvironment, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", ())
        return []

    access = make_access(admit(contain(app), 1), Recorder())
    assert [call(access)[0] for _ in range(2)] == [500, 500]


def test_a_body_above_the_limit_gets_413(client: FlaskClient, settings: Settings) -> None:
    size = settings.max_body_size
    fits = client.post("/lab/items", data=b" " * size, content_type="application/json")
    more = client.post("/lab/items", data=b" " * (size + 1), content_type="application/json")
    assert (fits.status_code, more.status_code) == (400, 413)


@pytest.mark.parametrize("extra", [0, 1])
def test_a_chunked_body_has_the_same_limit(
    client: FlaskClient, settings: Settings, extra: int
) -> None:
    answer = client.post(
        "/lab/items",
        input_stream=io.BytesIO(b" " * (settings.max_body_size + extra)),
        content_type="application/json",
        environ_overrides=CHUNKED,
    )
    assert answer.status_code == (413 if extra else 400)


@pytest.mark.parametrize(
    "read",
    [
        lambda: str(len(request.get_data())),
        lambda: str(sum(map(len, iter(lambda: request.stream.read(1000), b"")))),
        lambda: str(sum(map(len, request.stream))),
        lambda: str(sum(len(request.stream.read()) for _ in range(2))),
    ],
    ids=["whole", "pieces", "lines", "twice"],
)
@pytest.mark.parametrize(("size", "status"), [(0, 200), (4096, 200), (4097, 413)])
def test_however_a_chunked_body_is_read_it_passes_at_the_limit_and_not_above(
    app: Application, read: Callable[[], str], size: int, status: int
) -> None:
    app.add_url_rule("/length", view_func=read, methods=["POST"])
    answer = app.test_client().post(
        "/length",
        input_stream=io.BytesIO(b"x" * size),
        content_type="application/json",
        environ_overrides=CHUNKED,
    )
    assert (answer.status_code, answer.text == str(size)) == (status, status == 200)


@pytest.mark.parametrize(
    ("transfer", "limit", "status"),
    [({}, 4096, 413), ({}, 5000, 200), ({}, None, 413), (CHUNKED, 5000, 413)],
)
def test_a_view_may_set_a_limit_of_its_own_for_a_body_whose_length_is_known(
    app: Application, transfer: dict[str, Any], limit: int | None, status: int
) -> None:
    @app.post("/length")
    def length() -> str:
        request.max_content_length = limit  # None leaves the limit as it is
        return str(len(request.get_data()))

    answer = app.test_client().post(
        "/length",
        data=b"x" * 5000,
        content_type="application/json",
        environ_overrides=transfer,
    )
    assert answer.status_code == status


@pytest.mark.parametrize("size", [4000, 1_000_000])
def test_a_body_that_is_not_read_is_not_looked_at(app: Application, size: int) -> None:
    class Untouched(io.BytesIO):
        def read(self, _size: int | None = -1, /) -> bytes:
            raise AssertionError

    app.add_url_rule("/unread", view_func=lambda: "text", methods=["POST"])
    answer = app.test_client().post(
        "/unread",
        input_stream=Untouched(),
        content_type="text/csv",
        environ_overrides={"CONTENT_LENGTH": str(size)},
    )
    assert (answer.status_code, answer.text) == (200, "text")


@pytest.mark.parametrize(
    "media_type", ["application/json; charset=utf-8", "application/merge-patch+json"]
)
def test_a_chunked_json_body_reaches_the_view_whole(client: FlaskClient, media_type: str) -> None:
    answer = client.post(
        "/lab/items",
        input_stream=io.BytesIO(json.dumps(ITEM).encode()),
        content_type=media_type,
        environ_overrides=CHUNKED,
    )
    assert answer.status_code == 201


@pytest.mark.parametrize("media_type", ["text/csv", "application/x-ndjson", ""])
def test_a_chunked_body_whose_cut_nobody_would_see_gets_411(
    app: Application, media_type: str
) -> None:
    app.add_url_rule("/data", view_func=lambda: request.get_data(), methods=["POST"])
    answer = app.test_client().post(
        "/data",
        input_stream=io.BytesIO(b"a"),
        content_type=media_type,
        environ_overrides=CHUNKED,
    )
    assert problem(answer, 411).detail


def test_a_body_shorter_than_its_length_gets_400(client: FlaskClient) -> None:
    answer = client.post(
        "/lab/items",
        input_stream=io.BytesIO(b'{"name": "a"}'),
        content_type="application/json",
        environ_overrides={"CONTENT_LENGTH": "100", "wsgi.input_terminated": True},
    )
    assert answer.status_code == 400


def test_a_body_is_read_in_small_pieces_until_its_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr("service.chassis.http.bodies.time.monotonic", lambda: now[0])
    asked: list[int] = []

    class Stream(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            asked.append(size or 0)
            return super().read(size)

    body = Body(Stream(b"x" * 2000), deadline=101.0)
    assert [len(body.read(size) or b"") for size in (10, 5000, -1, 1)] == [10, 1024, 966, 0]
    assert (min(asked), max(asked)) == (1, 1024)
    now[0] = 101.1
    with pytest.raises(RequestTimeout):
        body.read()


def test_a_piece_that_comes_after_the_deadline_is_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("service.chassis.http.bodies.time.monotonic", lambda: now[0])

    class Stream(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            now[0] += 2
            return super().read(size)

    with pytest.raises(RequestTimeout):
        Body(Stream(b"x" * 20), deadline=101.0).read(20)


@pytest.mark.parametrize("transfer", [{}, CHUNKED])
def test_a_body_that_takes_too_long_gets_408(transfer: dict[str, Any]) -> None:
    app = Application(__name__)
    app.add_url_rule("/", view_func=lambda: request.get_data(), methods=["POST"])
    options: dict[str, Any] = {
        "method": "POST",
        "data": b"[]",
        "content_type": "application/json",
        "environ_overrides": transfer,
    }
    assert call(BodyTimeout(app, timeout=10, max_size=5000), **options)[::2] == (200, b"[]")
    assert call(BodyTimeout(app, timeout=-1, max_size=5000), **options)[0] == 408


@pytest.mark.parametrize("name", ["readline", "readlines", "read"])
def test_the_raw_stream_has_all_methods_of_wsgi(name: str) -> None:
    app = Application(__name__)
    read: dict[str, Callable[[Any], Any]] = {
        "readline": lambda stream: stream.readline(),
        "readlines": lambda stream: b"".join(stream.readlines()),
        "read": lambda stream: stream.read(5000),
    }
    app.add_url_rule("/", view_func=lambda: read[name](request.input_stream), methods=["POST"])
    data = b"x" * 3000 + b"\n"
    assert call(BodyTimeout(app, timeout=10, max_size=5000), method="POST", data=data)[2] == data


def test_what_is_refused_while_a_body_is_read_goes_through_the_applications_hooks(
    app: Application,
) -> None:
    @app.after_request
    def mark(response: Response) -> Response:
        response.headers["X-Mark"] = "1"
        return response

    app.register_error_handler(413, lambda error: (f"mine: {error.code}", 413))
    app.add_url_rule("/data", view_func=lambda: request.get_data(), methods=["POST"])
    client = app.test_client()
    large = client.post("/data", data=b"x" * 5000)
    assert (large.text, large.headers["X-Mark"]) == ("mine: 413", "1")


def test_what_is_refused_before_any_work_is_a_problem() -> None:
    admission = admit(answering(iter([b"x"])), 1)
    stream = begin(admission)
    status, headers, _ = call(admission)
    assert (status, headers["Content-Type"]) == (503, problems.MEDIA_TYPE)
    stream.close()


def test_variables_of_the_process_are_no_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []
    monkeypatch.setenv("HTTP_X_USER", "admin")
    monkeypatch.setenv("REMOTE_USER", "admin")

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        seen.append(environ.get("HTTP_X_USER") or environ.get("REMOTE_USER"))
        start_response("200 OK", [])
        return []

    hidden = hide_process_environment(app)
    call(hidden, environ_overrides={"HTTP_X_USER": "admin", "REMOTE_USER": "admin"})
    call(hidden, headers={"X-User": "ann"})
    assert seen == [None, "ann"]


def test_one_identity_is_in_the_line_the_header_and_the_problem(
    client: FlaskClient, lines: Lines
) -> None:
    answer = client.get("/lab/things/none", headers=SAMPLED | {"X-Request-ID": "order-7"})
    document = problem(answer, 404)
    (line,) = lines()
    assert answer.headers["X-Request-ID"] == line["request_id"] == "order-7"
    assert document.request_id == "order-7"
    assert line["trace_id"] == document.trace_id == TRACE
    assert line["span_id"] not in (PARENT, "")


def test_without_ids_of_the_client_they_are_made() -> None:
    recorder = Recorder()
    access = make_access(answering([]), recorder)
    answers = [call(access)[1]["X-Request-ID"] for _ in range(2)]
    assert answers == [ids["request_id"] for ids in recorder.ids]
    assert len(set(answers)) == 2
    assert all(re.fullmatch("[0-9a-f]{32}", ids["trace_id"]) for ids in recorder.ids)


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "nonsense",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE}-{PARENT}",
    ],
)
def test_a_malformed_traceparent_is_ignored(traceparent: str) -> None:
    recorder = Recorder()
    access = make_access(answering([]), recorder)
    call(access, environ_overrides={"HTTP_TRACEPARENT": traceparent})
    assert recorder.ids[0]["trace_id"] != TRACE


def test_a_traceparent_of_a_later_version_is_taken() -> None:
    recorder = Recorder()
    access = make_access(answering([]), recorder)
    call(access, headers={"traceparent": f"cc-{TRACE}-{PARENT}-01-what-comes"})
    assert (recorder.ids[0]["trace_id"], recorder.ids[0]["trace_flags"]) == (TRACE, "01")


def test_a_propagator_finds_the_names_and_values_of_headers() -> None:
    environ = EnvironBuilder(environ_overrides={"HTTP_X_B3_TRACEID": TRACE}).get_environ()
    assert set(GETTER.keys(environ)) == {"host", "x-b3-traceid"}
    assert GETTER.get(environ, "X-B3-TraceId") == [TRACE]
    assert GETTER.get(environ, "b3") is None


@pytest.mark.parametrize(
    "request_id", ["", "a b", "x" * 129, "a\r\nSet-Cookie: b", "é", "<script>"]
)
def test_a_hostile_request_id_is_replaced(request_id: str) -> None:
    access = make_access(answering([]), Recorder())
    _, headers, _ = call(access, environ_overrides={"HTTP_X_REQUEST_ID": request_id})
    assert re.fullmatch("[0-9a-f]{32}", headers["X-Request-ID"])


def test_a_hostile_path_leaves_one_bounded_line(client: FlaskClient, lines: Lines) -> None:
    client.get("/", environ_overrides={"PATH_INFO": "/\n\r\x1b[31m\xff\xc3\xa9" + "x" * 5000})
    (line,) = lines()
    assert line["url.path"].startswith("/\n\r\x1b[31m\ufffdé")
    assert len(line["url.path"]) <= 1024


def test_an_unknown_method_is_recorded_in_bounded_length() -> None:
    recorder = Recorder()
    call(make_access(answering([], "501 Not Implemented"), recorder), method="X" * 100)
    (fields,) = recorder.fields
    assert fields["http.request.method"] == "_OTHER"
    assert fields["http.request.method_original"] == "X" * 32
    assert (fields["http.route"], fields["error.type"]) == ("none", "501")


@pytest.mark.parametrize("path", ["/whole", "/stream"])
def test_the_route_is_recorded_after_the_context_of_its_request_has_ended(path: str) -> None:
    recorded: list[tuple[str, bool]] = []
    app = make_chain()
    app.telemetry.recorders.append(
        lambda _context, _ids, fields, _seconds: recorded.append(
            (fields["http.route"], has_request_context())
        )
    )
    assert call(app, f"{path}/tea")[0] == 200
    assert recorded == [(f"{path}/<name>", False)]


def test_the_span_of_a_request_has_the_name_of_its_route(
    traced: Application, collector: Collector
) -> None:
    client = traced.test_client()
    client.get("/lab/things/tea", headers={"User-Agent": "x" * 2000})
    client.open("/nowhere", method="BREW")
    routed, unknown = collector.wait_for(2)
    assert (routed["name"], unknown["name"]) == ("GET /lab/things/<name>", "HTTP")
    assert attributes(routed)["user_agent.original"] == "x" * 1024
    assert "http.route" not in attributes(unknown)


def test_a_stream_that_breaks_off_is_logged_and_recorded(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()
    stream = begin(make_access(answering(broken()), recorder))
    with caplog.at_level(logging.ERROR), pytest.raises(RuntimeError, match="lost"):
        list(stream)
    stream.close()
    assert "broke off" in caplog.text
    assert [fields["error.type"] for fields in recorder.fields] == ["RuntimeError"]


@pytest.mark.parametrize("body", [(b"x",), broken(), BrokenClose()], ids=["bare", "open", "broken"])
def test_a_stream_is_recorded_once_when_it_is_closed(body: Iterable[bytes]) -> None:
    recorder = Recorder()
    stream = begin(make_access(answering(body), recorder))
    assert recorder.fields == []
    if isinstance(body, BrokenClose):
        with pytest.raises(RuntimeError, match="lost"):
            stream.close()
    stream.close()
    stream.close()
    assert len(recorder.fields) == 1


def test_every_answer_forbids_sniffing(client: FlaskClient) -> None:
    for path in ("/lab/things/tea", "/v1/nothing", "/docs/"):
        assert client.get(path).headers["X-Content-Type-Options"] == "nosniff", path


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "make",
    [
        lambda kind: kind("text"),
        lambda kind: kind(b"bytes", 201, {"Location": "/\u00e9"}),
        lambda kind: kind("kept", headers={"Content-Location": "/\u00e9"}),
        lambda kind: kind("not sent", 204),
        lambda kind: kind(["te", b"xt"]),
        lambda kind: kind(["te", "xt"], headers={"Content-Type": "a/b", "Content-Length": "4"}),
        lambda kind: kind(iter(["text"]), headers={"Content-Type": "a/b", "Content-Length": "4"}),
    ],
)
def test_an_answer_is_that_of_flask(
    method: str, make: Callable[[type[Response]], Response]
) -> None:
    assert call(make(DirectResponse), method=method) == call(make(Response), method=method)


def test_what_is_to_be_done_when_an_answer_was_sent_is_done() -> None:
    sent: list[Response] = []
    app = Application(__name__)

    def view() -> Response:
        @after_this_request
        def mark(response: Response) -> Response:
            response.call_on_close(lambda: sent.append(response))
            return response

        return DirectResponse("text")

    app.add_url_rule("/", view_func=view)
    assert call(contain(app))[2] == b"text"
    assert len(sent) == 1


def test_a_view_may_return_a_response_of_its_own_kind() -> None:
    class Shouting(Response):
        def iter_encoded(self) -> Iterator[bytes]:
            return (piece.upper() for piece in super().iter_encoded())

    app = Application(__name__)
    app.add_url_rule("/", view_func=lambda: Shouting("text"))
    assert call(contain(app))[2] == b"TEXT"


def test_hooks_that_are_registered_are_called() -> None:
    called: list[str] = []
    app = Application(__name__)
    app.add_url_rule("/", view_func=lambda: "text")
    app.url_value_preprocessor(lambda _endpoint, _values: called.append("values"))
    app.before_request(lambda: called.append("before"))
    app.teardown_request(lambda _error: called.append("teardown"))

    @app.after_request
    def after(response: Response) -> Response:
        called.append("after")
        return response

    def receive(_app: Application, **_: object) -> None:
        called.append("signal")

    with request_tearing_down.connected_to(receive, app):
        assert call(app)[2] == b"text"
    assert called == ["values", "before", "after", "teardown", "signal"]


def test_a_url_can_be_made_outside_a_request() -> None:
    app = Application(__name__)
    app.add_url_rule("/<name>", "view", lambda name: name)
    app.config["SERVER_NAME"] = "example.org"
    with app.app_context():
        assert url_for("view", name="a") == "http://example.org/a"


def test_an_empty_service_has_no_routes_of_its_own() -> None:
    assert list(Application(__name__).url_map.iter_rules()) == []


def test_sessions_json_and_the_class_of_responses_are_those_of_flask() -> None:
    app = Application(__name__)
    stock = Flask(__name__)
    assert type(app.json) is type(stock.json)
    assert type(app.session_interface) is type(stock.session_interface)
    assert app.response_class is stock.response_class is Response


def test_a_request_class_of_the_owner_is_used_and_its_route_recorded() -> None:
    class Shouting(Request):
        @property
        def shout(self) -> str:
            return f"{self.path}!"

    app = make_chain()
    app.request_class = Shouting
    app.add_url_rule("/shout", view_func=lambda: cast("Shouting", request).shout)
    recorder = Recorder()
    app.telemetry.recorders.append(recorder)
    assert call(app, "/shout")[2] == b"/shout!"
    assert [fields["http.route"] for fields in recorder.fields] == ["/shout"]


@pytest.mark.parametrize("path", ["//tea", "///tea", "/a//tea", "/tea//"])
def test_a_doubled_slash_is_404(path: str) -> None:
    app = make_chain()
    app.add_url_rule("/tea", "tea", lambda: "text")
    app.add_url_rule("/a/tea", "a", lambda: "text")
    assert call(app, environ_overrides={"PATH_INFO": path})[0] == 404


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("/a/tea", "tea/"),
        ("/a/tea?b=%C3%A9&c=/?", "tea/?b=%C3%A9&c=/?"),
        ("/a/x:%C3%A9%3F", "x%3A%C3%A9%3F/"),
    ],
)
def test_a_path_without_its_slash_leads_to_it_from_where_it_is(url: str, location: str) -> None:
    app = make_chain()
    app.add_url_rule("/a/<name>/", "a", lambda name: name)
    status, headers, body = call(app, url, headers={"Host": "evil.example"})
    assert (status, headers["Location"]) == (308, location)
    assert b"evil" not in body


def test_a_redirect_to_another_path_is_that_of_flask() -> None:
    app = make_chain()
    app.add_url_rule("/new/<name>/", "new", lambda name: name)
    app.add_url_rule("/old", "old", redirect_to="/new/tea/")
    _, headers, _ = call(app, "/old")
    assert headers["Location"] == "http://localhost/new/tea/"


def test_doubled_slashes_can_be_merged() -> None:
    app = make_chain()
    app.url_map.merge_slashes = True
    app.add_url_rule("/a/tea", "a", lambda: "text")
    assert call(app, environ_overrides={"PATH_INFO": "/a//tea"})[0] == 308


def test_a_recorder_that_fails_changes_neither_the_answer_nor_what_the_others_record(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = make_chain()
    recorder = Recorder()

    def fail(*_: object) -> None:
        raise RuntimeError

    app.telemetry.recorders.extend([fail, recorder])
    assert call(app, "/whole/tea")[0] == 200
    assert [fields["http.response.status_code"] for fields in recorder.fields] == [200]
    assert "could not be recorded" in caplog.text
    assert current_ids() == {}


def test_a_version_of_openmetrics_that_is_none_gets_text(client: FlaskClient) -> None:
    accept = "application/openmetrics-text; version=x"
    answer = client.get("/metrics", headers={"Accept": accept})
    assert (answer.status_code, answer.mimetype) == (200, "text/plain")
