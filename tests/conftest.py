"""What the template's tests share: a clean copy of the template, and bakes of it, made once."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

import pytest
from cookiecutter.main import cookiecutter
from hypothesis import settings

import template_extension

ROOT = Path(__file__).resolve().parent.parent
FOLDER = "{{cookiecutter.service_slug}}"
SPECIFICATION = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
QUESTIONS = {name: default for name, default in SPECIFICATION.items() if not name.startswith("_")}
CHOICES: dict[str, list[str]] = {
    name: default for name, default in QUESTIONS.items() if isinstance(default, list)
}
PLATFORM = "platform"
PLATFORM_FOLDER = f"{PLATFORM}/{{{{cookiecutter.platform_slug}}}}"
PLATFORM_QUESTIONS = {
    name: default
    for name, default in json.loads((ROOT / PLATFORM / "cookiecutter.json").read_text()).items()
    if not name.startswith("_")
}


def fit(answers: Mapping[str, str]) -> bool:
    """Whether the answers, or as far as they are given, can be baked together."""
    needs = template_extension.NEEDS
    wanted = dict(needs[answer] for answer in answers.items() if answer in needs)
    return all(answers.get(other, needed) == needed for other, needed in wanted.items())


# What `make test` was told is not for what the tests run by make.
for _name in ("ARGS", "MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS"):
    os.environ.pop(_name, None)

# A shell ignores SIGINT for its background jobs, and what the tests start would ignore Ctrl-C too.
signal.signal(signal.SIGINT, signal.default_int_handler)

Bake = Callable[..., Path]

settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")


def known_files() -> list[str]:
    """Return the repository's files that git knows or would add: none of a tool's caches."""
    which = ("-z", "--cached", "--others", "--exclude-standard")
    command = ("git", "-C", str(ROOT), "ls-files", *which)
    listed = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    return sorted(name for name in listed.split("\0") if name and (ROOT / name).is_file())


def export(target: Path) -> Path:
    """Copy the template without caches; return `target`."""
    for name in known_files():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name)
    return target


def bake_with(template: Path, output: Path, user_config: Path, **answers: str) -> Path:
    """Bake into `output`, with only git on the PATH, to be quick; return the project's folder."""
    options = {"output_dir": str(output), "config_file": str(user_config)}
    sys.modules.pop("template_extension", None)
    tools = str(user_config.parent / "bin")
    modules = [str(template), *sys.path]
    with mock.patch.dict(os.environ, PATH=tools), mock.patch.object(sys, "path", modules):
        return Path(cookiecutter(str(template), no_input=True, extra_context=answers, **options))


def commit(folder: Path, message: str = "A commit") -> Path:
    """Commit all of `folder`, made a repository if it is none; return it."""
    git = ("git", "-C", str(folder), "-c", "user.name=Test", "-c", "user.email=test@example.org")
    if not (folder / ".git").exists():
        subprocess.run((*git, "init", "--quiet", "--initial-branch=main"), check=True)
    subprocess.run((*git, "add", "--all"), check=True)
    subprocess.run((*git, "commit", "--quiet", "--allow-empty", "--message", message), check=True)
    return folder


def installed(baked: Path, service_python: Path, folder: Path) -> Path:
    """Return a copy under a path with a space, committed, whose tools are installed."""
    service = Path(shutil.copytree(baked, folder / "my service"))
    install(service, service_python)
    return commit(service)


def install(service: Path, service_python: Path) -> None:
    """Give a service the tools that an environment has, as if make had installed them."""
    own = service_python.parents[1]
    for place, environment in ((".venv", own), (".venv/generator", own.parent / "generator")):
        (service / place).mkdir()
        for name in ("bin", "lib", "pyvenv.cfg"):
            (service / place / name).symlink_to(environment / name)
    for stamp in ("run", "dev", "generator/ready"):
        (service / ".venv" / stamp).touch()


def make(service: Path, *arguments: str) -> tuple[int, str]:
    """Run make; return its exit status and output."""
    # The environment is not made by make, which would let it find the source.
    source = str(service / "src")
    environment = {"PATH": os.environ["PATH"], "HOME": str(service.parent), "PYTHONPATH": source}
    command = ("make", "--no-print-directory", *arguments)
    done = subprocess.run(
        command,
        cwd=service,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


def make_passes(service: Path, *arguments: str) -> None:
    """Run make, which must succeed."""
    code, output = make(service, *arguments)
    assert code == 0, output


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template without caches; not to be changed by a test."""
    return export(tmp_path_factory.mktemp("template"))


@pytest.fixture(scope="session")
def user_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration that keeps replays and clones out of the home folder; beside it git."""
    folder = tmp_path_factory.mktemp("config")
    (folder / "bin").mkdir()
    (folder / "bin" / "git").symlink_to(str(shutil.which("git")))
    path = folder / "config.yaml"
    folders = {"replay_dir": folder / "replay", "cookiecutters_dir": folder / "clones"}
    lines = [f"{name}: {place}\n" for name, place in folders.items()]
    path.write_text("".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def bake(template: Path, user_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Bake:
    """Return `bake(**answers)`: the folder of a service, made once and not to be changed."""
    return bakes(template, QUESTIONS.keys(), user_config, tmp_path_factory)


@pytest.fixture(scope="session")
def bake_platform(
    template: Path, user_config: Path, tmp_path_factory: pytest.TempPathFactory
) -> Bake:
    """Return the same for a platform."""
    platform = template / PLATFORM
    return bakes(platform, PLATFORM_QUESTIONS.keys(), user_config, tmp_path_factory)


def bakes(
    template: Path,
    questions: Collection[str],
    user_config: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Bake:
    """Return a function that bakes the template, once for the same answers."""
    made: dict[tuple[tuple[str, str], ...], Path] = {}

    def bake(**answers: str) -> Path:
        if unknown := answers.keys() - set(questions):
            pytest.fail(f"no such question: {', '.join(sorted(unknown))}")
        key = tuple(sorted(answers.items()))
        if key not in made:
            made[key] = bake_with(template, tmp_path_factory.mktemp("bake"), user_config, **answers)
        return made[key]

    return bake


def python_of(environment: str) -> Path:
    """Return the interpreter of an environment that the Makefile makes."""
    python = ROOT / "build" / environment / "bin" / "python"
    if not python.exists():
        pytest.fail(f"run the tests by `make test`, or once `make build/{environment}/ready`")
    return python


@pytest.fixture(scope="session")
def service_python() -> Path:
    """The interpreter with all that any generated service's checks need."""
    return python_of("service")


@pytest.fixture(scope="session")
def extensions_python() -> Path:
    """The interpreter with that and the extensions of Flask that tests/habits tries."""
    return python_of("extensions")
