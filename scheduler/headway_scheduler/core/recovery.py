"""Builds the scheduler's state from what is on disk. Law: what was spent stays spent."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from ..errors import UnknownQuota
from ..model.batch import Lesson, Snapshot
from ..model.calls import CallRecord, Outcome
from ..model.quotas import BucketState, Resource
from ..model.runs import Run
from ..model.states import CallState
from .limits.quota import BREAKER, LIMITS
from .state import SIZES, SchedulerState


def restore(
    state: SchedulerState,
    snapshot: Snapshot,
    now: float,
    owned: Callable[[CallRecord], bool],
    *,
    runs: Iterable[Run] = (),
    awaited: Mapping[str, frozenset[str]] | None = None,
) -> None:
    """Go on from the store. ``owned`` tells whether the caller of a call is alive.

    A call in flight without an owner becomes unknown, its reservation spent: the request may have
    been sent. A queued call without an owner is parked at its place until its run resumes. ``runs``
    are those under way; ``awaited`` maps a waiting run to the runs that it waits for.
    """
    for run in runs:
        state.registry.track(run)
        state.budgets.limit(run.id, run.budget_usd)
    for run_id, on in (awaited or {}).items():
        state.registry.wait(run_id, on)
    state.next_seq = snapshot.next_seq
    for change in snapshot.changes:
        with suppress(UnknownQuota):  # it may have left the configuration since
            state.apply(change, now)
    for lesson in snapshot.lessons:
        _learn(state, lesson, now)
    for bucket in snapshot.buckets:
        _fill(state, bucket, now)
    for record in snapshot.calls:
        _place(state, record, now, is_owned=owned(record))


def _learn(state: SchedulerState, lesson: Lesson, now: float) -> None:
    quota = state.lanes.quotas.get(lesson.subject)
    if lesson.kind == SIZES:
        state.registry.sizes.load(lesson.subject, lesson.value)
    elif quota is not None and lesson.kind in (LIMITS, BREAKER):
        quota.load(lesson, now)


def _fill(state: SchedulerState, stored: BucketState, now: float) -> None:
    if stored.resource is Resource.USD:
        state.budgets.load(stored)
        return
    quota = state.lanes.quotas.get(stored.quota)
    if quota is None:
        return
    quota.breaker.paused_until = stored.paused_until
    for bucket in quota.buckets:
        if bucket.limit.resource is stored.resource:
            bucket.restore(stored, now)


def _place(state: SchedulerState, record: CallRecord, now: float, *, is_owned: bool) -> None:
    if record.state is CallState.QUEUED:
        record.parked = not is_owned
        live = state.add(record)
        if is_owned:
            state.enqueue(live, now)
    elif is_owned:
        live = state.add(record)
        buckets = state.lanes.of(record.call.quotas, now).buckets
        since = record.admitted_at
        live.reservations = tuple(
            (each, each.take_over(record.call, since, now)) for each in buckets
        )
        live.budget = state.budgets.of(record.call)
        if live.budget is not None:
            live.budget.adopt(record.call)
    else:
        record.settle(Outcome(CallState.UNKNOWN), now)
        state.change(record)
        state.ask_at = now
