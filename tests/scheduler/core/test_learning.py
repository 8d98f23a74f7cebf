"""Limits learned from headers and refusals: pure, times are told."""

import json
import random
from collections.abc import Mapping
from math import floor
from typing import Any

import pytest

from headway_scheduler.core.limits.known import PACED_TRANSIT_SECONDS, KnownLimits
from headway_scheduler.core.limits.learning import (
    CUT,
    SMALLEST,
    STEP_ANSWERS,
    STEP_SECONDS,
    Learned,
)
from headway_scheduler.core.limits.told import (
    AGREED_SECONDS,
    READINGS,
    UNCONFIRMED_SECONDS,
)
from headway_scheduler.model.quotas import Limit, Quota, RateLimitHeader, Resource, Window

NOW = 1_772_366_400.0
REQUESTS, TOKENS = Resource.REQUESTS, Resource.TOKENS
STATED = Quota.per_minute("q", requests=600, tokens=60_000)
GUESS = Quota("q", STATED.limits, is_guess=True)
ONE: Mapping[Resource, float] = {REQUESTS: 1.0, TOKENS: 100.0}


def made(stated: Quota) -> Learned:
    return Learned(KnownLimits(stated))


def per_minute(learned: Learned) -> dict[Resource, float]:
    return {limit.resource: round(60 * limit.per_second, 3) for limit in learned.known.limits()}


def capacities(learned: Learned) -> dict[Resource, float]:
    return {limit.resource: round(limit.capacity, 3) for limit in learned.known.limits()}


def grown(learned: Learned, now: float, steps: int, answers: int = STEP_ANSWERS) -> float:
    """Answer calls while others wait, for some steps; return the time."""
    learned.record_answer({}, now, is_waited_for=True)
    for _ in range(steps):
        now += STEP_SECONDS
        for _ in range(answers):
            learned.record_answer({}, now, is_waited_for=True)
    return now


@pytest.mark.parametrize("limit", [150, 2_400])
def test_a_guess_takes_what_headers_tell(limit: int) -> None:
    learned = made(GUESS)
    assert learned.record_headers({REQUESTS: RateLimitHeader(limit, limit - 5, 0.5)}, NOW)
    assert per_minute(learned)[REQUESTS] == limit
    assert capacities(learned)[REQUESTS] == min(limit, limit - 5 + 0.5 * limit / 60)


@pytest.mark.parametrize(("told", "held"), [(150, 150), (2_400, 600)])
def test_stated_limits_are_only_lowered_by_headers(told: int, held: int) -> None:
    learned = made(STATED)
    learned.record_headers({REQUESTS: RateLimitHeader(told, told, 0.0)}, NOW)
    assert per_minute(learned) == {REQUESTS: held, TOKENS: 60_000}


def test_a_limit_that_comes_back_is_taken_back() -> None:
    learned = made(STATED)
    learned.record_headers({TOKENS: RateLimitHeader(30_000, 30_000, 0.0)}, NOW)
    learned.record_headers({TOKENS: RateLimitHeader(60_000, 60_000, 0.0)}, NOW)
    assert learned.known.limits() == STATED.limits


def test_what_may_pile_up_follows_from_what_remains_and_when_it_is_whole() -> None:
    learned = made(GUESS)
    # 40, and what 6 s refill
    learned.record_headers({REQUESTS: RateLimitHeader(600, 40, 6.0)}, NOW)
    assert capacities(learned)[REQUESTS] == 100


def test_a_window_that_starts_anew_does_not_make_it_more_than_a_minute() -> None:
    learned = made(GUESS)
    learned.record_headers({REQUESTS: RateLimitHeader(600, 590, 55.0)}, NOW)
    assert capacities(learned)[REQUESTS] == 600


def test_a_limit_without_a_reset_keeps_its_share_of_what_may_pile_up() -> None:
    learned = made(STATED)
    learned.record_headers({REQUESTS: RateLimitHeader(300, 299)}, NOW)
    assert capacities(learned)[REQUESTS] == 300


