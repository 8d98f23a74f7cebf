"""The scheduler as a pure state machine. Times are told; no test waits."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway_scheduler.core.inspection import explain, queued, statistics
from headway_scheduler.core.policy import Policy
from headway_scheduler.core.scheduler import Scheduler
from headway_scheduler.errors import (
    CallTooLarge,
    IllegalTransition,
    InternalError,
    NothingToAnswer,
    UnknownQuota,
)
from headway_scheduler.model.batch import Batch, Snapshot
from headway_scheduler.model.calls import Call, CallRecord, Outcome, Priority, Usage
from headway_scheduler.model.data import replace
from headway_scheduler.model.quotas import Observation, Quota
from headway_scheduler.model.states import LIVE_CALLS, CallState
from headway_scheduler.protocol.messages import (
    Decide,
    DropWorker,
    MarkSent,
    Observe,
    Resubmit,
    Settle,
    Submit,
)

NOW = 1_772_366_400.0
DONE = Outcome(CallState.DONE, usage=Usage(1, 1), answer="{}")
AGAIN = Outcome(CallState.QUEUED, error="try again")
CANCELLED = Outcome(CallState.CANCELLED, sent=False)
Q = Quota.per_minute("q", requests=60, burst_seconds=1)  # one now, one more every second
SLOT = Quota.per_minute("slot", concurrency=1)
WIDE = Quota.per_minute("wide", requests=6_000)


def call(
    id: str,
    *quotas: str,
    priority: Priority = Priority.NORMAL,
    tokens: int = 1,
) -> Call:
    return Call(id, "run", "agent", "model", quotas or ("q",), priority, tokens, NOW)


def scheduler(*quotas: Quota, policy: Policy | None = None) -> Scheduler:
    return Scheduler(quotas or (Q,), NOW, policy)


def submitted(core: Scheduler, *calls: Call, now: float = NOW) -> Scheduler:
    for each in calls:
        core.handle(Submit(each), now)
    return core


def ids(records: Sequence[CallRecord]) -> list[str]:
    return [record.call.id for record in records]


def admitted(core: Scheduler, now: float = NOW) -> list[str]:
    return ids(core.admit(now))


def play(core: Scheduler, now: float = NOW, *, turns: int = 10_000) -> dict[str, float]:
    """Admit at every time that the core names, nothing else happening; who went when."""
    went: dict[str, float] = {}
    for _ in range(turns):
        went |= dict.fromkeys(admitted(core, now), now)
        at = core.next_event(now)
        if at is None:
            return went
        assert at > now, "asking again at once would spin"
        now = at
    raise AssertionError("it never comes to rest")


def available(core: Scheduler, now: float = NOW) -> dict[tuple[str, str], float]:
    gauges = statistics(core.state, now).gauges
    return {(gauge.quota, gauge.resource.value): gauge.available for gauge in gauges}


def copied(batch: Batch) -> Batch:
    return replace(
        batch, new=tuple(map(replace, batch.new)), changed=tuple(map(replace, batch.changed))
    )


class Disk:
    """The rows that a store would have after each batch."""

    def __init__(self) -> None:
        self.calls: dict[str, CallRecord] = {}
        self.buckets: dict[tuple[str, str], object] = {}

    def save(self, core: Scheduler, now: float = NOW) -> None:
        batch = copied(core.take_batch(now))
        self.calls |= {record.call.id: record for record in (*batch.new, *batch.changed)}
        self.buckets |= {(state.quota, state.resource): state for state in batch.buckets}

    def load(self, *quotas: Quota, now: float = NOW, owned: Sequence[str] = ()) -> Scheduler:
        live = {CallState.QUEUED, CallState.ADMITTED, CallState.SENT}
        calls = sorted(map(replace, self.calls.values()), key=lambda record: record.seq)
        snapshot = Snapshot(
            tuple(self.buckets.values()),  # type: ignore[arg-type]
            tuple(record for record in calls if record.state in live),
            max((record.seq for record in calls), default=-1) + 1,
        )
        core = Scheduler(quotas or (Q,), now)
        core.restore(snapshot, now, lambda record: record.call.id in owned)
        return core


# Order


def test_a_better_class_goes_first_and_within_a_class_the_earlier() -> None:
    core = submitted(
        scheduler(WIDE),
        call("low", "wide", priority=Priority.LOW),
        call("first", "wide"),
        call("second", "wide"),
        call("urgent", "wide", priority=Priority.INTERACTIVE),
    )
    assert admitted(core) == ["urgent", "first", "second", "low"]


def test_order_holds_across_models_that_share_a_quota() -> None:
    core = submitted(
        scheduler(WIDE, Q, SLOT),
        call("low", "wide", "slot", priority=Priority.LOW),
        call("first", "wide"),
        call("urgent", "q", "wide", priority=Priority.INTERACTIVE),
    )
    assert admitted(core) == ["urgent", "first", "low"]


def test_a_late_urgent_call_is_the_next_one_admitted() -> None:
    core = submitted(scheduler(), *(call(f"b{n}", priority=Priority.BACKGROUND) for n in range(50)))
    assert admitted(core) == ["b0"]
    core.handle(Submit(call("urgent", priority=Priority.INTERACTIVE)), NOW)
    assert admitted(core, NOW + 2) == ["urgent"]


# All or none


def test_a_call_takes_from_all_of_its_quotas() -> None:
    core = submitted(scheduler(Q, SLOT), call("a", "q", "slot"))
    assert admitted(core) == ["a"]
    assert available(core) == {("q", "requests"): 0, ("slot", "concurrency"): 0}


def test_a_call_that_one_quota_stops_takes_from_none() -> None:
    core = submitted(scheduler(WIDE, SLOT), call("a", "slot"), call("b", "wide", "slot"))
    assert admitted(core) == ["a"]
    assert available(core)["wide", "requests"] == 6_000


def test_within_a_quota_too_all_limits_pass_or_none_is_taken() -> None:
    quota = Quota.per_minute("q", requests=60, tokens=600, concurrency=1)
    core = submitted(scheduler(quota), call("a", tokens=100), call("b", tokens=100))
    assert admitted(core) == ["a"]
    assert available(core) == {
        ("q", "requests"): 59,
        ("q", "tokens"): 500,
        ("q", "concurrency"): 0,
    }


# Blocking


def test_an_exhausted_model_blocks_nobody_else() -> None:
    core = submitted(
        scheduler(SLOT, WIDE),
        call("holder", "slot", "wide"),
        call("stuck", "slot", "wide", priority=Priority.INTERACTIVE),
        call("free", "wide", priority=Priority.BACKGROUND),
    )
    core.admit(NOW)
    assert "free" not in ids(queued(core.state))


def test_a_blocked_head_is_not_passed_in_its_own_queue() -> None:
    quota = Quota.per_minute("q", tokens=600)
    core = submitted(
        scheduler(quota), call("a", tokens=500), call("b", tokens=200), call("c", tokens=1)
    )
    assert admitted(core) == ["a"]


def test_a_blocked_head_is_not_passed_by_another_model_in_the_bucket_that_blocks_it() -> None:
    shared = Quota.per_minute("q", tokens=600)
    core = submitted(
        scheduler(shared, WIDE),
        call("a", tokens=500),
        call("b", "q", "wide", tokens=200),
        call("c", tokens=1),
    )
    assert admitted(core) == ["a"]


def test_a_better_call_passes_a_blocked_head() -> None:
    quota = Quota.per_minute("q", tokens=600)
    core = submitted(scheduler(quota), call("a", tokens=500), call("b", tokens=200))
    core.admit(NOW)
    core.handle(Submit(call("urgent", tokens=50, priority=Priority.HIGH)), NOW)
    assert admitted(core) == ["urgent"]


def test_a_large_call_is_not_starved_by_small_ones() -> None:
    core = submitted(scheduler(Quota.per_minute("q", tokens=600)), call("a", tokens=300))
    core.admit(NOW)
    core.handle(Submit(call("large", tokens=600)), NOW)
    submitted(core, *(call(f"s{n}", tokens=1) for n in range(100)))
    assert min(play(core).items(), key=lambda went: went[1])[0] == "large"


def test_a_call_on_two_quotas_is_not_starved_by_those_on_one_of_them() -> None:
    one, two = (Quota.per_minute(name, tokens=600) for name in ("one", "two"))
    core = submitted(scheduler(one, two), call("start", "one", tokens=300))
    core.admit(NOW)
    core.handle(Submit(call("large", "one", "two", tokens=600)), NOW)
    went: dict[str, int] = {}
    for second in range(300):
        submitted(core, call(f"one{second}", "one", tokens=10))
        submitted(core, call(f"two{second}", "two", tokens=10))
        went |= dict.fromkeys(admitted(core, NOW + second), second)
    assert went["large"] <= 61


def test_a_call_that_waits_elsewhere_leaves_what_will_have_refilled_by_then() -> None:
    core = submitted(scheduler(Q, WIDE), call("a"), call("b", "q", "wide"))
    assert admitted(core) == ["a"]
    core.handle(Submit(call("c", "wide")), NOW)
    assert admitted(core) == ["c"]


def test_no_slot_stands_idle_for_a_call_that_waits_elsewhere() -> None:
    core = submitted(scheduler(Q, SLOT), call("a"), call("b", "q", "slot"), call("c", "slot"))
    assert admitted(core) == ["a", "c"]


# Pauses


def test_a_pause_stops_its_quota_until_its_end() -> None:
    core = submitted(scheduler(Q), call("a"))
    core.handle(Observe("", {"q": Observation(pause_until=NOW + 5)}), NOW)
    assert admitted(core, NOW + 4) == []
    assert core.next_event(NOW + 4) == NOW + 5
    assert admitted(core, NOW + 5) == ["a"]


def test_a_pause_stops_no_other_quota() -> None:
    core = submitted(scheduler(Q, WIDE), call("a"), call("b", "wide"))
    core.handle(Observe("", {"q": Observation(pause_until=NOW + 5)}), NOW)
    assert admitted(core) == ["b"]


def test_a_shorter_pause_does_not_shorten_a_longer_one() -> None:
    core = submitted(scheduler(Q), call("a"))
    core.handle(Observe("", {"q": Observation(pause_until=NOW + 5)}), NOW)
    core.handle(Observe("", {"q": Observation(pause_until=NOW + 1)}), NOW)
    assert play(core) == {"a": NOW + 5}


def test_a_bucket_held_for_a_paused_head_is_free_again_once_it_suffices() -> None:
    core = submitted(scheduler(Q, WIDE), call("first"), call("head", "q", "wide"), call("small"))
    core.handle(Observe("", {"wide": Observation(pause_until=NOW + 100)}), NOW)
    went = play(core)
    assert went["small"] < NOW + 3
    assert went["head"] == NOW + 100


def test_no_signal_changes_nothing() -> None:
    core = scheduler()
    core.handle(Observe("", {"q": Observation()}), NOW)
    assert not core.take_batch(NOW)


def test_a_signal_of_an_unknown_quota_is_the_callers_mistake() -> None:
    with pytest.raises(UnknownQuota, match="'other'"):
        scheduler().handle(Observe("", {"other": Observation(pause_until=NOW + 1)}), NOW)


# Retries


def test_a_retry_goes_back_to_its_old_place() -> None:
    core = submitted(scheduler(), *map(call, "abc"))
    assert admitted(core) == ["a"]
    core.handle(Settle("a", AGAIN), NOW)
    assert ids(queued(core.state)) == ["a", "b", "c"]


def test_a_delayed_retry_stands_aside_until_its_time_and_then_has_its_old_place() -> None:
    core = submitted(scheduler(), *map(call, "abc"))
    core.admit(NOW)
    core.handle(Settle("a", replace(AGAIN, not_before=NOW + 1.5)), NOW)
    went = play(core)
    assert sorted(went, key=went.__getitem__) == ["b", "a", "c"]


def test_a_retry_counts_its_attempts_and_pays_for_each() -> None:
    core = submitted(scheduler(WIDE), call("a", "wide"))
    core.admit(NOW)
    core.handle(Settle("a", AGAIN), NOW)
    [record] = core.admit(NOW)
    assert record.attempts == 2
    assert available(core)["wide", "requests"] == 5_998


def test_a_second_delay_of_one_call_counts_and_the_first_is_forgotten() -> None:
    core = submitted(scheduler(WIDE), call("a", "wide"))
    core.admit(NOW)
    core.handle(Settle("a", replace(AGAIN, not_before=NOW + 1)), NOW)
    core.admit(NOW + 1)
    core.handle(Settle("a", replace(AGAIN, not_before=NOW + 9)), NOW + 1)
    assert core.next_event(NOW + 1) in (NOW + 1, NOW + 9)
    assert play(core, NOW + 1) == {"a": NOW + 9}


# Refusals


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        (call("x", tokens=601), CallTooLarge, "601 tokens.*'q' never allows more than 600"),
        (call("x", "q", "other"), UnknownQuota, "no quota 'other'; configured: q"),
        (call("a"), InternalError, "a was submitted twice"),
    ],
)
def test_a_refused_call_changes_nothing(wrong: Call, error: type[Exception], says: str) -> None:
    core = submitted(scheduler(Quota.per_minute("q", tokens=600)), call("a"))
    core.admit(NOW)
    core.take_batch(NOW)
    before = statistics(core.state, NOW), core.next_event(NOW), queued(core.state)
    with pytest.raises(error, match=says):
        core.handle(Submit(wrong), NOW)
    assert (statistics(core.state, NOW), core.next_event(NOW), queued(core.state)) == before
    assert not core.take_batch(NOW)


def test_an_illegal_end_changes_nothing() -> None:
    core = submitted(scheduler(), call("a"))
    with pytest.raises(IllegalTransition):
        core.handle(Settle("a", DONE), NOW)
    assert ids(queued(core.state)) == ["a"]
    assert admitted(core) == ["a"]


# Settlement


@pytest.mark.parametrize("state", [CallState.DONE, CallState.FAILED, CallState.CANCELLED])
def test_an_end_is_written_with_what_it_brought(state: CallState) -> None:
    core = submitted(scheduler(), call("a"))
    core.admit(NOW)
    core.handle(Settle("a", Outcome(state, Usage(3, 4), "{}", "why")), NOW + 2)
    [record] = core.take_batch(NOW + 2).new
    assert (record.state, record.usage, record.answer) == (state, Usage(3, 4), "{}")
    assert (record.error, record.finished_at) == ("why", NOW + 2)


def test_a_second_end_changes_nothing() -> None:
    core = submitted(scheduler(WIDE), call("a", "wide"))
    core.admit(NOW)
    core.handle(Settle("a", replace(DONE, sent=False)), NOW)
    core.take_batch(NOW)
    core.handle(Settle("a", replace(DONE, sent=False)), NOW)
    assert not core.take_batch(NOW)
    assert available(core)["wide", "requests"] == 6_000


def test_a_call_that_never_left_costs_nothing() -> None:
    core = submitted(scheduler(Quota.per_minute("q", requests=60, tokens=600)), call("a"))
    core.admit(NOW)
    core.handle(Settle("a", Outcome(CallState.FAILED, sent=False)), NOW)
    assert available(core) == {("q", "requests"): 60, ("q", "tokens"): 600}


def test_used_tokens_replace_the_reserved_ones_and_the_request_stays_spent() -> None:
    quota = Quota.per_minute("q", requests=60, tokens=600)
    core = submitted(scheduler(quota), call("a", tokens=500))
    core.admit(NOW)
    core.handle(Settle("a", replace(DONE, used_tokens=100)), NOW)
    assert available(core) == {("q", "requests"): 59, ("q", "tokens"): 500}


def test_an_ended_call_frees_its_slot_for_the_next() -> None:
    core = submitted(scheduler(SLOT), call("a", "slot"), call("b", "slot"))
    assert admitted(core) == ["a"]
    assert core.next_event(NOW) is None
    core.handle(Settle("a", DONE), NOW + 1)
    assert core.next_event(NOW + 1) == NOW + 1
    assert admitted(core, NOW + 1) == ["b"]


# Cancelling


def test_a_queued_call_is_cancelled_and_leaves_the_queue() -> None:
    core = submitted(scheduler(), call("a"), call("b"))
    core.handle(Settle("a", CANCELLED), NOW)
    assert admitted(core) == ["b"]


def test_an_admitted_call_is_cancelled_and_gives_its_budget_back() -> None:
    core = submitted(scheduler(), call("a"), call("b"))
    core.admit(NOW)
    core.handle(Settle("a", CANCELLED), NOW)
    assert admitted(core) == ["b"]


def test_a_sent_call_is_cancelled_and_stays_spent() -> None:
    core = submitted(scheduler(), call("a"), call("b"))
    core.admit(NOW)
    core.handle(MarkSent("a", NOW), NOW)
    core.handle(Settle("a", replace(CANCELLED, sent=True)), NOW)
    assert admitted(core) == []


def test_a_delayed_call_is_cancelled_and_does_not_come_back() -> None:
    core = submitted(scheduler(WIDE), call("a", "wide"))
    core.admit(NOW)
    core.handle(Settle("a", replace(AGAIN, not_before=NOW + 5)), NOW)
    core.handle(Settle("a", CANCELLED), NOW)
    assert play(core) == {}
    assert queued(core.state) == []


def test_a_parked_call_is_cancelled() -> None:
    disk = Disk()
    disk.save(submitted(scheduler(), call("a")))
    core = disk.load()
    core.handle(Settle("a", CANCELLED), NOW)
    assert queued(core.state) == []


# The next event


def test_with_nothing_to_do_there_is_no_next_event() -> None:
    core = scheduler()
    core.admit(NOW)
    assert core.next_event(NOW) is None


def test_a_new_call_is_asked_for_at_once() -> None:
    assert submitted(scheduler(), call("a")).next_event(NOW) == NOW


def test_the_next_event_is_when_the_head_passes() -> None:
    core = submitted(scheduler(), call("a"), call("b"))
    core.admit(NOW)
    went = play(core)
    assert went == {"b": pytest.approx(NOW + 1.05, abs=1e-4)}


def test_of_two_lanes_the_sooner_is_named() -> None:
    slow = Quota.per_minute("slow", requests=1)
    core = submitted(
        scheduler(Q, slow), *(call(f"{name}{n}", name) for name in ("slow", "q") for n in range(2))
    )
    core.admit(NOW)
    at = core.next_event(NOW)
    assert at is not None
    assert at < NOW + 2


SIZES = st.integers(1, 1_000)


@settings(deadline=None)
@given(
    start=st.floats(0, 4e9),
    limits=st.tuples(
        SIZES, st.integers(1_000, 10_000_000), st.sampled_from([0.5, 1.0, 10.0, 60.0])
    ),
    calls=st.lists(
        st.tuples(
            st.sampled_from([("a",), ("b",), ("a", "b"), ("b", "a")]),
            SIZES,
            st.sampled_from(Priority),
            st.floats(0, 30),
        ),
        max_size=25,
    ),
    pause=st.none() | st.floats(0, 100),
)
def test_whatever_can_go_by_time_alone_goes_without_spinning(
    start: float,
    limits: tuple[int, int, float],
    calls: list[tuple[tuple[str, ...], int, Priority, float]],
    pause: float | None,
) -> None:
    requests, tokens, burst = limits
    quotas = (
        Quota.per_minute("a", requests=requests, tokens=tokens, burst_seconds=burst),
        Quota.per_minute("b", tokens=tokens / 3 + 1_000, burst_seconds=burst * 2),
    )
    core, now = Scheduler(quotas, start), start
    went: dict[str, float] = {}
    for number, (names, size, priority, gap) in enumerate(calls):
        core.handle(Submit(call(str(number), *names, tokens=size, priority=priority)), now)
        went |= dict.fromkeys(admitted(core, now), now)
        now += gap
    if pause is not None:
        core.handle(Observe("", {"a": Observation(pause_until=now + pause)}), now)
    went |= play(core, now, turns=300)
    assert len(went) == len(calls)


# Explanations


def test_a_call_that_is_not_live_has_no_explanation() -> None:
    assert explain(scheduler().state, "a", NOW) is None


def test_a_call_in_flight_waits_for_nothing() -> None:
    core = submitted(scheduler(), call("a"))
    core.admit(NOW)
    answer = explain(core.state, "a", NOW)
    assert answer is not None
    assert (answer.state, answer.place, answer.blockers) == (CallState.ADMITTED, None, ())


def test_a_queued_call_knows_its_place_and_who_goes_next() -> None:
    core = submitted(
        scheduler(),
        call("gone"),
        call("low", priority=Priority.LOW),
        call("a"),
        call("b"),
    )
    core.admit(NOW)
    places = {}
    for name in ("a", "b", "low"):
        answer = explain(core.state, name, NOW)
        assert answer is not None
        places[name] = (answer.place, answer.behind)
    assert places == {"a": (1, None), "b": (2, "a"), "low": (3, "a")}


def test_calls_that_share_no_quota_are_not_counted_before_it() -> None:
    core = submitted(scheduler(SLOT, WIDE), call("s1", "slot"), call("s2", "slot"))
    core.admit(NOW)
    core.handle(Submit(call("w", "wide")), NOW)
    answer = explain(core.state, "w", NOW)
    assert answer is not None
    assert (answer.place, answer.starts_at) == (1, NOW)


def test_a_blocker_says_what_is_needed_what_is_free_and_when() -> None:
    core = submitted(scheduler(Quota.per_minute("q", tokens=600)), call("a", tokens=500))
    core.admit(NOW)
    core.handle(Submit(call("b", tokens=300)), NOW)
    answer = explain(core.state, "b", NOW)
    assert answer is not None
    [blocker] = answer.blockers
    assert (blocker.quota, blocker.resource) == ("q", "tokens")
    assert (blocker.need, blocker.free, blocker.kept) == (300, 100, 60)
    assert blocker.at == pytest.approx(NOW + 26)


def test_behind_a_slot_no_time_can_be_forecast() -> None:
    core = submitted(scheduler(SLOT), call("a", "slot"), call("b", "slot"))
    core.admit(NOW)
    answer = explain(core.state, "b", NOW)
    assert answer is not None
    [blocker] = answer.blockers
    assert (blocker.quota, blocker.at, answer.starts_at) == ("slot", None, None)


def test_a_delayed_call_says_until_when() -> None:
    core = submitted(scheduler(), call("a"))
    core.admit(NOW)
    core.handle(Settle("a", replace(AGAIN, not_before=NOW + 9)), NOW)
    answer = explain(core.state, "a", NOW)
    assert answer is not None
    assert answer.not_before == NOW + 9


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 600), min_size=1, max_size=20),
    classes=st.lists(st.sampled_from(Priority), min_size=20, max_size=20),
    pause=st.sampled_from([None, 7.0, 90.0]),
)
def test_the_forecast_is_what_happens_if_nobody_else_comes(
    sizes: list[int], classes: list[Priority], pause: float | None
) -> None:
    # Without promised shares: a class that is boosted once its credit suffices goes early.
    policy = Policy(promised_share=(0.0,) * 5)
    core = scheduler(Quota.per_minute("q", tokens=600), policy=policy)
    if pause is not None:
        core.handle(Observe("", {"q": Observation(pause_until=NOW + pause)}), NOW)
    for number, (size, priority) in enumerate(zip(sizes, classes, strict=False)):
        core.handle(Submit(call(str(number), tokens=size, priority=priority)), NOW)
    went = dict.fromkeys(admitted(core), NOW)
    forecasts = {}
    for record in queued(core.state):
        answer = explain(core.state, record.call.id, NOW)
        assert answer is not None
        forecasts[record.call.id] = answer.starts_at
    went |= play(core)
    # What is in transit does not refill: the forecast may be early by that for each full bucket.
    late = 0.5 * (1 + sum(sizes) / 600) + 0.1
    for name, forecast in forecasts.items():
        assert forecast is not None
        assert forecast - 1e-3 <= went[name] <= forecast + late


# Batches


def test_a_batch_holds_new_calls_changed_ones_and_the_buckets_they_touched() -> None:
    core = submitted(scheduler(Q, WIDE, SLOT), call("a"), call("b", "wide"))
    core.admit(NOW)
    core.take_batch(NOW)
    core.handle(Settle("a", DONE), NOW)
    core.handle(Submit(call("c", "slot")), NOW)
    batch = core.take_batch(NOW)
    assert (ids(batch.new), ids(batch.changed)) == (["c"], ["a"])
    assert {state.quota for state in batch.buckets} == {"q"}


def test_a_call_that_is_new_and_changed_is_written_once() -> None:
    core = submitted(scheduler(), call("a"))
    core.admit(NOW)
    batch = core.take_batch(NOW)
    assert (ids(batch.new), ids(batch.changed)) == (["a"], [])
    assert batch.new[0].state is CallState.ADMITTED


def test_what_was_handed_over_is_not_handed_over_again() -> None:
    core = submitted(scheduler(), call("a"))
    core.admit(NOW)
    assert core.take_batch(NOW)
    assert not core.take_batch(NOW)


def test_a_pause_is_written() -> None:
    core = scheduler()
    core.handle(Observe("", {"q": Observation(pause_until=NOW + 5)}), NOW)
    [state] = core.take_batch(NOW).buckets
    assert state.paused_until == NOW + 5


# Restart


def test_in_flight_without_an_owner_becomes_unknown_and_stays_spent() -> None:
    disk, core = Disk(), submitted(scheduler(SLOT, WIDE), call("a", "slot", "wide"))
    core.admit(NOW)
    disk.save(core)
    again = disk.load(SLOT, WIDE)
    assert [r.state for r in again.take_batch(NOW).changed] == [CallState.UNKNOWN]
    assert available(again) == {("slot", "concurrency"): 1, ("wide", "requests"): 5_999}


def test_queued_without_an_owner_is_parked() -> None:
    disk = Disk()
    disk.save(submitted(scheduler(), call("a")))
    again = disk.load()
    answer = explain(again.state, "a", NOW)
    assert answer is not None
    assert answer.parked
    assert play(again) == {}
    assert statistics(again.state, NOW).parked == 1


def test_a_question_of_a_living_worker_still_waits_for_its_person_under_a_new_leader() -> None:
    """It was admitted, with nobody to send it, and the person's answer was refused."""
    question = replace(call("a"), quotas=(), kind="person", model="question")
    disk, core = Disk(), scheduler()
    core.handle(Submit(question, parked=True), NOW)
    disk.save(core)
    again = disk.load(owned=["a"])
    assert play(again) == {}
    (record,) = queued(again.state)
    again.handle(Decide(record, Outcome(CallState.DONE, answer="{}")), NOW)
    assert record.state is CallState.DONE


