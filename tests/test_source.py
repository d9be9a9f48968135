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
OWN_PYTHON = [
    ROOT / "scripts/relock",
    *(ROOT / name for name in known_files() if name[-3:] == ".py"),
]
CALL = "from importlinter.cli import lint_imports_command; lint_imports_command()"
LINT_IMPORTS = ("-c", CALL, "--no-cache")


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
        ("-m", "pytest", "-q", "--numprocesses", "2", "--dist", "loadfile"),  # as in make check
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


# What each contract of import-linter forbids: a line that is added to a module of the service.
BREACHES = {
    "Layers of the service: the chassis and the domain know nothing above them": [
        ("chassis/lifecycle.py", "import service.settings"),
        ("domain/catalogue.py", "import service.chassis.project"),
        ("settings.py", "import service.api"),
        ("events/orders.py", "import service.api"),
        ("other.py", ""),  # no layer names it
    ],
    "Layers of the chassis": [
        ("chassis/telemetry/logs.py", "from service.chassis.http import problems"),
        ("chassis/server/signals.py", "import service.chassis.http.probes"),
        ("chassis/client/calls.py", "from service.chassis.http import problems"),
        ("chassis/data/types.py", "import service.chassis.messaging.outbox"),
        ("chassis/other.py", ""),
    ],
    "The domain knows neither the web nor SQL": [
        ("domain/catalogue.py", "import flask"),
        ("domain/orders.py", "import sqlalchemy"),
    ],
    "Only one package knows the server": [("chassis/http/probes.py", "import granian")],
}
TRIED = [(name, *breach) for name, breaches in BREACHES.items() for breach in breaches]


@pytest.mark.slow
@pytest.mark.parametrize(("contract", "module", "line"), TRIED)
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
    assert f"{contract} BROKEN" in " ".join(done.stdout.split())


def test_a_breach_of_every_contract_is_tried() -> None:
    manifest = tomllib.loads((ROOT / FOLDER / "pyproject.toml").read_text("utf-8"))
    contracts = manifest["tool"]["importlinter"]["contracts"]
    assert {contract["name"] for contract in contracts} == BREACHES.keys()


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", OWN_PYTHON, ids=label)
def test_functions_fit_in_a_glance(path: Path) -> None:
    functions = [
        node
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert [f.name for f in functions if (f.end_lineno or 0) - f.lineno >= FUNCTION_LINES] == []


@pytest.mark.parametrize("path", OWN_PYTHON, ids=label)
def test_lines_fit_beside_each_other(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > LINE_LENGTH] == []


def is_parallel(node: ast.AST) -> bool:
    """Whether a statement assigns unrelated values at once, as `x, y = 1, ""`; no swap is."""
    if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple)):
        return False
    values = node.value.elts
    literals = [value for value in values if isinstance(value, LITERALS)]
    targets = [target for target in node.targets if isinstance(target, ast.Tuple)]
    return len(literals) > 1 and any(len(target.elts) == len(values) for target in targets)


LITERALS = (ast.Constant, ast.JoinedStr, ast.List, ast.Tuple, ast.Set, ast.Dict)


@pytest.mark.parametrize(
    ("statement", "found"),
    [('x, y = 1, ""', True), ("x, y, z = [], {}, w", True), ("x, y = y, x", False)],
)
def test_a_parallel_assignment_is_told_from_a_swap(statement: str, found: bool) -> None:
    assert is_parallel(ast.parse(statement).body[0]) is found


@pytest.mark.parametrize("path", OWN_PYTHON, ids=label)
def test_unrelated_values_are_assigned_one_by_one(path: Path) -> None:
    found = [node for node in ast.walk(parsed(path)) if is_parallel(node)]
    assert [ast.unparse(node) for node in found] == []


def undocumented(body: list[ast.stmt], is_api: bool) -> Iterator[str]:
    """Yield what is public and has no docstring.

    Models and views of the API need none, nor do methods that implement a library's class.
    """
    for node in body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name.startswith("_"):
            continue
        is_class = isinstance(node, ast.ClassDef)
        if is_api and (is_class or node.decorator_list):
            continue
        # A setter has the docstring of its property.
        is_setter = any(ast.unparse(one).endswith(".setter") for one in node.decorator_list)
        if not (ast.get_docstring(node) or is_setter):
            yield node.name
        bases = node.bases if isinstance(node, ast.ClassDef) else ()
        if is_class and not any(isinstance(base, ast.Attribute) for base in bases):
            yield from undocumented(node.body, is_api)


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("def f(): ...", ["f"]),
        ("def _f(): ...", []),
        ("def f():\n    'Do.'\n    def g(): ...", []),
        ("class A:\n    'A.'\n    def __init__(self): ...\n    def f(self): ...", ["f"]),
        ("class A:\n    'A.'\n    @x.setter\n    def x(self): ...", []),
        ("class A(library.B):\n    'A.'\n    def f(self): ...", []),
    ],
)
def test_what_lacks_a_docstring_is_found(code: str, names: list[str]) -> None:
    assert list(undocumented(ast.parse(code).body, is_api=False)) == names


@pytest.mark.parametrize("path", SOURCE, ids=label)
def test_what_is_public_has_a_docstring(path: Path) -> None:
    assert list(undocumented(parsed(path).body, path.parent.name == "api")) == []


@pytest.mark.parametrize("path", SERVICE, ids=label)
def test_free_text_passes_through_an_encoder(path: Path) -> None:
    for name, filters in EXPRESSION.findall(path.read_text(encoding="utf-8")):
        encoder = "markdown" if path.suffix == ".md" else "quoted"
        assert name not in TEXTS or filters == f" | {encoder}"


@pytest.mark.parametrize("path", SERVICE, ids=label)
def test_every_expression_is_a_plain_answer(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(EXPRESSION.findall(text)) == text.count("{{ cookiecutter.")


@pytest.mark.parametrize(
    ("module", "line", "table"),
    [
        ("app.py", r"^    (\w+)\.init_app\(", "LOST_FROM_APP"),
        (
            "chassis/http/middleware.py",
            r"^    (?:handler = |app\.config\[\")(\w+)",
            "LOST_FROM_CHAIN",
        ),
    ],
)
def test_the_services_tests_delete_every_line_of_its_assembly(
    module: str, line: str, table: str
) -> None:
    service = ROOT / FOLDER
    source = (service / "src/service" / module).read_text("utf-8")
    tests = (service / "tests/test_app.py").read_text("utf-8")
    rows = re.findall(rf"^{table} = \{{\n(.*?)^\}}", tests, re.MULTILINE | re.DOTALL)[0]
    assert set(re.findall(line, source, re.MULTILINE)) == set(
        re.findall(r'^    "(\w+)":', rows, re.MULTILINE)
    )


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
