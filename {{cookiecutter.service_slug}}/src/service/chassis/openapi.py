"""The OpenAPI document of all typed routes, made once at start, and a page that shows it without any foreign host."""

import inspect
import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import orjson
from flask import Blueprint, Flask, Response, request
from markupsafe import escape
from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from werkzeug.http import HTTP_STATUS_CODES
from werkzeug.routing import BaseConverter
from werkzeug.routing import Rule

from service.chassis.configuration import PROJECT
from service.chassis.contract import Contract
from service.chassis.problems import MEDIA_TYPE, Problem
from service.chassis.validation import header_name

Json = dict[str, Any]
Schemas = dict[Any, Json]  # by ((endpoint, "body", "query", "headers" or "return"), mode)

REF = "#/components/schemas/"
VARIABLE = re.compile(r"<(?:[^<>]*:)?(\w+)>")
PROBLEM = {"$ref": "#/components/responses/Problem"}
TEXT: Json = {"type": "string", "minLength": 1}
CONVERTERS: dict[str, Json] = {
    "IntegerConverter": {"type": "integer", "minimum": 0},
    "FloatConverter": {"type": "number", "minimum": 0},
    "UUIDConverter": {"type": "string", "format": "uuid"},
}
ASSETS = ("swagger-ui.css", "index.css", "swagger-ui-bundle.js", "start.js")
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8">
<title>{title}</title><link rel="icon" href="data:,">
<link rel="stylesheet" href="swagger-ui.css"><link rel="stylesheet" href="index.css">
<div id="swagger-ui"></div>
<script src="swagger-ui-bundle.js"></script><script src="start.js"></script>
"""
START = 'SwaggerUIBundle({url: "../openapi.json", dom_id: "#swagger-ui", deepLinking: true});\n'
POLICY = "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


class Untitled(GenerateJsonSchema):
    """Pydantic's generator without a title for every field, which only repeats its name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def document(app: Flask, title: str, version: str, description: str) -> Json:
    """Describe the typed routes of `app` by OpenAPI 3.1.1; raise TypeError where two models share a name."""
    views = ((rule, app.view_functions[rule.endpoint]) for rule in app.url_map.iter_rules())
    operations = [(rule, view) for rule, view in views if isinstance(view, Contract)]
    schemas, models = _schemas(operations)
    paths: dict[str, Json] = {}
    for rule, contract in operations:
        item = paths.setdefault(VARIABLE.sub(r"{\1}", rule.rule), {})
        item[contract.method.lower()] = _operation(rule, contract, schemas, models)
    problem = {"description": "What went wrong", "content": {MEDIA_TYPE: {"schema": {"$ref": f"{REF}Problem"}}}}
    used = orjson.dumps([paths, problem, models]).decode()  # models of queries and headers have become parameters
    models = {name: model for name, model in models.items() if f'"{REF}{name}"' in used}
    info = {"title": title, "version": version, "description": description}
    components = {"schemas": models, "responses": {"Problem": problem}}
    return {"openapi": "3.1.1", "info": info, "paths": paths, "components": components}


def init_app(app: Flask) -> None:
    """Serve the document and its page; call it when every blueprint is registered."""
    content = document(app, PROJECT.title, PROJECT.version, PROJECT.description)
    data = orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    app.extensions["openapi"] = data
    app.add_url_rule("/openapi.json", "openapi", lambda: Response(data, content_type="application/json"))
    app.register_blueprint(_page(PROJECT.title))


def _page(title: str) -> Blueprint:
    page = Blueprint("docs", __name__, url_prefix="/docs")
    folder = files("flask_swagger_ui") / "dist"

    @page.get("/")
    def index() -> Response:
        return Response(PAGE.format(title=escape(title)), headers={"Content-Security-Policy": POLICY})

    @page.get(f"/<any({', '.join(map(repr, ASSETS))}):name>")
    def asset(name: str) -> Any:
        content = START if name == "start.js" else (folder / name).read_bytes()
        response = Response(content, content_type="text/css" if name.endswith("css") else "text/javascript")
        response.add_etag()
        return response.make_conditional(request)

    return page


