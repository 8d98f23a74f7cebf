"""Holds the scheduler's state and each call's place. Law: it keeps order, it admits nothing.

Theory of operation. A call that has not ended is in exactly one place: in the line of its lane,
aside until a time of its own (``delayed``), held by an operator, parked, or in flight. When
a run's class, a wait of one run for another, or an operator's hold changes, the calls concerned are
taken out of their places and put in again.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf

from ..errors import CallerError
from ..model.batch import Batch
from ..model.calls import CallRecord, Outcome, Priority, ServiceLane
from ..model.changes import LIMITS, RESUME, WEIGHT, Change, hold_of, quota_of, weight_of
from ..model.data import replace
from ..model.history import BUCKET_BOUNDS, HOUR, MINUTE, Crowd, WaitCount
from ..model.quotas import Quota
from ..model.states import IN_FLIGHT, CallState
from .admission.holds import OperatorHolds
from .admission.lanes import Lanes
from .admission.preemption import Preemption
from .admission.queue import Waiter
from .admission.routing import flex_until, routed, takes_flex
from .change_log import ChangeLog
from .limits.bucket import Bucket
from .limits.reservation import Reservation
from .policy import Policy
from .runs.budgets import Budget, Budgets
from .runs.registry import RunRegistry
from .tally import Crowds

SIZES = "run size"
"""The kind of the lessons about how many budget-seconds runs of a workflow take."""


NOT_BATCHED = Outcome(
    CallState.QUEUED, error="its process died before its request", sent=False, uncounted=True
)
"""The end of an attempt by batch whose request was not made: nothing left, so it is none."""


@dataclass(slots=True)
class LiveCall:
    """A call that has not ended."""

    record: CallRecord
    """Its row."""
    reservations: tuple[tuple[Bucket, Reservation], ...] = ()
    """Its reservations while it is in flight."""
    waiter: Waiter | None = None
    """Its place, while it stands in a line."""
    due: float | None = None
    """When it counts as having come; epoch seconds. Set when it first enters a line, then fixed."""
    operator_hold: str | None = None
    """The operator's hold that it waits for, as in ``class:background paused``; None without."""
    bytes: int = 0
    """How many bytes of text came with it, that were not on disk."""
    beside: int = 0
    """How many calls of its provider's quota were in flight when it was admitted, with itself."""
    budget: Budget | None = None
    """The budget of its run, while it holds dollars of it or waits for them; else None."""
    queued_at: float = 0.0
    """Since when it stands queued; epoch seconds. Of the past, while it is in flight."""
    waited: float | None = None
    """How many seconds it stood queued before its attempts, all together; None before the first."""


