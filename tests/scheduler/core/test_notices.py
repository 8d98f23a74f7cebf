"""What is told to the world outside is a row of the commit that makes it so, once."""

import json

import pytest

from headway_scheduler.core.policy import Policy
from headway_scheduler.core.scheduler import Scheduler
from headway_scheduler.model.batch import Lesson, Snapshot
from headway_scheduler.model.batches import BatchedRequest
from headway_scheduler.model.calls import Call, Outcome, Priority, ServiceLane, Usage
from headway_scheduler.model.changes import resume
from headway_scheduler.model.data import replace
from headway_scheduler.model.notices import Notice, NoticeKind
from headway_scheduler.model.quotas import (
    DAY_SECONDS,
    Observation,
    ProviderEvent,
    Quota,
    Resource,
)
from headway_scheduler.model.runs import AD_HOC, Run
from headway_scheduler.model.states import ENDED_RUNS, CallState, RunState
from headway_scheduler.protocol.messages import ApplyChange, EnterBatch, SaveRun, Settle, Submit

NOW = 1_000_000.0
RUN = Run("r", "report", "t", Priority.NORMAL, RunState.RUNNING, NOW, budget_usd=1.0, attempts=1)
QUOTAS = (
    Quota.per_minute("q", concurrency=10),
    Quota.stated("day", {Resource.USD_PER_DAY: 10.0}),
)


def core(*kinds: NoticeKind) -> Scheduler:
    scheduler = Scheduler(QUOTAS, NOW, Policy(notifies=kinds or tuple(NoticeKind)))
    scheduler.handle(SaveRun(RUN), NOW)
    assert told(scheduler) == []
    return scheduler


def told(scheduler: Scheduler, now: float = NOW) -> list[Notice]:
    return list(scheduler.take_batch(now).notices)


def facts(notice: Notice) -> dict[str, object]:
    found: dict[str, object] = json.loads(notice.data)
    return found


def spend(scheduler: Scheduler, id: str, usd: float, now: float = NOW) -> list[Notice]:
    call = Call(id, "r", "a", "m", ("q", "day"), Priority.NORMAL, 1, now, usd=usd)
    scheduler.handle(Submit(call), now)
    assert [record.call.id for record in scheduler.admit(now)] == [id]
    outcome = Outcome(CallState.DONE, usage=Usage(1, 1), answer="{}", usd=usd)
    scheduler.handle(Settle(id, outcome), now)
    return told(scheduler, now)


@pytest.mark.parametrize("state", sorted(ENDED_RUNS))
def test_the_end_of_a_run(state: RunState) -> None:
    scheduler = core()
    scheduler.handle(SaveRun(replace(RUN, state=state, error="x" * 5000, key="k")), NOW + 1)
    (notice,) = told(scheduler, NOW + 1)
    assert (notice.id, notice.kind) == (f"run.ended.r.1.{state.value}", NoticeKind.RUN_ENDED)
    assert notice.at == NOW + 1
    assert facts(notice) == {
        **{"run": "r", "workflow": "report", "team": "report", "key": "k"},
        **{"state": state.value, "error": "x" * 1000},
    }


def test_no_other_state_of_a_run_and_no_run_of_calls_without_one() -> None:
    scheduler = core()
    for state in set(RunState) - ENDED_RUNS:
        scheduler.handle(SaveRun(replace(RUN, state=state)), NOW)
    scheduler.handle(SaveRun(replace(RUN, workflow=AD_HOC, state=RunState.COMPLETED)), NOW)
    assert told(scheduler) == []


def test_a_question_to_a_person_and_no_wait_for_a_batch() -> None:
    scheduler = core()
    waits = replace(RUN, state=RunState.WAITING, waits_for="r.3")
    scheduler.handle(SaveRun(waits), NOW)
    (notice,) = told(scheduler)
    assert (notice.id, facts(notice)["call"]) == ("person.asked.r.3", "r.3")
    call = Call("r.4", "r", "a", "m", ("q",), Priority.NORMAL, 1, NOW, lane=ServiceLane.BATCH)
    scheduler.handle(Submit(call), NOW)
    scheduler.admit(NOW)
    scheduler.handle(EnterBatch(BatchedRequest("r.4", "m", "/v1", "{}", NOW)), NOW)
    scheduler.handle(SaveRun(replace(waits, waits_for="r.4")), NOW)
    assert told(scheduler) == []


