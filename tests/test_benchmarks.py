"""The benchmarks run; what they measure is read by people."""

import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

FEW = """
import chassis

chassis.BLOCKS, chassis.CALLS = 5, 3
chassis.in_process()
print("layers", *chassis.LAYERS, sep="\\n")
"""


def test_the_cost_of_each_layer_is_printed(service_python: Path) -> None:
    done = subprocess.run(
        (service_python, "-B", "-c", FEW), cwd=ROOT / "benchmarks", capture_output=True, text=True, check=True
    )
    table, _, layers = done.stdout.partition("layers\n")
    rows = table.splitlines()[2:]  # below the head
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == layers.splitlines()


@pytest.mark.parametrize(("told", "seconds"), [("850.00us", "0.00085"), ("12.50ms", "0.0125"), ("1.02s", "1.02")])
def test_a_percentile_of_wrk_s_report_is_read_in_seconds(service_python: Path, told: str, seconds: str) -> None:
    report = f"  Latency Distribution\n     50%    1.00ms\n     99%  {told}\n  10 requests in 1.00s\n"
    code = f"import collector; print(round(collector.seconds({report!r}), 6))"
    done = subprocess.run((service_python, "-B", "-c", code), cwd=ROOT / "benchmarks", capture_output=True, text=True)
    assert done.stdout.strip() == seconds, done.stderr
