"""What is baked for every combination of structural answers, and its own checks for pairs."""

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
import yaml
from allpairspy import AllPairs
from pytest_cookies.plugin import Cookies

from hooks import post_gen_project as hook
from tests.conftest import CHOICES
from tests.conftest import FOLDER
from tests.conftest import QUESTIONS
from tests.conftest import Bake
from tests.conftest import fit

# The answers that decide which files there are, in all combinations; the others only in pairs.
STRUCTURAL = {
    name: CHOICES[name] for name in ("database", "messaging", "sample", "kubernetes", "ci")
}
# With the longest list of choices first there are the fewest.
BY_LENGTH = dict(sorted(CHOICES.items(), key=lambda item: -len(item[1])))
ROWS = AllPairs(
    list(BY_LENGTH.values()),
    filter_func=lambda row: fit(dict(zip(BY_LENGTH, row, strict=False))),  # as far as it is made
)
PAIRS = [dict(zip(BY_LENGTH, values, strict=True)) for values in ROWS]
DEFAULTS = {name: choices[0] for name, choices in CHOICES.items()}
COMBINATIONS = [
    *(
        DEFAULTS | dict(zip(STRUCTURAL, values, strict=True))
        for values in itertools.product(*STRUCTURAL.values())
        if fit(dict(zip(STRUCTURAL, values, strict=True)))
    ),
    *PAIRS,
]
ODD_TEXTS = {
    "service_name": "O'Brien's \"best\" \\ # x: y 🚀",
    "description": "It's *a* <service> & $more — שירות",
    "owner": "Équipe `ops` [core]",
    "service_slug": "a" * 40,
}
# At most so many files, and lines of Python under src/ that are not blank.
SIZE_LIMITS = {
    "nothing": ({}, 115, 3313),
    "a database": ({"database": "postgresql"}, 150, 4219),
    "events": ({"database": "postgresql", "messaging": "rabbitmq"}, 185, 5627),
}
OWNERS_LINE_LIMIT = 260  # in the default service, of what its owner edits
RUFF = (sys.executable, "-m", "ruff")


def label(answers: dict[str, str]) -> str:
    return "-".join(answers.values())


def files(service: Path) -> dict[str, Path]:
    return {str(path.relative_to(service)): path for path in hook.files(service)}


@pytest.mark.parametrize("answers", COMBINATIONS, ids=label)
def test_every_file_parses(bake: Bake, answers: dict[str, str]) -> None:
    for name, path in files(bake(**answers)).items():
        text = path.read_text(encoding="utf-8")
        if path.suffix in (".yml", ".yaml"):
            assert all(yaml.safe_load_all(text)), name
        hook.parse(path.suffix, text)


@pytest.mark.parametrize("answers", COMBINATIONS, ids=label)
def test_exactly_the_files_asked_for_are_there(
    bake: Bake, template: Path, answers: dict[str, str]
) -> None:
    everything = set(files(template / FOLDER))
    unwanted = {
        name
        for name in everything
        for path, wanted in hook.OPTIONAL.items()
        if (name == path or name.startswith(f"{path}/"))
        and any(answers[q] not in wanted[q] for q in wanted)
    }
    assert files(bake(**answers)).keys() == everything - unwanted


@pytest.mark.parametrize("answers", COMBINATIONS, ids=label)
def test_no_folder_is_empty(bake: Bake, answers: dict[str, str]) -> None:
    service = bake(**answers)
    empty = [path for path in service.rglob("*") if path.is_dir() and not any(path.iterdir())]
    assert [path for path in empty if ".git" not in path.relative_to(service).parts] == []


@pytest.mark.parametrize("answers", COMBINATIONS, ids=label)
def test_every_choice_is_in_the_service(bake: Bake, answers: dict[str, str]) -> None:
    service = bake(**answers)
    titles = {
        "MIT": "MIT License",
        "Apache-2.0": "Apache License",
        "Proprietary": "All rights reserved",
    }
    assert titles[answers["license"]] in (service / "LICENSE").read_text(encoding="utf-8")
    assert (service / ".python-version").read_text() == f"{answers['python_version']}\n"
    assert f"FROM python:{answers['python_version']}-slim" in (service / "Dockerfile").read_text()


