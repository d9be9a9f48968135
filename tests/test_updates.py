"""`cruft update` brings a newer template into a living service, and changes options later."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hooks import post_gen_project as hook
from tests.conftest import FOLDER
from tests.conftest import ROOT
from tests.conftest import bake_with
from tests.conftest import commit
from tests.conftest import export

pytestmark = pytest.mark.slow

SYNTHETIC = "v0.0.0"
TAGS = (hook.git(ROOT, "tag", "--list", "v*") or SYNTHETIC).split()
EDITED = "src/service/domain/catalogue.py"
EDIT = "\nMINE = 1\n"
ADDED = "src/service/domain/mine.py"
DELETED = "AGENTS.md"
TEXTS = {"service_slug": "orders", "owner": "Équipe O'Brien"}


def clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != ".git":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def older(folder: Path) -> None:
    """Turn the template into an earlier one: a file less, another target, a filter that shouts."""
    (folder / FOLDER / ".dockerignore").unlink()
    replace(folder / FOLDER / "Makefile", "help:", "old-help:")
    head = "def markdown(value: str) -> str:\n"
    replace(folder / "template_extension.py", head, f"{head}    return value.upper()\n")


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template's repository with its tags, the working tree as the last commit of main."""
    folder = tmp_path_factory.mktemp("repository") / "template"
    if SYNTHETIC in TAGS:
        older(export(folder))
        commit(folder)
        hook.git(folder, "tag", SYNTHETIC)
    else:
        subprocess.run(("git", "clone", "--quiet", f"file://{ROOT}", str(folder)), check=True)
        hook.git(folder, "checkout", "--quiet", "-B", "main")
    clear(folder)
    return commit(export(folder), "The next release")


@pytest.fixture(params=TAGS)
def living(
    request: pytest.FixtureRequest, repository: Path, user_config: Path, tmp_path: Path
) -> Path:
    """A service baked from a released tag, committed, then edited as its owner does."""
    clone = tmp_path / "clone"
    command = ("git", "clone", "--quiet", "--branch", request.param, str(repository), str(clone))
    subprocess.run(command, check=True)
    service = commit(bake_with(clone, tmp_path, user_config, **TEXTS))
    with (service / EDITED).open("a", encoding="utf-8") as file:
        file.write(EDIT)
    (service / ADDED).write_text("OURS = 1\n", encoding="utf-8")
    (service / DELETED).unlink()
    return commit(service, "What the owner did")


def cruft(service: Path, *arguments: str) -> str:
    command = (str(Path(sys.executable).with_name("cruft")), *arguments)
    done = subprocess.run(
        command, cwd=service, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def contents(service: Path) -> dict[str, str]:
    paths = {str(path.relative_to(service)): path for path in hook.files(service)}
    return {
        name: path.read_text(encoding="utf-8")
        for name, path in paths.items()
        if name != ".cruft.json"
    }


def expected(repository: Path, output: Path, user_config: Path, **answers: str) -> dict[str, str]:
    """Return what the newest template bakes, with the owner's edits."""
    fresh = bake_with(repository, output, user_config, **TEXTS, **answers)
    files = contents(fresh)
    files[EDITED] += EDIT
    files[ADDED] = "OURS = 1\n"
    del files[DELETED]
    return files


def test_an_update_gives_the_newest_template_and_keeps_the_edits(
    living: Path, repository: Path, user_config: Path, tmp_path: Path
) -> None:
    cruft(living, "update", "--skip-apply-ask", "--checkout", "main")
    assert contents(living) == expected(repository, tmp_path / "fresh", user_config)


@pytest.mark.parametrize("answers", [{"ci": "gitlab"}, {"database": "postgresql"}], ids=str)
def test_an_option_is_turned_into_another_later(
    living: Path, repository: Path, user_config: Path, tmp_path: Path, answers: dict[str, str]
) -> None:
    cruft(living, "update", "--skip-apply-ask", "--checkout", "main")
    commit(living, "The update")
    variables = ("--variables-to-update", json.dumps(answers))
    cruft(living, "update", "--skip-apply-ask", "--checkout", "main", *variables)
    assert contents(living) == expected(repository, tmp_path / "fresh", user_config, **answers)


@pytest.mark.parametrize("database", ["none", "postgresql"])
def test_the_sample_is_removed_later_and_the_owners_files_stay(
    repository: Path, user_config: Path, tmp_path: Path, database: str
) -> None:
    service = bake_with(repository, tmp_path, user_config, database=database)
    (service / ADDED).write_text("OURS = 1\n", encoding="utf-8")
    commit(service)
    variables = ("--variables-to-update", '{"sample": "no"}')
    cruft(service, "update", "--skip-apply-ask", "--checkout", "main", *variables)
    empty = bake_with(repository, tmp_path / "empty", user_config, database=database, sample="no")
    assert contents(service) == contents(empty) | {ADDED: "OURS = 1\n"}


def test_a_service_baked_from_the_newest_template_is_up_to_date(
    repository: Path, user_config: Path, tmp_path: Path
) -> None:
    service = commit(bake_with(repository, tmp_path, user_config))
    assert "up to date" in cruft(service, "check", "--checkout", "main")
    assert cruft(service, "diff", "--checkout", "main").strip() == ""


def test_cruft_itself_bakes_the_same_service(
    repository: Path, user_config: Path, tmp_path: Path
) -> None:
    output = ("--output-dir", str(tmp_path / "by-cruft"))
    options = ("--no-input", "--config-file", str(user_config), *output)
    cruft(tmp_path, "create", str(repository), *options)
    service = bake_with(repository, tmp_path, user_config)
    assert contents(tmp_path / "by-cruft" / service.name) == contents(service)
