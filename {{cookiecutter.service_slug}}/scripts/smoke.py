"""Probe a running service: `make smoke` runs this in its container, from standard input.

The image's interpreter sends the requests, so a runner needs neither curl nor a published port.
"""

import json
import sys
import time
from http.client import HTTPResponse
from urllib.error import HTTPError
from urllib.request import urlopen

PROBLEM = "application/problem+json"
READY_SECONDS = 30


def get(path: str, *expected: int) -> HTTPResponse | HTTPError:
    """Request a path and print the status; exit with an error unless the status is expected."""
    response: HTTPResponse | HTTPError
    try:
        response = urlopen(f"http://localhost:5000{path}")
    except HTTPError as error:
        response = error
    sys.stdout.write(f"{response.status} {path}\n")
    sys.stdout.flush()
    if response.status not in expected:
        sys.exit(f"expected {expected}: {response.read()!r}")
    return response


def await_ready() -> None:
    """Return once it takes requests: the health check that compose waited for is `/livez`."""
    until = time.monotonic() + READY_SECONDS
    while get("/readyz", 200, *([503] if time.monotonic() < until else [])).status != 200:
        time.sleep(1)


def main() -> None:
    """Probe the fixed paths, every GET operation without path variables, and an unknown path."""
    document = json.load(get("/openapi.json", 200))
    await_ready()
    for path in ("/livez", "/metrics", "/docs/"):
        get(path, 200)
    for path, operations in document["paths"].items():
        if "get" in operations and "{" not in path:
            declared = operations["get"]["responses"].keys() - {"default"}
            get(path, 422, *map(int, declared))
    content_type = get("/no/such/route", 404).headers["Content-Type"]
    if content_type != PROBLEM:
        sys.exit(f"expected {PROBLEM}: {content_type}")


if __name__ == "__main__":
    main()
