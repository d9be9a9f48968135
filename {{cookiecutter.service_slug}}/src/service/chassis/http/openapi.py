"""The OpenAPI document of all typed routes, made once at the start."""

import inspect
import re
from collections.abc import Iterable, Iterator
from typing import Any

import orjson
from flask import Flask, Response
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from werkzeug.http import HTTP_STATUS_CODES
from werkzeug.routing import BaseConverter, Rule

from service.chassis.http import docs
from service.chassis.http import uploads
from service.chassis.http.application import Application
from service.chassis.http.problems import MEDIA_TYPE, Problem, ProblemType
from service.chassis.http.routes import VARIABLE, TypedView
from service.chassis.http.strict import Json
from service.chassis.http.validation import header_name
from service.chassis.project import PROJECT

Schemas = dict[Any, Json]  # by ((endpoint, "body", "form", "query", "headers" or "return"), mode)

REF = "#/components/schemas/"
PROBLEM = {"$ref": "#/components/responses/Problem"}
TEXT: Json = {"type": "string", "minLength": 1}
BINARY: Json = {"type": "string", "format": "binary"}  # of 3.0, which tools know
HEADER: Json = {"schema": {"type": "string"}}
HEADERS: dict[str, Json] = {
    "ETag": {"description": "Version of the resource", **HEADER},
    "Link": {"description": "Where the next page is", **HEADER},
    "Location": {"schema": {"type": "string", "format": "uri-reference"}},
    "Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer"}},
}
CONVERTERS: dict[str, Json] = {
    "IntegerConverter": {"type": "integer", "minimum": 0},
    "FloatConverter": {"type": "number", "minimum": 0},
    "UUIDConverter": {"type": "string", "format": "uuid"},
}


class Schema(GenerateJsonSchema):
    """Pydantic's generator; a client is to accept an answer that has got a field more."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Leave the titles out, which only repeat the fields' names."""
        return False

    def model_schema(self, schema: Any) -> Json:
        """Forbid no further fields in answers."""
        made = super().model_schema(schema)
        if self.mode == "serialization" and made.get("additionalProperties") is False:
            del made["additionalProperties"]
        return made

    def field_is_required(self, field: Any, total: bool) -> bool:
        """Require in answers what has a default too, but not what may be MISSING."""
        may_be_missing = self.mode == "serialization" and _may_be_missing(field["schema"])
        return super().field_is_required(field, total) and not may_be_missing


def _may_be_missing(schema: Json) -> bool:
    is_marked = schema.get("type") == "missing-sentinel"
    return is_marked or ("schema" in schema and _may_be_missing(schema["schema"]))


def make_document(app: Flask, title: str, version: str, description: str) -> Json:
    """Describe the typed routes of `app`; raise TypeError where two share a path or a name."""
    views = ((rule, app.view_functions[rule.endpoint]) for rule in app.url_map.iter_rules())
    operations = [(rule, view) for rule, view in views if isinstance(view, TypedView)]
    schemas, models = _make_schemas(operations)
    paths: dict[str, Json] = {}
    for rule, view in operations:
        item = paths.setdefault(VARIABLE.sub(r"{\2}", rule.rule), {})
        if view.method.lower() in item:
            raise TypeError(f"two routes are {view.method} {rule.rule} but for their converters")
        item[view.method.lower()] = _make_operation(rule, view, schemas, models)
    problem = _problem("What went wrong", {"$ref": f"{REF}Problem"})
    # Models of queries and headers have become parameters.
    used = orjson.dumps([paths, problem, models]).decode()
    models = {name: model for name, model in models.items() if f'"{REF}{name}"' in used}
    components = {"schemas": models, "responses": {"Problem": problem}}
    if schemes := _security_schemes(view for _, view in operations):
        components["securitySchemes"] = schemes
    return {
        "openapi": "3.1.1",
        "info": {"title": title, "version": version, "description": description},
        "servers": [{"url": "."}],  # from the document's own address, whatever a gateway makes it
        "paths": paths,
        "components": components,
    }


def _security_schemes(views: Iterable[TypedView]) -> dict[str, Json]:
    schemes: dict[str, Json] = {}
    for scheme in (view.security for view in views if view.security):
        if schemes.setdefault(scheme.name, dict(scheme.document)) != scheme.document:
            raise TypeError(f"two security schemes are called {scheme.name}")
    return schemes


def _make_schemas(operations: list[tuple[Rule, TypedView]]) -> tuple[Schemas, dict[str, Json]]:
    wanted: list[Any] = [(("", ""), "serialization", TypeAdapter(Problem))]
    for rule, view in operations:
        for name, hint in view.inputs.items():
            wanted.append(((rule.endpoint, name), "validation", TypeAdapter(hint)))
        if view.output:
            wanted.append(((rule.endpoint, "return"), "serialization", TypeAdapter(view.output)))
    schemas, shared = TypeAdapter.json_schemas(
        wanted, schema_generator=Schema, ref_template=REF + "{model}"
    )
    models: dict[str, Json] = shared["$defs"]
    owners: dict[str, str] = {}
    for name, model in models.items():
        owner = re.sub("-(Input|Output)$", "", name)
        if owners.setdefault(model.get("title", owner), owner) != owner:
            raise TypeError(f"two models are called {model['title']}: {owner}")
    return schemas, models


