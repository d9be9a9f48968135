"""What `make` does in a fresh service, with the tools of a developer's machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import bake_with
from tests.conftest import commit
from tests.conftest import export

pytestmark = pytest.mark.slow

TOOLS = Path(sys.executable).parent
# As a version manager's shims do: refuse to run where .python-version names what is not there.
SHIM = """#!/bin/sh
folder=$PWD
while [ "$folder" != / ]; do
    if [ -f "$folder/.python-version" ]; then
        echo "version $(cat "$folder/.python-version") is not installed" >&2
        exit 1
    fi
    folder=$(dirname "$folder")
done
exec "{tool}" "$@"
"""
OURS = [
    ".dockerignore",
    "Dockerfile",
    "compose.database.yaml",
    "database/roles.sh",
    "migrations/env.py",
    "scripts/smoke.py",
    "src/service/chassis/http/probes.py",
]
YOURS = ["README.md", "src/service/app.py", "tests/api/test_orders.py"]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template's repository, all of it committed."""
    return commit(export(tmp_path_factory.mktemp("repository") / "template"))


@pytest.fixture
def service(repository: Path, user_config: Path, tmp_path: Path) -> Path:
    """A service with a database, in a path with spaces."""
    return bake_with(repository, tmp_path / "my services", user_config, database="postgresql")


@pytest.fixture
def shims(tmp_path: Path) -> Path:
    """A folder with a version manager's shims of Python and of the tools installed for it."""
    (folder := tmp_path / "shims").mkdir()
    for name in ("cruft", "python3", "ruff", "uv"):
        (folder / name).write_text(SHIM.format(tool=TOOLS / name), encoding="utf-8")
        (folder / name).chmod(0o755)
    return folder


def make(service: Path, *arguments: str, tools: Path = TOOLS) -> str:
    """Run make with the machine's own tools behind those of a folder; return what it prints."""
    done = subprocess.run(
        ("make", "--no-print-directory", *arguments),
        cwd=service,
        env=os.environ | {"PATH": f"{tools}{os.pathsep}/usr/bin{os.pathsep}/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_drift_lists_every_edited_file_of_the_template_and_no_other(service: Path) -> None:
    assert make(service, "drift") == "no edits\n"
    for name in OURS + YOURS:
        with (service / name).open("a", encoding="utf-8") as file:
            file.write("# edited\n")
    assert make(service, "drift").splitlines() == OURS


def test_drift_fails_where_it_cannot_read_what_cruft_prints(service: Path, tmp_path: Path) -> None:
    (tmp_path / "cruft").write_text("#!/bin/sh\necho 'changed: Dockerfile'\n", encoding="utf-8")
    (tmp_path / "cruft").chmod(0o755)
    with pytest.raises(AssertionError, match="No path is read from this"):
        make(service, "drift", tools=tmp_path)


def test_make_works_under_a_version_manager_without_the_images_python(
    service: Path, shims: Path
) -> None:
    make(service, ".venv/run", tools=shims)
    assert "PORT=5000" in make(service, "config", tools=shims)
    assert make(service, "drift", tools=shims) == "no edits\n"


def test_make_lock_works_under_a_version_manager(service: Path, shims: Path) -> None:
    locks = ("requirements.txt", "requirements-dev.txt", "scripts/contracts/requirements.txt")
    before = [(service / name).read_text("utf-8") for name in locks]
    make(service, "lock", tools=shims)
    assert [(service / name).read_text("utf-8") for name in locks] == before


def test_the_hook_asks_ruff_under_a_version_manager(
    repository: Path, user_config: Path, shims: Path, tmp_path: Path
) -> None:
    command = (sys.executable, "-m", "cookiecutter", "--no-input", "--config-file", user_config)
    path = f"{shims}{os.pathsep}/usr/bin{os.pathsep}/bin"
    done = subprocess.run(
        (*command, repository), cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True
    )
    assert b"ruff check: ok; ruff format: ok" in done.stdout
