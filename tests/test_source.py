"""The template's source: a project that runs un-rendered, with answers only where they are safe."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import FOLDER
from tests.conftest import ROOT
from tests.conftest import known_files

EXPRESSION = re.compile(r"\{\{ cookiecutter\.(\w+)((?: \| \w+)*) \}\}")
TEXTS = {"service_name", "description", "owner"}
FUNCTION_LINES = 40
LINE_LENGTH = 100
SERVICE = [ROOT / name for name in known_files() if name.startswith(f"{FOLDER}/")]
PYTHON = [path for path in SERVICE if path.suffix == ".py"]
SOURCE = [path for path in PYTHON if path.is_relative_to(ROOT / FOLDER / "src")]
OWN_PYTHON = [ROOT / "scripts/relock", *(ROOT / name for name in known_files() if name[-3:] == ".py")]
CONTRACTS = [
    contract["name"]
    for contract in tomllib.loads((ROOT / FOLDER / "pyproject.toml").read_text("utf-8"))["tool"][
        "importlinter"
    ]["contracts"]
]
LINT_IMPORTS = (
    "-c",
    "from importlinter.cli import lint_imports_command as command; command()",
    "--no-cache",
)


def label(path: Path) -> str:
    return str(path.relative_to(ROOT)).removeprefix(f"{FOLDER}/")


@pytest.fixture(scope="module")
def service(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the un-rendered service, for tools that leave caches."""
    return Path(shutil.copytree(template / FOLDER, tmp_path_factory.mktemp("source") / FOLDER))


@pytest.mark.parametrize("command", ["ruff check .", "ruff format --check .", "mypy"])
def test_the_templates_own_python_is_clean(command: str, tmp_path: Path) -> None:
    environment = os.environ | {"MYPY_CACHE_DIR": str(tmp_path), "RUFF_NO_CACHE": "true"}
    subprocess.run((sys.executable, "-m", *command.split()), check=True, cwd=ROOT, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("-m", "ruff", "check", "--no-cache", "."),
        ("-m", "ruff", "format", "--no-cache", "--check", "."),
        ("-m", "mypy"),
        LINT_IMPORTS,
        ("-m", "pytest", "-q"),
    ],
    ids=["ruff check", "ruff format", "mypy", "layers", "pytest"],
)
def test_the_service_passes_its_checks_un_rendered(
    service: Path, service_python: Path, command: tuple[str, ...]
) -> None:
    environment = os.environ | {
        "PATH": f"{service_python.parent}:{os.environ['PATH']}",
        "PYTHONPATH": "src",
    }
    subprocess.run((str(service_python), *command), check=True, cwd=service, env=environment)


@pytest.mark.parametrize("path", PYTHON, ids=label)
def test_python_holds_no_template_syntax(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "{%" not in text
    assert "{{ cookiecutter" not in text


@pytest.mark.parametrize("path", PYTHON, ids=label)
def test_python_stays_in_the_grammar_that_the_hooks_can_parse(path: Path) -> None:
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))


# What each contract of import-linter forbids: a module of the service, and a line for it.
BREACHES = [
    (CONTRACTS[0], "chassis/lifecycle.py", "import service.settings"),
    (CONTRACTS[0], "domain/catalogue.py", "import service.chassis.project"),
    (CONTRACTS[0], "settings.py", "import service.api"),
    (CONTRACTS[0], "other.py", ""),
    (CONTRACTS[1], "chassis/telemetry/logs.py", "from service.chassis.http import problems"),
    (CONTRACTS[1], "chassis/server/signals.py", "import service.chassis.http.probes"),
    (CONTRACTS[1], "chassis/other.py", ""),
    (CONTRACTS[2], "domain/catalogue.py", "import flask"),
    (CONTRACTS[2], "domain/catalogue.py", "import pydantic"),
    (CONTRACTS[3], "chassis/http/probes.py", "import granian"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("contract", "module", "line"), BREACHES)
def test_a_breach_of_a_contract_is_found(
    template: Path, service_python: Path, tmp_path: Path, contract: str, module: str, line: str
) -> None:
    service = Path(shutil.copytree(template / FOLDER, tmp_path / "service"))
    with (service / "src" / "service" / module).open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    command = (str(service_python), *LINT_IMPORTS)
    environment = os.environ | {"PYTHONPATH": "src"}
    done = subprocess.run(command, cwd=service, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{contract} BROKEN" in done.stdout


def test_every_contract_has_a_breach_that_is_tried() -> None:
    assert [name for name, _, _ in BREACHES if name not in CONTRACTS] == []
    assert set(CONTRACTS) == {name for name, _, _ in BREACHES}


@pytest.mark.parametrize("path", OWN_PYTHON, ids=label)
def test_functions_fit_in_a_glance(path: Path) -> None:
    functions = [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert [f.name for f in functions if (f.end_lineno or 0) - f.lineno >= FUNCTION_LINES] == []


@pytest.mark.parametrize("path", SERVICE, ids=label)
def test_free_text_passes_through_an_encoder(path: Path) -> None:
    for name, filters in EXPRESSION.findall(path.read_text(encoding="utf-8")):
        encoder = "markdown" if path.suffix == ".md" else "quoted"
        assert name not in TEXTS or filters == f" | {encoder}"


@pytest.mark.parametrize("path", SERVICE, ids=label)
def test_every_expression_is_a_plain_answer(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(EXPRESSION.findall(text)) == text.count("{{ cookiecutter.")


def test_no_workflow_holds_an_answer() -> None:
    workflows = [path for path in SERVICE if ".github" in path.parts]
    assert [
        path.name for path in workflows if "cookiecutter" in path.read_text(encoding="utf-8")
    ] == []


def test_json_holds_no_condition() -> None:
    for path in (path for path in SERVICE if path.suffix == ".json"):
        json.loads(path.read_text(encoding="utf-8"))
        assert "{%" not in path.read_text(encoding="utf-8")


def test_file_names_are_good_on_windows_too() -> None:
    names = [path.name for path in SERVICE]
    assert [name for name in names if re.search(r'[<>:"|?*{}]', name)] == []
