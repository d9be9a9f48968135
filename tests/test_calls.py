"""Services that call others under load: what a bad callee costs, and a deadline over three hops."""

import http.client
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import Bake

pytestmark = pytest.mark.slow

RATE = 100  # requests a second
SECONDS = 20
TIMEOUT = 0.5  # seconds of a call
DEADLINE = 1.0  # seconds that the callers of the caller wait
VIEWS = '''"""Views that call another service, and one that does not."""

from flask import Blueprint, Flask

from service.chassis.client.calls import client
from service.chassis.http.routes import Routes
from service.chassis.http.validation import Model

blueprint = Blueprint("calling", __name__, url_prefix="/v1")
routes = Routes(blueprint)


class Thing(Model):
    name: str


@routes.get("/calls")
def call() -> Thing:
    """Ask the next service."""
    return client("next").get("/v1/calls", Thing)


@routes.get("/other")
def other() -> Thing:
    """Ask nobody."""
    return Thing(name="other")


def init_app(app: Flask) -> None:
    """Add the routes."""
    app.register_blueprint(blueprint)
'''
# A callee of its own process, told its behaviour on standard input; it prints port and counts.
CALLEE = """
import sys, time
from callee import Callee, Connection

def slow(connection):
    connection.server.stopped.wait(0.3)
    connection.send()

def dribble(connection):
    connection.wfile.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 1000\\r\\n\\r\\n")
    connection.dribble(b"x" * 1000, 0.05)

def half(connection):
    connection.wfile.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 99\\r\\n\\r\\n{")
    return False

def good(connection):
    connection.send(200, b'{"name": "next"}')

BEHAVIOURS = {
    "good": good,
    "slow": slow,
    "hang": Connection.hang,
    "dribble": dribble,
    "reset": Connection.reset,
    "503": lambda connection: connection.send(503, b"{}"),
    "503 soon": lambda connection: connection.send(503, b"{}", Retry_After="0"),
    "503 later": lambda connection: connection.send(503, b"{}", Retry_After="1"),
    "half": half,
}
server = Callee(good, port=int(sys.argv[1]))
print(server.port, flush=True)
for line in sys.stdin:
    name = line.strip()
    if name == "restart":
        server.stop()
        time.sleep(0.3)
        requests = server.requests
        server = Callee(good, port=server.port)
        server.requests = requests
    elif name in BEHAVIOURS:
        server.behave = BEHAVIOURS[name]
    waits = [one.headers["x-envoy-expected-rq-timeout-ms"] for one in server.requests[-20:]]
    print(len(server.requests), *waits, flush=True)
"""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class Other:
    """The callee."""

    def __init__(self, python: Path, service: Path) -> None:
        self._process = subprocess.Popen(
            (str(python), "-c", CALLEE, "0"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(service / "tests")},
        )
        assert self._process.stdout
        self.port = int(self._process.stdout.readline())

    def tell(self, behaviour: str) -> list[int]:
        """Change how it behaves; return how many requests came, and the last ones' times."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{behaviour}\n")
        self._process.stdin.flush()
        return [int(text) for text in self._process.stdout.readline().split()]

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


def ask(port: int, path: str, **headers: str) -> tuple[int, float, bytes]:
    """Return status, seconds and body of one request."""
    started = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        return answer.status, time.monotonic() - started, body
    finally:
        connection.close()


def eventually(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"not within {seconds} s: {what}"
        time.sleep(0.1)


def is_ready(port: int) -> bool:
    try:
        return ask(port, "/readyz")[0] == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def service(bake: Bake, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service that calls another."""
    service = Path(shutil.copytree(bake(sample="no"), tmp_path_factory.mktemp("calls") / "service"))
    source = service / "src" / "service"
    (source / "api" / "calling.py").write_text(VIEWS, "utf-8")
    changes = {
        "app.py": ("    api.init_app(app)", "    api.calling.init_app(app)\n    api.init_app(app)"),
        "api/__init__.py": ("\nfrom ", "\nfrom service.api import calling as calling\nfrom "),
        "settings.py": (
            '    """Read once',
            '    next_url: CalleeUrl = HttpUrl("http://127.0.0.1:9")\n    """Read once',
        ),
    }
    for name, (old, new) in changes.items():
        text = (source / name).read_text("utf-8")
        assert old in text
        (source / name).write_text(text.replace(old, new, 1), "utf-8")
    text = (source / "settings.py").read_text("utf-8")
    imports = (
        "from pydantic import HttpUrl\nfrom service.chassis.client.settings import CalleeUrl\n"
    )
    text = text.replace("\nfrom service", f"\n{imports}from service", 1)
    (source / "settings.py").write_text(text, "utf-8")
    return service


