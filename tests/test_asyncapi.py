"""asyncapi.yaml as AsyncAPI's own parser reads it, without a network."""

import functools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Bake

PARSER = "@asyncapi/parser@3.6.6"
VALIDATE = """
import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";
const text = readFileSync(process.argv[2], "utf-8");
const { document, diagnostics } = await new Parser().parse(text);
for (const one of diagnostics) console.log(one.code, one.message, one.path.join("."));
process.exit(document && diagnostics.length === 0 ? 0 : 1);
"""
EVENTS = {"database": "postgresql", "messaging": "rabbitmq"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def parser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a script that validates the file it is given."""
    if not shutil.which("npm"):
        if os.environ.get("CI") == "true":
            pytest.fail("CI has to run this: install npm")
        pytest.skip("needs npm")
    folder = tmp_path_factory.mktemp("parser")
    command = ("npm", "install", "--no-audit", "--no-fund", "--no-save", "--silent", PARSER)
    subprocess.run(command, cwd=folder, check=True)
    (folder / "validate.mjs").write_text(VALIDATE, encoding="utf-8")
    return folder


@functools.cache
def without_network() -> tuple[str, ...]:
    """Return what takes the network from a command, where the system lets it."""
    unshare = ("unshare", "--map-root-user", "--net")
    works = shutil.which("unshare") and subprocess.run((*unshare, "true")).returncode == 0
    return unshare if works else ()


def validate(parser: Path, document: Path) -> tuple[int, str]:
    """Return the exit status and what the parser finds."""
    command = (*without_network(), "node", "validate.mjs", str(document))
    done = subprocess.run(command, cwd=parser, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("sample", ["yes", "no"])
def test_the_parser_finds_nothing(bake: Bake, parser: Path, sample: str) -> None:
    service = bake(**EVENTS, sample=sample, service_name="Shop: 'a' & \"b\"", service_slug="shop")
    assert validate(parser, service / "asyncapi.yaml") == (0, "")


@pytest.mark.parametrize(
    ("right", "wrong", "fault"),
    [
        ('"action": "send"', '"action": "publish"', "action"),
        ("#/components/schemas/OrderPlaced", "#/components/schemas/None", "OrderPlaced|None"),
    ],
)
def test_the_parser_finds_what_is_wrong(
    bake: Bake, parser: Path, tmp_path: Path, right: str, wrong: str, fault: str
) -> None:
    text = (bake(**EVENTS) / "asyncapi.yaml").read_text(encoding="utf-8")
    assert right in text
    (tmp_path / "asyncapi.yaml").write_text(text.replace(right, wrong), encoding="utf-8")
    status, found = validate(parser, tmp_path / "asyncapi.yaml")
    assert status == 1
    assert any(word in found for word in fault.split("|"))
