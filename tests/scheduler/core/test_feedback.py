"""Answers change a quota, through the core: pauses, probes, corrections, lessons."""

from itertools import pairwise

import pytest

from headway_scheduler.core.inspection import explain, provider_health, statistics
from headway_scheduler.core.limits.breaker import ASIDE_SECONDS, FIRST_RETRIES
from headway_scheduler.core.limits.quota import MOST_ODD_FIELDS
from headway_scheduler.core.limits.slots import Slots
from headway_scheduler.core.policy import STRICT
from headway_scheduler.core.scheduler import Scheduler
from headway_scheduler.model import changes
from headway_scheduler.model.batch import Batch, Snapshot
from headway_scheduler.model.calls import Call, Outcome, Priority, Usage
from headway_scheduler.model.data import replace
from headway_scheduler.model.formulas import LONGEST_PAUSE_SECONDS, LONGEST_STATED_SECONDS
from headway_scheduler.model.quotas import (
    Limit,
    Observation,
    ProviderEvent,
    Quota,
    RateLimitHeader,
    Resource,
    Window,
)
from headway_scheduler.model.states import CallState
from headway_scheduler.protocol.messages import (
    ApplyChange,
    MarkSent,
    Observe,
    ProbeStopped,
    Settle,
    Submit,
)

NOW = 1_772_366_400.0
WIDE = Quota.per_minute("q", requests=6_000, tokens=600_000)
DONE = Outcome(CallState.DONE, usage=Usage(1, 1), answer="{}")
AGAIN = Outcome(CallState.QUEUED, error="500")
ANSWERED, FAILED = (
    Observation(event=ProviderEvent.ANSWERED),
    Observation(event=ProviderEvent.FAILED),
)


def call(name: str, priority: Priority = Priority.NORMAL, tokens: int = 1) -> Call:
    return Call(name, "run", "agent", "model", ("q",), priority, tokens, NOW)


def admitted(core: Scheduler, now: float) -> list[str]:
    return [record.call.id for record in core.admit(now)]


def fail(core: Scheduler, name: str, now: float) -> None:
    core.handle(Observe(name, {"q": FAILED}), now)
    core.handle(Settle(name, AGAIN), now)


def answer(core: Scheduler, name: str, now: float) -> None:
    core.handle(Observe(name, {"q": ANSWERED}), now)
    core.handle(Settle(name, DONE), now)


def down(*names: str, now: float = NOW) -> Scheduler:
    """A core whose provider has failed until the retry budget was spent: it pauses from now."""
    core = Scheduler([WIDE], now, STRICT)
    for name in names:
        core.handle(Submit(call(name)), now)
    first, *_ = admitted(core, now)
    for _ in range(int(FIRST_RETRIES)):
        fail(core, first, now)
        assert "q" not in provider_health(core.state).unanswered
        assert first in admitted(core, now)
    for name in reversed(names):
        fail(core, name, now)
    assert "q" in provider_health(core.state).unanswered
    return core


def test_without_retry_budget_the_quota_pauses_and_one_call_tries() -> None:
    core = down("a", "b", "c")
    assert admitted(core, NOW + 0.9) == []
    assert core.next_event(NOW) == NOW + 1
    assert admitted(core, NOW + 1) == ["a"]
    assert admitted(core, NOW + 100) == []  # the others wait for what becomes of it
    answer(core, "a", NOW + 100)
    assert "q" not in provider_health(core.state).unanswered
    assert admitted(core, NOW + 100) == ["b", "c"]


def test_the_most_urgent_call_tries_first() -> None:
    core = down("a", "b")
    core.handle(Submit(call("urgent", Priority.INTERACTIVE)), NOW + 0.5)
    core.handle(Submit(call("more urgent still", Priority.INTERACTIVE)), NOW + 0.6)
    assert admitted(core, NOW + 1) == ["urgent"]


def test_each_pause_is_twice_as_long_up_to_a_minute_and_costs_one_request() -> None:
    core = down(*(f"c{n}" for n in range(20)))
    now, sent = NOW, 0
    while now < NOW + 300:
        at = core.next_event(now)
        assert at is not None
        now = max(now, at)
        for name in admitted(core, now):
            sent += 1
            fail(core, name, now)
    assert sent == 10  # after 1, 2, 4, 8, 16, 32 and then every 60 s
    assert statistics(core.state, now).gauges[0].paused_until == now + LONGEST_PAUSE_SECONDS


