"""The page of the saga: the same in both languages, and services made from it pass their checks."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests import saga
from tests.conftest import FOLDER
from tests.conftest import ROOT
from tests.conftest import Bake
from tests.conftest import make_passes
from tests.recipes import blocks

SPANISH = (ROOT / "docs" / "saga.es.md").read_text("utf-8")
CODE = r"^```\w+\n.*?^```$"
# Those that see what the page adds: the routes, the events, the tables.
TESTS = """tests/chassis/http/test_openapi.py tests/chassis/messaging/test_asyncapi.py
tests/test_migrations.py -k 'conforms or committed or in_the_document or names or filled_tables'"""


def test_the_spanish_page_has_the_same_code() -> None:
    code = re.compile(CODE, re.MULTILINE | re.DOTALL)
    assert code.findall(SPANISH) == code.findall(saga.TEXT)


@pytest.mark.parametrize("pattern", [r"^#+ ", r"^\| ", r"^(?:- \*\*|\d\. )", r"`[\w/.*-]+\.py`"])
def test_the_spanish_page_has_the_same_structure(pattern: str) -> None:
    prose = [re.sub(CODE, "", page, flags=re.M | re.S) for page in (saga.TEXT, SPANISH)]
    english, spanish = (re.findall(pattern, page, re.MULTILINE) for page in prose)
    assert english == spanish


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("README.md", "docs/saga.md"),
        ("README.es.md", "docs/saga.es.md"),
        (f"{FOLDER}/README.md", "docs/saga.md"),
    ],
)
def test_who_looks_for_it_finds_it(name: str, page: str) -> None:
    assert re.search(rf"\]\([^)]*\b{page}\)", (ROOT / name).read_text("utf-8"))


def test_the_query_and_the_job_look_for_the_same_orders() -> None:
    (minutes,) = re.findall(r"^PATIENCE = timedelta\(minutes=(\d+)\)$", saga.TEXT, re.MULTILINE)
    assert f"interval '{minutes} minutes'" in saga.STUCK
    rules: dict[str, Any] = {}
    exec(next(code for name, _, code in blocks(saga.TEXT) if "domain/orders" in name), rules)
    assert f"state IN {rules['OPEN']} " in saga.STUCK


@pytest.mark.slow
def test_services_made_from_the_page_pass_their_checks(
    bake: Bake, service_python: Path, tmp_path: Path
) -> None:
    lint, test = saga.CHECK.splitlines()[1].split()[1:]
    for service in saga.follow(bake, service_python, tmp_path).values():
        make_passes(service, *saga.FINISH)
        make_passes(service, lint)
        make_passes(service, test, f"ARGS=-q {' '.join(TESTS.splitlines())}")
