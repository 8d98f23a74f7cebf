"""The policy keeps its promises, on the real core, with clocks that the tests turn.

Sizes of calls are in tokens; the one quota refills 10 a second, so a call of 10 tokens costs one
budget-second.
"""

from collections import defaultdict
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway_scheduler.core.inspection import explain, queued, statistics
from headway_scheduler.core.policy import Policy
from headway_scheduler.core.scheduler import Scheduler
from headway_scheduler.errors import CallerError, UnknownQuota
from headway_scheduler.model import changes
from headway_scheduler.model.batch import Snapshot
from headway_scheduler.model.calls import Call, Outcome, Priority, Usage
from headway_scheduler.model.changes import HoldState
from headway_scheduler.model.data import replace
from headway_scheduler.model.quotas import Quota
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import CallState, RunState
from headway_scheduler.protocol.messages import (
    ApplyChange,
    AwaitRuns,
    SaveRun,
    SetCallPriority,
    Settle,
    Submit,
)

NOW = 1_772_366_400.0
PER_SECOND = 10
QUOTA = Quota.per_minute("q", tokens=60 * PER_SECOND, burst_seconds=30)
CAPACITY = 30 * PER_SECOND
SLOT = Quota.per_minute("slot", concurrency=1)
DONE = Outcome(CallState.DONE, usage=Usage(1, 1), answer="{}")
INTERACTIVE, NORMAL, BACKGROUND = Priority.INTERACTIVE, Priority.NORMAL, Priority.BACKGROUND


def run(
    id: str, priority: Priority = NORMAL, state: RunState = RunState.RUNNING, team: str = "team"
) -> Run:
    return Run(id, "report", "write", priority, state, NOW, attempts=1, team=team)


def call(
    id: str, priority: Priority = NORMAL, *, run_id: str = "", tokens: int = 10, at: float = NOW
) -> Call:
    return Call(id, run_id or f"run of {id}", "agent", "m", ("q",), priority, tokens, at)


def core(*quotas: Quota, policy: Policy | None = None) -> Scheduler:
    return Scheduler(quotas or (QUOTA,), NOW, policy)


def hold(scheduler: Scheduler, target: str, state: HoldState) -> None:
    change = changes.hold(target, state, scheduler.state.next_seq, NOW)
    scheduler.handle(ApplyChange(change), NOW)


def occupied(policy: Policy | None = None) -> Scheduler:
    """A quota whose only slot is taken: later calls wait in order."""
    scheduler = core(SLOT, policy=policy)
    scheduler.handle(Submit(replace(call("first"), quotas=("slot",))), NOW)
    assert [record.call.id for record in scheduler.admit(NOW)] == ["first"]
    return scheduler


def submit(scheduler: Scheduler, id: str, run_id: str, priority: Priority = NORMAL) -> None:
    scheduler.handle(Submit(replace(call(id, priority, run_id=run_id), quotas=("slot",))), NOW)


def order(scheduler: Scheduler) -> list[str]:
    return [record.call.id for record in queued(scheduler.state)]


def drain(scheduler: Scheduler, now: float = NOW) -> list[str]:
    """Let one after the other have the slot; the order in which they went."""
    went, flying = list[str](), "first"
    while flying:
        scheduler.handle(Settle(flying, DONE), now)
        granted = scheduler.admit(now)
        flying = granted[0].call.id if granted else ""
        went += [flying] if flying else []
    return went


# Inheritance


def test_a_call_may_be_less_urgent_than_its_run() -> None:
    scheduler = occupied()
    scheduler.handle(SaveRun(run("urgent", INTERACTIVE)), NOW)
    submit(scheduler, "b", "urgent", BACKGROUND)
    submit(scheduler, "a", "other")
    submit(scheduler, "c", "urgent", INTERACTIVE)
    assert order(scheduler) == ["c", "a", "b"]


def test_a_call_may_be_more_urgent_than_its_run() -> None:
    scheduler = occupied()
    scheduler.handle(SaveRun(run("slow", BACKGROUND)), NOW)
    submit(scheduler, "a", "other")
    submit(scheduler, "b", "slow", INTERACTIVE)
    assert order(scheduler) == ["b", "a"]


