"""The service as a process: its start, its readiness, its faults and its stop."""

import http.client
import logging
import os
import re
import resource
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest
from flask import Response, request
from lab import create_app
from support import PATIENCE
from support import Process
from support import Start
from support import wait_until

from service.chassis import lifecycle
from service.chassis.http.application import Application
from service.chassis.lifecycle import Check
from service.chassis.lifecycle import Readiness
from service.chassis.server import granian
from service.settings import Settings

MODULE = "chassis.server.test_granian"
FAULTY = f"{MODULE}:create_faulty_app"
LONG = "300"  # seconds: longer than any test waits
REQUEST_TIMEOUT = 0.5
THING = "/lab/things/tea"


def hold() -> str:
    """Answer once the file exists that the request names."""
    gate = Path(request.args["gate"])
    until = time.monotonic() + 60
    while not gate.exists() and time.monotonic() < until:
        time.sleep(0.01)
    return "held"


def leave() -> str:
    """End the process, if that can be done by a view."""
    raise SystemExit(1)


def stream() -> Response:
    """Break off in the middle of the answer."""

    def broken() -> Iterator[bytes]:
        yield b"first"
        raise RuntimeError("the rest is lost")

    return Response(broken())


def send_events() -> Response:
    """Send events until the client leaves."""

    def events() -> Iterator[bytes]:
        while True:
            yield b"data: 1\n\n"
            time.sleep(0.05)

    return Response(events(), mimetype="text/event-stream")


def create_faulty_app() -> Application:
    """Make the service's application with, beside its routes, some that misbehave."""
    app = create_app()
    app.add_url_rule("/hold", view_func=hold)
    app.add_url_rule("/exit", view_func=leave)
    app.add_url_rule("/stream", view_func=stream)
    app.add_url_rule("/events", view_func=send_events)
    app.add_url_rule("/status/<int:code>", "status", lambda code: ("", code))
    app.add_url_rule("/length", "length", lambda: str(len(request.get_data())), methods=["POST"])
    app.add_url_rule("/user", "user", lambda: request.headers.get("X-User", "nobody"))
    return app


def create_app_slowly() -> Application:
    """Say that the start has come here, and stay."""
    os.write(1, b"loading\n")
    time.sleep(60)
    return create_app()


def create_no_app() -> Application:
    """Fail to start."""
    raise RuntimeError("no such thing")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """One process for all tests that leave it as it was."""
    environment = {
        "CONCURRENCY": "2",
        "MAX_QUEUE": "3",
        "QUEUE_TIMEOUT": "60",
        "MAX_BODY_SIZE": "4096",
        "REQUEST_TIMEOUT": str(REQUEST_TIMEOUT),
        "HTTP_X_USER": "admin",
    }
    process = Process(tmp_path_factory.mktemp("served") / "log", FAULTY, environment)
    try:
        process.wait_ready()
        yield process
        assert process.stop() == 0
    finally:
        process.kill()


def exchange(process: Process, data: bytes, half_close: bool = False) -> bytes:
    """Return what comes back for these bytes until the service closes the connection."""
    answer = b""
    with socket.create_connection(("127.0.0.1", process.port), timeout=PATIENCE) as connection:
        connection.sendall(data)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        try:
            while piece := connection.recv(65536):
                answer += piece
        except ConnectionResetError:
            pass  # it has not read all of it
    return answer


@contextmanager
def held(process: Process, gate: Path, count: int) -> Iterator[list[int]]:
    """Send requests at once, which are answered at the block's end.

    Their statuses arrive in the list, 0 for one that gets no answer.
    """
    statuses: list[int] = []

    def ask() -> None:
        try:
            statuses.append(process.get(f"/hold?gate={quote(str(gate))}", timeout=60)[0])
        except (OSError, http.client.HTTPException):
            statuses.append(0)

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        gate.touch()
        for thread in threads:
            thread.join()


def worker_of(process: Process) -> int:
    """Return the process id of the one worker that was ever started."""
    (pid,) = re.findall(r"Spawning worker-\d+ with PID: (\d+)", process.output)
    return int(pid)