@contextmanager
def serving(python: Path, service: Path, next_port: int, **settings: str) -> Iterator[int]:
    """Run the service as in production; yield its port."""
    port = free_port()
    own = {
        "BIND_ADDRESS": "127.0.0.1",
        "PORT": str(port),
        "PYTHONPATH": str(service / "src"),
        "NEXT_URL": f"http://127.0.0.1:{next_port}",
        "CALL_TIMEOUT": str(TIMEOUT),
        "DRAIN_DELAY": "0",
        **settings,
    }
    with (service / f"{port}.log").open("wb") as log:
        process = subprocess.Popen(
            (str(python), "-m", "service"),
            cwd=service,
            env=os.environ | own,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        eventually(lambda: is_ready(port), "the service is ready")
        yield port
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Load:
    """Requests at a steady rate, whatever becomes of the earlier ones."""

    def __init__(self, port: int, path: str, rate: int, **headers: str) -> None:
        self.answers: list[tuple[int, float, bytes]] = []
        self._ask = lambda: self.answers.append(ask(port, path, **headers))
        self._pace = 1 / rate
        self.asked = 0

    def run(self, seconds: float) -> None:
        """Ask for so long, and wait for the answers."""
        with ThreadPoolExecutor(200) as pool:
            started = time.monotonic()
            done = []
            while (now := time.monotonic() - started) < seconds:
                while self.asked * self._pace <= now:
                    done.append(pool.submit(self._ask))
                    self.asked += 1
                time.sleep(self._pace / 2)
        for one in done:
            one.result()

    @property
    def p99(self) -> float:
        return statistics.quantiles([one[1] for one in self.answers], n=100)[-1]

    @property
    def statuses(self) -> Counter[int]:
        return Counter(one[0] for one in self.answers)


def metric(port: int, name: str, **labels: str) -> float:
    """Return the sum of a metric's samples that have these labels."""
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    lines = ask(port, "/metrics")[2].decode().splitlines()
    return sum(
        float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith((f"{name}{{", f"{name} ")) and all(one in line for one in wanted)
    )


def change(other: Other, kind: str, ended: threading.Event) -> None:
    """Behave badly until the load ends; some ways need a hand."""
    if kind not in ("flap", "restart"):
        other.tell(kind)
        return
    bad = kind == "flap"
    while not ended.wait(1 if kind == "flap" else 3):
        other.tell(("503" if bad else "good") if kind == "flap" else "restart")
        bad = not bad


# The kinds of which most calls fail, so that the breaker opens.
OPENING = {"hang", "dribble", "reset", "503", "503 soon", "503 later", "half"}


@pytest.mark.parametrize("kind", [*sorted(OPENING), "slow", "flap", "restart"])
def test_a_bad_callee_costs_what_is_agreed(service: Path, service_python: Path, kind: str) -> None:
    with ExitStack() as stack:
        other = Other(service_python, service)
        stack.callback(other.stop)
        port = stack.enter_context(serving(service_python, service, other.port))
        assert ask(port, "/v1/calls")[0] == 200
        before = other.tell("?")[0]
        ended = threading.Event()
        wait = str(int(DEADLINE * 1000))
        load = Load(port, "/v1/calls", RATE, **{"x-envoy-expected-rq-timeout-ms": wait})
        others = Load(port, "/v1/other", 10)
        probes = Load(port, "/livez", 2)
        threads = [
            threading.Thread(target=change, args=(other, kind, ended)),
            threading.Thread(target=others.run, args=(SECONDS,)),
            threading.Thread(target=probes.run, args=(SECONDS,)),
        ]
        for thread in threads:
            thread.start()
        load.run(SECONDS)
        ended.set()
        for thread in threads:
            thread.join()
        calls = other.tell("good")[0] - before
        refused = metric(port, "http_client_request_duration_seconds_count", outcome="BreakerOpen")
        eventually(lambda: ask(port, "/v1/calls")[0] == 200, "the breaker closes")
    figures = f"{kind}: {load.asked} requests, {calls} calls, {refused} refused, {load.statuses}"
    sys.stdout.write(f"{figures}, p99 {load.p99:.3f} s, others {others.p99:.3f} s\n")
    assert load.asked >= 0.95 * RATE * SECONDS
    assert calls <= 1.1 * load.asked + 1, figures
    assert load.p99 < DEADLINE, figures
    assert set(load.statuses) <= {200, 503, 504}, figures
    assert others.statuses == {200: others.asked}, others.statuses
    assert others.p99 < DEADLINE
    assert probes.statuses == {200: probes.asked}
    assert (refused > 0) == (kind in OPENING) or kind in ("flap", "restart"), figures
    problems = [json.loads(body) for status, _, body in load.answers if status != 200]
    assert {one.get("dependency") for one in problems} <= {"next"}, figures


def test_a_deadline_is_kept_over_three_hops(service: Path, service_python: Path) -> None:
    with ExitStack() as stack:
        other = Other(service_python, service)
        stack.callback(other.stop)
        ports = [other.port]
        for _ in range(3):
            own = {"CALL_TIMEOUT": "30", "CALL_READ_TIMEOUT": "30"}
            hop = serving(service_python, service, ports[-1], **own)
            ports.append(stack.enter_context(hop))
        assert ask(ports[-1], "/v1/calls")[0] == 200
        other.tell("hang")
        waits = {"x-envoy-expected-rq-timeout-ms": "300"}
        answers = [ask(ports[-1], "/v1/calls", **waits) for _ in range(15)]
        _, *left = other.tell("?")
    seconds = [answer[1] for answer in answers]
    sys.stdout.write(f"three hops: median {statistics.median(seconds):.3f} s, {max(seconds):.3f}\n")
    assert {answer[0] for answer in answers} == {504}
    assert {json.loads(answer[2]).get("dependency") for answer in answers} <= {"next", None}
    assert 0.29 < statistics.median(seconds) < 0.4
    assert max(seconds) < 1
    assert max(left[1:]) <= 300
    assert min(left[1:]) > 0
