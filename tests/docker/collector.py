"""An OTLP receiver on the test's side, strict by the protocol's messages, which can fail too."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler
from http.server import ThreadingHTTPServer
from typing import Any

from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

IDS = ("traceId", "spanId", "parentSpanId")
HOST = "host.docker.internal"  # the test's side, as a container sees it


class Collector(ThreadingHTTPServer):
    """Listens on a free port; `status` is its answer, None keeps a sender waiting until the end."""

    daemon_threads = True

    def __init__(self, status: int | None = 200, media_type: str = "application/json") -> None:
        """Start to listen, for JSON or for protobuf's own format; end it by `close`."""
        super().__init__(("0.0.0.0", 0), Receiver)
        self.status = status
        self.media_type = media_type
        self.asked = 0
        self.requests: list[ExportTraceServiceRequest] = []
        self.faults: list[str] = []  # what the protocol does not allow
        self.ended = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def options(self) -> tuple[str, ...]:
        """The options of a container that sends its spans here."""
        return traced(self.server_port)

    @property
    def spans(self) -> list[Span]:
        """All spans that came, in their order."""
        resources = [resource for sent in self.requests for resource in sent.resource_spans]
        scopes = [scope for resource in resources for scope in resource.scope_spans]
        return [span for scope in scopes for span in scope.spans]

    def close(self) -> None:
        """Break off: nobody listens any more, and who waits for an answer gets none."""
        self.ended.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """Say nothing of senders that are gone."""


class Receiver(BaseHTTPRequestHandler):
    """One connection of a sender."""

    server: Collector

    def do_POST(self) -> None:
        """Take the spans, or fail as the collector says."""
        self.server.asked += 1
        body = self._body()
        if self.server.status is None:
            self.server.ended.wait()
            return
        if self.server.status == 200:
            self._take(body)
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def _body(self) -> bytes:
        if self.headers["Transfer-Encoding"] is None:
            return self.rfile.read(int(self.headers["Content-Length"]))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        return b"".join(chunks)

    def _take(self, body: bytes) -> None:
        try:
            if (self.path, self.headers["Content-Type"]) != ("/v1/traces", self.server.media_type):
                raise ValueError(f"{self.path}: {self.headers['Content-Type']}")
            is_json = self.server.media_type == "application/json"
            read = understood if is_json else ExportTraceServiceRequest.FromString
            self.server.requests.append(read(body))
        except Exception as error:
            self.server.faults.append(repr(error))

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def traced(port: int) -> tuple[str, ...]:
    """Return the options of a container that sends its spans to a port of the test's side."""
    host = ("--add-host", f"{HOST}:host-gateway")
    return (*host, "--env", f"OTEL_EXPORTER_OTLP_ENDPOINT=http://{HOST}:{port}")


def understood(body: bytes) -> ExportTraceServiceRequest:
    """Parse OTLP/JSON; raise where a field is unknown or malformed, or an id not hexadecimal."""
    # Only ids are hexadecimal: https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding
    document = json.loads(body, object_hook=with_ids_as_protobuf_has_them)
    return ParseDict(document, ExportTraceServiceRequest())


def with_ids_as_protobuf_has_them(fields: dict[str, Any]) -> dict[str, Any]:
    """Turn ids into base64, as protobuf's own JSON writes bytes."""
    ids = {name: bytes.fromhex(fields[name]) for name in IDS if name in fields}
    return fields | {name: base64.b64encode(value).decode() for name, value in ids.items()}


def values(attributes: Any) -> dict[str, str | int | float | bool]:
    """What attributes say, by their names."""
    return {pair.key: value(pair) for pair in attributes}


def value(pair: KeyValue) -> Any:
    """The one value that is set."""
    return getattr(pair.value, str(pair.value.WhichOneof("value")))