def is_running(pid: int) -> bool:
    """Return whether the process exists and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_it_serves_and_stops_with_status_0(start: Start) -> None:
    process = start()
    assert process.get("/livez")[0] == 200
    assert process.get(THING)[0] == 200
    assert process.stop() == 0


def test_every_line_is_json_from_start_to_stop(start: Start) -> None:
    process = start(FAULTY)
    process.get("/exit")
    process.stop()
    assert process.output.endswith("\n")
    assert {line["logger"] for line in process.lines()} >= {"_granian", "service", "service.access"}


def test_the_server_s_own_lines_follow_the_log_level(start: Start) -> None:
    process = start(LOG_LEVEL="ERROR")
    assert process.stop() == 0
    assert process.output == ""


def test_a_request_in_flight_survives_sigterm(start: Start, tmp_path: Path) -> None:
    process = start(FAULTY)
    with held(process, tmp_path / "gate", 3) as statuses:
        process.wait_active(3)
        process.popen.send_signal(signal.SIGTERM)
        wait_until(lambda: "Shutting down granian" in process.output)
    assert process.popen.wait(PATIENCE) == 0
    assert statuses == [200, 200, 200]


def test_while_it_drains_it_is_not_ready_serves_on_and_closes_connections(start: Start) -> None:
    process = start(DRAIN_DELAY=LONG)
    process.popen.send_signal(signal.SIGTERM)
    wait_until(lambda: b"draining" in process.get("/readyz")[2])
    status, headers, _ = process.get(THING)
    assert (status, headers["Connection"]) == (200, "close")
    assert process.stop() == 0  # a second signal does not wait for the end of the drain


class Followers:
    """Keep-alive clients that stop, as a load balancer does, once the service is not ready."""

    def __init__(self, process: Process, count: int) -> None:
        self.answers: list[int] = []
        self.lost: list[str] = []
        self._process = process
        self._draining = threading.Event()
        self.threads = [threading.Thread(target=self._load) for _ in range(count)]
        self.threads.append(threading.Thread(target=self._watch))
        for thread in self.threads:
            thread.start()

    def _watch(self) -> None:
        try:
            while b"draining" not in self._process.get("/readyz")[2]:
                time.sleep(0.05)
        except OSError as error:
            self.lost.append(f"readyz: {error!r}")
        self._draining.set()

    def _load(self) -> None:
        connection = self._process.connect()
        try:
            while not self._draining.is_set():
                connection.request("GET", THING)
                answer = connection.getresponse()
                answer.read()
                self.answers.append(answer.status)
        except (OSError, http.client.HTTPException) as error:
            self.lost.append(repr(error))
        connection.close()


def test_clients_that_follow_readiness_lose_no_request_when_it_stops(start: Start) -> None:
    process = start(DRAIN_DELAY=LONG)
    followers = Followers(process, 4)
    wait_until(lambda: len(followers.answers) > 20)
    process.popen.send_signal(signal.SIGTERM)
    for thread in followers.threads:
        thread.join()
    assert process.stop() == 0
    assert followers.lost == []
    assert set(followers.answers) == {200}


def test_sigterm_while_it_starts_ends_it(start: Start) -> None:
    process = start(f"{MODULE}:create_app_slowly", ready=False)
    wait_until(lambda: "loading" in process.output)
    assert process.stop() == 0


def test_ctrl_c_pressed_again_and_again_still_finishes_what_is_in_flight(
    start: Start, tmp_path: Path
) -> None:
    process = start(FAULTY, SHUTDOWN_GRACE=LONG)
    with held(process, tmp_path / "gate", 1) as statuses:
        process.wait_active(1)
        for _ in range(4):
            os.killpg(process.popen.pid, signal.SIGINT)
            wait_until(lambda: "Shutting down granian" in process.output)
            time.sleep(0.05)  # as a hand that presses it, so that each is a signal of its own
    assert process.popen.wait(PATIENCE) == 0
    assert statuses == [200]


def test_an_application_that_cannot_be_made_ends_the_start_with_status_3_and_one_traceback(
    start: Start,
) -> None:
    process = start(f"{MODULE}:create_no_app", ready=False)
    assert process.popen.wait(PATIENCE) == 3
    assert process.output.count("RuntimeError: no such thing") == 1


def test_a_port_in_use_ends_the_start_with_status_1_and_one_line(start: Start) -> None:
    first = start()
    second = start(ready=False, PORT=str(first.port))
    assert second.popen.wait(PATIENCE) == 1
    what = f"cannot listen on 127.0.0.1 port {first.port}: Address already in use\n"
    assert second.output == what


def test_a_port_is_tried_in_the_family_of_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[str, socket.AddressFamily]] = []

    def create_server(address: tuple[str, int], family: socket.AddressFamily) -> socket.socket:
        tried.append((address[0], family))
        return socket.socket()

    monkeypatch.setattr(socket, "create_server", create_server)
    for address in ("0.0.0.0", "::"):  # noqa: S104 nothing listens there
        granian.refuse_busy_port(address, 5000)
    assert tried == [("0.0.0.0", socket.AF_INET), ("::", socket.AF_INET6)]  # noqa: S104


def test_a_python_without_the_lock_that_signals_need_ends_the_start(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    with pytest.raises(SystemExit, match="a free-threaded Python is not supported"):
        granian.serve(settings, FAULTY, {})


def test_bad_settings_end_the_start_with_status_2_and_all_errors(start: Start) -> None:
    process = start(ready=False, PORT="http", CONCURRENCY="0", LOG_LEVEL="loud")
    assert process.popen.wait(PATIENCE) == 2
    names = [line.split(":")[1].strip() for line in process.output.splitlines()]
    assert sorted(names) == ["CONCURRENCY", "LOG_LEVEL", "PORT"]


def test_with_every_slot_and_the_queue_taken_probes_answer_and_more_requests_get_503(
    served: Process, tmp_path: Path
) -> None:
    with held(served, tmp_path / "gate", 40) as statuses:
        wait_until(lambda: len(statuses) == 35)
        assert set(statuses) == {503}
        served.wait_active(2)
        assert served.gauge("http_server_waiting_requests") == 3
        wait_until(lambda: served.get("/readyz")[0] == 200)
        assert [served.get(probe)[0] for probe in ("/livez", "/metrics")] == [200] * 2
        status, headers, _ = served.get(THING)
        assert (status, headers["Retry-After"]) == (503, "1")
        assert headers["Content-Type"] == "application/problem+json"
    assert sorted(statuses) == [200] * 5 + [503] * 35


def test_requests_that_wait_are_served_when_it_stops(start: Start, tmp_path: Path) -> None:
    process = start(FAULTY, CONCURRENCY="1", QUEUE_TIMEOUT="60")
    with held(process, tmp_path / "gate", 3) as statuses:
        wait_until(lambda: process.gauge("http_server_waiting_requests") == 2)
        process.popen.send_signal(signal.SIGTERM)
        wait_until(lambda: "Shutting down granian" in process.output)
    assert process.popen.wait(PATIENCE) == 0
    assert statuses == [200, 200, 200]


def test_by_default_readers_of_endless_streams_leave_room_for_others(start: Start) -> None:
    process = start(FAULTY)
    with ExitStack() as stack:
        for _ in range(4):
            reader = stack.enter_context(closing(process.connect()))
            reader.request("GET", "/events")
            assert reader.getresponse().readline() == b"data: 1\n"
        assert process.gauge("http_server_active_requests") == 4
        assert [process.get(THING)[0] for _ in range(20)] == [200] * 20
    process.wait_active(0)


@pytest.mark.parametrize(
    ("path", "size"),
    [("/length", 1000), ("/length", 100_000), ("/nope", 1000), (THING, 100_000), ("/nope", 4000)],
)
def test_a_client_that_goes_on_with_its_connection_loses_no_answer(
    served: Process, path: str, size: int
) -> None:
    with closing(served.connect()) as connection:
        statuses = set()
        for _ in range(20):
            connection.request("POST", path, b"[" * size, {"Content-Type": "text/plain"})
            answer = connection.getresponse()
            answer.read()
            statuses.add((answer.status, answer.headers["Connection"]))
    assert len(statuses) == 1


def test_half_sent_requests_hold_no_thread(served: Process) -> None:
    with ExitStack() as stack:
        for _ in range(20):
            connection = stack.enter_context(closing(served.connect()))
            connection.request("GET", "/livez")  # so that it is known to be accepted
            connection.getresponse().read()
            connection.sock.sendall(b"GET /lab/things HTTP/1.1\r\nHost: a\r\nX-Half")
        assert served.get(THING)[0] == 200


def test_bodies_that_never_arrive_do_not_stop_the_probes(served: Process) -> None:
    with ExitStack() as stack:
        for _ in range(10):
            address = ("127.0.0.1", served.port)
            connection = stack.enter_context(socket.create_connection(address))
            connection.sendall(
                b"POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n12345"
            )
        served.wait_active(2)
        wait_until(lambda: served.gauge("http_server_waiting_requests") == 3)
        assert served.get("/livez")[0] == 200
        assert served.get(THING)[0] == 503
    served.wait_active(0)
    assert served.get(THING)[0] == 200


@pytest.fixture
def _many_files() -> Iterator[None]:
    """As many open files as the system lets a process have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("_many_files")
