"""The relay and the consumer as processes, with a real RabbitMQ and PostgreSQL."""

import json
import logging
import signal
from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import aio_pika
import pytest
import sqlalchemy as sa
from aio_pika.abc import AbstractChannel
from messages import BROKER
from messages import EFFECTS
from messages import RAISED
from messages import Ping
from messages import Unwanted
from messages import count
from messages import on_channel
from messages import only_broker
from support import PARENT
from support import ROOT
from support import TRACE
from support import Process
from support import Start
from support import wait_until

from service.chassis.data.connections import Database
from service.chassis.messaging import dead_letters
from service.chassis.messaging import outbox
from service.chassis.messaging import topology
from service.chassis.messaging.events import MAX_SIZE
from service.chassis.messaging.settings import MessagingSettings
from service.chassis.messaging.worker import Worker
from service.chassis.server.settings import ServerSettings

pytestmark = [only_broker, pytest.mark.usefixtures("connection")]

WAIT = 60.0  # seconds
WORKS_AGAIN = "the consumer works again"
UNWANTED_QUEUE = f"{topology.QUEUE}.unwanted"
QUEUES = (topology.QUEUE, topology.DEAD_QUEUE, UNWANTED_QUEUE)


class Lab(NamedTuple):
    """The database and the broker, and workers on them."""

    database: Database
    start: Callable[..., Process]

    def publish(self, number: int, key: str = "a", what: str = "") -> str:
        """Publish a ping in a transaction of its own."""
        with self.database.transaction() as connection:
            return outbox.publish(connection, Ping(number=number, what=what), key)

    def effects(self) -> list[tuple[str, int]]:
        """Return the keys and numbers of all effects, in their order."""
        select = sa.select(EFFECTS.c.key, EFFECTS.c.number).order_by(EFFECTS.c.id)
        with self.database.read() as connection:
            return [(key, number) for key, number in connection.execute(select)]

    def wait_effects(self, expected: list[tuple[str, int]]) -> None:
        """Return once these are all effects, in any order of their keys."""
        wait_until(lambda: sorted(self.effects()) == sorted(expected), WAIT)


async def delete_queues(channel: AbstractChannel, names: Iterable[str] = QUEUES) -> None:
    for name in names:
        await channel.queue_delete(name)


@pytest.fixture
def lab(start: Start, store: Database) -> Lab:
    """Empty tables, and a broker without queues."""
    on_channel(delete_queues)
    script = str(ROOT / "tests" / "messages.py")

    def run(name: str, ready: bool = True, **environment: str) -> Process:
        process = start(name, script, name, ready=False, BROKER_URL=BROKER, **environment)
        if ready:
            process.wait_ready(WAIT)
        return process

    return Lab(store, run)


def send(
    body: bytes, headers: Any = None, message_id: str = "sent", queue: str = topology.QUEUE
) -> None:
    """Send a message as any sender on the broker may."""
    message = aio_pika.Message(body, message_id=message_id, headers=headers)
    on_channel(lambda channel: channel.default_exchange.publish(message, queue))


def replay(*ids: str) -> int:
    return on_channel(lambda channel: dead_letters.replay(channel, ids))


def letters(number: int) -> list[dict[str, Any]]:
    """Return the dead letters once there are so many: one that was read is back a moment later."""
    found: list[dict[str, Any]] = []

    def are_there() -> bool:
        found[:] = on_channel(dead_letters.list_all)
        return len(found) == number

    wait_until(are_there, WAIT)
    return found


def reasons(process: Process) -> list[str]:
    return [line["message"] for line in process.lines() if line["logger"] == "service.messaging"]


def test_an_event_that_is_published_is_handled(lab: Lab) -> None:
    for number in range(20):
        lab.publish(number, key="ab"[number % 2])
    relay = lab.start("relay")
    consumer = lab.start("consume")
    lab.wait_effects([("ab"[number % 2], number) for number in range(20)])
    numbers = [[number for key, number in lab.effects() if key == one] for one in "ab"]
    assert numbers == [list(range(0, 20, 2)), list(range(1, 20, 2))]
    with lab.database.read() as connection:
        wait_until(lambda: outbox.backlog(connection).events == 0, WAIT)
    assert [process.stop() for process in (relay, consumer)] == [0, 0]


