"""The service's rules as promtool judges them: series that make each alert fire, or do not."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Bake
from tests.docker.monitoring import configuration
from tests.docker.monitoring import promtool

pytestmark = pytest.mark.docker

JOB = "job='flask-microservice'"
DAY = 24 * 60  # minutes: the series have one sample a minute
RATE = 10_000  # requests a minute
SECTIONS = ("Availability", "Latency")

# On the third day so many of 10,000 requests fail for the last minutes; what fires then, and what
# minutes later.
BURNS = [
    (600, 20, {"1h"}, 30, set()),
    (120, 4 * 60, {"6h"}, 30, set()),
    (50, 16 * 60, {"1d", "3d"}, 2 * 60, {"3d"}),
    (20, 40 * 60, {"3d"}, 6 * 60, set()),
    # Nearly as long:
    (600, 14, set(), 30, set()),
    (120, 2 * 60 + 50, set(), 30, set()),
    (50, 14 * 60, set(), 30, set()),
    (20, 32 * 60, set(), 30, set()),
    # Nearly as many:
    (9, 3 * DAY, set(), 30, set()),
]


def counter(parts: list[tuple[int, int]]) -> str:
    """A counter in promtool's notation: parts of so much more a minute, for so many minutes."""
    written = ["0"]
    value = 0
    for step, minutes in filter(lambda part: part[1], parts):
        written.append(f"{value + step}+{step}x{minutes - 1}")
        value += step * minutes
    return " ".join(written)


def requests(bad: int, minutes: int, after: int) -> dict[str, str]:
    """Requests of which `bad` of 10,000 fail, and ten times as many are slow.

    The budget of slow ones is ten times that of failures.
    """
    parts = [(0, 3 * DAY - minutes), (bad, minutes), (0, after)]
    name = "http_server_request_duration_seconds"
    good = [(RATE - step, count) for step, count in parts]
    quick = [(RATE - 10 * step, count) for step, count in parts]
    return {
        f"{name}_count{{{JOB},http_response_status_code='500'}}": counter(parts),
        f"{name}_count{{{JOB},http_response_status_code='200'}}": counter(good),
        f"{name}_bucket{{{JOB},le='0.3'}}": counter(quick),
    }


def judge(
    service: Path,
    folder: Path,
    series: dict[str, str],
    firing: dict[str, set[str]],
    every: str = "1m",
) -> None:
    """Let promtool assert which alerts, and no others, fire at each time.

    Rules are evaluated `every` so often.
    """

    def samples(names: set[str]) -> list[dict[str, Any]]:
        return [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(names)]

    counted = 'count by (alertname) (ALERTS{alertstate="firing"})'
    asked = [
        {"expr": counted, "eval_time": when, "exp_samples": samples(names)}
        for when, names in firing.items()
    ]
    given = [{"series": name, "values": values} for name, values in series.items()]
    document: dict[str, Any] = {"rule_files": ["rules.yaml"], "evaluation_interval": every}
    # Else by chance, and what one group records would be too old for the next.
    groups = ("ratios", "objectives", "causes")
    document["group_eval_order"] = [f"{service.name}-{group}" for group in groups]
    document["tests"] = [{"interval": "1m", "input_series": given, "promql_expr_test": asked}]
    path = folder / "cases.yaml"
    path.write_text(json.dumps(document))
    status, said = promtool("test", "rules", "cases.yaml", files=(path, service / "rules.yaml"))
    assert status == 0, said


def test_promtool_finds_nothing_in_the_rules(service: Path) -> None:
    arguments = ("check", "rules", "--lint=all", "--lint-fatal", "rules.yaml")
    status, said = promtool(*arguments, files=(service / "rules.yaml",))
    assert status == 0, said


def test_the_rules_load_into_prometheus(service: Path, tmp_path: Path) -> None:
    files = (configuration(service, tmp_path), service / "rules.yaml")
    arguments = ("check", "config", "--lint=all", "--lint-fatal", "prometheus.yml")
    status, said = promtool(*arguments, files=files)
    assert status == 0, said


@pytest.mark.parametrize(("bad", "minutes", "burns", "after", "then"), BURNS)
def test_an_alert_fires_as_fast_as_the_budget_burns(
    service: Path,
    tmp_path: Path,
    bad: int,
    minutes: int,
    burns: set[str],
    after: int,
    then: set[str],
) -> None:
    alive = {f"up{{{JOB}}}": f"1x{3 * DAY + after}"}
    firing = {3 * DAY - minutes: set(), 3 * DAY: burns, 3 * DAY + after: then}
    named = {
        f"{when}m": {f"{section}Burn{window}" for section in SECTIONS for window in windows}
        for when, windows in firing.items()
    }
    judge(service, tmp_path, requests(bad, minutes, after) | alive, named, every="30m")


