"""Every command of README.md, as a newcomer runs it: in a clone and in a service made of it."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import CHOICES
from tests.conftest import QUESTIONS
from tests.conftest import ROOT
from tests.conftest import commit
from tests.docker.containers import docker
from tests.docker.containers import eventually
from tests.docker.containers import status

pytestmark = pytest.mark.slow

TAG = "v0.0.1"


def text(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def blocks(name: str) -> list[list[str]]:
    """The commands of each code block, their comments left out."""
    found = re.findall(r"```shell\n(.*?)```", text(name), re.DOTALL)
    return [[line.partition("  #")[0].strip() for line in block.splitlines()] for block in found]


CLONE, TEST, BAKE, RUN, WORK = blocks("README.md")


class Terminal:
    """A shell of a newcomer, with a home and a port of its own; this disk stands for GitHub."""

    def __init__(self, folder: Path, repository: Path) -> None:
        """Stand in an empty folder."""
        self.folder = folder
        self.image = f"readme-{uuid.uuid4().hex[:8]}"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._instead = {
            "https://github.com/org/cookiecutter-flask-microservice": str(repository),
            "gh:org/cookiecutter-flask-microservice": str(repository),
            "localhost:5000": f"localhost:{self.port}",
            "-p 5000:": f"-p 127.0.0.1:{self.port}:",
            "-t flask-microservice": f"-t {self.image}",
            ":5000 flask-microservice": f":5000 {self.image}",
        }
        (home := folder / "home").mkdir(exist_ok=True)
        tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        cache = os.environ.get("UV_CACHE_DIR", str(Path.home() / ".cache/uv"))
        own = {
            "HOME": str(home),
            "PATH": tools,
            "PORT": str(self.port),
            "IMAGE": self.image,
            "UV_CACHE_DIR": cache,
        }
        inherited = {name: value for name, value in os.environ.items() if name != "CI"}
        self._environment = inherited | own

    def command(self, line: str) -> str:
        for said, instead in self._instead.items():
            line = line.replace(said, instead)
        return line

    def run(self, line: str) -> str:
        """Run one line to its end, pressing Enter at every question; it must succeed."""
        if line.startswith("cd "):
            self.folder /= line.removeprefix("cd ")
            assert self.folder.is_dir()
            return ""
        done = subprocess.run(
            self.command(line),
            shell=True,
            cwd=self.folder,
            env=self._environment,
            input="\n" * 20,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}"
        return done.stdout

    def serve(self, line: str, path: str) -> int:
        """Run one line until its service answers, press Ctrl-C, and return the exit status.

        Only what connects to 127.0.0.1 may be answered.
        """
        with (self.folder.parent / "log").open("w") as log:
            process = subprocess.Popen(
                self.command(line),
                shell=True,
                cwd=self.folder,
                env=self._environment,
                stdout=log,
                stderr=log,
                process_group=0,
            )
        try:
            over = partial(self._answers_or_ended, process, path)
            eventually(over, f"{line} answers", 240)
            with socket.socket() as other:
                assert other.connect_ex(("127.0.0.2", self.port)) != 0
            os.killpg(process.pid, signal.SIGINT)
            return process.wait(20)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            self.told = Path(log.name).read_text()
            print(self.told)

    def _answers_or_ended(self, process: "subprocess.Popen[bytes]", path: str) -> bool:
        return process.poll() is not None or status(self.port, path) == 200


@pytest.fixture(scope="module")
def repository(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as a git repository with one tag."""
    folder = tmp_path_factory.mktemp("repository") / "cookiecutter-flask-microservice"
    shutil.copytree(template, folder)
    commit(folder, "Begin")
    subprocess.run(("git", "-C", str(folder), "tag", TAG), check=True)
    return folder


