"""The page that shows the API's document, without any foreign host."""

from importlib.resources import files
from typing import Any

from flask import Blueprint, Response, request
from markupsafe import escape

ASSETS = ("swagger-ui.css", "index.css", "swagger-ui-bundle.js", "start.js")
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8">
<title>{title}</title><link rel="icon" href="data:,">
<link rel="stylesheet" href="swagger-ui.css"><link rel="stylesheet" href="index.css">
<div id="swagger-ui"></div>
<script src="swagger-ui-bundle.js"></script><script src="start.js"></script>
"""
START = 'SwaggerUIBundle({url: "../openapi.json", dom_id: "#swagger-ui", deepLinking: true});\n'
POLICY = (
    "default-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def make_blueprint(title: str) -> Blueprint:
    """Make `/docs/` with this title."""
    blueprint = Blueprint("docs", __name__, url_prefix="/docs")
    folder = files("flask_swagger_ui") / "dist"

    @blueprint.get("/")
    def index() -> Response:
        page = PAGE.format(title=escape(title))
        return Response(page, headers={"Content-Security-Policy": POLICY})

    @blueprint.get(f"/<any({', '.join(map(repr, ASSETS))}):name>")
    def asset(name: str) -> Any:
        content = START if name == "start.js" else (folder / name).read_bytes()
        media_type = "text/css" if name.endswith("css") else "text/javascript"
        response = Response(content, content_type=media_type)
        response.add_etag()
        return response.make_conditional(request)

    return blueprint
