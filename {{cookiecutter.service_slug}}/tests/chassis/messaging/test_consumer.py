"""The consumer's parts that need no broker."""

import pytest

from service.chassis.messaging import consumer


@pytest.mark.parametrize(
    ("failures", "seconds"), [(1, 0.2), (2, 0.4), (5, 3.2), (7, 10.0), (5000, 10.0)]
)
def test_pauses_grow_up_to_a_limit_however_long_the_database_is_away(
    failures: int, seconds: float
) -> None:
    assert consumer.pause_after(failures) == pytest.approx(seconds)