def test_owned_calls_go_on_in_their_order() -> None:
    disk = Disk()
    disk.save(
        submitted(
            scheduler(),
            call("low", priority=Priority.LOW),
            call("a"),
            call("b"),
        )
    )
    again = disk.load(owned=["low", "a", "b"])
    again.handle(Submit(call("c")), NOW)
    assert list(play(again)) == ["a", "b", "c", "low"]


def test_an_owned_call_in_flight_goes_on_and_is_charged_once() -> None:
    disk, core = Disk(), submitted(scheduler(SLOT, WIDE), call("a", "slot", "wide"))
    core.admit(NOW)
    disk.save(core)
    again = disk.load(SLOT, WIDE, owned=["a"])
    assert available(again) == available(core)
    again.handle(Settle("a", DONE), NOW)
    core.handle(Settle("a", DONE), NOW)
    assert available(again) == available(core)


def test_a_delayed_retry_waits_for_its_time_over_a_restart() -> None:
    disk, core = Disk(), submitted(scheduler(), call("a"))
    core.admit(NOW)
    core.handle(Settle("a", replace(AGAIN, not_before=NOW + 30)), NOW)
    disk.save(core)
    assert play(disk.load(owned=["a"])) == {"a": NOW + 30}


def test_a_pause_holds_over_a_restart() -> None:
    disk, core = Disk(), submitted(scheduler(), call("a"))
    core.handle(Observe("", {"q": Observation(pause_until=NOW + 30)}), NOW)
    disk.save(core)
    assert play(disk.load(owned=["a"])) == {"a": NOW + 30}


