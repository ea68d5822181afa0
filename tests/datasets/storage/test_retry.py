"""Back-off: how long, how often, and what is not tried again."""

from __future__ import annotations

import random

import pytest
from refsweep.datasets.storage.retry import Backoff, retry


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now, self.waits = 0.0, list[float]()

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.waits.append(seconds)


def away(error: Exception) -> bool:
    return isinstance(error, ConnectionError)


def test_what_works_again_is_returned_after_waits_below_limits_that_double():
    clock, failures = Clock(), iter(range(8))

    def act() -> str:
        if next(failures, None) is not None:
            raise ConnectionError("refused")
        return "done"

    backoff = Backoff(first_s=1.0, most_s=6.0, total_s=1e9)
    assert retry(act, away, backoff, sleep=clock.sleep, clock=lambda: clock.now) == "done"
    limits = [1.0, 2.0, 4.0, 6.0, 6.0, 6.0, 6.0, 6.0]
    assert len(clock.waits) == 8
    assert all(0 <= wait <= limit for wait, limit in zip(clock.waits, limits, strict=True))


def test_waits_differ_between_clients():
    def waits() -> list[float]:
        clock = Clock()

        def act() -> None:
            raise ConnectionError("refused")

        with pytest.raises(ConnectionError):
            retry(act, away, Backoff(total_s=30), sleep=clock.sleep, clock=lambda: clock.now)
        return clock.waits

    assert waits() != waits()


def test_the_last_error_is_raised_when_time_is_up_and_not_before():
    clock = Clock()

    def act() -> None:
        raise ConnectionError(f"refused at {clock.now}")

    with pytest.raises(ConnectionError, match="refused at"):
        retry(act, away, Backoff(total_s=20, most_s=4), sleep=clock.sleep, clock=lambda: clock.now)
    assert 16 <= clock.now <= 20


def test_an_error_that_will_not_pass_is_raised_at_once():
    clock = Clock()

    def act() -> None:
        raise PermissionError("no")

    with pytest.raises(PermissionError):
        retry(act, away, sleep=clock.sleep, clock=lambda: clock.now)
    assert clock.waits == []


def test_random_numbers_of_training_are_left_alone():
    failures = iter([ConnectionError(), ConnectionError()])

    def act() -> None:
        error = next(failures, None)
        if error is not None:
            raise error

    random.seed(5)
    before = random.getstate()
    retry(act, away, sleep=lambda _: None)
    assert random.getstate() == before