def test_a_header_that_changes_nothing_changes_nothing() -> None:
    learned = made(GUESS)
    assert learned.record_headers({REQUESTS: RateLimitHeader(600, 599, 0.1)}, NOW)
    assert not learned.record_headers({REQUESTS: RateLimitHeader(600, 500, 10.0)}, NOW)
    assert not learned.record_headers({REQUESTS: RateLimitHeader(None, 3, 10.0)}, NOW)
    assert not learned.record_headers({Resource.INPUT_TOKENS: RateLimitHeader(7, 7, 0.0)}, NOW)


def test_a_guess_begins_with_one_second() -> None:
    assert capacities(made(GUESS)) == {REQUESTS: 10, TOKENS: 1_000}
    assert capacities(made(STATED)) == {REQUESTS: 600, TOKENS: 60_000}


def test_no_call_is_too_large_for_a_guess() -> None:
    assert {limit.largest for limit in made(GUESS).known.limits()} == {float("inf")}


def test_a_guess_doubles_until_it_is_refused() -> None:
    learned = made(GUESS)
    grown(learned, NOW, 3)
    assert per_minute(learned)[REQUESTS] == 8 * 600
    assert capacities(learned)[REQUESTS] == 8 * 10  # one second's worth: no burst was seen


def test_nothing_grows_while_nobody_waits() -> None:
    learned = made(GUESS)
    for second in range(100):
        learned.record_answer(ONE, NOW + second, is_waited_for=False)
    assert per_minute(learned)[REQUESTS] == 600


def test_the_first_refusal_cuts_a_guess() -> None:
    learned = made(GUESS)
    assert learned.record_refusal(NOW, NOW + 1)
    assert per_minute(learned) == {REQUESTS: 600 * CUT, TOKENS: 60_000 * CUT}


def test_what_was_sent_before_a_cut_does_not_cut_again() -> None:
    learned = made(GUESS)
    learned.record_refusal(NOW, NOW + 1)
    assert not any(learned.record_refusal(NOW + 0.1 * n, NOW + 1.5) for n in range(20))
    assert learned.known.scale == CUT


def test_what_was_taken_between_two_refusals_is_the_rate() -> None:
    learned = made(GUESS)
    learned.known.scale = 8.0
    learned.record_refusal(NOW, NOW)
    for _ in range(200):  # of 600 a minute, in 10 s: twice as much as stated
        learned.record_answer(ONE, NOW, is_waited_for=False)
    learned.record_refusal(NOW + 9, NOW + 10)
    assert learned.known.scale == pytest.approx(0.97 * 2)


def test_a_little_less_than_expected_is_no_reason_to_fall_far() -> None:
    learned = made(GUESS)
    learned.record_refusal(NOW, NOW)
    scale = learned.known.scale
    for _ in range(75):  # of 85 that were to be expected
        learned.record_answer(ONE, NOW, is_waited_for=False)
    learned.record_refusal(NOW + 9, NOW + 10)
    assert learned.known.scale == pytest.approx(max(0.97 * 0.75, CUT * scale))


def test_a_provider_that_refuses_everything_is_asked_now_and_then_all_the_same() -> None:
    learned = made(GUESS)
    for n in range(20_000):
        learned.record_refusal(NOW + 2 * n, NOW + 2 * n)
    assert learned.known.scale == SMALLEST
    assert per_minute(learned)[REQUESTS] == 1


def test_however_low_a_limit_the_largest_call_of_the_last_hour_fits_a_minute() -> None:
    learned = made(GUESS)
    learned.record_answer({TOKENS: 5_000.0}, NOW, is_waited_for=False)
    for n in range(200):
        learned.record_refusal(NOW + 2 * n, NOW + 2 * n)
    assert per_minute(learned) == {REQUESTS: 1, TOKENS: 5_000}
    learned.record_answer({TOKENS: 100.0}, NOW + 3_700, is_waited_for=False)
    learned.record_answer({TOKENS: 100.0}, NOW + 7_400, is_waited_for=False)
    assert per_minute(learned)[TOKENS] == 100


def test_after_a_refusal_it_grows_slowly_at_first() -> None:
    learned = made(GUESS)
    learned.record_refusal(NOW, NOW)
    grown(learned, NOW, 3)
    assert learned.known.scale == pytest.approx(CUT * 1.02 * 1.04 * 1.08)


def test_a_slow_provider_is_not_refused_every_few_answers_by_the_search() -> None:
    learned = made(GUESS)
    learned.record_refusal(NOW, NOW)
    grown(learned, NOW, STEP_ANSWERS - 2, answers=1)
    assert learned.known.scale == CUT
    grown(learned, NOW + 60, 0)
    assert learned.known.scale == pytest.approx(CUT * 1.02)


