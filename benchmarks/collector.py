"""What a failing collector does to the slowest requests, beside a service that sends no spans.

It measures their 99th percentile. All servers live at once and wrk asks them in turn, so that a
round's ratios have the same neighbours; a ratio of 1 is no exporter. Run it with the Python of
`build/service`; its argument is the ratio of sampled requests, 0.1 by default.
"""

import http.server
import os
import re
import socket
import statistics
import subprocess
import sys
import threading
import time

import chassis

ROUNDS = 25
SECONDS = 1
CLIENTS = 4  # fewer than the server's threads: what is measured is the service, not its queue
UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
UNSENT = "no exporter"


class Taking(http.server.BaseHTTPRequestHandler):
    """Takes spans and forgets them."""

    status = 200

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Overloaded(Taking):
    status = 503


class Refusing(Taking):
    status = 400


class Hanging(Taking):
    def do_POST(self) -> None:
        """Keep the sender waiting for longer than it does."""
        time.sleep(3600)


class Dying(Taking):
    """Takes spans for a second, breaks connections off for the next."""

    def do_POST(self) -> None:
        if int(time.monotonic()) % 2:
            self.connection.close()
        else:
            super().do_POST()


COLLECTORS = {
    "takes the spans": Taking,
    "answers 503": Overloaded,
    "answers 400": Refusing,
    "hangs": Hanging,
    "dies every other second": Dying,
}


def listen(handler: type[Taking]) -> int:
    """Start a collector; return its port."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # senders that are gone
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


def nobody() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def slowest(url: str) -> float:
    """Seconds within which 99 of 100 requests are answered; raise where one fails."""
    duration = ("--duration", f"{SECONDS}s", "--latency")
    command = ("wrk", "--threads", "1", "--connections", str(CLIENTS), *duration, url)
    report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in report or "Socket errors" in report:
        raise RuntimeError(report)
    return seconds(report)


def seconds(report: str) -> float:
    """The 99th percentile of wrk's report."""
    value, unit = re.findall(r"^ +99% +([\d.]+)(us|ms|s)$", report, re.MULTILINE)[0]
    return float(value) * UNITS[unit]


def measure(urls: dict[str, str]) -> dict[str, list[float]]:
    """Ask all in turn, each round in another order; return the percentiles of each."""
    found: dict[str, list[float]] = {name: [] for name in urls}
    for number in range(ROUNDS + 1):
        names = list(urls)[number % len(urls) :] + list(urls)[: number % len(urls)]
        for name in names:
            found[name].append(slowest(urls[name]))
    return {name: values[1:] for name, values in found.items()}  # the first round warms up


def main(share: str) -> None:
    """Print the table."""
    os.environ |= {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": share}
    os.environ["BIND_ADDRESS"] = "127.0.0.1"
    ports = {name: listen(handler) for name, handler in COLLECTORS.items()}
    ports["refuses connections"] = nobody()
    served = {UNSENT: chassis.start(chassis.LAYERS["one line of JSON a request"])}
    for name, port in ports.items():
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{port}"
        served[name] = chassis.start(chassis.LAYERS["10 % of traces"])
    try:
        found = measure({name: f"{url}/v1/products/tea" for name, (_, url) in served.items()})
    finally:
        for process, _ in served.values():
            process.terminate()
            process.wait()
    title = f"{float(share):.0%} sampled; the collector"
    print(f"| {title} | p99 ms | ratio, median of rounds (quartiles) |", "|---|---|---|", sep="\n")
    for name, times in found.items():
        ratios = [a / b for a, b in zip(times, found[UNSENT], strict=True)]
        first, ratio, third = statistics.quantiles(ratios, n=4)
        p99 = statistics.median(times) * 1000
        print(f"| {name} | {p99:.2f} | {ratio:.2f} ({first:.2f} to {third:.2f}) |")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "0.1")
