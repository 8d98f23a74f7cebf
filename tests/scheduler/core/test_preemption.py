"""Young background calls make room for urgent ones, where that costs nothing."""

import pytest

from headway_scheduler.core.admission.preemption import MOST_TIMES, YOUNG_SECONDS
from headway_scheduler.core.policy import STRICT
from headway_scheduler.core.scheduler import Scheduler
from headway_scheduler.model.calls import Call, Outcome, Priority
from headway_scheduler.model.data import replace
from headway_scheduler.model.quotas import Quota
from headway_scheduler.model.states import CallState
from headway_scheduler.protocol.messages import Settle, Submit

NOW = 1_772_366_400.0
GPU = replace(Quota.per_minute("gpu", concurrency=2), is_local=True)
AGAIN = Outcome(CallState.QUEUED, error="made room", sent=False)


def core(quota: Quota = GPU) -> Scheduler:
    return Scheduler([quota], NOW, STRICT)


def ask(scheduler: Scheduler, name: str, priority: Priority, now: float = NOW) -> None:
    call = Call(name, f"run-{name}", "a", "m", ("gpu",), priority, 1, now)
    scheduler.handle(Submit(call), now)


def admitted(scheduler: Scheduler, now: float) -> list[str]:
    return [record.call.id for record in scheduler.admit(now)]


def full(quota: Quota = GPU, priority: Priority = Priority.BACKGROUND) -> Scheduler:
    scheduler = core(quota)
    ask(scheduler, "old", priority)
    assert admitted(scheduler, NOW) == ["old"]
    ask(scheduler, "young", priority, NOW + 1)
    assert admitted(scheduler, NOW + 1) == ["young"]
    return scheduler


@pytest.mark.parametrize("urgent", [Priority.INTERACTIVE, Priority.HIGH])
def test_the_youngest_background_call_makes_room(urgent: Priority) -> None:
    scheduler = full()
    ask(scheduler, "urgent", urgent, NOW + 2)
    assert admitted(scheduler, NOW + 2) == []
    assert [record.call.id for record in scheduler.take_preempted()] == ["young"]
    assert admitted(scheduler, NOW + 2.1) == []  # the other one is asked only for another call
    scheduler.handle(Settle("young", AGAIN), NOW + 2.2)
    assert admitted(scheduler, NOW + 2.2) == ["urgent"]
    scheduler.handle(Settle("urgent", Outcome(CallState.DONE, answer="{}")), NOW + 3)
    assert admitted(scheduler, NOW + 3) == ["young"]


def test_one_that_has_run_for_a_while_is_left_to_end() -> None:
    scheduler = full()
    later = NOW + 1 + YOUNG_SECONDS + 0.1
    ask(scheduler, "urgent", Priority.INTERACTIVE, later)
    assert admitted(scheduler, later) == []
    assert scheduler.take_preempted() == []


@pytest.mark.parametrize("urgent", [Priority.NORMAL, Priority.LOW])
def test_nobody_makes_room_for_what_is_not_urgent(urgent: Priority) -> None:
    scheduler = full()
    ask(scheduler, "other", urgent, NOW + 2)
    assert admitted(scheduler, NOW + 2) == []
    assert scheduler.take_preempted() == []


def test_only_background_calls_make_room() -> None:
    scheduler = full(priority=Priority.LOW)
    ask(scheduler, "urgent", Priority.INTERACTIVE, NOW + 2)
    assert admitted(scheduler, NOW + 2) == []
    assert scheduler.take_preempted() == []


def test_slots_of_a_provider_that_charges_are_never_taken_back() -> None:
    scheduler = full(replace(GPU, is_local=False))
    ask(scheduler, "urgent", Priority.INTERACTIVE, NOW + 2)
    assert admitted(scheduler, NOW + 2) == []
    assert scheduler.take_preempted() == []


def test_a_call_makes_room_twice_and_then_ends() -> None:
    scheduler = core(replace(Quota.per_minute("gpu", concurrency=1), is_local=True))
    ask(scheduler, "background", Priority.BACKGROUND)
    assert admitted(scheduler, NOW) == ["background"]
    for n in range(MOST_TIMES + 1):
        ask(scheduler, f"urgent-{n}", Priority.INTERACTIVE, NOW + n)
        assert admitted(scheduler, NOW + n) == []
        if n == MOST_TIMES:
            break
        assert [record.call.id for record in scheduler.take_preempted()] == ["background"]
        scheduler.handle(Settle("background", AGAIN), NOW + n)
        assert admitted(scheduler, NOW + n) == [f"urgent-{n}"]
        scheduler.handle(Settle(f"urgent-{n}", Outcome(CallState.DONE, answer="{}")), NOW + n)
        assert admitted(scheduler, NOW + n) == ["background"]
    assert scheduler.take_preempted() == []
