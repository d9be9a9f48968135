"""The files of this service in which another one's address stands, and how it gets there."""

import ast
import re
from pathlib import Path

from contracts.flatten import UnreadableError

SETTINGS = Path("src/service/settings.py")
README = Path("README.md")
# What runs the service, each with the variables that it hands on.
COMPOSE = (
    Path("compose.yaml"),
    Path("compose.messaging.yaml"),  # only-if: messaging == "rabbitmq"
    Path("compose.swarm.yaml"),
)
PORT = 5000  # of every service
IMPORTS = {
    "HttpUrl": "from pydantic import HttpUrl\n",
    "CalleeUrl": "from service.chassis.client.settings import CalleeUrl\n",
    "CalleeToken": "from service.chassis.client.settings import CalleeToken\n",
}
TABLE = re.compile(r"(<!-- settings.*-->\n)((?:.*\n)*?)(<!-- /settings -->)")
ENVIRONMENT = re.compile(r"^( +)environment:\n(?=\1  - )((?:\1  .*\n)+)", re.MULTILINE)


def with_url(text: str, name: str, module: str) -> str:
    """Return settings.py with the address of a service."""
    default = f'HttpUrl("http://{name}:{PORT}")'
    return _with_field(text, f"{module}_url", f"CalleeUrl = {default}", _url(name))


def with_token(text: str, name: str, module: str) -> str:
    """Return settings.py with the token for a service."""
    return _with_field(text, f"{module}_token", "CalleeToken = None", _token(name))


def _url(name: str) -> str:
    return f"Base URL of the service `{name}`"


def _token(name: str) -> str:
    return f"Bearer token for `{name}`"


def _with_field(text: str, field: str, declared: str, meaning: str) -> str:
    """Add a field at the end of the class, and what it needs, as far as they are not there."""
    if re.search(rf"^ +{field}\b", text, re.MULTILINE):
        return text
    classes = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    own = next((node for node in classes if node.name == "Settings"), None)
    if own is None:
        raise UnreadableError(f"{SETTINGS} has no class Settings")
    lines = [f"{line}\n" for line in text.splitlines()]
    end = own.end_lineno or len(lines)
    lines.insert(end, f'\n    {field}: {declared}\n    """{meaning}"""\n')
    first = next(number for number, line in enumerate(lines) if line.startswith("from service."))
    for word, line in IMPORTS.items():
        if word in declared and not re.search(rf"import .*\b{word}\b", text):
            lines.insert(first, line)
    return "".join(lines)


def with_rows(text: str, name: str, module: str, needs_token: bool) -> str:
    """Return the README with the rows of its table of settings."""
    variable = module.upper()
    found = _with_row(text, f"{variable}_URL", f"`http://{name}:{PORT}/`", _url(name))
    return _with_row(found, f"{variable}_TOKEN", "", _token(name)) if needs_token else found


def _with_row(text: str, variable: str, default: str, meaning: str) -> str:
    """Add a row before those of OpenTelemetry, where the class's own fields stand."""
    table = TABLE.search(text)
    if table is None or f"| `{variable}` |" in table[2]:
        return text
    rows = table[2].splitlines(keepends=True)
    before = (number for number, line in enumerate(rows) if line.startswith("| `OTEL_"))
    rows.insert(next(before, len(rows)), f"| `{variable}` | {default} | {meaning} |\n")
    return f"{text[: table.start(2)]}{''.join(rows)}{text[table.end(2) :]}"


def with_variables(text: str, *variables: str) -> str:
    """Return a file of compose's with variables that it hands on."""

    def put(block: re.Match[str]) -> str:
        missing = [one for one in variables if not re.search(rf"^ +- {one}\b", block[2], re.M)]
        lines = "".join(f"{block[1]}  - {one}\n" for one in missing)
        return block[0].removesuffix(block[2]) + lines + block[2]

    return ENVIRONMENT.sub(put, text)