def test_a_call_that_failed_as_the_probe_lets_the_next_one_try() -> None:
    """Else a call that the provider can never answer would keep all the others waiting."""
    core = down("bad", "good")
    assert admitted(core, NOW + 1) == ["bad"]
    fail(core, "bad", NOW + 1)
    assert admitted(core, NOW + 3) == ["good"]
    answer(core, "good", NOW + 3)
    assert admitted(core, NOW + 3 + ASIDE_SECONDS) == ["bad"]


def test_a_probe_that_is_cancelled_leaves_its_turn_to_the_next_one() -> None:
    core = down("a", "b")
    assert admitted(core, NOW + 1) == ["a"]
    core.handle(Settle("a", Outcome(CallState.CANCELLED)), NOW + 1)
    assert admitted(core, NOW + 1) == ["b"]


def test_after_an_answer_twice_as_many_go_and_after_ten_all() -> None:
    names = [f"c{n:02}" for n in range(40)]
    core = down(*names)
    waves = []
    while wave := admitted(core, NOW + 1):
        waves.append(len(wave))
        for name in wave:
            answer(core, name, NOW + 1)
    assert waves == [1, 2, 4, 8, 25]


def test_answers_earn_retries() -> None:
    core = down("a")
    core.handle(Submit(call("b")), NOW)
    (probe,) = admitted(core, NOW + 1)
    answer(core, probe, NOW + 1)
    for n in range(20):
        core.handle(Observe(f"other-{n}", {"q": ANSWERED}), NOW + 1)
    (second,) = admitted(core, NOW + 1)
    for _ in range(2):
        fail(core, second, NOW + 1)
        assert "q" not in provider_health(core.state).unanswered
        admitted(core, NOW + 1)
    fail(core, second, NOW + 1)
    assert "q" in provider_health(core.state).unanswered


def test_an_explanation_says_that_the_quota_pauses() -> None:
    core = down("a", "b")
    explanation = explain(core.state, "b", NOW)
    assert explanation is not None
    (blocker,) = [each for each in explanation.blockers if each.resource is None]
    assert (blocker.quota, blocker.at) == ("q", NOW + 1)
    admitted(core, NOW + 1)
    explanation = explain(core.state, "b", NOW + 1)
    assert explanation is not None
    assert explanation.starts_at is None  # only the end of the probe can tell


def test_an_open_breaker_survives_a_restart() -> None:
    core = down("a", "b")
    assert admitted(core, NOW + 1) == ["a"]
    fail(core, "a", NOW + 1)
    again = restarted(core, NOW + 2)
    assert "q" in provider_health(again.state).unanswered
    again.handle(Submit(call("c")), NOW + 2)
    again.handle(Submit(call("d")), NOW + 2)
    assert admitted(again, NOW + 2.9) == []
    assert admitted(again, NOW + 3) == ["c"]  # one, not both


def restarted(core: Scheduler, now: float, quota: Quota = WIDE) -> Scheduler:
    batch: Batch = core.take_batch(now)
    again = Scheduler([quota], now)
    snapshot = Snapshot(batch.buckets, lessons=batch.lessons)
    again.restore(snapshot, now, lambda call_id: False)
    return again


def available(core: Scheduler, now: float, resource: Resource = Resource.TOKENS) -> float:
    (gauge,) = [each for each in statistics(core.state, now).gauges if each.resource is resource]
    return gauge.available


def told(remaining: float) -> Observation:
    return Observation(
        event=ProviderEvent.ANSWERED,
        headers={Resource.TOKENS: RateLimitHeader(remaining=remaining)},
    )


def one_in_flight(tokens: int = 1_000) -> Scheduler:
    core = Scheduler([WIDE], NOW)
    core.handle(Submit(call("a", tokens=tokens)), NOW)
    assert admitted(core, NOW) == ["a"]
    return core


WAY_BACK = 5_000
"""What the wide quota refills while an answer travels: it may have been told that long ago."""


def test_what_remains_corrects_the_budget_downwards() -> None:
    core = one_in_flight()
    assert available(core, NOW) == 599_000
    core.handle(Observe("a", {"q": told(100_000)}), NOW)
    assert available(core, NOW) == 100_001 + WAY_BACK


