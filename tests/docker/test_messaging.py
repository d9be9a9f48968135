"""Events of a service as compose runs it: the API, the relay, the consumer and the broker."""

import json
import os
import re
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.docker.collector import Collector
from tests.docker.collector import values
from tests.docker.containers import Bake
from tests.docker.containers import ask
from tests.docker.containers import docker
from tests.docker.containers import eventually
from tests.docker.containers import status
from tests.docker.project import Project
from tests.docker.project import deployed

pytestmark = [pytest.mark.docker, pytest.mark.slow]

SECONDS = 120.0
# Sends a message to the service's queue, as any sender on the broker may.
SEND = """
import asyncio, sys, aio_pika
from service.chassis.messaging import topology
from service.chassis.messaging.settings import MessagingSettings
async def send():
    async with await topology.connect(MessagingSettings.load(), "test") as connection:
        channel = await topology.open_channel(connection)
        message = aio_pika.Message(sys.argv[1].encode(), message_id=sys.argv[2])
        await channel.default_exchange.publish(message, topology.QUEUE)
asyncio.run(send())
"""
READY = """
from urllib.request import urlopen
print(urlopen("http://localhost:5000/readyz").status)
"""


@pytest.fixture(scope="module")
def project(bake: Bake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The service, its image built."""
    folder = tmp_path_factory.mktemp("messaging")
    with deployed(bake, folder, database="postgresql", messaging="rabbitmq") as project:
        yield project


@pytest.fixture(scope="module", autouse=True)
def up(project: Project) -> None:
    """Everything runs, as by `make up`."""
    project.make("up")


def place(project: Project, quantity: int = 1, **headers: str) -> None:
    """Place an order for cups of tea."""
    order = {"reference": uuid.uuid4().hex, "sku": "tea", "quantity": quantity}
    sent = {"Content-Type": "application/json", **headers}
    code, _, body = ask(project.port(), "/v1/orders", "POST", json.dumps(order), sent)
    assert code == 201, body


def sold(project: Project) -> int:
    """Return how many cups the events of orders add up to."""
    answer = json.loads(ask(project.port(), "/v1/sales")[2])
    return sum(item["quantity"] for item in answer.get("items", ()))


def wait_sold(project: Project, count: int) -> None:
    """Return once so many are sold."""
    eventually(lambda: sold(project) == count, f"{count} sold", SECONDS)


def worker(project: Project, name: str) -> str:
    """Return compose's name of the relay or of the consumer."""
    return f"{project.service.name}-{name}"


def test_make_up_starts_all_and_waits_until_they_are_healthy(project: Project) -> None:
    for name in ("relay", "consumer", "broker"):
        state = project.container(worker(project, name))["State"]
        assert state["Health"]["Status"] == "healthy"


@pytest.mark.parametrize("name", ["relay", "consumer"])
def test_a_worker_becomes_ready(project: Project, name: str) -> None:
    def is_ready() -> bool:
        command = ("docker", "compose", "exec", "-T", worker(project, name), "python", "-c", READY)
        return "200" in project.run(*command).stdout

    eventually(is_ready, f"the {name} is ready", SECONDS)


def test_an_order_is_sold_by_its_event(project: Project) -> None:
    before = sold(project)
    place(project, 3)
    wait_sold(project, before + 3)
    waiting = "SELECT count(*) FROM outbox"
    eventually(lambda: project.sql(waiting) == "0", "the outbox is empty", SECONDS)


def test_the_broker_is_reached_from_its_network_alone(project: Project) -> None:
    ports = project.container(worker(project, "broker"))["NetworkSettings"]["Ports"]
    assert [bound for bound in ports.values() if bound] == []


def test_while_the_broker_is_away_the_api_is_unharmed_and_nothing_is_lost(
    project: Project,
) -> None:
    before = sold(project)
    project.compose("kill", worker(project, "broker"))
    for _ in range(5):
        place(project)
    eventually(lambda: status(project.port(), "/readyz") == 200, "it is ready", SECONDS)
    assert project.sql("SELECT count(*) FROM outbox") == "5"
    project.compose("start", worker(project, "broker"))
    wait_sold(project, before + 5)


def test_while_the_database_is_away_no_event_is_given_up(project: Project) -> None:
    before = sold(project)
    consumer = project.container(worker(project, "consumer"))["Id"]
    database = project.container(project.database)["Id"]
    docker("stop", consumer)
    for _ in range(5):
        place(project)
    eventually(lambda: project.sql("SELECT count(*) FROM outbox") == "0", "all sent", SECONDS)
    docker("kill", database)
    docker("start", consumer)  # compose would start the database too

    def tries() -> int:
        logs = project.run("docker", "compose", "logs", worker(project, "consumer"))
        return logs.stdout.count("was not handled")

    # More often than CONSUMER_TRIES, for each event.
    eventually(lambda: tries() >= 30, "the consumer tries again and again", SECONDS)
    docker("start", database)
    eventually(lambda: status(project.port(), "/readyz") == 200, "the database is back", SECONDS)
    wait_sold(project, before + 5)
    assert project.make("dlq-list") == "no dead letters\n"


def test_dead_letters_are_listed_and_replayed(project: Project) -> None:
    exec_ = ("exec", "-T", worker(project, "consumer"), "python", "-c", SEND)
    for body, name in (("{", "first"), ('{"specversion": "1.0"}', "second")):
        project.compose(*exec_, body, name)
    eventually(lambda: project.make("dlq-list").count("\n") == 2, "two dead letters", SECONDS)
    letters = [json.loads(line) for line in project.make("dlq-list").splitlines()]
    assert [letter["id"] for letter in letters] == ["first", "second"]
    assert all(letter["reason"].startswith("malformed: ") for letter in letters)
    assert project.make("dlq-replay", "ID=second other") == "1 replayed\n"
    # It is malformed still, and comes back.
    eventually(lambda: project.make("dlq-list").count("\n") == 2, "it is back", SECONDS)
    assert project.make("dlq-replay") == "2 replayed\n"
    assert project.sql("SELECT count(*) FROM inbox WHERE source = '/none'") == "0"


def test_a_restart_of_all_containers_loses_nothing(project: Project) -> None:
    before = sold(project)
    for _ in range(10):
        place(project)
    project.compose("restart")
    eventually(lambda: status(project.port(), "/readyz") == 200, "the service is back", SECONDS)
    wait_sold(project, before + 10)


def test_one_trace_spans_request_outbox_relay_and_handler(project: Project) -> None:
    template = "{{(index .IPAM.Config 0).Gateway}}"
    host = docker("network", "inspect", "--format", template, f"{project.service.name}_default")
    trace = os.urandom(16)
    parent = os.urandom(8)
    wanted = {"POST /v1/orders", "INSERT", "publish events"}
    wanted.add(f"process {project.service.name}.events")
    with closing(Collector()) as collector:
        endpoint = f"http://{host}:{collector.server_port}"
        project.make("up", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
        place(project, traceparent=f"00-{trace.hex()}-{parent.hex()}-01")

        def names() -> set[str]:
            return {span.name for span in collector.spans if span.trace_id == trace}

        eventually(lambda: wanted <= names(), f"spans: {names()}", SECONDS)
        spans = {span.name: span for span in collector.spans if span.trace_id == trace}
    assert collector.faults == []
    request = spans["POST /v1/orders"]
    sent = spans["publish events"]
    handled = spans[f"process {project.service.name}.events"]
    assert request.parent_span_id == parent
    assert sent.parent_span_id == request.span_id
    assert handled.parent_span_id == sent.span_id
    said = values(handled.attributes)
    assert said["messaging.system"] == "rabbitmq"
    assert said["messaging.operation.type"] == "process"
    assert said["messaging.message.id"] == values(sent.attributes)["messaging.message.id"]
    logs = project.run("docker", "compose", "logs", worker(project, "consumer")).stdout
    assert trace.hex() in logs


def test_a_stop_ends_the_workers_with_status_0(project: Project) -> None:
    names = [worker(project, name) for name in ("relay", "consumer")]
    project.compose("stop", *names)
    assert [project.container(name)["State"]["ExitCode"] for name in names] == [0, 0]
    project.compose("start", *names)


def test_no_log_or_environment_holds_a_password(project: Project) -> None:
    told = project.told()
    secrets = [file.read_text() for file in (project.service / ".secrets").iterdir()]
    assert len(secrets) == 4
    assert [secret for secret in secrets if secret in told] == []


def test_make_test_messaging_passes(project: Project) -> None:
    tools = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # uv among them, to be quick
    told = project.make("test-messaging", PATH=tools, PORT="5000")
    assert re.search(r"\d+ passed in", told)
    assert "skipped" not in told
    left = docker("ps", "--all", "--quiet", "--filter", f"name={project.service.name}-test")
    assert left == ""
