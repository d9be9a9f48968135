"""The services that joined: their folders, and the compose file that has a line for each."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet.project import Project
from fleet.project import Refusal
from fleet.project import parse_yaml
from fleet.project import read_text
from fleet.project import read_yaml
from fleet.routes import SLUG

ROUTE = Path("deploy/gateway/route.yaml")
HEAD = "include:\n"


@dataclass(frozen=True)
class Service:
    """A service: its name, its folder and what its service.yaml says."""

    slug: str
    folder: Path
    manifest: Mapping[str, Any]

    @property
    def route(self) -> str:
        """The text of its route, which the platform keeps a copy of."""
        return read_text(self.folder / ROUTE)

    @property
    def port(self) -> int:
        """The port on which it listens in its container."""
        return int(self.manifest["port"])


def read_service(folder: Path) -> Service:
    """Return the service in a folder, which must have what the platform reads."""
    for name in (Path("service.yaml"), Path("compose.yaml"), ROUTE):
        if not (folder / name).is_file():
            raise Refusal(f"{folder}: it has no {name}, so it is no service; name its folder")
    manifest = read_yaml(folder / "service.yaml")
    slug = manifest.get("name") if isinstance(manifest, dict) else None
    if not isinstance(slug, str) or not re.fullmatch(SLUG, slug):
        raise Refusal(f"{folder / 'service.yaml'}: name: write it in lower case, as in orders")
    if not isinstance(manifest.get("port"), int):
        raise Refusal(f"{folder / 'service.yaml'}: port: write the port that it listens on")
    return Service(slug, folder, manifest)


def included(project: Project) -> list[Path]:
    """Return the folders of the services in services.yaml, in its order."""
    name = project.shown(project.services)
    document = parse_yaml(read_text(project.services), name)
    entries = (document.get("include") if isinstance(document, dict) else None) or []
    if not all(isinstance(entry, str) for entry in entries):
        raise Refusal(f"{name}: write one path on each line, as `make join` does")
    paths = (entry.replace("$$", "$") for entry in entries)
    return [Path(os.path.normpath(project.root / path)).parent for path in paths]


def joined(project: Project) -> list[Service]:
    """Return the services that joined, in the order in which they did."""
    found = []
    for folder in included(project):
        if not folder.is_dir():
            remedy = f"bring it back, or run make leave SERVICE={folder.name}"
            raise Refusal(f"{project.shown(project.services)}: {folder} is not there; {remedy}")
        found.append(read_service(folder))
    return found


def find(project: Project, name: str) -> Service:
    """Return the service that joined under a name, or from a folder."""
    if not name:
        raise Refusal("name the service, as in SERVICE=orders")
    services = joined(project)
    for service in services:
        if name == service.slug or Path(name).resolve() == service.folder.resolve():
            return service
    known = ", ".join(service.slug for service in services) or "none yet"
    raise Refusal(f"{Path(name).name} has not joined {project.name}; joined: {known}")


def line_of(project: Project, folder: Path) -> str:
    """Return the line of services.yaml that includes the service in a folder."""
    path = os.path.relpath(folder / "compose.yaml", project.root.resolve())
    return f"  - {json.dumps(path.replace('$', '$$'), ensure_ascii=False)}\n"


def with_line(text: str, line: str) -> str:
    """Return the text of services.yaml with one more line at its end."""
    if HEAD not in text:
        raise Refusal("services.yaml: write `include:` on a line of its own, below it the services")
    return text if line in text else text.rstrip("\n") + "\n" + line


def without_folder(project: Project, folder: Path) -> str:
    """Return the text of services.yaml without the line of a folder."""
    kept = []
    for line in read_text(project.services).splitlines(keepends=True):
        entry = re.fullmatch(r"\s*-\s+(.*\S)\s*", line)
        path = str(parse_yaml(entry[1], "services.yaml")).replace("$$", "$") if entry else ""
        if not entry or Path(os.path.normpath(project.root / path)).parent != folder:
            kept.append(line)
    return "".join(kept)
