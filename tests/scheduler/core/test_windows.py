"""How a limit is counted is told by resets, by rests, or by neither: random providers decide."""

import random
from collections import Counter as Counted
from math import floor

import pytest

from headway_scheduler.core.limits.known import KnownLimits
from headway_scheduler.core.limits.learning import Learned
from headway_scheduler.core.limits.windows import (
    WORTH_MOVING,
    LengthReadings,
    ProviderClock,
    WindowReadings,
    moved_end,
    reading,
)
from headway_scheduler.core.policy import STRICT
from headway_scheduler.core.scheduler import Scheduler
from headway_scheduler.model.calls import Call, Outcome, Priority
from headway_scheduler.model.quotas import (
    Observation,
    ProviderEvent,
    Quota,
    RateLimitHeader,
    Resource,
    Window,
)
from headway_scheduler.model.states import CallState
from headway_scheduler.protocol.messages import Observe, Settle, Submit
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


# The provider's clock


def most_in_a_minute(ahead: float, *, has_dates: bool) -> int:
    """Return the most that a provider gets in one minute of its clock, ``ahead`` of ours.

    Calls come at the end of one minute of ours and at the beginning of the next one, then not for
    80 s: both are one minute to a provider whose clock is off.
    """
    quota = Quota.stated("q", {Resource.REQUESTS: 60}, window=Window.MINUTE)
    scheduler, minutes = Scheduler([quota], NOW, STRICT), Counted[int]()
    scheduler.handle(Observe("", {"q": _dated(NOW, ahead, has_dates)}), NOW)
    for tick in range(2400):
        now = NOW + tick / 4
        if 20 <= now % 120 < 100:
            continue
        call = Call(f"c{tick}", "r", "a", "m", ("q",), Priority.NORMAL, 1, now)
        scheduler.handle(Submit(call), now)
        for record in scheduler.admit(now):
            arrived = now + 0.1 + ahead
            minutes[floor(arrived / 60)] += 1
            told, done = _dated(arrived - ahead, ahead, has_dates), Outcome(CallState.DONE)
            scheduler.handle(Settle(record.call.id, done, {"q": told}), now + 0.2)
    return max(minutes.values())


def _dated(at: float, ahead: float, has_dates: bool) -> Observation:
    date = float(floor(at + ahead)) if has_dates else None
    return Observation(event=ProviderEvent.ANSWERED, date=date)


@pytest.mark.parametrize("ahead", [0.0, 0.4, 20.0, -20.0, 50.7, -3600.3])
def test_minutes_are_those_of_the_providers_clock(ahead: float) -> None:
    assert 50 <= most_in_a_minute(ahead, has_dates=True) <= 60


def test_without_dates_its_clock_is_taken_for_ours() -> None:
    assert most_in_a_minute(0.0, has_dates=False) == 60
    assert most_in_a_minute(20.0, has_dates=False) > 60


def test_a_date_that_is_wrong_counts_until_the_next_one() -> None:
    clock = ProviderClock()
    assert not clock.record(NOW, NOW + 0.1, NOW + 0.5)  # as far as it can be told, they are equal
    assert clock.record(NOW + 500, NOW + 0.1, NOW + 0.5)
    assert clock.ahead == pytest.approx(499.5)
    assert clock.record(NOW + 1, NOW + 1.1, NOW + 1.5)
    assert abs(clock.ahead) < 1
    assert not clock.record(0.0, NOW + 1.1, NOW + 1.5)  # off by decades
    assert abs(clock.ahead) < 1


def test_dates_show_a_clock_the_better_the_more_there_are() -> None:
    rng, clock, errors = random.Random(1), ProviderClock(), list[float]()
    for n in range(50):
        sent = NOW + n * 1.37
        heard = sent + rng.uniform(0.05, 0.4)
        date = float(floor(rng.uniform(sent, heard) + 12.3))
        clock.record(date, sent, heard)
        errors.append(12.3 - clock.ahead)
    assert all(-WORTH_MOVING <= error < 1.5 for error in errors)  # minutes end late, never early
    assert errors[-1] < 0.6


# What is stated, and answers contradict


@pytest.mark.parametrize("kind", [Window.BUCKET, Window.FIXED])
def test_answers_that_show_a_bucket_contradict_a_fixed_window(kind: Window) -> None:
    """The window that is stated holds, and has no end that was never told."""
    stated = Quota.stated("q", {Resource.REQUESTS: PER_MINUTE}, window=Window.FIXED)
    learned, counter, rng = Learned(KnownLimits(stated)), provider(kind), random.Random(1)
    now = NOW
    for _ in range(40):
        now += rng.expovariate(1 / 0.9)
        counter = counter.taken(1, now)
        header = RateLimitHeader(
            PER_MINUTE, counter.remaining(now), round(counter.reset_seconds(now), 3)
        )
        learned.record_headers({Resource.REQUESTS: header}, now + 0.1, now - 0.05)
    (limit,) = learned.known.limits()
    is_bucket = kind is Window.BUCKET
    assert learned.known.is_contradicted(Resource.REQUESTS) == is_bucket
    assert limit.window is (Window.SLIDING if is_bucket else Window.FIXED)