def test_queued_calls_are_lifted_when_an_urgent_run_waits_and_fall_back_when_it_does_not() -> None:
    scheduler = occupied()
    for name, priority in (("urgent", INTERACTIVE), ("between", NORMAL), ("slow", BACKGROUND)):
        scheduler.handle(SaveRun(run(name, priority)), NOW)
    submit(scheduler, "a", "other")
    submit(scheduler, "b", "slow", BACKGROUND)
    assert order(scheduler) == ["a", "b"]
    scheduler.handle(AwaitRuns("between", frozenset({"slow"})), NOW)
    assert order(scheduler) == ["a", "b"]
    scheduler.handle(AwaitRuns("urgent", frozenset({"between"})), NOW)  # which waits for slow
    assert order(scheduler) == ["b", "a"]
    scheduler.handle(AwaitRuns("urgent", frozenset()), NOW)
    assert order(scheduler) == ["a", "b"]
    scheduler.handle(AwaitRuns("urgent", frozenset({"between"})), NOW)
    scheduler.handle(SaveRun(run("urgent", INTERACTIVE, RunState.COMPLETED)), NOW)
    assert drain(scheduler) == ["a", "b"]


def test_runs_that_wait_in_a_circle_are_all_as_urgent_as_the_most_urgent() -> None:
    scheduler = occupied()
    scheduler.handle(SaveRun(run("x", INTERACTIVE)), NOW)
    for waiting, on in (("x", "y"), ("y", "z"), ("z", "x")):
        scheduler.handle(AwaitRuns(waiting, frozenset({on})), NOW)
    submit(scheduler, "a", "other")
    submit(scheduler, "b", "z", BACKGROUND)
    assert order(scheduler) == ["b", "a"]


# Changes while everything runs


def test_a_run_that_changes_its_class_takes_its_queued_calls_along() -> None:
    scheduler = occupied()
    scheduler.handle(SaveRun(run("r", NORMAL)), NOW)
    submit(scheduler, "a", "other")
    submit(scheduler, "b", "r")
    submit(scheduler, "own", "r", Priority.HIGH)
    scheduler.handle(SaveRun(run("r", INTERACTIVE)), NOW)
    assert order(scheduler) == ["b", "own", "a"]
    scheduler.handle(SaveRun(run("r", BACKGROUND)), NOW)
    assert order(scheduler) == ["own", "a", "b"]
    changed = {record.call.id: record.call.priority for record in scheduler.take_batch(NOW).new}
    assert (changed["b"], changed["own"]) == (BACKGROUND, Priority.HIGH)


def test_a_queued_call_is_bumped_and_that_is_written() -> None:
    scheduler = occupied()
    submit(scheduler, "a", "x")
    submit(scheduler, "b", "y")
    scheduler.take_batch(NOW)
    scheduler.handle(SetCallPriority("b", INTERACTIVE), NOW)
    assert order(scheduler) == ["b", "a"]
    [changed] = scheduler.take_batch(NOW).changed
    assert changed.call.priority is INTERACTIVE
    with pytest.raises(CallerError, match="does not wait"):
        scheduler.handle(SetCallPriority("first", INTERACTIVE), NOW)


@pytest.mark.parametrize("target", ["all", "class:normal", "model:m"])
def test_what_is_paused_is_held_and_keeps_its_place(target: str) -> None:
    scheduler = occupied()
    for id in "ab":
        submit(scheduler, id, id)
    scheduler.handle(
        ApplyChange(changes.hold(target, HoldState.PAUSED, scheduler.state.next_seq, NOW)), NOW
    )
    submit(scheduler, "c", "c")
    assert drain(scheduler) == []
    why = explain(scheduler.state, "a", NOW)
    assert why is not None
    assert why.operator_hold == f"{target} paused"
    scheduler.handle(
        ApplyChange(changes.hold(target, HoldState.OPEN, scheduler.state.next_seq, NOW)), NOW
    )
    assert [record.call.id for record in scheduler.admit(NOW)] == ["a"]
    assert order(scheduler) == ["b", "c"]


def test_of_what_is_drained_only_what_comes_later_is_held() -> None:
    scheduler = occupied()
    submit(scheduler, "a", "a")
    scheduler.handle(
        ApplyChange(changes.hold("all", HoldState.DRAINED, scheduler.state.next_seq, NOW)), NOW
    )
    submit(scheduler, "b", "b")
    assert drain(scheduler) == ["a"]


def test_a_held_call_can_be_cancelled_and_another_class_goes_on() -> None:
    scheduler = occupied()
    scheduler.handle(ApplyChange(changes.hold("class:background", HoldState.PAUSED, 0, NOW)), NOW)
    submit(scheduler, "a", "a", BACKGROUND)
    submit(scheduler, "b", "b")
    scheduler.handle(Settle("a", Outcome(CallState.CANCELLED, sent=False)), NOW)
    assert drain(scheduler) == ["b"]
    scheduler.handle(ApplyChange(changes.hold("class:background", HoldState.OPEN, 0, NOW)), NOW)
    assert scheduler.admit(NOW) == []