def test_every_combination_is_clean_for_ruff(bake: Bake) -> None:
    services = [str(bake(**answers)) for answers in COMBINATIONS]
    subprocess.run((*RUFF, "check", "--no-cache", *services), check=True)
    subprocess.run((*RUFF, "format", "--no-cache", "--check", *services), check=True)


def test_odd_texts_and_the_longest_slug_are_clean_for_ruff(bake: Bake) -> None:
    service = str(bake(**ODD_TEXTS))
    subprocess.run((*RUFF, "check", "--no-cache", service), check=True)
    subprocess.run((*RUFF, "format", "--no-cache", "--check", service), check=True)


def lines_of_code(service: Path) -> dict[str, int]:
    """Return how many lines of each file of the application's Python are not blank."""
    return {
        name: sum(1 for line in path.read_text("utf-8").splitlines() if line.strip())
        for name, path in files(service).items()
        if name.startswith("src/") and name.endswith(".py")
    }


@pytest.mark.parametrize(
    ("answers", "most_files", "most_lines"), SIZE_LIMITS.values(), ids=SIZE_LIMITS
)
def test_a_service_is_small(
    bake: Bake, answers: dict[str, str], most_files: int, most_lines: int
) -> None:
    service = bake(**answers)
    assert len(files(service)) <= most_files
    assert sum(lines_of_code(service).values()) <= most_lines


def test_the_part_of_the_default_service_that_its_owner_edits_is_small(bake: Bake) -> None:
    lines = lines_of_code(bake())
    owners = [count for name, count in lines.items() if "/chassis/" not in name]
    assert sum(owners) <= OWNERS_LINE_LIMIT


def test_python_files_depend_on_no_text(bake: Bake) -> None:
    for name, path in files(bake(**ODD_TEXTS)).items():
        if path.suffix == ".py":
            assert path.read_bytes() == (bake() / name).read_bytes()


@pytest.mark.parametrize(
    "answers", [{"ci": ci} for ci in CHOICES["ci"]] + [{"kubernetes": "yes"}], ids=label
)
def test_without_a_database_no_file_has_a_word_of_one(bake: Bake, answers: dict[str, str]) -> None:
    words = "sqlalchemy|alembic|psycopg|postgres|squawk|greenlet|DATABASE_|migrat"
    texts = {name: path.read_text("utf-8") for name, path in files(bake(**answers)).items()}
    found = [name for name, text in texts.items() if re.search(words, name + text, re.IGNORECASE)]
    assert found == []


@pytest.mark.parametrize("ci", CHOICES["ci"])
def test_without_messaging_no_file_has_a_word_of_it(bake: Bake, ci: str) -> None:
    words = r"rabbit|messaging|amqp|aio.pika|aiormq|yarl|outbox|inbox|asyncapi|cloudevent|broker"
    words += r"|\bdlq|dead.letter|\brelay\b|the consumer|-consumer|service\.events|/v1/sales"
    service = bake(database="postgresql", ci=ci)
    texts = {name: path.read_text("utf-8") for name, path in files(service).items()}
    found = [name for name, text in texts.items() if re.search(words, name + text, re.IGNORECASE)]
    assert found == []


@pytest.mark.parametrize("database", CHOICES["database"])
def test_without_the_sample_no_file_has_a_word_of_it(bake: Bake, database: str) -> None:
    words = r"catalogue|/products|/v1/orders|\bsku|/v1/quotes|\bsample orders|service\.seed"
    words += r"|/v1/sales|OrderPlaced|count_sale"
    messaging = "none" if database == "none" else "rabbitmq"
    service = bake(database=database, messaging=messaging, sample="no")
    texts = {name: path.read_text("utf-8") for name, path in files(service).items()}
    found = [name for name, text in texts.items() if re.search(words, name + text, re.IGNORECASE)]
    assert found == []


