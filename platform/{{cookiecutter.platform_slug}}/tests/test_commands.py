"""The commands of fleet.mk, the README and the program, which must be the same."""

import re

from platforms import ROOT

from fleet.__main__ import parser
from fleet.health import ASK
from fleet.lock import LOCK
from fleet.state import KEPT


def text(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def targets(name: str) -> set[str]:
    return set(re.findall(r"^([a-z-]+):", text(name), re.MULTILINE))


def test_every_command_that_make_calls_is_the_programs() -> None:
    called = set(re.findall(r"\$\(FLEET\) ([a-z-]+)", text("fleet.mk") + text("Makefile")))
    usage = parser().format_help()
    assert len(called) > 8
    assert [name for name in called if not re.search(rf"^    {name}\b", usage, re.MULTILINE)] == []


def test_every_target_is_phony_and_explained() -> None:
    phony = re.findall(r"^\.PHONY: (.+)$", text("fleet.mk"), re.MULTILINE)
    explained = set(re.findall(r"^([a-z-]+):.* ## \w", text("fleet.mk"), re.MULTILINE))
    assert set(" ".join(phony).split()) == targets("fleet.mk") == explained


def test_every_target_that_a_file_names_exists() -> None:
    known = targets("fleet.mk") | targets("Makefile")
    for name in ("README.md", "services.yaml", "config/common.env"):
        named = set(re.findall(r"(?:`|^)make (?:-s )?([a-z-]+)", text(name), re.MULTILINE))
        assert named
        assert named <= known


def test_the_program_asks_the_gateway_where_its_health_check_does() -> None:
    (port,) = re.findall(r"/dev/tcp/127\.0\.0\.1/(\d+)", ASK)
    assert f"/dev/tcp/127.0.0.1/{port}" in text("compose.yaml")
    assert "{path: /clusters}" in text("gateway/bootstrap.yaml")


def test_as_many_images_are_kept_as_the_readme_says() -> None:
    assert f"the last {KEPT} images deployed" in text("README.md")


def test_the_lock_is_in_git_and_the_state_is_not() -> None:
    assert f"git add {LOCK}" in text("README.md")
    assert ".fleet/" in text(".gitignore").splitlines()
