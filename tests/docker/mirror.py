"""A company's package index: a folder of wheels over TLS, for those who sign in.

Run in a container of its own: `python mirror.py FOLDER CERTIFICATE KEY USER:PASSWORD`.
"""

import base64
import ssl
import sys
from http.server import SimpleHTTPRequestHandler
from http.server import ThreadingHTTPServer
from pathlib import Path

FOLDER, CERTIFICATE, KEY, ACCOUNT = sys.argv[1:]
CREDENTIALS = f"Basic {base64.b64encode(ACCOUNT.encode()).decode()}"


class Index(SimpleHTTPRequestHandler):
    """One connection: `.../simple/NAME/` lists the wheels of a package, the rest is their files."""

    def __init__(self, *arguments: object) -> None:
        """Serve the wheels."""
        super().__init__(*arguments, directory=FOLDER)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """Answer with a page of the index or a wheel; 401 without the credentials."""
        if self.headers["Authorization"] != CREDENTIALS:
            self.send_response(401)
            self.send_header("WWW-Authenticate", "Basic")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif "/simple/" in self.path:
            self._list(self.path.split("/")[-2])
        else:
            super().do_GET()

    def _list(self, package: str) -> None:
        names = [path.name for path in Path(FOLDER).glob("*.whl")]
        own = [name for name in names if name.split("-")[0].lower().replace("_", "-") == package]
        page = "".join(f'<a href="/{name}">{name}</a>' for name in own).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)


server = ThreadingHTTPServer(("", 443), Index)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(CERTIFICATE, KEY)
server.socket = context.wrap_socket(server.socket, server_side=True)
print("listening", flush=True)
server.serve_forever()