@pytest.fixture(scope="module")
def made(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which step 3 was done."""
    terminal = Terminal(tmp_path_factory.mktemp("made"), repository)
    for line in BAKE:
        terminal.run(line)
    return terminal.folder


@pytest.fixture
def work(made: Path, repository: Path) -> Iterator[Terminal]:
    """A terminal in the folder of the new service."""
    terminal = Terminal(made, repository)
    terminal.run(RUN[0])
    yield terminal
    if shutil.which("docker"):
        subprocess.run(("docker", "rmi", "--force", terminal.image), capture_output=True)


def test_the_steps_are_these() -> None:
    assert [[line.split()[0] for line in step] for step in (CLONE, TEST, BAKE, RUN, WORK)] == [
        ["git", "cd", "make"],
        ["make"],
        ["uvx"],
        ["cd", "docker", "docker", "curl"],
        ["make", "make", "make", "make"],
    ]


def test_make_demo_serves_in_a_fresh_clone_until_ctrl_c(repository: Path, tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, repository)
    for line in CLONE[:-1]:
        terminal.run(line)
    assert terminal.serve(CLONE[-1], "/v1/products/tea") in (0, 2, 130, -signal.SIGINT)
    assert status(terminal.port, "/livez") is None
    told = [line for line in terminal.told.splitlines() if not line.startswith("make[")]
    said = [line.partition(": ")[0] for line in told[:4]]
    service = "build/demo/flask-microservice"
    assert said == [
        "Installing cookiecutter into build/demo/venv",
        f"Baking a service into {service}",
        "Installing requirements.txt into .venv",
        f"Serving {service}",
    ]
    assert f": see http://localhost:{terminal.port}/docs/ " in terminal.told


def test_make_test_sets_up_and_finds_the_tests_in_a_fresh_clone(
    repository: Path, tmp_path: Path
) -> None:
    terminal = Terminal(tmp_path, repository)
    for line in CLONE[:-1]:
        terminal.run(line)
    # To run them here would run this one again.
    assert "test_readme.py" in terminal.run(f"{TEST[0]} ARGS='--collect-only -q'")


def test_cookiecutter_makes_a_service_and_says_what_is_next(
    repository: Path, tmp_path: Path
) -> None:
    printed = Terminal(tmp_path, repository).run(BAKE[0])
    told = [line.strip() for line in printed.splitlines()[-3:]]
    assert told == [f"{RUN[0]} && {RUN[1]}", *RUN[2:]]


def test_cookiecutter_takes_a_release_by_its_tag(repository: Path, tmp_path: Path) -> None:
    release = f"git+file://{repository} --checkout {TAG}"
    line = BAKE[0].replace("gh:org/cookiecutter-flask-microservice", release)
    Terminal(tmp_path, repository).run(line)
    assert (tmp_path / "flask-microservice/.cruft.json").exists()


@pytest.mark.docker
def test_docker_alone_builds_and_runs_it(work: Terminal) -> None:
    work.run(RUN[1])
    container = work.run(RUN[2]).strip()
    try:
        eventually(lambda: status(work.port, "/livez") == 200, "answers")
        assert '"sku":"tea"' in work.run(RUN[3])
    finally:
        docker("rm", "--force", container)


@pytest.mark.parametrize("line", WORK[:2])
def test_make_serves_it_until_ctrl_c(work: Terminal, line: str) -> None:
    assert work.serve(line, "/v1/products/tea") in (0, 2, 130, -signal.SIGINT)


def test_make_check_passes(work: Terminal) -> None:
    work.run(WORK[2])


@pytest.mark.docker
def test_make_up_serves_it_until_make_down(work: Terminal) -> None:
    try:
        work.run(WORK[3])
        assert status(work.port, "/v1/products/tea") == 200
    finally:
        work.run("make down")


def test_the_spanish_readme_has_the_same_commands() -> None:
    assert blocks("README.es.md") == blocks("README.md")


@pytest.mark.parametrize(
    "pattern", [r"^#+ ", r"^\*\*\d\. ", r"^\| `?\[?\w*", r"\]\((?!README)\S+\)", r"`[^`]*`"]
)
def test_the_spanish_readme_has_the_same_structure(pattern: str) -> None:
    english = re.findall(pattern, text("README.md"), re.MULTILINE)
    spanish = re.findall(pattern, text("README.es.md"), re.MULTILINE)
    assert len(english) == len(spanish)


@pytest.mark.parametrize("name", ["README.md", "README.es.md"])
def test_the_options_are_those_of_the_template(name: str) -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", text(name), re.MULTILINE))
    assert list(rows) == list(QUESTIONS)
    shown = {name: rows[name].replace(" | ", ", ") for name in CHOICES}
    assert shown == {name: ", ".join(choices) for name, choices in CHOICES.items()}


@pytest.mark.parametrize("name", ["README.md", "README.es.md"])
def test_every_link_leads_to_a_file(name: str) -> None:
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", text(name))
    assert [link for link in links if not (ROOT / link.partition("#")[0]).exists()] == []