def _schemas(operations: list[tuple[Rule, Contract]]) -> tuple[Schemas, dict[str, Json]]:
    wanted: list[Any] = [(("", ""), "serialization", TypeAdapter(Problem))]
    for rule, contract in operations:
        wanted += [((rule.endpoint, name), "validation", TypeAdapter(hint)) for name, hint in contract.inputs.items()]
        if contract.output:
            wanted.append(((rule.endpoint, "return"), "serialization", TypeAdapter(contract.output)))
    schemas, shared = TypeAdapter.json_schemas(wanted, schema_generator=Untitled, ref_template=REF + "{model}")
    models: dict[str, Json] = shared["$defs"]
    owners: dict[str, str] = {}
    for name, model in models.items():
        owner = re.sub("-(Input|Output)$", "", name)
        if owners.setdefault(model.get("title", owner), owner) != owner:
            raise TypeError(f"two models are called {model['title']}: {owner}")
    return schemas, models


def _operation(rule: Rule, contract: Contract, schemas: Schemas, models: dict[str, Json]) -> Json:
    summary, _, text = (inspect.getdoc(contract.view) or "").partition("\n")
    operation: Json = {
        "operationId": rule.endpoint.replace(".", "_"),
        "tags": [rule.endpoint.rpartition(".")[0]],
        "summary": summary,
        "description": text.strip(),
        "parameters": [_path_parameter(name, rule._converters[name]) for name in VARIABLE.findall(rule.rule)],
    }
    for kind, place in (("query", "query"), ("headers", "header")):
        if kind in contract.inputs:
            model = models[schemas[(rule.endpoint, kind), "validation"]["$ref"].removeprefix(REF)]
            operation["parameters"] += _parameters(model, place)
    if "body" in contract.inputs:
        schema = schemas[(rule.endpoint, "body"), "validation"]
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    operation["responses"] = _responses(rule, contract, schemas)
    return {key: value for key, value in operation.items() if value}


def _path_parameter(name: str, converter: BaseConverter) -> Json:
    schema = dict(CONVERTERS.get(type(converter).__name__, TEXT))
    bounds = {"minimum": getattr(converter, "min", None), "maximum": getattr(converter, "max", None)}
    schema |= {key: bound for key, bound in bounds.items() if bound is not None}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _parameters(model: Json, place: str) -> Iterator[Json]:
    for name, declared in model["properties"].items():
        schema = dict(declared)
        parameter = {"name": header_name(name) if place == "header" else name, "in": place}
        parameter |= {"required": name in model.get("required", ())}
        parameter |= {key: schema.pop(key) for key in ("description", "deprecated") if key in schema}
        kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
        if kinds:  # a parameter is absent, never null
            del schema["anyOf"]
            schema |= {"anyOf": kinds} if len(kinds) > 1 else kinds[0]
            schema = {key: value for key, value in schema.items() if (key, value) != ("default", None)}
        yield parameter | {"schema": schema}


def _responses(rule: Rule, contract: Contract, schemas: Schemas) -> Json:
    answer: Json = {"description": HTTP_STATUS_CODES[contract.status]}
    if contract.output:
        answer["content"] = {"application/json": {"schema": schemas[(rule.endpoint, "return"), "serialization"]}}
    if contract.status in (201, 202):
        answer["headers"] = {"Location": {"schema": {"type": "string", "format": "uri-reference"}}}
    statuses = {*contract.raises, *([404] if rule.arguments else []), *([422] if contract.inputs else [])}
    statuses |= {400, 413, 415} if "body" in contract.inputs else set()
    problems = {str(s): PROBLEM if s >= 400 else {"description": HTTP_STATUS_CODES[s]} for s in sorted(statuses)}
    return {str(contract.status): answer, **problems, "default": PROBLEM}
