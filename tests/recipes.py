"""The code of a service's RECIPES.md, put where the text before each block says, and commands."""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

BLOCK = re.compile(r"^```(python|markdown|shell)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"`([\w/.*-]+\.(?:py|md))`")
PLACE = re.compile(r"\b(before|after|at the end of) `([^`]+)`|\bat the end\b", re.IGNORECASE)


def blocks(text: str) -> Iterator[tuple[str, re.Match[str] | None, str]]:
    """Yield the file, the place in it and the code of each block; no place is a new file.

    Commands have no file.
    """
    name = ""
    places: list[re.Match[str]] = []
    end = 0
    for block in BLOCK.finditer(text):
        before = text[end : block.start()].strip().split("\n\n")[-1]
        end = block.end()
        if block[1] == "shell":
            yield "", None, block[2]
            continue
        if before:
            name = (FILE.findall(before) or [name])[-1]
            places = list(PLACE.finditer(before))
        yield name, places.pop(0) if places else None, block[2]


def put(path: Path, place: re.Match[str] | None, code: str) -> None:
    """Write a new file, or code into one; `make format` then mends the blank lines."""
    if place is None:
        assert not path.exists(), path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code, encoding="utf-8")
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    position, indent = find(lines, (place[1] or "").lower(), place[2])
    code = textwrap.indent(code, indent)
    path.write_text("".join([*lines[:position], code, *lines[position:]]), encoding="utf-8")


def find(lines: list[str], side: str, anchor: str) -> tuple[int, str]:
    """Return before which line code belongs, and its indentation."""
    if not side:
        return len(lines), ""
    position = next(number for number, line in enumerate(lines) if anchor in line)
    indent = re.match(" *", lines[position])[0]  # type: ignore[index]
    if side != "at the end of":
        return position + (side == "after"), indent
    rest = enumerate(lines[position + 1 :], position + 1)
    ends = (number for number, line in rest if re.match(rf"{indent}[^\s)]", line))
    return next(ends, len(lines)), f"{indent}    "
