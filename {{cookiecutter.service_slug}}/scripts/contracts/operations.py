"""Compare two OpenAPI 3.1 documents, operation by operation."""

import re
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from contracts.exchange import Exchange
from contracts.exchange import unknown_changes
from contracts.flatten import Json, UnreadableError, as_text, resolve, without_notes
from contracts.schemas import Comparison, Fault

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")


class Operation(NamedTuple):
    """What one method of a path takes and answers."""

    method: str
    path: str
    document: Json  # with what its path has for all; parameters are by place and name

    def __str__(self) -> str:
        """As people write it."""
        return f"{self.method.upper()} {self.path}"

    @property
    def key(self) -> tuple[str, str]:
        """Return by what two releases' are the same, whatever the variables are called."""
        return self.method, re.sub(r"\{[^}]*\}", "{}", self.path)


def check_version(document: Any) -> Json:
    """Return what is an OpenAPI 3.1 document; raise UnreadableError."""
    version = document.get("openapi") if isinstance(document, dict) else None
    if not isinstance(version, str) or not version.startswith("3.1."):
        raise UnreadableError(f"it is no OpenAPI 3.1 document: `openapi` is {version or 'missing'}")
    if not isinstance(document.get("paths", {}), dict):
        raise UnreadableError("its `paths` is no object")
    made: Json = document
    return made


def operations(document: Json) -> Iterator[Operation]:
    """Yield the operations of a document."""
    for path, item in document.get("paths", {}).items():
        whole = resolve(document, item)
        shared = {key: value for key, value in whole.items() if key not in METHODS}
        for method in [key for key in whole if key in METHODS]:
            own = whole[method]
            several = [*shared.get("parameters", ()), *own.get("parameters", ())]
            parameters = [resolve(document, one) for one in several]
            named = {_parameter_key(one, path): one for one in parameters}
            yield Operation(method, path, {**shared, **own, "parameters": named})


def _parameter_key(parameter: Json, path: str) -> tuple[str, str]:
    place = parameter["in"]
    name = parameter["name"]
    if place == "path":  # only its position is on the wire
        names = re.findall(r"\{([^}]*)\}", path)
        name = str(names.index(name)) if name in names else name
    return place, name.lower() if place == "header" else name


def breaking_changes(
    old: Json, new: Json, only: Collection[tuple[str, str]] | None = None
) -> list[Fault]:
    """Return what breaks the callers of the old document, or of its operations `only`."""
    comparison = Comparison(check_version(old), check_version(new))
    try:
        there = {operation.key: operation for operation in operations(new)}
        paths = {path for _, path in there}
        found = _rest(comparison, old, new) if only is None else []
        for operation in operations(old):
            if only is not None and operation.key not in only:
                continue
            if operation.key in there:
                found += Exchange(
                    comparison, str(operation), operation.document, there[operation.key].document
                ).faults()
            else:
                kind = "operation" if operation.key[1] in paths else "path"
                found.append(Fault(str(operation), f"{kind} removed", "removed"))
    except (AttributeError, KeyError, TypeError) as error:
        raise UnreadableError(f"it is no valid OpenAPI document: {error!r}") from error
    return list(dict.fromkeys(found))


def _rest(comparison: Comparison, old: Json, new: Json) -> list[Fault]:
    """Compare what concerns all operations."""
    kept = {as_text(without_notes(server)) for server in new.get("servers", [])}
    found = [
        Fault("servers", "server removed", f"{server['url']} is no longer named")
        for server in old.get("servers", [])
        if as_text(without_notes(server)) not in kept
    ]
    known = {"components", "info", "openapi", "paths", "security", "servers", "tags"}
    return found + unknown_changes(comparison, "document", old, new, known)
