"""How a limit is counted is told by resets, by rests, or by neither: random providers decide."""

import random

import pytest

from headway_scheduler.core.limits.windows import (
    LengthReadings,
    WindowReadings,
    moved_end,
    reading,
)
from headway_scheduler.model.quotas import RateLimitHeader, Window
from headway_scheduler.testing.provider.limits import Bucket
from headway_scheduler.testing.provider.windows import FixedWindow, SlidingWindow

NOW = 1_772_366_400.0
PER_MINUTE = 60.0
Counter = Bucket | FixedWindow | SlidingWindow


def provider(kind: Window) -> Counter:
    match kind:
        case Window.BUCKET:
            return Bucket.full(PER_MINUTE, PER_MINUTE, NOW)
        case Window.SLIDING:
            return SlidingWindow(PER_MINUTE, 60.0)
        case Window.FIXED:
            return FixedWindow(PER_MINUTE, 60.0)
        case Window.MINUTE:
            return FixedWindow(PER_MINUTE, 60.0, True)


def found(kind: Window, seed: int, gap: float, slowest: float) -> set[Window]:
    """Every kind that the readings of two minutes show, of requests at random times."""
    rng, counter, readings = random.Random(seed), provider(kind), WindowReadings()
    now, kinds = NOW, set[Window]()
    while now < NOW + 120:
        now += rng.expovariate(1 / gap)
        arrived = now + rng.uniform(0, 0.1)
        if counter.wait_seconds(1, arrived):
            continue
        counter = counter.taken(1, arrived)
        told = counter.remaining(arrived), round(counter.reset_seconds(arrived), 3)
        heard = arrived + rng.uniform(0.05, slowest)
        readings.add(reading(now, heard, *told, PER_MINUTE / 60))
        if (shown := readings.kind()) is not None:
            kinds.add(shown[0])
    return kinds


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("gap", "slowest"), [(0.7, 0.5), (1.5, 2.0), (2.0, 15.0)])
def test_no_kind_is_taken_for_another(seed: int, gap: float, slowest: float) -> None:
    assert found(Window.BUCKET, seed, gap, slowest) <= {Window.BUCKET}
    for kind in (Window.FIXED, Window.MINUTE):
        # Over the end of a window two ends are told: then it may be taken for a sliding one, whose
        # mirror no fixed window overflows.
        assert Window.BUCKET not in found(kind, seed, gap, slowest)
    assert found(Window.SLIDING, seed, gap, slowest) <= {Window.SLIDING}


@pytest.mark.parametrize(
    ("kind", "gap"),
    [(Window.BUCKET, 0.7), (Window.FIXED, 1.5), (Window.MINUTE, 1.5), (Window.SLIDING, 1.5)],
)
def test_kinds_are_found(kind: Window, gap: float) -> None:
    expected = Window.FIXED if kind is Window.MINUTE else kind
    assert sum(expected in found(kind, seed, gap, 1.0) for seed in range(20)) >= 18


def test_an_end_is_never_thought_to_be_earlier_than_it_is() -> None:
    rng = random.Random(1)
    counter = FixedWindow(PER_MINUTE, 60.0)
    now, end = NOW, 0.0
    for _ in range(500):
        now += rng.expovariate(1 / 3)
        arrived = now + rng.uniform(0, 0.1)
        counter = counter.taken(1, arrived)
        reset = counter.reset_seconds(arrived)
        heard = arrived + rng.uniform(0.05, 2.0)
        new = reading(now, heard, counter.remaining(arrived), reset, 1.0)
        end = moved_end(end, 60.0, new) or end
        if float(reset).is_integer():
            continue  # it may be a rounded one, and leaves a second open
        off = (end - (arrived + reset)) % 60
        assert off <= 2.2 or off >= 60 - 0.2  # late by the answer, early by the request's travel


@pytest.mark.parametrize("seconds", [10.0, 30.0, 60.0])
@pytest.mark.parametrize("gap", [0.2, 1.0, 2.5])
def test_a_length_that_nobody_tells_is_found_by_the_rests(seconds: float, gap: float) -> None:
    lengths = set[float | None]()
    for seed in range(20):
        rng, counter = random.Random(seed), FixedWindow(60, seconds)
        readings, now = LengthReadings(), NOW
        while now < NOW + 6 * seconds:
            now += rng.expovariate(1 / gap)
            arrived = now + rng.uniform(0, 0.1)
            if counter.wait_seconds(1, arrived):
                continue
            counter = counter.taken(1, arrived)
            header = RateLimitHeader(60, counter.remaining(arrived))
            readings.record(now, arrived + rng.uniform(0.05, 1.0), header)
        lengths.add(readings.seconds)
    assert lengths <= {seconds, None}
    # If all of a window is spent at once, its end is not seen: then a refusal tells the length.
    assert seconds in lengths or seconds > 60 * gap


def test_answers_that_overtake_each_other_show_no_length() -> None:
    readings = LengthReadings()
    for number in range(20):
        left = 60 - number ^ 1  # each two arrive in the other order
        readings.record(NOW + 0.01 * number, NOW + 0.5, RateLimitHeader(60, left))
    assert readings.seconds is None