def test_what_remains_never_adds_to_the_budget() -> None:
    core = one_in_flight()
    core.handle(Observe("a", {"q": told(1e9)}), NOW)
    assert available(core, NOW) == 599_000


def test_what_was_admitted_since_and_the_refill_since_are_counted() -> None:
    core = one_in_flight()
    core.handle(Submit(call("b", tokens=20_000)), NOW)
    assert admitted(core, NOW) == ["b"]
    core.handle(Observe("a", {"q": told(100_000)}), NOW + 3)
    # If it was told when the request came, there is this much now, or more if "b" came before it.
    there = 100_001 + 3 * 10_000 - 20_000
    assert there <= available(core, NOW + 3) <= there + 20_000 + WAY_BACK


def test_what_was_corrected_once_is_not_corrected_again() -> None:
    core = one_in_flight()
    core.handle(Submit(call("b")), NOW)
    assert admitted(core, NOW) == ["b"]
    for call_id in ("b", "a"):
        core.handle(Observe(call_id, {"q": told(50_000)}), NOW)
        # The other one may not have arrived when this was told.
        assert available(core, NOW) == 50_001 + WAY_BACK - 1_000


def test_an_answer_that_comes_with_another_process_s_next_request_is_as_old_as_its_call() -> None:
    core = Scheduler([WIDE], NOW, own="w-here")
    core.handle(Submit(call("a", tokens=100_000)), NOW, "w-there")
    assert admitted(core, NOW) == ["a"]
    core.handle(Observe("a", {"q": told(499_999)}), NOW + 8, "w-there")
    assert available(core, NOW + 8) > 570_000  # it was told when the call came, 8 s ago


def test_a_newer_answer_counts_though_much_came_back_in_between() -> None:
    core = one_in_flight(tokens=100_000)
    core.handle(Observe("a", {"q": told(400_000)}), NOW)
    core.handle(Settle("a", Outcome(CallState.DONE, Usage(1, 1), "{}", used_tokens=0)), NOW)
    core.handle(Submit(call("b")), NOW)
    assert admitted(core, NOW) == ["b"]
    core.handle(Observe("b", {"q": told(50_000)}), NOW)
    assert available(core, NOW) == 50_001 + WAY_BACK


def test_a_call_is_charged_a_transit_time_after_it_was_sent_and_not_before() -> None:
    """Between its admission and its request lie a commit and a busy loop."""
    quota = Quota.per_minute("q", requests=600, burst_seconds=1)
    core = Scheduler([quota], NOW, own="w-here")
    for number in range(20):
        core.handle(Submit(call(f"c{number}", Priority.INTERACTIVE)), NOW, "w-here")
    first = admitted(core, NOW)
    assert len(first) == 10
    assert admitted(core, NOW + 2) == []  # at the provider the bucket is full, and gains nothing
    for call_id in first:
        core.handle(MarkSent(call_id, NOW + 2), NOW + 2)
    assert admitted(core, NOW + 2.04) == []
    assert len(admitted(core, NOW + 2.56)) == 5


def test_a_refusal_that_may_be_chance_makes_requests_travel_longer() -> None:
    quota = Quota.per_minute("q", requests=600, burst_seconds=1)
    core = Scheduler([quota], NOW)
    for number in range(12):
        core.handle(Submit(call(f"c{number}", Priority.INTERACTIVE)), NOW)
    assert len(admitted(core, NOW)) == 10
    core.handle(Observe("c0", {"q": Observation(event=ProviderEvent.REFUSED)}), NOW)
    assert len(admitted(core, NOW + 1)) == 2
    assert statistics(core.state, NOW + 1.07).gauges[0].available == pytest.approx(
        8
    )  # full, less 2
    assert statistics(core.state, NOW + 1.11).gauges[0].available == pytest.approx(8.1)


def test_a_refused_request_never_leaves_the_quota_in_debt() -> None:
    quota = Quota.per_minute("q", requests=60, burst_seconds=5)
    core = Scheduler([quota], NOW)
    for n in range(5):
        core.handle(Submit(call(f"c{n}", Priority.INTERACTIVE)), NOW)
    assert len(admitted(core, NOW)) == 5
    for n in range(5):
        core.handle(Settle(f"c{n}", Outcome(CallState.QUEUED, refused=True)), NOW + 0.01)
    assert available(core, NOW + 0.01, Resource.REQUESTS) == pytest.approx(0.01, abs=0.02)


