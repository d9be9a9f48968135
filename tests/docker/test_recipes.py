"""The recipes that need a real PostgreSQL, or the image: with them, in Docker."""

import json
from pathlib import Path

import pytest

from tests.conftest import Bake
from tests.conftest import installed
from tests.conftest import make
from tests.docker.project import deployed
from tests.test_recipes import follow

pytestmark = [pytest.mark.docker, pytest.mark.slow]


def test_of_two_bookings_that_overlap_one_is_refused(
    bake: Bake, service_python: Path, tmp_path: Path
) -> None:
    baked = bake(database="postgresql", sample="no", service_slug="recipes-test")
    service = installed(baked, service_python, tmp_path)
    follow(service, bake(service_slug="shop", service_name="Shop"))
    code, output = make(service, "test-postgres", "ARGS=-q -k 'overlap or filled_tables'")
    assert code == 0, output
    assert "2 passed" in output


def test_a_job_runs_once_in_a_container_of_its_own(
    bake: Bake, service_python: Path, tmp_path: Path
) -> None:
    def with_recipes(**answers: str) -> Path:
        (tmp_path / "recipes").mkdir()
        service = installed(bake(**answers), service_python, tmp_path / "recipes")
        follow(service, bake(service_slug="shop", service_name="Shop"))
        return service

    with deployed(with_recipes, tmp_path, sample="no") as project:
        job = ("python", "-m", "service.jobs.inventory")
        printed = project.compose("run", "--rm", "-T", project.service.name, *job)
        lines = [line for line in printed.splitlines() if line.startswith("{")]
        assert [json.loads(line)["seats"] for line in lines] == [64]
