"""The image of a baked service: how it is built, and what only a running container can show."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import uuid
from functools import partial
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.docker.containers import Bake
from tests.docker.containers import Run
from tests.docker.containers import build
from tests.docker.containers import docker
from tests.docker.containers import eventually
from tests.docker.containers import fetch
from tests.docker.containers import kill_worker
from tests.docker.containers import replaced
from tests.docker.containers import status
from tests.docker.load import Answer
from tests.docker.load import Client
from tests.docker.load import KeepAliveLoad
from tests.docker.load import SlowSenders
from tests.docker.load import at_once

pytestmark = pytest.mark.docker


def test_docker_and_hadolint_find_nothing_in_the_dockerfile(service: Path) -> None:
    docker("build", "--check", str(service))
    hadolint = Path(sys.executable).with_name("hadolint")
    command = (hadolint, service / "Dockerfile")
    assert subprocess.run(command, capture_output=True, text=True).stdout == ""


def test_the_labels_say_what_the_image_holds(image: str) -> None:
    labels = json.loads(docker("inspect", "--format", "{{json .Config.Labels}}", image))
    prefix = "org.opencontainers.image."
    said = {name: text for name, text in labels.items() if name.startswith(prefix)}
    assert said == {
        f"{prefix}title": "flask-microservice",
        f"{prefix}version": "1.2.3",
        f"{prefix}revision": "abc",
    }


def test_the_image_runs_as_a_numeric_user_and_holds_no_shell_form(image: str) -> None:
    config = json.loads(docker("inspect", "--format", "{{json .Config}}", image))
    assert (config["User"], config["Cmd"], config.get("Entrypoint")) == (
        "10001:10001",
        ["python", "-m", "service"],
        None,
    )


def test_the_image_holds_nothing_but_the_service(image: str) -> None:
    listed = docker("run", "--rm", image, "find", "/app", "-not", "-path", "/app/src/service*")
    assert sorted(listed.splitlines()) == ["/app", "/app/pyproject.toml", "/app/src"]


def test_what_lies_beside_the_code_stays_out_of_the_image(
    bake: Bake, image: str, tmp_path: Path
) -> None:
    used = shutil.copytree(bake(database="postgresql"), tmp_path / "service")
    strays = ("src/.env", "src/service/key.pem", "migrations/dump.sql", "migrations/versions/.env")
    for stray in (*strays, ".env", "backups/today.dump"):
        (used / stray).parent.mkdir(exist_ok=True)
        (used / stray).write_text("secret", "utf-8")
    build(used, f"{image}:used")
    command = ("find", "/app", "-type", "f", "-not", "-name", "*.py")
    assert docker("run", "--rm", f"{image}:used", *command) == "/app/pyproject.toml"


def test_the_image_has_no_installer_for_its_packages(image: str) -> None:
    listed = docker("run", "--rm", image, "sh", "-c", "ls /opt/venv/bin; command -v uv || true")
    assert not {"pip", "uv", "/usr/local/bin/uv"} & set(listed.split())


def test_a_start_compiles_almost_nothing(image: str) -> None:
    code = (
        "import os, sys, service.__main__, service.app, service.chassis.server.granian\n"
        "from importlib.util import cache_from_source\n"
        "files = [getattr(m, '__file__', None) or '' for m in sys.modules.values()]\n"
        "files = [file for file in files if file.endswith('.py')]\n"
        "cached = [os.path.exists(cache_from_source(file)) for file in files]\n"
        "print(len(cached), cached.count(False))"
    )
    imported, missing = map(int, docker("run", "--rm", image, "python", "-c", code).split())
    assert missing < imported / 20


def test_a_new_dependency_has_bytecode_from_its_line_in_the_lock_alone(
    service: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(service, tmp_path / "service")
    development = (copy / "requirements-dev.txt").read_text("utf-8")
    (pin,) = re.findall(r"^pyyaml==(?:.*\\\n)+.*\n", development, re.MULTILINE)
    with (copy / "requirements.txt").open("a", encoding="utf-8") as file:
        file.write(pin)
    tag = f"template-test-{uuid.uuid4().hex[:12]}"
    build(copy, tag)
    try:
        found = "import os, yaml; print(os.path.exists(yaml.__cached__))"
        assert docker("run", "--rm", "--read-only", tag, "python", "-c", found).strip() == "True"
    finally:
        docker("rmi", "--force", tag)


def test_an_edit_of_the_source_leaves_the_dependencies_as_they_are(
    service: Path, image: str, tmp_path: Path
) -> None:
    edited = shutil.copytree(service, tmp_path / "service")
    with (edited / "src/service/app.py").open("a", encoding="utf-8") as file:
        file.write(f"# edited {time.time_ns()}\n")
    steps = build(edited, f"{image}:edited").split("\n\n")
    redone = [step for step in steps if " RUN " in step and "CACHED" not in step]
    redone = [step.splitlines()[0].partition("] ")[2] for step in redone]
    assert [command.partition(" -R")[0] for command in redone] == ["RUN chmod"]


def rootfs_digest(service: Path, folder: Path, mtime: float) -> str:
    """Build a copy of the service, dated `mtime`, without cache; return the digest of its files."""
    context = shutil.copytree(service, folder / "context")
    for path in context.rglob("*"):
        os.utime(path, (mtime, mtime))
    target = folder / "image.tar"
    options = ("--no-cache", "--provenance=false", "--output", f"type=tar,dest={target}")
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1000000000"}
    command = ("docker", "buildx", "build", "--quiet", *options, str(context))
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return hashlib.sha256(target.read_bytes()).hexdigest()


def test_two_builds_of_one_source_give_the_same_bytes(service: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one = rootfs_digest(service, tmp_path / "one", 1e9)
    assert rootfs_digest(service, tmp_path / "two", 1.5e9) == one


def test_a_source_that_nobody_else_may_read_still_makes_an_image_that_runs(
    service: Path, image: str, run: Run, tmp_path: Path
) -> None:
    private = shutil.copytree(service, tmp_path / "service")
    for path in private.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    build(private, f"{image}:private")
    run(image=f"{image}:private").wait_until_ready()


@pytest.mark.parametrize("python_version", ["3.14", "3.13"])
def test_an_image_of_each_python_runs_hardened(
    bake: Bake, image: str, run: Run, python_version: str
) -> None:
    tag = f"{image}:{python_version}"
    build(bake(python_version=python_version), tag)
    container = run(image=tag).wait_until_ready()
    assert container.python("import sys; print('%d.%d' % sys.version_info[:2])") == python_version


def test_a_hardened_container_writes_nothing(run: Run) -> None:
    container = run().wait_until_ready()
    assert docker("diff", container.id) == ""


# JSON that takes many times its size, in bodies of the largest size that is accepted.
BOMBS = {
    "objects": ("{{}}", '{"lines":[', "]}"),
    "lists": ("[[]]", "[", "]"),
    "digits": ("1e308", '{"lines":[', "]}"),
    "names": ('"{}":1', "{", "}"),
}

LIMITS = (
    "python",
    "-c",
    "from pathlib import Path\n"
    "from service.chassis.server.settings import ServerSettings, default_concurrency\n"
    "settings = ServerSettings()\n"
    "at_work = default_concurrency(settings.max_body_size, Path('/limits'))\n"
    "print(settings.max_body_size, at_work, settings.max_queue)",
)


def post_quote(client: Client, _: int, body: bytes) -> Answer:
    """Send a body."""
    return client("POST", "/v1/quotes", body)


@pytest.mark.parametrize("mebibytes", [128, 384], ids=["small", "as compose.yaml has it"])
def test_as_many_of_the_worst_bodies_as_are_let_in_fit_into_memory(
    run: Run, image: str, tmp_path: Path, mebibytes: int
) -> None:
    # The older control groups, which an engine may use, do not tell the service its limit.
    (tmp_path / "memory.max").write_text(str(mebibytes * 1024 * 1024))
    folder = f"--volume={tmp_path}:/limits:ro"
    size, at_work, waiting = map(
        int, docker("run", "--rm", "--user=0", folder, image, *LIMITS).split()
    )
    memory = (f"--memory={mebibytes}m", f"--memory-swap={mebibytes}m", "--env=QUEUE_TIMEOUT=30")
    container = run(*memory, f"--env=CONCURRENCY={at_work}").wait_until_ready()
    for item, start, end in BOMBS.values():
        count = size // len(item.format(10_000) + ",") - 10
        body = start + ",".join(item.format(10_000 + number) for number in range(count)) + end
        ask = partial(post_quote, body=body.encode())
        answers = at_once(container.port, ask, at_work + waiting)
        assert {answer.status for answer in answers} == {422}
    assert (container.state["Status"], status(container.port, "/livez")) == ("running", 200)


@pytest.mark.parametrize("options", [(), ("--env", "PORT=8000")])
def test_the_health_check_turns_healthy(run: Run, options: tuple[str, ...]) -> None:
    container = run(*options)
    eventually(lambda: container.state["Health"]["Status"] == "healthy", "healthy")


def test_the_health_check_fails_where_nothing_answers(run: Run) -> None:
    container = run().wait_until_ready()
    shown = docker("inspect", "--format", "{{json .Config.Healthcheck.Test}}", container.id)
    check = json.loads(shown)[1:]
    command = ("docker", "exec", "--env", "PORT=5001", container.id, *check)
    assert subprocess.run(command, capture_output=True).returncode == 1


def test_every_operation_without_parameters_answers(run: Run) -> None:
    port = run().wait_until_ready().port
    paths = json.loads(fetch(port, "/openapi.json")[2])["paths"]
    asked = [path for path, operations in paths.items() if "get" in operations and "{" not in path]
    asked += ["/livez", "/readyz", "/metrics", "/docs/", "/v1/products/tea"]
    assert {path: status(port, path) for path in asked} == dict.fromkeys(asked, 200)


def test_a_request_with_a_body_answers(run: Run) -> None:
    body = json.dumps({"lines": [{"sku": "tea", "quantity": 2}]})
    code, _, answer = fetch(run().wait_until_ready().port, "/v1/quotes", "POST", body)
    assert (code // 100, "total_cents" in json.loads(answer)) == (2, True)


def test_an_unknown_route_is_a_problem(run: Run) -> None:
    code, media_type, body = fetch(run().wait_until_ready().port, "/nothing")
    assert (code, media_type, json.loads(body)["status"]) == (404, "application/problem+json", 404)


def test_the_metrics_parse_and_count_the_requests(run: Run) -> None:
    port = run().wait_until_ready().port
    for _ in range(3):
        fetch(port, "/v1/products")
    text = fetch(port, "/metrics")[2].decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    samples = families["http_server_request_duration_seconds"].samples
    assert [sample.value for sample in samples if sample.name.endswith("_count")] == [3]


def test_clients_that_follow_readiness_lose_no_request_when_it_stops(run: Run) -> None:
    container = run("--env", "DRAIN_DELAY=8").wait_until_ready()
    load = KeepAliveLoad(container.port, "/v1/products", clients=4)
    eventually(lambda: load.answered > 100, "100 requests")
    started = time.monotonic()
    docker("kill", "--signal", "TERM", container.id)
    code = container.exit_code()
    load.join(seconds=10)
    assert (load.failures, code) == ([], 0)
    assert time.monotonic() - started < 8 + 20  # DRAIN_DELAY and SHUTDOWN_GRACE


def test_probes_answer_within_50_ms_while_200_slow_requests_hang(run: Run) -> None:
    container = run("--env", "REQUEST_TIMEOUT=60").wait_until_ready()
    with SlowSenders(container.port, count=200):
        assert status(container.port, "/v1/products") == 503
        # A round may catch a pause of the machine that the tests run on.
        eventually(lambda: max(probe_for(0.6, container.port)) < 0.05, "a round within 50 ms")


def probe_for(duration: float, port: int) -> list[float]:
    """Ask `/livez` on new connections for so many seconds; return what each answer took."""
    until = time.monotonic() + duration
    taken = []
    while (started := time.monotonic()) < until:
        assert status(port, "/livez") == 200
        taken.append(time.monotonic() - started)
        time.sleep(0.02)
    return taken


def test_a_killed_worker_ends_the_container_with_an_error(run: Run) -> None:
    container = run().wait_until_ready()
    kill_worker(container.id)
    assert container.exit_code() == 1


def test_a_port_in_use_ends_the_start_with_one_line(run: Run) -> None:
    first = run().wait_until_ready()
    second = run("--network", f"container:{first.id}")
    assert second.exit_code() == 1
    assert second.logs() == "cannot listen on 0.0.0.0 port 5000: Address already in use\n"


def test_bad_settings_are_all_told_at_once(run: Run) -> None:
    container = run("--env", "PORT=none", "--env", "CONCURRENCY=0")
    assert container.exit_code() == 2
    named = [line.split(": ")[1] for line in container.logs().splitlines()]
    assert named == ["PORT", "CONCURRENCY"]


def test_a_failing_start_is_told_once(run: Run, service: Path, tmp_path: Path) -> None:
    broken = "\n\ndef create_app(settings=None):\n    raise RuntimeError('broken')\n"
    container = run(*replaced(tmp_path, service, broken))
    assert (container.exit_code(), container.logs().count("RuntimeError: broken")) == (3, 1)


def test_sigterm_during_the_start_ends_it(run: Run, service: Path, tmp_path: Path) -> None:
    steps = ("import time", "print('loading', flush=True)", "time.sleep(600)")
    slow = "\n    ".join(("\n\ndef create_app(settings=None):", *steps, ""))
    container = run("--env", "SHUTDOWN_GRACE=60", *replaced(tmp_path, service, slow))
    eventually(lambda: "loading" in container.logs(), "loading")
    docker("kill", "--signal", "TERM", container.id)
    started = time.monotonic()
    assert (container.exit_code(), time.monotonic() - started < 45) == (0, True)
