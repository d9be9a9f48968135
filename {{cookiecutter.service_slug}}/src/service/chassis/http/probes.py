"""`/livez`, `/readyz` and `/metrics`: answered before any limit, and neither logged nor counted."""

from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from service.chassis.http import problems
from service.chassis.lifecycle import Readiness
from service.chassis.telemetry import Telemetry

JSON = "application/json"


class Probes:
    """Answers the probes and leaves all else to the application."""

    def __init__(self, app: WSGIApplication, readiness: Readiness, telemetry: Telemetry) -> None:
        self._app = app
        self._readiness = readiness
        self._registry = telemetry.registry or CollectorRegistry()
        self._probes: dict[str, WSGIApplication] = {"/livez": self.livez, "/readyz": self.readyz}
        if telemetry.registry:
            self._probes["/metrics"] = self.metrics

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        handler = self._probes.get(environ["PATH_INFO"], self._app)
        return handler(environ, start_response)

    def livez(self, _environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Say that the process lives; it touches nothing."""
        return _respond(start_response, b'{"status":"live"}', JSON)

    def readyz(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Say whether the process can take requests, or what keeps it from that."""
        failures = self._readiness.failures()
        if not failures:
            return _respond(start_response, b'{"status":"ready"}', JSON)
        detail = "not ready: " + ", ".join(failures)
        body = problems.encode(503, detail, environ["PATH_INFO"], {})
        return _respond(start_response, body, problems.MEDIA_TYPE, "503 Service Unavailable")

    def metrics(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Give the metrics as text, or as OpenMetrics where that is asked for."""
        try:
            encode, content_type = choose_encoder(environ.get("HTTP_ACCEPT", ""))
        except (TypeError, ValueError):  # a version that is none
            encode, content_type = choose_encoder("")
        return _respond(start_response, encode(self._registry), content_type)


def _respond(
    start_response: StartResponse, body: bytes, media_type: str, status: str = "200 OK"
) -> Iterable[bytes]:
    start_response(status, [("Content-Type", media_type), ("Content-Length", str(len(body)))])
    return [body]
