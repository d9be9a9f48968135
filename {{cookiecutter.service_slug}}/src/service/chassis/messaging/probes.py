"""The probes of a process that is no web server: the API's own, on the port of the settings."""

import socket
import threading
from collections.abc import Iterable
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

from werkzeug.exceptions import NotFound

from service.chassis.http import problems
from service.chassis.http.probes import Probes
from service.chassis.lifecycle import Readiness
from service.chassis.server.settings import ServerSettings
from service.chassis.telemetry import Telemetry

TIMEOUT = 5  # seconds for a request to arrive


class ProbeServer(ThreadingMixIn, WSGIServer):
    """Answers each probe in a thread of its own."""

    daemon_threads = True


class ProbeServerV6(ProbeServer):
    """The same by IPv6, and by IPv4 where it listens on `::`."""

    address_family = socket.AF_INET6


class ProbeHandler(WSGIRequestHandler):
    """One connection, which is not logged."""

    timeout = TIMEOUT

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def refuse(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer what is no probe."""
    return problems.respond(NotFound(), environ, start_response)


def serve(settings: ServerSettings, readiness: Readiness, telemetry: Telemetry) -> WSGIServer:
    """Answer the probes from a thread; raise OSError where the port is taken."""
    app = Probes(refuse, readiness, telemetry)
    kind = ProbeServerV6 if ":" in settings.bind_address else ProbeServer
    server = make_server(settings.bind_address, settings.port, app, kind, ProbeHandler)
    threading.Thread(target=server.serve_forever, name="probes", daemon=True).start()
    return server
