"""An image built in a company's network: from its index, with its certificates and a password."""

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.docker.containers import docker
from tests.docker.containers import eventually
from tests.docker.containers import told
from tests.docker.project import Project

pytestmark = pytest.mark.docker

PASSWORD = uuid.uuid4().hex
DOWNLOAD = ("pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest=/wheels")
SERVE = f"""
openssl req -x509 -newkey rsa:2048 -nodes -days 1 -keyout /tmp/key.pem -out /tmp/ca.pem \\
    -subj /CN=mirror -addext "subjectAltName=IP:$(hostname -i)" \\
    -addext basicConstraints=critical,CA:FALSE 2>/dev/null
exec python /mirror.py /wheels /tmp/ca.pem /tmp/key.pem team:{PASSWORD}
"""


@dataclass
class Mirror:
    """A company's index in a container, and what its developers have in their environment."""

    container: str
    address: str
    environment: dict[str, str]

    def asked(self) -> str:
        """Return the lines of its log."""
        return told(("docker", "logs", self.container))


@pytest.fixture(scope="module")
def mirror(service: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirror]:
    """The index, with the wheels of the service's lock."""
    folder = tmp_path_factory.mktemp("mirror")
    mounts = f"--volume={service}/requirements.txt:/requirements.txt:ro"
    wheels = f"--volume={folder}:/wheels"
    python = "python:3.14-slim"
    docker("run", "--rm", mounts, wheels, python, *DOWNLOAD, "--requirement=/requirements.txt")
    script = f"--volume={ROOT}/tests/docker/mirror.py:/mirror.py:ro"
    container = docker("run", "--detach", script, f"{wheels}:ro", python, "sh", "-c", SERVE)
    try:
        eventually(lambda: "listening" in told(("docker", "logs", container)), "listening")
        network = json.loads(docker("inspect", container))[0]["NetworkSettings"]["Networks"]
        address = network["bridge"]["IPAddress"]
        certificate = folder / "ca.pem"
        certificate.write_text(docker("exec", container, "cat", "/tmp/ca.pem"), "utf-8")
        netrc = folder / "netrc"
        netrc.write_text(f"machine {address} login team password {PASSWORD}\n", "utf-8")
        index = f"https://{address}/{uuid.uuid4()}/simple"  # a new one, so that nothing is cached
        files = {"SSL_CERT_FILE": str(certificate), "NETRC": str(netrc)}
        yield Mirror(container, address, {"UV_DEFAULT_INDEX": index, **files})
    finally:
        docker("rm", "--force", "--volumes", container)


def test_make_image_takes_the_packages_from_the_company_s_index_and_keeps_no_trace_of_it(
    service: Path, mirror: Mirror, tmp_path: Path
) -> None:
    tag = f"template-test-{uuid.uuid4().hex[:12]}"
    Project(service, tag).make("image", **mirror.environment)
    try:
        history = docker("history", "--no-trunc", tag) + docker("inspect", tag)
        docker("save", "--output", str(tmp_path / "image.tar"), tag)
    finally:
        docker("rmi", "--force", tag)
    assert '"GET /flask-3' in mirror.asked()
    saved = (tmp_path / "image.tar").read_bytes() + history.encode()
    certificate = Path(mirror.environment["SSL_CERT_FILE"]).read_text("utf-8").splitlines()[1]
    traces = (mirror.address, PASSWORD, certificate)
    assert b"app/src/service/app.py" in saved
    assert [trace for trace in traces if trace.encode() in saved] == []
