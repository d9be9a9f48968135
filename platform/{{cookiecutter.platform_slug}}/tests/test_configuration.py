"""What the files of config/ say to each service, without the service itself."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from platforms import commit
from platforms import make_project
from platforms import make_service

from fleet import configuration
from fleet.applying import recorded
from fleet.applying import refuse_uncommitted
from fleet.asking import Answer
from fleet.configuration import Configuration
from fleet.configuration import Reader
from fleet.configuration import check_files
from fleet.configuration import kept_folder
from fleet.configuration import one_for_each_value
from fleet.configuration import remedy
from fleet.configuration import unknown
from fleet.project import Project
from fleet.project import Refusal
from fleet.services import Service
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
    level = Configuration(service, {"LOG_LEVEL": "DEBUG"})
    level.keep(project)
    folder = kept_folder(project, level.name)
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


def test_a_value_that_a_service_and_the_gateway_refuse_is_one_line() -> None:
    said = ["c.env: A: no address", "c.env: A: write http://x", "c.env: B: x", "no colon", "d: A"]
    assert one_for_each_value(said) == [said[0], *said[2:]]


DEFAULTS = dict.fromkeys(("LOG_LEVEL", "LIMIT", "KEY", "PORT", "URL"), "")
DEFAULTS |= {"DRAIN_DELAY": "2.0", "SHUTDOWN_GRACE": "20"}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A platform whose services know some settings and a secret, and refuse a level of LOUD."""

    def ask(_service: Service, _image: str, values: Mapping[str, str]) -> Answer:
        if values.get("LOG_LEVEL") == "LOUD":
            return Answer({}, frozenset(), {"LOG_LEVEL": "is no level"})
        settings = {name: values.get(name, default) for name, default in DEFAULTS.items()}
        return Answer(settings, frozenset(values.keys() & {"KEY"}), {})

    monkeypatch.setattr(configuration, "ask", ask)
    monkeypatch.setattr(configuration, "given_by_compose", lambda _service: ({"URL": "x"}, {}))
    monkeypatch.setattr(configuration, "stop_seconds", lambda _service: 30.0)
    return make_project(tmp_path)


def checked(project: Project, common: str, own: str, are_all: bool = True) -> dict[str, str]:
    """Return the values that a service gets of the two files."""
    service = read_service(make_service(project.root.parent, "orders"))
    (project.config / "common.env").write_text(common, "utf-8")
    (project.config / "orders.env").write_text(own, "utf-8")
    images = {"orders": "orders:1"}
    found = configuration.check_services(project, [service], images, are_all)
    return dict(found["orders"].values)


def test_a_service_gets_what_it_knows_and_compose_does_not_set(project: Project) -> None:
    values = checked(project, "URL=y\nOTHERS=1\nLIMIT=5\n", "LOG_LEVEL=INFO\n", are_all=False)
    assert values == {"LIMIT": "5", "LOG_LEVEL": "INFO"}


@pytest.mark.parametrize(
    ("common", "own", "said"),
    [
        ("LOG_LEVEL=LOUD\n", "", r"config/common\.env: LOG_LEVEL: is no level"),
        ("", "LOG_LEVEL=LOUD\n", r"config/orders\.env: LOG_LEVEL: is no level"),
        ("", "KEY=1\n", r"config/orders\.env: KEY: is a secret: .*"),
        ("", "LIMITS=1\n", r"config/orders\.env: LIMITS: orders has no .*; is it LIMIT\?"),
        ("OTHERS=1\n", "", r"config/common\.env: OTHERS: no service that joined takes it"),
        ("URL=1\n", "", r"config/common\.env: URL: no service that joined takes it"),
        ("", "URL=1\nPORT=2\n", r".*: URL: the service's compose\.yaml .*\n.*: PORT: .*"),
        ("X=1\n", "URL=1\n", r".*: URL: the service's .*\nconfig/common\.env: X: no service .*"),
        ("X=1\n", "LOG_LEVEL=LOUD\n", r"config/orders\.env: LOG_LEVEL: is no level"),
        ("X\n", "LIMITS\nKEY=1\n", r".*common\.env:1: .*\n.*orders\.env:1: .*\n.*: KEY: is .*"),
        (
            "",
            "DRAIN_DELAY=5.5\n",
            r"config/orders\.env: DRAIN_DELAY: .* after 30 s, .* 30\.5 s; .*",
        ),
        (
            "DRAIN_DELAY=9\n",
            "SHUTDOWN_GRACE=30\n",
            r".*/orders\.env: SHUTDOWN_GRACE: .* needs 44 s; .*",
        ),
        ("", 'LOG_LEVEL="INFO" \n', r".*: LOG_LEVEL: remove the quotes, .*"),
    ],
)
def test_each_fault_is_a_line_with_its_file_and_name(
    project: Project, common: str, own: str, said: str
) -> None:
    with pytest.raises(Refusal) as refused:
        checked(project, common, own)
    assert re.fullmatch(said, str(refused.value))


def test_a_stop_that_compose_waits_for_is_good(project: Project) -> None:
    assert checked(project, "DRAIN_DELAY=5\n", "") == {"DRAIN_DELAY": "5"}


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
