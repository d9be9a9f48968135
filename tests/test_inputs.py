"""Every answer comes out right in every file, or is refused before any folder exists."""

import datetime
import json
import os
import pty
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from click.testing import Result
from cookiecutter.cli import main as cookiecutter_command
from cookiecutter.exceptions import FailedHookException
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

import template_extension as extension
from hooks.post_gen_project import CACHES
from tests.conftest import CHOICES
from tests.conftest import FOLDER
from tests.conftest import QUESTIONS
from tests.conftest import ROOT
from tests.conftest import Bake
from tests.conftest import bake_with

TEXTS = ("service_name", "description", "owner")
GOOD_TEXTS = {
    "an apostrophe": "O'Brien",
    "double quotes": 'The "best" one',
    "triple quotes": "'''a\"\"\"",
    "backslashes": "a\\b path\\",
    "an escape sequence": "\\n \\u0041 \\x",
    "YAML": "x: y # z",
    "YAML indicators": "- &a *b !c %d @e `f`",
    "a YAML boolean": "no",
    "a number": "0x1F",
    "TOML": "a = [1, 2] # x",
    "shell": "$HOME $(touch x) `touch x` ; rm -rf x | & > <",
    "closing braces": "}} %} #} ${{ github.token }"[:8],
    "a workflow expression": "$ { { secrets.X } }",
    "HTML": "<script>alert(1)</script> &amp;",
    "Markdown": "*a* _b_ [c](d) # e ~f~ |g|",
    "a heading": "# not a heading",
    "a list": "1. first",
    "emoji": "Rockets 🚀👩‍💻🇫🇮",
    "accents": "Íñigo Núñez",
    "Chinese": "微服务",
    "right to left": "שירות הזמנות",
    "Persian with a joiner": "می‌خواهم",
    "a combining mark": "e\u0301",
    "an odd space": "a\u00a0b\u3000c",
    "120 characters": "x" * 120,
}
BAD_TEXTS = {
    "empty": ("", "at least one character"),
    "blank": ("  ", "at least one character"),
    "space around": (" x ", "space around"),
    "121 characters": ("x" * 121, "at most 120"),
    "a newline": ("a\nb", "U+000A"),
    "a carriage return": ("a\rb", "U+000D"),
    "a tab": ("a\tb", "U+0009"),
    "a NUL": ("a\0b", "U+0000"),
    "an escape": ("a\x1b[31mb", "U+001B"),
    "DEL": ("a\x7fb", "U+007F"),
    "a C1 control": ("a\x85b", "U+0085"),
    "a line separator": ("a\u2028b", "U+2028"),
    "a direction override": ("a\u202eb", "U+202E"),
    "a byte order mark": ("a\ufeffb", "U+FEFF"),
    "a lone surrogate": ("a\ud800b", "U+D800"),
    "a private character": ("a\ue000b", "U+E000"),
    "an unassigned character": ("a\U000e0fffb", "U+E0FFF"),
    "an expression": ("{{ 7 * 7 }}", "template syntax"),
    "a block": ("{% raw %}", "template syntax"),
    "a comment": ("{# x #}", "template syntax"),
    "a workflow expression": ("${{ secrets.X }}", "template syntax"),
}
BAD_SLUGS = {
    "empty": "",
    "a space": "my app",
    "upper case": "MyApp",
    "an underscore": "my_app",
    "a dot": "my.app",
    "a digit first": "1app",
    "a dash first": "-app",
    "a dash last": "app-",
    "two dashes": "my--app",
    "a parent folder": "../evil",
    "an absolute path": "/tmp/evil",
    "a nested path": "a/b",
    "a Windows path": "a\\b",
    "this folder": ".",
    "no Latin letter": "日本",
    "an accent": "café",
    "a newline last": "app\n",
    "41 characters": "a" * 41,
    "a dependency": "flask",
    "a development dependency": "pytest",
    "a dependency with a dash": "prometheus-client",
    "a device": "con",
    "a numbered device": "lpt1",
    "a folder of the template": "tests",
    "this host": "localhost",
    "shell": "a;b",
    "an expression": "{{ 7 * 7 }}",
}
PAYLOADS = {
    "an expression": "{{ cycler.__init__.__globals__.os.popen('touch MARK').read() }}",
    "an expression on the answers": (
        "{{ cookiecutter.__init__.__globals__['__builtins__']['open']('MARK', 'w') }}"
    ),
    "a block": "# {% include 'x' %}",
    "Python in double quotes": "\" + str(__import__('pathlib').Path('MARK').touch()) + \"",
    "Python in single quotes": "' + str(__import__('pathlib').Path('MARK').touch()) + '",
    "Python in triple quotes": '"""); __import__("pathlib").Path("MARK").touch(); ("""',
    "shell": "$(touch MARK) `touch MARK`; touch MARK",
}