def test_bad_changes_are_refused_and_change_nothing() -> None:
    scheduler = core()
    for target in ("class:urgent", "model:", "everything"):
        with pytest.raises(CallerError, match="cannot hold"):
            scheduler.handle(ApplyChange(changes.hold(target, HoldState.PAUSED, 0, NOW)), NOW)
    with pytest.raises(UnknownQuota):
        scheduler.handle(ApplyChange(changes.limits("other", QUOTA, NOW)), NOW)
    with pytest.raises(CallerError, match="above 0"):
        changes.weight("team", 0.0, NOW)
    scheduler.handle(Submit(call("a")), NOW)
    assert len(scheduler.admit(NOW)) == 1


def test_a_new_weight_holds_from_the_next_call_on_and_until_it_is_taken_back() -> None:
    scheduler = occupied(Policy(patience_seconds=0.0))
    for team in ("a", "b"):
        for number in range(30):
            scheduler.handle(SaveRun(run(f"{team}{number}", team=team)), NOW)
            submit(scheduler, f"{team}{number}", f"{team}{number}")
    scheduler.handle(ApplyChange(changes.weight("a", 3.0, NOW)), NOW)
    went = drain(scheduler)[:12]
    assert sum(name.startswith("a") for name in went) == 9


def test_limits_change_at_once_and_the_configured_ones_come_back() -> None:
    scheduler = core()
    twice = Quota.per_minute("q", tokens=120 * PER_SECOND, burst_seconds=30)
    [before] = statistics(scheduler.state, NOW).gauges
    scheduler.handle(ApplyChange(changes.limits("q", twice, NOW)), NOW)
    [higher] = statistics(scheduler.state, NOW).gauges
    assert (higher.capacity, higher.per_second) == (2 * before.capacity, 2 * before.per_second)
    assert higher.available == before.available  # it fills up at its own rate
    scheduler.handle(ApplyChange(changes.limits("q", None, NOW)), NOW + 100)
    assert statistics(scheduler.state, NOW + 100).gauges[0] == before


def test_slots_that_are_stated_later_count_what_is_in_flight() -> None:
    scheduler = core()
    for id in "abc":
        scheduler.handle(Submit(call(id)), NOW)
    assert len(scheduler.admit(NOW)) == 3
    stated = Quota.per_minute("q", tokens=60 * PER_SECOND, concurrency=3, burst_seconds=30)
    scheduler.handle(ApplyChange(changes.limits("q", stated, NOW)), NOW)
    scheduler.handle(Submit(call("d")), NOW)
    assert scheduler.admit(NOW) == []
    scheduler.handle(Settle("a", DONE), NOW)
    assert [record.call.id for record in scheduler.admit(NOW)] == ["d"]


def test_changes_hold_after_a_restart_unless_their_quota_is_gone() -> None:
    stored = (
        changes.limits("q", Quota.per_minute("q", tokens=60, burst_seconds=30), NOW),
        changes.limits("gone", QUOTA, NOW),
        changes.hold("class:normal", HoldState.PAUSED, 0, NOW),
    )
    scheduler = core()
    scheduler.restore(Snapshot(changes=stored), NOW, lambda _: False)
    assert statistics(scheduler.state, NOW).gauges[0].per_second == 1
    scheduler.handle(Submit(call("a")), NOW)
    assert scheduler.admit(NOW) == []


# Sizes of runs


def finish(scheduler: Scheduler, id: str, calls: int, team: str = "team") -> None:
    scheduler.handle(SaveRun(run(id, team=team)), NOW)
    for number in range(calls):
        scheduler.handle(Submit(call(f"{id}.{number}", run_id=id, tokens=100)), NOW)
        scheduler.admit(NOW + 1e6)
        scheduler.handle(Settle(f"{id}.{number}", DONE), NOW)
    scheduler.handle(SaveRun(run(id, state=RunState.COMPLETED)), NOW)