def test_buckets_are_as_they_were_however_often_it_restarts() -> None:
    disk, core = Disk(), submitted(scheduler(WIDE), *(call(str(n), "wide") for n in range(9)))
    core.admit(NOW)
    disk.save(core)
    before = available(core)
    for _ in range(3):
        core = disk.load(WIDE)
        assert available(core) == before
        disk.save(core)


def test_calls_of_a_quota_that_is_no_longer_configured_do_not_stop_a_restart() -> None:
    disk, core = (
        Disk(),
        submitted(scheduler(Q, WIDE), call("a", "q", "wide"), call("b", "q", "wide")),
    )
    core.admit(NOW)
    disk.save(core)
    again = disk.load(WIDE)
    batch = again.take_batch(NOW)
    assert [record.state for record in batch.changed] == [CallState.UNKNOWN]
    again.handle(Settle("b", CANCELLED), NOW)
    assert [record.state for record in again.take_batch(NOW).changed] == [CallState.CANCELLED]


# Asked again


def asked_before(state: CallState) -> tuple[Scheduler, CallRecord]:
    """A call whose attempt ended so, in the life before, between two others in the queue."""
    disk, core = Disk(), submitted(scheduler(WIDE, Q), call("a", "wide"))
    core.admit(NOW)
    submitted(core, call("before"), call("after"), now=NOW)
    if state is not CallState.ADMITTED:
        core.handle(Settle("a", Outcome(state, error="no", arrival=4)), NOW)
    disk.save(core)
    again = disk.load(WIDE, Q)
    disk.save(again)
    return again, disk.calls["a"]


