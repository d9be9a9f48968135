"""Contracts between baked services: what `make contract-check` and `make client` do."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Bake
from tests.conftest import commit
from tests.conftest import installed
from tests.conftest import make

pytestmark = pytest.mark.slow

Json = dict[str, Any]


def git(folder: Path, *arguments: str) -> None:
    """Run git, which must succeed."""
    subprocess.run(("git", "-C", str(folder), *arguments), check=True, capture_output=True)


def change(path: Path, edit: Callable[[Json], object]) -> None:
    """Edit a file of JSON."""
    document = json.loads(path.read_text("utf-8"))
    edit(document)
    path.write_text(json.dumps(document), encoding="utf-8")


@pytest.fixture
def released(bake: Bake, service_python: Path, tmp_path: Path) -> Path:
    """A service with a database, one release and a commit after it."""
    service = installed(bake(database="postgresql"), service_python, tmp_path)
    git(service, "tag", "v1.0.0")
    return commit(service)


def schemas(document: Json) -> Json:
    """Return a document's models."""
    made: Json = document["components"]["schemas"]
    return made


BREAKING: dict[str, tuple[Callable[[Json], object], str]] = {
    "a field removed": (
        lambda document: schemas(document)["Product"]["properties"].pop("name"),
        "GET /v1/products, answer 200 /items/*: no longer has name; "
        "go on sending it, marked as deprecated",
    ),
    "a narrower type": (
        lambda document: schemas(document)["Line"]["properties"]["quantity"].update(maximum=9),
        "POST /v1/quotes, request /lines/*/quantity: maximum 1000 became 9; keep the limit",
    ),
    "a new required input": (
        lambda document: schemas(document)["Basket"]["required"].append("currency"),
        "POST /v1/quotes, request: requires currency; give it a default",
    ),
    "fewer answers": (
        lambda document: document["paths"]["/v1/orders/{order_id}"]["get"]["responses"].pop("304"),
        "GET /v1/orders/{order_id}, answer 304: removed; "
        "go on documenting it, in raises= or by the view's return type",
    ),
    "a path removed": (
        lambda document: document["paths"].pop("/v1/quotes"),
        "POST /v1/quotes: removed; keep the path, marked as deprecated",
    ),
}


def test_without_a_release_any_change_is_compatible(
    bake: Bake, service_python: Path, tmp_path: Path
) -> None:
    service = installed(bake(), service_python, tmp_path)
    change(service / "openapi.json", lambda document: document["paths"].clear())
    told = "no release has a tag yet: any change is compatible\n"
    assert make(service, "contract-check") == (0, told)


def test_what_adds_is_compatible(released: Path) -> None:
    def add(document: Json) -> None:
        document["paths"]["/v1/news"] = {"get": {"responses": {"200": {}}}}
        schemas(document)["Product"]["properties"]["note"] = {"type": "string"}
        schemas(document)["Line"]["properties"]["quantity"]["maximum"] = 2000

    change(released / "openapi.json", add)
    told = "openapi.json: breaking changes since v1.0.0: none\n"
    assert make(released, "contract-check") == (0, told)


@pytest.mark.parametrize("name", BREAKING)
def test_a_breaking_change_fails_with_one_line(released: Path, name: str) -> None:
    edit, told = BREAKING[name]
    change(released / "openapi.json", edit)
    code, output = make(released, "contract-check")
    lines = output.splitlines()
    assert code == 2
    assert lines[0] == f"openapi.json: {told}"
    assert lines[-3].startswith("openapi.json: breaking changes since v1.0.0: ")
    assert lines[-2].startswith("Undo them, or make a new major version")


def test_a_later_prefix_is_a_new_major_version(released: Path) -> None:
    manifest = released / "service.yaml"
    text = manifest.read_text("utf-8")
    change(released / "openapi.json", lambda document: document["paths"].clear())
    manifest.write_text(text.replace("/v1", "/v2"), encoding="utf-8")
    code, output = make(released, "contract-check")
    assert (code, output.startswith("/v2 is a new major version, v1.0.0 has /v1")) == (0, True)
    manifest.write_text(text.replace("/v1", "/v0"), encoding="utf-8")
    assert make(released, "contract-check")[0] == 2


def test_what_cannot_be_compared_is_no_success(released: Path, tmp_path: Path) -> None:
    document = released / "openapi.json"
    text = document.read_text("utf-8")
    for broken in ("{", "[]", text.replace('"3.1.1"', '"3.0.3"')):
        document.write_text(broken, encoding="utf-8")
        code, output = make(released, "contract-check")
        assert (code, output.splitlines()[0].startswith("contract-check: ")) == (2, True)
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "--quiet", "--depth=1", "--no-tags", released.as_uri(), str(shallow))
    (shallow / ".venv").symlink_to(released / ".venv")
    code, output = make(shallow, "contract-check")
    assert (code, "git fetch --unshallow" in output) == (2, True)


def test_the_checks_of_ci_fail_with_the_contract(released: Path) -> None:
    edit, told = BREAKING["a path removed"]
    change(released / "openapi.json", edit)
    code, output = make(released, "--dry-run", "check")
    assert (code, "contracts.check" in output) == (0, True)
