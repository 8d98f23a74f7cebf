"""Several models for one: which of them takes a call, and when it changes its mind."""

from collections.abc import Sequence

import pytest

from headway_scheduler.core.inspection import provider_health, queued, statistics
from headway_scheduler.core.policy import STRICT
from headway_scheduler.core.scheduler import Scheduler
from headway_scheduler.errors import CallTooLarge
from headway_scheduler.model.batch import Snapshot
from headway_scheduler.model.calls import Call, CallRecord, Outcome, Priority, Route
from headway_scheduler.model.data import replace
from headway_scheduler.model.quotas import Observation, ProviderEvent, Quota
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import CallState, RunState
from headway_scheduler.protocol.messages import Observe, Resubmit, SaveRun, Settle, Submit

NOW = 1_772_366_400.0
EAST = Quota.per_minute("east", requests=60, tokens=60_000, burst_seconds=2)
WEST = Quota.per_minute("west", requests=60, tokens=60_000, burst_seconds=2)
SMALL = Quota.per_minute("small", requests=60, tokens=600, burst_seconds=2)
ROUTES = (
    Route("m-east", ("east",), 10),
    Route("m-west", ("west",), 10),
    Route("m-small", ("small",), 10, rank=1),
)
DOWN = Observation(event=ProviderEvent.FAILED)


def core() -> Scheduler:
    return Scheduler([EAST, WEST, SMALL], NOW, STRICT)


def ask(scheduler: Scheduler, name: str, routes: tuple[Route, ...] = ROUTES) -> None:
    first = routes[0]
    call = Call(name, "r", "a", first.model, first.quotas, Priority.NORMAL, first.tokens, NOW)
    scheduler.handle(Submit(call, routes=routes), NOW)


def went(scheduler: Scheduler, now: float = NOW) -> dict[str, str]:
    return {record.call.id: record.call.model for record in scheduler.admit(now)}


def shut(scheduler: Scheduler, quota: str) -> None:
    """Have faults until nobody is asked any more."""
    for n in range(4):
        scheduler.handle(Observe(f"elsewhere-{n}", {quota: DOWN}), NOW)
    assert quota in provider_health(scheduler.state).unanswered


def test_deployments_share_what_comes() -> None:
    scheduler = core()
    for n in range(6):
        ask(scheduler, f"c{n}")
    models = list(went(scheduler).values())
    assert sorted(models) == ["m-east", "m-east", "m-west", "m-west"]
    waiting = [record.call.model for record in queued(scheduler.state)]
    assert sorted(waiting) == ["m-east", "m-west"]


def test_a_call_takes_of_the_quota_that_it_goes_to_and_of_no_other() -> None:
    scheduler = core()
    ask(scheduler, "c", (replace(ROUTES[0], tokens=100), replace(ROUTES[1], tokens=7)))
    assert went(scheduler) == {"c": "m-east"}
    free = {
        (g.quota, g.resource): g.capacity - g.available
        for g in statistics(scheduler.state, NOW).gauges
    }
    assert {key: taken for key, taken in free.items() if taken} == {
        ("east", "requests"): 1,
        ("east", "tokens"): 100,
    }


def test_a_fallback_is_asked_only_when_no_deployment_answers() -> None:
    scheduler = core()
    shut(scheduler, "east")
    ask(scheduler, "a")
    assert went(scheduler) == {"a": "m-west"}
    shut(scheduler, "west")
    ask(scheduler, "b")
    assert went(scheduler) == {"b": "m-small"}


def test_if_none_answers_it_waits_for_the_first() -> None:
    scheduler = core()
    for quota in ("east", "west", "small"):
        shut(scheduler, quota)
    ask(scheduler, "a")
    assert went(scheduler) == {}
    (record,) = queued(scheduler.state)
    assert record.call.model == "m-east"


def test_those_that_wait_take_another_way_when_a_provider_stops_answering() -> None:
    scheduler = core()
    only_east_or_small = (ROUTES[0], ROUTES[2])
    for n in range(4):
        ask(scheduler, f"c{n}", only_east_or_small)
    assert went(scheduler) == {"c0": "m-east", "c1": "m-east"}
    scheduler.take_batch(NOW)
    shut(scheduler, "east")
    assert went(scheduler) == {"c2": "m-small", "c3": "m-small"}
    changed = {record.call.id: record.call.model for record in scheduler.take_batch(NOW).changed}
    assert changed == {"c2": "m-small", "c3": "m-small"}


def test_a_call_that_failed_goes_again_where_it_is_answered() -> None:
    scheduler = core()
    ask(scheduler, "c", (ROUTES[0], ROUTES[2]))
    assert went(scheduler) == {"c": "m-east"}
    shut(scheduler, "east")
    scheduler.handle(Observe("c", {"east": DOWN}), NOW)
    scheduler.handle(Settle("c", Outcome(CallState.QUEUED, error="500", not_before=NOW)), NOW)
    assert went(scheduler) == {"c": "m-small"}


def test_an_account_that_is_locked_out_is_left_for_another() -> None:
    scheduler = core()
    ask(scheduler, "c", ROUTES[:2])
    assert went(scheduler) == {"c": "m-east"}
    scheduler.handle(
        Observe("c", {"east": Observation(event=ProviderEvent.LOCKED_OUT, error="no money")}), NOW
    )
    scheduler.handle(Settle("c", Outcome(CallState.QUEUED, error="429", not_before=NOW)), NOW)
    assert went(scheduler) == {"c": "m-west"}


