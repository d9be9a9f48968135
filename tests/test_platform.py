"""The platform: its questions, what is baked, its own checks, and what both templates agree on."""

import ast
import importlib.util
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from click.testing import Result
from cookiecutter.cli import main as cookiecutter_command
from cookiecutter.exceptions import FailedHookException

import template_extension as extension
from hooks import post_gen_project as hook
from tests.conftest import FOLDER
from tests.conftest import PLATFORM
from tests.conftest import PLATFORM_FOLDER
from tests.conftest import PLATFORM_QUESTIONS
from tests.conftest import ROOT
from tests.conftest import Bake
from tests.conftest import bake_with
from tests.conftest import commit
from tests.conftest import installed
from tests.conftest import known_files
from tests.conftest import make_passes

TEMPLATE = ROOT / PLATFORM
SOURCE = ROOT / PLATFORM_FOLDER
SERVICE = ROOT / FOLDER
CHOICES = {name: value for name, value in PLATFORM_QUESTIONS.items() if isinstance(value, list)}
COMBINATIONS = [
    dict(zip(CHOICES, values, strict=True)) for values in itertools.product(*CHOICES.values())
]
TITLES = {
    "MIT": "MIT License",
    "Apache-2.0": "Apache License",
    "Proprietary": "All rights reserved",
}
ODD_TEXTS = {
    "platform_name": "O'Brien's \"best\" \\ # x: y 🚀",
    "description": "It's *a* <platform> & $more — מערכת",
    "owner": "Équipe `ops` [core]",
    "platform_slug": "a" * 40,
}
PYTHON = [ROOT / name for name in known_files() if re.match(rf"{PLATFORM}/.*\.py$", name)]
RUFF = (sys.executable, "-m", "ruff")


def label(answers: dict[str, str]) -> str:
    return "-".join(answers.values())