def test_a_learned_limit_lets_more_go_and_survives_a_restart() -> None:
    guess = Quota("q", Quota.per_minute("q", requests=60).limits, is_guess=True)
    core = Scheduler([guess], NOW)
    core.handle(Submit(call("a", Priority.INTERACTIVE)), NOW)
    assert admitted(core, NOW) == ["a"]
    signals = Observation(
        event=ProviderEvent.ANSWERED,
        headers={Resource.REQUESTS: RateLimitHeader(120, 110, 5.0)},
    )
    core.handle(Observe("a", {"q": signals}), NOW)
    for n in range(300):
        core.handle(Submit(call(f"c{n}", Priority.INTERACTIVE)), NOW)
    # What remained when the request came is there at once, but what may have refilled since.
    assert len(admitted(core, NOW)) == pytest.approx(109, abs=1)
    assert len(admitted(core, NOW + 2.5)) == pytest.approx(4, abs=1)
    again = restarted(core, NOW + 2.5, guess)
    (gauge,) = statistics(again.state, NOW + 2.5).gauges
    assert (gauge.per_second, gauge.capacity) == (2, 120)


def refused(core: Scheduler, name: str, now: float, until: float, about: Resource | None) -> None:
    signals = Observation(until, ProviderEvent.REFUSED, is_pause_told=True, about=about)
    again = Outcome(CallState.QUEUED, error="429", refused=True)
    core.handle(Settle(name, again, {"q": signals}), now)


def test_when_the_pause_ends_there_is_what_was_refused_and_no_more() -> None:
    core = Scheduler([Quota.per_minute("q", requests=60)], NOW, STRICT)
    for n in range(30):
        core.handle(Submit(call(f"c{n}", Priority.INTERACTIVE)), NOW)
    assert len(admitted(core, NOW)) == 30
    refused(core, "c0", NOW + 1, NOW + 21, None)
    assert admitted(core, NOW + 1) == []
    assert core.next_event(NOW + 1) == NOW + 21
    assert admitted(core, NOW + 21) == ["c0"]
    core.handle(Submit(call("d0", Priority.INTERACTIVE)), NOW + 21)
    core.handle(Submit(call("d1", Priority.INTERACTIVE)), NOW + 21)
    assert admitted(core, NOW + 21.9) == []
    assert len(admitted(core, NOW + 23.6)) == 2


@pytest.mark.parametrize(("remaining", "at", "left"), [(20, 2, 0), (55, 2, 54), (20, 9, 20)])
def test_a_refusal_shows_how_much_others_have_where_answers_show_that_there_are_others(
    remaining: int, at: float, left: int
) -> None:
    limits = {Resource.REQUESTS: 60.0}
    core = Scheduler([Quota.stated("q", limits, window=Window.SLIDING)], NOW, STRICT)
    for n in range(5):
        core.handle(Submit(call(f"c{n}", Priority.INTERACTIVE)), NOW)
    assert len(admitted(core, NOW)) == 5
    told = {Resource.REQUESTS: RateLimitHeader(60, remaining)}
    core.handle(Observe("c0", {"q": Observation(headers=told)}), NOW + 1)
    answer(core, "c0", NOW + 1)
    core.handle(Observe("c1", {"q": Observation(event=ProviderEvent.REFUSED)}), NOW + at)
    (gauge,) = statistics(core.state, NOW + at).gauges
    assert (gauge.capacity, gauge.available) == (60, pytest.approx(left, abs=2))


def test_a_refusal_empties_what_it_is_about_and_nothing_else() -> None:
    for about, emptied in (
        (Resource.TOKENS, {Resource.TOKENS}),
        (Resource.REQUESTS, {Resource.REQUESTS}),
        (None, {Resource.TOKENS, Resource.REQUESTS}),
    ):
        guess = Quota("q", WIDE.limits, is_guess=True)
        core = Scheduler([guess], NOW, STRICT)
        core.handle(Submit(call("a", Priority.INTERACTIVE)), NOW)
        assert admitted(core, NOW) == ["a"]
        refused(core, "a", NOW, NOW + 1, about)
        gauges = statistics(core.state, NOW).gauges
        assert {g.resource for g in gauges if g.available <= 1} == emptied


def slots(core: Scheduler, now: float) -> float | None:
    gauges = statistics(core.state, now).gauges
    return next((g.capacity for g in gauges if g.resource is Resource.CONCURRENCY), None)


