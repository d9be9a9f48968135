"""Which operations of another service this one calls."""

import ast
from collections.abc import Collection
from pathlib import Path

from contracts.calls import function_names
from contracts.flatten import Json


def called_operations(document: Json, source: Path, module: Path) -> Collection[tuple[str, str]]:
    """Return the operations whose function any code but the client itself names.

    A name that only happens to be the same counts too: rather one fault more than one less.
    """
    named: set[str] = set()
    for path in source.rglob("*.py"):
        if path != module:
            named |= _names(ast.parse(path.read_text("utf-8")))
    return {key for key, name in function_names(document).items() if name in named}


def _names(tree: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.alias):
            found.add(node.name)
    return found