def test_one_refusal_of_stated_limits_may_be_chance() -> None:
    learned = made(STATED)
    assert not learned.record_refusal(NOW, NOW)
    assert not learned.record_refusal(NOW + 99, NOW + 100)
    assert learned.known.limits() == STATED.limits


def test_stated_limits_that_are_refused_again_shrink_and_grow_back_and_no_further() -> None:
    learned = made(STATED)
    learned.record_refusal(NOW, NOW)
    assert learned.record_refusal(NOW + 2, NOW + 2.5)
    assert per_minute(learned)[REQUESTS] == pytest.approx(600 * CUT, rel=0.02)  # and paced
    assert capacities(learned)[REQUESTS] < 10
    grown(learned, NOW + 3, 30)
    assert learned.known.scale == 1
    assert 0.97 * 600 < per_minute(learned)[REQUESTS] <= 600
    assert overflow(learned.known.limits()[0], 600) <= 0


def overflow(limit: Limit, allowed: float, seconds: float = 60.0) -> float:
    """By how many whole requests a bucket that starts full passes ``allowed`` in a window."""
    slack = limit.per_second * PACED_TRANSIT_SECONDS  # that long an amount may be under way
    return floor(limit.capacity + limit.per_second * seconds + slack - 1e-9) - allowed


@pytest.mark.parametrize("number", [1, 2, 7, 20, 60, 600, 10_000])
def test_what_nobody_says_how_it_piles_up_overflows_no_window(number: int) -> None:
    learned = made(Quota.stated("q", {REQUESTS: number}, burst_seconds=None))
    (limit,) = learned.known.limits()
    assert limit.capacity == max(1.0, number / 60)
    assert overflow(limit, number) <= 0
    assert 60 * limit.per_second >= 0.97 * number


def test_a_burst_that_was_not_refused_makes_room_for_a_larger_one_and_a_refusal_less() -> None:
    learned = made(Quota.stated("q", {REQUESTS: 600}, burst_seconds=None))
    sizes = []
    for _ in range(8):
        sizes.append(capacities(learned)[REQUESTS])
        assert learned.record_burst()
    assert [round(size) for size in sizes] == [10, 20, 40, 80, 160, 320, 600, 600]
    learned.record_refusal(NOW, NOW)
    learned.record_refusal(NOW + 5, NOW + 5)
    assert capacities(learned)[REQUESTS] < 300


def test_a_burst_that_is_stated_is_not_widened() -> None:
    learned = made(Quota.per_minute("q", requests=600, burst_seconds=5))
    assert not learned.record_burst()
    assert capacities(learned)[REQUESTS] == 50


def test_another_client_on_the_key_lowers_also_what_headers_tell() -> None:
    """No header says that somebody else takes a part."""
    learned = made(GUESS)
    told = {REQUESTS: RateLimitHeader(600, 0, 60.0), TOKENS: RateLimitHeader(60_000, 0, 60.0)}
    learned.record_headers(told, NOW)
    assert not learned.record_refusal(NOW, NOW)  # by chance
    assert learned.record_refusal(NOW + 5, NOW + 5)
    assert per_minute(learned)[REQUESTS] <= 600 * CUT
    grown(learned, NOW + 6, 30)
    assert learned.known.scale == 1
    assert per_minute(learned)[REQUESTS] <= 600


# What is believed


def test_one_absurd_limit_changes_nothing() -> None:
    for stated in (STATED, GUESS):
        for absurd in (1, 10**12):
            learned = made(stated)
            assert not learned.record_headers({TOKENS: RateLimitHeader(absurd, 0)}, NOW)
            for second in range(1, 20):
                learned.record_headers({TOKENS: RateLimitHeader(60_000, 59_000, 1.0)}, NOW + second)
                assert per_minute(learned)[TOKENS] == 60_000