WITHOUT_ANSWER = [CallState.FAILED, CallState.CANCELLED, CallState.UNKNOWN, CallState.ADMITTED]


@pytest.mark.parametrize("state", WITHOUT_ANSWER)
def test_a_call_without_an_answer_is_asked_again_in_its_own_row(state: CallState) -> None:
    core, row = asked_before(state)
    core.handle(Resubmit(row), NOW)
    [written] = core.take_batch(NOW).changed
    assert (written.seq, written.call, written.state) == (row.seq, row.call, CallState.QUEUED)
    assert (written.error, written.finished_at, written.arrival) == (None, None, None)
    assert written.lost_attempts == (state in (CallState.UNKNOWN, CallState.ADMITTED))
    assert admitted(core) == ["a"]
    assert core.take_batch(NOW).changed[0].attempts == 2


def test_a_resubmitted_call_has_its_old_place() -> None:
    disk, core = Disk(), submitted(scheduler(), call("first"), call("second"), call("third"))
    disk.save(core)
    again = disk.load()
    again.handle(Submit(call("new")), NOW)
    for name in ("third", "first", "second"):
        again.handle(Resubmit(disk.calls[name]), NOW)
    assert list(play(again)) == ["first", "second", "third", "new"]


def test_a_parked_call_does_not_wait_for_the_time_of_its_retry() -> None:
    disk, core = Disk(), submitted(scheduler(WIDE), call("a", "wide"))
    core.admit(NOW)
    core.handle(Settle("a", replace(AGAIN, not_before=NOW + 90)), NOW)
    disk.save(core)
    again = disk.load(WIDE)
    again.handle(Resubmit(disk.calls["a"]), NOW)
    assert admitted(again) == ["a"]


