"""The platform's files: found, read strictly and replaced whole; programs that fail are a line."""

import stat
from pathlib import Path

import pytest
from platforms import make_project

from fleet.__main__ import main
from fleet.project import Project
from fleet.project import Refusal
from fleet.project import find_project
from fleet.project import parse_yaml
from fleet.project import read_environment
from fleet.project import read_text
from fleet.project import run
from fleet.project import write


def test_a_platform_is_found_from_any_folder_of_it(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    assert find_project(project.routes) == project
    assert project.name == "shop"


def test_a_file_is_shown_as_it_lies_in_the_platform(tmp_path: Path) -> None:
    project = Project(tmp_path)
    assert project.shown(project.rendered / "routes.json") == "gateway/rendered/routes.json"
    assert project.shown(Path("/else")) == "/else"


def test_a_command_outside_of_a_platform_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["gateway"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\na: 2", "x.yaml:1: a key is there twice; correct the YAML"),
        ("a: [", "x.yaml:1: expected the node content"),
        ("a: \0", "x.yaml: unacceptable character"),
    ],
)
def test_bad_yaml_is_one_line(text: str, told: str) -> None:
    with pytest.raises(Refusal) as refused:
        parse_yaml(text, "x.yaml")
    assert told in str(refused.value)
    assert str(refused.value).isprintable()


def test_variables_are_stripped_as_services_strip_them(tmp_path: Path) -> None:
    path = tmp_path / "common.env"
    assert read_environment(path, "common.env") == ({}, [])
    path.write_text("# a comment\n\nA=1\nB= x=y \nC=\nD=  \n", "utf-8")
    assert read_environment(path, "common.env")[0] == {"A": "1", "B": "x=y", "C": "", "D": ""}


def test_every_wrong_line_of_a_file_is_told_and_the_good_ones_are_read(tmp_path: Path) -> None:
    path = tmp_path / "common.env"
    path.write_text("A B\nA=1\nA=2\nB=2\n", "utf-8")
    values, faults = read_environment(path, "config/common.env")
    assert values == {"A": "1", "B": "2"}
    assert faults == [
        "config/common.env:1: write NAME=value, without spaces around the name",
        "config/common.env:3: A is there twice; keep one",
    ]


def test_variables_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "latin").write_bytes(b"A=\xe4")
    for name, told in (("link", "this link leads nowhere"), ("latin", "write it in UTF-8")):
        values, faults = read_environment(tmp_path / name, f"config/{name}")
        assert values == {}
        assert [fault.partition(";")[0] for fault in faults] == [f"config/{name}: {told}"]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"\xe4")
    for name, told in (("none", "No such file"), ("latin", "write it in UTF-8")):
        with pytest.raises(Refusal, match=told):
            read_text(tmp_path / name)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    write(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write(path, "new\ud800")
    assert path.read_text("utf-8") == "old"
    assert [one.name for one in path.parent.iterdir()] == ["file"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_program_that_fails_is_one_line_with_the_end_of_its_complaint() -> None:
    assert run("sh", "-c", "cat", stdin="text") == "text"
    with pytest.raises(Refusal, match=r"^sh -c .*: the end$"):
        run("sh", "-c", "echo a start >&2; echo the end >&2; exit 3")
    with pytest.raises(Refusal, match="no-such-program: No such file or directory; install it"):
        run("no-such-program")
