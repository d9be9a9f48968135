"""Containers that a test starts: hardened, published on 127.0.0.1 alone, removed in the end."""

import http.client
import json
import subprocess
import time
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HARDENED = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--user=12345")
START_SECONDS = 60.0
# Python for inside a container: ends all processes but the first and this one, as the kernel's
# out-of-memory killer does.
KILL_WORKER = """
import os
for name in os.listdir("/proc"):
    if name.isdigit() and int(name) not in (1, os.getpid()):
        os.kill(int(name), 9)
"""

# No test cuts the power; on a disk that all share, a commit may take longer than a request may.
NO_FSYNC = ("-c", "fsync=off")

Run = Callable[..., "Container"]
Bake = Callable[..., Path]


def told(command: Sequence[str]) -> str:
    """Return what a command prints, to standard output and error, however it ends."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.stdout


def docker(*arguments: str, stdin: str | None = None) -> str:
    """Return what docker prints; on failure the error shows what it complained of."""
    done = subprocess.run(("docker", *arguments), input=stdin, capture_output=True, text=True)
    assert done.returncode == 0, f"docker {' '.join(arguments)}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


def build(folder: Path, tag: str, *options: str) -> str:
    """Build the folder's image and return what BuildKit reports, one line per step and result."""
    command = ("docker", "build", "--progress", "plain", "--tag", tag, *options, str(folder))
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


def eventually(condition: Callable[[], bool], what: str, seconds: float = START_SECONDS) -> None:
    """Wait until the condition holds; fail after `seconds`."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"not within {seconds} s: {what}"
        time.sleep(0.05)


class Container:
    """One running container of the service."""

    def __init__(self, image: str, *options: str, command: Sequence[str] = ()) -> None:
        """Start it with the hardening that the README promises, and `docker run`'s options."""
        self.id = docker("run", "--detach", *HARDENED, *options, image, *command)

    @property
    def state(self) -> dict[str, Any]:
        """Docker's view: Status, ExitCode, Health and more."""
        text = docker("inspect", "--format", "{{json .State}}", self.id)
        state: dict[str, Any] = json.loads(text)
        return state

    @property
    def port(self) -> int:
        """The port of 127.0.0.1 that leads to the first published one."""
        return int(docker("port", self.id).splitlines()[0].rpartition(":")[2])

    def wait_until_ready(self) -> "Container":
        """Return when `/readyz` says 200."""
        port = self.port
        eventually(lambda: status(port, "/readyz") == 200, f"ready\n{self.logs()}")
        return self

    def exit_code(self) -> int:
        """Wait for the end and return its status."""
        return int(docker("wait", self.id))

    def logs(self, last: int = 1000) -> str:
        """The last lines that the container wrote, to standard output and error."""
        command = ("docker", "logs", "--tail", str(last), self.id)
        return told(command)

    def lines(self) -> list[dict[str, Any]]:
        """All lines of its standard output; each must be a JSON object."""
        output = subprocess.run(("docker", "logs", self.id), capture_output=True, check=True).stdout
        return [dict(json.loads(line)) for line in output.removesuffix(b"\n").split(b"\n")]

    def python(self, code: str) -> str:
        """Run code by the image's interpreter inside the container and return what it prints."""
        return docker("exec", self.id, "python", "-c", code)

    def remove(self) -> None:
        """End it at once; the end of its log goes to the test's captured output."""
        print(self.logs(last=20))
        docker("rm", "--force", "--volumes", self.id)


def kill_worker(container: str) -> None:
    """End all its processes but the first, which may end the container before this returns."""
    told(("docker", "exec", container, "python", "-c", KILL_WORKER))


def ask(
    port: int,
    path: str,
    method: str = "GET",
    body: str | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = 30,
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Return status, headers and body of one request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, body, headers or {})
        reply = connection.getresponse()
        return reply.status, reply.headers, reply.read()
    finally:
        connection.close()


def fetch(
    port: int, path: str, method: str = "GET", body: str | None = None
) -> tuple[int, str, bytes]:
    """Return status, content type and body of one request, whose body is JSON."""
    sent = {"Content-Type": "application/json"} if body else {}
    code, headers, content = ask(port, path, method, body, sent)
    return code, headers["Content-Type"], content


def status(port: int, path: str) -> int | None:
    """Return the status of one request; None where nothing answers."""
    try:
        return fetch(port, path)[0]
    except (OSError, http.client.HTTPException):
        return None


def without_fsync(service: Path) -> Path:
    """Return a copy of a service whose database, if it has one, does not wait for the disk."""
    compose = service / "compose.database.yaml"
    if compose.exists():
        image = "    image: postgres:18\n"
        text = compose.read_text("utf-8")
        assert text.count(image) == 1
        compose.write_text(text.replace(image, f"{image}    command: {json.dumps(NO_FSYNC)}\n"))
    return service


def replaced(folder: Path, service: Path, appended: str) -> tuple[str, str]:
    """Return the option that mounts the service's app.py with lines appended, from `folder`."""
    app = folder / "app.py"
    text = (service / "src/service/app.py").read_text("utf-8")
    app.write_text(text + appended, "utf-8")
    return "--volume", f"{app}:/app/src/service/app.py:ro"
