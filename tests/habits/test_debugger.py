"""Flask's development server shows its debugger where a view of the service fails."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SECONDS = 60  # at most, until the server answers


class Server:
    """`make dev` with a view that fails, on a free port."""

    def __init__(self, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._log = log
        path = os.pathsep.join((str(HERE), os.environ["PYTHONPATH"]))
        serve = ("--app", "debugged", "run", "--debug", "--port", str(self.port))
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                (sys.executable, "-m", "flask", *serve),
                env=os.environ | {"PYTHONPATH": path, "LOG_FORMAT": "text"},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def output(self) -> str:
        """Return all that it has written."""
        return self._log.read_text("utf-8")

    def get(self, path: str) -> tuple[int, str | None, str]:
        """Return status, type and body of an answer, once there is one."""
        until = time.monotonic() + SECONDS
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                return answer.status, answer.headers["Content-Type"], answer.read().decode()
            except ConnectionError:
                if time.monotonic() > until:
                    pytest.fail(self.output())
                time.sleep(0.05)
            finally:
                connection.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """The server, which is killed in the end with its reloader."""
    server = Server(tmp_path / "log")
    yield server
    os.killpg(server.process.pid, signal.SIGKILL)
    server.process.wait()


def test_the_debugger_appears_and_its_pin_is_told(server: Server) -> None:
    status, media_type, page = server.get("/fail")
    assert (status, media_type) == (500, "text/html; charset=utf-8")
    assert "<h1>ZeroDivisionError</h1>" in page
    assert "// Werkzeug Debugger</title>" in page
    assert server.get("/livez")[0] == 200
    output = server.output()
    assert f"Running on http://127.0.0.1:{server.port}" in output
    assert "Debugger PIN: " in output
    assert output.count("/fail") == output.count("GET /fail 500") == 1
