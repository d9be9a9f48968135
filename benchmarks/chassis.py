"""What each layer of the chassis costs beside bare Flask, in interleaved rounds.

In process it measures CPU time; where wrk is installed also requests per second on the server, each
layer in a process of its own. Run it with the Python of a baked service, or by `make bench`. Bare
Flask has a ratio of 1.
"""

import contextlib
import http.server
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from wsgiref.types import WSGIApplication

SOURCE = Path(__file__).parents[1] / "{{cookiecutter.service_slug}}" / "src"
sys.path.insert(0, str(SOURCE))

from flask import Flask
from werkzeug.test import EnvironBuilder

from service.chassis.http import middleware
from service.chassis.http import problems
from service.chassis.http.application import Application
from service.chassis.server import granian
from service.chassis.telemetry import logs
from service.chassis.telemetry import metrics
from service.chassis.telemetry import tracing
from service.settings import Settings

BLOCKS = 41  # in process
CALLS = 200
ROUNDS = 15  # on the server
SECONDS = 1
Served = tuple[subprocess.Popen[bytes], str]  # a process and its URL

LAYERS = {  # each adds to the one above it
    "bare Flask": "",
    "the application class": "application",
    "problems, ids, limits, admission": "application middleware",
    "metrics": "application middleware metrics",
    "one line of JSON a request": "application middleware metrics logs",
    "10 % of traces": "application middleware metrics logs traces",
}


def make(layers: str) -> Flask:
    """Make one route in bare Flask, or with those lines of the service's app.py that are named."""
    app = Application(__name__) if "application" in layers else Flask(__name__)
    product = {"name": "Tea", "price_cents": 450}
    app.add_url_rule("/v1/products/<sku>", view_func=lambda sku: {"sku": sku, **product})
    if isinstance(app, Application):
        init_app(app, layers)
    return app


def init_app(app: Application, layers: str) -> None:
    """Add the named layers in the order of app.py."""
    settings = make_settings()
    if "logs" in layers:
        logs.init_app(app, settings)
    if "metrics" in layers:
        metrics.init_app(app)
    if "traces" in layers:
        tracing.init_app(app, settings)
    if "middleware" in layers:
        problems.init_app(app)
        middleware.init_app(app, settings)


def make_settings() -> Settings:
    """Return the settings of every layer; where traces go is in the environment."""
    return Settings(log_level="INFO", log_format="json", drain_delay=0)


def make_served() -> Flask:
    """Make the application that a server process serves."""
    return make(os.environ["LAYERS"])


def serve(target: str) -> int:
    """Serve what the factory makes."""
    settings = make_settings()
    return granian.serve(settings, target, logs.config(settings))


def caller(layers: str) -> Callable[[], float]:
    """Make a function that returns the CPU seconds of one request."""
    app: WSGIApplication = make(layers).wsgi_app
    template = EnvironBuilder(path="/v1/products/tea").get_environ()

    def respond(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        if status != "200 OK":
            raise RuntimeError(status)

    def call() -> float:
        environs = [template.copy() for _ in range(CALLS)]
        start = time.thread_time()
        for environ in environs:
            b"".join(app(environ, respond))
        return (time.thread_time() - start) / CALLS

    return call


def in_process() -> None:
    """Print CPU time of a request; the thread that sends spans is not in it."""
    callers = [caller(layers) for layers in LAYERS.values()]
    with discarded_output():
        blocks = [[call() for call in callers] for _ in range(BLOCKS)][1:]
    show_times("in process, with all above it", LAYERS, blocks)


@contextlib.contextmanager
def discarded_output() -> Iterator[None]:
    """Write standard output, as a service writes its lines, but nowhere."""
    sys.stdout.flush()
    output = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    try:
        yield
    finally:
        os.dup2(output, 1)
        os.close(output)
        os.close(null)


def show_times(title: str, names: Iterable[str], blocks: list[list[float]]) -> None:
    """Print a table of seconds in each block for each name; ratios are to the first one."""
    print(f"| {title} | us | ratio, median of blocks (quartiles) |", "|---|---|---|", sep="\n")
    for name, times in zip(names, zip(*blocks, strict=True), strict=True):
        ratios = [block[0] / seconds for block, seconds in zip(blocks, times, strict=True)]
        first, ratio, third = statistics.quantiles(ratios, n=4)
        print(f"| {name} | {min(times) * 1e6:.1f} | {ratio:.2f} ({first:.2f} to {third:.2f}) |")


class Collector(http.server.BaseHTTPRequestHandler):
    """Takes spans and forgets them."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def start(layers: str, script: str = __file__) -> tuple[subprocess.Popen[bytes], str]:
    """Let the script serve these layers on a free port; return its process and its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{SOURCE}:{Path(__file__).parent}",
        "LAYERS": layers,
        "PORT": str(port),
    }
    command = (sys.executable, script, "serve")
    process = subprocess.Popen(
        command, env=environment | {"CONCURRENCY": "8"}, stdout=subprocess.DEVNULL
    )
    wait_for(port)
    return process, f"http://127.0.0.1:{port}"


