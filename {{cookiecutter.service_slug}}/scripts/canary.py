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


def broken(pods: str, window: str) -> str | None:
    """Say which objective the pods broke within the window, or None."""
    count = f"{DURATION}_count{{{pods}}}"
    failed = f"{DURATION}_count{{{pods},http_response_status_code=~'5..'}}"
    fast = f"{DURATION}_bucket{{{pods},le='{float(SLO['latency_seconds'])}'}}"
    total = f"sum(increase({count}[{window}]))"
    ratios = {
        "availability": f"(sum(increase({failed}[{window}])) or vector(0)) / {total}",
        "latency": f"1 - sum(increase({fast}[{window}])) / {total}",
    }
    if (ask(total) or 0) < LEAST_REQUESTS:
        return None
    for name, query in ratios.items():
        ratio = ask(query) or 0
        budget = (100 - SLO[f"{name}_percent"]) / 100
        if ratio > BURN_RATE * budget:
            return f"{name}: {ratio:.2%} of the canary's requests broke it"
    return None


def main(minutes: float, deployment: str) -> int:
    """Return the exit status: 0 if the canary kept the objectives for so many minutes."""
    pods = f"pod=~'{deployment}-.+'"
    window = f"{max(60, round(60 * minutes))}s"  # all of its life
    until = time.monotonic() + 60 * minutes
    while time.monotonic() < until:
        time.sleep(PAUSE)
        try:
            if fault := broken(pods, window):
                sys.exit(fault)
        except URLError as error:
            sys.exit(f"PROMETHEUS_URL: {error}")
    requests = ask(f"sum({DURATION}_count{{{pods}}})") or 0
    if requests < LEAST_REQUESTS:
        sys.exit(f"the canary had {requests:.0f} requests, too few to judge by")
    return 0


if __name__ == "__main__":
    if not os.environ.get("PROMETHEUS_URL"):
        sys.exit("PROMETHEUS_URL: name the Prometheus that scrapes the canary")
    sys.exit(main(float(sys.argv[1]), sys.argv[2]))
