"""The service as a process: its start, its faults and its stop."""

import http.client
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Process
from conftest import Start
from conftest import wait_until
from flask import Response, request

from service.app import create_app
from service.chassis import server
from service.chassis.framework import Service

FAULTY = "test_server:create_faulty_app"


def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


def leave() -> str:
    raise SystemExit(1)


def stream() -> Response:
    def broken() -> Iterator[bytes]:
        yield b"first"
        raise RuntimeError("the rest is lost")

    return Response(broken())


def create_faulty_app() -> Service:
    """The service's application and, beside its routes, some that misbehave."""
    app = create_app()
    app.add_url_rule("/sleep/<float:seconds>", view_func=sleep)
    app.add_url_rule("/exit", view_func=leave)
    app.add_url_rule("/stream", view_func=stream)
    app.add_url_rule("/status/<int:code>", "status", lambda code: ("", code))
    app.add_url_rule("/length", "length", lambda: str(len(request.get_data())), methods=["POST"])
    app.add_url_rule("/user", "user", lambda: request.headers.get("X-User", "nobody"))
    return app


def create_app_slowly() -> Service:
    time.sleep(2)
    return create_app()


def create_no_app() -> Service:
    raise RuntimeError("no such thing")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """One process for all tests that leave it as it was."""
    environment = {"CONCURRENCY": "2", "MAX_BODY_SIZE": "4096", "REQUEST_TIMEOUT": "0.5", "HTTP_X_USER": "admin"}
    process = Process(tmp_path_factory.mktemp("served") / "log", FAULTY, environment)
    process.wait_ready()
    yield process
    assert process.stop() == 0


def raw(process: Process, data: bytes, half_close: bool = False) -> bytes:
    """What comes back for these bytes, until the service closes or pauses for two seconds."""
    answer = b""
    with socket.create_connection(("127.0.0.1", process.port), timeout=2) as connection:
        connection.sendall(data)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        try:
            while piece := connection.recv(65536):
                answer += piece
        except (TimeoutError, ConnectionResetError):
            pass
    return answer


def workers_of(process: Process) -> list[int]:
    return [int(pid) for pid in re.findall(r"Spawning worker-\d+ with PID: (\d+)", process.output)]


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def in_background(process: Process, path: str, count: int) -> tuple[list[threading.Thread], list[int]]:
    """Send `count` requests at once; the statuses arrive in the list, 0 for one that got no answer."""
    statuses: list[int] = []

    def ask() -> None:
        try:
            statuses.append(process.get(path, timeout=20)[0])
        except OSError:
            statuses.append(0)

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads, statuses


def test_it_serves_and_stops_with_status_0(start: Start) -> None:
    process = start()
    assert process.get("/livez")[0] == 200
    assert process.get("/v1/products/tea")[0] == 200
    assert process.stop() == 0


def test_every_line_is_json_from_start_to_stop(start: Start) -> None:
    process = start(FAULTY)
    process.get("/exit")
    process.stop()
    assert {line["logger"] for line in process.lines()} > {"_granian", "service", "service.access"}


def test_the_server_s_own_lines_follow_the_log_level(start: Start) -> None:
    process = start(LOG_LEVEL="ERROR")
    assert process.stop() == 0
    assert process.output == ""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_request_in_flight_survives_sigterm(start: Start, workers: str) -> None:
    process = start(FAULTY, WORKERS=workers)
    threads, statuses = in_background(process, "/sleep/1.0", 3)
    time.sleep(0.5)
    assert process.stop() == 0
    for thread in threads:
        thread.join()
    assert statuses == [200, 200, 200]


def test_while_it_drains_it_is_not_ready_serves_on_and_closes_connections(start: Start) -> None:
    process = start(DRAIN_DELAY="2")
    process.popen.send_signal(signal.SIGTERM)
    wait_until(lambda: process.get("/readyz")[0] == 503)
    status, headers, _ = process.get("/v1/products/tea")
    assert (status, headers["Connection"]) == (200, "close")
    assert process.popen.wait(10) == 0


class Followers:
    """Keep-alive clients in a closed loop that stop, as a load balancer does, once the service is not ready."""

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
            while self._process.get("/readyz")[0] == 200:
                time.sleep(0.05)
        except OSError as error:
            self.lost.append(f"readyz: {error!r}")
        self._draining.set()

    def _load(self) -> None:
        connection = self._process.connect()
        try:
            while not self._draining.is_set():
                connection.request("GET", "/sleep/0.01")
                answer = connection.getresponse()
                answer.read()
                self.answers.append(answer.status)
        except (OSError, http.client.HTTPException) as error:
            self.lost.append(repr(error))
        connection.close()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_clients_that_follow_readiness_lose_no_request_when_it_stops(start: Start, workers: str) -> None:
    process = start(FAULTY, DRAIN_DELAY="1", WORKERS=workers)
    followers = Followers(process, 4)
    time.sleep(0.5)
    assert process.stop() == 0
    for thread in followers.threads:
        thread.join()
    assert followers.lost == []
    assert set(followers.answers) == {200}