def test_what_an_unknown_call_reserved_stays_spent_and_it_reserves_again() -> None:
    core, row = asked_before(CallState.ADMITTED)
    assert available(core)["wide", "requests"] == 5_999
    core.handle(Resubmit(row), NOW)
    assert available(core)["wide", "requests"] == 5_999
    core.admit(NOW)
    assert available(core)["wide", "requests"] == 5_998
    core.handle(Settle("a", CANCELLED), NOW)
    assert available(core)["wide", "requests"] == 5_999


def test_every_loss_of_a_call_is_counted() -> None:
    disk, core = Disk(), submitted(scheduler(WIDE), call("a", "wide"))
    for lost_attempts in (1, 2, 3):
        core.admit(NOW)
        disk.save(core)
        core = disk.load(WIDE)
        disk.save(core)
        row = disk.calls["a"]
        assert (row.state, row.lost_attempts, row.attempts) == (
            CallState.UNKNOWN,
            lost_attempts,
            lost_attempts,
        )
        core.handle(Resubmit(row), NOW)
    core.admit(NOW)
    core.handle(Settle("a", DONE), NOW)
    assert core.take_batch(NOW).changed[0].lost_attempts == 3


def test_a_call_that_its_own_process_gives_up_is_a_loss_too() -> None:
    core = submitted(scheduler(), call("a"))
    core.admit(NOW)
    core.handle(Settle("a", Outcome(CallState.UNKNOWN)), NOW)
    [row] = core.take_batch(NOW).new
    assert (row.state, row.lost_attempts) == (CallState.UNKNOWN, 1)


