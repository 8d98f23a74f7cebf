"""Limits by the day, of input, output and dollars: what a call takes of each and gives back."""

import pytest

from headway_scheduler.core.inspection import explain, statistics
from headway_scheduler.core.scheduler import Scheduler
from headway_scheduler.errors import CallTooLarge, InvalidQuota
from headway_scheduler.model.batch import Snapshot
from headway_scheduler.model.calls import Call, Outcome, Priority, Usage
from headway_scheduler.model.data import replace
from headway_scheduler.model.quotas import DAY_SECONDS, Quota, Resource
from headway_scheduler.model.states import CallState
from headway_scheduler.protocol.messages import Settle, Submit

MIDNIGHT = 20_000 * DAY_SECONDS
EVENING = MIDNIGHT - 3_600
DONE = Outcome(CallState.DONE, usage=Usage(60, 20), used_tokens=80, usd=0.25, answer="{}")


def call(id: str, **amounts: float) -> Call:
    taken = {"tokens": 100, "input_tokens": 70, "output_tokens": 30, "usd": 0.5} | amounts
    return Call(id, "r", "a", "m", ("q",), Priority.INTERACTIVE, submitted_at=EVENING, **taken)  # type: ignore[arg-type]


def quota(resource: Resource, number: float, day_starts: float = 0.0) -> Quota:
    return Quota.stated("q", {resource: number}, day_starts=day_starts)


def admitted(core: Scheduler, now: float) -> list[str]:
    return [record.call.id for record in core.admit(now)]


def free(core: Scheduler, now: float) -> float:
    [gauge] = statistics(core.state, now).gauges
    return gauge.available


@pytest.mark.parametrize(
    ("resource", "number", "taken", "used"),
    [
        (Resource.TOKENS, 1_000, 100, 80),
        (Resource.INPUT_TOKENS, 1_000, 70, 60),
        (Resource.OUTPUT_TOKENS, 1_000, 30, 20),
        (Resource.REQUESTS_PER_DAY, 1_000, 1, 1),
        (Resource.TOKENS_PER_DAY, 1_000, 100, 80),
        (Resource.USD_PER_DAY, 10, 0.5, 0.25),
        (Resource.CONCURRENCY, 10, 1, 0),
    ],
)
def test_what_a_call_takes_of_each_limit_and_what_of_it_comes_back(
    resource: Resource, number: float, taken: float, used: float
) -> None:
    core = Scheduler([quota(resource, number)], EVENING)
    core.handle(Submit(call("a")), EVENING)
    core.handle(Submit(call("b")), EVENING)
    assert len(core.admit(EVENING)) == 2
    assert free(core, EVENING) == pytest.approx(number - 2 * taken)
    core.handle(Settle("a", DONE), EVENING)
    assert free(core, EVENING) == pytest.approx(number - taken - used)
    core.handle(Settle("b", Outcome(CallState.CANCELLED, sent=False)), EVENING)
    assert free(core, EVENING) == pytest.approx(number - used)


def test_input_that_no_limit_counts_comes_back() -> None:
    core = Scheduler([quota(Resource.INPUT_TOKENS, 1_000)], EVENING)
    core.handle(Submit(call("a")), EVENING)
    assert len(core.admit(EVENING)) == 1
    cached = Outcome(CallState.DONE, Usage(60, 20, cache_read_tokens=50), free_input_tokens=50)
    core.handle(Settle("a", cached), EVENING)
    assert free(core, EVENING) == pytest.approx(1_000 - 10)


@pytest.mark.parametrize("day_starts", [0.0, 8 * 3_600.0])
def test_a_daily_limit_is_full_again_when_the_day_starts_and_not_before(day_starts: float) -> None:
    core = Scheduler([quota(Resource.REQUESTS_PER_DAY, 2, day_starts)], EVENING)
    for id in "abc":
        core.handle(Submit(call(id)), EVENING)
    assert admitted(core, EVENING) == ["a", "b"]
    why = explain(core.state, "c", EVENING)
    assert why is not None
    assert why.starts_at == MIDNIGHT + day_starts == core.next_event(EVENING)
    assert admitted(core, MIDNIGHT + day_starts - 1) == []
    assert admitted(core, MIDNIGHT + day_starts) == ["c"]
    # What yesterday's calls did not use is yesterday's.
    core.handle(Settle("a", Outcome(CallState.CANCELLED, sent=False)), MIDNIGHT + day_starts)
    assert free(core, MIDNIGHT + day_starts) == 1


def test_what_was_taken_today_is_taken_after_a_restart_and_not_tomorrow() -> None:
    quotas = [quota(Resource.TOKENS_PER_DAY, 250)]
    core = Scheduler(quotas, EVENING)
    for id in "ab":
        core.handle(Submit(call(id)), EVENING)
    core.admit(EVENING)
    batch = core.take_batch(EVENING)
    for now, left in ((EVENING + 60, 50), (MIDNIGHT + 60, 250)):
        again = Scheduler(quotas, now)
        rows = tuple(map(replace, batch.new))
        again.restore(Snapshot(batch.buckets, rows, 2), now, lambda _: False)
        assert free(again, now) == left


def test_a_call_above_a_daily_limit_is_refused_at_once() -> None:
    core = Scheduler([quota(Resource.USD_PER_DAY, 0.4)], EVENING)
    with pytest.raises(
        CallTooLarge, match=r"needs 0.5 dollars per day, .* never allows more than 0.4:"
    ):
        core.handle(Submit(call("a")), EVENING)


def test_what_was_spent_beyond_a_daily_limit_is_forgotten_at_the_end_of_the_day() -> None:
    core = Scheduler([quota(Resource.USD_PER_DAY, 5.0)], EVENING)
    core.handle(Submit(call("a")), EVENING)
    core.admit(EVENING)
    core.handle(Settle("a", Outcome(CallState.DONE, Usage(1, 1), "{}", usd=20.0)), EVENING)
    core.handle(Submit(call("b")), EVENING)
    assert not core.admit(EVENING)
    why = explain(core.state, "b", EVENING)
    assert why is not None
    assert why.starts_at == MIDNIGHT
    assert [each.call.id for each in core.admit(MIDNIGHT)] == ["b"]


@pytest.mark.parametrize("number", [0.75, 3.0])
def test_what_was_taken_today_is_taken_under_another_number_after_a_restart(number: float) -> None:
    core = Scheduler([quota(Resource.USD_PER_DAY, 1.5)], EVENING)
    core.handle(Submit(call("a")), EVENING)
    core.admit(EVENING)
    core.handle(Settle("a", replace(DONE, usd=0.5)), EVENING)
    buckets = core.take_batch(EVENING).buckets
    again = Scheduler([quota(Resource.USD_PER_DAY, number)], EVENING + 60)
    again.restore(Snapshot(buckets, (), 1), EVENING + 60, lambda _: False)
    assert free(again, EVENING + 60) == pytest.approx(number - 0.5)
    assert free(again, MIDNIGHT) == number


def test_of_a_daily_limit_no_class_keeps_anything_for_another() -> None:
    core = Scheduler([quota(Resource.REQUESTS_PER_DAY, 3)], EVENING)
    for id in "abc":
        core.handle(
            Submit(Call(id, "r", "a", "m", ("q",), Priority.BACKGROUND, 1, EVENING)), EVENING
        )
    assert len(core.admit(EVENING)) == 3


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InvalidQuota, match="tokens per day must be at least 1"):
        quota(Resource.TOKENS_PER_DAY, 0.5)
    with pytest.raises(InvalidQuota, match="dollars per day"):
        quota(Resource.USD_PER_DAY, 0)