def cookiecutter(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cookiecutter", *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


def lines(result: Result) -> list[str]:
    return result.output.strip().splitlines()


def parses(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path.suffix in (".yml", ".yaml"):
        yaml.safe_load(text)
    elif path.suffix == ".toml":
        tomllib.loads(text)
    elif path.suffix == ".json":
        json.loads(text)
    elif path.suffix == ".py":
        compile(text, path, "exec")


def shown(markdown: str) -> str:
    """Return the text that a reader of the first heading or paragraph sees."""
    inline = next(
        token for token in MarkdownIt("commonmark").parse(markdown) if token.type == "inline"
    )
    assert {child.type for child in inline.children or ()} <= {"text", "text_special"}
    return "".join(child.content for child in inline.children or ())


@pytest.fixture
def run(template: Path, user_config: Path, tmp_path: Path) -> Callable[..., Result]:
    """Return `run(*arguments)`: cookiecutter without a keyboard, which bakes into tmp_path/out."""
    (tmp_path / "out").mkdir()

    def run(*arguments: str, config: Path = user_config) -> Result:
        options = ["--config-file", str(config), "--output-dir", str(tmp_path / "out")]
        command = [*options, str(template), *arguments]
        return CliRunner().invoke(cookiecutter_command, command)

    return run


@pytest.mark.parametrize("text", GOOD_TEXTS.values(), ids=GOOD_TEXTS)
def test_a_good_text_comes_out_right_in_every_file(bake: Bake, text: str) -> None:
    service = bake(
        service_name=text, description=text, owner=text, service_slug="orders", ci="gitlab"
    )
    for path in service.rglob("*"):
        if path.is_file() and ".git" not in path.parts:
            parses(path)
    manifest = tomllib.loads((service / "pyproject.toml").read_text(encoding="utf-8"))
    project = manifest["project"]
    assert (project["description"], project["authors"]) == (text, [{"name": text}])
    assert manifest["tool"]["service"]["title"] == text
    year = datetime.datetime.now(datetime.UTC).year
    licence = (service / "LICENSE").read_text(encoding="utf-8")
    assert f"Copyright (c) {year} {text}\n" in licence


@pytest.mark.parametrize("text", GOOD_TEXTS.values(), ids=GOOD_TEXTS)
def test_a_good_text_is_what_the_contract_and_the_readme_show(bake: Bake, text: str) -> None:
    service = bake(
        service_name=text, description=text, owner=text, service_slug="orders", ci="gitlab"
    )
    info = json.loads((service / "openapi.json").read_text(encoding="utf-8"))["info"]
    assert (info["title"], info["description"]) == (text, text)
    assert shown((service / "README.md").read_text(encoding="utf-8")) == text


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize(("text", "remedy"), BAD_TEXTS.values(), ids=BAD_TEXTS)
def test_a_bad_text_is_refused_in_one_line_of_ascii(name: str, text: str, remedy: str) -> None:
    fault = extension.complaint(name, text)
    assert fault is not None
    assert fault.startswith(f"{name} ")
    assert remedy in fault
    assert fault.isascii()
    assert fault.isprintable()


@pytest.mark.parametrize("slug", BAD_SLUGS.values(), ids=BAD_SLUGS)
def test_a_bad_slug_is_refused_before_any_folder_exists(
    template: Path, user_config: Path, tmp_path: Path, slug: str
) -> None:
    with pytest.raises(FailedHookException, match=r"^service_slug .*: .*\.$"):
        bake_with(template, tmp_path / "out" / "deep", user_config, service_slug=slug)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("slug", ["a", "a1", "order-service", "a" * 40, "x-1-y"])
def test_a_good_slug_is_accepted(slug: str) -> None:
    assert extension.complaint("service_slug", slug) is None


@pytest.mark.parametrize("name", ["Órdenes de Compra", "Order Service", "微服务", "A" * 60])
def test_the_slug_that_is_offered_for_a_name_is_good(bake: Bake, name: str) -> None:
    assert extension.SLUG.fullmatch(bake(service_name=name).name)


def test_every_direct_dependency_is_a_reserved_name() -> None:
    manifest = (ROOT / FOLDER / "pyproject.toml").read_text(encoding="utf-8")
    document = tomllib.loads(manifest)
    wanted = document["project"]["dependencies"] + document["dependency-groups"]["dev"]
    names = {requirement.partition(">")[0].partition("[")[0] for requirement in wanted}
    assert names <= extension.DEPENDENCIES


def test_a_bad_answer_on_the_command_line_is_one_line(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    result = run("--no-input", "owner=a\tb")
    assert (result.exit_code, lines(result)) == (
        1,
        ['owner "a\\tb": leave out the invisible character U+0009.'],
    )
    assert list((tmp_path / "out").iterdir()) == []


def test_a_misspelt_question_on_the_command_line_is_one_line(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    result = run("--no-input", "licence=MIT")
    assert (result.exit_code, len(lines(result))) == (1, 1)
    (line,) = lines(result)
    assert line.startswith("licence: there is no such question; there are service_name, ")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_wrong_choice_on_the_command_line_makes_no_folder(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    result = run("--no-input", "ci=circle")
    refusal = str(result.exception)
    assert refusal.startswith("circle provided for choice variable ci, but the choices are")
    assert list((tmp_path / "out").iterdir()) == []


CONFLICT = 'messaging "rabbitmq": it needs database=postgresql; choose that, or messaging=none.'


def test_an_answer_that_stands_on_another_is_refused_in_one_line(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    result = run("--no-input", "messaging=rabbitmq")
    assert (result.exit_code, lines(result)) == (1, [CONFLICT])
    assert list((tmp_path / "out").iterdir()) == []
    assert run("--no-input", "messaging=rabbitmq", "database=postgresql").exit_code == 0


def test_a_wrong_choice_in_the_users_configuration_is_refused(
    template: Path, tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("default_context: {ci: circle, license: Proprietary}\n", encoding="utf-8")
    result = cookiecutter("--no-input", "--config-file", config, template, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stdout.strip() == (
        'ci "circle": choose one of github, gitlab, none in your cookiecutter configuration,'
        " or add --default-config or ci=... license=..."
    )
    assert list(tmp_path.iterdir()) == [config]


# As the configurations that people have for other templates.
FOREIGN = {
    "another licence": ({"license": "BSD-3-Clause"}, ["license=MIT"]),
    "a licence's title": (
        {"full_name": "A", "license": "MIT license", "year": 2020},
        ["license=MIT"],
    ),
    "a number": ({"python_version": 3.12}, ["python_version=3.12"]),
    "answers after it": (
        {"license": "BSD", "owner": "Team A", "python_version": "3.13"},
        ["license=MIT", "owner=Team A", "python_version=3.13"],
    ),
}


def configuration(folder: Path, answers: dict[str, object]) -> Path:
    """Write a user's configuration with these answers, which keeps its files in `folder`."""
    folders = {"replay_dir": str(folder / "replay"), "cookiecutters_dir": str(folder / "clones")}
    path = folder / "config.yaml"
    path.write_text(json.dumps({"default_context": answers, **folders}), encoding="utf-8")
    return path


@pytest.mark.parametrize(("answers", "given"), FOREIGN.values(), ids=FOREIGN)
@pytest.mark.filterwarnings("ignore:Invalid default received")
def test_a_foreign_configuration_is_answered_on_the_command_line(
    run: Callable[..., Result], tmp_path: Path, answers: dict[str, object], given: list[str]
) -> None:
    config = configuration(tmp_path, answers)
    refused = run("--no-input", *given[:-1], config=config)
    assert (refused.exit_code, len(lines(refused))) == (1, 1)
    assert lines(refused)[0].endswith(f" {given[-1].partition('=')[0]}=...")
    assert list((tmp_path / "out").iterdir()) == []
    assert run("--no-input", *given, config=config).exit_code == 0


@pytest.mark.filterwarnings("ignore:Invalid default received")
def test_a_number_in_the_configuration_is_to_be_quoted(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    refused = run("--no-input", config=configuration(tmp_path, {"python_version": 3.12}))
    assert lines(refused)[0].startswith("python_version 3.12: write it in quotes in your ")


def test_good_defaults_of_the_users_configuration_are_used(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        f"replay_dir: {tmp_path}\ndefault_context: {{ci: none, other: x}}\n", encoding="utf-8"
    )
    assert run("--no-input", config=config).exit_code == 0
    assert not (tmp_path / "out" / "flask-microservice" / ".github").exists()


@pytest.mark.parametrize(
    "answers",
    [
        {"service_slug": "../evil"},
        {"owner": "a\nb"},
        {"ci": "circle"},
        {"license": None},
        {"owner": 7},
        {"messaging": "rabbitmq"},
    ],
)
def test_a_bad_answer_in_a_replay_file_is_one_line(
    run: Callable[..., Result],
    tmp_path: Path,
    template: Path,
    user_config: Path,
    answers: dict[str, object],
) -> None:
    assert run("--no-input").exit_code == 0
    replay = user_config.parent / "replay" / f"{template.name}.json"
    state = json.loads(replay.read_text(encoding="utf-8"))
    state["cookiecutter"] |= {"service_slug": "orders"} | answers
    (tmp_path / "replay.json").write_text(json.dumps(state), encoding="utf-8")
    result = run("--replay-file", str(tmp_path / "replay.json"))
    assert (result.exit_code, len(lines(result))) == (1, 1)
    assert lines(result)[0].startswith(next(iter(answers)))
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted(
        path.name
        for path in [tmp_path / "replay.json", *(tmp_path / "out").rglob("*"), tmp_path / "out"]
    )
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["flask-microservice"]


def test_a_replay_with_good_answers_bakes(
    run: Callable[..., Result], tmp_path: Path, template: Path, user_config: Path
) -> None:
    assert run("--no-input", "service_slug=orders").exit_code == 0
    replay = user_config.parent / "replay" / f"{template.name}.json"
    text = replay.read_text(encoding="utf-8").replace('"orders"', '"orders-again"')
    (tmp_path / "replay.json").write_text(text, encoding="utf-8")
    assert run("--replay-file", str(tmp_path / "replay.json")).exit_code == 0
    assert (tmp_path / "out" / "orders-again" / "pyproject.toml").exists()


def test_bad_answers_are_refused_with_hooks_off_too(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    assert run("--no-input", "--accept-hooks", "no", "service_slug=../evil").exit_code == 1
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_no_code_given_as_an_answer_runs(
    template: Path, user_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, payload: str
) -> None:
    mark = tmp_path / "touched"
    (out := tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    text = payload.replace("MARK", mark.name)
    for name in (*TEXTS, "service_slug"):
        try:
            bake_with(template, out / name, user_config, **{"service_slug": "orders", name: text})
        except FailedHookException as refusal:
            # Either way is right, as long as nothing ran.
            assert str(refusal).startswith(name)  # noqa: PT017 baking may also pass
    assert list(tmp_path.rglob(mark.name)) == []


def type_answers(typed: list[str], *arguments: str | Path, cwd: Path) -> str:
    """Answer cookiecutter's questions at a terminal; return what it prints."""
    keyboard, screen = pty.openpty()
    command = (sys.executable, "-m", "cookiecutter", *map(str, arguments))
    process = subprocess.Popen(
        command, cwd=cwd, stdin=screen, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    os.close(screen)
    os.write(keyboard, "".join(f"{line}\n" for line in typed).encode())
    output = process.communicate(timeout=60)[0].decode()
    os.close(keyboard)
    assert process.returncode == 0, output
    return output


def test_a_person_is_asked_what_a_foreign_configuration_does_not_answer(
    template: Path, tmp_path: Path
) -> None:
    config = configuration(tmp_path, {"license": "MIT license", "owner": "Team A"})
    typed = ["", "orders", "", "Team B", "", "", "", "", "", "", "2"]
    output = type_answers(typed, "--config-file", config, template, cwd=tmp_path)
    assert 'license "MIT license": choose one of MIT, ' in output
    licence = (tmp_path / "orders" / "LICENSE").read_text(encoding="utf-8")
    assert ("Apache License" in licence, "Team B" in licence) == (True, True)


def test_what_is_typed_at_the_prompt_is_asked_again_until_it_is_good(
    template: Path, user_config: Path, tmp_path: Path
) -> None:
    typed = [
        "a\x01b",
        "Order Service",
        "Bad Slug",
        "flask",
        "orders-api",
        "",
        "",
        "",
        "",
        "2",  # messaging, but there is no database
        "1",
        "",
        "",
        "2",
        "",
    ]
    output = type_answers(typed, "--config-file", user_config, template, cwd=tmp_path)
    assert "(order-service)" in output  # the default follows from the corrected name
    assert CONFLICT in output
    service = tmp_path / "orders-api"
    manifest = tomllib.loads((service / "pyproject.toml").read_text(encoding="utf-8"))
    assert manifest["tool"]["service"]["title"] == "Order Service"
    assert (service / ".gitlab-ci.yml").exists()


def test_what_tools_left_in_the_template_is_not_baked(
    template: Path, user_config: Path, tmp_path: Path
) -> None:
    used = Path(shutil.copytree(template, tmp_path / "template"))
    for name in CACHES:
        (used / FOLDER / name).mkdir()
        (used / FOLDER / name / "data").write_bytes(b"{{ no UTF-8: \xe4 }}")
    service = bake_with(used, tmp_path / "out", user_config)
    assert [name for name in CACHES if (service / name).exists()] == []


def test_an_existing_folder_is_never_touched(run: Callable[..., Result], tmp_path: Path) -> None:
    existing = tmp_path / "out" / "flask-microservice" / "pyproject.toml"
    existing.parent.mkdir()
    existing.write_text("mine", encoding="utf-8")
    result = run("--no-input")
    assert (result.exit_code, len(lines(result))) == (1, 1)
    assert [path.read_text() for path in existing.parent.iterdir()] == ["mine"]


visible = st.characters(exclude_categories=("C", "Zl", "Zp"))
texts = st.text(visible | st.sampled_from(extension.JOINERS), min_size=1, max_size=40)
accepted = texts.map(str.strip).filter(lambda text: not extension.text_fault(text))


@given(accepted)
def test_quoted_text_reads_back_from_toml_yaml_and_json(text: str) -> None:
    inside = extension.quoted(text)
    assert tomllib.loads(f'x = "{inside}"') == {"x": text}
    assert yaml.safe_load(f'x: "{inside}"') == {"x": text}
    assert json.loads(f'"{inside}"') == text


@given(accepted)
def test_quoted_text_is_one_printable_line(text: str) -> None:
    assert extension.quoted(text).isprintable()


@given(accepted)
def test_markdown_shows_the_text_as_typed(text: str) -> None:
    assert shown(f"{extension.markdown(text)}\n") == text
    assert shown(f"# {extension.markdown(text)}\n") == text


@given(st.text(max_size=60))
def test_a_refusal_is_always_one_printable_line(text: str) -> None:
    fault = extension.complaint("service_slug", text)
    assert fault is None or (fault.isascii() and fault.isprintable())


@pytest.mark.slow
@settings(max_examples=20)
@given(name=accepted, description=accepted, owner=accepted)
def test_any_accepted_answers_bake_and_read_back(
    bake: Bake, name: str, description: str, owner: str
) -> None:
    service = bake(service_name=name, description=description, owner=owner, service_slug="orders")
    manifest = tomllib.loads((service / "pyproject.toml").read_text(encoding="utf-8"))
    assert manifest["project"]["description"] == description
    assert manifest["project"]["authors"] == [{"name": owner}]
    assert manifest["tool"]["service"]["title"] == name


def test_there_are_at_most_twelve_questions_and_each_has_a_human_prompt() -> None:
    prompts = extension.SPECIFICATION["__prompts__"]
    assert len(QUESTIONS) <= 12
    assert prompts.keys() == QUESTIONS.keys()
    assert all(
        set(prompts[name]) == {"__prompt__", *CHOICES[name]}
        for name in ("database", "messaging", "ci", "license")
    )
