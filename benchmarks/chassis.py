"""What the chassis costs beside bare Flask: requests per second, layer by layer, in interleaved rounds.

In process it gives CPU seconds; where wrk is installed also requests per second on the server, each layer a process
of its own. Run it with the Python of a baked service, or by `make bench`. A ratio of 1 is bare Flask.
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

from service.chassis import edge
from service.chassis import logs
from service.chassis import metrics
from service.chassis import problems
from service.chassis import server
from service.chassis import tracing
from service.chassis.framework import Service
from service.settings import Settings

BLOCKS, CALLS = 41, 200  # in process
ROUNDS, SECONDS = 15, 1  # on the server
LAYERS = {  # each adds to the one above it
    "bare Flask": "",
    "the application class": "service",
    "problems, ids, limits, admission": "edge",
    "metrics": "edge metrics",
    "one line of JSON a request": "edge metrics logs",
    "10 % of traces": "edge metrics logs traces",
}


def make(layers: str) -> Flask:
    """One route in bare Flask, or in as much of the chassis as the names say."""
    app = Service(__name__) if layers else Flask(__name__)
    app.extensions["health"] = None
    app.add_url_rule("/v1/products/<sku>", view_func=lambda sku: {"sku": sku, "name": "Tea", "price_cents": 450})
    if "edge" not in layers:
        return app
    settings = Settings(log_level="INFO" if "logs" in layers else "ERROR", log_format="json")
    logs.init_app(app, settings)
    problems.init_app(app)
    edge.init_app(app, settings)
    if "traces" in layers:
        tracing.init_app(app, settings)
    return app


def make_served() -> Flask:
    """The application that a server process serves."""
    layers = os.environ["LAYERS"]
    if "metrics" not in layers:
        metrics.observe = lambda *_: None  # type: ignore[assignment]
    return make(layers)


def caller(layers: str) -> Callable[[], float]:
    """Make a function that gives the CPU seconds of one request."""
    app: WSGIApplication = make(layers).wsgi_app
    observe, sample = metrics.observe if "metrics" in layers else lambda *_: None, tracing.sample
    template = EnvironBuilder(path="/v1/products/tea").get_environ()

    def respond(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        if status != "200 OK":
            raise RuntimeError(status)

    def call() -> float:
        metrics.observe, tracing.sample = observe, sample  # type: ignore[assignment]
        logs.access_log.setLevel("INFO" if "logs" in layers else "ERROR")
        environs = [template.copy() for _ in range(CALLS)]
        start = time.thread_time()
        for environ in environs:
            b"".join(app(environ, respond))
        return (time.thread_time() - start) / CALLS

    return call


def in_process() -> None:
    """Print CPU time of a request; the thread that sends spans is not in it."""
    callers = [caller(layers) for layers in LAYERS.values()]
    output, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)  # the lines are written, as by a service, but nowhere
    blocks = [[call() for call in callers] for _ in range(BLOCKS)][1:]
    os.dup2(output, 1)
    show_times("in process, with all above it", LAYERS, blocks)


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
    """Let the script serve these layers on a free port, by a process of one worker; give it and its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": f"{SOURCE}:{Path(__file__).parent}", "LAYERS": layers, "PORT": str(port)}
    command = (sys.executable, script, "serve")
    process = subprocess.Popen(command, env=environment | {"CONCURRENCY": "8"}, stdout=subprocess.DEVNULL)
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    return process, f"http://127.0.0.1:{port}"


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
    command = ("wrk", "--threads", "1", "--connections", "8", "--duration", f"{seconds}s", *options, url)
    report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in report or "Socket errors" in report:
        raise RuntimeError(report)
    return float(re.findall(r"Requests/sec: +([\d.]+)", report)[0]), float(re.findall(r"(\d+) requests in", report)[0])


def measure(process: subprocess.Popen[bytes], url: str, *options: str) -> tuple[float, float]:
    """Requests per second, and CPU seconds of one."""
    before = cpu_seconds(process)
    rate, count = load(url, SECONDS, *options)
    return rate, (cpu_seconds(process) - before) / count


@contextlib.contextmanager
def serving(layers: Iterable[str], script: str = __file__) -> Iterator[list[tuple[subprocess.Popen[bytes], str]]]:
    """Serve each of the layers by a process of its own, all at once; give the processes and their URLs."""
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
    """Print a table of what `measure` gave in each round for each name; ratios are to the first one."""
    print(f"\n| {title} | requests/s | ratio, median of rounds (quartiles) | CPU us | ratio |")
    print("|---|---|---|---|---|")
    for name, row in zip(names, zip(*rounds, strict=True), strict=True):
        ratios = [rate / bare[0][0] for bare, (rate, _) in zip(rounds, row, strict=True)]
        first, ratio, third = statistics.quantiles(ratios, n=4)
        cpu = statistics.median(cost for _, cost in row)
        cpu_ratio = statistics.median(bare[0][1] / cost for bare, (_, cost) in zip(rounds, row, strict=True))
        rate = statistics.median(rate for rate, _ in row)
        print(f"| {name} | {rate:.0f} | {ratio:.2f} ({first:.2f} to {third:.2f}) | {cpu * 1e6:.0f} | {cpu_ratio:.2f} |")


def main() -> None:
    """Print both tables."""
    collector = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{collector.server_port}"
    os.environ.update(OTEL_TRACES_SAMPLER="traceidratio", OTEL_TRACES_SAMPLER_ARG="0.1", BIND_ADDRESS="127.0.0.1")
    in_process()
    if shutil.which("wrk"):
        on_the_server()
    else:
        print("\nwrk is not installed: no figures of the server", file=sys.stderr)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        sys.exit(server.serve(Settings(drain_delay=0), "chassis:make_served"))
    main()
