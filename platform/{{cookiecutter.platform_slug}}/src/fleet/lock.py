"""The lock: the images that are the deployed system, and the release before, as git has it."""

import json
from collections.abc import Mapping
from typing import Any

from fleet.engine import attempt
from fleet.project import Project
from fleet.project import Refusal
from fleet.project import read_text

LOCK = "release.lock"
Images = Mapping[str, Mapping[str, str]]


def parse_lock(text: str) -> Images:
    """Return the images that a lock names, by the parts of the system."""
    images: Any = json.loads(text)["images"]
    return dict(images)


def git(project: Project, *arguments: str) -> str:
    """Return what git says in the platform's folder."""
    done = attempt("git", "-C", str(project.root), *arguments)
    if done.returncode:
        raise Refusal(f"{LOCK}: git {arguments[0]}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout.strip()


def previous_lock(project: Project) -> str:
    """Return the text of the release before the present one, as git has it."""
    path = project.root / LOCK
    if not path.exists():
        raise Refusal(f"{LOCK}: there is no release yet; make release writes one")
    present = read_text(path)
    commits = git(project, "log", "--format=%H", "--", LOCK).split()
    texts = [
        attempt("git", "-C", str(project.root), "show", f"{one}:./{LOCK}").stdout for one in commits
    ]
    releases = list(dict.fromkeys(text for text in reversed(texts) if text))
    earlier = releases[: releases.index(present)] if present in releases else releases
    if not earlier:
        raise Refusal(f"{LOCK}: git has no release before this one")
    return earlier[-1]
