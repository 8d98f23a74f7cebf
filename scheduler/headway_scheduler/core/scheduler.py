"""Messages and times in, decisions out: the scheduler as a state machine.

Law: no clock, no I/O, no asyncio. The same messages at the same times give the same decisions.

Theory of operation. Calls that draw on the same set of quotas stand in one *lane*, ordered by the
policy of ``ordering``. :meth:`Scheduler.admit` looks at the heads of all lanes, best rank first,
and takes a call when all its quotas pass, else nothing; ``lanes`` says what a blocked head keeps
from those behind it. Calls that wait for a time of their own (a retry after a fault), or for an
operator (``gates``), stand aside until it comes. ``book`` knows whose call it is and who waits for
it; when that changes, the call is taken out of its line and put in again.

What changed since the last :meth:`Scheduler.take_batch` is what the shell must commit before it
acts on a grant. After a failed commit, the scheduler is thrown away and built again from the store.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from typing import assert_never

from ..errors import IllegalTransition, InternalError, UnknownQuota
from ..model.batch import Batch, Lesson, Snapshot
from ..model.calls import Call, CallRecord, Outcome, Priority, Route
from ..model.changes import LIMITS, RESUME, WEIGHT, Change, gate_of, quota_of, weight_of
from ..model.quotas import BucketState, Observation, ProviderEvent, Quota, Resource
from ..model.runs import Run
from ..model.states import IN_FLIGHT, LIVE_CALLS, UNDER_WAY, CallState, check_call
from ..protocol.messages import (
    Amend,
    ApplyChange,
    AwaitRuns,
    Decide,
    DropWorker,
    ForgetRuns,
    Learn,
    MarkSent,
    Message,
    Observe,
    ProbeStopped,
    Resubmit,
    SaveRun,
    SetCallPriority,
    Settle,
    Submit,
)
from .admission.holds import OperatorHolds
from .admission.lanes import Claims, Lane, Lanes
from .admission.preemption import URGENT, Preemption
from .admission.queue import Rank, Waiter
from .admission.routing import routed
from .change_log import ChangeLog
from .limits.bucket import Bucket, Reservation
from .limits.quota import BREAKER, Attempt, QuotaState
from .limits.quota import LIMITS as LEARNED
from .policy import Policy
from .runs.registry import RunRegistry
from .views import Blocker, Explanation, Gauge, Statistics

_FAULTS = (ProviderEvent.FAILED, ProviderEvent.OVERLOADED, ProviderEvent.LOCKED_OUT)
SIZES = "run size"
"""The kind of lessons about how much the runs of a workflow take."""


@dataclass(slots=True)
class _Live:
    """A call that has not ended. ``waiter`` while it stands in a line; ``due`` once it has.

    ``held``: what an operator holds it by, while one does. ``routes``: the ways that it may go.
    """

    record: CallRecord
    holds: tuple[tuple[Bucket, Reservation], ...] = ()
    waiter: Waiter | None = None
    due: float | None = None
    held: str | None = None
    routes: tuple[Route, ...] = ()


class Scheduler:
    """Owns the quotas and every call that is not finished."""

    def __init__(
        self,
        quotas: Iterable[Quota],
        now: float,
        policy: Policy | None = None,
    ) -> None:
        self._policy = policy or Policy()
        self._lanes = Lanes(quotas, self._policy, now)
        self._registry = RunRegistry()
        self._operator_holds = OperatorHolds()
        self._preemption = Preemption()
        self._live: dict[str, _Live] = {}
        self._delayed: list[tuple[float, str]] = []
        self._next_seq = 0
        self._ask_at: float | None = None
        self._log = ChangeLog()

    # What happened

    def handle(  # noqa: C901  # one case for each type of message
        self, message: Message, now: float, worker: str | None = None
    ) -> None:
        """Take in what happened, as told by ``worker``; None: by this process.

        It changes state and notes what the next commit must write; or it raises, and then it has
        changed nothing. Raises UnknownQuota, CallTooLarge or CallerError for a mistake of whoever
        tells; IllegalTransition for a step that a call cannot take; InternalError for a call that
        is queued or in flight already.
        """
        match message:
            case Submit():
                self._submit(message, now, worker)
            case MarkSent():
                self._mark_sent(message)
            case Observe():
                self._observe(message.call_id, self._checked(message.signals), now)
            case Settle():
                self._settle(message, now)
            case SaveRun():
                self._track(message.run, now)
                self._log.runs.append(message.run)
            case Learn():
                for lesson in message.lessons:
                    self._log.learn(lesson)
            case Resubmit():
                self._resubmit(message, now, worker)
            case Decide():
                self._decide(message.record, message.outcome, now)
            case SetCallPriority():
                self._set_priority(message.call_id, message.priority, now)
            case AwaitRuns():
                self._await(message.run_id, message.on, now)
            case ApplyChange():
                self._apply(message.change, now)
                self._log.changes.append(message.change)
            case DropWorker():
                self._drop_worker(message.worker_id, now)
            case ProbeStopped():
                self._probe_stopped(now)
            case Amend():
                self._log.amended += message.records
            case ForgetRuns():
                self._log.forget += message.run_ids
            case _:
                assert_never(message)

    def _submit(self, message: Submit, now: float, worker: str | None) -> None:
        call = message.call
        if call.id in self._live:
            raise InternalError(f"call {call.id} was submitted twice")
        call = routed(call, message.routes, self._lanes, self._registry, now)
        self._lane(call, now).check(call)
        record = CallRecord(call, self._next_seq, worker=worker, parked=message.parked)
        self._next_seq += 1
        live = self._add(record)
        live.routes = message.routes
        log = self._log
        log.new[call.id] = record
        log.chunks += message.prompt.pieces
        log.nodes += message.prompt.links
        if not message.parked:
            self._enqueue(live, now)

    def _resubmit(self, message: Resubmit, now: float, worker: str | None) -> None:
        """What earlier attempts reserved stays spent."""
        record = message.record
        live = self._live.get(record.call.id)
        if live is None:
            _check_ended(record)
            check_call(record.call.id, record.state, CallState.QUEUED)
            again = replace(record, state=CallState.QUEUED, error=None)
            again.finished_at = again.arrival = None
            live = _Live(again)  # not added yet: it may be refused below
        elif not live.record.parked:
            raise InternalError(f"call {record.call.id} was submitted twice")
        self._lane(record.call, now).check(record.call)
        for route in message.routes:
            self._lanes.of(route.quotas, now)
        live.record.parked, live.record.worker = False, worker
        live.record.not_before = None
        live = self._live.get(record.call.id) or self._add(live.record)
        live.routes = message.routes
        self._change(live.record)
        self._enqueue(live, now)

    def _decide(self, record: CallRecord, outcome: Outcome, now: float) -> None:
        live = self._live.get(record.call.id)
        if live is not None:
            if not live.record.parked:
                raise IllegalTransition(f"call {record.call.id}: it waits for no person")
            if outcome.state is not CallState.QUEUED:
                _check_end(live.record, outcome)
                self._end_attempt(live, outcome, now)
            return
        _check_ended(record)
        check_call(record.call.id, record.state, outcome.state)
        decided = replace(record, state=outcome.state, answer=outcome.answer)
        decided.arrival, decided.parked = outcome.arrival, outcome.state is CallState.QUEUED
        decided.finished_at = None if decided.parked else now
        if decided.parked:
            self._add(decided)
        self._change(decided)

    def _mark_sent(self, message: MarkSent) -> None:
        live = self._live.get(message.call_id)
        if live is not None and live.record.state is CallState.ADMITTED:
            live.record.state = CallState.SENT
            live.record.sent_at = message.at
            self._change(live.record)

    def _settle(self, message: Settle, now: float) -> None:
        """End an attempt. A call that is not live is left as it is: its end was told before."""
        signals = self._checked(message.signals)
        live = self._live.get(message.call_id)
        if live is not None:
            _check_end(live.record, message.outcome)
        if signals:
            self._observe(message.call_id, signals, now)
        if live is not None:
            self._end_attempt(live, message.outcome, now)

    def _end_attempt(self, live: _Live, outcome: Outcome, now: float) -> None:
        """Give back what was not used, and finish the call or queue it again."""
        record = live.record
        record.state = outcome.state
        record.lost_attempts += outcome.state is CallState.UNKNOWN
        self._note_pace(record, outcome, now)
        self._return_holds(live, outcome, now)
        self._change(record)
        self._ask_at = now
        record.error = outcome.error
        if outcome.state is CallState.QUEUED:
            record.not_before = self._not_before(record.call, outcome)
            self._enqueue(live, now)
            return
        self._withdraw(live, now)
        record.finished_at = now
        record.usage, record.answer = outcome.usage, outcome.answer
        record.arrival = outcome.arrival
        del self._live[record.call.id]
        self._preemption.ended(record.call.id)
        self._registry.remove(record.call)

    def _checked(self, signals: Mapping[str, Observation]) -> list[tuple[QuotaState, Observation]]:
        """Each quota with what was told of it. Raises UnknownQuota."""
        return [(self._lanes.quota(name), told) for name, told in signals.items()]

    def _observe(
        self, call_id: str, signals: list[tuple[QuotaState, Observation]], now: float
    ) -> None:
        """Take in what an attempt told. A 429 pauses its quota, not the world."""
        live = self._live.get(call_id)
        holds = {} if live is None else dict(live.holds)
        admitted_at = now if live is None else live.record.admitted_at or now
        for state, told in signals:
            if told == Observation():
                continue
            state.observe(
                told,
                Attempt(call_id, admitted_at, holds),
                now,
                is_waited_for=self._lanes.is_waited_for(state),
            )
            self._log.touched.add((state.name,))
            self._ask_at = now
            if told.event in _FAULTS and state.breaker.is_open:
                self._send_elsewhere(state.name, now)

    def _probe_stopped(self, now: float) -> None:
        for quota in self._lanes.quotas.values():
            if quota.breaker.stopped is not None:
                quota.try_again()
                self._log.touched.add((quota.name,))
                self._ask_at = now

    def _track(self, run: Run, now: float) -> None:
        """Take in a run's class, team and deadline; its size, once it has completed.

        Its calls that asked for its class follow it into a new one.
        """
        if run.state not in UNDER_WAY:
            lifted = self._registry.dependents(run.id)
            if (workflow := self._registry.end(run)) is not None:
                size = self._registry.sizes.dump(workflow)
                self._log.learn(Lesson(SIZES, workflow, size))
            self._place_runs_again(lifted, now)
            return
        before = self._registry.track(run)
        for call_id in self._registry.calls(run.id):
            record = self._live[call_id].record
            if before is not None and record.call.priority is before.priority is not run.priority:
                self._reclass(record, run.priority)
        self._place_runs_again(self._registry.dependents(run.id), now)

    def _await(self, run_id: str, on: frozenset[str], now: float) -> None:
        self._place_runs_again(self._registry.wait(run_id, on), now)

    def _set_priority(self, call_id: str, priority: Priority, now: float) -> None:
        live = self._live.get(call_id)
        if live is None or live.record.state is not CallState.QUEUED:
            raise IllegalTransition(f"call {call_id} is not queued: its class is settled")
        self._reclass(live.record, priority)
        self._place_again([live], now)

    def _apply(self, change: Change, now: float) -> None:
        """Change limits, weights or holds while everything runs."""
        if change.kind == LIMITS:
            self._lanes.set_limits(change.target, quota_of(change), now)
            self._adopt_new_slots(change.target)
            self._log.touched.add((change.target,))
        elif change.kind == RESUME:
            self._lanes.quota(change.target).try_again()
            self._log.touched.add((change.target,))
        elif change.kind == WEIGHT:
            self._lanes.set_weight(change.target, weight_of(change))
        else:
            self._operator_holds.set(change.target, *gate_of(change))
            self._place_again(self._live.values(), now)
        self._ask_at = now

    def _drop_worker(self, worker: str, now: float) -> None:
        """Treat a dead worker's calls as ``restore`` does those without an owner."""
        for live in list(self._live.values()):
            if live.record.worker != worker:
                continue
            if live.record.state is CallState.QUEUED:
                self._withdraw(live, now)
                live.record.parked = True
            else:
                self._end_attempt(live, Outcome(CallState.UNKNOWN), now)

    # Questions about providers

    def is_stopped(self, quota: str) -> bool:
        """Whether the account is locked out. Raises UnknownQuota."""
        return self._lanes.quota(quota).breaker.stopped is not None

    def is_left_alone(self, quota: str) -> bool:
        """Whether nobody got an answer since the provider's last fault. Raises UnknownQuota."""
        return self._lanes.quota(quota).breaker.is_left_alone

    def left_alone(self) -> tuple[str, ...]:
        """Quotas of which :meth:`is_left_alone` holds."""
        quotas = self._lanes.quotas.values()
        return tuple(quota.name for quota in quotas if quota.breaker.is_left_alone)

    def stopped(self) -> tuple[str, ...]:
        """Quotas of which :meth:`is_stopped` holds."""
        quotas = self._lanes.quotas.values()
        return tuple(quota.name for quota in quotas if quota.breaker.stopped is not None)

    def is_probing(self, quota: str) -> bool:
        """Whether calls go only to try. Raises UnknownQuota."""
        return self._lanes.quota(quota).breaker.is_open

    # Decisions

    def admit(self, now: float) -> list[CallRecord]:
        """Take every call that may be sent at ``now``, best rank first."""
        self._recall_delayed(now)
        for pool in self._lanes.pools():
            pool.advance(now)
        grants: list[CallRecord] = []
        claims = Claims()
        asks: list[float] = []
        lanes = [lane for lane in self._lanes if lane.line]
        heads = [lane.line.head() for lane in lanes]
        heap = [(head[0], index) for index, head in enumerate(heads) if head is not None]
        heapify(heap)
        while heap:
            rank, index = heappop(heap)
            lane, head = lanes[index], heads[index]
            if len(lanes) > 1:  # a call of another lane of the pool may have gone meanwhile
                head = lane.line.head()
            assert head is not None
            if head[0] != rank:
                heappush(heap, (head[0], index))
                continue
            _, waiter = head
            headroom = self._policy.headroom[int(rank[0])]
            call = waiter.record.call
            if blocked := lane.blockers(call, now, claims, headroom):
                self._make_room(waiter, blocked, claims, now)
                asks.extend(lane.claim(call, now, claims, headroom, blocked))
                continue
            grants.append(self._grant(lane, waiter, rank, now))
            heads[index] = head = lane.line.head()
            if head is not None:
                heappush(heap, (head[0], index))
        self._ask_at = min(asks, default=None)
        return grants

    def take_preempted(self) -> list[CallRecord]:
        """Hand over calls in flight that are to be cancelled and queued again, for urgent ones."""
        return [live.record for key in self._preemption.take() if (live := self._live.get(key))]

    @property
    def next_seq(self) -> int:
        """The arrival number of the next call."""
        return self._next_seq

    def next_event(self, now: float) -> float | None:
        """When :meth:`admit` may have more to give if nothing else happens; None for never."""
        times = [at for at, _ in self._delayed[:1]]
        if self._ask_at is not None:
            times.append(self._ask_at)
        return max(now, min(times)) if times else None

    def take_batch(self, now: float) -> Batch:
        """Hand over what changed since the last time, for one commit."""
        log, self._log = self._log, ChangeLog()
        return log.batch(self._lanes, now)

    def restore(
        self,
        snapshot: Snapshot,
        now: float,
        owned: Callable[[CallRecord], bool],
        *,
        runs: Iterable[Run] = (),
        awaited: Mapping[str, frozenset[str]] | None = None,
    ) -> None:
        """Go on from the store. ``owned`` says whose callers are alive.

        A call in flight without an owner becomes unknown, its reservation spent. A queued one
        without an owner is parked at its place until its run resumes. ``runs`` are those that are
        under way; ``awaited`` says which run waits for which others.
        """
        for run in runs:
            self._track(run, now)
        for run_id, on in (awaited or {}).items():
            self._await(run_id, on, now)
        self._next_seq = snapshot.next_seq
        for change in snapshot.changes:
            with suppress(UnknownQuota):  # it may have left the configuration since
                self._apply(change, now)
        for lesson in snapshot.lessons:
            if lesson.kind == SIZES:
                self._registry.sizes.load(lesson.subject, lesson.value)
            elif lesson.subject in self._lanes.quotas and lesson.kind in (LEARNED, BREAKER):
                self._lanes.quotas[lesson.subject].load(lesson, now)
        for state in snapshot.buckets:
            self._restore_bucket(state, now)
        for record in snapshot.calls:
            self._restore_call(record, now, is_owned=owned(record))

    # Questions

    def explain(self, call_id: str, now: float) -> Explanation | None:
        """Say what a queued call waits for, its place, and when it should go. O(queue length).

        None for a call that is not live.
        """
        live = self._live.get(call_id)
        if live is None:
            return None
        record, call, waiter = live.record, live.record.call, live.waiter
        if waiter is None:
            aside = (record.state, record.parked, record.not_before)
            return Explanation(call_id, *aside, held=live.held)
        lane = self._lane(call, now)
        pool = lane.line.pool
        pool.advance(now)
        before, rank = self._before(waiter, pool.ranked(self._lanes.waiting(pool)))
        headroom = self._policy.headroom[int(rank[0])]
        blockers = tuple(
            Blocker(quota.name, None, 0.0, 0.0, at, stopped=quota.breaker.stopped)
            if bucket is None
            else _shortage(quota.name, bucket, call, headroom, now, at)
            for quota, bucket, at in lane.obstacles(call, before, now, headroom)
        )
        starts = [blocker.at for blocker in blockers]
        known = [at for at in starts if at is not None]
        return Explanation(
            call_id,
            record.state,
            place=len(before) + 1,
            behind=before[0].id if before else None,
            blockers=blockers,
            starts_at=max([now, *known]) if len(known) == len(starts) else None,
            level=waiter.effective_priority,
        )

    def queued(self) -> list[CallRecord]:
        """Every queued call, next one first; then held, delayed and parked ones."""
        pools = self._lanes.pools()
        ranked = (pair for pool in pools for pair in pool.ranked(self._lanes.waiting(pool)))
        first = [waiter.record for _, waiter in sorted(ranked, key=lambda pair: pair[0])]
        records = (live.record for live in self._live.values() if live.waiter is None)
        aside = [record for record in records if record.state is CallState.QUEUED]
        aside.sort(key=lambda r: (r.parked, r.not_before or 0.0, r.call.priority, r.seq))
        return first + aside

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
                quota.breaker.paused(now),
                quota.breaker.stopped,
            )
            for name, quota in self._lanes.quotas.items()
            for bucket in quota.buckets
        )
        return Statistics(
            tuple(waiting[priority] for priority in Priority), in_flight, parked, gauges
        )

    # Inside

    def _add(self, record: CallRecord) -> _Live:
        live = self._live[record.call.id] = _Live(record)
        self._registry.add(record.call)
        return live

    def _enqueue(self, live: _Live, now: float) -> None:
        """Let a call stand where it belongs now: aside until its time, held, or in its line."""
        record = live.record
        call = record.call
        if record.not_before is not None and record.not_before > now:
            heappush(self._delayed, (record.not_before, call.id))
            return
        record.not_before = None
        if live.routes:
            record.call = call = routed(call, live.routes, self._lanes, self._registry, now)
            self._change(record)
        level = self._registry.effective_priority(call)
        live.held = self._operator_holds.holder(call, record.seq, level)
        if live.held is not None:
            return
        if live.due is None:  # a call that comes back has its old place
            live.due = self._registry.due(call, self._policy)
        lane, team = self._lane(call, now), self._registry.team(call)
        live.waiter = Waiter(record, level, team, live.due, lane.cost(call))
        lane.line.push(live.waiter, now)
        self._ask_at = now

    def _send_elsewhere(self, quota: str, now: float) -> None:
        """Let calls that wait for a provider that stopped answering take another of their ways."""
        for live in list(self._live.values()):
            if live.routes and live.waiter is not None and quota in live.record.call.quotas:
                self._withdraw(live, now)
                self._enqueue(live, now)

    def _make_room(
        self, waiter: Waiter, blocked: list[Bucket | QuotaState], claims: Claims, now: float
    ) -> None:
        """Have a young background call give its slot to an urgent one that lacks only that."""
        if waiter.effective_priority not in URGENT or len(blocked) != 1:
            return
        (bucket,) = blocked
        if not isinstance(bucket, Bucket) or bucket in claims.held:
            return
        is_slot = bucket.limit.resource is Resource.CONCURRENCY
        if is_slot and self._lanes.quota(bucket.quota).is_local:
            flying = (key for key, live in self._live.items() if live.record.state in IN_FLIGHT)
            self._preemption.make_room(bucket.quota, flying, now)

    def _not_before(self, call: Call, outcome: Outcome) -> float | None:
        """When a call goes again. Where the quota itself pauses, the order says who goes then."""
        quotas = map(self._lanes.quota, call.quotas)
        opened = [quota.breaker for quota in quotas if quota.breaker.is_open]
        if not opened:
            return outcome.not_before
        return max(breaker.not_before(call.id) or 0.0 for breaker in opened) or None

    def _adopt_new_slots(self, quota: str) -> None:
        """Calls in flight hold slots of a limit that was not there when they were admitted."""
        for live in self._live.values():
            if live.record.state in IN_FLIGHT and quota in live.record.call.quotas:
                held = {bucket for bucket, _ in live.holds}
                new = [b for b in self._lanes.quota(quota).buckets if b not in held]
                amounts = [(bucket, bucket.amount(live.record.call)) for bucket in new]
                live.holds += tuple((bucket, bucket.adopt(amount)) for bucket, amount in amounts)

    def _withdraw(self, live: _Live, now: float) -> None:
        """Take a call out of its line, if it stands in one."""
        live.held = None
        if live.waiter is not None:
            self._lane(live.record.call, now).line.remove(live.waiter)
            live.waiter = None
            self._ask_at = now

    def _place_runs_again(self, run_ids: Iterable[str], now: float) -> None:
        calls = (call_id for run_id in run_ids for call_id in self._registry.calls(run_id))
        self._place_again((self._live[call_id] for call_id in calls), now)

    def _place_again(self, calls: Iterable[_Live], now: float) -> None:
        """Let those that wait stand where they belong now, at their old time, oldest first.

        Who stands there already stays: to take a class's only call out would end its credit.
        """
        for live in sorted(calls, key=lambda each: each.record.seq):
            if (live.waiter is not None or live.held is not None) and not self._is_placed(live):
                self._withdraw(live, now)
                self._enqueue(live, now)

    def _is_placed(self, live: _Live) -> bool:
        call, waiter = live.record.call, live.waiter
        level = self._registry.effective_priority(call)
        held = self._operator_holds.holder(call, live.record.seq, level)
        if waiter is None or held is not None:
            return waiter is None and live.held == held
        return (waiter.effective_priority, waiter.team) == (level, self._registry.team(call))

    def _reclass(self, record: CallRecord, priority: Priority) -> None:
        record.call = replace(record.call, priority=priority)
        self._change(record)

    def _lane(self, call: Call, now: float) -> Lane:
        return self._lanes.of(call.quotas, now)

    def _recall_delayed(self, now: float) -> None:
        while self._delayed and self._delayed[0][0] <= now:
            not_before, call_id = heappop(self._delayed)
            live = self._live.get(call_id)
            # A call that ended or was delayed anew leaves its old entry behind.
            is_parked = live is None or live.record.parked
            if live is not None and not is_parked and live.record.not_before == not_before:
                self._enqueue(live, now)

    def _grant(self, lane: Lane, waiter: Waiter, rank: Rank, now: float) -> CallRecord:
        lane.line.serve(waiter, rank)
        record = waiter.record
        call = record.call
        check_call(call.id, record.state, CallState.ADMITTED)
        record.state = CallState.ADMITTED
        record.admitted_at = now
        record.attempts += 1
        self._registry.charge(call, waiter.cost)
        holds = [(bucket, bucket.reserve(bucket.amount(call), now)) for bucket in lane.buckets]
        for quota in lane.quotas:
            quota.breaker.admitted(call.id)
        local = (quota.name for quota in lane.quotas if quota.is_local)
        self._preemption.admitted(call.id, waiter.effective_priority, local, now)
        live = self._live[call.id]
        live.holds, live.waiter = tuple(holds), None
        self._change(record)
        return record

    def _note_pace(self, record: CallRecord, outcome: Outcome, now: float) -> None:
        """Whoever runs the server sees it in nothing else when that is not well."""
        if outcome.usage is not None and record.sent_at is not None and record.call.quotas:
            first = self._lanes.quotas.get(record.call.quotas[0])
            if first is not None and first.is_local:
                first.record_write_speed(now - record.sent_at, outcome.usage.output_tokens, now)

    def _return_holds(self, live: _Live, outcome: Outcome, now: float) -> None:
        for name in live.record.call.quotas:
            if (quota := self._lanes.quotas.get(name)) is not None:
                quota.breaker.ended(live.record.call.id)
        for bucket, hold in live.holds:
            used = bucket.used(outcome, hold)
            bucket.settle(hold, used, now, refused=outcome.refused)
        live.holds = ()

    def _change(self, record: CallRecord) -> None:
        self._log.changed[record.call.id] = record
        self._log.touched.add(record.call.quotas)

    def _restore_call(self, record: CallRecord, now: float, *, is_owned: bool) -> None:
        live = self._add(record)
        if record.state is CallState.QUEUED:
            record.parked = not is_owned
            if is_owned:
                self._enqueue(live, now)
        elif is_owned:
            buckets = self._lane(record.call, now).buckets
            live.holds = tuple((b, b.adopt(b.amount(record.call))) for b in buckets)
        else:
            self._end_attempt(live, Outcome(CallState.UNKNOWN), now)

    def _restore_bucket(self, state: BucketState, now: float) -> None:
        quota = self._lanes.quotas.get(state.quota)
        if quota is None:
            return
        quota.breaker.paused_until = state.paused_until
        for bucket in quota.buckets:
            if bucket.limit.resource is state.resource:
                bucket.restore(state, now)

    @staticmethod
    def _before(waiter: Waiter, ranked: list[tuple[Rank, Waiter]]) -> tuple[list[Call], Rank]:
        """Calls that go first and draw on any of the same quotas; the rank of this one."""
        quotas, before = set(waiter.record.call.quotas), list[Call]()
        for rank, other in ranked:
            if other is waiter:
                return before, rank
            if quotas.intersection(other.record.call.quotas):
                before.append(other.record.call)
        raise InternalError(f"call {waiter.record.call.id} stands in no line")


def _shortage(
    quota: str, bucket: Bucket, call: Call, headroom: float, now: float, at: float | None
) -> Blocker:
    need = bucket.need(bucket.amount(call))
    kept = bucket.need(need, headroom) - need
    return Blocker(quota, bucket.limit.resource, need, bucket.available(now), at, kept)


def _check_end(record: CallRecord, outcome: Outcome) -> None:
    """Refuse an end that an attempt at a call cannot have now."""
    check_call(record.call.id, record.state, outcome.state)
    was_queued = record.state is CallState.QUEUED
    if was_queued and outcome.state is CallState.DONE and not record.parked:
        raise IllegalTransition(f"call {record.call.id}: it was never admitted, and asks no person")


def _check_ended(record: CallRecord) -> None:
    """Refuse a row of a call that is not live here any more: it is older than the call's end."""
    if record.state in LIVE_CALLS:
        raise IllegalTransition(
            f"call {record.call.id}: it was {record.state}, and has ended since"
        )
