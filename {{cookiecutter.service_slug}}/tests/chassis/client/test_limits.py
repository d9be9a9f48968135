"""The budget of retries and the breaker, by a clock of the test's own."""

import random
import threading

import pytest
from support import in_threads

from service.chassis.client import limits
from service.chassis.client.failures import BreakerOpen
from service.chassis.client.limits import Breaker, Budget


class Clock:
    """A time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker("invoices", clock)


def run(breaker: Breaker, *results: bool | None) -> None:
    """Let calls through, each of which ends at once."""
    for is_well in results:
        breaker.record(breaker.admit(2), is_well)


def opened(breaker: Breaker) -> Breaker:
    run(breaker, *[False] * limits.MIN_RESULTS)
    assert breaker.is_open
    return breaker


def due(breaker: Breaker, clock: Clock) -> None:
    """Open a breaker, and wait until it lets a call through."""
    opened(breaker)
    clock.now += 1.2 * limits.PAUSE


def refuses(breaker: Breaker) -> bool:
    try:
        breaker.admit(2)
    except BreakerOpen:
        return True
    return False


def test_a_budget_gives_one_retry_and_then_one_for_ten_calls() -> None:
    budget = Budget()
    assert [budget.spend(), budget.spend()] == [True, False]
    for _ in range(25):
        budget.earn()
    assert [budget.spend() for _ in range(3)] == [True, True, False]


def test_a_budget_saves_up_no_more_than_its_maximum() -> None:
    budget = Budget()
    for _ in range(10_000):
        budget.earn()
    assert [budget.spend() for _ in range(limits.MAX_SAVED + 1)].count(True) == limits.MAX_SAVED


def test_retries_stay_a_tenth_of_the_calls_whatever_their_threads_do() -> None:
    budget = Budget()
    spent: list[bool] = []

    def work() -> None:
        for _ in range(1000):
            budget.earn()
            spent.append(budget.spend())

    in_threads(8, work)
    assert 790 <= spent.count(True) <= 801


def test_fewer_failures_than_the_minimum_open_nothing(breaker: Breaker) -> None:
    run(breaker, *[False] * (limits.MIN_RESULTS - 1))
    assert not breaker.is_open


def test_the_breaker_opens_where_more_calls_fail_than_succeed(breaker: Breaker) -> None:
    run(breaker, *[True, False] * limits.MIN_RESULTS)
    assert not breaker.is_open
    run(breaker, False)
    assert breaker.is_open


def test_only_the_last_calls_count(breaker: Breaker) -> None:
    run(breaker, *[True] * 10 * limits.MAX_RESULTS, *[False] * (limits.MAX_RESULTS // 2))
    assert not breaker.is_open
    run(breaker, False)
    assert breaker.is_open


def test_a_breaker_that_changes_is_a_line_of_the_log(
    breaker: Breaker, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    due(breaker, clock)
    run(breaker, True)
    said = ["the breaker of invoices is open", "the breaker of invoices is closed"]
    assert caplog.messages == said


def test_failures_that_are_long_ago_do_not_count(breaker: Breaker, clock: Clock) -> None:
    run(breaker, *[False] * (limits.MIN_RESULTS - 1))
    clock.now += limits.WINDOW + 1
    run(breaker, False)
    assert not breaker.is_open


def test_what_says_nothing_of_the_callee_does_not_count(breaker: Breaker) -> None:
    run(breaker, *[None] * 100)
    assert not breaker.is_open


def test_an_open_breaker_says_when_it_lets_a_call_through(breaker: Breaker, clock: Clock) -> None:
    opened(breaker)
    with pytest.raises(BreakerOpen) as refused:
        breaker.admit(2)
    assert 0.8 * limits.PAUSE <= refused.value.pause <= 1.2 * limits.PAUSE + 1
    clock.now += 1.2 * limits.PAUSE
    assert not refuses(breaker)


def test_breakers_of_several_instances_do_not_probe_at_once(clock: Clock) -> None:
    random.seed(1)
    pauses = {opened(Breaker("invoices", clock))._next_probe - clock.now for _ in range(20)}
    assert len(pauses) == 20
    assert 0.8 * limits.PAUSE <= min(pauses) < max(pauses) <= 1.2 * limits.PAUSE


def test_one_probe_at_a_time_closes_it_or_not(breaker: Breaker, clock: Clock) -> None:
    opened(breaker)
    for is_well in (False, True):
        clock.now += 1.2 * limits.PAUSE
        probe = breaker.admit(2)
        assert refuses(breaker)
        breaker.record(probe, is_well)
        assert breaker.is_open is not is_well
    assert not refuses(breaker)


def test_of_many_threads_one_gets_the_probe(breaker: Breaker, clock: Clock) -> None:
    due(breaker, clock)
    together = threading.Barrier(16)
    refused: list[bool] = []

    def ask() -> None:
        together.wait()
        refused.append(refuses(breaker))

    in_threads(16, ask)
    assert refused.count(False) == 1


def test_a_probe_that_never_returns_keeps_nobody_out(breaker: Breaker, clock: Clock) -> None:
    due(breaker, clock)
    lost = breaker.admit(2)
    clock.now += 1.9
    assert refuses(breaker)
    clock.now += 0.2
    second = breaker.admit(2)
    breaker.record(lost, True)  # which comes after all
    assert breaker.is_open
    breaker.record(second, True)
    assert not breaker.is_open


def test_a_probe_that_says_nothing_gives_its_turn_away(breaker: Breaker, clock: Clock) -> None:
    due(breaker, clock)
    run(breaker, None)
    assert breaker.is_open
    assert not refuses(breaker)


def test_a_call_from_before_the_breaker_opened_does_not_close_it(
    breaker: Breaker, clock: Clock
) -> None:
    early = breaker.admit(2)
    due(breaker, clock)
    breaker.record(early, True)
    assert breaker.is_open
    run(breaker, True)
    assert not breaker.is_open


def test_a_closed_breaker_starts_afresh(breaker: Breaker, clock: Clock) -> None:
    due(breaker, clock)
    run(breaker, True, *[False] * (limits.MIN_RESULTS - 1))
    assert not breaker.is_open
    run(breaker, False)
    assert breaker.is_open
