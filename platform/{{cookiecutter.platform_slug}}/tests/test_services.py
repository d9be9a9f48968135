"""The list of the services that joined: line by line, and back to the same bytes."""

from pathlib import Path

import pytest
from platforms import make_project
from platforms import make_service

from fleet.project import Project
from fleet.project import Refusal
from fleet.project import read_yaml
from fleet.services import find
from fleet.services import included
from fleet.services import joined
from fleet.services import line_of
from fleet.services import read_service
from fleet.services import with_line
from fleet.services import without_folder


def add(project: Project, folder: Path) -> None:
    text = project.services.read_text("utf-8")
    project.services.write_text(with_line(text, line_of(project, folder)), "utf-8")


@pytest.mark.parametrize("slug", ["orders", "order-items"])
def test_a_service_is_one_line_which_leads_to_its_folder(tmp_path: Path, slug: str) -> None:
    project = make_project(tmp_path)
    folder = make_service(tmp_path, slug)
    before = project.services.read_text("utf-8")
    add(project, folder)
    assert project.services.read_text("utf-8").removeprefix(before).count("\n") == 1
    assert read_yaml(project.services)["include"] == [f"../the {slug}/compose.yaml"]
    assert [(one.slug, one.folder) for one in joined(project)] == [(slug, folder)]


def test_a_dollar_in_a_path_is_no_variable_of_compose(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    folder = make_service(tmp_path / "$HOME", "orders")
    add(project, folder)
    assert read_yaml(project.services)["include"] == ["../$$HOME/the orders/compose.yaml"]
    assert included(project) == [folder]


def test_a_service_joins_once(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    folder = make_service(tmp_path, "orders")
    add(project, folder)
    once = project.services.read_bytes()
    add(project, folder)
    assert project.services.read_bytes() == once


def test_leaving_restores_every_byte(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    folders = [make_service(tmp_path, slug) for slug in ("orders", "invoices", "shipping")]
    add(project, folders[0])
    before = project.services.read_bytes()
    for folder in folders[1:]:
        add(project, folder)
    for folder in folders[1:]:
        project.services.write_text(without_folder(project, folder), "utf-8")
    assert project.services.read_bytes() == before


def test_a_service_is_found_by_its_name_and_its_folder(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    folder = make_service(tmp_path, "orders")
    add(project, folder)
    assert find(project, "orders") == find(project, str(folder))
    with pytest.raises(Refusal, match="invoices has not joined shop; joined: orders"):
        find(project, "invoices")
    with pytest.raises(Refusal, match="name the service, as in SERVICE=orders"):
        find(project, "")


@pytest.mark.parametrize("missing", ["service.yaml", "compose.yaml", "deploy/gateway/route.yaml"])
def test_a_folder_that_is_no_service_is_refused(tmp_path: Path, missing: str) -> None:
    folder = make_service(tmp_path, "orders")
    (folder / missing).unlink()
    with pytest.raises(Refusal, match=f"it has no {missing}, so it is no service"):
        read_service(folder)


@pytest.mark.parametrize("manifest", ["name: ../etc\nport: 1\n", "[]", "port: 1\n", "name: Orders"])
def test_a_name_that_is_no_slug_is_refused(tmp_path: Path, manifest: str) -> None:
    folder = make_service(tmp_path, "orders")
    (folder / "service.yaml").write_text(manifest, "utf-8")
    with pytest.raises(Refusal, match=r"service\.yaml: name: write it in lower case"):
        read_service(folder)


def test_a_manifest_without_a_port_is_refused(tmp_path: Path) -> None:
    folder = make_service(tmp_path, "orders")
    (folder / "service.yaml").write_text("name: orders\n", "utf-8")
    with pytest.raises(Refusal, match="port: write the port"):
        read_service(folder)


def test_a_service_whose_folder_is_gone_is_named_with_the_remedy(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    folder = make_service(tmp_path, "orders")
    add(project, folder)
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(Refusal, match="the orders is not there; bring it back, or run make leave"):
        joined(project)


@pytest.mark.parametrize("text", ["include: [{path: a}]\n", "include: [1]\n"])
def test_a_line_that_join_does_not_write_is_refused(tmp_path: Path, text: str) -> None:
    project = make_project(tmp_path)
    project.services.write_text(text, "utf-8")
    with pytest.raises(Refusal, match=r"services\.yaml: write one path on each line"):
        included(project)


def test_a_list_without_its_head_is_not_appended_to(tmp_path: Path) -> None:
    line = line_of(make_project(tmp_path), tmp_path / "orders")
    with pytest.raises(Refusal, match="write `include:` on a line of its own"):
        with_line("include: []\n", line)
