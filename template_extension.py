"""The template's Jinja extension: its syntax, which answers are accepted, how they are written.

cookiecutter loads it before the first question, so a bad answer ends in one line and no folder.
platform/platform_extension.py runs the same code for the questions beside that file.
"""

import json
import re
import sys
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from typing import ClassVar

import click
from cookiecutter.config import get_user_config
from cookiecutter.exceptions import FailedHookException
from cookiecutter.prompt import read_user_choice
from cookiecutter.prompt import read_user_variable
from jinja2 import Environment
from jinja2 import FileSystemLoader
from jinja2 import Undefined
from jinja2 import pass_context
from jinja2.ext import Extension
from jinja2.runtime import Context

TEMPLATE = Path(__file__).resolve().parent
SPECIFICATION: dict[str, Any] = json.loads((TEMPLATE / "cookiecutter.json").read_text("utf-8"))
QUESTIONS = {name: default for name, default in SPECIFICATION.items() if not name.startswith("_")}

TEXT_LIMIT = 120
SLUG_LIMIT = 40
SLUG = re.compile(r"[a-z](?:-?[a-z0-9])*")
JOINERS = "\u200c\u200d"  # Persian and Indic words and many emoji need them
DEPENDENCIES = {
    "aio-pika",
    "alembic",
    "coverage",
    "flask",
    "flask-swagger-ui",
    "granian",
    "hypothesis",
    "import-linter",
    "mypy",
    "openapi-spec-validator",
    "opentelemetry-api",
    "orjson",
    "prometheus-client",
    "psycopg",
    "pydantic",
    "pydantic-settings",
    "pytest",
    "pytest-xdist",
    "pyyaml",
    "ruff",
    "schemathesis",
    "sqlalchemy",
    "squawk-cli",
    "types-pyyaml",
    "urllib3",
}
# What a choice stands on: (question, choice), (question it needs, choice it needs).
NEEDS = {("messaging", "rabbitmq"): ("database", "postgresql")}
PORTS = {f"{port}{number}" for port in ("com", "lpt") for number in range(10)}
DEVICES = {"aux", "con", "nul", "prn", *PORTS}
TEMPLATE_FOLDERS = {"benchmarks", "docs", "hooks", "platform", "scripts", "templates", "tests"}
RESERVED = DEPENDENCIES | DEVICES | TEMPLATE_FOLDERS | {"common", "gateway", "localhost"}

SLUG_QUESTION = next(name for name in QUESTIONS if name.endswith("_slug"))
OUTER_TEMPLATES = str(TEMPLATE.parent / "templates")
FOLDER = f"{{{{cookiecutter.{SLUG_QUESTION}}}}}"
MARKER = re.compile(r"^(.*\S)[ \t]+# only-if: (.+)$", re.MULTILINE)
NOT_FOR_FILES = re.compile(r"\{\{(?! cookiecutter\.)")
NOT_FOR_HOOKS = re.compile(r"\{\{(?! \w+ \| tojson }})|# \{[%#]")
SYNTAX = re.compile(r"\{\{|# \{[%#]")


def text_fault(value: str) -> str | None:
    """Say what keeps `value` from being a line of text, or None."""
    if not value.strip():
        return "write at least one character"
    if value != value.strip():
        return "remove the space around it"
    if len(value) > TEXT_LIMIT:
        return f"use at most {TEXT_LIMIT} characters"
    if any(tag in value for tag in ("{{", "{%", "{#")):
        return "leave out {{, {% and {#, which are template syntax"
    for character in value:
        category = unicodedata.category(character)
        if (category[0] == "C" and character not in JOINERS) or category in ("Zl", "Zp"):
            return f"leave out the invisible character U+{ord(character):04X}"
    return None


def slug_fault(value: str) -> str | None:
    """Say what keeps `value` from naming a folder, image, host and distribution, or None."""
    if not SLUG.fullmatch(value):
        signs = "lower-case letters, digits and single dashes"
        return f"use {signs}, a letter first, as in order-service"
    if len(value) > SLUG_LIMIT:
        return f"use at most {SLUG_LIMIT} characters"
    if value in RESERVED:
        kind = SLUG_QUESTION.removesuffix("_slug")
        return f"this name is taken by a dependency, a device or a folder; try {value}-{kind}"
    return None


def complaint(name: str, value: object) -> str | None:
    """Return one line with the question, the bad answer and the remedy; None for a good one."""
    default = QUESTIONS[name]
    if isinstance(default, list):
        # YAML reads 3.12 as a number.
        remedy = f"choose one of {', '.join(default)}"
        if str(value) in default:
            remedy = "write it in quotes"
        fault = None if value in default else remedy
    elif not isinstance(value, str):
        fault = "give it as text"
    else:
        fault = slug_fault(value) if name == SLUG_QUESTION else text_fault(value)
    if fault is None:
        return None
    shown = json.dumps(value)
    if len(shown) > TEXT_LIMIT:
        shown = f"{shown[:TEXT_LIMIT]}..."
    return f"{name} {shown}: {fault}."


def conflict(name: str, answers: Mapping[str, Any]) -> str | None:
    """Return one line where an answer stands on another that was not given; None if none does."""
    other, needed = NEEDS.get((name, str(answers.get(name))), ("", ""))
    if not other or answers.get(other) == needed:
        return None
    remedy = f"it needs {other}={needed}; choose that, or {name}={QUESTIONS[name][0]}"
    return f"{name} {json.dumps(answers[name])}: {remedy}."