def test_a_deadline_that_cannot_be_met_is_met_elsewhere() -> None:
    scheduler = core()
    for n in range(20):
        ask(scheduler, f"before-{n}", ROUTES[:1])
    run = Run("r", "w", "", Priority.NORMAL, RunState.RUNNING, NOW, deadline=NOW + 5, attempts=1)
    scheduler.handle(SaveRun(run), NOW)
    ask(scheduler, "late", (ROUTES[0], ROUTES[2]))
    assert went(scheduler)["late"] == "m-small"


def test_a_call_that_is_too_large_for_one_goes_to_another() -> None:
    scheduler = core()
    large = tuple(replace(route, tokens=1_000) for route in ROUTES)
    ask(scheduler, "a", (large[2], large[0]))
    assert went(scheduler) == {"a": "m-east"}
    with pytest.raises(CallTooLarge):
        ask(scheduler, "b", (large[2],))


def test_a_call_that_is_queued_again_after_a_restart_chooses_anew() -> None:
    scheduler = core()
    shut(scheduler, "east")
    first = ROUTES[0]
    call = Call("c", "r", "a", first.model, first.quotas, Priority.NORMAL, first.tokens, NOW)
    scheduler.handle(Resubmit(CallRecord(call, 0, CallState.UNKNOWN), routes=ROUTES), NOW)
    assert went(scheduler) == {"c": "m-west"}


def succeeded(scheduler: Scheduler, quotas: Sequence[Quota] = (EAST, WEST, SMALL)) -> Scheduler:
    """Return a core that goes on from what is on disk, as that of the next leader does."""
    batch = scheduler.take_batch(NOW)
    again = Scheduler(quotas, NOW, STRICT)
    snapshot = Snapshot(batch.buckets, batch.new, len(batch.new), (), batch.lessons)
    again.restore(snapshot, NOW, lambda record: True)
    return again


def test_the_next_leader_routes_waiting_calls_anew() -> None:
    scheduler = core()
    for n in range(8):
        ask(scheduler, f"c{n}", ROUTES[:2])
    again = succeeded(scheduler)
    shut(again, "east")  # and two go west at once
    assert went(again) == {"c0": "m-west", "c1": "m-west"}
    assert {record.call.model for record in queued(again.state)} == {"m-west"}


def test_a_route_whose_quota_is_not_configured_any_more_is_left_out() -> None:
    scheduler = core()
    shut(scheduler, "east")
    ask(scheduler, "c", (ROUTES[1], ROUTES[0]))
    again = succeeded(scheduler, (WEST, SMALL))
    assert went(again) == {"c": "m-west"}


def test_a_call_that_has_ended_keeps_no_routes() -> None:
    scheduler = core()
    ask(scheduler, "c")
    assert went(scheduler) == {"c": "m-east"}
    assert scheduler.take_batch(NOW).new[0].routes == ROUTES
    scheduler.handle(Settle("c", Outcome(CallState.DONE, answer="{}")), NOW)
    (ended,) = scheduler.take_batch(NOW).changed
    assert ended.routes == ()


def test_a_deployment_that_failed_is_tried_by_one_call_after_each_pause() -> None:
    scheduler = core()
    shut(scheduler, "east")
    ask(scheduler, "at once", ROUTES[:2])
    assert went(scheduler) == {"at once": "m-west"}
    later = NOW + 2
    call = Call("probe", "r", "a", "m-east", ("east",), Priority.NORMAL, 10, later)
    other = replace(call, id="other")
    for each in (call, other):
        scheduler.handle(Submit(each, routes=ROUTES[:2]), later)
    models = went(scheduler, later)
    assert models["probe"] == "m-east"
    assert models["other"] == "m-west"


def test_a_call_that_probed_in_vain_goes_at_once_where_it_is_answered() -> None:
    scheduler = core()
    shut(scheduler, "east")
    later = NOW + 2
    call = Call("probe", "r", "a", "m-east", ("east",), Priority.NORMAL, 10, later)
    scheduler.handle(Submit(call, routes=ROUTES[:2]), later)
    assert went(scheduler, later) == {"probe": "m-east"}
    failed = Outcome(CallState.QUEUED, error="500", not_before=later + 60)
    scheduler.handle(Settle("probe", failed, {"east": DOWN}), later)
    assert went(scheduler, later) == {"probe": "m-west"}


def test_a_deployment_that_answers_again_is_used_again() -> None:
    scheduler = core()
    shut(scheduler, "east")
    answered = {"east": Observation(event=ProviderEvent.ANSWERED)}
    for n in range(12):
        now = NOW + 100 + 10 * n
        call = Call(f"c{n}", "r", "a", "m-east", ("east",), Priority.NORMAL, 10, now)
        scheduler.handle(Submit(call, routes=ROUTES[:2]), now)
        assert went(scheduler, now) == {f"c{n}": "m-east"}
        scheduler.handle(Settle(f"c{n}", Outcome(CallState.DONE, answer="{}"), answered), now)
    assert provider_health(scheduler.state).probing == ()
