"""Watch a canary by the objectives of service.yaml: exit with 1 as soon as it breaks one.

`canary.py MINUTES DEPLOYMENT` asks the Prometheus of PROMETHEUS_URL, which scrapes the canary's
pods and labels them with `pod`. An objective is broken when the canary burns its budget as fast as
would page for the whole service; too few requests to judge by are no pass.
"""

import json
import os
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import yaml

SLO = yaml.safe_load((Path(__file__).parents[1] / "service.yaml").read_text("utf-8"))["slo"]
DURATION = "http_server_request_duration_seconds"
BURN_RATE = 14.4  # as in scripts/rules.py
PAUSE = 15  # seconds between two looks
LEAST_REQUESTS = 50  # below which a ratio says nothing


def ask(query: str) -> float | None:
    """Return the value of a query; None where Prometheus knows none."""
    address = (
        f"{os.environ['PROMETHEUS_URL'].rstrip('/')}/api/v1/query?{urlencode({'query': query})}"
    )
    with urlopen(address, timeout=10) as response:  # noqa: S310 the address is the caller's own
        result = json.load(response)["data"]["result"]
    return float(result[0]["value"][1]) if result else None


def judge(pods: str, seconds: int) -> tuple[float, str | None]:
    """Return how many requests the pods answered within the last seconds, and what they broke."""
    window = f"[{seconds}s]"
    total = f"sum(increase({DURATION}_count{{{pods}}}{window}))"
    failed = f"{DURATION}_count{{{pods},http_response_status_code=~'5..'}}{window}"
    fast = f"{DURATION}_bucket{{{pods},le='{float(SLO['latency_seconds'])}'}}{window}"
    ratios = {
        "availability": f"(sum(increase({failed})) or vector(0)) / {total}",
        "latency": f"1 - sum(increase({fast})) / {total}",
    }
    requests = ask(total) or 0
    if requests < LEAST_REQUESTS:
        return requests, None
    for name, query in ratios.items():
        ratio = ask(query) or 0
        if ratio > BURN_RATE * (100 - SLO[f"{name}_percent"]) / 100:
            return requests, f"{name}: {ratio:.2%} of the canary's requests broke it"
    return requests, None


def main(minutes: float, deployment: str) -> int:
    """Return the exit status: 0 if the canary kept the objectives for so many minutes."""
    started = time.monotonic()
    requests = 0.0
    while time.monotonic() - started < 60 * minutes:
        time.sleep(PAUSE)
        try:
            # Since the start alone: another canary's pods have names like these.
            since = round(time.monotonic() - started)
            requests, fault = judge(f"pod=~'{deployment}-.+'", since)
        except URLError as error:
            sys.exit(f"PROMETHEUS_URL: {error}")
        if fault:
            sys.exit(fault)
    if requests < LEAST_REQUESTS:
        sys.exit(f"the canary had {requests:.0f} requests, too few to judge by")
    return 0


if __name__ == "__main__":
    if not os.environ.get("PROMETHEUS_URL"):
        sys.exit("PROMETHEUS_URL: name the Prometheus that scrapes the canary")
    sys.exit(main(float(sys.argv[1]), sys.argv[2]))
