"""Lanes of a provider: who goes by flex, how long it is waited for, and whom that concerns."""

from collections.abc import Sequence

import pytest

from headway_scheduler.core.inspection import explain, provider_health, queued, statistics
from headway_scheduler.core.limits.breaker import Breaker
from headway_scheduler.core.policy import Policy
from headway_scheduler.core.scheduler import Scheduler
from headway_scheduler.model.batch import Batch, Snapshot
from headway_scheduler.model.calls import (
    Call,
    CallRecord,
    Outcome,
    Priority,
    Route,
    ServiceLane,
)
from headway_scheduler.model.data import replace
from headway_scheduler.model.quotas import Observation, ProviderEvent, Quota
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import CallState, RunState
from headway_scheduler.protocol.messages import (
    AwaitRuns,
    Observe,
    Reestimate,
    Resubmit,
    SaveRun,
    SetCallPriority,
    Settle,
    Submit,
)

NOW = 1_772_366_400.0
FLEX, STANDARD, FAST = ServiceLane.FLEX, ServiceLane.STANDARD, ServiceLane.PRIORITY
ORG = Quota.per_minute("org", requests=600)
LANE = Quota("m/flex", ())
BACKGROUND = (Priority.BACKGROUND,)
ROUTES = (
    Route("m", ("org",), 10),
    Route("m", ("m/flex", "org"), 10, lane=FLEX, classes=BACKGROUND),
)
SHORT = {"m/flex": Observation(event=ProviderEvent.NO_CAPACITY)}
ANSWERED = {"m/flex": Observation(event=ProviderEvent.ANSWERED)}
REFUSED = Outcome(CallState.QUEUED, error="429", refused=True, uncounted=True)
DONE = Outcome(CallState.DONE, answer="{}")
PATIENT = Policy(flex_gives_up_seconds=900, flex_before_seconds=1800)


def core(policy: Policy = PATIENT) -> Scheduler:
    return Scheduler([ORG, LANE], NOW, policy)


def ask(
    scheduler: Scheduler,
    name: str,
    priority: Priority = Priority.BACKGROUND,
    *,
    routes: tuple[Route, ...] = ROUTES,
    now: float = NOW,
) -> None:
    first = routes[0]
    call = Call(name, "r", "a", "m", first.quotas, priority, first.tokens, now, lane=first.lane)
    scheduler.handle(Submit(call, routes=routes if len(routes) > 1 else ()), now)


def went(scheduler: Scheduler, now: float = NOW) -> dict[str, ServiceLane]:
    return {record.call.id: record.call.lane for record in scheduler.admit(now)}


def refuse(scheduler: Scheduler, name: str, now: float = NOW) -> None:
    scheduler.handle(Settle(name, REFUSED, SHORT), now)


def waiting(scheduler: Scheduler) -> dict[str, ServiceLane]:
    return {record.call.id: record.call.lane for record in queued(scheduler.state)}


def free(scheduler: Scheduler, now: float) -> dict[str, float]:
    return {each.quota: each.available for each in statistics(scheduler.state, now).gauges}


def test_background_calls_go_by_flex_and_no_others() -> None:
    scheduler = core()
    for priority in Priority:
        ask(scheduler, priority.label, priority)
    lanes = went(scheduler)
    assert lanes.pop("background") is FLEX
    assert set(lanes.values()) == {STANDARD}


def test_a_call_by_flex_takes_of_its_models_quotas_too() -> None:
    scheduler = core()
    ask(scheduler, "c")
    assert went(scheduler) == {"c": FLEX}
    assert free(scheduler, NOW)["org"] == 599


def test_no_capacity_pauses_the_lane_alone() -> None:
    scheduler = core()
    ask(scheduler, "c")
    assert went(scheduler) == {"c": FLEX}
    refuse(scheduler, "c")
    ask(scheduler, "urgent", Priority.INTERACTIVE)
    ask(scheduler, "other", routes=ROUTES[:1])
    assert went(scheduler) == {"urgent": STANDARD, "other": STANDARD}
    assert provider_health(scheduler.state).probing == ("m/flex",)
    assert went(scheduler, NOW + 29.9) == {}
    assert went(scheduler, NOW + 30) == {"c": FLEX}


def test_a_refused_attempt_is_not_counted_and_takes_no_tokens() -> None:
    scheduler = Scheduler([Quota.per_minute("org", requests=600, tokens=6000), LANE], NOW, PATIENT)
    ask(scheduler, "c")
    went(scheduler)
    refuse(scheduler, "c")
    (record,) = queued(scheduler.state)
    assert record.attempts == 0
    assert record.lost_attempts == 0
    taken = {
        each.resource.value: each.capacity - each.available
        for each in statistics(scheduler.state, NOW).gauges
    }
    assert taken == {"requests": 1, "tokens": 0}


