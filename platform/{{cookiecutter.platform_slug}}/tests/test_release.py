"""The lock of a release, and which one is the release before, as git has it."""

import json
from pathlib import Path

import pytest
from platforms import commit
from platforms import make_project

from fleet.lock import LOCK
from fleet.lock import parse_lock
from fleet.lock import previous_lock
from fleet.project import Project
from fleet.project import Refusal


def lock(project: Project, image: str) -> str:
    """Write and commit the lock of a release."""
    text = json.dumps({"images": {"orders": {"image": image, "id": f"sha256:{image}"}}})
    (project.root / LOCK).write_text(text, "utf-8")
    commit(project.root)
    return text


def test_the_release_before_is_the_one_that_was_released_before(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    first, second, third = (lock(project, image) for image in ("1", "2", "3"))
    assert previous_lock(project) == second
    assert parse_lock(second)["orders"]["image"] == "2"
    (project.root / LOCK).write_text(second, "utf-8")
    assert previous_lock(project) == first, "before it is committed"
    commit(project.root)
    assert previous_lock(project) == first, "and afterwards"
    assert third


def test_a_lock_that_is_not_committed_comes_after_all_others(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    last = lock(project, "1")
    (project.root / LOCK).write_text('{"images": {}}', "utf-8")
    assert previous_lock(project) == last


def test_the_first_release_has_none_before_it(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    lock(project, "1")
    with pytest.raises(Refusal, match="git has no release before this one"):
        previous_lock(project)


def test_without_a_lock_there_is_no_release(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="there is no release yet"):
        previous_lock(make_project(tmp_path))


def test_without_git_it_is_said_what_is_missing(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    (project.root / LOCK).write_text('{"images": {}}', "utf-8")
    with pytest.raises(Refusal, match=r"release\.lock: git log: .*not a git repository"):
        previous_lock(project)
