"""A document of YAML that is read field by field; what is not understood is refused."""

import re
from collections.abc import Iterator
from typing import Any

from fleet.project import Refusal

DURATION = re.compile(r"(?:[0-9]{1,5}(?:h|ms|m|s)){1,4}")
UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def seconds(text: str) -> float:
    """Return the seconds of a duration such as `1m30s`, as it is written here and by compose."""
    parts = re.findall(r"([0-9.]+)(ms|h|m|s)", text)
    return sum(float(count) * UNITS[unit] for count, unit in parts)


class Node:
    """One value of a document, which knows its place."""

    def __init__(self, value: Any, file: str, place: str = "") -> None:
        """Take what YAML gave, the file's name and the place in it, such as `spec.rules[0]`."""
        self.value = value
        self.file = file
        self.place = place

    def refuse(self, remedy: str) -> Refusal:
        """Return the one line that names file, field and remedy."""
        return Refusal(": ".join(filter(None, (self.file, self.place, remedy))))

    def _child(self, name: str) -> "Node":
        place = f"{self.place}.{name}" if self.place else name
        return Node(self.value[name], self.file, place)

    def fields(self, *required: str, optional: tuple[str, ...] = ()) -> dict[str, "Node"]:
        """Return the fields of a mapping, which has all that are required and no unknown one."""
        if not isinstance(self.value, dict):
            raise self.refuse("write a mapping")
        known = (*required, *optional)
        for name in self.value:
            if name not in known:
                unknown = Node(None, self.file, f"{self.place}.{name}" if self.place else str(name))
                raise unknown.refuse(f"not known to the gateway; it knows {', '.join(known)}")
        for name in required:
            if name not in self.value:
                raise self.refuse(f"{name} is missing; add it")
        return {name: self._child(name) for name in self.value}

    def items(self) -> Iterator["Node"]:
        """Return the items of a list."""
        if not isinstance(self.value, list):
            raise self.refuse("write a list")
        for index, value in enumerate(self.value):
            yield Node(value, self.file, f"{self.place}[{index}]")

    def only(self) -> "Node":
        """Return the one item of a list."""
        items = list(self.items())
        if len(items) != 1:
            raise self.refuse("write exactly one item")
        return items[0]

    def text(self, pattern: str, remedy: str) -> str:
        """Return a text that matches the whole pattern."""
        if not isinstance(self.value, str) or not re.fullmatch(pattern, self.value):
            raise self.refuse(remedy)
        return self.value

    def one_of(self, *choices: str) -> str:
        """Return a text that is one of the choices."""
        if self.value not in choices:
            raise self.refuse(f"write {' or '.join(choices)}")
        return str(self.value)

    def number(self, least: int, most: int) -> int:
        """Return a whole number between the two."""
        is_whole = isinstance(self.value, int) and not isinstance(self.value, bool)
        if not is_whole or not least <= self.value <= most:
            raise self.refuse(f"write a whole number from {least} to {most}")
        return int(self.value)

    def duration(self) -> float:
        """Return the seconds of a duration of the Gateway API, such as `1m30s`."""
        return seconds(self.text(DURATION.pattern, "write a duration such as 10s or 500ms"))