def wait_for(port: int) -> None:
    """Return once somebody listens on the port, or after ten seconds."""
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)


def cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    """CPU time of the server's supervisor and worker, where the system tells it as Linux does."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text("ascii", "replace").rpartition(") ")[2].split()
            if process.pid in (int(stat.parent.name), int(fields[1])):
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def load(url: str, seconds: int, *options: str) -> tuple[float, float]:
    """Requests per second of eight clients that keep their connections, and how many there were."""
    command = (
        "wrk",
        "--threads",
        "1",
        "--connections",
        "8",
        "--duration",
        f"{seconds}s",
        *options,
        url,
    )
    report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in report or "Socket errors" in report:
        raise RuntimeError(report)
    rate = re.findall(r"Requests/sec: +([\d.]+)", report)[0]
    count = re.findall(r"(\d+) requests in", report)[0]
    return float(rate), float(count)


def measure(process: subprocess.Popen[bytes], url: str, *options: str) -> tuple[float, float]:
    """Requests per second, and CPU seconds of one."""
    before = cpu_seconds(process)
    rate, count = load(url, SECONDS, *options)
    return rate, (cpu_seconds(process) - before) / count


@contextlib.contextmanager
def serving(layers: Iterable[str], script: str = __file__) -> Iterator[list[Served]]:
    """Serve each of the layers by a process of its own, all at once."""
    served = [start(each, script) for each in layers]
    try:
        yield served
    finally:
        for process, _ in served:
            process.terminate()
            process.wait()


def on_the_server() -> None:
    """Print requests per second; all servers live at once and are asked in turn."""
    with serving(LAYERS.values()) as served:
        asked = [(process, f"{url}/v1/products/tea") for process, url in served]
        for _, url in asked:
            load(url, 1)
        rounds = [[measure(*pair) for pair in asked] for _ in range(ROUNDS)]
    show_rates("on the server, with all above it", LAYERS, rounds)


def show_rates(title: str, names: Iterable[str], rounds: list[list[tuple[float, float]]]) -> None:
    """Print what `measure` returned in each round for each name; ratios are to the first one."""
    print(f"\n| {title} | requests/s | ratio, median of rounds (quartiles) | CPU us | ratio |")
    print("|---|---|---|---|---|")
    for name, row in zip(names, zip(*rounds, strict=True), strict=True):
        ratios = [rate / bare[0][0] for bare, (rate, _) in zip(rounds, row, strict=True)]
        first, ratio, third = statistics.quantiles(ratios, n=4)
        cpu = statistics.median(cost for _, cost in row)
        cpu_ratios = [bare[0][1] / cost for bare, (_, cost) in zip(rounds, row, strict=True)]
        rate = statistics.median(rate for rate, _ in row)
        quartiles = f"{ratio:.2f} ({first:.2f} to {third:.2f})"
        per_request = f"{cpu * 1e6:.0f} | {statistics.median(cpu_ratios):.2f}"
        print(f"| {name} | {rate:.0f} | {quartiles} | {per_request} |")


def main() -> None:
    """Print both tables."""
    collector = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{collector.server_port}"
    os.environ |= {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}
    os.environ["BIND_ADDRESS"] = "127.0.0.1"
    in_process()
    if shutil.which("wrk"):
        on_the_server()
    else:
        print("\nwrk is not installed: no figures of the server", file=sys.stderr)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        sys.exit(serve("chassis:make_served"))
    main()
