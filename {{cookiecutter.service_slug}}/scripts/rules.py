"""Print Prometheus rules for the objectives in service.yaml: `make rules` writes them to rules.yaml.

How fast an error budget of 30 days burns is asked over a long window, for significance, and over a short one, for an
alert that ends soon: https://sre.google/workbook/alerting-on-slos/#6-multiwindow-multi-burn-rate-alerts
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml
from service.chassis.metrics import BUCKETS

SERVICE = yaml.safe_load((Path(__file__).parents[1] / "service.yaml").read_text("utf-8"))
JOB = f"job='{SERVICE['name']}'"
DURATION = "http_server_request_duration_seconds"
BURNS = (
    ("page", 14.4, "1h", "5m"),
    ("page", 6, "6h", "30m"),
    ("ticket", 3, "1d", "2h"),
    ("ticket", 1, "3d", "6h"),
)
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
USED = f"max(avg_over_time(db_client_connection_count{{{JOB}}}[5m]))"  # only-if: database == "postgresql"
POOL = f"{USED} > 0.8 * max(db_client_connection_max{{{JOB}}})"  # only-if: database == "postgresql"
LENT = "Over 80 % of an instance's connections are lent"  # only-if: database == "postgresql"

Rule = dict[str, Any]


def recorded(window: str) -> list[Rule]:
    """The share of requests that failed, and that took too long, within a window."""
    answered = f"sum(rate({DURATION}_count{{{JOB}}}[{window}]))"
    failed = f"sum(rate({DURATION}_count{{{JOB},http_response_status_code=~'5..'}}[{window}]))"
    quick = f"sum(rate({DURATION}_bucket{{{JOB},le='{float(SERVICE['slo']['latency_seconds'])}'}}[{window}]))"
    ratios = {
        "failed": f"({failed} or vector(0)) / {answered}",
        "slow": f"1 - {quick} / {answered}",
    }
    labels = {"service": SERVICE["name"]}
    return [
        {"record": f"service:http_{name}:ratio_{window}", "expr": expr, "labels": labels}
        for name, expr in ratios.items()
    ]


def burn(name: str, ratio: str, percent: float, section: str) -> list[Rule]:
    """Alerts on the objective that `percent` of all requests do not count in `ratio`."""
    rules = []
    for severity, factor, long, short in BURNS:
        bound = round(factor * (100 - percent) / 100, 6)
        if not 0 < bound < 1:
            sys.exit(
                f"service.yaml: no alert can watch {section.lower()} of {percent} %: take 93.1 to 99.999"
            )
        series = [
            f"service:http_{ratio}:ratio_{window}{{service='{SERVICE['name']}'}}"
            for window in (long, short)
        ]
        expr = " and ".join(f"{one} > {bound}" for one in series)
        summary = f"{{{{ $value | humanizePercentage }}}} of requests {name} within {long}: {factor} times the budget"
        rules.append(alert(f"{section}Burn{long}", expr, "0s", severity, summary, section))
    return rules


def alert(name: str, expr: str, since: str, severity: str, summary: str, section: str) -> Rule:
    labels = {"severity": severity, "service": SERVICE["name"]}
    notes = {"summary": summary, "runbook_url": f"{SERVICE['runbook']}#{section.lower()}"}
    return {"alert": name, "expr": expr, "for": since, "labels": labels, "annotations": notes}


def groups() -> dict[str, list[Rule]]:
    busy = f"max(avg_over_time(http_server_saturation_ratio{{{JOB}}}[5m])) > 0.8"
    restarts = f"max(changes(process_start_time_seconds{{{JOB}}}[15m])) > 2"
    slo = SERVICE["slo"]
    if slo["latency_seconds"] not in BUCKETS:
        sys.exit(
            f"service.yaml: latency_seconds must be one of {BUCKETS}, as chassis/metrics.py has them"
        )
    return {
        "ratios": [rule for window in WINDOWS for rule in recorded(window)],
        "objectives": [
            *burn("failed", "failed", slo["availability_percent"], "Availability"),
            *burn("were slow", "slow", slo["latency_percent"], "Latency"),
        ],
        "causes": [
            alert(
                "Down",
                f"absent(up{{{JOB}}} == 1)",
                "1m",
                "page",
                "No instance can be scraped",
                "Down",
            ),
            alert(
                "Saturation",
                busy,
                "5m",
                "ticket",
                "Over 80 % of an instance's slots are busy",
                "Saturation",
            ),
            alert(
                "Restarts",
                restarts,
                "0s",
                "ticket",
                "An instance restarted again and again",
                "Restarts",
            ),
            alert(
                "PoolExhaustion", POOL, "5m", "ticket", LENT, "PoolExhaustion"
            ),  # only-if: database == "postgresql"
        ],
    }


def main() -> None:
    """Print YAML whose scalars are JSON's: the same quotes whatever the name."""
    made = groups()
    sys.stdout.write("# Written by `make rules` from service.yaml.\ngroups:\n")
    for name, rules in made.items():
        sys.stdout.write(f"  - name: {json.dumps(SERVICE['name'] + '-' + name)}\n    rules:\n")
        for rule in rules:
            lines = [
                f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in rule.items()
            ]
            sys.stdout.write("      - " + "        ".join(lines))


if __name__ == "__main__":
    main()