def crowded(core: Scheduler, name: str, now: float, limit: float | None = None) -> None:
    told = {} if limit is None else {Resource.CONCURRENCY: RateLimitHeader(limit)}
    observation = Observation(event=ProviderEvent.CROWDED, headers=told)
    again = Outcome(CallState.QUEUED, error="429", refused=True)
    core.handle(Settle(name, again, {"q": observation}), now)


def flying(count: int, quota: Quota = WIDE) -> Scheduler:
    core = Scheduler([quota], NOW, STRICT)
    for n in range(count):
        core.handle(Submit(call(f"c{n:02}")), NOW)
    assert len(admitted(core, NOW)) == count
    return core


def test_too_many_at_once_make_a_limit_of_slots_and_no_rate_falls() -> None:
    core = flying(10)
    rates = [gauge.per_second for gauge in statistics(core.state, NOW).gauges]
    for n in range(9, 3, -1):
        crowded(core, f"c{n:02}", NOW + 1)
    assert slots(core, NOW + 1) == 4
    assert admitted(core, NOW + 1) == []  # four are in flight
    answer(core, "c00", NOW + 2)
    assert admitted(core, NOW + 2) == ["c04"]
    assert [g.per_second for g in statistics(core.state, NOW).gauges if g.per_second] == rates
    assert all(gauge.paused_until is None for gauge in statistics(core.state, NOW).gauges)
    again = restarted(core, NOW + 3)
    assert slots(again, NOW + 3) == 4


def test_calls_that_ended_before_a_refusal_was_read_were_in_flight_when_it_was_refused() -> None:
    core = flying(3)
    answer(core, "c00", NOW + 1)
    crowded(core, "c02", NOW + 1)
    assert slots(core, NOW + 1) == 2


def test_the_number_that_the_provider_tells_holds_and_does_not_grow() -> None:
    core = flying(10)
    crowded(core, "c09", NOW + 1, limit=4)
    assert slots(core, NOW + 1) == 4
    assert statistics(core.state, NOW + 1).gauges[-1].available == 4 - 9
    for n in range(9):
        answer(core, f"c{n:02}", NOW + 100 * n)
    assert slots(core, NOW + 1_000) == 4


def test_a_number_that_nobody_told_grows_by_one_a_minute_and_later_ever_more_seldom() -> None:
    learned, now, refused_at = Slots(None), NOW, list[float]()
    learned.record_crowded(10, None, now)
    for _ in range(5_000):
        now += 3
        in_flight = int(learned.limit or 0)  # calls always wait
        if in_flight <= 4:  # what the provider takes
            learned.record_answer(in_flight, now)
        else:
            learned.record_crowded(in_flight, None, now)
            refused_at.append(now)
    late = [at for at in refused_at if at > NOW + 60]
    gaps = [after - before for before, after in pairwise(late)]
    assert 3 <= len(late) <= 12
    assert gaps == sorted(gaps)
    assert learned.limit in (4, 5)


def test_a_number_does_not_grow_while_fewer_calls_are_in_flight() -> None:
    learned = Slots(None)
    learned.record_crowded(5, None, NOW)
    for n in range(100):
        assert not learned.record_answer(3, NOW + 100 * n)
    assert learned.limit == 4


def test_a_provider_that_limits_slots_and_says_rate_is_found_out() -> None:
    core = Scheduler([WIDE], NOW, STRICT)
    now, count = NOW, 0
    for in_flight, pause in ((8, 1.0), (7, 30.0), (6, 1.0)):
        names = [f"c{count + n}" for n in range(in_flight)]
        count += in_flight
        for name in names:
            core.handle(Submit(call(name)), now)
        assert admitted(core, now) == names
        core.handle(Observe(names[-1], {"q": Observation(event=ProviderEvent.REFUSED)}), now)
        core.handle(Settle(names[-1], Outcome(CallState.CANCELLED, refused=True)), now)
        for name in names[4:-1]:
            core.handle(Settle(name, Outcome(CallState.CANCELLED)), now)
        for name in names[:4]:
            answer(core, name, now)
        now += pause
    assert slots(core, now) == 4