def test_a_limit_that_is_far_off_acts_when_three_readings_over_5_s_agree() -> None:
    learned = made(GUESS)
    header = {REQUESTS: RateLimitHeader(6_000, 5_999, 0.01)}
    for seconds in (0, 1, 2, 3):
        assert not learned.record_headers(header, NOW + seconds)
    assert not learned.record_headers({REQUESTS: RateLimitHeader(30_000)}, NOW + 4)
    assert not learned.record_headers(header, NOW + 5)
    assert not learned.record_headers(header, NOW + 6)
    assert learned.record_headers(header, NOW + 5 + AGREED_SECONDS)
    assert per_minute(learned)[REQUESTS] == 6_000


def test_a_low_limit_that_two_refusals_tell_acts_at_once() -> None:
    learned, far = made(GUESS), {REQUESTS: RateLimitHeader(6)}
    assert not learned.record_headers(far, NOW, is_refused=True)
    assert not learned.record_headers(far, NOW + 0.1)
    assert learned.record_headers(far, NOW + 0.2, is_refused=True)
    assert per_minute(learned)[REQUESTS] == pytest.approx(6, rel=0.1)  # and paced


def test_a_refusal_is_no_reason_to_believe_a_high_limit() -> None:
    learned, far = made(GUESS), {REQUESTS: RateLimitHeader(60_000)}
    for n in range(READINGS - 1):
        assert not learned.record_headers(far, NOW + n, is_refused=True)
    assert per_minute(learned)[REQUESTS] == 600


def test_a_told_limit_that_nothing_confirms_any_more_rises_again_twofold_a_minute() -> None:
    learned = made(STATED)
    learned.record_headers({REQUESTS: RateLimitHeader(150, 149, 0.1)}, NOW)
    rates = []
    for minute in range(14):
        now = NOW + 60 * minute + 1
        learned.record_answer(ONE, now, is_waited_for=False)
        rates.append(per_minute(learned)[REQUESTS])
    assert rates[: int(UNCONFIRMED_SECONDS / 60)] == [150] * 10
    assert rates[10:] == [300, 600, 600, 600]


def test_while_it_is_confirmed_it_does_not_rise() -> None:
    learned = made(STATED)
    for minute in range(30):
        learned.record_headers({REQUESTS: RateLimitHeader(150, 149, 0.1)}, NOW + 60 * minute)
        learned.record_answer(ONE, NOW + 60 * minute + 1, is_waited_for=False)
    assert per_minute(learned)[REQUESTS] == 150


# Windows that headers tell


def window(learned: Learned) -> tuple[Window | None, float, float]:
    (limit, *_) = learned.known.limits()
    return limit.window, limit.window_seconds, round(limit.capacity, 3)


@pytest.mark.parametrize(
    ("stated", "header", "counted"),
    [
        # Azure: the stated limit shows the window; else it is the one that the header names
        (120, RateLimitHeader(20, 19, None, 10.0, Window.SLIDING), (Window.SLIDING, 10, 20)),
        (120, RateLimitHeader(2, 1, None, 10.0, Window.SLIDING), (Window.SLIDING, 1, 2)),
        (120, RateLimitHeader(119, 1, None, 10.0, Window.SLIDING), (Window.SLIDING, 60, 119)),
        (300, RateLimitHeader(40, 1, None, 10.0, Window.SLIDING), (Window.SLIDING, 10, 40)),
        # LiteLLM: what the stated limit shows
        (60, RateLimitHeader(60, 1, window=Window.FIXED), (Window.SLIDING, 60, 60)),
        (360, RateLimitHeader(60, 1, window=Window.FIXED), (Window.SLIDING, 10, 60)),
        # what it says itself goes before that
        (120, RateLimitHeader(60, 0, None, 30.0, Window.FIXED), (Window.SLIDING, 30, 60)),
        # of its deployments
        (120, RateLimitHeader(60, 1, None, 60.0, Window.MINUTE), (Window.MINUTE, 60, 60)),
        # what is stated is never passed
        (60, RateLimitHeader(60, 0, None, 30.0, Window.FIXED), (Window.SLIDING, 30, 30)),
    ],
)
def test_a_window_that_headers_name_is_counted_as_one(
    stated: int, header: RateLimitHeader, counted: tuple[Window, float, float]
) -> None:
    learned = made(Quota.per_minute("q", requests=stated))
    learned.record_headers({REQUESTS: header}, NOW)
    assert window(learned) == counted