def test_pauses_double_to_ten_minutes() -> None:
    scheduler = core(Policy(flex_gives_up_seconds=1e9))
    ask(scheduler, "c")
    now, pauses = NOW, []
    assert went(scheduler, now) == {"c": FLEX}
    for _ in range(7):
        refuse(scheduler, "c", now)
        at = scheduler.next_event(now)
        scheduler.admit(now)
        at = scheduler.next_event(now)
        assert at is not None
        pauses.append(at - now)
        now = at
        assert went(scheduler, now) == {"c": FLEX}
    assert pauses == [30, 60, 120, 240, 480, 600, 600]


def test_after_a_pause_one_call_tries_and_its_answer_lets_others_go() -> None:
    scheduler = core()
    for n in range(3):
        ask(scheduler, f"c{n}")
    assert len(went(scheduler)) == 3
    for n in range(3):
        refuse(scheduler, f"c{n}")
    assert went(scheduler, NOW + 30) == {"c0": FLEX}
    scheduler.handle(Settle("c0", DONE, ANSWERED), NOW + 31)
    assert went(scheduler, NOW + 31) == {"c1": FLEX, "c2": FLEX}


def test_refusals_of_calls_that_were_out_already_do_not_lengthen_the_pause() -> None:
    scheduler = core()
    for n in range(3):
        ask(scheduler, f"c{n}")
    went(scheduler)
    for n in range(3):
        refuse(scheduler, f"c{n}", NOW + n)
    assert went(scheduler, NOW + 30) == {"c0": FLEX}


def test_a_call_that_waits_long_enough_for_capacity_goes_standard_at_its_old_place() -> None:
    scheduler = core()
    ask(scheduler, "c")
    assert went(scheduler) == {"c": FLEX}
    refuse(scheduler, "c")
    (before,) = queued(scheduler.state)
    due = scheduler.state.live["c"].due
    now = NOW
    scheduler.admit(now)
    while waiting(scheduler):  # nothing else happens: each time is one that the core names
        at = scheduler.next_event(now)
        assert at is not None
        assert at > now
        now = at
        for name, lane in went(scheduler, now).items():
            if lane is FLEX:
                refuse(scheduler, name, now)
                assert went(scheduler, now) == {}
    assert now == NOW + 900
    live = scheduler.state.live["c"]
    assert live.record.call == replace(before.call, quotas=("org",), lane=STANDARD)
    assert (live.record.seq, live.due) == (before.seq, due)
    assert live.record.attempts == 1


def test_a_call_that_came_later_waits_as_long() -> None:
    scheduler = core()
    ask(scheduler, "first")
    went(scheduler)
    refuse(scheduler, "first")
    ask(scheduler, "later", now=NOW + 600)
    assert waiting(scheduler)["later"] is FLEX
    scheduler.admit(NOW + 900)
    assert waiting(scheduler).get("later", FLEX) is FLEX
    scheduler.admit(NOW + 1500)
    assert "later" not in waiting(scheduler) or waiting(scheduler)["later"] is STANDARD


def test_to_wait_for_the_budget_is_not_to_wait_for_capacity() -> None:
    scheduler = Scheduler([Quota.per_minute("org", requests=1), LANE], NOW, PATIENT)
    for n in range(30):
        ask(scheduler, f"c{n}")
    for minute in range(20):
        assert set(went(scheduler, NOW + 60 * minute).values()) <= {FLEX}


def test_capacity_that_came_back_begins_the_wait_anew() -> None:
    scheduler = core()
    for n in range(2):
        ask(scheduler, f"c{n}")
    went(scheduler)
    for n in range(2):
        refuse(scheduler, f"c{n}")
    assert went(scheduler, NOW + 800) == {"c0": FLEX}
    scheduler.handle(Settle("c0", DONE, ANSWERED), NOW + 801)
    assert went(scheduler, NOW + 900) == {"c1": FLEX}


def run(deadline: float | None = None, priority: Priority = Priority.BACKGROUND) -> Run:
    return Run("r", "w", "", priority, RunState.RUNNING, NOW, deadline=deadline, attempts=1)


def test_near_its_deadline_a_call_goes_standard() -> None:
    scheduler = core()
    scheduler.handle(SaveRun(run(deadline=NOW + 1799)), NOW)
    ask(scheduler, "c")
    assert went(scheduler) == {"c": STANDARD}


