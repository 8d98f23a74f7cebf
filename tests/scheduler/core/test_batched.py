"""Calls by batch in the core: they outlive their processes, and hold what they reserved."""

from collections.abc import Callable

import pytest

from headway_scheduler.core.inspection import queued, statistics
from headway_scheduler.core.policy import Policy
from headway_scheduler.core.scheduler import Scheduler
from headway_scheduler.errors import CallTooLarge, IllegalTransition
from headway_scheduler.model.batch import Batch, Snapshot
from headway_scheduler.model.batches import (
    BATCH_TRANSITIONS,
    BatchedRequest,
    BatchState,
    ProviderBatch,
)
from headway_scheduler.model.calls import (
    Call,
    CallRecord,
    Outcome,
    Priority,
    Route,
    ServiceLane,
    Usage,
)
from headway_scheduler.model.data import replace
from headway_scheduler.model.quotas import Quota, Resource
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import CallState, RunState
from headway_scheduler.protocol.messages import (
    DropWorker,
    EnterBatch,
    LeaveBatch,
    Resubmit,
    SaveRun,
    Settle,
    Submit,
)

NOW = 1_772_366_400.0
LANE = Quota.stated("m/batch", {Resource.ENQUEUED_TOKENS: 1000})
ORG = Quota.per_minute("org", requests=600)
BATCH = Route("m", ("m/batch",), 10, 300, 5, 0.25, lane=ServiceLane.BATCH, classes=(Priority(4),))
ROUTES = (replace(BATCH, quotas=("org",), lane=ServiceLane.STANDARD, usd=0.5, classes=()), BATCH)
DONE = Outcome(CallState.DONE, Usage(280, 7), "{}", usd=0.2, usd_source="stated by batch")


def core() -> Scheduler:
    return Scheduler([ORG, LANE], NOW, Policy(batch_before_seconds=3600))


def ask(scheduler: Scheduler, name: str = "c", worker: str = "w-1") -> None:
    call = Call(name, "r", "a", "m", ("org",), Priority.BACKGROUND, 10, NOW, input_tokens=300)
    scheduler.handle(Submit(call, routes=ROUTES), NOW, worker)


def enter(scheduler: Scheduler, name: str = "c") -> None:
    request = BatchedRequest(name, "m", "/v1/chat/completions", "{}", NOW)
    scheduler.handle(EnterBatch(request), NOW, "w-1")


def batched(name: str = "c") -> Scheduler:
    scheduler = core()
    scheduler.handle(SaveRun(run()), NOW)
    ask(scheduler, name)
    assert [each.call.lane for each in scheduler.admit(NOW)] == [ServiceLane.BATCH]
    enter(scheduler, name)
    return scheduler


def run(deadline: float | None = None) -> Run:
    return Run(
        "r", "w", "", Priority.BACKGROUND, RunState.RUNNING, NOW, deadline=deadline, budget_usd=1
    )


def free(scheduler: Scheduler) -> float:
    gauges = statistics(scheduler.state, NOW + 9).gauges
    return next(each.available for each in gauges if each.quota == "m/batch")


def spent(scheduler: Scheduler) -> tuple[float, float]:
    budget = scheduler.state.budgets.by_run["r"]
    return budget.spent_usd, budget.reserved_usd


def reloaded(scheduler: Scheduler, *, is_owned: bool) -> Scheduler:
    batch = scheduler.take_batch(NOW)
    return restored(batch, lambda record: is_owned)


def restored(batch: Batch, owned: Callable[[CallRecord], bool]) -> Scheduler:
    calls = {each.call.id: replace(each) for each in (*batch.new, *batch.changed)}
    again = core()
    snapshot = Snapshot(batch.buckets, tuple(calls.values()), len(calls))
    assert again.restore(snapshot, NOW, owned, runs=[run()]) == []
    return again


def test_a_batched_call_holds_its_input_until_it_ends_and_no_minute_gives_it_back() -> None:
    scheduler = batched()
    assert free(scheduler) == 700
    assert statistics(scheduler.state, NOW).batched == 1
    assert statistics(scheduler.state, NOW).in_flight == 0
    for n in range(2):
        ask(scheduler, f"more{n}")
    ask(scheduler, "too much")
    assert [each.call.id for each in scheduler.admit(NOW + 3600)] == ["more0", "more1"]
    scheduler.handle(Settle("c", DONE), NOW + 7200)
    assert [each.call.id for each in scheduler.admit(NOW + 7200)] == ["too much"]


