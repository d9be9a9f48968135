"""The page of the ways to run a service: whole, with commands that are run elsewhere."""

import re

from tests.conftest import PLATFORM_FOLDER
from tests.conftest import ROOT
from tests.deployment import PAGE
from tests.deployment import commands

WAYS = ("Alone", "On a platform", "On Kubernetes", "On Docker Swarm", "On AWS Lambda")


def test_the_page_has_every_way_in_the_order_of_its_table() -> None:
    text = (ROOT / PAGE).read_text("utf-8")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == list(WAYS)
    links = [link.replace("-", " ") for link in re.findall(r"^\| \[.*\]\(#(.+?)\)", text, re.M)]
    assert links == [way.lower() for way in WAYS]


def test_what_runs_alone_runs_as_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert [line for line in commands("Alone") if line not in readme] == []


def test_what_runs_on_a_platform_runs_as_in_its_readme() -> None:
    readme = (ROOT / PLATFORM_FOLDER / "README.md").read_text("utf-8").splitlines()
    assert commands("On a platform") == ["make up", "make join", "make deploy", "make rollback"]
    assert [line for line in commands("On a platform") if line not in readme] == []


def test_the_commands_of_the_other_ways_are_those_that_their_tests_run() -> None:
    assert [line.split()[:2] for line in commands("On Kubernetes")] == [
        ["make", "deploy"],
        ["make", "rollback"],
    ]
    assert [line.split()[:3] for line in commands("On Docker Swarm")] == [
        ["docker", "stack", "deploy"]
    ]
    assert [line.split()[:3] for line in commands("On AWS Lambda")] == [
        ["uv", "pip", "compile"],
        ["docker", "build", "-t"],
        ["docker", "build", "--provenance=false"],
    ]
