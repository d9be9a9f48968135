"""The CI files of a baked service and of the template: valid, and nothing but make targets."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.docker.containers import Bake

TOOLS = Path(sys.executable).parent
# How a line may begin besides `make`: what installs make, signs in and pushes.
BESIDES = (
    "apt-get update",
    "apk add",
    'printf %s "$',
    "target=$(printf ",
    "docker tag ",
    "docker push ",
    "docker image inspect ",
    'if [ -n "$CI_COMMIT_TAG" ]; then docker tag ',
)


def passes(tool: str, *arguments: str) -> str:
    """Run a tool of the tests' environment and return its output; it must find nothing."""
    command = (str(TOOLS / tool), *arguments)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


def scripts(document: Any) -> list[str]:
    """Every shell line of a workflow."""
    if isinstance(document, list):
        return [line for entry in document for line in scripts(entry)]
    if not isinstance(document, dict):
        return []
    found = scripts(list(document.values()))
    for key in ("run", "script", "before_script"):
        lines = document.get(key, [])
        found += "\n".join([lines] if isinstance(lines, str) else lines).splitlines()
    return found


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        (".github/workflows/ci.yml", "vendor.github-workflows"),
        (".github/workflows/database.yml", "vendor.github-workflows"),
        (".github/dependabot.yml", "vendor.dependabot"),
        ("compose.override.yaml", "vendor.compose-spec"),
        ("compose.yaml", "vendor.compose-spec"),
        ("compose.database.yaml", "vendor.compose-spec"),
    ],
)
def test_a_file_for_github_or_compose_fits_its_schema(bake: Bake, name: str, schema: str) -> None:
    passes("check-jsonschema", "--builtin-schema", schema, str(bake(database="postgresql") / name))


def test_the_gitlab_file_fits_its_schema(bake: Bake) -> None:
    options = ("--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci")
    service = bake(ci="gitlab", database="postgresql")
    passes("check-jsonschema", *options, str(service / ".gitlab-ci.yml"))


def test_zizmor_finds_nothing_in_the_service(bake: Bake) -> None:
    passes("zizmor", "--offline", "--persona=auditor", str(bake(database="postgresql") / ".github"))


def test_zizmor_finds_nothing_in_the_template() -> None:
    passes("zizmor", "--offline", "--persona=auditor", str(ROOT / ".github"))


@pytest.mark.parametrize(
    ("ci", "name", "targets"),
    [
        ("github", ".github/workflows/ci.yml", {"check", "image", "smoke"}),
        ("github", ".github/workflows/database.yml", {"test-postgres"}),
        ("gitlab", ".gitlab-ci.yml", {"check", "image", "smoke", "test", "test-previous"}),
    ],
)
def test_a_workflow_only_calls_make_and_pushes(
    bake: Bake, ci: str, name: str, targets: set[str]
) -> None:
    lines = scripts(yaml.safe_load((bake(ci=ci, database="postgresql") / name).read_text("utf-8")))
    assert {line.removeprefix("make ") for line in lines if line.startswith("make ")} == targets
    assert [line for line in lines if not line.startswith(("make ", *BESIDES))] == []


@pytest.mark.parametrize(
    ("ci", "name"), [("github", ".github/workflows/ci.yml"), ("gitlab", ".gitlab-ci.yml")]
)
def test_no_text_of_an_answer_reaches_a_workflow(bake: Bake, ci: str, name: str) -> None:
    plain = (bake(ci=ci) / name).read_text("utf-8")
    answers = {
        "service_name": "Zebra",
        "service_slug": "zebra-x",
        "description": "Zebras",
        "owner": "Zebra keepers",
    }
    assert (bake(ci=ci, **answers) / name).read_text("utf-8") == plain


def test_only_the_job_that_publishes_may_write_packages(bake: Bake) -> None:
    workflow = yaml.safe_load((bake() / ".github/workflows/ci.yml").read_text("utf-8"))
    jobs = workflow["jobs"].items()
    writers = [name for name, job in jobs if "write" in json.dumps(job["permissions"])]
    assert (workflow["permissions"], writers) == ({}, ["publish"])


def test_nothing_is_published_before_all_tests_have_passed(bake: Bake) -> None:
    for database, needed in (("none", ["check"]), ("postgresql", ["check", "database"])):
        path = bake(database=database) / ".github/workflows/ci.yml"
        workflow = yaml.safe_load(path.read_text("utf-8"))
        assert workflow["jobs"]["publish"]["needs"] == needed


def test_nothing_is_published_from_a_pull_request(bake: Bake) -> None:
    workflow = yaml.safe_load((bake() / ".github/workflows/ci.yml").read_text("utf-8"))
    assert workflow["jobs"]["publish"]["if"] == "github.event_name == 'push'"