SATURATION = f"http_server_saturation_ratio{{{JOB},instance='a'}}"
START_TIME = f"process_start_time_seconds{{{JOB},instance='a'}}"
CALLS = f"http_client_request_duration_seconds_count{{{JOB},callee='stock',outcome="
# One value a minute, and which minutes' values make which alert fire.
CAUSES = [
    (SATURATION, "0x10 0.9x20 0.1x10", "Saturation", "25m", ["10m", "14m", "37m"]),
    (SATURATION, "0.7x40", "Saturation", "", ["20m", "40m"]),
    (START_TIME, "1x5 2x2 3x2 4x30", "Restarts", "12m", ["4m", "9m", "30m"]),
    (START_TIME, "1x5 2x2 3x30", "Restarts", "", ["10m", "20m"]),
    (f"up{{{JOB},instance='b'}}", "1x40", "Down", "", ["10m", "30m"]),
    (CALLS + "'TimedOut'}", "0x10 0+60x15 900x15", "Dependency", "25m", ["9m", "14m", "37m"]),
    (CALLS + "'503'}", "0x10 0+60x15 900x15", "Dependency", "25m", ["9m", "14m", "37m"]),
    (CALLS + "'404'}", "0+60x40", "Dependency", "", ["10m", "30m"]),
    (CALLS + "'200'}", "0+60x40", "Dependency", "", ["10m", "30m"]),
]


@pytest.mark.parametrize(("series", "values", "alert", "fires", "not_at"), CAUSES)
def test_a_cause_fires_while_it_lasts(
    service: Path,
    tmp_path: Path,
    series: str,
    values: str,
    alert: str,
    fires: str,
    not_at: list[str],
) -> None:
    firing = {when: set[str]() for when in not_at} | ({fires: {alert}} if fires else {})
    judge(service, tmp_path, {series: values, f"up{{{JOB},instance='a'}}": "1x40"}, firing)


def test_that_no_instance_is_up_fires_after_a_minute_and_ends(
    service: Path, tmp_path: Path
) -> None:
    ups = {f"up{{{JOB},instance='a'}}": "1x5 0x10 1x5", f"up{{{JOB},instance='b'}}": "1x3 stale"}
    judge(service, tmp_path, ups, {"5m": set(), "6m": set(), "8m": {"Down"}, "17m": set()})


def test_that_nothing_was_ever_scraped_fires(service: Path, tmp_path: Path) -> None:
    judge(service, tmp_path, {"up{job='another'}": "1x5"}, {"3m": {"Down"}})


RELAY = "job='flask-microservice-relay'"
CONSUMER = "job='flask-microservice-consumer'"
OUTBOX = f"messaging_outbox_age_seconds{{{RELAY},instance='a'}}"
LAG = f"messaging_lag_seconds{{{CONSUMER},instance='a'}}"
DEAD = f"messaging_dead_letters{{{CONSUMER},instance='a'}}"
# As CAUSES, of a service with events.
EVENTS = [
    (OUTBOX, "0x10 61x10 0x20", "OutboxAge", "17m", ["10m", "14m", "22m"]),
    (OUTBOX, "60x40", "OutboxAge", "", ["20m", "40m"]),
    (LAG, "0x10 61x10 0x20", "ConsumerLag", "17m", ["10m", "14m", "22m"]),
    (LAG, "60x40", "ConsumerLag", "", ["20m", "40m"]),
    (DEAD, "0x10 1x10 0x20", "DeadLetters", "12m", ["10m", "22m"]),
    (f"up{{{RELAY},instance='a'}}", "1x10 0x10 1x20", "RelayDown", "13m", ["10m", "22m"]),
    (f"up{{{RELAY},instance='a'}}", "1x10 stale", "RelayDown", "13m", ["10m"]),
    (f"up{{{CONSUMER},instance='a'}}", "1x10 0x10 1x20", "ConsumerDown", "13m", ["10m", "22m"]),
    (f"up{{{CONSUMER},instance='a'}}", "1x10 stale", "ConsumerDown", "13m", ["10m"]),
]


@pytest.mark.parametrize(("series", "values", "alert", "fires", "not_at"), EVENTS)
def test_a_cause_of_events_fires_while_it_lasts(
    bake: Bake,
    tmp_path: Path,
    series: str,
    values: str,
    alert: str,
    fires: str,
    not_at: list[str],
) -> None:
    service = bake(database="postgresql", messaging="rabbitmq")
    alive = {f"up{{{job},instance='a'}}": "1x40" for job in (JOB, RELAY, CONSUMER)}
    firing = {when: set[str]() for when in not_at} | ({fires: {alert}} if fires else {})
    judge(service, tmp_path, alive | {series: values}, firing)