def test_short_runs_go_first_once_their_workflow_is_known_also_after_a_restart() -> None:
    wide = Quota.per_minute("q", tokens=600, burst_seconds=1e9)
    learned = core(wide)
    for number in range(8):
        finish(learned, f"r{number}", calls=4)
    lessons = learned.take_batch(NOW).lessons
    assert [lesson.subject for lesson in lessons] == ["report"]
    for policy, expected in ((None, ["short", "long"]), (Policy(size_factor=0.0), None)):
        scheduler = core(SLOT, wide, policy=policy)
        scheduler.restore(Snapshot(lessons=lessons), NOW, lambda _: False)
        scheduler.handle(SaveRun(run("late")), NOW)
        scheduler.handle(SaveRun(replace(run("new"), workflow="short")), NOW)
        scheduler.handle(Submit(replace(call("x"), quotas=("slot",))), NOW)
        scheduler.admit(NOW)
        scheduler.handle(Submit(replace(call("long", run_id="late"), quotas=("slot",))), NOW)
        scheduler.handle(Submit(replace(call("short", run_id="new"), quotas=("slot",))), NOW)
        assert order(scheduler) == (expected or ["long", "short"])


def test_a_deadline_brings_a_call_forward() -> None:
    scheduler = occupied()
    scheduler.handle(SaveRun(run("calm")), NOW)
    scheduler.handle(SaveRun(replace(run("late"), deadline=NOW - 1)), NOW)
    submit(scheduler, "a", "calm")
    submit(scheduler, "b", "late")
    assert order(scheduler) == ["b", "a"]


# Shares of the budget, on random loads


def play(scheduler: Scheduler, calls: Iterable[Call], until: float) -> dict[str, float]:
    """Submit each call at its time and let it go when it may: when each went."""
    waiting = sorted(calls, key=lambda each: each.submitted_at)
    now, went = NOW, dict[str, float]()
    while True:
        while waiting and waiting[0].submitted_at <= now:
            scheduler.handle(Submit(waiting.pop(0)), now)
        for record in scheduler.admit(now):
            went[record.call.id] = now
            scheduler.handle(Settle(record.call.id, DONE), now + 0.1)
        ask_at = scheduler.next_event(now)
        times = [each.submitted_at for each in waiting[:1]] + ([] if ask_at is None else [ask_at])
        if not times or min(times) > until:
            return went
        now = max(now, min(times))


def flood(priority: Priority, seconds: float, tokens: int) -> list[Call]:
    """A class that asks for twice the whole budget."""
    gap = tokens / (2 * PER_SECOND)
    return [
        call(f"{priority.label}{number}", priority, tokens=tokens, at=NOW + number * gap)
        for number in range(int(seconds / gap))
    ]


@settings(max_examples=25, deadline=None)
@given(
    priority=st.sampled_from(Priority),
    sizes=st.lists(st.integers(1, CAPACITY), min_size=20, max_size=60),
)
def test_a_lone_team_has_the_whole_budget_whatever_its_class(
    priority: Priority, sizes: list[int]
) -> None:
    policy = Policy()
    calls = [call(f"{n}", priority, tokens=size) for n, size in enumerate(sizes)]
    went = play(core(policy=policy), calls, NOW + 1e6)
    assert len(went) == len(sizes)
    free_at_first = (1 - policy.headroom[priority]) * CAPACITY
    makespan = max(0.0, sum(sizes) - free_at_first) / PER_SECOND
    # A fill that would pass its capacity loses what comes meanwhile: only for calls near that.
    lost = 0.5 * sum(size > 0.6 * CAPACITY for size in sizes)
    assert max(went.values()) - NOW <= makespan + lost + 1


@settings(max_examples=15, deadline=None)
@given(
    tokens=st.tuples(*(st.integers(5, 100) for _ in Priority)),
    present=st.sets(st.sampled_from(list(Priority)[1:]), min_size=1),
)
def test_every_class_gets_what_it_is_promised_while_others_flood(
    tokens: tuple[int, ...], present: set[Priority]
) -> None:
    policy, seconds = Policy(), 600.0
    classes = [INTERACTIVE, *sorted(present)]
    arrivals = [each for priority in classes for each in flood(priority, seconds, tokens[priority])]
    went = play(core(policy=policy), arrivals, NOW + seconds)
    size = {each.id: each.tokens for each in arrivals}
    got = defaultdict[str, float](float)
    for name in went:
        got[name.rstrip("0123456789")] += size[name] / PER_SECOND
    largest = max(tokens) / PER_SECOND
    for priority in present:
        promised = policy.promised_share[priority] * seconds
        assert got[priority.label] >= promised - (2 + len(present)) * largest
    assert sum(got.values()) >= seconds + 30 - largest - 1


LOAD = st.lists(
    st.tuples(
        st.floats(0, 120),  # when
        st.sampled_from(Priority),
        st.sampled_from(["a", "b", "c"]),
        st.integers(5, 150),  # tokens
    ),
    min_size=30,
    max_size=90,
)


