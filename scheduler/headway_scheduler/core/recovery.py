"""Builds the scheduler's state from what is on disk. Law: what was spent stays spent."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress

from ..errors import UnknownQuota
from ..model.batch import Lesson, Snapshot
from ..model.calls import CallRecord, Outcome, ServiceLane
from ..model.formulas import LONGEST_STATED_SECONDS
from ..model.quotas import BucketState, Resource
from ..model.runs import Run
from ..model.states import IN_FLIGHT, CallState
from .limits.quota import BREAKER, LIMITS, ODD
from .state import NOT_BATCHED, SIZES, SchedulerState
from .tally import tried


def restore(
    state: SchedulerState,
    snapshot: Snapshot,
    now: float,
    owned: Callable[[CallRecord], bool],
    *,
    runs: Iterable[Run] = (),
    awaited: Mapping[str, frozenset[str]] | None = None,
) -> list[str]:
    """Go on from the store. ``owned`` tells whether the caller of a call is alive.

    A call in flight without an owner becomes unknown, its reservation spent: the request may have
    been sent. A queued call without an owner is parked at its place until its run resumes. ``runs``
    are those under way; ``awaited`` maps a waiting run to the runs that it waits for. What a row
    says may make no sense to this version or configuration: it is left out then, and returned in
    words.
    """
    left_out: list[str] = []
    for run in runs:
        state.registry.track(run)
        state.budgets.limit(run.id, run.budget_usd)
    for run_id, on in (awaited or {}).items():
        state.registry.wait(run_id, on)
    state.next_seq = snapshot.next_seq
    for change in snapshot.changes:
        with suppress(UnknownQuota), _guarded(left_out, f"change {change.action} {change.target}"):
            state.apply(change, now)  # its quota may have left the configuration since
    for lesson in snapshot.lessons:
        with _guarded(left_out, f"lesson {lesson.kind} {lesson.subject}"):
            _learn(state, lesson, now)
    for bucket in snapshot.buckets:
        with _guarded(left_out, f"limit {bucket.quota} {bucket.resource}"):
            _fill(state, bucket, now)
    for record in snapshot.calls:
        with _guarded(left_out, f"call {record.call.id}"):
            _place(state, record, now, is_owned=owned(record))
    return left_out


@contextmanager
def _guarded(left_out: list[str], name: str) -> Iterator[None]:
    """Note an error of one row, whatever it is, and go on with the others."""
    try:
        yield
    except UnknownQuota:
        raise
    except Exception as error:
        left_out.append(f"{name} is left out ({type(error).__name__}: {error})")


def _learn(state: SchedulerState, lesson: Lesson, now: float) -> None:
    if lesson.kind == SIZES:
        state.registry.sizes.load(lesson.subject, lesson.value)
    elif lesson.kind in (LIMITS, BREAKER, ODD) and state.lanes.knows(lesson.subject, now):
        state.lanes.quotas[lesson.subject].load(lesson, now)
        state.lanes.renew(lesson.subject)


def _fill(state: SchedulerState, stored: BucketState, now: float) -> None:
    if stored.resource is Resource.USD:
        state.budgets.load(stored)
        return
    if not state.lanes.knows(stored.quota, now):
        return
    quota = state.lanes.quotas[stored.quota]
    until = stored.paused_until
    # No pause is longer: a time far ahead was not written by us, and would stop the quota for good.
    quota.breaker.paused_until = until and min(until, now + LONGEST_STATED_SECONDS)
    for bucket in quota.buckets:
        if bucket.limit.resource is stored.resource:
            bucket.restore(stored, now)


def _queued_at(state: SchedulerState, record: CallRecord) -> float:
    """Return since when a call stood queued, as far as its row and its run tell.

    The time that its earlier attempts took counts as well: how long they took is not in its row.
    """
    return max(record.call.submitted_at, state.registry.resumed_at(record.call))


def _place(state: SchedulerState, record: CallRecord, now: float, *, is_owned: bool) -> None:
    record.routes = tuple(
        each for each in record.routes if all(state.lanes.knows(name, now) for name in each.quotas)
    )
    if record.state is CallState.QUEUED:
        # A question waits for a person, whether its worker lives or not: it is never admitted.
        is_owned = is_owned and not record.call.is_question
        is_owned = is_owned and all(state.lanes.knows(name, now) for name in record.call.quotas)
        # A call whose quota has left the configuration waits for its run to be resumed.
        record.parked = not is_owned
        live = state.add(record)
        live.queued_at = _queued_at(state, record)
        if is_owned:
            state.enqueue(live, now)
    elif is_owned or record.state is CallState.BATCHED:
        live = state.add(record)
        known = tuple(name for name in record.call.quotas if state.lanes.knows(name, now))
        buckets = state.lanes.of(known, now).buckets
        for name in known:
            state.lanes.quotas[name].in_flight += record.state in IN_FLIGHT
        if (since := record.admitted_at) is not None:
            live.waited = max(0.0, since - _queued_at(state, record))
        live.reservations = tuple(
            (each, each.take_over(record.call, since, now)) for each in buckets
        )
        live.budget = state.budgets.of(record.call)
        if live.budget is not None:
            live.budget.adopt(record.call)
    elif record.call.lane is ServiceLane.BATCH:  # nothing has left: its request was to be made
        record.settle(NOT_BATCHED, now)
        record.parked = True
        state.add(record)
        if (budget := state.budgets.of(record.call)) is not None:
            budget.adopt(record.call)
            budget.settle(record.call, NOT_BATCHED)
            state.log.budgets.add(record.call.run_id)
        state.change(record)
    else:
        lost = Outcome(CallState.UNKNOWN)
        if row := tried(record, lost, {}, now):
            state.log.tries.append(row)
        record.settle(lost, now)
        state.change(record)
        state.ask_at = now
