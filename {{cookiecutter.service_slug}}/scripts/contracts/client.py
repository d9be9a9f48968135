"""`make client OF=../invoices`: write the calls of another service, or renew them.

With --check, write nothing: tell what in its newest contract breaks what this service calls.
"""

import hashlib
import json
import keyword
import os
import subprocess
import sys
from pathlib import Path

import yaml

from contracts import project
from contracts.calls import Contract
from contracts.calls import read_contract
from contracts.flatten import Json, UnreadableError
from contracts.operations import breaking_changes
from contracts.schemas import Fault
from contracts.sources import Source
from contracts.sources import read_source
from contracts.usage import called_operations
from contracts.writing import MARK
from contracts.writing import write_module

ROOT = Path(__file__).parents[2]
SOURCE = Path("src/service")
CLIENTS = SOURCE / "clients"
PACKAGE = '"""Other services, one module each."""\n'
Files = dict[Path, str]


class Callee:
    """Another service: its contract, and where its files are here."""

    def __init__(self, source: Source) -> None:
        self.name = source.name
        self.module = source.name.replace("-", "_")
        self.document = source.document
        self.copy = Path("contracts", f"{source.name}.json")
        self.path = CLIENTS / f"{self.module}.py"

    def check_name(self) -> None:
        """Raise UnreadableError where it cannot be called here by its name."""
        manifest = yaml.safe_load((ROOT / "service.yaml").read_text("utf-8"))
        if self.name == manifest["name"]:
            raise UnreadableError(f"{self.name} is this service itself")
        if keyword.iskeyword(self.module) or self.module == "call":
            raise UnreadableError(f"{self.name} is no name for a module: add AS=another-name")
        known = read(project.README), read(project.SETTINGS)
        is_setting = f"| `{self.module.upper()}_URL` |" in known[0]
        if is_setting and f" {self.module}_url: CalleeUrl" not in known[1]:
            setting = f"{self.module.upper()}_URL"
            raise UnreadableError(f"{setting} is another setting: add AS=another-name")
        if (ROOT / self.path).exists() and MARK not in read(self.path):
            raise UnreadableError(f"{self.path} is your own: move it, or add AS=another-name")

    def broken_calls(self) -> list[Fault]:
        """Return what of the contract breaks the calls that were made by the copy of an older."""
        if not (ROOT / self.copy).exists():
            return []
        try:
            before: Json = json.loads(read(self.copy))
        except ValueError as error:
            raise UnreadableError(f"{self.copy} is no JSON: take it from git") from error
        called = called_operations(before, ROOT / SOURCE, ROOT / self.path)
        return breaking_changes(before, self.document, called)

    def files(self, contract: Contract) -> Files:
        """Return what is to be written, by paths."""
        text = json.dumps(self.document, indent=2, ensure_ascii=False) + "\n"
        digest = hashlib.sha256(text.encode()).hexdigest()
        source = write_module(contract, self.module, self.name, self.copy.as_posix(), digest)
        settings = project.with_url(read(project.SETTINGS), self.name, self.module)
        variables = [f"{self.module.upper()}_URL"]
        if contract.needs_token:
            settings = project.with_token(settings, self.name, self.module)
            variables.append(f"{self.module.upper()}_TOKEN")
        readme = project.with_rows(
            read(project.README), self.name, self.module, contract.needs_token
        )
        return {
            self.copy: text,
            CLIENTS / "__init__.py": read(CLIENTS / "__init__.py") or PACKAGE,
            self.path: tidy(self.path, source),
            project.SETTINGS: tidy(project.SETTINGS, settings),
            project.README: readme,
            **{path: project.with_variables(read(path), *variables) for path in project.COMPOSE},
        }


def read(path: Path) -> str:
    """Return a file of the project; empty where there is none."""
    return (ROOT / path).read_text("utf-8") if (ROOT / path).exists() else ""


def tidy(path: Path, source: str) -> str:
    """Return Python in the project's style; raise UnreadableError where it cannot be."""
    for command in ("format", "check --fix --unsafe-fixes --output-format concise", "format"):
        ruff = [sys.executable, "-m", "ruff", *command.split(), "--quiet"]
        ruff += ["--stdin-filename", str(path), "-"]
        done = subprocess.run(  # noqa: S603 the command is ours
            ruff, input=source, capture_output=True, text=True, check=False, cwd=ROOT
        )
        if done.returncode != 0:
            told = (done.stderr or done.stdout).strip().splitlines()
            raise UnreadableError(f"{path} would not have the project's style: {told[0]}")
        source = done.stdout
    return source


def write(files: Files) -> list[Path]:
    """Write what differs; return its paths."""
    changed = [path for path, text in files.items() if read(path) != text]
    for path in changed:
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(files[path], encoding="utf-8")
    return changed


def tell(lines: list[str]) -> None:
    """Print lines."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def check(callee: Callee) -> None:
    """Exit with 1 where the newest contract breaks what is called."""
    if not (ROOT / callee.copy).exists():
        raise UnreadableError(f"{callee.copy} does not exist: make client writes it")
    broken = callee.broken_calls()
    tell(
        [
            *map(str, broken),
            f"{callee.name}: what breaks calls from here: {len(broken) or 'nothing'}",
        ]
    )
    sys.exit(1 if broken else 0)


def renew(callee: Callee, is_accepted: bool) -> None:
    """Write the client, unless that would break calls that are made."""
    broken = callee.broken_calls()
    tell([str(fault) for fault in broken])
    if broken and not is_accepted:
        sys.exit(
            f"{callee.name}: this breaks calls from here, so nothing was written; "
            "BREAKING=yes takes it, and make check then shows what to change"
        )
    contract = read_contract(callee.document)
    if not contract.calls:
        raise UnreadableError(f"{callee.name} has no operation that can be called")
    changed = write(callee.files(contract))
    tell(contract.left_out)
    tell([f"written: {path}" for path in changed] or [f"{callee.name}: nothing changed"])


def main() -> None:
    """Do what the environment asks for: OF, AS and BREAKING, which make hands on."""
    try:
        callee = Callee(read_source(os.environ.get("OF", ""), os.environ.get("AS", "")))
        callee.check_name()
        if "--check" in sys.argv:
            check(callee)
        renew(callee, os.environ.get("BREAKING") == "yes")
    except UnreadableError as error:
        sys.exit(f"client: {' '.join(str(error).split())}")


if __name__ == "__main__":
    main()
