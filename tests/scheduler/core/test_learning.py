"""Limits learned from headers and refusals: pure, times are told."""

from collections.abc import Mapping

import pytest

from headway_scheduler.core.limits.learning import (
    CUT,
    LONGEST_SLOT_SECONDS,
    SMALLEST,
    STEP_SECONDS,
    Learned,
)
from headway_scheduler.model.quotas import Quota, RateLimitHeader, Resource

NOW = 1_772_366_400.0
REQUESTS, TOKENS = Resource.REQUESTS, Resource.TOKENS
STATED = Quota.per_minute("q", requests=600, tokens=60_000)
GUESS = Quota("q", STATED.limits, is_guess=True)
ONE: Mapping[Resource, float] = {REQUESTS: 1.0, TOKENS: 100.0}


def per_minute(learned: Learned) -> dict[Resource, float]:
    return {limit.resource: round(60 * limit.per_second, 3) for limit in learned.limits()}


def capacities(learned: Learned) -> dict[Resource, float]:
    return {limit.resource: round(limit.capacity, 3) for limit in learned.limits()}


def grown(learned: Learned, now: float, steps: int) -> float:
    """Answer calls while others wait, for some steps; return the time."""
    learned.record_answer({}, now, is_waited_for=True)
    for _ in range(steps):
        now += STEP_SECONDS
        learned.record_answer({}, now, is_waited_for=True)
    return now


@pytest.mark.parametrize("limit", [150, 2_400])
def test_a_guess_takes_what_headers_tell(limit: int) -> None:
    learned = Learned(GUESS)
    assert learned.record_headers({REQUESTS: RateLimitHeader(limit, limit - 5, 0.5)})
    assert per_minute(learned)[REQUESTS] == limit
    assert capacities(learned)[REQUESTS] == min(limit, limit - 5 + 0.5 * limit / 60)
    assert learned.limits()[0].largest == limit


@pytest.mark.parametrize(("told", "held"), [(150, 150), (2_400, 600)])
def test_stated_limits_are_only_lowered_by_headers(told: int, held: int) -> None:
    learned = Learned(STATED)
    learned.record_headers({REQUESTS: RateLimitHeader(told, told, 0.0)})
    assert per_minute(learned) == {REQUESTS: held, TOKENS: 60_000}


def test_a_limit_that_comes_back_is_taken_back() -> None:
    learned = Learned(STATED)
    learned.record_headers({TOKENS: RateLimitHeader(30_000, 30_000, 0.0)})
    learned.record_headers({TOKENS: RateLimitHeader(60_000, 60_000, 0.0)})
    assert learned.limits() == STATED.limits


def test_what_may_pile_up_follows_from_what_remains_and_when_it_is_whole() -> None:
    learned = Learned(GUESS)
    learned.record_headers({REQUESTS: RateLimitHeader(600, 40, 6.0)})  # 40 and what 6 s refill: 100
    assert capacities(learned)[REQUESTS] == 100


def test_a_window_that_starts_anew_does_not_make_it_more_than_a_minute() -> None:
    learned = Learned(GUESS)
    learned.record_headers({REQUESTS: RateLimitHeader(600, 590, 55.0)})
    assert capacities(learned)[REQUESTS] == 600


def test_a_limit_without_a_reset_keeps_its_share_of_what_may_pile_up() -> None:
    learned = Learned(STATED)
    learned.record_headers({REQUESTS: RateLimitHeader(300, 299)})
    assert capacities(learned)[REQUESTS] == 300


def test_a_header_that_changes_nothing_changes_nothing() -> None:
    learned = Learned(GUESS)
    assert learned.record_headers({REQUESTS: RateLimitHeader(600, 599, 0.1)})
    assert not learned.record_headers({REQUESTS: RateLimitHeader(600, 500, 10.0)})
    assert not learned.record_headers({REQUESTS: RateLimitHeader(None, 3, 10.0)})
    assert not learned.record_headers({Resource.INPUT_TOKENS: RateLimitHeader(7, 7, 0.0)})


def test_a_guess_begins_with_one_second() -> None:
    assert capacities(Learned(GUESS)) == {REQUESTS: 10, TOKENS: 1_000}
    assert capacities(Learned(STATED)) == {REQUESTS: 600, TOKENS: 60_000}


def test_no_call_is_too_large_for_a_guess() -> None:
    assert {limit.largest for limit in Learned(GUESS).limits()} == {float("inf")}


def test_a_guess_doubles_until_it_is_refused() -> None:
    learned = Learned(GUESS)
    grown(learned, NOW, 3)
    assert per_minute(learned)[REQUESTS] == 8 * 600
    assert capacities(learned)[REQUESTS] == 8 * 10 * LONGEST_SLOT_SECONDS


def test_nothing_grows_while_nobody_waits() -> None:
    learned = Learned(GUESS)
    for second in range(100):
        learned.record_answer(ONE, NOW + second, is_waited_for=False)
    assert per_minute(learned)[REQUESTS] == 600


def test_the_first_refusal_cuts_a_guess() -> None:
    learned = Learned(GUESS)
    assert learned.record_refusal(NOW, NOW + 1)
    assert per_minute(learned) == {REQUESTS: 600 * CUT, TOKENS: 60_000 * CUT}