def test_connections_at_their_limit_let_nobody_else_in_until_one_is_closed(start: Start) -> None:
    process = start()
    address = ("127.0.0.1", process.port)
    with socket.create_connection(address, timeout=PATIENCE) as first, ExitStack() as stack:
        for _ in range(granian.MAX_CONNECTIONS - 1):
            stack.enter_context(socket.create_connection(address, timeout=PATIENCE))
        late = stack.enter_context(socket.create_connection(address, timeout=PATIENCE))
        late.sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
        late.settimeout(0.5)
        with pytest.raises(TimeoutError):
            late.recv(12)
        first.close()
        late.settimeout(PATIENCE)
        assert late.recv(12) == b"HTTP/1.1 200"


def test_a_body_that_dribbles_past_the_timeout_gets_408(served: Process) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE) as connection:

        def is_answered() -> bool:
            return bool(select.select((connection,), (), (), 0)[0])

        connection.sendall(b"POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 4000\r\n\r\n")
        connection.sendall(b"x" * 1024)
        wait_until(lambda: is_answered() or served.gauge("http_server_active_requests") == 1)
        time.sleep(2 * REQUEST_TIMEOUT)  # it has begun before, so that its time is over behind this
        connection.sendall(b"x" * 1024)
        assert connection.recv(100).startswith(b"HTTP/1.1 408")