@settings(max_examples=40, deadline=None)
@given(load=LOAD)
def test_no_call_waits_longer_than_the_bound(load: list[tuple[float, Priority, str, int]]) -> None:
    policy = Policy(patience_seconds=20.0, weights={"b": 2.0})
    scheduler = core(policy=policy)
    arrivals = list[Call]()
    team_of = dict[str, str]()
    for number, (after, priority, team, tokens) in enumerate(sorted(load, key=lambda e: e[0])):
        run_id = f"{team}{number % 4}{priority.label}"
        scheduler.handle(SaveRun(replace(run(run_id, priority, team=team), workflow=run_id)), NOW)
        each = call(f"{number}", priority, run_id=run_id, tokens=tokens, at=NOW + after)
        arrivals.append(each)
        team_of[each.id] = team
    hostile = flood(INTERACTIVE, 2_000, 50)
    went = play(scheduler, [*arrivals, *hostile], NOW + 20_000)
    weights = {team: policy.weights.get(team, 1.0) for team in "abc"}
    largest = 150 / PER_SECOND
    for each in arrivals:
        if each.priority is INTERACTIVE:
            continue
        mine = each.priority, team_of[each.id]
        before = [
            other
            for other in arrivals
            if (other.priority, team_of[other.id]) == mine
            and other.submitted_at <= each.submitted_at + policy.patience_seconds
            and went.get(other.id, 1e12) >= each.submitted_at
        ]
        queue = sum(other.tokens for other in before) / PER_SECOND
        share = weights[mine[1]] / sum(weights.values())
        bound = (queue / share + 4 * largest) / policy.promised_share[each.priority]
        assert went[each.id] - each.submitted_at <= bound


def test_a_class_keeps_its_credit_when_nothing_changes_about_its_only_call() -> None:
    scheduler = core()
    scheduler.handle(SaveRun(run("r", BACKGROUND)), NOW)
    low = call("low", BACKGROUND, run_id="r", tokens=200)
    high = flood(INTERACTIVE, 600, 50)
    for each in high[: len(high) // 2]:
        scheduler.handle(Submit(replace(each, submitted_at=NOW)), NOW)
    scheduler.admit(NOW)
    scheduler.handle(Submit(low), NOW)
    for second in range(1, 450):
        now = NOW + second
        scheduler.handle(SaveRun(run("r", BACKGROUND)), now)
        scheduler.handle(ApplyChange(changes.hold("model:other", HoldState.PAUSED, 0, now)), now)
        if "low" in [record.call.id for record in scheduler.admit(now)]:
            break
    # Its cost, 20 budget-seconds, over its floor; and the time until its bucket has as much.
    assert 400 <= second <= 430


def test_headroom_is_for_the_more_urgent_and_what_is_lent_of_slots_is_not_kept() -> None:
    scheduler = core()
    for number in range(60):
        scheduler.handle(Submit(call(f"b{number}", BACKGROUND)), NOW)
    assert sum(record.call.tokens for record in scheduler.admit(NOW)) == 0.7 * CAPACITY
    for number in range(60):
        scheduler.handle(Submit(call(f"i{number}", INTERACTIVE)), NOW)
    assert sum(record.call.tokens for record in scheduler.admit(NOW)) == 0.3 * CAPACITY
    large = core(Quota.per_minute("q", tokens=60 * PER_SECOND, burst_seconds=60))
    for number in range(60):
        large.handle(Submit(call(f"b{number}", BACKGROUND)), NOW)
    free = 60 * PER_SECOND - sum(record.call.tokens for record in large.admit(NOW))
    assert free == 10 * PER_SECOND
    slots = core(Quota.per_minute("slot", concurrency=4))
    for number in range(5):
        slots.handle(Submit(replace(call(f"b{number}", BACKGROUND), quotas=("slot",))), NOW)
    assert len(slots.admit(NOW)) == 4


def test_nothing_is_kept_of_runs_and_calls_that_are_over() -> None:
    wide = Quota.per_minute("q", tokens=1e9)
    scheduler = core(wide)
    for number in range(500):
        finish(scheduler, f"r{number}", calls=3, team=f"t{number % 7}")
        scheduler.take_batch(NOW)
    assert not scheduler.state.live
    assert not scheduler.state.registry._entries
    for lane in scheduler.state.lanes.lanes:
        assert not any(each.teams for each in lane.line.pool.classes)
        assert sum(queue._entries for queue in lane.line._queues) <= 8 * len(Priority)