@pytest.mark.parametrize(
    ("rests", "counted"),
    [
        ((19,), (Window.SLIDING, 10, 20)),
        ((19, 0, 7), (Window.SLIDING, 10, 20)),
        ((1, 2, 0), (None, 60, 2)),  # so little may be left of any window, and one of 1 s holds 2
        ((119,), (Window.SLIDING, 60, 120)),
        ((19, 119, 3), (Window.SLIDING, 60, 120)),
        ((5_000,), (None, 60, 2)),  # more than is stated: it is of something else
    ],
)
def test_a_rest_that_no_shorter_window_holds_shows_how_long_it_is(
    rests: tuple[int, ...], counted: tuple[Window | None, float, float]
) -> None:
    learned = made(Quota.stated("q", {REQUESTS: 120}, burst_seconds=None))
    for number, rest in enumerate(rests):
        header = RateLimitHeader(None, rest, None, 10.0, Window.SLIDING)
        learned.record_headers({REQUESTS: header}, NOW + number)
    assert window(learned) == counted


def test_a_limit_that_was_told_stays_while_the_rest_alone_is_told() -> None:
    learned = made(Quota.per_minute("q", requests=120))
    for limit in (15, None, None):
        header = RateLimitHeader(limit, 9, None, 10.0, Window.SLIDING)
        learned.record_headers({REQUESTS: header}, NOW)
        assert window(learned) == (Window.SLIDING, 10, 15)


def test_the_length_that_a_refusal_told_is_not_forgotten_at_the_next_answer() -> None:
    learned = made(Quota("q", Quota.per_minute("q", requests=120).limits, is_guess=True))
    usual = {REQUESTS: RateLimitHeader(60, 1, window=Window.FIXED)}
    learned.record_headers(usual, NOW)
    assert window(learned) == (None, 60, 60)  # nobody told how long the window is
    learned.record_headers({REQUESTS: RateLimitHeader(60, None, None, 30.0, Window.FIXED)}, NOW)
    learned.record_headers(usual, NOW + 1)
    assert window(learned) == (Window.SLIDING, 30, 60)


def test_a_window_that_is_stated_holds_whatever_headers_look_like() -> None:
    quota = Quota.stated("q", {REQUESTS: 360}, window=Window.SLIDING, window_seconds=10)
    learned = made(quota)
    assert window(learned) == (Window.SLIDING, 10, 60)
    learned.record_headers({REQUESTS: RateLimitHeader(180, 100, 3.0)}, NOW)
    assert window(learned) == (Window.SLIDING, 10, 30)


def test_a_fixed_window_is_known_by_its_end_and_a_bucket_by_its_reset() -> None:
    fixed, bucket = (made(Quota.per_minute("q", requests=60)) for _ in range(2))
    for second in (1, 4, 9, 16):
        left = 60 - second
        fixed.record_headers({REQUESTS: RateLimitHeader(60, left, 60.5 - second)}, NOW + second)
        bucket.record_headers({REQUESTS: RateLimitHeader(60, left, 60.0 - left)}, NOW + second)
    assert window(fixed) == (Window.FIXED, 60, 60)
    assert window(bucket) == (None, 60, 60)
    assert bucket.known.windows == {REQUESTS: Window.BUCKET}
    (limit,) = fixed.known.limits()
    assert (NOW + 60.5 - limit.day_starts) % 60 == 0
    assert not fixed.record_headers(
        {REQUESTS: RateLimitHeader(60, 9, 10.5)}, NOW + 61, NOW + 40
    )  # it was told when the request came, or when the answer left
    # The next window began with a call that came late.
    fixed.record_headers({REQUESTS: RateLimitHeader(60, 59, 60.0)}, NOW + 75)
    (limit,) = fixed.known.limits()
    assert (NOW + 76 - limit.day_starts) % 60 == 0  # it may have been rounded down


def test_a_burst_at_one_moment_does_not_tell_what_kind_it_is() -> None:
    learned = made(Quota.per_minute("q", requests=6_000))
    for number in range(1, 30):
        header = RateLimitHeader(6_000, 6_000 - number, 0.01 * number)
        learned.record_headers({REQUESTS: header}, NOW + 0.001 * number)
    assert learned.known.windows == {}


def test_slots_are_not_scaled() -> None:
    slots = Quota("q", Quota.per_minute("q", concurrency=4).limits, is_guess=True)
    learned = made(slots)
    assert not learned.record_refusal(NOW, NOW)
    assert learned.known.limits() == slots.limits