def _make_operation(rule: Rule, view: TypedView, schemas: Schemas, models: dict[str, Json]) -> Json:
    summary, _, text = (inspect.getdoc(view.view) or "").partition("\n")
    names = [name for _, name in VARIABLE.findall(rule.rule)]
    operation: Json = {
        "operationId": rule.endpoint.replace(".", "_"),
        "tags": [rule.endpoint.rpartition(".")[0]],
        "summary": summary,
        "description": text.strip(),
        "parameters": [_path_parameter(name, rule._converters[name]) for name in names],
    }
    for kind, place in (("query", "query"), ("headers", "header")):
        if kind in view.inputs:
            schema = schemas[(rule.endpoint, kind), "validation"]
            model = models[schema["$ref"].removeprefix(REF)]
            operation["parameters"] += _parameters(model, place)
    if "body" in view.inputs:
        content = {"application/json": {"schema": schemas[(rule.endpoint, "body"), "validation"]}}
        operation["requestBody"] = {"required": True, "content": content}
    if "form" in view.inputs:
        schema = models[schemas[(rule.endpoint, "form"), "validation"]["$ref"].removeprefix(REF)]
        operation["requestBody"] = {"required": True, "content": _form(view.inputs["form"], schema)}
    if view.security:
        operation["security"] = [{view.security.name: list(view.security.scopes)}]
    operation["responses"] = _responses(rule, view, schemas)
    return {key: value for key, value in operation.items() if value}


def _form(model: type[BaseModel], schema: Json) -> Json:
    properties = {name: _without_null(one) for name, one in schema["properties"].items()}
    content: Json = {"schema": schema | {"properties": properties}}
    encoding = {
        name: {"contentType": ", ".join(limits.media_types)}
        for name, limits in uploads.file_fields(model).items()
        if limits.media_types
    }
    if encoding:
        content["encoding"] = encoding
    return dict.fromkeys(uploads.media_types(model), content)


def _path_parameter(name: str, converter: BaseConverter) -> Json:
    schema = dict(CONVERTERS.get(type(converter).__name__, TEXT))
    for key, bound in (("minimum", "min"), ("maximum", "max")):
        if getattr(converter, bound, None) is not None:
            schema[key] = getattr(converter, bound)
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _parameters(model: Json, place: str) -> Iterator[Json]:
    for name, declared in model["properties"].items():
        schema = _without_null(declared)
        parameter = {
            "name": header_name(name) if place == "header" else name,
            "in": place,
            "required": name in model.get("required", ()),
        }
        for key in ("description", "deprecated"):
            if key in schema:
                parameter[key] = schema.pop(key)
        yield parameter | {"schema": schema}


def _without_null(declared: Json) -> Json:
    """Copy the schema of what is absent, never null: a parameter or a form's field."""
    schema = dict(declared)
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if kinds:
        del schema["anyOf"]
        schema |= {"anyOf": kinds} if len(kinds) > 1 else kinds[0]
        if schema.get("default", "") is None:
            del schema["default"]
    return schema


def _responses(rule: Rule, view: TypedView, schemas: Schemas) -> Json:
    answer: Json = {"description": HTTP_STATUS_CODES[view.status]}
    if view.output:
        schema = schemas[(rule.endpoint, "return"), "serialization"]
        answer["content"] = {"application/json": {"schema": schema}}
    elif view.produces:
        answer["content"] = {view.produces: _produced(view.produces)}
    headers = {name: HEADERS.get(name, HEADER) for name in (view.reply.sends if view.reply else ())}
    if headers:
        answer["headers"] = headers
    own = [error for error in view.raises if not isinstance(error, int)]
    statuses = {error for error in view.raises if isinstance(error, int)}
    if view.security:
        statuses |= {401, 403}
    if rule.arguments:
        statuses.add(404)
    if view.inputs:
        statuses.add(422)
    if {"body", "form"} & view.inputs.keys():
        statuses |= {400, 413, 415}
    others: dict[int, Json] = {
        status: PROBLEM
        if status >= 400
        else {**(answer if status < 300 else {}), "description": HTTP_STATUS_CODES[status]}
        for status in statuses
    }
    if 304 in others and "ETag" in headers:
        others[304] = others[304] | {"headers": {"ETag": HEADERS["ETag"]}}
    for status in {kind.code for kind in own}:
        types = [kind for kind in own if kind.code == status]
        others[status] = _own_problem(types, is_plain_too=status in statuses)
    errors = {str(status): others[status] for status in sorted(others)}
    return {str(view.status): answer, **errors, "default": PROBLEM}


def _own_problem(types: list[type[ProblemType]], is_plain_too: bool) -> Json:
    """Describe the problems of one status whose types are the service's own."""
    names = [kind.type for kind in types]
    titles = [kind.title for kind in types]
    if is_plain_too:
        names.append("about:blank")
        titles.append(HTTP_STATUS_CODES[types[0].code])
    own: Json = {"properties": {"type": {"enum": names}}}
    return _problem(", or ".join(titles), {"allOf": [{"$ref": f"{REF}Problem"}, own]})


def _problem(description: str, schema: Json) -> Json:
    return {
        "description": description,
        "headers": {"Retry-After": HEADERS["Retry-After"]},
        "content": {MEDIA_TYPE: {"schema": schema}},
    }


def _produced(media_type: str) -> Json:
    if media_type == "text/event-stream":
        return {}  # tools would take its schema for that of each event
    return {"schema": {"type": "string"} if media_type.startswith("text/") else BINARY}


def init_app(app: Application) -> None:
    """Serve the document and its page; call it when every blueprint is registered."""
    document = make_document(app, PROJECT.title, PROJECT.version, PROJECT.description)
    data = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    app.extensions["openapi"] = data
    app.add_url_rule(
        "/openapi.json", "openapi", lambda: Response(data, content_type="application/json")
    )
    app.register_blueprint(docs.make_blueprint(PROJECT.title))
    app.home = "docs/"