def lock_out(scheduler: Scheduler, id: str) -> list[Notice]:
    call = Call(id, "r", "a", "m", ("q",), Priority.NORMAL, 1, NOW)
    scheduler.handle(Submit(call), NOW)
    scheduler.admit(NOW)
    signals = {"q": Observation(event=ProviderEvent.LOCKED_OUT, error="your credit is over")}
    scheduler.handle(Settle(id, Outcome(CallState.FAILED, error="no"), signals), NOW)
    return told(scheduler)


def test_a_quota_that_stops_is_told_of_once_until_it_has_gone_on() -> None:
    scheduler = core()
    (notice,) = lock_out(scheduler, "a")
    assert (notice.kind, facts(notice)) == (
        NoticeKind.QUOTA_STOPPED,
        {"quota": "q", "error": "your credit is over"},
    )
    scheduler.handle(Submit(Call("b", "r", "a", "m", ("q",), Priority.NORMAL, 1, NOW)), NOW)
    assert scheduler.admit(NOW) == []
    assert told(scheduler) == []
    scheduler.handle(ApplyChange(resume("q", NOW)), NOW)
    assert told(scheduler) == []


def test_the_budget_of_a_run_is_told_of_once_it_is_low_and_again_when_it_was_raised() -> None:
    scheduler = core()
    assert spend(scheduler, "a", 0.5) == []
    (notice,) = spend(scheduler, "b", 0.35)
    assert (notice.id, notice.kind) == ("budget.low.r.1", NoticeKind.BUDGET_LOW)
    assert facts(notice) == {"run": "r", "spent_usd": 0.85, "usd": 1.0}
    assert spend(scheduler, "c", 0.05) == []
    scheduler.handle(SaveRun(replace(RUN, budget_usd=2.0)), NOW)
    assert spend(scheduler, "d", 0.1) == []
    (again,) = spend(scheduler, "e", 0.8)
    assert again.id == "budget.low.r.2"


def test_the_dollars_of_a_day_are_told_of_once_a_day() -> None:
    scheduler = core()
    scheduler.handle(SaveRun(replace(RUN, budget_usd=None)), NOW)
    assert spend(scheduler, "a", 7.9) == []
    (notice,) = spend(scheduler, "b", 0.2)
    assert notice.id == f"budget.low.day.{NOW // DAY_SECONDS:.0f}"
    assert facts(notice) == {"quota": "day", "spent_usd": 8.1, "usd": 10.0}
    assert spend(scheduler, "c", 1.0) == []
    assert spend(scheduler, "d", 1.0, NOW + DAY_SECONDS) == []
    (again,) = spend(scheduler, "e", 8.0, NOW + DAY_SECONDS + 1)
    assert again.id != notice.id


def test_a_day_of_dollars_begins_when_it_is_said_to() -> None:
    begins = 50_000.0
    assert NOW % DAY_SECONDS < begins < (NOW + 1000) % DAY_SECONDS
    day = Quota.stated("day", {Resource.USD_PER_DAY: 10.0}, day_starts=begins)
    scheduler = Scheduler([QUOTAS[0], day], NOW, Policy(notifies=tuple(NoticeKind)))
    scheduler.handle(SaveRun(replace(RUN, budget_usd=None)), NOW)
    ids = [
        notice.id
        for id, now in (("a", NOW), ("b", NOW + 1000), ("c", NOW + 1001))
        for notice in spend(scheduler, id, 4.5 if id != "a" else 9.0, now)
    ]
    assert len(ids) == len(set(ids)) == 2


def test_what_was_so_before_a_restart_was_told_of() -> None:
    scheduler = core()
    assert spend(scheduler, "a", 0.9)
    assert lock_out(scheduler, "b")
    budget = scheduler.state.budgets.by_run["r"].state(NOW)
    lesson = Lesson("breaker", "q", scheduler.state.lanes.quotas["q"].breaker.dump())
    other = Scheduler(QUOTAS, NOW, Policy(notifies=tuple(NoticeKind)))
    snapshot = Snapshot((budget,), (), 5, (), (lesson,))
    other.restore(snapshot, NOW, lambda record: False, runs=[RUN])
    assert other.state.lanes.quotas["q"].breaker.stopped
    other.state.log.budgets.add("r")
    other.state.log.touched.add(("q",))
    other.state.lanes.quotas["q"].unsaved.add("breaker")
    assert other.take_batch(NOW).notices == ()


def test_only_what_is_asked_for_is_told() -> None:
    scheduler = core(NoticeKind.PERSON_ASKED)
    scheduler.handle(SaveRun(replace(RUN, state=RunState.FAILED)), NOW)
    assert told(scheduler) == []
    quiet = Scheduler(QUOTAS, NOW, Policy())
    quiet.handle(SaveRun(replace(RUN, state=RunState.FAILED)), NOW)
    assert told(quiet) == []
