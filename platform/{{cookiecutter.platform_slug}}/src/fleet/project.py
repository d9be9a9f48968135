"""Where the platform's files are, and how they are read, written and handed to other programs."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


class Refusal(Exception):  # noqa: N818 it says no, and is no fault
    """What a command refuses, a line with the remedy for each fault; nothing was changed."""


@contextmanager
def noted(faults: list[str]) -> Iterator[None]:
    """Add what is refused to the faults, so that the next check runs too."""
    try:
        yield
    except Refusal as refusal:
        faults += str(refusal).splitlines()


def refuse(faults: list[str]) -> None:
    """Refuse what has faults, with one line for each."""
    if faults:
        raise Refusal("\n".join(dict.fromkeys(faults)))


@dataclass(frozen=True)
class Project:
    """The platform in the folder `root`."""

    root: Path

    @property
    def name(self) -> str:
        """Its name, which is compose's too."""
        return str(read_yaml(self.root / "compose.yaml")["name"])

    @property
    def services(self) -> Path:
        """The compose file that includes the services which joined."""
        return self.root / "services.yaml"

    @property
    def routes(self) -> Path:
        """The folder of their routes, one file each."""
        return self.root / "routes"

    @property
    def config(self) -> Path:
        """The folder of their shared configuration."""
        return self.root / "config"

    @property
    def gateway(self) -> Path:
        """The folder of the gateway's settings."""
        return self.root / "gateway"

    @property
    def rendered(self) -> Path:
        """The folder that the gateway mounts and watches; git ignores it."""
        return self.gateway / "rendered"

    def shown(self, path: Path) -> str:
        """Return a path as messages show it."""
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)


def find_project(start: Path) -> Project:
    """Return the platform that `start` lies in."""
    for folder in (start, *start.parents):
        if (folder / "services.yaml").is_file() and (folder / "routes").is_dir():
            return Project(folder)
    raise Refusal(f"{start}: neither it nor a folder above is a platform; go into one")


class StrictLoader(yaml.SafeLoader):
    """YAML as Kubernetes reads it: a key that is there twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping whose keys differ."""
        mapping = super().construct_mapping(node, deep)
        if len(mapping) != len(node.value):
            raise yaml.constructor.ConstructorError(
                None, None, "a key is there twice", node.start_mark
            )
        return mapping


def parse_yaml(text: str, name: str) -> Any:
    """Return what one YAML document holds; `name` is the file's in a refusal."""
    try:
        return yaml.load(text, StrictLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise Refusal(f"{name}:{line}: {error.problem}; correct the YAML") from None
    except yaml.YAMLError as error:
        raise Refusal(f"{name}: {' '.join(str(error).split())}; correct the YAML") from None


def read_text(path: Path, name: str = "") -> str:
    """Return a file's text; `name` is the file's in a refusal, if not its path."""
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        raise Refusal(f"{name or path}: write it in UTF-8") from None
    except OSError as error:
        raise Refusal(f"{name or path}: {error.strerror}") from None


def read_yaml(path: Path) -> Any:
    """Return what a YAML file holds."""
    return parse_yaml(read_text(path), str(path))


def read_environment(path: Path, name: str) -> tuple[dict[str, str], list[str]]:
    """Return the variables of a file of `NAME=value` lines, none of a missing one, and its faults.

    Values are stripped, as services strip what they read in files.
    """
    found: dict[str, str] = {}
    faults: list[str] = []
    text = ""
    if path.exists():
        with noted(faults):
            text = read_text(path, name)
    elif path.is_symlink():
        faults.append(f"{name}: this link leads nowhere; mend or remove it")
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        variable, equals, value = line.partition("=")
        if not equals or not variable.isidentifier() or not variable.isascii():
            faults.append(f"{name}:{number}: write NAME=value, without spaces around the name")
        elif variable in found:
            faults.append(f"{name}:{number}: {variable} is there twice; keep one")
        else:
            found[variable] = value.strip()
    return found, faults


def write(path: Path, text: str) -> None:
    """Replace a file by renaming, so that whoever reads it sees the old or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def run(*command: str, cwd: Path | None = None, stdin: str | None = None) -> str:
    """Return what a program prints; refuse with the end of its complaint where it fails."""
    try:
        done = subprocess.run(command, cwd=cwd, input=stdin, capture_output=True, text=True)
    except OSError as error:
        raise Refusal(f"{command[0]}: {error.strerror}; install it") from None
    if done.returncode:
        complaint = (done.stderr.strip() or done.stdout.strip() or "it failed").splitlines()
        raise Refusal(f"{' '.join(command[:3])}: {complaint[-1]}")
    return done.stdout


def compose(project: Project, *arguments: str) -> str:
    """Run docker compose for the platform; return what it prints."""
    return run("docker", "compose", *arguments, cwd=project.root)
