"""The benchmarks run; what they measure is read by people."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.conftest import Bake

CHASSIS = """
import chassis
chassis.BLOCKS = 5
chassis.CALLS = 3
chassis.in_process()
print('layers', *chassis.LAYERS, sep='\\n')
"""
DATABASE = """
import database
database.BLOCKS = 5
database.CALLS = 3
database.ROWS = 60
with database.postgresql():
    database.in_process(database.fill())
names = [name for _ in database.REQUESTS for name in database.LAYERS]
print('layers', *names, sep='\\n')
"""

MESSAGING = """
import messaging
messaging.EVENTS = 40
messaging.SECONDS = 1
messaging.main()
print('layers', *messaging.PARTS, 'median', '99 %', sep='\\n')
"""

MEMORY = """
import memory
memory.STARTS = 1
memory.REQUESTS = 1
memory.main()
print('layers', *memory.SERVED, sep='\\n')
"""

CLIENT = """
import client
client.BLOCKS = 5
client.CALLS = 3
client.main()
print('layers', *client.CALLERS, sep='\\n')
"""

ADMISSION = """
import sys, admission
admission.SECONDS = 0.3
with admission.serving(sys.executable, admission.__file__, 'serve') as url:
    admission.open_model(url)
print('layers', 288, 1280, sep='\\n')
"""


def measured(python: Path, code: str, *arguments: str) -> tuple[list[str], list[str]]:
    """Run code beside the benchmarks; return the names of the tables' rows, and of the layers."""
    command = (str(python), "-c", code, *arguments)
    done = subprocess.run(
        command,
        cwd=ROOT / "benchmarks",
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    tables, _, layers = done.stdout.partition("layers\n")
    rows = [row for row in tables.splitlines() if row.startswith("| ") and " | ratio" not in row]
    return [row.split(" | ")[0].removeprefix("| ") for row in rows], layers.splitlines()


def test_the_cost_of_each_layer_is_printed(service_python: Path) -> None:
    rows, layers = measured(service_python, CHASSIS)
    assert rows == layers


def test_the_cost_of_a_call_is_printed(service_python: Path) -> None:
    rows, callers = measured(service_python, CLIENT)
    assert rows == callers


def test_what_callers_get_under_overload_is_printed(service_python: Path) -> None:
    rows, rates = measured(service_python, ADMISSION)
    assert rows == ["asked a second", *rates]


def test_the_memory_of_a_service_is_printed(service_python: Path, bake: Bake) -> None:
    rows, layers = measured(service_python, MEMORY, str(bake()))
    assert rows == layers


@pytest.mark.docker
def test_the_cost_of_each_layer_of_the_database_is_printed(service_python: Path) -> None:
    rows, layers = measured(service_python, DATABASE)
    assert len(rows) == 9
    assert rows == layers


@pytest.mark.docker
def test_the_rates_and_the_latency_of_events_are_printed(service_python: Path, bake: Bake) -> None:
    service = bake(service_slug="events", database="postgresql", messaging="rabbitmq")
    rows, parts = measured(service_python, MESSAGING, str(service))
    assert [row for row in rows if not row.startswith(("events", "from commit"))] == parts


@pytest.mark.parametrize(
    ("told", "seconds"), [("850.00us", "0.00085"), ("12.50ms", "0.0125"), ("1.02s", "1.02")]
)
def test_a_percentile_of_wrk_s_report_is_read_in_seconds(
    service_python: Path, told: str, seconds: str
) -> None:
    distribution = f"     50%    1.00ms\n     99%  {told}\n"
    report = f"  Latency Distribution\n{distribution}  10 requests in 1.00s\n"
    command = (
        service_python,
        "-B",
        "-c",
        f"import collector; print(round(collector.seconds({report!r}), 6))",
    )
    done = subprocess.run(command, cwd=ROOT / "benchmarks", capture_output=True, text=True)
    assert done.stdout.strip() == seconds, done.stderr
