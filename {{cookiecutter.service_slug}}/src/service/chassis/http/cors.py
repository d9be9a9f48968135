"""CORS: lets pages of other origins use the API, by what browsers ask and read."""

from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
EXPOSED = "Content-Disposition, ETag, Link, Location, Retry-After, X-Request-ID"
MAX_AGE = "600"  # seconds for which a browser does not ask again


class Cors:
    """Says on every answer who may read it, and answers preflights; cookies are not let in."""

    def __init__(self, app: WSGIApplication, origins: list[str]) -> None:
        self._app = app
        self._origins = origins

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        origin = "*" if "*" in self._origins else environ.get("HTTP_ORIGIN", "")
        added = [] if origin == "*" else [("Vary", "Origin")]
        if origin in self._origins:
            added.append(("Access-Control-Allow-Origin", origin))
            is_options = environ["REQUEST_METHOD"] == "OPTIONS"
            if is_options and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ:  # a preflight
                asked = environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS", "")
                added.append(("Access-Control-Allow-Methods", METHODS))
                added.append(("Access-Control-Allow-Headers", asked))
                added.append(("Access-Control-Max-Age", MAX_AGE))
                start_response("204 No Content", added)
                return []
            added.append(("Access-Control-Expose-Headers", EXPOSED))

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            names = [name.lower() for name, _ in headers]
            if "access-control-allow-origin" not in names:  # the application's own comes first
                headers.extend(added)
            return start_response(status, headers)

        return self._app(environ, start)


def allow_origins(app: WSGIApplication, origins: str) -> WSGIApplication:
    """Lay CORS around the application for `origin,...` or `*`; without any it stays as it is."""
    listed = [origin.strip() for origin in origins.split(",") if origin.strip()]
    return Cors(app, listed) if listed else app