def test_a_call_that_waits_goes_standard_when_its_deadline_comes_near() -> None:
    scheduler = core()
    scheduler.handle(SaveRun(run(deadline=NOW + 1900)), NOW)
    ask(scheduler, "c")
    went(scheduler)
    refuse(scheduler, "c")
    scheduler.admit(NOW + 1)
    assert went(scheduler, NOW + 30) == {"c": FLEX}
    refuse(scheduler, "c", NOW + 30)
    scheduler.admit(NOW + 30)
    assert scheduler.next_event(NOW + 31) == NOW + 90
    assert went(scheduler, NOW + 90) == {"c": FLEX}
    refuse(scheduler, "c", NOW + 90)
    scheduler.admit(NOW + 90)
    assert scheduler.next_event(NOW + 91) == NOW + 100
    assert went(scheduler, NOW + 100) == {"c": STANDARD}


def test_a_call_that_a_more_urgent_run_waits_for_leaves_flex() -> None:
    scheduler = core()
    scheduler.handle(SaveRun(run()), NOW)
    urgent = replace(run(priority=Priority.INTERACTIVE), id="boss")
    scheduler.handle(SaveRun(urgent), NOW)
    ask(scheduler, "c")
    went(scheduler)
    refuse(scheduler, "c")
    assert waiting(scheduler) == {"c": FLEX}
    scheduler.handle(AwaitRuns("boss", frozenset({"r"})), NOW)
    assert went(scheduler) == {"c": STANDARD}


def test_a_call_that_is_bumped_leaves_flex() -> None:
    scheduler = core()
    ask(scheduler, "c")
    went(scheduler)
    refuse(scheduler, "c")
    scheduler.handle(SetCallPriority("c", Priority.NORMAL), NOW)
    assert went(scheduler) == {"c": STANDARD}


def test_a_fault_of_the_lane_sends_its_calls_elsewhere_at_once() -> None:
    scheduler = core()
    for n in range(6):
        ask(scheduler, f"c{n}")
    went(scheduler)
    for n in range(4):
        scheduler.handle(
            Settle(
                f"c{n}",
                Outcome(CallState.QUEUED, error="500", not_before=NOW),
                {"m/flex": Observation(event=ProviderEvent.FAILED)},
            ),
            NOW,
        )
    assert set(went(scheduler).values()) == {STANDARD}


def test_a_lane_that_was_left_for_a_fault_is_tried_again_after_its_pause() -> None:
    scheduler = core()
    for n in range(4):
        scheduler.handle(Observe(f"x{n}", {"m/flex": Observation(event=ProviderEvent.FAILED)}), NOW)
    ask(scheduler, "now")
    assert went(scheduler) == {"now": STANDARD}
    ask(scheduler, "later", now=NOW + 2)
    assert went(scheduler, NOW + 2) == {"later": FLEX}


def test_the_wait_is_explained() -> None:
    scheduler = core()
    ask(scheduler, "c")
    went(scheduler)
    refuse(scheduler, "c")
    found = explain(scheduler.state, "c", NOW + 1)
    assert found is not None
    (blocker,) = found.blockers
    assert (blocker.quota, blocker.resource, blocker.at) == ("m/flex", None, NOW + 30)


# Priority


def test_classes_that_are_to_go_by_priority_do() -> None:
    routes = (ROUTES[0], Route("m", ("org",), 10, lane=FAST, classes=(Priority.INTERACTIVE,)))
    scheduler = core()
    for priority in Priority:
        ask(scheduler, priority.label, priority, routes=routes)
    lanes = went(scheduler)
    assert lanes.pop("interactive") is FAST
    assert set(lanes.values()) == {STANDARD}


def test_a_call_that_becomes_urgent_goes_by_priority() -> None:
    routes = (ROUTES[0], Route("m", ("org",), 10, lane=FAST, classes=(Priority.INTERACTIVE,)))
    scheduler = Scheduler([Quota.per_minute("org", requests=60, burst_seconds=1)], NOW)
    ask(scheduler, "before", Priority.INTERACTIVE, routes=routes)
    ask(scheduler, "c", Priority.NORMAL, routes=routes)
    assert went(scheduler) == {"before": FAST}
    assert waiting(scheduler) == {"c": STANDARD}
    scheduler.handle(SetCallPriority("c", Priority.INTERACTIVE), NOW)
    assert waiting(scheduler) == {"c": FAST}


def test_a_lane_that_a_user_chose_takes_any_class() -> None:
    chosen = replace(ROUTES[1], classes=())
    scheduler = core()
    call = Call("c", "r", "a", "m", chosen.quotas, Priority.INTERACTIVE, 10, NOW, lane=FLEX)
    scheduler.handle(Submit(call, routes=(chosen,)), NOW)
    scheduler.handle(Reestimate("c", (chosen,)), NOW)
    assert went(scheduler) == {"c": FLEX}