def test_sigterm_while_it_starts_ends_it(start: Start) -> None:
    process = start("test_server:create_app_slowly", ready=False)
    wait_until(lambda: "Spawning worker" in process.output)
    time.sleep(0.5)
    assert process.stop(timeout=5) == 0


def test_ctrl_c_pressed_again_and_again_still_finishes_what_is_in_flight(start: Start) -> None:
    process = start(FAULTY)
    threads, statuses = in_background(process, "/sleep/1.0", 1)
    time.sleep(0.3)
    for _ in range(4):
        os.killpg(process.popen.pid, signal.SIGINT)
        time.sleep(0.05)
    assert process.popen.wait(10) == 0
    threads[0].join()
    assert statuses == [200]


@pytest.mark.parametrize("workers", ["1", "3"])
def test_an_application_that_cannot_be_made_ends_the_start_with_status_3_and_one_traceback(
    start: Start, workers: str
) -> None:
    process = start("test_server:create_no_app", ready=False, WORKERS=workers)
    assert process.popen.wait(15) == 3
    assert 1 <= process.output.count("RuntimeError: no such thing") <= int(workers)


def test_a_port_in_use_ends_the_start_with_status_1_and_one_line(start: Start) -> None:
    first = start()
    second = start(ready=False, PORT=str(first.port))
    assert second.popen.wait(10) == 1
    assert second.output == f"cannot listen on 127.0.0.1 port {first.port}: Address already in use\n"


def test_bad_settings_end_the_start_with_status_2_and_all_errors(start: Start) -> None:
    process = start(ready=False, PORT="http", WORKERS="0", LOG_LEVEL="loud")
    assert process.popen.wait(10) == 2
    assert [line.split(":")[1].strip() for line in process.output.splitlines()] == ["PORT", "WORKERS", "LOG_LEVEL"]


def test_with_every_thread_busy_probes_answer_and_more_requests_get_503(served: Process) -> None:
    threads, statuses = in_background(served, "/sleep/1.5", 40)
    time.sleep(0.3)
    for probe in ("/livez", "/readyz", "/metrics"):
        assert served.get(probe, timeout=1)[0] == 200
    status, headers, _ = served.get("/v1/products/tea", timeout=1)
    assert (status, headers["Retry-After"], headers["Content-Type"]) == (503, "1", "application/problem+json")
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] * 2 + [503] * 38


def test_half_sent_requests_hold_no_thread(served: Process) -> None:
    stuck = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(20)]
    for connection in stuck:
        connection.sendall(b"GET /v1/products HTTP/1.1\r\nHost: a\r\nX-Half")
    assert served.get("/v1/products/tea", timeout=1)[0] == 200
    for connection in stuck:
        connection.close()


def test_bodies_that_never_arrive_do_not_stop_the_probes(served: Process) -> None:
    stuck = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(10)]
    for connection in stuck:
        connection.sendall(b"POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n12345")
    time.sleep(0.3)
    assert served.get("/livez", timeout=1)[0] == 200
    for connection in stuck:
        connection.close()
    wait_until(lambda: served.get("/v1/products/tea")[0] == 200)


def test_a_body_that_dribbles_past_the_timeout_gets_408(served: Process) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=5) as connection:
        connection.sendall(b"POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 4000\r\n\r\n")
        for _ in range(3):
            time.sleep(0.3)
            connection.sendall(b"x" * 1024)
        assert connection.recv(100).startswith(b"HTTP/1.1 408")


def test_neither_a_bad_status_nor_an_exit_ends_the_process(served: Process) -> None:
    assert [served.get(path)[0] for path in ("/status/99", "/status/101", "/status/1000", "/exit")] == [500] * 4
    assert served.get("/v1/products/tea")[0] == 200
    assert len(workers_of(served)) == 1


def test_an_answer_that_breaks_off_is_logged_as_an_error(served: Process) -> None:
    served.get("/stream")
    wait_until(lambda: any(line.get("error.type") == "RuntimeError" for line in served.lines()))


def test_a_body_cut_short_is_refused(served: Process) -> None:
    cut = b"POST /length HTTP/1.1\r\nHost: a\r\nX-Request-ID: cut\r\nContent-Length: 100\r\n\r\n12345"
    raw(served, cut, half_close=True)

    def statuses() -> list[int]:
        return [line["http.response.status_code"] for line in served.lines() if line.get("request_id") == "cut"]

    wait_until(lambda: len(statuses()) > 0)
    assert statuses() == [400]


def test_a_chunked_body_has_the_same_limit(served: Process) -> None:

    def chunked(size: int, media_type: bytes) -> bytes:
        head = b"POST /length HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"
        return head + b"Content-Type: %s\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (media_type, size, b"x" * size)

    assert raw(served, chunked(4096, b"application/json")).endswith(b"\r\n\r\n4096")
    assert raw(served, chunked(4097, b"application/json")).startswith(b"HTTP/1.1 413")
    assert raw(served, chunked(5, b"text/plain")).startswith(b"HTTP/1.1 411")