def load(path: Path) -> Any:
    """Load a hook or the extension of the platform, which no import finds."""
    specification = importlib.util.spec_from_file_location(f"platforms_{path.stem}", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


HOOK = load(TEMPLATE / "hooks/post_gen_project.py")


@pytest.fixture
def run(template: Path, user_config: Path, tmp_path: Path) -> Callable[..., Result]:
    """Return `run(*arguments)`: cookiecutter's command with `--directory platform`."""
    (tmp_path / "out").mkdir()

    def run(*arguments: str) -> Result:
        options = ["--config-file", str(user_config), "--output-dir", str(tmp_path / "out")]
        where = [str(template), "--directory", PLATFORM]
        return CliRunner().invoke(cookiecutter_command, [*options, *where, *arguments])

    return run


@pytest.mark.parametrize("answers", COMBINATIONS, ids=label)
def test_exactly_the_files_asked_for_are_there_and_parse(
    bake_platform: Bake, answers: dict[str, str]
) -> None:
    platform = bake_platform(**answers)
    baked = {str(path.relative_to(platform)): path for path in hook.files(platform)}
    known = (name for name in known_files() if name.startswith(f"{PLATFORM_FOLDER}/"))
    everything = {name.removeprefix(f"{PLATFORM_FOLDER}/") for name in known}
    unwanted = {
        path
        for path, wanted in HOOK.OPTIONAL.items()
        if any(answers[question] not in wanted[question] for question in wanted)
    }
    assert baked.keys() == everything - unwanted
    for path in baked.values():
        text = path.read_text("utf-8")
        if path.suffix in (".yml", ".yaml"):
            assert yaml.safe_load(text)
        hook.parse(path.suffix, text)
    assert TITLES[answers["license"]] in (platform / "LICENSE").read_text("utf-8")


def test_every_combination_is_clean_for_ruff(bake_platform: Bake) -> None:
    platforms = [bake_platform(**answers) for answers in COMBINATIONS]
    platforms.append(bake_platform(**ODD_TEXTS))
    names = [str(platform) for platform in platforms]
    subprocess.run((*RUFF, "check", "--no-cache", *names), check=True)
    subprocess.run((*RUFF, "format", "--no-cache", "--check", *names), check=True)


def test_the_texts_read_back(bake_platform: Bake) -> None:
    platform = bake_platform(**ODD_TEXTS)
    project = tomllib.loads((platform / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["description"] == ODD_TEXTS["description"]
    assert project["authors"] == [{"name": ODD_TEXTS["owner"]}]
    compose = yaml.safe_load((platform / "compose.yaml").read_text("utf-8"))
    assert (project["name"], compose["name"]) == ("a" * 40, "a" * 40)
    for path in hook.files(platform):
        if path.suffix == ".py":
            assert path.read_bytes() == (SOURCE / path.relative_to(platform)).read_bytes()


def test_the_defaults_need_no_answer(run: Callable[..., Result], tmp_path: Path) -> None:
    assert run("--no-input").exit_code == 0
    assert (tmp_path / "out/shop-platform/compose.yaml").exists()
    for name in ("README.md", "README.es.md"):
        assert "(`shop-platform` " in (ROOT / name).read_text("utf-8")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("platform_slug=../evil", 'platform_slug "../evil": use lower-case letters'),
        ("platform_slug=gateway", "try gateway-platform."),
        ("owner=a\tb", 'owner "a\\tb": leave out the invisible character U+0009.'),
        ("service_slug=x", "service_slug: there is no such question; there are platform_name, "),
    ],
)
def test_a_bad_answer_is_one_line_and_makes_no_folder(
    run: Callable[..., Result], tmp_path: Path, answer: str, told: str
) -> None:
    result = run("--no-input", answer)
    (line,) = result.output.strip().splitlines()
    assert result.exit_code == 1
    assert told in line
    assert list((tmp_path / "out").iterdir()) == []


def test_no_code_given_as_an_answer_runs(
    template: Path, user_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    payload = "{{ cycler.__init__.__globals__.os.popen('touch touched').read() }}"
    for name in ("platform_name", "description", "owner", "platform_slug"):
        with pytest.raises(FailedHookException, match=f"^{name} "):
            bake_with(template / PLATFORM, tmp_path / "out", user_config, **{name: payload})
    assert list(tmp_path.rglob("touched")) == []


def test_every_question_has_a_human_prompt_and_its_default_first() -> None:
    specification = json.loads((TEMPLATE / "cookiecutter.json").read_text("utf-8"))
    prompts = specification["__prompts__"]
    assert prompts.keys() == PLATFORM_QUESTIONS.keys()
    assert all(set(prompts[name]) == {"__prompt__", *CHOICES[name]} for name in CHOICES)
    assert [choices[0] for choices in CHOICES.values()] == ["github", "MIT"]


def test_a_platform_is_a_git_repository_with_the_next_commands(
    template: Path, user_config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    platform = bake_with(template / PLATFORM, tmp_path, user_config)
    assert hook.git(platform, "rev-parse", "--show-prefix") == ""
    told = capfd.readouterr().out
    assert "  cd shop-platform && make up\n  curl localhost:8080/\n" in told
    commit(platform)
    assert hook.git(platform, "status", "--porcelain") == ""


def test_a_template_that_bakes_a_broken_file_leaves_no_folder(
    tmp_path: Path, template: Path, user_config: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = Path(shutil.copytree(template, tmp_path / "template"))
    (broken / PLATFORM_FOLDER / "src/fleet/broken.py").write_text("def f(:\n", "utf-8")
    with pytest.raises(Exception, match="Hook script failed"):
        bake_with(broken / PLATFORM, tmp_path / "out", user_config)
    assert "src/fleet/broken.py:1: " in capfd.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow
def test_an_update_brings_the_newest_platform_and_keeps_edits(
    template: Path, user_config: Path, tmp_path: Path
) -> None:
    clone = commit(Path(shutil.copytree(template, tmp_path / "clone")))
    platform = bake_with(clone / PLATFORM, tmp_path, user_config)
    state = json.loads((platform / ".cruft.json").read_text("utf-8"))
    assert (state["template"], state["directory"]) == (str(clone), PLATFORM)
    settings = platform / "gateway/settings.yaml"
    edited = settings.read_text("utf-8").replace("burst: 400", "burst: 500")
    settings.write_text(edited, "utf-8")
    commit(platform)
    with (clone / PLATFORM_FOLDER / "Makefile").open("a", encoding="utf-8") as file:
        file.write("\n# newer\n")
    commit(clone)
    cruft = str(Path(sys.executable).with_name("cruft"))
    command = (cruft, "update", "--skip-apply-ask", "--checkout", "main")
    subprocess.run(command, cwd=platform, check=True, stdin=subprocess.DEVNULL)
    assert (platform / "Makefile").read_text("utf-8").endswith("# newer\n")
    assert settings.read_text("utf-8") == edited


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: path.name)
def test_python_holds_no_template_syntax_and_parses_everywhere(path: Path) -> None:
    text = path.read_text("utf-8")
    if path.is_relative_to(SOURCE):
        assert "{%" not in text
        assert "{{ cookiecutter" not in text
    ast.parse(text, feature_version=(3, 10))


def test_the_hook_is_ascii_and_imports_the_standard_library_alone() -> None:
    path = TEMPLATE / "hooks/post_gen_project.py"
    assert path.read_bytes().isascii()
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} < sys.stdlib_module_names


def test_no_folder_of_the_template_hides_a_module_of_the_standard_library() -> None:
    assert not (TEMPLATE / "__init__.py").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    ["ruff check --no-cache .", "ruff format --no-cache --check .", "mypy", "pytest -q"],
)
def test_the_platform_passes_its_checks_un_rendered(
    template: Path, service_python: Path, tmp_path: Path, command: str
) -> None:
    copy = shutil.copytree(template / PLATFORM_FOLDER, tmp_path / "platform")
    environment = os.environ | {"PYTHONPATH": "src"}
    words = (str(service_python), "-m", *command.split())
    subprocess.run(words, check=True, cwd=copy, env=environment)


@pytest.mark.slow
def test_a_baked_platform_passes_make_check(
    bake_platform: Bake, service_python: Path, tmp_path: Path
) -> None:
    make_passes(installed(bake_platform(**ODD_TEXTS), service_python, tmp_path), "check")


def constant(path: str, name: str) -> Any:
    """Return a constant that a module of either project sets."""
    for node in ast.parse((ROOT / path).read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    raise AssertionError(f"{path} has no {name}")


def read(name: str) -> Any:
    return yaml.safe_load((SOURCE / name).read_text("utf-8"))


ENTRY = read("gateway/entry.yaml")
CLUSTER = read("gateway/cluster.yaml")
GRANIAN = f"{FOLDER}/src/service/chassis/server/granian.py"


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def test_the_gateway_hides_what_a_service_serves_for_the_network() -> None:
    source = (SERVICE / "src/service/chassis/http/probes.py").read_text("utf-8")
    served = set(re.findall(r'"(/[a-z]+)"', source))
    assert set(constant(f"{PLATFORM_FOLDER}/src/fleet/routes.py", "HIDDEN")) == served
    (check,) = CLUSTER["health_checks"]
    assert check["http_health_check"]["path"] in served


def test_what_the_gateway_passes_on_fits_into_a_service() -> None:
    # The gateway adds some headers of its own.
    options = ENTRY["common_http_protocol_options"]
    assert options["max_headers_count"] <= 100 - 20
    assert ENTRY["max_request_headers_kb"] * 1024 <= constant(GRANIAN, "MAX_HEAD") - 4096
    (threshold,) = CLUSTER["circuit_breakers"]["thresholds"]
    assert threshold["max_connections"] < constant(GRANIAN, "MAX_CONNECTIONS")
    server = f"{FOLDER}/src/service/chassis/server/settings.py"
    assert read("gateway/settings.yaml")["max_request_bytes"] >= constant(server, "MAX_BODY_SIZE")


def test_the_gateway_closes_idle_connections_before_a_service_does() -> None:
    (options,) = CLUSTER["typed_extension_protocol_options"].values()
    idle = seconds(options["common_http_protocol_options"]["idle_timeout"])
    assert idle < constant(GRANIAN, "KEEP_ALIVE") / 1000


def test_a_replica_that_drains_is_noticed_before_it_stops() -> None:
    source = (SERVICE / "src/service/chassis/server/settings.py").read_text("utf-8")
    delay = re.search(r"drain_delay: float = Field\((\d+)", source)
    assert delay
    (check,) = CLUSTER["health_checks"]
    assert seconds(check["interval"]) < float(delay[1])
    assert seconds(check["no_traffic_interval"]) < float(delay[1])


def test_the_platform_counts_the_time_to_stop_as_services_do() -> None:
    module = f"{PLATFORM_FOLDER}/src/fleet/configuration.py"
    drain, grace = constant(module, "STOPPING")
    counted = f"`{drain}` + `{grace}` + {constant(module, 'ENDING')} seconds before a kill"
    assert counted in (SERVICE / "README.md").read_text("utf-8")


def test_both_templates_know_the_same_names() -> None:
    pattern = constant(f"{PLATFORM_FOLDER}/src/fleet/routes.py", "SLUG")
    assert pattern == extension.SLUG.pattern
    shared = constant(f"{PLATFORM_FOLDER}/src/fleet/configuration.py", "COMMON")
    taken = {*read("compose.yaml")["services"], Path(shared).stem}
    assert taken <= extension.RESERVED


def revision(service: Path) -> str:
    """Return the revision with which `make image` would label the image."""
    command = ("make", "--dry-run", "image")
    told = subprocess.run(command, cwd=service, check=True, capture_output=True, text=True).stdout
    (found,) = re.findall(r"REVISION=(\S+)", told)
    return str(found)


def test_an_image_is_labelled_dirty_where_it_holds_more_than_its_commit(
    bake: Bake, tmp_path: Path
) -> None:
    repository = tmp_path / "all services"
    without_git = shutil.ignore_patterns(".git")
    service = Path(shutil.copytree(bake(), repository / "orders", ignore=without_git))
    assert revision(service) == "unknown"
    hook.git(repository, "init")
    assert revision(service) == "unknown"  # there is no commit yet
    commit(repository)
    committed = hook.git(repository, "rev-parse", "HEAD")
    (repository / "another.py").touch()
    (service / ".env").touch()  # git ignores it
    assert revision(service) == committed
    (service / "src/service/new.py").touch()
    assert revision(service) == f"{committed}-dirty"
    (service / "src/service/new.py").unlink()
    with (service / "src/service/app.py").open("a", encoding="utf-8") as file:
        file.write("# edited\n")
    assert revision(service) == f"{committed}-dirty"


def test_both_makefiles_make_the_environment_alike() -> None:
    texts = [(folder / "Makefile").read_text("utf-8") for folder in (SOURCE, SERVICE)]
    of_platform, of_service = (text.partition("# One stamp ")[2].split("\n\n") for text in texts)
    assert len(of_platform) >= 5
    assert [rule for rule in of_platform if rule not in of_service] == []


def test_problems_have_the_titles_that_services_use() -> None:
    titles = constant(f"{PLATFORM_FOLDER}/src/fleet/entry.py", "TITLES")
    code = "import json; from werkzeug.http import HTTP_STATUS_CODES as c; print(json.dumps(c))"
    python = str(ROOT / "build/service/bin/python")
    told = subprocess.run((python, "-c", code), check=True, capture_output=True, text=True).stdout
    known = {int(status): title for status, title in json.loads(told).items()}
    assert titles == {status: known[status] for status in titles}


def test_a_services_route_is_one_that_the_gateway_understands(bake: Bake) -> None:
    route = (bake(service_slug="orders") / "deploy/gateway/route.yaml").read_text("utf-8")
    code = (
        "import sys; from fleet.routes import parse_routes; "
        "print(*parse_routes(sys.stdin.read(), 'routes/orders.yaml'))"
    )
    environment = os.environ | {"PYTHONPATH": str(SOURCE / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = (sys.executable, "-c", code)
    done = subprocess.run(command, input=route, env=environment, capture_output=True, text=True)
    assert "service='orders', port=5000, path='/orders', is_prefix=True" in done.stdout, done.stderr
