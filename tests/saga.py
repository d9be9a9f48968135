"""The three services of docs/saga.md, made by its commands and from its blocks."""

import re
import shlex
from operator import itemgetter
from pathlib import Path

from tests.conftest import ROOT
from tests.conftest import Bake
from tests.conftest import installed
from tests.recipes import blocks
from tests.recipes import put

TEXT = (ROOT / "docs" / "saga.md").read_text("utf-8")


def fenced(language: str) -> list[str]:
    """Return the page's blocks in a language other than Python."""
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


BAKE, CHECK, RUN, ORDERS, FIND = fenced("shell")
STOCK, STUCK = fenced("sql")
# What `make` is to write: files that agree with the code, then the migration.
FINISH = shlex.split(CHECK.splitlines()[0])[1:]


def follow(bake: Bake, service_python: Path, folder: Path) -> dict[str, Path]:
    """Make the services as the page says, but for what `make` writes."""
    services = {}
    for line in BAKE.splitlines():
        answers = dict(word.split("=") for word in shlex.split(line) if "=" in word)
        name = answers["service_name"].lower()
        services[name] = installed(bake(**answers), service_python, folder / name)
    for path, place, code in filter(itemgetter(0), blocks(TEXT)):  # commands have no path
        name, _, inside = path.partition("/")
        put(services[name] / inside, place, code)
    return services
