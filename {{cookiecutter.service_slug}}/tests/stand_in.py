"""A stand-in for another service, made from its contract: an OpenAPI document.

`with StandIn(contract) as other:` answers at `other.url` each operation with its first success and
an example that fits; `other.answer("GET", "/v1/invoices/{number}", 404)` gives another answer.
"""

import json
import re
from typing import Any

from callee import Callee
from callee import Connection

Json = dict[str, Any]

FORMATS = {
    "date": "2026-01-31",
    "date-time": "2026-01-31T12:00:00Z",
    "duration": "PT1H",
    "email": "a@example.org",
    "time": "12:00:00Z",
    "uri": "https://example.org/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def example(schema: Any, document: Json) -> Any:
    """Return a value that fits a schema: its own example, or the least that has all fields.

    A pattern is not followed: such a text needs an example in the contract.
    """
    if "$ref" in schema:
        return example(resolve(schema["$ref"], document), document)
    for key in ("const", "default", "example"):
        if key in schema:
            return schema[key]
    for key in ("examples", "enum"):
        if schema.get(key):
            return schema[key][0]
    for key in ("oneOf", "anyOf"):
        if key in schema:
            return example(schema[key][0], document)
    if "allOf" in schema:
        parts = [example(part, document) for part in schema["allOf"]]
        return {key: value for part in parts for key, value in part.items()}
    return _plain(schema, document)


def _plain(schema: Json, document: Json) -> Any:
    kind = schema.get("type", "object")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object":
        fields = schema.get("properties", {})
        return {name: example(part, document) for name, part in fields.items()}
    if kind == "array":
        return [example(schema.get("items", {}), document)] * max(1, schema.get("minItems", 1))
    if kind == "string":
        text = FORMATS.get(schema.get("format", ""), "text")
        return text.ljust(schema.get("minLength", 0), "x")[: schema.get("maxLength")]
    if kind in ("integer", "number"):
        least = schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
        return min(least, schema.get("maximum", least))
    return {"boolean": True, "null": None}[kind]


def resolve(reference: str, document: Json) -> Any:
    """Return the part of the document that a reference names."""
    part: Any = document
    for key in reference.removeprefix("#/").split("/"):
        part = part[key.replace("~1", "/").replace("~0", "~")]
    return part


class StandIn(Callee):
    """Answers as its contract says; what the contract does not have is 404."""

    def __init__(self, document: Json) -> None:
        self._document = document
        self._answers: dict[tuple[str, str], tuple[int, bytes]] = {}
        super().__init__(self._answer)

    def answer(self, method: str, path: str, status: int, body: Any = None) -> None:
        """Answer an operation so from now on; without a body, with an example of the contract."""
        responses = self._document["paths"][path][method.lower()]["responses"]
        if body is None:
            response = responses.get(str(status), responses.get("default", {}))
            body = self._example(response)
        self._answers[method, path] = (status, b"" if body is None else json.dumps(body).encode())

    def _example(self, response: Json) -> Any:
        if "$ref" in response:
            response = resolve(response["$ref"], self._document)
        for media_type, content in response.get("content", {}).items():
            if media_type.partition(";")[0].endswith("json"):
                return example(content.get("schema", {}), self._document)
        return None

    def _answer(self, connection: Connection) -> None:
        request = connection.received
        path = request.path.partition("?")[0]
        for template, operations in self._document["paths"].items():
            pattern = re.sub(r"\\{[^}]*\\}", "[^/]+", re.escape(template))
            if request.method.lower() in operations and re.fullmatch(pattern, path):
                if (request.method, template) not in self._answers:
                    statuses = operations[request.method.lower()]["responses"]
                    success = min(int(one) for one in statuses if one.startswith("2"))
                    self.answer(request.method, template, success)
                status, body = self._answers[request.method, template]
                connection.send(status, body, Content_Type="application/json")
                return
        connection.send(404, b"{}")