@pytest.mark.parametrize("state", [CallState.DONE, *sorted(LIVE_CALLS)])
def test_a_call_that_cannot_be_asked_again_changes_nothing(state: CallState) -> None:
    core = scheduler()
    with pytest.raises(IllegalTransition):
        core.handle(Resubmit(CallRecord(call("a"), 0, state)), NOW)
    assert not core.take_batch(NOW)
    assert explain(core.state, "a", NOW) is None


def test_a_call_that_is_queued_or_in_flight_here_is_not_queued_again() -> None:
    core = submitted(scheduler(), call("flies"), call("waits"))
    core.admit(NOW)
    rows = core.take_batch(NOW).new
    for row in rows:
        with pytest.raises(InternalError, match="submitted twice"):
            core.handle(Resubmit(replace(row, state=CallState.UNKNOWN)), NOW)
    assert not core.take_batch(NOW)


@pytest.mark.parametrize(
    ("quotas", "error"),
    [((WIDE,), UnknownQuota), ((Quota.per_minute("q", tokens=10),), CallTooLarge)],
)
def test_a_call_that_no_quota_takes_any_more_stays_parked(
    quotas: tuple[Quota, ...], error: type[Exception]
) -> None:
    disk = Disk()
    disk.save(submitted(scheduler(), call("a", tokens=99)))
    core = disk.load(*quotas)
    with pytest.raises(error):
        core.handle(Resubmit(disk.calls["a"]), NOW)
    assert not core.take_batch(NOW)
    assert statistics(core.state, NOW).parked == 1


