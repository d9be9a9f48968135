"""What is read from what Docker, Envoy and services print, and how it is shown."""

import json
import os

import pytest

from fleet import engine
from fleet.asking import refusals
from fleet.containers import error_of
from fleet.documents import seconds
from fleet.health import addresses
from fleet.rollout import tag_of
from fleet.status import HEAD
from fleet.status import Row
from fleet.status import compared
from fleet.status import table

CLUSTERS = """\
orders::default_priority::max_connections::1000
orders::172.18.0.5:5000::cx_active::1
orders::172.18.0.5:5000::health_flags::healthy
orders::172.18.0.6:5000::health_flags::/failed_active_hc
orders-db::172.18.0.7:5000::health_flags::healthy
orders::[fd00::7]:5000::health_flags::healthy
"""


def test_only_the_healthy_addresses_of_one_service_are_found() -> None:
    assert "172.18.0.5" in addresses(CLUSTERS, "orders")
    assert addresses(CLUSTERS, "orders-db") == {"172.18.0.7"}
    assert addresses("", "orders") == set()
    assert "172.18.0.6" not in addresses(CLUSTERS, "orders")


def line(level: str, message: str, **more: str) -> str:
    return json.dumps({"level": level, "message": message, **more})


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([line("ERROR", "a"), line("INFO", "bye")], "a"),
        ([line("ERROR", "a", **{"exception.stacktrace": "T\n  f\nKeyError: 1"})], "a: KeyError: 1"),
        (["configuration: PORT: too low"], "configuration: PORT: too low"),
        ([line("INFO", "bye"), "[1]"], "[1]"),
        ([], "it wrote no line"),
    ],
)
def test_the_reason_of_an_end_is_the_last_error(lines: list[str], reason: str) -> None:
    assert error_of(lines) == reason


@pytest.mark.parametrize(
    ("told", "refused"),
    [
        ("configuration: PORT: too: low\nconfiguration: A: b", {"PORT": "too: low", "A": "b"}),
        ('Traceback:\n  File "a": b\nKeyError: 1', {"orders:1": "KeyError: 1"}),
        ("", {"orders:1": "it cannot be run"}),
    ],
)
def test_what_a_service_refuses_is_known_by_name(told: str, refused: dict[str, str]) -> None:
    assert refusals("orders:1", told) == refused


@pytest.mark.parametrize(("told", "expected"), [("30s", 30), ("1m1.5s", 61.5), ("1h0m0s", 3600)])
def test_the_time_that_compose_waits_is_read_in_seconds(told: str, expected: float) -> None:
    assert seconds(told) == expected


@pytest.mark.parametrize(
    ("revision", "tag"),
    [
        ("0123456789abcdef", "orders:0123456789ab-fedcba987654"),
        ("0123456789abcdef-dirty", "orders:0123456789ab-dirty-fedcba987654"),
        ("unknown", "orders:unknown-fedcba987654"),
    ],
)
def test_a_tag_tells_the_commit_and_whether_the_image_holds_more(revision: str, tag: str) -> None:
    assert tag_of("orders", revision, "sha256:fedcba9876543210") == tag


def test_a_contract_that_is_not_what_runs_is_told_in_words() -> None:
    document = {"paths": {}, "info": {"version": "0.1.0"}}
    assert compared(document, '{"info": {"version": "0.1.0"}, "paths": {}}\n') == "0.1.0"
    assert compared(document, "{}") == "0.1.0 (openapi.json is not what runs)"


def test_a_table_has_its_columns_below_each_other() -> None:
    row = Row("orders", "-", "abc-123", 1, 2, "99.9%", None, "0.1.0", ["lock"])
    head, line = table([HEAD, row.cells()]).splitlines()
    assert line.split() == ["orders", "-", "abc-123", "1/2", "99.9%", "0.1.0", "lock"]
    assert head.index("DRIFT") == line.index("lock")


def test_a_setting_of_the_shell_reaches_no_service(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOG_LEVEL", "IMAGE", "MAKEFLAGS", "DATABASE_TIMEOUT"):
        monkeypatch.setenv(name, "other")
    monkeypatch.setenv("PORT", "80")
    passed = engine.environment()
    assert (passed["PORT"], passed["PATH"]) == ("80", os.environ["PATH"])
    assert passed.keys().isdisjoint({"LOG_LEVEL", "IMAGE", "MAKEFLAGS", "DATABASE_TIMEOUT"})
