"""What Flask's users know, tried with the service's interpreter: tests/habits."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import FOLDER

HABITS = Path(__file__).parent / "habits"


@pytest.fixture(scope="module")
def service(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the un-rendered service, which has all options."""
    return Path(shutil.copytree(template / FOLDER, tmp_path_factory.mktemp("habits") / FOLDER))


@pytest.mark.slow
@pytest.mark.parametrize("command", [("pytest", "-q"), ("mypy",)], ids=["pytest", "mypy"])
def test_the_habits_of_flasks_users_hold(
    service: Path, extensions_python: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    environment = os.environ | {
        "PYTHONPATH": str(service / "src"),
        "MYPYPATH": str(service / "src"),
        "MYPY_CACHE_DIR": str(tmp_path),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    options = ("-p", "no:cacheprovider", str(HABITS)) if command[0] == "pytest" else ()
    subprocess.run(
        (str(extensions_python), "-m", *command, *options),
        check=True,
        cwd=HABITS,
        env=environment,
    )


def test_the_habits_are_not_collected_here(request: pytest.FixtureRequest) -> None:
    collected = [item.path for item in request.session.items]
    assert [path for path in collected if path.is_relative_to(HABITS)] == []
