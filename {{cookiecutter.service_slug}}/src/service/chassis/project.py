"""What pyproject.toml says of the service."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class Project:
    """Name (the slug), title, version and description."""

    name: str
    title: str
    version: str
    description: str

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a pyproject.toml; raise KeyError where something is missing."""
        document = tomllib.loads(path.read_text("utf-8"))
        project = document["project"]
        title = document["tool"]["service"]["title"]
        return cls(project["name"], title, project["version"], project["description"])


PROJECT = Project.read(Path(__file__).parents[3] / "pyproject.toml")