# Steps and people


def step(id: str, kind: str = "person") -> Call:
    return replace(call(id), quotas=(), tokens=0, kind=kind)


def test_a_step_is_admitted_at_once_while_every_quota_is_spent() -> None:
    core = submitted(scheduler(), call("a"), call("b"))
    assert admitted(core) == ["a"]
    core.handle(Submit(step("tool", "tool")), NOW)
    assert admitted(core) == ["tool"]


def test_a_question_is_never_admitted() -> None:
    core = scheduler()
    core.handle(Submit(step("question"), parked=True), NOW)
    [row] = core.take_batch(NOW).new
    assert (row.state, row.parked) == (CallState.QUEUED, True)
    assert play(core) == {}
    assert core.next_event(NOW) is None
    assert statistics(core.state, NOW).parked == 1


def test_a_question_ends_with_the_words_of_a_person() -> None:
    core = scheduler()
    core.handle(Submit(step("question"), parked=True), NOW)
    [row] = core.take_batch(NOW).new
    core.handle(Decide(replace(row), Outcome(CallState.DONE, answer="yes", arrival=3)), NOW + 5)
    [row] = core.take_batch(NOW + 5).changed
    assert (row.state, row.answer, row.arrival) == (CallState.DONE, "yes", 3)
    assert row.finished_at == NOW + 5
    assert explain(core.state, "question", NOW) is None