def test_it_takes_of_no_limit_a_minute() -> None:
    scheduler = batched()
    gauges = {each.quota: each.available for each in statistics(scheduler.state, NOW).gauges}
    assert gauges["org"] == 600


def test_a_call_that_is_larger_than_all_batches_may_be_goes_another_way() -> None:
    scheduler = core()
    large = replace(BATCH, input_tokens=1001)
    call = Call("c", "r", "a", "m", ("m/batch",), Priority.BACKGROUND, 10, NOW, input_tokens=1001)
    with pytest.raises(CallTooLarge, match="enqueued tokens"):
        scheduler.handle(Submit(call), NOW)
    scheduler.handle(Submit(call, routes=(ROUTES[0], large)), NOW)
    assert [each.call.lane for each in scheduler.admit(NOW)] == [ServiceLane.STANDARD]


def test_near_the_deadline_it_goes_standard() -> None:
    scheduler = core()
    scheduler.handle(SaveRun(run(deadline=NOW + 3599)), NOW)
    ask(scheduler)
    assert [each.call.lane for each in scheduler.admit(NOW)] == [ServiceLane.STANDARD]


@pytest.mark.parametrize("is_owned", [True, False])
def test_whoever_dies_it_stays_and_holds_what_it_held(is_owned: bool) -> None:
    scheduler = batched()
    scheduler.handle(DropWorker("w-1"), NOW)
    assert scheduler.state.live["c"].record.state is CallState.BATCHED
    again = reloaded(scheduler, is_owned=is_owned)
    assert again.state.live["c"].record.state is CallState.BATCHED
    assert free(again) == 700
    assert spent(again) == (0, 0.25)
    again.handle(Settle("c", DONE), NOW + 60, "w-2")
    assert spent(again) == (0.2, 0)
    assert free(again) == 1000


def test_before_its_request_is_made_nothing_is_spent_whoever_dies() -> None:
    scheduler = core()
    scheduler.handle(SaveRun(run()), NOW)
    ask(scheduler)
    scheduler.admit(NOW)
    again = reloaded(scheduler, is_owned=False)
    for each in (scheduler, again):
        if each is scheduler:
            each.handle(DropWorker("w-1"), NOW)
        (record,) = queued(each.state)
        assert (record.state, record.parked) == (CallState.QUEUED, True)
        assert (record.attempts, record.lost_attempts) == (0, 0)
        assert free(each) == 1000
        assert spent(each) == (0, 0)
        assert each.admit(NOW) == []


def test_a_call_without_an_answer_is_parked_and_goes_on_with_its_run() -> None:
    scheduler = batched()
    scheduler.handle(LeaveBatch("c", "late"), NOW + 60)
    (record,) = queued(scheduler.state)
    assert (record.parked, record.error) == (True, "late")
    assert scheduler.admit(NOW + 60) == []
    assert free(scheduler) == 1000
    assert spent(scheduler) == (0, 0)
    scheduler.handle(Resubmit(replace(record), ROUTES), NOW + 61, "w-2")
    assert [each.worker for each in scheduler.admit(NOW + 61)] == ["w-2"]


def test_a_call_that_has_ended_leaves_no_batch() -> None:
    scheduler = batched()
    scheduler.handle(Settle("c", DONE), NOW)
    scheduler.handle(LeaveBatch("c", "late"), NOW)
    assert queued(scheduler.state) == []


def test_a_call_that_goes_again_belongs_to_the_worker_that_told_so() -> None:
    scheduler = batched()
    again = Outcome(CallState.QUEUED, error="500")
    scheduler.handle(Settle("c", again), NOW + 60, "w-2")
    (record,) = scheduler.admit(NOW + 60)
    assert record.worker == "w-2"


def test_only_an_admitted_call_enters_a_batch() -> None:
    scheduler = core()
    ask(scheduler)
    with pytest.raises(IllegalTransition):
        enter(scheduler)
    with pytest.raises(IllegalTransition):
        enter(scheduler, "nobody")


def test_its_request_is_written_with_it() -> None:
    batch = batched().take_batch(NOW)
    assert [request.call_id for request in batch.requests] == ["c"]
    assert [record.state for record in batch.new] == [CallState.BATCHED]


@pytest.mark.parametrize("old", BatchState)
@pytest.mark.parametrize("new", BatchState)
def test_a_batch_goes_along_its_table(old: BatchState, new: BatchState) -> None:
    batch = ProviderBatch("b", "m", "/v1", old, NOW)
    if new in BATCH_TRANSITIONS[old]:
        batch.check(new)
    else:
        with pytest.raises(IllegalTransition, match=f"{old} to {new}"):
            batch.check(new)
