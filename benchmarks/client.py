"""What a call by the client costs beside bare urllib3, and beside requests, tenacity and pybreaker.

The callee is a process of its own. Bare urllib3 has a ratio of 1. Run it with the Python of a baked
service, or by `make bench`; requests and its companions take part where they can be imported:
`PYTHONPATH=folder`, with `pip install --target folder requests tenacity pybreaker`.
"""

import asyncio
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import chassis
import urllib3
from pydantic import BaseModel
from pydantic import HttpUrl

from service.chassis.client.calls import make_clients
from service.chassis.client.settings import CalleeUrl
from service.chassis.client.settings import ClientSettings

BLOCKS = 41
CALLS = 200
TIMEOUT = 2  # seconds
ANSWER = json.dumps({"sku": "tea", "name": "Tea", "price_cents": 450, "unit": "box"}).encode()
COMPANIONS = ("requests", "tenacity", "pybreaker")


class Product(BaseModel):
    sku: str
    name: str
    price_cents: int


class Calling(ClientSettings):
    """The settings of a service that calls one."""

    stock_url: CalleeUrl = HttpUrl("http://127.0.0.1:9")


class Callee(asyncio.Protocol):
    """Answers every request alike, which comes in one piece."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:  # noqa: ARG002 all are answered alike
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(ANSWER)}\r\n\r\n"
        self.transport.write(head.encode() + ANSWER)


async def serve() -> None:
    """Print the port, and answer for ever."""
    server = await asyncio.get_running_loop().create_server(Callee, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def by_urllib3(url: str) -> Callable[[], Any]:
    """Call as those do who need no more than an answer."""
    pool = urllib3.connection_from_url(url)
    timeout = urllib3.Timeout(connect=0.5, read=TIMEOUT)

    def call() -> Any:
        answer = pool.request("GET", "/v1/products/tea", timeout=timeout, retries=False)
        return Product.model_validate_json(answer.data)

    return call


def by_client(url: str) -> Callable[[], Any]:
    """Call as a view does."""
    client = make_clients(Calling(stock_url=HttpUrl(url)))["stock"]
    return lambda: client.get("/v1/products/tea", Product)


def by_companions(url: str) -> Callable[[], Any]:
    """Call with what has to be put together: no limit in all, no budget, one call at a time."""
    import pybreaker
    import requests
    import tenacity

    session = requests.Session()
    breaker = pybreaker.CircuitBreaker(fail_max=20, reset_timeout=5)
    wait = tenacity.wait_random_exponential(multiplier=0.05, max=1)

    @tenacity.retry(stop=tenacity.stop_after_attempt(3), wait=wait, reraise=True)
    def call() -> Any:
        answer = breaker.call(session.get, f"{url}/v1/products/tea", timeout=(0.5, TIMEOUT))
        answer.raise_for_status()
        return Product.model_validate_json(answer.content)

    return call


CALLERS = {"urllib3": by_urllib3, "the client": by_client}
if all(map(importlib.util.find_spec, COMPANIONS)):
    CALLERS["requests, tenacity, pybreaker"] = by_companions


def measure(call: Callable[[], Any]) -> float:
    """Return the CPU seconds of a call."""
    start = time.thread_time()
    for _ in range(CALLS):
        call()
    return (time.thread_time() - start) / CALLS


def main() -> None:
    """Print CPU time of a call; the callee's is not in it."""
    command = (sys.executable, __file__, "serve")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as callee:
        assert callee.stdout
        url = f"http://127.0.0.1:{int(callee.stdout.readline())}"
        try:
            callers = [make(url) for make in CALLERS.values()]
            blocks = [[measure(call) for call in callers] for _ in range(BLOCKS)][1:]
        finally:
            callee.kill()
    chassis.show_times("a call", CALLERS, blocks)
    if len(CALLERS) == 2:
        print(f"without {', '.join(COMPANIONS)}: they are not installed")


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        asyncio.run(serve())
    else:
        main()