def grown(core: Scheduler, name: str, told: dict[Resource, RateLimitHeader]) -> float:
    """Let calls of 20 s of answers go, one after the other; return the rate of tokens."""
    now = NOW
    for n in range(200):
        now += 0.1
        core.handle(Submit(call(f"{name}{n}", tokens=1)), now)
        for started in admitted(core, now):
            answered = Observation(event=ProviderEvent.ANSWERED, headers=told)
            core.handle(Observe(started, {"q": answered}), now)
            core.handle(Settle(started, DONE), now)
    rates = {g.resource: g.per_second for g in statistics(core.state, now).gauges}
    return rates[Resource.TOKENS]


def test_a_guess_grows_only_while_calls_wait_for_it() -> None:
    limits = Quota.stated("q", {Resource.TOKENS: 60.0, Resource.CONCURRENCY: 1}, burst_seconds=None)
    slots = Quota.stated("q", {Resource.TOKENS: 6e5, Resource.CONCURRENCY: 1}, burst_seconds=None)
    rate = Scheduler([Quota("q", limits.limits, is_guess=True)], NOW, STRICT)
    assert grown(rate, "a", {}) > 1
    taken = Scheduler([Quota("q", slots.limits, is_guess=True)], NOW, STRICT)
    taken.handle(Submit(call("long")), NOW)
    assert admitted(taken, NOW) == ["long"]  # it keeps the only slot
    assert grown(taken, "b", {}) == 10_000


def test_nor_while_what_remains_holds_it() -> None:
    limits = Quota.stated("q", {Resource.TOKENS: 60.0}, burst_seconds=None)
    core = Scheduler([Quota("q", limits.limits, is_guess=True)], NOW, STRICT)
    assert grown(core, "a", {Resource.TOKENS: RateLimitHeader(remaining=0)}) == pytest.approx(1)


def test_a_day_that_is_spent_is_asked_once_in_a_quarter_of_an_hour() -> None:
    core = Scheduler([WIDE], NOW, STRICT)
    for n in range(5):
        core.handle(Submit(call(f"c{n}")), NOW)
    names = admitted(core, NOW)
    again, now, asked = Outcome(CallState.QUEUED, error="429", refused=True), NOW, 0
    while now < NOW + 86_000:
        spent = {"q": Observation(now + LONGEST_STATED_SECONDS, ProviderEvent.SPENT)}
        for name in names:
            core.handle(Settle(name, again, spent), now)
        at = core.next_event(now)
        assert at is not None
        now = at
        names = admitted(core, now)
        asked += len(names)
    assert asked <= 86_000 / LONGEST_STATED_SECONDS + 1
    assert [g.per_second for g in statistics(core.state, NOW).gauges] == [100, 10_000]
    (name,) = names
    answer(core, name, now)
    assert len(admitted(core, now)) >= 1


def test_odd_fields_are_counted_by_quota_and_the_count_survives_a_restart() -> None:
    core = Scheduler([WIDE], NOW)
    core.handle(Submit(call("a")), NOW)
    assert admitted(core, NOW) == ["a"]
    for _ in range(2):
        core.handle(Observe("a", {"q": Observation(odd=("m: x", "m: y"))}), NOW)
    core.handle(Observe("a", {"q": Observation(odd=("m: y",))}), NOW)
    again = restarted(core, NOW)
    for each in (core, again):
        for gauge in statistics(each.state, NOW).gauges:
            assert gauge.odd == {"m: x": 2, "m: y": 3}


def test_no_more_than_so_many_odd_fields_are_told_apart() -> None:
    core = Scheduler([WIDE], NOW)
    for number in range(MOST_ODD_FIELDS + 10):
        core.handle(Observe("", {"q": Observation(odd=(f"m: {number}",))}), NOW)
    core.handle(Observe("", {"q": Observation(odd=("m: 0",))}), NOW)
    (gauge, *_) = statistics(core.state, NOW).gauges
    assert len(gauge.odd) == MOST_ODD_FIELDS
    assert gauge.odd["m: 0"] == 2


def test_a_refusal_without_headers_empties_a_guess() -> None:
    guess = Quota("q", Quota.per_minute("q", requests=600).limits, is_guess=True)
    core = Scheduler([guess], NOW)
    core.handle(Submit(call("a", Priority.INTERACTIVE)), NOW)
    assert admitted(core, NOW) == ["a"]
    assert available(core, NOW, Resource.REQUESTS) == 9
    core.handle(Observe("a", {"q": Observation(NOW + 0.5, ProviderEvent.REFUSED)}), NOW + 0.1)
    assert available(core, NOW + 0.1, Resource.REQUESTS) < 1
    assert statistics(core.state, NOW).gauges[0].per_second == pytest.approx(8.5)