def test_what_was_sent_before_a_cut_does_not_cut_again() -> None:
    learned = Learned(GUESS)
    learned.record_refusal(NOW, NOW + 1)
    assert not any(learned.record_refusal(NOW + 0.1 * n, NOW + 1.5) for n in range(20))
    assert learned.scale == CUT


def test_what_was_taken_between_two_refusals_is_the_rate() -> None:
    learned = Learned(GUESS)
    learned.scale = 8.0
    learned.record_refusal(NOW, NOW)
    for _ in range(200):  # of 600 a minute, in 10 s: twice as much as stated
        learned.record_answer(ONE, NOW, is_waited_for=False)
    learned.record_refusal(NOW + 9, NOW + 10)
    assert learned.scale == pytest.approx(0.97 * 2)


def test_a_little_less_than_expected_is_no_reason_to_fall_far() -> None:
    learned = Learned(GUESS)
    learned.record_refusal(NOW, NOW)
    scale = learned.scale
    for _ in range(75):  # of 85 that were to be expected
        learned.record_answer(ONE, NOW, is_waited_for=False)
    learned.record_refusal(NOW + 9, NOW + 10)
    assert learned.scale == pytest.approx(max(0.97 * 0.75, CUT * scale))


def test_a_provider_that_refuses_everything_is_asked_now_and_then_all_the_same() -> None:
    learned = Learned(GUESS)
    for n in range(20_000):
        learned.record_refusal(NOW + 2 * n, NOW + 2 * n)
    assert per_minute(learned)[REQUESTS] == 600 * SMALLEST


def test_after_a_refusal_it_grows_slowly_at_first() -> None:
    learned = Learned(GUESS)
    learned.record_refusal(NOW, NOW)
    grown(learned, NOW, 3)
    assert learned.scale == pytest.approx(CUT * 1.02 * 1.04 * 1.08)


def test_one_refusal_of_stated_limits_may_be_chance() -> None:
    learned = Learned(STATED)
    assert not learned.record_refusal(NOW, NOW)
    assert not learned.record_refusal(NOW + 99, NOW + 100)
    assert learned.limits() == STATED.limits


def test_stated_limits_that_are_refused_again_shrink_and_grow_back_and_no_further() -> None:
    learned = Learned(STATED)
    learned.record_refusal(NOW, NOW)
    assert learned.record_refusal(NOW + 2, NOW + 2.5)
    assert per_minute(learned)[REQUESTS] == 600 * CUT
    grown(learned, NOW + 3, 30)
    assert learned.limits() == STATED.limits


def test_where_headers_tell_refusals_cut_nothing() -> None:
    learned = Learned(GUESS)
    learned.record_headers(
        {REQUESTS: RateLimitHeader(600, 0, 60.0), TOKENS: RateLimitHeader(60_000, 0, 60.0)}
    )
    before = learned.limits()
    assert not learned.record_refusal(NOW, NOW)
    assert learned.limits() == before


def test_slots_are_not_scaled() -> None:
    slots = Quota("q", Quota.per_minute("q", concurrency=4).limits, is_guess=True)
    learned = Learned(slots)
    assert not learned.record_refusal(NOW, NOW)
    assert learned.limits() == slots.limits


def test_what_was_learned_is_written_down_and_read() -> None:
    learned = Learned(GUESS)
    learned.record_headers({TOKENS: RateLimitHeader(90_000, 89_000, 0.5)})
    learned.record_refusal(NOW, NOW)
    again = Learned(GUESS)
    again.load(learned.dump())
    assert again.limits() == learned.limits()


@pytest.mark.parametrize("other", [STATED, Quota.per_minute("q", requests=500, tokens=60_000)])
def test_what_was_learned_of_other_limits_is_forgotten(other: Quota) -> None:
    learned = Learned(GUESS)
    learned.record_refusal(NOW, NOW)
    again = Learned(other)
    again.load(learned.dump())
    assert again.limits() == Learned(other).limits()


def at_once(learned: Learned) -> float:
    (slots,) = [each for each in learned.limits() if each.resource is Resource.CONCURRENCY]
    return slots.capacity


def test_an_overloaded_server_is_sent_a_quarter_less_at_once_and_then_one_more_at_a_time() -> None:
    learned = Learned(Quota.per_minute("q", requests=600, concurrency=8))
    assert learned.record_overload(NOW, 8, NOW + 1)
    assert at_once(learned) == 6
    assert not learned.record_overload(NOW + 0.5, 8, NOW + 1.1)  # sent before the cut
    assert learned.record_overload(NOW + 2, 4, NOW + 3)
    assert at_once(learned) == 3
    now = NOW + 3
    for slots in (4, 5, 6, 7, 8, 8):
        assert not learned.record_answer(ONE, now + STEP_SECONDS / 2, is_waited_for=False)
        now += STEP_SECONDS
        learned.record_answer(ONE, now, is_waited_for=False)
        assert at_once(learned) == slots
    assert per_minute(learned)[REQUESTS] == 600


def test_one_slot_always_stays() -> None:
    learned = Learned(Quota.per_minute("q", concurrency=2))
    for second in range(9):
        learned.record_overload(NOW + second, 1, NOW + second)
    assert at_once(learned) == 1


def test_without_a_limit_of_slots_overload_changes_none() -> None:
    learned = Learned(STATED)
    assert not learned.record_overload(NOW, 50, NOW)
    assert learned.limits() == STATED.limits