@pytest.mark.parametrize("state", [CallState.DONE, CallState.CANCELLED])
def test_a_person_says_what_came_of_an_unknown_call(state: CallState) -> None:
    core, row = asked_before(CallState.ADMITTED)
    core.handle(Decide(row, Outcome(state, answer="{}", arrival=2)), NOW)
    [written] = core.take_batch(NOW).changed
    assert (written.seq, written.state, written.arrival) == (row.seq, state, 2)
    assert (written.finished_at, written.lost_attempts) == (NOW, 1)
    assert explain(core.state, "a", NOW) is None


def test_a_call_that_is_to_go_again_is_parked_until_its_run_goes_on() -> None:
    core, row = asked_before(CallState.ADMITTED)
    core.handle(Decide(row, Outcome(CallState.QUEUED)), NOW)
    [written] = core.take_batch(NOW).changed
    assert (written.state, written.parked) == (CallState.QUEUED, True)
    assert written.finished_at is None
    assert admitted(core) == []
    core.handle(Decide(written, Outcome(CallState.QUEUED)), NOW)
    assert not core.take_batch(NOW)
    core.handle(Resubmit(written), NOW)
    assert admitted(core) == ["a"]


@pytest.mark.parametrize("state", sorted(set(CallState) - {CallState.UNKNOWN}))
def test_nobody_decides_what_is_over_or_was_read_before_its_end(state: CallState) -> None:
    core = scheduler()
    with pytest.raises(IllegalTransition):
        core.handle(
            Decide(CallRecord(call("a"), 0, state), Outcome(CallState.DONE, answer="x")), NOW
        )
    assert not core.take_batch(NOW)


def test_nobody_decides_what_is_on_its_way() -> None:
    core = submitted(scheduler(), call("flies"), call("waits"))
    core.admit(NOW)
    rows = core.take_batch(NOW).new
    for row in rows:
        with pytest.raises(NothingToAnswer, match="waits for no person"):
            core.handle(Decide(replace(row), Outcome(CallState.DONE, answer="x")), NOW)
    assert not core.take_batch(NOW)


def test_a_queued_call_that_is_no_question_is_not_done_by_settling() -> None:
    core = submitted(scheduler(SLOT), call("holder", "slot"), call("a", "slot"))
    core.admit(NOW)
    with pytest.raises(IllegalTransition, match="never admitted"):
        core.handle(Settle("a", DONE), NOW)
    core.handle(Settle("holder", DONE), NOW)
    assert admitted(core) == ["a"]


@pytest.mark.parametrize("state", [CallState.DONE, CallState.FAILED])
def test_the_number_of_an_answer_is_written_with_it(state: CallState) -> None:
    core = submitted(scheduler(), call("a"))
    core.admit(NOW)
    core.handle(Settle("a", Outcome(state, answer="{}", arrival=17)), NOW)
    assert core.take_batch(NOW).new[0].arrival == 17


def test_the_calls_of_a_worker_that_is_gone_are_unknown_or_parked_and_no_other_s() -> None:
    core = Scheduler([Quota.per_minute("q", requests=600, concurrency=2)], NOW)
    for number, worker in enumerate(("gone", "alive", "gone", "alive")):
        core.handle(Submit(call(f"c{number}")), NOW, worker=worker)
    assert [record.call.id for record in core.admit(NOW)] == ["c0", "c1"]
    core.take_batch(NOW)
    core.handle(DropWorker("gone"), NOW)
    changed = {record.call.id: record for record in core.take_batch(NOW).changed}
    assert (changed["c0"].state, changed["c0"].lost_attempts) == (CallState.UNKNOWN, 1)
    assert statistics(core.state, NOW).parked == 1
    assert [record.call.id for record in core.admit(NOW)] == ["c3"]
    core.handle(Settle("c1", Outcome(CallState.DONE)), NOW)
    assert core.admit(NOW) == []
    (parked,) = [record for record in queued(core.state) if record.parked]
    core.handle(Resubmit(parked), NOW, worker="alive")
    assert [(r.call.id, r.worker) for r in core.admit(NOW)] == [("c2", "alive")]


def test_a_delayed_call_of_a_worker_that_is_gone_stays_parked_when_its_time_comes() -> None:
    core = Scheduler([Quota.per_minute("q", requests=600)], NOW)
    core.handle(Submit(call("c")), NOW, worker="gone")
    core.admit(NOW)
    core.handle(Settle("c", Outcome(CallState.QUEUED, not_before=NOW + 5)), NOW)
    core.handle(DropWorker("gone"), NOW)
    assert core.admit(NOW + 10) == []
    assert statistics(core.state, NOW + 10).parked == 1