def test_neither_a_bad_status_nor_an_exit_ends_the_process(served: Process) -> None:
    paths = ("/status/99", "/status/101", "/status/1000", "/exit")
    assert [served.get(path)[0] for path in paths] == [500] * 4
    assert served.get(THING)[0] == 200
    assert worker_of(served)


def test_an_answer_that_breaks_off_is_logged_as_an_error(served: Process) -> None:
    # Whether the client sees the break depends on granian's version.
    exchange(served, b"GET /stream HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    wait_until(lambda: any(line.get("error.type") == "RuntimeError" for line in served.lines()))


def test_a_body_cut_short_is_refused(served: Process) -> None:
    head = b"POST /length HTTP/1.1\r\nHost: a\r\nX-Request-ID: cut\r\nContent-Length: 100\r\n\r\n"
    exchange(served, head + b"12345", half_close=True)

    def statuses() -> list[int]:
        lines = [line for line in served.lines() if line.get("request_id") == "cut"]
        return [line["http.response.status_code"] for line in lines]

    wait_until(lambda: len(statuses()) > 0)
    assert statuses() == [400]


def test_a_chunked_body_has_the_same_limit(served: Process) -> None:
    def chunked(size: int, media_type: bytes) -> bytes:
        head = b"POST /length HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
        head += b"Transfer-Encoding: chunked\r\nContent-Type: %s\r\n\r\n" % media_type
        return head + b"%x\r\n%s\r\n0\r\n\r\n" % (size, b"x" * size)

    assert exchange(served, chunked(4096, b"application/json")).endswith(b"\r\n\r\n4096")
    assert exchange(served, chunked(4097, b"application/json")).startswith(b"HTTP/1.1 413")
    assert exchange(served, chunked(5, b"text/plain")).startswith(b"HTTP/1.1 411")


GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
POST = b"POST /length HTTP/1.1\r\nHost: a\r\n"
MALFORMED = {
    "no HTTP": b"hello\r\n\r\n",
    "unknown version": b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
    "header without colon": GET + b"broken\r\n\r\n",
    "folded header": GET + b"X: 1\r\n 2\r\n\r\n",
    "NUL in a header": GET + b"X: \x00\r\n\r\n",
    "unequal lengths": POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "no number for a length": POST + b"Content-Length: three\r\n\r\nabc",
    "101 headers": GET + b"".join(b"X-%d: 1\r\n" % number for number in range(101)) + b"\r\n",
    "a huge header": GET + b"X: " + b"x" * 20_000 + b"\r\n\r\n",
    "a huge target": b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
}


def test_malformed_http_gets_4xx_and_harms_no_other_request(served: Process) -> None:
    with closing(served.connect()) as other:
        for name, data in MALFORMED.items():
            answer = exchange(served, data)
            assert re.match(rb"HTTP/1\.[01] 4\d\d ", answer), (name, answer[:80])
            other.request("GET", THING)
            answered = other.getresponse()
            assert (answered.status, len(answered.read()) > 0) == (200, True), name


def test_the_environment_of_the_process_is_no_header(served: Process) -> None:
    assert served.get("/user")[2] == b"nobody"
    assert served.get("/user", {"X-User": "ann"})[2] == b"ann"


def test_a_killed_worker_ends_the_service_with_status_1(start: Start) -> None:
    process = start()
    os.kill(worker_of(process), signal.SIGKILL)
    assert process.popen.wait(PATIENCE) == 1


@pytest.mark.skipif(
    not Path("/proc").exists(), reason="only Linux tells a process of its parent's death"
)
def test_no_worker_outlives_the_supervisor(start: Start) -> None:
    process = start()
    worker = worker_of(process)
    assert process.stop(signal.SIGKILL) == -signal.SIGKILL
    wait_until(lambda: not is_running(worker))


def ask_for_stacks(process: Process, is_enough: Callable[[str], bool]) -> None:
    """Return once the output has the stacks that are asked for.

    Python may overlook a signal until the next one, where another thread than the main one took
    it; so it is asked again after a second, and not before.
    """
    asked = 0.0

    def is_shown() -> bool:
        nonlocal asked
        if time.monotonic() - asked > 1:
            asked = time.monotonic()
            process.popen.send_signal(signal.SIGQUIT)
        return is_enough(process.output)

    wait_until(is_shown)


def has_stacks(count: int, output: str) -> bool:
    """Return whether stacks were shown so often."""
    return output.count("Current thread") >= count


def test_sigquit_harms_no_thread_that_works(start: Start) -> None:
    process = start(CONCURRENCY="8", LOG_LEVEL="ERROR")
    enough = threading.Event()
    statuses: list[int] = []

    def ask() -> None:
        with closing(process.connect()) as connection:
            while not enough.is_set():
                connection.request("GET", THING)
                answer = connection.getresponse()
                answer.read()
                statuses.append(answer.status)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        for count in range(1, 11):
            ask_for_stacks(process, partial(has_stacks, count))
    finally:
        enough.set()
        for thread in threads:
            thread.join()
    assert set(statuses) == {200}
    assert process.stop() == 0


def test_sigquit_shows_the_stacks_and_changes_nothing_else(start: Start, tmp_path: Path) -> None:
    process = start(FAULTY)
    with held(process, tmp_path / "gate", 1) as statuses:
        process.wait_active(1)
        ask_for_stacks(process, lambda output: "in hold" in output)
        assert process.get(THING)[0] == 200
    assert statuses == [200]
    assert worker_of(process)
    assert process.stop() == 0


class Clock:
    """The time of checks, in place of the module: their threads sleep until the test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.go_on = threading.Event()  # of a check that hangs
        self.slept: list[float] = []
        self._turns: dict[threading.Thread, threading.Semaphore] = {}
        self._others = set(threading.enumerate())  # checks of earlier tests among them
        self._is_over = False

    def monotonic(self) -> float:
        """Return the time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Wait for the thread's next turn, or end it."""
        if threading.current_thread() in self._others:
            time.sleep(seconds)
            return
        turn = self._turns.setdefault(threading.current_thread(), threading.Semaphore(0))
        self.slept.append(seconds)
        turn.acquire()
        if self._is_over:
            raise SystemExit

    def wait_asleep(self, runs: int) -> None:
        """Return once all checks together have run so often."""
        wait_until(lambda: len(self.slept) == runs)

    def wake(self) -> None:
        """Let every check run once more."""
        for turn in list(self._turns.values()):
            turn.release()

    def end(self) -> None:
        """End the threads."""
        self._is_over = True
        self.go_on.set()
        self.wake()
        for thread in self._turns:
            thread.join()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """The time of checks; a first probe waits for long."""
    clock = Clock()
    monkeypatch.setattr(lifecycle, "time", clock)
    monkeypatch.setattr(lifecycle, "CHECK_INTERVAL", 1.0)
    monkeypatch.setattr(lifecycle, "CHECK_TIMEOUT", 15.0)
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)  # passes SystemExit
    yield clock
    clock.end()


