"""Values as text: what the calls that `make client` writes put into paths, queries and headers."""

from collections.abc import Mapping
from urllib.parse import quote

import orjson


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode().strip('"')


def _as_segment(value: object) -> str:
    text = _as_text(value)
    if text in ("", ".", ".."):  # which would lead to another path
        raise ValueError(f"{text!r} cannot stand in a path")
    return quote(text, safe="")


def path(template: str, **values: object) -> str:
    """Return a path whose variables have got values, each one segment; raise ValueError."""
    return template.format(**{name: _as_segment(value) for name, value in values.items()})


def query(values: Mapping[str, object]) -> dict[str, list[str]]:
    """Return the parameters that have a value; those of a list are repeated."""
    lists = {name: one if isinstance(one, list) else [one] for name, one in values.items()}
    return {
        name: [_as_text(one) for one in several]
        for name, several in lists.items()
        if several != [None]
    }


def headers(values: Mapping[str, object]) -> dict[str, str]:
    """Return the headers that have a value."""
    return {name: ", ".join(several) for name, several in query(values).items()}
