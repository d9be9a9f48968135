"""The shipped locks: hashes for every platform, and for every answer what uv itself compiles."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import CHOICES
from tests.conftest import FOLDER
from tests.conftest import PLATFORM_FOLDER
from tests.conftest import ROOT
from tests.conftest import bake_with
from tests.conftest import fit

LOCKS = ["requirements.txt", "requirements-dev.txt"]
ALL_LOCKS = [
    *(f"{FOLDER}/{name}" for name in LOCKS),
    f"{FOLDER}/scripts/contracts/requirements.txt",
    *(f"{PLATFORM_FOLDER}/{name}" for name in LOCKS),
    "requirements-dev.txt",
    "tests/habits/requirements.txt",
]
TOOL = str(Path(sys.executable).with_name("uv"))
UV = (TOOL, "pip", "compile", "--quiet", "--universal", "--python-version", "3.11")
STYLE = ("--generate-hashes", "--no-annotate", "--no-header")
MARKER = re.compile(r'"(.+)",  # only-if: (.+)')
# Two options whose packages have dependencies, shared ones and some for one platform only.
OPTIONS = {"store": ["none", "sql"], "broker": ["none", "amqp"]}
OPTION_LINES = """    "aio-pika>=9",  # only-if: broker == "amqp"
    "sqlalchemy[asyncio]>=2",  # only-if: store == "sql"
"""


def questions_of(manifest: str) -> list[str]:
    """Return the questions that the dependencies of a manifest depend on."""
    rules = " ".join(rule for _, rule in MARKER.findall(manifest))
    return sorted(name for name in CHOICES if re.search(rf"\b{name}\b", rules))


def compiled(service: Path, limits: Path, *options: str) -> str:
    command = (*UV, *STYLE, "--constraints", str(limits), *options, "pyproject.toml")
    return subprocess.run(command, check=True, cwd=service, capture_output=True, text=True).stdout


def superset(template: Path, name: str, folder: Path) -> Path:
    """Write a lock of the template without its conditions; return the file."""
    path = folder / f"all-{name}"
    path.write_text((template / FOLDER / name).read_text(encoding="utf-8"), encoding="utf-8")
    return path


def relock(template: Path) -> None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run((sys.executable, "scripts/relock"), check=True, cwd=template, env=environment)


@pytest.fixture(scope="session")
def optional_template(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the template with two options more, locked by its own script."""
    copy = Path(shutil.copytree(template, tmp_path_factory.mktemp("optional") / "template"))
    specification = json.loads((copy / "cookiecutter.json").read_text(encoding="utf-8"))
    (copy / "cookiecutter.json").write_text(json.dumps(OPTIONS | specification), encoding="utf-8")
    manifest = copy / FOLDER / "pyproject.toml"
    text = manifest.read_text(encoding="utf-8")
    head = "dependencies = [\n"
    manifest.write_text(text.replace(head, head + OPTION_LINES, 1), encoding="utf-8")
    relock(copy)
    return copy


def combinations(questions: dict[str, list[str]]) -> list[dict[str, str]]:
    return [
        dict(zip(questions, values, strict=True))
        for values in itertools.product(*questions.values())
        if fit(dict(zip(questions, values, strict=True)))
    ]


MANIFEST = (ROOT / FOLDER / "pyproject.toml").read_text(encoding="utf-8")
SHIPPED = combinations({name: CHOICES[name] for name in questions_of(MANIFEST)})


@pytest.mark.slow
@pytest.mark.parametrize("answers", SHIPPED, ids=str)
def test_a_services_locks_are_what_uv_compiles(
    template: Path, user_config: Path, tmp_path: Path, answers: dict[str, str]
) -> None:
    service = bake_with(template, tmp_path, user_config, **answers)
    runtime, development = (superset(template, name, tmp_path) for name in LOCKS)
    assert (service / runtime.name[4:]).read_text() == compiled(service, runtime)
    assert (service / development.name[4:]).read_text() == compiled(
        service, development, "--group", "dev"
    )


@pytest.mark.slow
@pytest.mark.parametrize("answers", combinations(OPTIONS), ids=str)
def test_locks_with_options_are_what_uv_compiles(
    optional_template: Path, user_config: Path, tmp_path: Path, answers: dict[str, str]
) -> None:
    service = bake_with(optional_template, tmp_path, user_config, **answers)
    limits = superset(optional_template, LOCKS[1], tmp_path)
    assert (service / LOCKS[0]).read_text() == compiled(service, limits)
    assert (service / LOCKS[1]).read_text() == compiled(service, limits, "--group", "dev")


@pytest.mark.slow
def test_an_option_that_is_off_leaves_no_package(
    optional_template: Path, user_config: Path, tmp_path: Path
) -> None:
    names = {}
    for store in OPTIONS["store"]:
        answers = {"store": store, "service_slug": f"with-{store}"}
        service = bake_with(optional_template, tmp_path, user_config, **answers)
        lock = (service / LOCKS[0]).read_text()
        names[store] = re.findall(r"^([a-z0-9-]+)", lock, re.MULTILINE)
    assert set(names["sql"]) - set(names["none"]) == {"greenlet", "sqlalchemy"}


@pytest.mark.slow
def test_relocking_changes_nothing_where_the_manifests_did_not(
    template: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(template, tmp_path / "template"))
    relock(copy)
    for name in ALL_LOCKS:
        assert (copy / name).read_text() == (ROOT / name).read_text()


@pytest.mark.parametrize("name", ALL_LOCKS)
def test_no_line_of_a_lock_names_a_host(name: str) -> None:
    pin = r"\S+==\S+( ; [^/]+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?"
    condition = r"# \{% (if cookiecutter\.[^/]+|endif) %\}"
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not re.fullmatch(f"{pin}|{condition}", line)] == []


def test_development_has_the_versions_that_run_in_production() -> None:
    runtime, development = (
        set(re.findall(r"^\S+==\S+.*", (ROOT / FOLDER / name).read_text(), re.MULTILINE))
        for name in LOCKS
    )
    assert runtime < development


def test_every_dependency_has_a_range_that_ends_before_the_next_major() -> None:
    wanted = tomllib.loads(MANIFEST)["project"]["dependencies"]
    assert [requirement for requirement in wanted if ",<" not in requirement] == []
