"""The benchmarks run; what they measure is read by people."""

import subprocess
from pathlib import Path

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