def test_a_worker_answers_probes_and_shows_its_metrics(lab: Lab) -> None:
    relay = lab.start("relay")
    consumer = lab.start("consume")
    lab.publish(1)
    lab.wait_effects([("a", 1)])
    sent = 'messaging_client_sent_messages_total{event_type="lab.ping",outcome="sent"} 1.0'
    done = 'messaging_client_consumed_messages_total{event_type="lab.ping",outcome="done"} 1.0'
    for process, sample in ((relay, sent), (consumer, done)):
        assert process.get("/livez")[0] == 200
        assert process.get("/none")[0] == 404
        wait_until(lambda: sample in process.get("/metrics")[2].decode(), WAIT)  # noqa: B023
        assert "target_info{" in process.get("/metrics")[2].decode()
    wait_until(lambda: relay.gauge("messaging_outbox_events") == 0, WAIT)
    assert consumer.gauge("messaging_dead_letters") == 0


def test_an_events_trace_goes_on_in_its_handler(lab: Lab) -> None:
    lab.start("consume")
    event = {"specversion": "1.0", "id": "1", "source": "/x", "type": Ping.TYPE, "subject": "a"}
    traceparent = f"00-{TRACE}-{PARENT}-01"
    body = event | {"data": {"number": 1}, "traceparent": traceparent}
    send(json.dumps(body).encode())
    send(
        json.dumps(body | {"id": "2", "traceparent": "x"}).encode(),
        headers={"traceparent": traceparent},
    )
    lab.wait_effects([("a", 1), ("a", 1)])
    with lab.database.read() as connection:
        assert set(connection.scalars(sa.select(EFFECTS.c.trace_id))) == {TRACE}
        (answer, _) = connection.scalars(sa.select(outbox.OUTBOX.c.traceparent))
    assert TRACE in str(answer)


def test_two_relays_send_each_event_in_order(lab: Lab) -> None:
    for number in range(300):
        lab.publish(number, key=f"k{number % 7}")
    for _ in range(2):
        lab.start("relay", ready=False)
    lab.start("consume")
    lab.wait_effects([(f"k{number % 7}", number) for number in range(300)])
    for key in {key for key, _ in lab.effects()}:
        numbers = [number for one, number in lab.effects() if one == key]
        assert numbers == sorted(numbers)


def test_a_poison_event_is_parked_while_others_flow_and_replayed_once(lab: Lab) -> None:
    consumer = lab.start("consume", CONSUMER_TRIES="3")
    poison = lab.publish(1, what="poison")
    lab.publish(2)
    lab.publish(3, key="b")
    lab.start("relay")
    lab.wait_effects([("a", 2), ("b", 3)])
    assert lab.effects()[0] == ("b", 3)  # the other key did not wait for the tries
    (letter,) = letters(1)
    assert (letter["id"], letter["type"]) == (poison, Ping.TYPE)
    assert letter["reason"] == "failed 3 times: ValueError: poison"
    assert letter["traceparent"]
    assert letters(1) == [letter]
    assert 'messaging_retries_total{cause="handler"} 2.0' in consumer.get("/metrics")[2].decode()
    assert consumer.stop() == 0
    lab.start("consume", ANTIDOTE="yes")
    wait_until(lambda: count(topology.DEAD_QUEUE) == 1, WAIT)
    assert [replay(), replay()] == [1, 0]
    lab.wait_effects([("a", 1), ("a", 2), ("b", 3)])
    assert letters(0) == []
    wait_until(lambda: count(topology.QUEUE) == 0, WAIT)


def test_what_its_handler_refuses_is_parked_at_once_and_has_no_effect(lab: Lab) -> None:
    consumer = lab.start("consume")
    lab.start("relay")
    refused = lab.publish(1, what="hopeless")
    lab.publish(2)
    lab.wait_effects([("a", 2)])
    (letter,) = letters(1)
    assert (letter["id"], letter["reason"]) == (refused, "refused: nobody can")
    assert "messaging_retries_total{" not in consumer.get("/metrics")[2].decode()
    assert not any("exception.stacktrace" in line for line in consumer.lines())
    done = f"event done: {Ping.TYPE}"
    wait_until(lambda: done in reasons(consumer), WAIT)
    told = [line for line in reasons(consumer) if line.startswith("event ")]
    assert told[:2] == [f"event dead_letter: {Ping.TYPE} refused: nobody can", done]