@pytest.mark.parametrize("deadline", [None, NOW + 2000])
def test_a_lane_that_a_user_chose_is_waited_for_as_long_as_it_takes(deadline: float | None) -> None:
    chosen = replace(ROUTES[1], classes=())
    scheduler = core()
    run = Run("r", "w", "t", Priority.BACKGROUND, RunState.RUNNING, NOW, deadline=deadline)
    scheduler.handle(SaveRun(run), NOW)
    call = Call("c", "r", "a", "m", chosen.quotas, Priority.BACKGROUND, 10, NOW, lane=FLEX)
    scheduler.handle(Submit(call, routes=(chosen,)), NOW)
    for now in (NOW, NOW + 1000, NOW + 3000):  # its other way would be open by then
        assert went(scheduler, now) == {"c": FLEX}
        refuse(scheduler, "c", now)
    assert waiting(scheduler) == {"c": FLEX}


# Restarts


def stored(batches: Sequence[Batch]) -> Snapshot:
    calls: dict[str, CallRecord] = {}
    lessons = {}
    for batch in batches:
        calls |= {each.call.id: replace(each) for each in (*batch.new, *batch.changed)}
        lessons |= {(each.kind, each.subject): each for each in batch.lessons}
    return Snapshot((), tuple(calls.values()), len(calls), (), tuple(lessons.values()))


def test_after_a_restart_it_is_known_since_when_there_is_no_capacity() -> None:
    scheduler = core()
    ask(scheduler, "c")
    went(scheduler)
    refuse(scheduler, "c")
    snapshot = stored([scheduler.take_batch(NOW)])
    again = core()
    again.restore(snapshot, NOW + 60, lambda record: True)
    assert waiting(again) == {"c": FLEX}
    again.admit(NOW + 60)
    refuse(again, "c", NOW + 60)
    at = NOW + 60
    while waiting(again) == {"c": FLEX}:
        at = again.next_event(at) or 0.0
        if went(again, at) == {"c": FLEX}:
            refuse(again, "c", at)
    assert at == NOW + 900
    record = again.state.live["c"].record
    assert (record.call.lane, record.call.quotas) == (STANDARD, ("org",))


def test_a_call_that_is_queued_again_takes_the_lane_of_now() -> None:
    scheduler = core()
    call = Call("c", "r", "a", "m", ("m/flex", "org"), Priority.BACKGROUND, 10, NOW, lane=FLEX)
    scheduler.handle(Resubmit(CallRecord(call, 0, CallState.UNKNOWN), ROUTES[:1]), NOW)
    assert went(scheduler) == {"c": STANDARD}


@pytest.mark.parametrize("text", ["[0.0, 1, null]", "[3.0, 0, null]", '[0.0, 2, "no money"]'])
def test_a_breaker_of_before_is_still_read(text: str) -> None:
    breaker = Breaker()
    breaker.load(text)
    assert not breaker.is_short
    assert breaker.dump() == text


@pytest.mark.parametrize("text", ['[0.0, 1, null, "x"]', "[0.0, 1, null, 1.0, 2.0]"])
def test_a_breaker_that_no_headway_wrote_is_refused(text: str) -> None:
    breaker = Breaker()
    with pytest.raises((ValueError, TypeError)):
        breaker.load(text)
    assert breaker == Breaker() or breaker.pauses == 0


# Nobody else


def waits_of_interactive_calls(lane_calls: int) -> list[float]:
    """Play forty seconds in which the lane has no capacity, beside as much as the limit allows."""
    quota = Quota.per_minute("org", requests=600, burst_seconds=0.5)
    scheduler = Scheduler([quota, LANE], NOW, PATIENT)
    for n in range(lane_calls):
        ask(scheduler, f"flex{n}")
    waits: list[float] = []
    asked_at: dict[str, float] = {}
    for tick in range(800):
        now = NOW + tick / 20
        for n in range(3 if tick % 20 < 3 else 0):  # nine in a moment of each second
            asked_at[f"i{tick}.{n}"] = now
            ask(scheduler, f"i{tick}.{n}", Priority.INTERACTIVE, now=now)
        for name, lane in went(scheduler, now).items():
            if lane is FLEX:
                refuse(scheduler, name, now)
            else:
                waits.append(now - asked_at[name])
                scheduler.handle(Settle(name, DONE), now)
    return waits


def test_interactive_calls_wait_no_longer_beside_calls_without_capacity() -> None:
    alone, beside = (waits_of_interactive_calls(lane_calls) for lane_calls in (0, 3))
    assert len(alone) == len(beside) == 360
    assert sum(alone) > 30
    assert sum(beside) <= 1.1 * sum(alone)
    assert max(beside) <= max(alone) + 0.1