LOCKED = Observation(event=ProviderEvent.LOCKED_OUT, error="AuthenticationError: no such key")


def locked(*names: str) -> Scheduler:
    """A core of which one call was answered that the account is locked out; ``names`` wait."""
    core = Scheduler([WIDE], NOW, STRICT)
    core.handle(Submit(call("first")), NOW)
    assert admitted(core, NOW) == ["first"]
    core.handle(Observe("first", {"q": LOCKED}), NOW)
    core.handle(Settle("first", Outcome(CallState.FAILED, error="401")), NOW)
    for name in names:
        core.handle(Submit(call(name)), NOW)
    return core


def test_a_locked_account_stops_the_quota_and_its_calls_wait() -> None:
    core = locked("a", "b")
    assert admitted(core, NOW + 1e6) == []
    assert core.next_event(NOW + 1e6) is None
    explanation = explain(core.state, "a", NOW)
    assert explanation is not None
    (blocker,) = explanation.blockers
    assert (blocker.quota, blocker.resource, blocker.stopped) == ("q", None, LOCKED.error)
    assert {gauge.stopped for gauge in statistics(core.state, NOW).gauges} == {LOCKED.error}


def test_after_it_was_mended_one_call_tries_and_the_others_follow() -> None:
    core = locked(*"abcdef")
    core.handle(ApplyChange(changes.resume("q", NOW)), NOW)
    assert admitted(core, NOW) == ["a"]
    answer(core, "a", NOW + 5)
    assert admitted(core, NOW + 5) == [*"bcdef"]


def test_it_stops_again_if_it_was_not_mended() -> None:
    core = locked("a", "b")
    core.handle(ApplyChange(changes.resume("q", NOW)), NOW)
    assert admitted(core, NOW) == ["a"]
    core.handle(Observe("a", {"q": LOCKED}), NOW)
    core.handle(Settle("a", Outcome(CallState.FAILED, error="401")), NOW)
    assert admitted(core, NOW + 1e6) == []


def test_a_stop_is_seen_after_a_restart_and_a_new_process_tries_once() -> None:
    again = restarted(locked(), NOW)
    assert {gauge.stopped for gauge in statistics(again.state, NOW).gauges} == {LOCKED.error}
    for name in "ab":
        again.handle(Submit(call(name)), NOW)
    assert admitted(again, NOW) == []
    again.handle(ProbeStopped(), NOW)
    assert admitted(again, NOW) == ["a"]


@pytest.mark.parametrize(
    ("heard", "goes_at"),
    [(0.8, 10.8), (2.0, 20.0)],  # 2 s of 10 are too rough: what the refusal tells is believed
)
def test_a_whole_window_that_a_refusal_tells_is_waited_for_only_until_it_ends(
    heard: float, goes_at: float
) -> None:
    """LiteLLM tells the length of its window whenever it refuses; its answers tell the rest."""
    limit = Limit(Resource.REQUESTS, 60, 6.0, 360.0, 0.0, Window.FIXED, 10.0)
    core = Scheduler([Quota("q", (limit,))], NOW, STRICT)
    for n in range(61):
        core.handle(Submit(call(f"c{n:02}")), NOW)
    first, *others = admitted(core, NOW)
    for name in (first, *others):
        core.handle(MarkSent(name, NOW), NOW)
    rest = {Resource.REQUESTS: RateLimitHeader(60, 59, window=Window.FIXED)}
    core.handle(Observe(first, {"q": replace(ANSWERED, headers=rest)}), NOW + heard)
    core.handle(Settle(first, DONE), NOW + heard)
    refused = Observation(
        NOW + 20,
        ProviderEvent.REFUSED,
        {Resource.REQUESTS: RateLimitHeader(60, None, None, 10.0, Window.FIXED)},
        is_pause_told=True,
        about=Resource.REQUESTS,
    )
    for name in others:
        core.handle(Observe(name, {"q": refused}), NOW + 10)
        core.handle(Settle(name, replace(AGAIN, refused=True)), NOW + 10)
    assert admitted(core, NOW + goes_at - 0.01) == []
    assert len(admitted(core, NOW + goes_at + 0.01)) == 60
