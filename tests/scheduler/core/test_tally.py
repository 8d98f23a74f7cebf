"""What the core counts for history: waits, attempts without an answer, and crowds."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway_scheduler.core.scheduler import Scheduler
from headway_scheduler.core.tally import SAMPLE_SECONDS
from headway_scheduler.model.batch import Batch, Snapshot
from headway_scheduler.model.calls import Call, CallRecord, Outcome, Priority
from headway_scheduler.model.data import replace
from headway_scheduler.model.history import (
    BUCKET_BOUNDS,
    BUCKETS,
    HOUR,
    LONGEST_ERROR,
    MINUTE,
    Crowd,
    Try,
    WaitCount,
    wait_at,
)
from headway_scheduler.model.quotas import Observation, ProviderEvent, Quota
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import CallState, RunState
from headway_scheduler.protocol.messages import DropWorker, Resubmit, SaveRun, Settle, Submit

NOW = 1_772_366_400.0  # on the hour
SLOT = Quota.per_minute("slot", concurrency=1)
DONE = Outcome(CallState.DONE, answer="{}")
FAILED = Outcome(CallState.FAILED, error="no")
AGAIN = Outcome(CallState.QUEUED, error="again")
RUN = Run("run", "workflow", "task", Priority.LOW, RunState.RUNNING, NOW, team="team")


def call(id: str, at: float = NOW, priority: Priority = Priority.LOW) -> Call:
    return Call(id, "run", "agent", "model", ("slot",), priority, 1, at)


def core() -> Scheduler:
    scheduler = Scheduler([SLOT], NOW)
    scheduler.handle(SaveRun(RUN), NOW)
    return scheduler


def sent(scheduler: Scheduler, id: str = "a", at: float = NOW) -> Scheduler:
    scheduler.handle(Submit(call(id, at)), at)
    assert [record.call.id for record in scheduler.admit(at)] == [id]
    return scheduler


def waits(batch: Batch) -> list[tuple[int, int, Priority, str, int]]:
    """The counted waits by the minute: its beginning, class, team, bucket and calls."""
    return [(x.at, x.span, x.priority, x.team, x.calls) for x in batch.waits if x.span == MINUTE]


def waited(batch: Batch, span: int = MINUTE) -> float | None:
    return wait_at(0.5, [each for each in batch.waits if each.span == span])


def about(seconds: float) -> object:
    return pytest.approx(seconds, rel=0.1)


def test_a_wait_is_counted_in_its_minute_and_its_hour_with_the_end_of_its_call() -> None:
    scheduler = core()
    scheduler.handle(Submit(call("a", NOW)), NOW)
    scheduler.admit(NOW + 8)
    assert scheduler.take_batch(NOW + 8).waits == ()
    end = NOW + HOUR + 3 * MINUTE + 7
    scheduler.handle(Settle("a", DONE), end)
    counts = scheduler.take_batch(end).waits
    by_minute, by_hour = counts
    assert by_minute == replace(by_hour, span=MINUTE, at=int(NOW) + HOUR + 3 * MINUTE)
    assert by_hour == WaitCount(HOUR, int(NOW) + HOUR, Priority.LOW, "team", by_hour.bucket, 1)
    assert wait_at(0.95, [by_hour]) == about(8)
    assert scheduler.take_batch(end).waits == ()


def test_a_wait_is_the_time_in_the_queue_and_not_the_time_of_tries() -> None:
    scheduler = core()
    scheduler.handle(Submit(call("a", NOW)), NOW)
    scheduler.admit(NOW + 4)
    scheduler.handle(Settle("a", AGAIN), NOW + 1000)
    scheduler.admit(NOW + 1004)
    scheduler.handle(Settle("a", DONE), NOW + 3000)
    assert waited(scheduler.take_batch(NOW + 3000)) == about(8)


def test_a_call_that_was_never_admitted_has_no_wait() -> None:
    scheduler = sent(core())
    scheduler.handle(Submit(call("b")), NOW)
    scheduler.handle(Settle("b", Outcome(CallState.CANCELLED, sent=False)), NOW + 9)
    assert scheduler.take_batch(NOW + 9).waits == ()


def test_a_step_draws_on_no_quota_never_waits_and_is_no_attempt_at_a_provider() -> None:
    scheduler = core()
    scheduler.handle(Submit(replace(call("a"), quotas=(), kind="tool")), NOW)
    assert [record.call.id for record in scheduler.admit(NOW)] == ["a"]
    scheduler.handle(Settle("a", FAILED), NOW + 9)
    batch = scheduler.take_batch(NOW + 9)
    assert (batch.waits, batch.tries) == ((), ())


def test_a_call_cut_off_is_counted_when_it_has_been_made_again() -> None:
    scheduler = Scheduler([SLOT], NOW, own="w")
    scheduler.handle(SaveRun(RUN), NOW)
    scheduler.handle(Submit(call("a")), NOW, "w")
    (record,) = scheduler.admit(NOW)
    scheduler.handle(DropWorker("w"), NOW + 50)
    batch = scheduler.take_batch(NOW + 50)
    assert batch.waits == ()
    assert [each.news for each in batch.tries] == ["cut off"]
    scheduler.handle(Resubmit(record), NOW + 100)
    scheduler.admit(NOW + 104)
    scheduler.handle(Settle("a", DONE), NOW + 105)
    assert waited(scheduler.take_batch(NOW + 105)) == about(4)


def restored(record: CallRecord, *, owned: bool) -> Scheduler:
    scheduler = Scheduler([SLOT], NOW)
    run = replace(RUN, resumed_at=NOW + 90)
    snapshot = Snapshot((), (record,), 1)
    scheduler.restore(snapshot, NOW + 100, lambda _: owned, runs=[run])
    return scheduler


def test_a_new_leader_counts_from_when_the_run_went_on() -> None:
    queued = restored(CallRecord(call("a"), 0), owned=True)
    queued.admit(NOW + 106)
    queued.handle(Settle("a", DONE), NOW + 200)
    assert waited(queued.take_batch(NOW + 200)) == about(16)
    flying = CallRecord(call("a"), 0, CallState.ADMITTED, admitted_at=NOW + 94, attempts=1)
    taken_over = restored(flying, owned=True)
    taken_over.handle(Settle("a", DONE), NOW + 200)
    assert waited(taken_over.take_batch(NOW + 200)) == about(4)


def test_a_new_leader_notes_what_its_predecessor_left_in_flight() -> None:
    flying = CallRecord(call("a"), 0, CallState.SENT, admitted_at=NOW + 94, attempts=1)
    batch = restored(flying, owned=False).take_batch(NOW + 100)
    assert batch.tries == (Try("a", "run", "slot", NOW + 94, NOW + 100, "cut off"),)


REFUSED = Observation(NOW + 60, ProviderEvent.REFUSED)
ENDS: dict[str, tuple[Outcome, Observation | None, str | None]] = {
    "an answer": (DONE, Observation(event=ProviderEvent.ANSWERED), None),
    "a 429": (AGAIN, REFUSED, "refused"),
    "a 503": (AGAIN, Observation(event=ProviderEvent.OVERLOADED), "overloaded"),
    "no capacity": (
        Outcome(CallState.QUEUED, uncounted=True),
        Observation(event=ProviderEvent.NO_CAPACITY),
        "no capacity",
    ),
    "a lost connection": (AGAIN, Observation(event=ProviderEvent.FAILED), "failed"),
    "a bad request": (FAILED, Observation(event=ProviderEvent.ANSWERED), "failed"),
    "an answer that its client refused": (AGAIN, None, "failed"),
    "a time limit of ours": (Outcome(CallState.QUEUED, lost=True), None, "cut off"),
    "a kill": (Outcome(CallState.UNKNOWN), None, "cut off"),
    "an agent that wants it no more": (Outcome(CallState.CANCELLED), None, None),
    "a request that was never made": (
        Outcome(CallState.QUEUED, sent=False, uncounted=True),
        None,
        None,
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_an_attempt_has_a_row_unless_it_was_answered(end: str) -> None:
    outcome, told, news = ENDS[end]
    scheduler = sent(core())
    signals = {} if told is None else {"slot": told}
    scheduler.handle(Settle("a", outcome, signals), NOW + 5)
    found = scheduler.take_batch(NOW + 5).tries
    assert [each.news for each in found] == ([] if news is None else [news])
    assert all(each.admitted_at == NOW and each.ended_at == NOW + 5 for each in found)


def test_a_refusal_says_by_which_quota_and_until_when_and_why() -> None:
    scheduler = Scheduler([SLOT, Quota.per_minute("day", requests=10)], NOW)
    both = replace(call("a"), quotas=("slot", "day"))
    scheduler.handle(Submit(both), NOW)
    scheduler.admit(NOW)
    long = "no" * LONGEST_ERROR
    outcome = Outcome(CallState.QUEUED, error=long)
    scheduler.handle(Settle("a", outcome, {"slot": Observation(), "day": REFUSED}), NOW + 5)
    (row,) = scheduler.take_batch(NOW + 5).tries
    assert (row.quota, row.pause_until, row.error) == ("day", NOW + 60, long[:LONGEST_ERROR])


def test_a_call_that_made_room_was_preempted_and_did_not_fail() -> None:
    gpu = replace(Quota.per_minute("slot", concurrency=1), is_local=True)
    scheduler = Scheduler([gpu], NOW)
    scheduler.handle(Submit(call("a", NOW, Priority.BACKGROUND)), NOW)
    scheduler.admit(NOW)
    scheduler.handle(Submit(call("b", NOW, Priority.INTERACTIVE)), NOW + 1)
    scheduler.admit(NOW + 1)
    assert [record.call.id for record in scheduler.take_preempted()] == ["a"]
    scheduler.handle(Settle("a", replace(AGAIN, sent=False)), NOW + 2)
    scheduler.admit(NOW + 2)
    scheduler.handle(Settle("b", DONE), NOW + 3)
    scheduler.admit(NOW + 3)
    scheduler.handle(Settle("a", AGAIN), NOW + 4)
    assert [x.news for x in scheduler.take_batch(NOW + 4).tries] == ["preempted", "failed"]


def test_the_most_that_waited_in_a_minute_are_written_when_it_is_over() -> None:
    scheduler = sent(core())
    for name in "bc":
        scheduler.handle(Submit(call(name)), NOW)
    assert scheduler.take_batch(NOW).crowds == ()
    scheduler.handle(Settle("b", Outcome(CallState.CANCELLED, sent=False)), NOW + 30)
    scheduler.handle(Submit(call("d", NOW + 30, Priority.HIGH)), NOW + 30)
    assert scheduler.take_batch(NOW + 30).crowds == ()
    minute = int(NOW)
    high, low = Crowd(minute, Priority.HIGH, 1, 0), Crowd(minute, Priority.LOW, 2, 1)
    assert scheduler.take_batch(NOW + MINUTE).crowds == (high, low)
    assert scheduler.take_batch(NOW + MINUTE).crowds == ()


def test_calls_are_counted_once_a_second_at_most() -> None:
    scheduler = sent(core())
    scheduler.take_batch(NOW)
    for name in "bcd":  # who comes and goes in between is not counted
        scheduler.handle(Submit(call(name)), NOW + 0.5)
    scheduler.take_batch(NOW + 0.9)
    for name in "bcd":
        scheduler.handle(Settle(name, Outcome(CallState.CANCELLED, sent=False)), NOW + 0.9)
    scheduler.handle(Submit(call("e")), NOW + SAMPLE_SECONDS)
    scheduler.take_batch(NOW + SAMPLE_SECONDS)
    (crowd,) = scheduler.take_batch(NOW + MINUTE).crowds
    assert crowd.waiting == 1


def test_what_is_parked_does_not_wait_and_a_quiet_minute_has_no_row() -> None:
    scheduler = core()
    scheduler.handle(Submit(call("a"), parked=True), NOW)
    scheduler.take_batch(NOW)
    assert scheduler.take_batch(NOW + MINUTE).crowds == ()


@given(st.lists(st.floats(0, 46 * HOUR), min_size=1, max_size=40), st.sampled_from([0.5, 0.95, 1]))
@settings(max_examples=100, deadline=None)
def test_a_percentile_is_off_by_less_than_a_tenth(seconds: list[float], share: float) -> None:
    scheduler = Scheduler([Quota.per_minute("wide", requests=600_000)], NOW)
    for number, wait in enumerate(seconds):
        each = replace(call(f"{number}", NOW - wait), quotas=("wide",))
        scheduler.handle(Submit(each), NOW)
    scheduler.admit(NOW)
    for number in range(len(seconds)):
        scheduler.handle(Settle(f"{number}", DONE), NOW)
    counts = scheduler.take_batch(NOW).waits
    assert sum(each.calls for each in counts) == 2 * len(seconds)
    exact = sorted(seconds)[math.ceil(share * len(seconds)) - 1]
    found = wait_at(share, [each for each in counts if each.span == HOUR])
    assert found == pytest.approx(exact, rel=0.0911, abs=0.011)


def test_buckets_hold_all_waits_and_of_none_there_is_no_percentile() -> None:
    assert len(BUCKET_BOUNDS) == BUCKETS - 1
    assert wait_at(0.95, []) is None