def test_whatever_a_handler_raises_ends_as_a_dead_letter(lab: Lab) -> None:
    consumer = lab.start("consume", CONSUMER_TRIES="2")
    lab.start("relay")
    for number, what in enumerate(RAISED):
        lab.publish(number, key=what, what=what)
        lab.publish(100, key=what)
    lab.wait_effects([(what, 100) for what in RAISED])
    told = {letter["reason"] for letter in letters(len(RAISED))}
    tried = [
        "concurrent.futures._base.CancelledError",
        "asyncio.exceptions.CancelledError",
        "SystemExit: 3",
        "KeyboardInterrupt",
        "GeneratorExit",
        "StopIteration",
        "UnspeakableError: <exception str() failed>",
    ]
    refused = {"refused: nobody can", "refused: bad ?"}
    assert told == {f"failed 2 times: {one}" for one in tried} | refused
    consumer.wait_ready(WAIT)
    assert consumer.stop() == 0


def test_only_the_dead_letters_that_are_named_are_replayed(lab: Lab) -> None:
    on_channel(lambda channel: topology.declare_queue(channel, ()))
    for number in "1234":
        send(b"{}", message_id=number, queue=topology.DEAD_QUEUE)
    wait_until(lambda: count(topology.DEAD_QUEUE) == 4, WAIT)
    assert replay("2", "3", "9") == 2
    assert [letter["id"] for letter in letters(2)] == ["1", "4"]
    assert count(topology.QUEUE) == 2


def test_what_cannot_be_handled_is_parked_with_its_reason(lab: Lab) -> None:
    consumer = lab.start("consume")
    event = {"specversion": "1.0", "id": "1", "source": "/lab", "type": Ping.TYPE}
    refused = {
        b"\xff\0": "malformed: ",
        b" " * (MAX_SIZE + 1): "oversized: ",
        json.dumps(event | {"type": "lab.unheard", "data": {}}).encode(): "unknown type: ",
        json.dumps(event | {"data": {"number": "1"}}).encode(): "wrong schema: data.number: ",
    }
    for body in refused:
        # A header of a sender's must not make the broker route a copy.
        send(body, headers={"CC": [topology.QUEUE], "x": {"y": [1]}})
    told = sorted(letter["reason"] for letter in letters(len(refused)))
    assert len({reason.partition(":")[0] for reason in told}) == len(refused)
    assert all(any(one.startswith(reason) for one in told) for reason in refused.values())
    assert consumer.popen.poll() is None
    other = 'messaging_client_consumed_messages_total{event_type="_OTHER",outcome="dead_letter"}'
    wait_until(lambda: other in consumer.get("/metrics")[2].decode(), WAIT)


def test_sigterm_lets_a_handler_end_and_gives_the_rest_to_another_in_order(lab: Lab) -> None:
    lab.start("relay")
    consumer = lab.start("consume")
    lab.start("consume")  # stands by
    lab.publish(0, what="slow")
    for number in range(1, 100):
        lab.publish(number)
    wait_until(lambda: consumer.gauge("messaging_lag_seconds") > 0, WAIT)
    with lab.database.read() as connection:
        wait_until(lambda: outbox.backlog(connection).events == 0, WAIT)
    assert consumer.stop() == 0
    lab.wait_effects([("a", number) for number in range(100)])
    assert [number for _, number in lab.effects()] == list(range(100))


def test_a_second_consumer_stands_by(lab: Lab) -> None:
    first = lab.start("consume")
    second = lab.start("consume")
    lab.start("relay")
    for number in range(10):
        lab.publish(number)
    lab.wait_effects([("a", number) for number in range(10)])
    done = 'messaging_client_consumed_messages_total{event_type="lab.ping",outcome="done"}'
    assert done not in second.get("/metrics")[2].decode()
    first.popen.send_signal(signal.SIGKILL)
    lab.publish(10)
    lab.wait_effects([("a", number) for number in range(11)])


def test_a_queue_that_is_deleted_is_made_again(lab: Lab) -> None:
    consumer = lab.start("consume")
    lab.start("relay")
    effects: list[tuple[str, int]] = []
    for number, name in enumerate((topology.QUEUE, topology.DEAD_QUEUE), 1):
        on_channel(partial(delete_queues, names=[name]))
        lab.publish(number)
        effects.append(("a", number))
        lab.wait_effects(effects)
        wait_until(lambda: reasons(consumer).count(WORKS_AGAIN) >= len(effects), WAIT)
    told = [one.partition(":")[0] for one in reasons(consumer) if one.startswith("the ")]
    assert all(one != another for one, another in pairwise(told))
    consumer.wait_ready(WAIT)