MALFORMED = {
    "no HTTP": b"hello\r\n\r\n",
    "unknown version": b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
    "header without colon": b"GET / HTTP/1.1\r\nHost: a\r\nbroken\r\n\r\n",
    "folded header": b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n",
    "NUL in a header": b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n",
    "unequal lengths": b"POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "no number for a length": b"POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: three\r\n\r\nabc",
    "101 headers": b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X-%d: 1\r\n" % n for n in range(101)) + b"\r\n",
    "a huge header": b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 300_000 + b"\r\n\r\n",
    "a huge target": b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
}


def test_malformed_http_gets_4xx_and_harms_no_other_request(served: Process) -> None:
    other = served.connect()
    for name, data in MALFORMED.items():
        answer = raw(served, data)
        assert re.match(rb"HTTP/1\.[01] 4\d\d ", answer), (name, answer[:80])
        other.request("GET", "/v1/products/tea")
        answered = other.getresponse()
        assert (answered.status, len(answered.read()) > 0) == (200, True), name
    other.close()


def test_the_environment_of_the_process_is_no_header(served: Process) -> None:
    assert served.get("/user")[2] == b"nobody"
    assert served.get("/user", {"X-User": "ann"})[2] == b"ann"


def test_a_killed_worker_ends_a_service_of_one(start: Start) -> None:
    process = start()
    os.kill(workers_of(process)[0], signal.SIGKILL)
    assert process.popen.wait(10) == 1


def test_of_several_workers_a_killed_one_comes_back_and_no_counter_goes_down(start: Start) -> None:
    process = start(WORKERS="2")
    wait_until(lambda: process.output.count("Started worker") == 2)

    def counted() -> float:
        found = re.search(r"duration_seconds_count\{.*products.*\} (\S+)", process.get("/metrics")[2].decode())
        return float(found[1]) if found else 0

    for _ in range(20):
        process.get("/v1/products/tea")
    before = counted()
    os.kill(workers_of(process)[0], signal.SIGKILL)
    wait_until(lambda: process.output.count("Started worker") == 3)
    wait_until(lambda: not running(workers_of(process)[0]))
    assert counted() == before == 20
    assert process.stop() == 0


def test_of_several_workers_the_process_is_shown_as_well(start: Start) -> None:
    process = start(WORKERS="2", CONCURRENCY="3")

    def shown(name: str) -> list[float]:
        series = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", process.get("/metrics")[2].decode(), re.MULTILINE)
        return [float(value) for value in series]

    wait_until(lambda: process.output.count("Started worker") == 2)
    wait_until(lambda: shown("http_server_active_requests_limit") == [6])
    wait_until(lambda: 0 < time.time() - (shown("process_start_time_seconds") or [0])[0] < 60)
    cpu = shown("process_cpu_seconds_total")[0]
    assert sum(shown("python_gc_collections_total")) > 0
    os.kill(workers_of(process)[0], signal.SIGKILL)
    wait_until(lambda: process.output.count("Started worker") == 3)
    assert shown("process_cpu_seconds_total")[0] >= cpu > 0
    assert process.stop() == 0


@pytest.mark.skipif(not Path("/proc").exists(), reason="only Linux tells a process of its parent's death")
def test_no_worker_outlives_the_supervisor(start: Start) -> None:
    process = start()
    worker = workers_of(process)[0]
    assert process.stop(signal.SIGKILL) == -signal.SIGKILL
    wait_until(lambda: not running(worker))


def test_sigquit_harms_no_thread_that_works(start: Start) -> None:
    process = start()
    ended = time.monotonic() + 2

    def ask() -> None:
        connection = process.connect()
        while time.monotonic() < ended:
            connection.request("GET", "/v1/products/tea")
            connection.getresponse().read()
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    while time.monotonic() < ended:
        process.popen.send_signal(signal.SIGQUIT)
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    assert process.output.count("Current thread") > 5
    assert process.stop() == 0


def test_the_folder_of_shared_metrics_is_gone_after_a_failure_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "restored after the test")
    shared = server._shared_metrics()
    shared.__enter__()
    folder = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    assert folder.is_dir()
    assert not shared.__exit__(RuntimeError, RuntimeError(), None)
    assert not folder.exists()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sigquit_shows_the_stacks_of_all_workers_and_changes_nothing_else(start: Start, workers: str) -> None:
    process = start(FAULTY, WORKERS=workers)
    threads, statuses = in_background(process, "/sleep/1.5", 1)
    time.sleep(0.5)
    process.popen.send_signal(signal.SIGQUIT)
    wait_until(lambda: process.output.count("Current thread") == int(workers) and "in sleep" in process.output)
    assert process.get("/v1/products/tea")[0] == 200
    threads[0].join()
    assert statuses == [200]
    assert len(workers_of(process)) == int(workers)
    assert process.stop() == 0