def test_without_kubernetes_no_file_has_a_word_of_it(bake: Bake) -> None:
    words = "kustom|kubectl|prometheus_rule|canary|OVERLAY"
    texts = {name: path.read_text("utf-8") for name, path in files(bake()).items()}
    found = [name for name, text in texts.items() if re.search(words, name + text, re.IGNORECASE)]
    assert found == []


def test_files_keep_their_modes(bake: Bake, template: Path) -> None:
    for name, path in files(bake()).items():
        assert os.access(path, os.X_OK) == os.access(template / FOLDER / name, os.X_OK)


@pytest.mark.slow
@pytest.mark.parametrize("answers", PAIRS, ids=label)
def test_the_generated_tests_pass(
    bake: Bake, service_python: Path, tmp_path: Path, answers: dict[str, str]
) -> None:
    tests = ["tests/test_consistency.py", "tests/test_app.py", "tests/chassis/test_settings.py"]
    tests += ["tests/api"] if answers["sample"] == "yes" else []
    tests += ["tests/chassis/messaging"] if answers["messaging"] == "rabbitmq" else []
    check(bake(**answers), service_python, tmp_path, ("pytest", "-q", *tests))


# The least that is asked for; test_source.py tries the most.
@pytest.mark.slow
def test_a_service_without_options_passes_all_its_checks(
    bake: Bake, service_python: Path, tmp_path: Path
) -> None:
    service = bake(database="none", sample="no", ci="none", **ODD_TEXTS)
    check(service, service_python, tmp_path, *ALL_CHECKS)


def check(service: Path, python: Path, folder: Path, *commands: tuple[str, ...]) -> None:
    """Run modules, with their arguments, in a copy of the service."""
    copy = shutil.copytree(service, folder / "service")
    environment = {
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "PYTHONPATH": "src",
        "HOME": str(folder),
    }
    for command in commands:
        subprocess.run((str(python), "-m", *command), check=True, cwd=copy, env=environment)


ALL_CHECKS = [
    ("mypy", "--no-incremental"),
    ("coverage", "run", "-m", "pytest", "-q"),
    ("coverage", "combine", "--quiet"),
    ("coverage", "report"),
]


def test_pytest_cookies_bakes_the_defaults(cookies: Cookies, template: Path) -> None:
    result = cookies.bake(template=str(template))
    assert result.exception is None
    assert result.project_path.name == "flask-microservice"


def test_pytest_cookies_sees_a_refusal(cookies: Cookies, template: Path) -> None:
    result = cookies.bake(extra_context={"service_slug": "../evil"}, template=str(template))
    assert str(result.exception).startswith("service_slug ")


def test_a_misspelt_question_fails_a_test_that_bakes(bake: Bake) -> None:
    with pytest.raises(pytest.fail.Exception, match="no such question: databse"):
        bake(databse="none")


def test_the_answers_end_up_in_every_place_once(bake: Bake) -> None:
    texts = {"service_name": "Orders", "description": "Takes orders", "owner": "Team A"}
    service = bake(service_slug="orders", **texts)
    manifest = tomllib.loads((service / "pyproject.toml").read_text(encoding="utf-8"))
    assert manifest["project"]["name"] == "orders"
    info = json.loads((service / "openapi.json").read_text(encoding="utf-8"))["info"]
    assert (info["title"], info["description"]) == ("Orders", "Takes orders")


def test_choices_come_with_their_default_first() -> None:
    defaults = [CHOICES[name][0] for name in CHOICES]
    assert defaults == ["3.14", "none", "none", "yes", "no", "github", "MIT"]
    assert QUESTIONS["service_slug"] == "{{ cookiecutter.service_name | slugify(max_length=40) }}"