class SchedulerState:
    """Everything that the scheduler knows. Others read it; only this package changes it."""

    def __init__(self, quotas: Iterable[Quota], policy: Policy, now: float) -> None:
        self.policy = policy
        self.lanes: Lanes = Lanes(quotas, policy, now)
        self.registry: RunRegistry = RunRegistry()
        self.budgets: Budgets = Budgets()
        self.operator_holds: OperatorHolds = OperatorHolds()
        self.preemption: Preemption = Preemption()
        self.live: dict[str, LiveCall] = {}
        """Calls that have not ended, by id."""
        self.delayed: list[tuple[float, str]] = []
        """A heap of (``not_before``, id) of calls that wait for a time of their own. Calls that
        ended or were delayed anew leave their entries until their time."""
        self.flex_ends: list[tuple[float, str]] = []
        """A heap of times, and ids of calls that wait for flex until then; then they go standard.
        A call may have several entries, and leaves them when it goes."""
        self.bytes: int = 0
        """How many bytes of text came with all calls that have not ended."""
        self.next_seq = 0
        """The arrival number of the next call."""
        self.ask_at: float | None = None
        """When to admit again although nothing happens, epoch seconds; None: never. Set by each
        admission, and to now by each change that may let a call go."""
        self.refused: list[tuple[CallRecord, CallerError]] = []
        """Queued calls that can never go, and why. Nobody has been told yet."""
        self.log: ChangeLog = ChangeLog()
        self.crowds: Crowds = Crowds()

    def add(self, record: CallRecord) -> LiveCall:
        """Add a call; it stands nowhere yet."""
        live = self.live[record.call.id] = LiveCall(record)
        self.registry.add(record.call)
        return live

    def remove(self, live: LiveCall, now: float) -> None:
        """Forget a call that has ended."""
        self.withdraw(live, now)
        call = live.record.call
        del self.live[call.id]
        self.bytes -= live.bytes
        team = self.registry.remove(call)
        # Not of steps, which draw on no quota and never wait. A call that ended unknown is made
        # again, and its wait is counted then.
        is_unknown = live.record.state is CallState.UNKNOWN
        if live.waited is not None and call.quotas and not is_unknown:
            bucket = bisect_right(BUCKET_BOUNDS, live.waited)
            waits = self.log.waits
            # The number of the class: the hash of a member of an enum is a call of Python.
            key = (int(now // MINUTE), call.priority._value_, team, bucket)
            waits[key] = waits.get(key, 0) + 1

    def change(self, record: CallRecord) -> None:
        """Note that the next commit must write a row, and the buckets that its call draws on."""
        self.log.changed[record.call.id] = record
        self.log.touched.add(record.call.quotas)

    def take_batch(self, now: float) -> Batch:
        """Return what the next commit must write, with the touched buckets as they are now."""
        log, self.log = self.log, ChangeLog()
        changed = [record for key, record in log.changed.items() if key not in log.new]
        quotas = self.lanes.quotas
        # A call may have outlived a quota in the configuration.
        names = sorted({name for each in log.touched for name in each if name in quotas})
        buckets = []
        for quota in [quotas[name] for name in names]:
            paused_until = quota.breaker.paused_until
            buckets += [bucket.state(now, paused_until) for bucket in quota.buckets]
            if quota.unsaved:
                for lesson in quota.take_lessons():
                    log.lessons[lesson.kind, lesson.subject] = lesson
        crowds: tuple[Crowd, ...] = ()
        if now >= self.crowds.sample_at:
            crowds = self.crowds.sample((live.record for live in self.live.values()), now)
        by_run = self.budgets.by_run
        buckets += [by_run[run_id].state(now) for run_id in sorted(log.budgets) if run_id in by_run]
        return Batch(
            new=tuple(log.new.values()),
            changed=(*changed, *log.amended),
            buckets=tuple(buckets),
            runs=tuple(log.runs),
            chunks=tuple(log.chunks),
            nodes=tuple(log.nodes),
            forget=tuple(log.forget),
            changes=tuple(log.changes),
            lessons=tuple(log.lessons.values()),
            requests=tuple(log.requests),
            tries=tuple(log.tries),
            waits=_wait_counts(log.waits) if log.waits else (),
            crowds=crowds,
        )

    def enqueue(self, live: LiveCall, now: float) -> None:
        """Put a call where it belongs now: aside until its time, held, or into its line."""
        record = live.record
        call = record.call
        if record.not_before is not None and record.not_before > now:
            heappush(self.delayed, (record.not_before, call.id))
            return
        record.not_before = None
        if record.routes:
            record.call = call = routed(call, record.routes, self.lanes, self.registry, now)
            self.change(record)
        registry = self.registry
        priority, team = registry.effective_priority(call), registry.team(call)
        if self.operator_holds.rules:
            live.operator_hold = self.operator_holds.holder(call, record.seq, priority)
            if live.operator_hold is not None:
                return
        if live.due is None:  # a call that comes back has its old place
            live.due = registry.due(call, self.policy)
        lane = self.lanes.of(call.quotas, now)
        live.waiter = Waiter(record, priority, team, live.due, lane.cost(call))
        lane.line.push(live.waiter, now)
        self.ask_at = now
        if call.lane is ServiceLane.FLEX:
            self._note_flex_end(live, now)

    def _note_flex_end(self, live: LiveCall, now: float) -> None:
        """Note when a call is to leave flex. One that cannot has no other route, and stays."""
        call = live.record.call
        if now < (at := flex_until(call, self.lanes, self.registry)) < inf:
            heappush(self.flex_ends, (at, call.id))

    def note_no_capacity(self, quota: str, now: float) -> None:
        """Note until when calls wait for a lane for which its provider has no capacity now."""
        for live in self.live.values():
            call = live.record.call
            is_flex = call.lane is ServiceLane.FLEX and call.quotas[0] == quota
            if is_flex and live.waiter is not None:
                self._note_flex_end(live, now)

    def recall(self, now: float) -> None:
        """Put calls that stand aside, or on a route for a while, where they belong now."""
        self.recall_delayed(now)
        if self.flex_ends:
            self.recall_flex(now)
        if self.budgets.short:
            self.recall_short(now)

    def recall_flex(self, now: float) -> None:
        """Let calls that have waited for flex long enough take another route."""
        while self.flex_ends and self.flex_ends[0][0] <= now:
            _, call_id = heappop(self.flex_ends)
            live = self.live.get(call_id)
            if live is None or live.waiter is None:
                continue
            call = live.record.call
            if call.lane is not ServiceLane.FLEX:
                continue
            if takes_flex(call, self.lanes, self.registry, now):
                self._note_flex_end(live, now)  # there was capacity meanwhile
                continue
            self.withdraw(live, now)
            self.enqueue(live, now)

    def withdraw(self, live: LiveCall, now: float) -> None:
        """Take a call out of its line, if it stands in one, or from where it waits for dollars."""
        live.operator_hold = None
        call = live.record.call
        if call.run_id in self.budgets.by_run:
            self.budgets.short.add(call.run_id)  # those behind it may go in its place
            if live.budget is not None and call.id in live.budget.waiting:
                live.budget.waiting.remove(call.id)
                live.budget = None
        if live.waiter is not None:
            self.lanes.of(call.quotas, now).line.remove(live.waiter)
            live.waiter = None
            self.ask_at = now

    def refuse(self, live: LiveCall, error: CallerError, now: float) -> None:
        """End a queued call that can never go."""
        record, text = live.record, f"{type(error).__name__}: {error}"
        record.settle(Outcome(CallState.FAILED, error=text, sent=False), now)
        self.change(record)
        self.remove(live, now)
        self.refused.append((record, error))

    def set_aside(self, live: LiveCall, budget: Budget, now: float) -> None:
        """Let a call wait for dollars of its run's budget, out of the way of other runs."""
        is_short = budget.run_id in self.budgets.short
        self.withdraw(live, now)
        live.budget = budget
        budget.waiting.add(live.record.call.id)
        if not is_short:  # nothing has come free by that
            self.budgets.short.discard(budget.run_id)

    def recall_short(self, now: float) -> None:
        """Put calls that the budgets of their runs suffice for now into their lines, in order."""
        short, self.budgets.short = self.budgets.short, set()
        for run_id in short:
            budget = self.budgets.by_run.get(run_id)
            if budget is None or not budget.waiting:
                continue
            reserved, unbounded = budget.reserved_usd, budget.unbounded
            for live in sorted(map(self.live.__getitem__, budget.waiting), key=self._order):
                call = live.record.call
                if not budget.covers(call):
                    self.refuse(live, budget.exceeded(call), now)
                    continue
                if not budget.passes(call):
                    break  # as in a line, those behind it wait too
                budget.waiting.remove(call.id)
                live.budget = None
                self.enqueue(live, now)
                budget.reserve(call)  # to those behind it, it is in flight
            budget.reserved_usd, budget.unbounded = reserved, unbounded

    def _order(self, live: LiveCall) -> tuple[int, float, int]:
        priority = self.registry.effective_priority(live.record.call)
        return priority, live.due or 0.0, live.record.seq

    def recall_delayed(self, now: float) -> None:
        """Put delayed calls into their lines when their time has come."""
        while self.delayed and self.delayed[0][0] <= now:
            not_before, call_id = heappop(self.delayed)
            live = self.live.get(call_id)
            # A call that ended or was delayed anew leaves its old entry behind.
            if live is not None and not live.record.parked and live.record.not_before == not_before:
                self.enqueue(live, now)

    def place_runs_again(self, run_ids: Iterable[str], now: float) -> None:
        """Put the waiting calls of these runs where they belong now."""
        calls = (call_id for run_id in run_ids for call_id in self.registry.calls(run_id))
        self.place_again((self.live[call_id] for call_id in calls), now)

    def place_again(self, calls: Iterable[LiveCall], now: float) -> None:
        """Put waiting calls where they belong now, oldest first; their due times stay.

        Calls in the right place are not touched: a class whose only call leaves loses its credit.
        """
        for live in sorted(calls, key=lambda each: each.record.seq):
            waits = live.waiter is not None or live.operator_hold is not None
            if waits and not self._is_placed(live):
                self.withdraw(live, now)
                self.enqueue(live, now)

    def _is_placed(self, live: LiveCall) -> bool:
        call, waiter = live.record.call, live.waiter
        priority = self.registry.effective_priority(call)
        hold = self.operator_holds.holder(call, live.record.seq, priority)
        if waiter is None or hold is not None:
            return waiter is None and live.operator_hold == hold
        return (waiter.effective_priority, waiter.team) == (priority, self.registry.team(call))

    def set_priority(self, record: CallRecord, priority: Priority) -> None:
        """Change the class that a call asks for. The caller puts the call into its new place."""
        record.call = replace(record.call, priority=priority)
        self.change(record)

    def apply(self, change: Change, now: float) -> None:
        """Apply an operator's change of limits, a weight or a hold.

        Raises CallerError or UnknownQuota, and then changes nothing.
        """
        if change.action == LIMITS:
            self.lanes.set_limits(change.target, quota_of(change), now)
            self.renew_buckets(change.target, now)
            self.log.touched.add((change.target,))
        elif change.action == RESUME:
            self.lanes.quota(change.target).try_again()
            self.log.touched.add((change.target,))
        elif change.action == WEIGHT:
            self.lanes.set_weight(change.target, weight_of(change))
        else:
            self.operator_holds.set(change.target, *hold_of(change))
            self.place_again(self.live.values(), now)
        self.ask_at = now

    def renew_buckets(self, quota: str, now: float) -> None:
        """Have lanes and calls in flight know of limits that came after their admission."""
        self.lanes.renew(quota)
        for live in self.live.values():
            call = live.record.call
            if live.record.state in IN_FLIGHT and quota in call.quotas:
                reserved = {bucket for bucket, _ in live.reservations}
                new = [each for each in self.lanes.quota(quota).buckets if each not in reserved]
                adopted = [(each, each.take_over(call, None, now)) for each in new]
                live.reservations += tuple(adopted)


def _wait_counts(counted: Mapping[tuple[int, int, str, int], int]) -> tuple[WaitCount, ...]:
    """Count in minutes and in hours what was counted by the minute."""
    return tuple(
        WaitCount(span, minute * MINUTE // span * span, Priority(priority), team, bucket, calls)
        for (minute, priority, team, bucket), calls in counted.items()
        for span in (MINUTE, HOUR)
    )
