"""More requests than a service handles at once, beside gunicorn with equally many threads.

Run it with the Python of `build/service`, or by `make bench`. It needs wrk; `GUNICORN` names a
gunicorn in whose environment Flask is.
"""

import asyncio
import contextlib
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import chassis
import collector
import waiting
from flask import Flask

from service.chassis.server.settings import CONCURRENCY

ROUNDS = 5
SECONDS = 3
OVERLOAD = 4  # times what all slots can serve
CLOSED = (("/light", 16), ("/light", 64), ("/wait", 16), ("/wait", 64))  # path and clients
REQUEST = b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n"
Answers = list[tuple[int, float]]  # status and seconds


def make_served() -> Flask:
    """Make an application with the chassis."""
    return waiting.add_views(chassis.make("application middleware metrics logs"))


@contextlib.contextmanager
def serving(*command: str) -> Iterator[str]:
    """Let a command serve; yield its URL."""
    port = collector.nobody()
    path = f"{chassis.SOURCE}:{Path(__file__).parent}"
    own = {"PORT": str(port), "CONCURRENCY": str(CONCURRENCY), "PYTHONPATH": path}
    process = subprocess.Popen(command, env=os.environ | own, stdout=subprocess.DEVNULL)
    try:
        chassis.wait_for(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def load(url: str, clients: int) -> tuple[float, float, int]:
    """Ask by wrk; return requests per second, the 99th percentile and how many were refused."""
    duration = ("--duration", f"{SECONDS}s", "--latency")
    command = ("wrk", "--threads", "1", "--connections", str(clients), *duration, url)
    report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rate = float(re.findall(r"Requests/sec: +([\d.]+)", report)[0])
    refused = re.findall(r"Non-2xx or 3xx responses: (\d+)", report)
    return rate, collector.seconds(report), int(refused[0]) if refused else 0


def closed(urls: list[str]) -> None:
    """Print what clients get that each wait for their answer; ratios are to gunicorn."""
    print("| clients | requests/s | gunicorn | ratio (quartiles) | p99 ms | gunicorn | refused |")
    print("|---|---|---|---|---|---|---|")
    for path, clients in CLOSED:
        rounds = [[load(url + path, clients) for url in urls] for _ in range(ROUNDS + 1)][1:]
        ratios = [own[0] / other[0] for own, other in rounds]
        first, ratio, third = statistics.quantiles(ratios, n=4)
        own, other = (
            [statistics.median(values) for values in zip(*results, strict=True)]
            for results in zip(*rounds, strict=True)
        )
        refused = sum(result[0][2] for result in rounds)
        rates = f"{own[0]:.0f} | {other[0]:.0f} | {ratio:.2f} ({first:.2f} to {third:.2f})"
        p99 = f"{own[1] * 1000:.0f} | {other[1] * 1000:.0f}"
        print(f"| {clients} on {path} | {rates} | {p99} | {refused} |")


async def ask(port: int, idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> int:
    """Ask once, on a connection that is idle or new; return the status."""
    reader, writer = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", port)
    writer.write(REQUEST)
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.findall(rb"content-length: (\d+)", head, re.IGNORECASE)
    await reader.readexactly(int(length[0]))
    idle.append((reader, writer))
    return int(head.split()[1])


async def ask_at(port: int, rate: float) -> Answers:
    """Ask so often a second, whether or not answers come."""
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    answers: Answers = []

    async def timed(start: float) -> None:
        await asyncio.sleep(start - time.monotonic())
        asked = time.monotonic()
        status = await ask(port, idle)
        answers.append((status, time.monotonic() - asked))

    begin = time.monotonic()
    starts = [begin + number / rate for number in range(int(rate * SECONDS))]
    await asyncio.gather(*map(timed, starts))
    for _, writer in idle:
        writer.close()
    return answers


def open_model(url: str) -> None:
    """Print what callers get who do not wait for each other."""
    most = CONCURRENCY / waiting.WAIT
    port = int(url.rpartition(":")[2])
    print(
        "\n| asked a second | served a second | p99 ms of these | refused |",
        "|---|---|---|---|",
        sep="\n",
    )
    for rate in (most * 0.9, most * OVERLOAD):
        answers = asyncio.run(ask_at(port, rate))
        served = sorted(seconds for status, seconds in answers if status == 200)
        p99 = served[len(served) * 99 // 100] * 1000
        refused = len(answers) - len(served)
        print(f"| {rate:.0f} | {len(served) / SECONDS:.0f} | {p99:.0f} | {refused} |")


def main() -> None:
    """Print both tables."""
    gunicorn = os.environ.get("GUNICORN") or shutil.which("gunicorn")
    if not gunicorn or not shutil.which("wrk"):
        print("\nno figures of waiting requests: they need wrk and GUNICORN", file=sys.stderr)
        return
    os.environ["BIND_ADDRESS"] = "127.0.0.1"
    config = str(Path(waiting.__file__))
    with (
        serving(sys.executable, __file__, "serve") as own,
        serving(gunicorn, "--config", config, "waiting:make()") as other,
    ):
        closed([own, other])
        open_model(own)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        sys.exit(chassis.serve("admission:make_served"))
    main()
