"""What pyproject.toml says of the service."""

import tomllib
from pathlib import Path
from typing import NamedTuple


class Project(NamedTuple):
    """Name (the slug), title, version and description."""

    name: str
    title: str
    version: str
    description: str


def read_project(path: Path) -> Project:
    """Read a pyproject.toml; raise KeyError where something is missing."""
    document = tomllib.loads(path.read_text("utf-8"))
    project = document["project"]
    title = document["tool"]["service"]["title"]
    return Project(project["name"], title, project["version"], project["description"])


PROJECT = read_project(Path(__file__).parents[3] / "pyproject.toml")