def test_what_was_learned_is_written_down_and_read() -> None:
    learned = made(GUESS)
    learned.record_headers({TOKENS: RateLimitHeader(90_000, 89_000, 0.5)}, NOW)
    learned.record_refusal(NOW, NOW)
    again = made(GUESS)
    again.known.load(learned.known.dump())
    assert again.known.limits() == learned.known.limits()


@pytest.mark.parametrize("other", [STATED, Quota.per_minute("q", requests=500, tokens=60_000)])
def test_what_was_learned_of_other_limits_is_forgotten(other: Quota) -> None:
    learned = made(GUESS)
    learned.record_refusal(NOW, NOW)
    again = made(other)
    again.known.load(learned.known.dump())
    assert again.known.limits() == made(other).known.limits()


def test_lessons_of_the_form_before_windows_are_read() -> None:
    learned = made(GUESS)
    stated = [[True], ["requests", 600], ["tokens", 60000]]
    old = {"limit": 90_000.0, "capacity": 89_750.0}
    text = json.dumps(
        {
            "stated": stated,
            "headers": {"tokens": old},
            "scale": 0.5,
            "growth": 0.04,
            "slot_seconds": 2.0,
        }
    )
    learned.known.load(text)
    assert per_minute(learned) == {REQUESTS: 300, TOKENS: 90_000}
    assert capacities(learned) == {REQUESTS: 10, TOKENS: 89_750}


@pytest.mark.parametrize(
    "wrong",
    [
        {"headers": {"tokens": {"limit": 1.0, "odd": 2}}},
        {"headers": {"tokens": {"limit": -1.0, "capacity": None}}},
        {"headers": {"rockets": {"limit": 1.0, "capacity": None}}},
        {"windows": {"tokens": "leaky"}},
        {"scale": "much"},
        {"slots": [None, True]},
    ],
)
def test_lessons_that_no_version_wrote_change_nothing(wrong: dict[str, Any]) -> None:
    learned = made(GUESS)
    text = json.dumps(json.loads(learned.known.dump()) | wrong)
    with pytest.raises((ValueError, KeyError, TypeError)):
        learned.known.load(text)
    assert learned.known.limits() == made(GUESS).known.limits()


def at_once(learned: Learned) -> float:
    (slots,) = [each for each in learned.known.limits() if each.resource is Resource.CONCURRENCY]
    return slots.capacity


def test_an_overloaded_server_is_sent_a_quarter_less_at_once_and_then_one_more_at_a_time() -> None:
    learned = made(Quota.per_minute("q", requests=600, concurrency=8))
    assert learned.known.slots.record_overload(NOW, 8, NOW + 1)
    assert at_once(learned) == 6
    assert not learned.known.slots.record_overload(NOW + 0.5, 8, NOW + 1.1)  # sent before the cut
    assert learned.known.slots.record_overload(NOW + 2, 4, NOW + 3)
    assert at_once(learned) == 3
    now = NOW + 3
    for slots in (4, 5, 6, 7, 8, 8):
        assert not learned.known.slots.record_answer(8, now + STEP_SECONDS / 2)
        now += STEP_SECONDS
        learned.known.slots.record_answer(8, now)
        assert at_once(learned) == slots
    assert per_minute(learned)[REQUESTS] == 600


def test_one_slot_always_stays() -> None:
    learned = made(Quota.per_minute("q", concurrency=2))
    for second in range(9):
        learned.known.slots.record_overload(NOW + second, 1, NOW + second)
    assert at_once(learned) == 1


def test_without_a_limit_of_slots_overload_changes_none() -> None:
    learned = made(STATED)
    assert not learned.known.slots.record_overload(NOW, 50, NOW)
    assert learned.known.limits() == STATED.limits


def test_refusals_by_chance_lower_a_limit_only_until_that_shows() -> None:
    learned, rng, now = made(STATED), random.Random(7), NOW
    for _ in range(800):
        now += 1.5 / learned.known.limits()[0].per_second
        if rng.random() < 0.2:
            learned.record_refusal(now - 0.5, now, 1.0)
        else:
            learned.record_answer(ONE, now, is_waited_for=True)
    assert learned.known.scale > 0.9