def command_line() -> Mapping[str, Any]:
    """Return what cookiecutter's command was called with; nothing in a library or under cruft."""
    context = click.get_current_context(silent=True)
    return context.params if context and "replay_file" in context.params else {}


def can_ask() -> bool:
    """Tell whether a person sits at the other end and agreed to be asked."""
    command = command_line()
    silent = not command or any(command[option] for option in ("no_input", "replay", "replay_file"))
    return not silent and sys.stdin.isatty()


def check_command(_: str) -> str:
    """Refuse what cookiecutter lets pass: unknown names, and wrong choices in the configuration.

    At a wrong choice it warns and reads no further. That is no fault where the command line gives
    the answers from there on, or a person is asked for them.
    """
    command = command_line()
    given = command.get("extra_context") or {}
    for name in given:
        if name not in QUESTIONS:
            known = ", ".join(QUESTIONS)
            raise FailedHookException(f"{name}: there is no such question; there are {known}.")
    if not command:
        return ""
    configuration = get_user_config(command["config_file"], command["default_config"])
    fault, unread = unread_answers(configuration["default_context"])
    missing = [name for name in unread if name not in given]
    if missing and can_ask():
        click.echo(f"{fault} Your cookiecutter configuration counts only up to there.")
    elif missing:
        where = "in your cookiecutter configuration"
        instead = " ".join(f"{name}=..." for name in missing)
        raise FailedHookException(f"{fault[:-1]} {where}, or add --default-config or {instead}")
    return ""


def unread_answers(configured: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return the first wrong choice's fault, and the questions that are unread because of it."""
    names = [name for name in configured if name in QUESTIONS]
    for index, name in enumerate(names):
        if isinstance(QUESTIONS[name], list) and (fault := complaint(name, configured[name])):
            return fault, names[index:]
    return "", []


@pass_context
def check(context: Context, value: object, name: str) -> str:
    """Ask again until the answer is good; where nobody can be asked, refuse it."""
    answers = context["cookiecutter"]
    while not isinstance(value, Undefined) and (
        fault := complaint(name, value) or conflict(name, answers)
    ):
        if not can_ask():
            raise FailedHookException(fault)
        click.echo(fault)
        prompts = SPECIFICATION["__prompts__"]
        if isinstance(QUESTIONS[name], list):
            value = read_user_choice(name, QUESTIONS[name], prompts)
        else:
            value = read_user_variable(name, None, prompts)
        answers[name] = value
    return ""


def checked(answers: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the answers if all are good, before the folder is made: a replay has no other look."""
    for name in QUESTIONS:
        if fault := complaint(name, answers.get(name)) or conflict(name, answers):
            raise FailedHookException(fault)
    return answers


def quoted(value: str) -> str:
    r"""Escape an accepted answer for the inside of a TOML basic, YAML or JSON string.

    Only `\`, `"` and what does not print are escaped, never with a surrogate pair, which TOML and
    YAML refuse.
    """
    return "".join(map(_escaped, value))


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    # What does not print and was accepted lies below U+10000.
    return character if character.isprintable() else f"\\u{ord(character):04x}"


def markdown(value: str) -> str:
    """Escape an accepted answer so that Markdown shows it as typed, as a heading or paragraph."""
    inside = re.sub(r"([\\`*_\[\]<>&|~$])", r"\\\1", value)
    return re.sub(r"^(\d{1,9})(?=[.)])|^(?=[#+=-])", r"\1\\", inside)


def qualified(condition: str) -> str:
    """Return an `only-if` condition, which names questions bare, as Jinja reads it."""
    name = rf'("[^"]*")|\b(?=(?:{"|".join(QUESTIONS)})\b)'
    return re.sub(name, lambda match: match[1] or "cookiecutter.", condition)


def _condition(match: re.Match[str]) -> str:
    return f"# {{% if {qualified(match[2])} %}}\n{match[1]}\n# {{% endif %}}"


def _literally(match: re.Match[str]) -> str:
    return f"{{{{ '{match[0]}' }}}}"


class TemplateExtension(Extension):
    """What cookiecutter.json names under `_extensions`."""

    filters: ClassVar = {f.__name__: f for f in (check, check_command, checked, markdown, quoted)}

    def __init__(self, environment: Environment) -> None:
        """Offer the filters, and forget this module: cruft loads two versions in one process."""
        super().__init__(environment)
        sys.modules.pop(__name__, None)
        environment.filters.update(self.filters)
        environment.globals["template_folder"] = str(TEMPLATE)
        hooks = (TEMPLATE / "hooks").glob("*.py")
        self.hooks = {path.read_text(encoding="utf-8") for path in hooks}
        self.defaults = {value for value in SPECIFICATION.values() if isinstance(value, str)}

    def preprocess(
        self,
        source: str,
        name: str | None,
        filename: str | None = None,  # noqa: ARG002 Jinja's signature
    ) -> str:
        """Leave to Jinja the template's own syntax; a string without a name may be an answer."""
        if name is not None:
            self._find_licences()
            return MARKER.sub(_condition, NOT_FOR_FILES.sub(_literally, source))
        if source == FOLDER:
            return f"{{{{ (cookiecutter | checked).{SLUG_QUESTION} }}}}"
        if source in self.hooks:
            return NOT_FOR_HOOKS.sub(_literally, source)
        return source if source in self.defaults else SYNTAX.sub(_literally, source)

    def _find_licences(self) -> None:
        """Let a template in a folder of this one include what lies in the outer templates/."""
        loader = self.environment.loader
        if isinstance(loader, FileSystemLoader) and OUTER_TEMPLATES not in loader.searchpath:
            loader.searchpath.append(OUTER_TEMPLATES)
