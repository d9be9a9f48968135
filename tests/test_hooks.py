"""The post-generation hook: its functions, and the hook as cookiecutter runs it."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hooks import post_gen_project as hook
from tests.conftest import CHOICES
from tests.conftest import FOLDER
from tests.conftest import QUESTIONS
from tests.conftest import ROOT
from tests.conftest import Bake
from tests.conftest import bake_with
from tests.conftest import commit
from tests.conftest import known_files

HOOK = ROOT / "hooks" / "post_gen_project.py"
ANSWERS: dict[str, Any] = {name: CHOICES[name][0] if name in CHOICES else "x" for name in QUESTIONS}
LEAST = ANSWERS | {"ci": "none", "sample": "no"}  # asks for no optional file
CONTRACT = '{"paths": {}, "components": {"schemas": {}}}'


def write(root: Path, *paths: str, text: str = "") -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")


def repository(folder: Path) -> Path:
    write(folder, "cookiecutter.json", text="{}")
    return commit(folder)


@pytest.mark.parametrize("path", hook.OPTIONAL)
def test_every_optional_path_exists_in_the_template(path: str) -> None:
    file = f"{FOLDER}/{path}"
    assert any(name == file or name.startswith(f"{file}/") for name in known_files())


@pytest.mark.parametrize("path", hook.OPTIONAL)
def test_every_optional_path_depends_on_answers_that_exist(path: str) -> None:
    wanted = hook.OPTIONAL[path]
    assert all(set(accepted) < set(CHOICES[question]) for question, accepted in wanted.items())


def test_what_was_not_asked_for_is_removed(tmp_path: Path) -> None:
    write(tmp_path, *hook.OPTIONAL, "README.md")
    hook.prune(tmp_path, LEAST | {"ci": "gitlab"})
    assert sorted(path.name for path in tmp_path.iterdir()) == [".gitlab-ci.yml", "README.md"]


def test_a_file_of_the_users_beside_an_optional_one_stays(tmp_path: Path) -> None:
    write(tmp_path, *hook.OPTIONAL, ".github/workflows/mine.yml")
    hook.prune(tmp_path, LEAST)
    assert [path.name for path in hook.files(tmp_path)] == ["mine.yml"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.py", "def f(:"),
        ("a.toml", "x = "),
        ("a.json", "{"),
        ("a.txt", "{{ cookiecutter.owner }}"),
        ("a.yaml", "# {% if x %}"),
        ("a.yaml", "# {# a note #}"),
        ("a.py", "import x  # only-if: ci == 'none'"),
    ],
)
def test_a_broken_or_unrendered_file_is_named(tmp_path: Path, name: str, text: str) -> None:
    write(tmp_path, name, text=text)
    assert [fault.split(":")[0] for fault in hook.faults(tmp_path)] == [name]


def test_good_files_have_no_fault(tmp_path: Path) -> None:
    write(tmp_path, "a.py", "a.toml", text="x = 1")
    write(tmp_path, "a.json", text="{}")
    write(tmp_path, "a.yml", text="run: ${{ github.ref }}")
    assert hook.faults(tmp_path) == []


def test_a_binary_file_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "logo.png").write_bytes(b"\x89PNG\xff")
    assert hook.faults(tmp_path) == []


def test_a_fault_of_the_template_fails_the_bake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, "openapi.json", text=CONTRACT)
    write(tmp_path, "a.py", text="def f(:")
    assert hook.main(tmp_path, ANSWERS, ROOT) == 1
    assert "--keep-project-on-failure" in capsys.readouterr().err


def test_the_record_names_the_templates_commit_and_the_answers_alone(tmp_path: Path) -> None:
    template = repository(tmp_path / "template")
    assert hook.record(tmp_path, ANSWERS | {"_checkout": "v1", "__year": "2026"}, template) is None
    state = json.loads((tmp_path / ".cruft.json").read_text(encoding="utf-8"))
    assert state["commit"] == hook.git(template, "rev-parse", "HEAD")
    assert (state["template"], state["checkout"]) == (str(template), "v1")
    assert state["context"]["cookiecutter"] == ANSWERS


def test_the_record_prefers_the_address_that_the_template_was_cloned_from(tmp_path: Path) -> None:
    template = repository(tmp_path / "template")
    hook.git(template, "remote", "add", "origin", "https://example.org/template.git")
    hook.record(tmp_path, ANSWERS, template)
    text = (tmp_path / ".cruft.json").read_text(encoding="utf-8")
    assert '"https://example.org/template.git"' in text


@pytest.mark.parametrize(
    ("address", "recorded"),
    [
        ("https://oauth2:glpat-TOKEN@example.org/a/t.git", "https://example.org/a/t.git"),
        ("https://TOKEN@example.org:8443/t.git", "https://example.org:8443/t.git"),
        ("http://user:p@ss@example.org/t@v1.git", "http://example.org/t@v1.git"),
        ("ssh://git:TOKEN@example.org:22/t.git", "ssh://git@example.org:22/t.git"),
        ("ssh://git@example.org/t.git", "ssh://git@example.org/t.git"),
        ("git@example.org:a/t.git", "git@example.org:a/t.git"),
        ("/home/a:b@c/t", "/home/a:b@c/t"),
        ("file:///srv/t@1.git", "file:///srv/t@1.git"),
        ("https://example.org/~a@b/t.git", "https://example.org/~a@b/t.git"),
    ],
)
def test_the_record_holds_no_credentials(tmp_path: Path, address: str, recorded: str) -> None:
    template = repository(tmp_path / "template")
    hook.git(template, "remote", "add", "origin", address)
    hook.record(tmp_path, ANSWERS, template)
    state = json.loads((tmp_path / ".cruft.json").read_text(encoding="utf-8"))
    assert state["template"] == recorded


def test_a_template_named_by_a_relative_path_is_recorded(
    template: Path, user_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = commit(Path(shutil.copytree(template, tmp_path / "clone")))
    monkeypatch.chdir(clone)
    service = bake_with(Path(), tmp_path, user_config)
    state = json.loads((service / ".cruft.json").read_text(encoding="utf-8"))
    assert state["template"] == str(clone)


def test_no_record_is_made_of_a_template_with_uncommitted_changes(tmp_path: Path) -> None:
    template = repository(tmp_path / "template")
    write(template, "new")
    assert hook.record(tmp_path, ANSWERS, template) == "the template has uncommitted changes"


def test_no_record_is_made_of_a_folder_inside_another_repository(tmp_path: Path) -> None:
    write(repository(tmp_path / "outer"), "template/cookiecutter.json")
    refusal = hook.record(tmp_path, ANSWERS, tmp_path / "outer" / "template")
    assert refusal == "the template is no git clone"


def test_a_slow_tool_is_given_up_and_only_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = (sys.executable, "-c", "import time; time.sleep(60)")
    monkeypatch.setattr(hook, "TOOLS", {"slow": slow})
    monkeypatch.setattr(hook, "TOOL_SECONDS", 0.1)
    process = hook.start_tools(tmp_path)["slow"]
    assert hook.verdict(process) == "no answer in 0.1 s"


def test_a_failing_tool_only_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook, "TOOLS", {"bad": (sys.executable, "-c", "raise SystemExit(1)")})
    process = hook.start_tools(tmp_path)["bad"]
    assert hook.verdict(process) == "WARNING, run it to see why"


def test_no_tool_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "openapi.json", text=CONTRACT)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert hook.main(tmp_path, ANSWERS, ROOT) == 0


def test_a_new_service_is_a_git_repository(bake: Bake) -> None:
    assert hook.git(bake(), "rev-parse", "--show-prefix") == ""


def test_no_repository_is_made_inside_another(
    tmp_path: Path, template: Path, user_config: Path
) -> None:
    repository(tmp_path)
    service = bake_with(template, tmp_path, user_config)
    assert not (service / ".git").exists()


def test_under_cruft_the_hook_prunes_and_is_silent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, *hook.OPTIONAL)
    write(tmp_path, "openapi.json", text=CONTRACT)
    assert hook.main(tmp_path, LEAST | {"_commit": "0"}, ROOT) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["openapi.json"]
    assert capsys.readouterr().out == ""


def operation(tag: str, *schemas: str) -> dict[str, Any]:
    """Return a path of a contract, whose operation uses these schemas."""
    uses = [{"$ref": f"#/components/schemas/{name}"} for name in schemas]
    return {"get": {"tags": [tag], "uses": uses}}


def test_the_contract_keeps_only_what_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "openapi.json"
    schemas: dict[str, Any] = {name: {} for name in ("Order", "Orders", "Product", "Shared")}
    schemas["Orders"] = {"items": {"$ref": "#/components/schemas/Order"}}
    paths = {
        "/orders": operation("orders", "Orders", "Shared"),
        "/tea": operation("catalogue", "Product", "Shared"),
    }
    contract = {"paths": paths, "components": {"schemas": schemas}}
    write(tmp_path, path.name, text=json.dumps(contract))
    hook.prune_contract(path, ANSWERS)
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert list(kept["paths"]) == ["/tea"]
    assert list(kept["components"]["schemas"]) == ["Product", "Shared"]
    hook.prune_contract(path, ANSWERS | {"sample": "no"})
    assert json.loads(path.read_text(encoding="utf-8"))["paths"] == {}


def test_a_database_and_a_broker_get_secrets_that_git_ignores(bake: Bake) -> None:
    service = bake(database="postgresql", messaging="rabbitmq")
    values = {(service / name).read_text() for name in hook.SECRETS}
    assert (len(values), {len(value) for value in values}) == (4, {48})
    assert hook.git(service, "status", "--porcelain", "--untracked-files=all", ".secrets") == ""
    assert (service / ".secrets").stat().st_mode & 0o077 == 0


def test_what_containers_mount_is_readable_whatever_the_umask(
    template: Path, user_config: Path, tmp_path: Path
) -> None:
    private = shutil.copytree(template, tmp_path / "template")
    for path in private.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
    before = os.umask(0o077)
    try:
        service = bake_with(
            private, tmp_path, user_config, database="postgresql", messaging="rabbitmq"
        )
    finally:
        os.umask(before)
    unreadable = [name for name in hook.MOUNTED if not (service / name).stat().st_mode & 0o004]
    assert unreadable == []
    assert (service / ".secrets").stat().st_mode & 0o077 == 0


def test_secrets_that_are_there_stay(tmp_path: Path) -> None:
    write(tmp_path, *hook.SECRETS, text="mine")
    hook.write_secrets(tmp_path, ANSWERS | {"database": "postgresql"})
    assert {(tmp_path / name).read_text() for name in hook.SECRETS} == {"mine"}


@pytest.mark.parametrize(
    ("answers", "command", "path"),
    [
        ({}, "docker run --rm -d -p 5000:5000 orders", "v1/products/tea"),
        (
            {"database": "postgresql", "sample": "no"},
            "docker compose up --no-build --detach --wait",
            "livez",
        ),
    ],
    ids=str,
)
def test_the_next_three_commands_are_printed(
    tmp_path: Path,
    template: Path,
    user_config: Path,
    capfd: pytest.CaptureFixture[str],
    answers: dict[str, str],
    command: str,
    path: str,
) -> None:
    bake_with(template, tmp_path, user_config, service_slug="orders", **answers)
    assert [line for line in capfd.readouterr().out.splitlines() if line.startswith("  ")] == [
        "  cd orders && docker build -t orders .",
        f"  {command}",
        f"  curl --retry 20 --retry-delay 1 --retry-all-errors localhost:5000/{path}",
    ]


def test_the_first_commit_is_asked_for_and_takes_all(
    tmp_path: Path, template: Path, user_config: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    service = bake_with(template, tmp_path, user_config, database="postgresql")
    assert ": git add --all && git commit; cruft update needs it.\n" in capfd.readouterr().out
    assert hook.git(service, "rev-parse", "--verify", "--quiet", "HEAD") is None
    commit(service)
    assert hook.git(service, "status", "--porcelain") == ""


def test_a_bake_leaves_nothing_in_the_temporary_folder(
    tmp_path: Path, template: Path, user_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (temporary := tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    bake_with(template, tmp_path, user_config)
    assert list(temporary.iterdir()) == []


def test_a_stray_module_in_the_temporary_folder_is_not_imported(
    tmp_path: Path, template: Path, user_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "json.py", text="raise SystemExit('imported')")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert bake_with(template, tmp_path, user_config).is_dir()


def test_a_template_that_bakes_a_broken_file_leaves_no_folder(
    tmp_path: Path, template: Path, user_config: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = Path(shutil.copytree(template, tmp_path / "template"))
    write(broken, f"{FOLDER}/src/service/extra.py", text="def f(:\n")
    with pytest.raises(Exception, match="Hook script failed"):
        bake_with(broken, tmp_path / "out", user_config)
    assert "src/service/extra.py:1: " in capfd.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_the_hook_is_ascii_for_consoles_that_know_no_more() -> None:
    assert HOOK.read_bytes().isascii()


def test_the_hook_imports_the_standard_library_alone() -> None:
    nodes = list(ast.walk(ast.parse(HOOK.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} < sys.stdlib_module_names


def test_the_hook_runs_on_a_console_without_unicode(
    tmp_path: Path, template: Path, user_config: Path
) -> None:
    options = ("--no-input", "--config-file", str(user_config))
    answers = ("owner=Équipe 🚀", "service_slug=orders")
    command = (sys.executable, "-m", "cookiecutter", *options, str(template), *answers)
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    subprocess.run(command, check=True, cwd=tmp_path, env=environment, capture_output=True)
    assert "Équipe 🚀" in (tmp_path / "orders" / "LICENSE").read_text(encoding="utf-8")