def test_readiness_names_the_check_that_fails_and_recovers(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    failing = {"store"}

    def check(name: str) -> None:
        if name in failing:
            raise ConnectionError("refused")

    readiness = Readiness()
    for name in ("store", "queue"):
        readiness.require(name, partial(check, name))
    failures = [readiness.failures()]
    for runs, names in ((4, {"store"}), (6, set()), (8, {"queue"})):
        clock.wait_asleep(runs - 2)
        failing.clear()
        failing.update(names)
        clock.wake()
        clock.wait_asleep(runs)
        failures.append(readiness.failures())
    assert failures == [["store"], ["store"], [], ["queue"]]
    assert caplog.messages == [
        "not ready: store: ConnectionError('refused')",
        "not ready: queue: ConnectionError('refused')",
    ]


def test_however_many_probes_come_a_check_is_asked_once_a_second(clock: Clock) -> None:
    asked: list[int] = []
    check = Check("store", lambda: asked.append(1))
    assert [check.passed() for _ in range(100)] == [True] * 100
    assert len(asked) == 1
    clock.wait_asleep(1)
    clock.wake()
    clock.wait_asleep(2)
    assert len(asked) == 2
    assert clock.slept == [1.0, 1.0]


def test_a_check_that_hangs_fails_and_no_probe_waits_for_it(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    clock.go_on.set()

    def ask() -> None:
        asked.append(1)
        clock.go_on.wait()

    def refuse(_seconds: float) -> None:
        pytest.fail("a probe waits")

    check = Check("store", ask)
    assert check.passed()
    clock.wait_asleep(1)
    clock.go_on.clear()
    clock.wake()
    wait_until(lambda: len(asked) == 2)
    clock.now = 15.9
    assert check.passed()
    clock.now = 16.0
    monkeypatch.setattr(check._ran, "wait", refuse)
    assert not any(check.passed() for _ in range(100))
    assert len(asked) == 2
    clock.go_on.set()
    clock.wait_asleep(2)
    assert check.passed()


def test_a_check_that_hangs_from_the_start_fails_until_it_ends(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "CHECK_TIMEOUT", 0.01)
    check = Check("store", clock.go_on.wait)
    assert [check.passed(), check.passed()] == [False, False]
    clock.go_on.set()
    clock.wait_asleep(1)
    assert check.passed()


def test_what_drains_is_not_ready_whatever_its_checks_say(clock: Clock) -> None:
    readiness = Readiness()
    readiness.require("store", lambda: None)
    assert (readiness.failures(), readiness.draining) == ([], False)
    clock.wait_asleep(1)
    readiness.drain()
    assert (readiness.failures(), readiness.draining) == (["draining"], True)
