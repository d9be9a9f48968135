"""The commands of the service's runbook, as they stand there, for a service at work."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.containers import Container
from tests.docker.containers import Run
from tests.docker.containers import eventually
from tests.docker.load import KeepAliveLoad

pytestmark = pytest.mark.docker


@pytest.fixture
def busy(run: Run) -> Iterator[Container]:
    """A container whose service answers requests."""
    container = run().wait_until_ready()
    load = KeepAliveLoad(container.port, "/v1/products/tea", clients=2)
    yield container
    load.stop()
    assert load.failures == []


def follow(service: Path, beginning: str, container: Container) -> str:
    """Run the one command that begins so; return what it prints."""
    found = re.findall(rf"`({beginning} [^`]*)`", (service / "RUNBOOK.md").read_text("utf-8"))
    (command,) = (one.replace("CONTAINER", container.id) for one in found)
    return subprocess.run(("sh", "-c", command), check=True, capture_output=True, text=True).stdout


def test_the_stacks_of_all_threads_are_in_the_log(service: Path, busy: Container) -> None:
    follow(service, "docker kill", busy)
    eventually(lambda: "Current thread" in busy.logs(), "stacks")
    assert re.search(r'File "[^"]+/granian/[^"]+", line \d+ in ', busy.logs())


def test_a_profile_tells_where_the_cpu_time_goes(service: Path, busy: Container) -> None:
    stacks = follow(service, "docker run", busy)
    stack = r"^process .*\(service/chassis/http/access\.py:\d+\).* \d+$"
    assert re.search(stack, stacks, re.MULTILINE), stacks
