"""Print the Prometheus rules for the objectives in service.yaml; `make rules` writes rules.yaml.

Each burn-rate alert needs a long window, for significance, and a short one, so that it resolves
soon: https://sre.google/workbook/alerting-on-slos/#6-multiwindow-multi-burn-rate-alerts
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

from service.chassis.telemetry.metrics import BUCKETS

SERVICE = yaml.safe_load((Path(__file__).parents[1] / "service.yaml").read_text("utf-8"))
NAME = SERVICE["name"]
SLO = SERVICE["slo"]  # over 30 days
JOB = f"job='{NAME}'"
DURATION = "http_server_request_duration_seconds"
# Severity, burn rate, long and short window.
BURN_RATES = (
    ("page", 14.4, "1h", "5m"),
    ("page", 6, "6h", "30m"),
    ("ticket", 3, "1d", "2h"),
    ("ticket", 1, "3d", "6h"),
)
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
BUSY = f"max(avg_over_time(http_server_saturation_ratio{{{JOB}}}[5m])) > 0.8"
RESTARTS = f"max(changes(process_start_time_seconds{{{JOB}}}[15m])) > 2"
CALLS = f"http_client_request_duration_seconds_count{{{JOB}"
FAILED = f"sum by (callee) (rate({CALLS},outcome!~'[234]..'}}[5m]))"
CALLED = f"sum by (callee) (rate({CALLS}}}[5m]))"
DEPENDENCY = f"({FAILED} / {CALLED} or vector(0)) > 0.5"
USELESS = "Over half of the calls to {{ $labels.callee }} fail"
USED = f"db_client_connection_count{{{JOB}}}[5m]"  # only-if: database == "postgresql"
SIZE = f"db_client_connection_max{{{JOB}}}"  # only-if: database == "postgresql"
POOL = f"max(avg_over_time({USED})) > 0.8 * max({SIZE})"  # only-if: database == "postgresql"
IN_USE = "Over 80 % of an instance's connections are in use"  # only-if: database == "postgresql"
RELAY = f"job='{NAME}-relay'"  # only-if: messaging == "rabbitmq"
CONSUMER = f"job='{NAME}-consumer'"  # only-if: messaging == "rabbitmq"
OUTBOX = f"max(messaging_outbox_age_seconds{{{RELAY}}}) > 60"  # only-if: messaging == "rabbitmq"
LAG = f"max(messaging_lag_seconds{{{CONSUMER}}}) > 60"  # only-if: messaging == "rabbitmq"
DEAD = f"max(messaging_dead_letters{{{CONSUMER}}}) > 0"  # only-if: messaging == "rabbitmq"
MUTE = f"absent(up{{{RELAY}}} == 1)"  # only-if: messaging == "rabbitmq"
IDLE = f"absent(up{{{CONSUMER}}} == 1)"  # only-if: messaging == "rabbitmq"
UNSENT = "An event was not sent for over a minute"  # only-if: messaging == "rabbitmq"
LATE = "An event was not handled for over a minute"  # only-if: messaging == "rabbitmq"
REFUSED = "Events could not be handled"  # only-if: messaging == "rabbitmq"
# What leads to failed or slow requests: alert, expression, duration, severity and summary.
CAUSES = (
    ("Down", f"absent(up{{{JOB}}} == 1)", "1m", "page", "No instance can be scraped"),
    ("Saturation", BUSY, "5m", "ticket", "Requests take or want over 80 % of an instance's slots"),
    ("Restarts", RESTARTS, "0s", "ticket", "An instance restarted more than twice in 15 minutes"),
    ("Dependency", DEPENDENCY, "5m", "ticket", USELESS),
    ("PoolExhaustion", POOL, "5m", "ticket", IN_USE),  # only-if: database == "postgresql"
    ("RelayDown", MUTE, "1m", "page", "No relay runs"),  # only-if: messaging == "rabbitmq"
    ("ConsumerDown", IDLE, "1m", "page", "No consumer runs"),  # only-if: messaging == "rabbitmq"
    ("OutboxAge", OUTBOX, "5m", "page", UNSENT),  # only-if: messaging == "rabbitmq"
    ("ConsumerLag", LAG, "5m", "page", LATE),  # only-if: messaging == "rabbitmq"
    ("DeadLetters", DEAD, "0s", "ticket", REFUSED),  # only-if: messaging == "rabbitmq"
)

Rule = dict[str, Any]


def make_ratios(window: str) -> list[Rule]:
    """Record the ratios of failed and of slow requests within a window."""
    bound = float(SLO["latency_seconds"])
    total = f"sum(rate({DURATION}_count{{{JOB}}}[{window}]))"
    failed = f"sum(rate({DURATION}_count{{{JOB},http_response_status_code=~'5..'}}[{window}]))"
    fast = f"sum(rate({DURATION}_bucket{{{JOB},le='{bound}'}}[{window}]))"
    ratios = {"failed": f"({failed} or vector(0)) / {total}", "slow": f"1 - {fast} / {total}"}
    return [
        {"record": f"service:http_{name}:ratio_{window}", "expr": expr, "labels": {"service": NAME}}
        for name, expr in ratios.items()
    ]


def make_alert(
    name: str, expr: str, duration: str, severity: str, summary: str, section: str = ""
) -> Rule:
    """Make an alert that links to a section of the runbook, by default the one of its name."""
    labels = {"severity": severity, "service": NAME}
    runbook_url = f"{SERVICE['runbook']}#{(section or name).lower()}"
    notes = {"summary": summary, "runbook_url": runbook_url}
    return {"alert": name, "expr": expr, "for": duration, "labels": labels, "annotations": notes}


def make_burn_alerts(section: str, verb: str, ratio: str, objective: float) -> list[Rule]:
    """Make the alerts for an objective, in percent of requests that do not count in `ratio`."""
    rules = []
    for severity, rate, long, short in BURN_RATES:
        threshold = round(rate * (100 - objective) / 100, 6)
        if not 0 < threshold < 1:
            what = f"{section.lower()} of {objective} %"
            sys.exit(f"service.yaml: no alert can watch {what}: take 93.1 to 99.999")
        expr = " and ".join(
            f"service:http_{ratio}:ratio_{window}{{service='{NAME}'}} > {threshold}"
            for window in (long, short)
        )
        value = "{{ $value | humanizePercentage }}"
        summary = f"{value} of requests {verb} within {long}: burn rate above {rate}"
        rules.append(make_alert(f"{section}Burn{long}", expr, "0s", severity, summary, section))
    return rules


def make_groups() -> dict[str, list[Rule]]:
    """Return the rules by the names of their groups."""
    if SLO["latency_seconds"] not in BUCKETS:
        where = "as chassis/telemetry/metrics.py has them"
        sys.exit(f"service.yaml: latency_seconds must be one of {BUCKETS}, {where}")
    return {
        "ratios": [rule for window in WINDOWS for rule in make_ratios(window)],
        "objectives": [
            *make_burn_alerts("Availability", "failed", "failed", SLO["availability_percent"]),
            *make_burn_alerts("Latency", "were slow", "slow", SLO["latency_percent"]),
        ],
        "causes": [make_alert(*cause) for cause in CAUSES],
    }


def main() -> None:
    """Print YAML with JSON scalars, which are quoted alike whatever the name is."""
    groups = make_groups()
    sys.stdout.write("# Written by `make rules` from service.yaml.\ngroups:\n")
    for name, rules in groups.items():
        sys.stdout.write(f"  - name: {json.dumps(f'{NAME}-{name}')}\n    rules:\n")
        for rule in rules:
            lines = [
                f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in rule.items()
            ]
            sys.stdout.write("      - " + "        ".join(lines))


if __name__ == "__main__":
    main()
