"""Answers questions about the scheduler: why a call waits, what is queued, how full the limits are.

Law: it reads the state. It changes only the time up to which buckets are refilled and classes have
earned their credit, which the next admission would do as well.
"""

from collections.abc import Iterable
from typing import assert_never

from ..errors import InternalError
from ..model.calls import Call, CallRecord
from ..model.quotas import Limit, Resource, Window
from ..model.states import CallState
from .admission.queue import Pool, Rank, Waiter
from .limits.bucket import Bucket
from .limits.known import KnownLimits
from .state import LiveCall, SchedulerState
from .tally import census
from .views import Blocker, Explanation, Gauge, ProviderHealth, Statistics


def explain(state: SchedulerState, call_id: str, now: float) -> Explanation | None:
    """Say what a queued call waits for, its place, and when it should go. O(queue length).

    None for a call that is not live.
    """
    return explain_each(state, [call_id], now).get(call_id)


def explain_each(
    state: SchedulerState, call_ids: Iterable[str], now: float
) -> dict[str, Explanation]:
    """Explain several calls, those that are live. The queue is put into order once for all."""
    found: dict[str, Explanation] = {}
    order: dict[Pool, list[tuple[Rank, Waiter]]] = {}
    for call_id in call_ids:
        if (live := state.live.get(call_id)) is None:
            continue
        if live.waiter is not None:
            found[call_id] = _explained(state, live, live.waiter, now, order)
            continue
        record = live.record
        aside = (record.state, record.parked, record.not_before)
        short, hold = _short_of_dollars(state, live), live.operator_hold
        found[call_id] = Explanation(call_id, *aside, blockers=short, operator_hold=hold)
    return found


def explain_first(
    state: SchedulerState, now: float, most: int
) -> dict[tuple[str, ...], Explanation]:
    """Explain the first call of each line, by the line's quotas: those behind it wait for it.

    Of ``most`` lines at most. Parked calls and questions stand in none.
    """
    first: dict[tuple[str, ...], str] = {}
    for record in queued(state):
        if not record.parked and len(first) < most:
            first.setdefault(record.call.quotas, record.call.id)
    found = explain_each(state, first.values(), now)
    return {line: found[call_id] for line, call_id in first.items() if call_id in found}


def _explained(
    state: SchedulerState,
    live: LiveCall,
    waiter: Waiter,
    now: float,
    order: dict[Pool, list[tuple[Rank, Waiter]]],
) -> Explanation:
    """Explain a call that stands in a line; ``order`` keeps the order of each pool."""
    call = live.record.call
    lane = state.lanes.of(call.quotas, now)
    pool = lane.line.pool
    if pool not in order:
        pool.advance(now)
        order[pool] = pool.ranked(state.lanes.waiting(pool))
    before, rank = _before(waiter, order[pool])
    headroom = state.policy.headroom[rank.place]
    blockers = _short_of_dollars(state, live) + tuple(
        Blocker(quota.name, None, 0.0, 0.0, at, stopped=quota.breaker.stopped)
        if bucket is None
        else _shortage(bucket, call, headroom, now, at)
        for quota, bucket, at in lane.obstacles(call, before, now, headroom)
    )
    starts = [blocker.at for blocker in blockers]
    known = [at for at in starts if at is not None]
    return Explanation(
        call.id,
        live.record.state,
        place=len(before) + 1,
        behind=before[0].id if before else None,
        blockers=blockers,
        starts_at=max([now, *known]) if len(known) == len(starts) else None,
        effective_priority=waiter.effective_priority,
    )


def _short_of_dollars(state: SchedulerState, live: LiveCall) -> tuple[Blocker, ...]:
    """Say that a queued call waits for its run's budget, if it does: until a call of it ends."""
    call = live.record.call
    budget = state.budgets.of(call)
    if live.record.state is not CallState.QUEUED or budget is None or budget.passes(call):
        return ()
    return (Blocker(budget.quota, Resource.USD, call.usd, budget.free_usd(), None),)


def queued(state: SchedulerState) -> list[CallRecord]:
    """Every queued call, next one first; then held, delayed and parked ones."""
    ranked = (pair for pool in state.lanes.pools for pair in pool.ranked(state.lanes.waiting(pool)))
    first = [waiter.record for _, waiter in sorted(ranked, key=lambda pair: pair[0])]
    records = (live.record for live in state.live.values() if live.waiter is None)
    aside = [record for record in records if record.state is CallState.QUEUED]
    aside.sort(key=lambda r: (r.parked, r.not_before or 0.0, r.call.priority, r.seq))
    return first + aside


def statistics(state: SchedulerState, now: float) -> Statistics:
    """Count what waits and what is in flight, and read every gauge."""
    found = census(live.record for live in state.live.values())
    gauges = tuple(
        Gauge(
            name,
            bucket.limit.resource,
            bucket.limit.capacity,
            bucket.available(now),
            bucket.limit.per_second,
            quota.breaker.paused(now),
            quota.breaker.stopped,
            dict(quota.odd),
            quota.learned.known.source(bucket.limit.resource),
            *_counted(bucket.limit, quota.learned.known),
            quota.learned.known.is_contradicted(bucket.limit.resource),
        )
        for name, quota in state.lanes.quotas.items()
        for bucket in quota.buckets
    )
    in_flight = sum(found.in_flight)
    return Statistics(tuple(found.waiting), in_flight, found.parked, gauges, found.batched)


def _counted(limit: Limit, known: KnownLimits) -> tuple[str, float | None]:
    """Say how a limit is counted, and the length of its window.

    A fixed window is one also while no end of it is known, and it is mirrored as a sliding one.
    """
    if not limit.per_second:
        return "", None
    stated = (each for each in known.stated.limits if each.resource is limit.resource)
    window = next(map(known.window, stated), None)
    match window:
        case None | Window.BUCKET:
            return "paced" if limit.learns_burst else "bucket", None
        case Window.SLIDING | Window.FIXED | Window.MINUTE:
            return str(window), limit.window_seconds
        case _:
            assert_never(window)


def provider_health(state: SchedulerState) -> ProviderHealth:
    """Say which quotas' providers do not answer as they should."""
    breakers = {name: quota.breaker for name, quota in state.lanes.quotas.items()}
    return ProviderHealth(
        probing=tuple(name for name, breaker in breakers.items() if breaker.is_open),
        unanswered=tuple(name for name, breaker in breakers.items() if breaker.is_unanswered),
        one_fails=tuple(name for name, breaker in breakers.items() if breaker.fails_one_alone),
        locked_out=tuple(name for name, breaker in breakers.items() if breaker.stopped is not None),
    )


def _before(waiter: Waiter, ranked: list[tuple[Rank, Waiter]]) -> tuple[list[Call], Rank]:
    """Return the calls that go first and draw on any of the same quotas, and this call's rank."""
    quotas, before = set(waiter.record.call.quotas), list[Call]()
    for rank, other in ranked:
        if other is waiter:
            return before, rank
        if quotas.intersection(other.record.call.quotas):
            before.append(other.record.call)
    raise InternalError(f"call {waiter.record.call.id} stands in no line")


def _shortage(bucket: Bucket, call: Call, headroom: float, now: float, at: float | None) -> Blocker:
    need = bucket.need(bucket.amount(call))
    kept = bucket.kept(bucket.amount(call), headroom)
    return Blocker(bucket.quota, bucket.limit.resource, need, bucket.available(now), at, kept)
