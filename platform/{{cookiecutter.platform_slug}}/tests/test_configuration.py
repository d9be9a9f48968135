"""What the files of config/ say to each service, without the service itself."""

from pathlib import Path

import pytest
from platforms import commit
from platforms import make_project
from platforms import make_service

from fleet.applying import recorded
from fleet.applying import refuse_uncommitted
from fleet.configuration import Configuration
from fleet.configuration import Reader
from fleet.configuration import check_files
from fleet.configuration import kept_folder
from fleet.configuration import remedy
from fleet.configuration import unknown
from fleet.project import Refusal
from fleet.services import read_service


def test_a_services_own_value_comes_before_the_common_one(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    service = read_service(make_service(tmp_path, "orders"))
    (project.config / "common.env").write_text("A=1\nB=1\nC=1\n", "utf-8")
    (project.config / "orders.env").write_text("# why\nB=2\nC=\n", "utf-8")
    reader = Reader(project, service)
    assert reader.values == {"A": "1", "B": "2"}
    origins = [reader.origin(name) for name in "ABD"]
    assert origins == ["config/common.env", "config/orders.env", "orders"]


def test_equal_values_have_one_name_and_others_another(tmp_path: Path) -> None:
    service = read_service(make_service(tmp_path, "orders"))
    one = Configuration(service, {"A": "1", "B": "2"}).name
    assert Configuration(service, {"B": "2", "A": "1"}).name == one
    assert Configuration(service, {"A": "1", "B": "3"}).name != one
    assert one.startswith("orders-")


def test_what_is_kept_can_be_read_by_any_user(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    service = read_service(make_service(tmp_path, "orders"))
    configuration = Configuration(service, {"LOG_LEVEL": "DEBUG"})
    configuration.keep(project)
    folder = kept_folder(project, configuration.name)
    assert [path.name for path in folder.iterdir()] == ["LOG_LEVEL"]
    assert (folder / "LOG_LEVEL").read_text("utf-8") == "DEBUG"
    assert (folder.stat().st_mode & 0o777, (folder / "LOG_LEVEL").stat().st_mode & 0o777) == (
        0o755,
        0o644,
    )


@pytest.mark.parametrize(
    ("name", "value", "is_set", "said"),
    [
        ("PORT", "80", False, "the gateway relies on the port"),
        ("DATABASE_URL", "x", True, r"the service's compose\.yaml sets it"),
        ("UPSTREAM", "https://user:secret@example.org", False, "it holds a password"),
        ("LOG_LEVEL", '"INFO"', False, "remove the quotes"),
    ],
)
def test_what_no_service_should_be_told_is_refused(
    name: str, value: str, is_set: bool, said: str
) -> None:
    with pytest.raises(Refusal, match=said):
        raise Refusal(remedy(name, value, is_set))


@pytest.mark.parametrize("value", ["INFO", "https://example.org:80/a@b", "it's 5 o'clock"])
def test_plain_values_are_good(value: str) -> None:
    assert remedy("NAME", value, False) is None


def test_an_unknown_name_gets_a_hint_where_one_is_near() -> None:
    found = unknown("config/orders.env", ["log_levl", "XYZ"], {"LOG_LEVEL", "PORT"}, "no such")
    assert found == [
        "config/orders.env: log_levl: no such; is it LOG_LEVEL?",
        "config/orders.env: XYZ: no such",
    ]


def test_a_file_that_is_no_services_is_refused(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    service = read_service(make_service(tmp_path, "orders"))
    (project.config / "common.env").touch()
    (project.config / "orders.env").touch()
    check_files(project, [service])
    (project.config / "order.env").touch()
    with pytest.raises(Refusal, match=r"config: order.env: no such .* joined; is it orders.env\?"):
        check_files(project, [service])


def test_what_git_has_not_recorded_is_refused(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    with pytest.raises(Refusal, match="no git repository"):
        refuse_uncommitted(project, "config")
    (project.config / "common.env").write_text("LOG_LEVEL=INFO\n", "utf-8")
    commit(project.root)
    refuse_uncommitted(project, "config")
    assert " by Ana, " in recorded(project)
    (project.config / "common.env").write_text("LOG_LEVEL=DEBUG\n", "utf-8")
    with pytest.raises(Refusal, match=r"config/common\.env: commit it first"):
        refuse_uncommitted(project, "config")
