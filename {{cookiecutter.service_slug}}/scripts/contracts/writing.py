"""The source of a client: models and functions, as one module."""

import ast
import re
import textwrap

from contracts.calls import Call
from contracts.calls import Contract
from contracts.calls import Parameter
from contracts.flatten import UnreadableError
from contracts.models import generate
from contracts.naming import IMPORTS

MARK = "by `make client`"
# What the rules of style say of names and texts that are another service's.
HEADER = '''"""Calls to {name}, made {mark} from {contract}, do not edit.

sha256 {digest}
"""
# ruff: noqa: A001, A002, E501, N803, N815, RUF001, RUF002, S105, S107

from service.chassis.client import wire
from service.chassis.client.calls import client
'''
# What a client's module may consist of, whatever a contract says.
STATEMENTS = (ast.ClassDef, ast.FunctionDef, ast.Import, ast.ImportFrom)


def write_module(contract: Contract, module: str, name: str, path: str, digest: str) -> str:
    """Return the source of a module, which still is to be formatted; raise UnreadableError."""
    models = generate(contract.schemas)
    functions = [write_function(call, module) for call in contract.calls]
    named = set(re.findall(r"\w+", "\n".join(functions)))
    imports = [line for word, line in IMPORTS.items() if word in named]
    header = HEADER.format(name=name, mark=MARK, contract=path, digest=digest)
    source = "\n".join([header, *imports, models, *functions])
    for node in ast.parse(source).body:
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_rebuild = ast.unparse(node).endswith(".model_rebuild()")
        if not (isinstance(node, STATEMENTS) or is_text or is_rebuild):
            raise UnreadableError(f"the models of {name} hold more than models")
    return source


def write_function(call: Call, module: str) -> str:
    """Return the source of one call."""
    options = [*_mapping(call, "query"), *_mapping(call, "header")]
    if call.body:
        options.append("body=body")
    arguments = ", ".join([repr(call.operation.method.upper()), _path(call)])
    rest = "".join(f", {option}" for option in options)
    start = f"def {call.name}({_signature(call)}) -> {call.answer or 'None'}:\n{_docstring(call)}"
    if call.answer is None:
        return f"{start}    client({module!r}).send({arguments}{rest})\n"
    if _is_class(call.answer):
        return f"{start}    return client({module!r}).call({arguments}, {call.answer}{rest})\n"
    # No type checker takes these for a type[T].
    return (
        f"{start}    answer_type: Any = {call.answer}\n"
        f"    answer: {call.answer} = client({module!r}).call({arguments}, answer_type{rest})\n"
        "    return answer\n"
    )


def _is_class(kind: str) -> bool:
    return kind != "Any" and " | " not in kind and kind != "None"


def _signature(call: Call) -> str:
    own = [one for one in call.parameters if one.place == "path"]
    others = [one for one in call.parameters if one.place != "path"]
    parts = [f"{one.name}: {one.type}" for one in own]
    if call.body:
        parts.append(f"body: {call.body}")
    if others:
        parts.append("*")
    return ", ".join([*parts, *map(_keyword, others)])


def _keyword(one: Parameter) -> str:
    return f"{one.name}: {one.type}{'' if one.is_required else ' | None = None'}"


def _path(call: Call) -> str:
    variables = {one.wire: one.name for one in call.parameters if one.place == "path"}
    template = re.sub(
        r"\{([^}]*)\}", lambda match: f"{{{variables[match[1]]}}}", call.operation.path
    )
    if not variables:
        return repr(template)
    values = "".join(f", {name}={name}" for name in variables.values())
    return f"wire.path({template!r}{values})"


def _mapping(call: Call, place: str) -> list[str]:
    found = [one for one in call.parameters if one.place == place]
    if not found:
        return []
    if place == "query":
        pairs = ", ".join(f"{one.wire!r}: {one.name}" for one in found)
        return [f"query=wire.query({{{pairs}}})"]
    # As people write headers, and as the client looks for them.
    pairs = ", ".join(f"{one.wire.title()!r}: {one.name}" for one in found)
    return [f"headers=wire.headers({{{pairs}}})"]


def _docstring(call: Call) -> str:
    said = " ".join(str(call.operation.document.get("summary") or call.operation).split())
    safe = said.replace("\\", "/").replace('"', "'")
    return f'    """{textwrap.shorten(safe, 88, placeholder="...")}"""\n'
