"""Where the platform's files are, and how they are read, written and handed to other programs."""

import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


class Refusal(Exception):  # noqa: N818 it says no, and is no fault
    """What a command refuses, in one line with the remedy; nothing was changed."""


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


def read_text(path: Path) -> str:
    """Return a file's text."""
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        raise Refusal(f"{path}: write it in UTF-8") from None
    except OSError as error:
        raise Refusal(f"{path}: {error.strerror}") from None


def read_yaml(path: Path) -> Any:
    """Return what a YAML file holds."""
    return parse_yaml(read_text(path), str(path))


def read_environment(path: Path) -> dict[str, str]:
    """Return the variables of a file of `NAME=value` lines; of a missing file none."""
    found = {}
    lines = read_text(path).splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not name.isidentifier() or not name.isascii():
            raise Refusal(f"{path}:{number}: write NAME=value, without spaces around the name")
        if name in found:
            raise Refusal(f"{path}:{number}: {name} is there twice; keep one")
        found[name] = value
    return found


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
