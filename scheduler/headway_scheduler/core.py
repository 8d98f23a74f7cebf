"""Events in, decisions out: the scheduler as a state machine.

Law of this file: no clock, no I/O, no asyncio. Time is an argument; the same events at the same
times give the same decisions. It imports nothing but the standard library and its pure siblings.

Theory of operation. Calls that draw on the same set of quotas stand in one *lane*, ordered by the
policy of ``ordering``. :meth:`Scheduler.admit` looks at the heads of all lanes, best rank first,
and takes a call when all its quotas pass, else nothing; ``lanes`` says what a blocked head keeps
from those behind it. Calls that wait for a time of their own (a retry after a fault) stand aside
until it comes.

What changed since the last :meth:`Scheduler.take_batch` is what the shell must commit before it
acts on a grant. After a failed commit, the scheduler is thrown away and built again from the store.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush

from .budget import Bucket, Hold
from .errors import CallTooLarge, IllegalTransition, InternalError, UnknownQuota
from .lanes import Claims, Lane, QuotaState
from .model import (
    Batch,
    BucketState,
    Call,
    CallRecord,
    Outcome,
    Priority,
    Quota,
    Resource,
    Signals,
    Snapshot,
)
from .ordering import Ordering, Rank, StrictPriority
from .states import IN_FLIGHT, LIVE_CALLS, CallState, check_call
from .views import Blocker, Explanation, Gauge, Statistics


@dataclass(slots=True)
class _Live:
    record: CallRecord
    holds: tuple[tuple[Bucket, Hold], ...] = ()


class Scheduler:
    """Owns the quotas and every call that is not finished."""

    def __init__(
        self,
        quotas: Iterable[Quota],
        now: float,
        *,
        ordering: Callable[[], Ordering] = StrictPriority,
    ) -> None:
        self._quotas = {
            quota.name: QuotaState(
                quota.name, tuple(Bucket(quota.name, limit, now) for limit in quota.limits)
            )
            for quota in quotas
        }
        self._make_ordering = ordering
        self._lanes: dict[tuple[str, ...], Lane] = {}
        self._live: dict[str, _Live] = {}
        self._delayed: list[tuple[float, str]] = []
        self._next_seq = 0
        self._ask_at: float | None = None
        self._new: dict[str, CallRecord] = {}
        self._changed: dict[str, CallRecord] = {}
        self._touched: set[tuple[str, ...]] = set()

    # Events

    def submit(self, call: Call, now: float, *, parked: bool = False) -> None:
        """Queue a call; a ``parked`` one is a question to a person and is never admitted.

        Raises UnknownQuota or CallTooLarge, and changes nothing then; InternalError for an id that
        is already queued or in flight.
        """
        if call.id in self._live:
            raise InternalError(f"call {call.id} was submitted twice")
        self._check(call, self._lane(call))
        record = CallRecord(call, self._next_seq, parked=parked)
        self._next_seq += 1
        self._live[call.id] = _Live(record)
        self._new[call.id] = record
        if not parked:
            self._enqueue(record, now)

    def resubmit(self, record: CallRecord, now: float) -> None:
        """Queue a call without an answer again, at its old place: its run goes on.

        What earlier attempts reserved stays spent. Raises UnknownQuota or CallTooLarge and changes
        nothing then, IllegalTransition for a call that has an answer, InternalError for one that
        is queued or in flight already.
        """
        live = self._live.get(record.call.id)
        if live is None:
            _check_ended(record)
            check_call(record.call.id, record.state, CallState.QUEUED)
            again = replace(record, state=CallState.QUEUED, error=None)
            again.finished_at = again.arrival = None
            live = _Live(again)
        elif not live.record.parked:
            raise InternalError(f"call {record.call.id} was submitted twice")
        self._check(record.call, self._lane(record.call))
        live.record.parked = False
        live.record.not_before = None
        self._live[record.call.id] = live
        self._change(live.record)
        self._enqueue(live.record, now)

    def decide(self, record: CallRecord, outcome: Outcome, now: float) -> None:
        """Take a person's decision on a call that is parked or unknown.

        Queued means that it is parked until its run goes on. Raises IllegalTransition.
        """
        live = self._live.get(record.call.id)
        if live is not None:
            if not live.record.parked:
                raise IllegalTransition(f"call {record.call.id}: it waits for no person")
            if outcome.state is not CallState.QUEUED:
                self.settle(record.call.id, outcome, now)
            return
        _check_ended(record)
        check_call(record.call.id, record.state, outcome.state)
        decided = replace(record, state=outcome.state, answer=outcome.answer)
        decided.arrival, decided.parked = outcome.arrival, outcome.state is CallState.QUEUED
        decided.finished_at = None if decided.parked else now
        if decided.parked:
            self._live[record.call.id] = _Live(decided)
        self._change(decided)

    def sent(self, call_id: str, now: float) -> None:
        """Note that the request of an admitted call has left."""
        live = self._live.get(call_id)
        if live is not None and live.record.state is CallState.ADMITTED:
            live.record.state = CallState.SENT
            live.record.sent_at = now
            self._change(live.record)

    def settle(self, call_id: str, outcome: Outcome, now: float) -> None:
        """End an attempt: give back what was not used, and finish the call or queue it again.

        A call that is not live any more is left as it is: its end was told before.
        Raises IllegalTransition.
        """
        live = self._live.get(call_id)
        if live is None:
            return
        record = live.record
        check_call(call_id, record.state, outcome.state)
        was_queued = record.state is CallState.QUEUED
        if was_queued and outcome.state is CallState.DONE and not record.parked:
            raise IllegalTransition(f"call {call_id}: it was never admitted, and asks no person")
        record.state = outcome.state
        record.losses += outcome.state is CallState.UNKNOWN
        self._return_holds(live, outcome, now)
        self._change(record)
        self._ask_at = now
        record.error = outcome.error
        if outcome.state is CallState.QUEUED:
            record.not_before = outcome.not_before
            self._enqueue(record, now)
            return
        if was_queued and not record.parked:
            self._lane(record.call).order.remove(record)
        record.finished_at = now
        record.usage, record.answer = outcome.usage, outcome.answer
        record.arrival = outcome.arrival
        del self._live[call_id]

    def observe(self, quota: str, signals: Signals, now: float) -> None:
        """Take in what an answer told of a quota. A 429 pauses its quota, not the world.

        Raises UnknownQuota.
        """
        state = self._quota(quota)
        if signals.pause_until is not None:
            state.paused_until = max(state.paused_until or 0.0, signals.pause_until)
            self._touched.add((quota,))
            self._ask_at = now

    # Decisions

    def admit(self, now: float) -> list[CallRecord]:
        """Take every call that may be sent at ``now``, best rank first."""
        self._recall_delayed(now)
        grants: list[CallRecord] = []
        claims = Claims()
        asks: list[float] = []
        heads = [(*head, lane) for lane in self._lanes.values() if (head := lane.order.head())]
        heap = [(rank, index) for index, (rank, _, _) in enumerate(heads)]
        heapify(heap)
        while heap:
            _, index = heappop(heap)
            _, record, lane = heads[index]
            if blocked := lane.blockers(record.call, now, claims):
                asks.extend(lane.claim(record.call, now, claims, blocked))
                continue
            grants.append(self._grant(lane, now))
            if head := lane.order.head():
                heads[index] = (*head, lane)
                heappush(heap, (head[0], index))
        self._ask_at = min(asks, default=None)
        return grants

    def next_event(self, now: float) -> float | None:
        """When :meth:`admit` may have more to give if nothing else happens; None for never."""
        times = [at for at, _ in self._delayed[:1]]
        if self._ask_at is not None:
            times.append(self._ask_at)
        return max(now, min(times)) if times else None

    def take_batch(self, now: float) -> Batch:
        """Hand over what changed since the last time, for one commit."""
        changed = [record for key, record in self._changed.items() if key not in self._new]
        # A call may have outlived a quota in the configuration.
        touched = {name for lane in self._touched for name in lane if name in self._quotas}
        buckets = [state for name in sorted(touched) for state in self._states(name, now)]
        batch = Batch(tuple(self._new.values()), tuple(changed), tuple(buckets))
        self._new, self._changed, self._touched = {}, {}, set()
        return batch

    def restore(self, snapshot: Snapshot, now: float, owned: Callable[[str], bool]) -> None:
        """Go on from the store. ``owned`` says whose callers are alive in this process.

        A call in flight without an owner becomes unknown, its reservation spent. A queued one
        without an owner is parked at its place until its run resumes.
        """
        self._next_seq = snapshot.next_seq
        for state in snapshot.buckets:
            self._restore_bucket(state, now)
        for record in snapshot.calls:
            live = self._live[record.call.id] = _Live(record)
            is_owned = owned(record.call.id)
            if record.state is CallState.QUEUED:
                record.parked = not is_owned
                if is_owned:
                    self._enqueue(record, now)
            elif is_owned:
                buckets = self._lane(record.call).buckets
                live.holds = tuple((b, b.adopt(b.amount(record.call))) for b in buckets)
            else:
                self.settle(record.call.id, Outcome(CallState.UNKNOWN), now)

    # Questions

    def explain(self, call_id: str, now: float) -> Explanation | None:
        """Say what a queued call waits for, its place, and when it should go. O(queue length).

        None for a call that is not live.
        """
        live = self._live.get(call_id)
        if live is None:
            return None
        record, call = live.record, live.record.call
        if record.state is not CallState.QUEUED or record.parked or record.not_before is not None:
            return Explanation(call_id, record.state, record.parked, record.not_before)
        before = sorted(self._before(record), key=lambda pair: pair[0])
        lane = self._lane(call)
        blockers = tuple(
            Blocker(quota.name, None, 0.0, 0.0, at)
            if bucket is None
            else Blocker(
                quota.name,
                bucket.limit.resource,
                bucket.need(bucket.amount(call)),
                bucket.available(now),
                at,
            )
            for quota, bucket, at in lane.obstacles(call, [other.call for _, other in before], now)
        )
        starts = [blocker.at for blocker in blockers]
        known = [at for at in starts if at is not None]
        return Explanation(
            call_id,
            record.state,
            place=len(before) + 1,
            behind=before[0][1].call.id if before else None,
            blockers=blockers,
            starts_at=max([now, *known]) if len(known) == len(starts) else None,
        )

    def queued(self) -> list[CallRecord]:
        """Every queued call, next one first; parked and delayed ones after the rest."""
        waiting = [live.record for live in self._live.values()]
        queued = [record for record in waiting if record.state is CallState.QUEUED]
        return sorted(queued, key=lambda r: (r.parked, r.not_before or 0.0, r.call.priority, r.seq))

    def statistics(self, now: float) -> Statistics:
        """Count what waits and what is in flight, and read every gauge."""
        waiting = dict.fromkeys(Priority, 0)
        in_flight = parked = 0
        for live in self._live.values():
            if live.record.state in IN_FLIGHT:
                in_flight += 1
            elif live.record.parked:
                parked += 1
            else:
                waiting[live.record.call.priority] += 1
        gauges = tuple(
            Gauge(
                name,
                bucket.limit.resource,
                bucket.limit.capacity,
                bucket.available(now),
                bucket.limit.per_second,
                quota.paused(now),
            )
            for name, quota in self._quotas.items()
            for bucket in quota.buckets
        )
        return Statistics(
            tuple(waiting[priority] for priority in Priority), in_flight, parked, gauges
        )

    # Inside

    def _check(self, call: Call, lane: Lane) -> None:
        for bucket in lane.buckets:
            amount = bucket.amount(call)
            if amount > bucket.limit.largest:
                raise CallTooLarge(
                    f"call {call.id} of {call.path!r} needs {amount:,.0f} {bucket.limit.resource}, "
                    f"but quota {bucket.quota!r} never allows more than "
                    f"{bucket.limit.largest:,.0f}: shorten the prompt or raise the limit"
                )

    def _quota(self, name: str) -> QuotaState:
        try:
            return self._quotas[name]
        except KeyError:
            known = ", ".join(sorted(self._quotas)) or "none"
            raise UnknownQuota(f"no quota {name!r}; configured: {known}") from None

    def _enqueue(self, record: CallRecord, now: float) -> None:
        if record.not_before is not None and record.not_before > now:
            heappush(self._delayed, (record.not_before, record.call.id))
            return
        record.not_before = None
        self._lane(record.call).order.push(record)
        self._ask_at = now

    def _lane(self, call: Call) -> Lane:
        lane = self._lanes.get(call.quotas)
        if lane is None:
            quotas = tuple(self._quota(name) for name in call.quotas)
            lane = self._lanes[call.quotas] = Lane(quotas, self._make_ordering())
        return lane

    def _recall_delayed(self, now: float) -> None:
        while self._delayed and self._delayed[0][0] <= now:
            not_before, call_id = heappop(self._delayed)
            live = self._live.get(call_id)
            # A call that ended or was delayed anew leaves its old entry behind.
            if live is not None and live.record.not_before == not_before:
                self._enqueue(live.record, now)

    def _grant(self, lane: Lane, now: float) -> CallRecord:
        record = lane.order.pop()
        call = record.call
        check_call(call.id, record.state, CallState.ADMITTED)
        record.state = CallState.ADMITTED
        record.admitted_at = now
        record.attempts += 1
        holds = [(bucket, bucket.reserve(bucket.amount(call), now)) for bucket in lane.buckets]
        self._live[call.id].holds = tuple(holds)
        self._change(record)
        return record

    def _return_holds(self, live: _Live, outcome: Outcome, now: float) -> None:
        for bucket, hold in live.holds:
            used = hold.amount if outcome.sent else 0.0
            if outcome.used_tokens is not None and bucket.limit.resource is Resource.TOKENS:
                used = outcome.used_tokens
            bucket.settle(hold, used, now)
        live.holds = ()

    def _change(self, record: CallRecord) -> None:
        self._changed[record.call.id] = record
        self._touched.add(record.call.quotas)

    def _states(self, name: str, now: float) -> Iterator[BucketState]:
        quota = self._quotas[name]
        for bucket in quota.buckets:
            yield bucket.state(now, quota.paused_until)

    def _restore_bucket(self, state: BucketState, now: float) -> None:
        quota = self._quotas.get(state.quota)
        if quota is None:
            return
        quota.paused_until = state.paused_until
        for bucket in quota.buckets:
            if bucket.limit.resource is state.resource:
                bucket.restore(state, now)

    def _before(self, record: CallRecord) -> Iterator[tuple[Rank, CallRecord]]:
        """Calls of a better rank that draw on any of the same quotas."""
        rank, quotas = self._lane(record.call).order.rank(record), set(record.call.quotas)
        for names, lane in self._lanes.items():
            if quotas.intersection(names):
                ranked = ((lane.order.rank(other), other) for other in lane.order)
                yield from (pair for pair in ranked if pair[0] < rank)


def _check_ended(record: CallRecord) -> None:
    """Refuse a row of a call that is not live here any more: it is older than the call's end."""
    if record.state in LIVE_CALLS:
        raise IllegalTransition(
            f"call {record.call.id}: it was {record.state}, and has ended since"
        )
