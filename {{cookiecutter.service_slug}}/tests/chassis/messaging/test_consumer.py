"""The consumer's parts that need no broker."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from service.chassis.messaging import consumer


@pytest.mark.parametrize(
    ("failures", "seconds"), [(1, 0.2), (2, 0.4), (5, 3.2), (7, 10.0), (5000, 10.0)]
)
def test_pauses_grow_up_to_a_limit_however_long_the_database_is_away(
    failures: int, seconds: float
) -> None:
    assert consumer.pause_after(failures) == pytest.approx(seconds)


@pytest.mark.parametrize("fault", [ZeroDivisionError, asyncio.CancelledError])
def test_a_fault_beside_the_handler_gives_the_message_back(
    fault: type[BaseException],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(_message: object) -> None:
        raise fault

    settings = SimpleNamespace(consumer_concurrency=1)
    faulty: Any = SimpleNamespace(watch=SimpleNamespace(begin=fail), settings=settings)
    nothing: Any = None

    async def receive() -> None:
        lost = asyncio.Event()  # ends the session, after which the broker delivers again
        await consumer.Deliveries(faulty, nothing, lost).receive(nothing)
        await asyncio.wait_for(lost.wait(), 10)

    asyncio.run(receive())
    assert "a message could not be settled" in caplog.text