def test_a_queue_with_other_arguments_is_told_and_waited_for(lab: Lab) -> None:
    async def remake(channel: AbstractChannel) -> None:
        await delete_queues(channel)
        await channel.declare_queue(topology.QUEUE, durable=True)

    on_channel(remake)
    consumer = lab.start("consume", ready=False)
    wait_until(lambda: any("PRECONDITION_FAILED" in one for one in reasons(consumer)), WAIT)
    assert consumer.get("/readyz")[0] == 503
    assert consumer.get("/livez")[0] == 200
    on_channel(delete_queues)
    consumer.wait_ready(WAIT)


def test_an_event_that_no_queue_wants_waits_and_holds_up_no_other(lab: Lab) -> None:
    relay = lab.start("relay")
    lab.start("consume")
    with lab.database.transaction() as connection:
        outbox.publish(connection, Unwanted(), "a")
    lab.publish(1)
    lab.wait_effects([("a", 1)])
    assert any("no queue wants events of the type lab.unwanted" in one for one in reasons(relay))
    unroutable = (
        'messaging_client_sent_messages_total{event_type="lab.unwanted",outcome="unroutable"}'
    )
    assert unroutable in relay.get("/metrics")[2].decode()

    async def bind(channel: AbstractChannel) -> None:
        queue = await channel.declare_queue(UNWANTED_QUEUE, durable=True)
        await queue.bind(topology.EXCHANGE, Unwanted.TYPE)

    on_channel(bind)
    wait_until(lambda: count(UNWANTED_QUEUE) == 1, WAIT)


def test_a_queue_that_is_full_loses_nothing(lab: Lab) -> None:
    async def declare_short(channel: AbstractChannel) -> None:
        arguments: Any = {"x-max-length": 1, "x-overflow": "reject-publish"}
        queue = await channel.declare_queue(UNWANTED_QUEUE, durable=True, arguments=arguments)
        await topology.declare_exchange(channel)
        await queue.bind(topology.EXCHANGE, Unwanted.TYPE)

    async def get(channel: AbstractChannel) -> bytes:
        queue = await channel.get_queue(UNWANTED_QUEUE)
        message = await queue.get(timeout=20)
        await message.ack()
        return message.body

    on_channel(declare_short)
    with lab.database.transaction() as connection:
        ids = [outbox.publish(connection, Unwanted(), "a") for _ in range(4)]
    relay = lab.start("relay")
    refused = 'messaging_client_sent_messages_total{event_type="lab.unwanted",outcome="refused"}'
    wait_until(lambda: refused in relay.get("/metrics")[2].decode(), WAIT)
    got = []
    for _ in ids:
        wait_until(lambda: count(UNWANTED_QUEUE) > 0, WAIT)
        got.append(json.loads(on_channel(get))["id"])
    assert got == ids


def test_a_worker_that_finds_no_broker_lives_and_is_not_ready(lab: Lab, start: Start) -> None:
    script = str(ROOT / "tests" / "messages.py")
    relay = start("", script, "relay", ready=False, BROKER_URL="amqp://127.0.0.1:9")

    def answers(path: str) -> int:
        try:
            return relay.get(path)[0]
        except OSError:
            return 0

    wait_until(lambda: answers("/livez") == 200, WAIT)
    assert answers("/readyz") == 503
    assert relay.stop() == 0


def test_a_failure_is_told_when_it_begins_and_when_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    broker = MessagingSettings.model_validate({"broker_url": BROKER})
    worker = Worker("relay", ServerSettings.model_construct(port=0), broker)
    failures = ["", "first", "second", "", ""]

    async def session(_connection: object) -> None:
        if failure := failures.pop(0):
            raise OSError(failure)
        worker.works()
        if not failures:
            worker.stopping.set()

    assert worker.run(session) == 0
    assert caplog.messages == [
        "the relay works",
        "the relay cannot work: OSError: first",
        "the relay works again",
        "the relay has stopped",
    ]


def test_a_relay_does_not_work_before_its_database_has_answered(lab: Lab) -> None:
    relay = lab.start("relay", ready=False, DATABASE_URL="postgresql://u@127.0.0.1:9/x")
    wait_until(lambda: any("cannot work" in one for one in reasons(relay)), WAIT)
    assert relay.stop() == 0
    assert "the relay works" not in reasons(relay)
    relay = lab.start("relay")
    wait_until(lambda: "the relay works" in reasons(relay), WAIT)
