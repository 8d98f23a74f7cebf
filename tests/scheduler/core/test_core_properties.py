"""Random lives of random calls, checked against a model that knows none of the core's tricks."""

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from plain import PlainOrder

from headway_scheduler.core.admission.queue import Waiter
from headway_scheduler.core.inspection import explain, statistics
from headway_scheduler.core.limits.bucket import TRANSIT_SECONDS
from headway_scheduler.core.policy import STRICT, Policy
from headway_scheduler.core.scheduler import Scheduler
from headway_scheduler.errors import CallTooLarge
from headway_scheduler.model import changes
from headway_scheduler.model.batch import Snapshot
from headway_scheduler.model.calls import Call, CallRecord, Outcome, Priority
from headway_scheduler.model.changes import Change, HoldState
from headway_scheduler.model.data import replace
from headway_scheduler.model.formulas import LONGEST_STATED_SECONDS
from headway_scheduler.model.quotas import BucketState, Limit, Observation, Quota, Resource
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import IN_FLIGHT, LIVE_CALLS, CallState, RunState
from headway_scheduler.protocol.messages import (
    ApplyChange,
    AwaitRuns,
    Decide,
    MarkSent,
    Observe,
    Resubmit,
    SaveRun,
    SetCallPriority,
    Settle,
    Submit,
)

START = 1_772_366_400.0
MODELS = [("org",), ("org", "small"), ("org", "local"), ("small",), ("local", "small")]
QUOTAS = (
    Quota.per_minute("org", requests=120, tokens=6_000, burst_seconds=10),
    Quota.per_minute("small", tokens=600),
    Quota.per_minute("local", requests=60, concurrency=2),
)
NAMES = [quota.name for quota in QUOTAS]
TEAMS = {"r0": "a", "r1": "a", "r2": "b", "r3": "c"}
POLICIES = [STRICT, Policy(), Policy(weights={"b": 2.0}, patience_seconds=30.0, credit_seconds=2.0)]
HOLD_TARGETS = ["all", "model:m", *(f"class:{priority.label}" for priority in Priority)]
ENDS = [CallState.DONE, CallState.FAILED, CallState.CANCELLED]
DECISIONS = [CallState.DONE, CallState.QUEUED, CallState.CANCELLED]


@dataclass
class Spent:
    """An attempt: the amounts that it took of each limit, corrected when it was settled."""

    at: float
    call: Call
    tokens: float
    requests: float = 1
    is_over: bool = False

    def amount(self, resource: Resource) -> float:
        return self.tokens if resource is Resource.TOKENS else self.requests


@dataclass
class Changed:
    """A quota's limits from a time on."""

    at: float
    quota: Quota


def scaled(quota: Quota, factor: float) -> Quota:
    """Limits are whole numbers here, for slots are."""

    def times(limit: Limit) -> Limit:
        each = (max(1, int(n * factor)) for n in (limit.capacity, limit.largest))
        return Limit(limit.resource, next(each), limit.per_second * factor, next(each))

    return Quota(quota.name, tuple(map(times, quota.limits)))


class Lives(RuleBasedStateMachine):
    """``now`` is what the core is told; ``true`` is the time by which the provider refills."""

    restarted_at = 0.0
    was_written = False
    has_stepped_back = False

    @initialize(policy=st.sampled_from(POLICIES))
    def begin(self, policy: Policy) -> None:
        self.now = self.true = START
        self.policy = policy
        self.weights = dict(policy.weights)
        self.runs = {
            name: Run(name, "w", "", Priority.LOW, RunState.RUNNING, START, team=team)
            for name, team in TEAMS.items()
        }
        self.waits: dict[str, frozenset[str]] = {}
        self.changes: dict[tuple[str, str], Change] = {}
        self.limits = {quota.name: quota for quota in QUOTAS}
        self.begin_anew()
        self.arrival: dict[str, int] = {}
        self.ended: set[str] = set()
        self.flying: dict[str, Spent] = {}
        self.aside: dict[str, float] = {}
        self.queue: dict[str, Call] = {}
        self.parked: dict[str, Call] = {}
        self.lost_attempts: Counter[str] = Counter()
        self.spent: list[Spent | Changed] = []
        self.paused: dict[str, float] = {}
        self.rows: dict[str, CallRecord] = {}
        self.buckets: dict[tuple[str, Resource], BucketState] = {}

    # Steps

    @rule(
        run=st.sampled_from(sorted(TEAMS)),
        quotas=st.sampled_from(MODELS),
        tokens=st.sampled_from([1, 50, 300, 600]),
        priority=st.sampled_from(Priority),
        copies=st.integers(1, 4),
    )
    def submit(
        self, run: str, quotas: tuple[str, ...], tokens: int, priority: Priority, copies: int
    ) -> None:
        for _ in range(copies):
            number = len(self.arrival)
            call = Call(f"c{number}", run, "a", "m", quotas, priority, tokens, self.now)
            if self.is_too_large(call):
                with pytest.raises(CallTooLarge):
                    self.core.handle(Submit(call), self.now)
                return
            self.core.handle(Submit(call), self.now)
            self.arrival[call.id] = number
            self.queue[call.id] = call
            self.stand()

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.3, 1.0, 7.0, 100.0]) | st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.pass_time(self.now + seconds)

    @rule(seconds=st.sampled_from([0.1, 5.0, 7_200.0]))
    def step_back(self, seconds: float) -> None:
        """Forward it never steps: to the core that is time gone by."""
        self.now -= seconds
        self.has_stepped_back = True

    @rule()
    def admit(self) -> None:
        for at, name in sorted((at, name) for name, at in self.aside.items()):
            if at <= self.now:
                del self.aside[name]
                self.stand()
        self.order.advance(self.now)
        for record in self.core.admit(self.now):
            call = record.call
            assert record.state is CallState.ADMITTED
            assert call.id not in self.aside, "it had to wait for its own time"
            assert not any(self.paused.get(name, 0) > self.now for name in call.quotas)
            self.take_its_turn(call)
            del self.queue[call.id]
            self.flying[call.id] = attempt = Spent(self.true, call, call.tokens)
            self.spent.append(attempt)
            self.check_slots(call)
        at = self.core.next_event(self.now)
        assert at is None or at > self.now

    @rule(
        name=st.sampled_from(sorted(TEAMS)),
        priority=st.sampled_from(Priority),
        deadline=st.sampled_from([None, START, START + 60]),
    )
    def change_run(self, name: str, priority: Priority, deadline: float | None) -> None:
        """Calls that have their run's class follow it."""
        before = self.runs[name].priority
        self.runs[name] = replace(self.runs[name], priority=priority, deadline=deadline)
        self.core.handle(SaveRun(self.runs[name]), self.now)
        for call in [*self.queue.values(), *self.parked.values()]:
            if call.run_id == name and call.priority is before:
                self.reclass(call.id, priority)
        for attempt in self.flying.values():
            if attempt.call.run_id == name and attempt.call.priority is before:
                attempt.call = replace(attempt.call, priority=priority)
        self.stand()

    @rule(name=st.sampled_from(sorted(TEAMS)), on=st.frozensets(st.sampled_from(sorted(TEAMS))))
    def wait_for_runs(self, name: str, on: frozenset[str]) -> None:
        self.core.handle(AwaitRuns(name, on), self.now)
        self.waits[name] = on
        self.stand()

    @precondition(lambda self: self.queue or self.parked)
    @rule(pick=st.integers(0), priority=st.sampled_from(Priority))
    def bump(self, pick: int, priority: Priority) -> None:
        names = sorted({*self.queue, *self.parked})
        name = names[pick % len(names)]
        self.core.handle(SetCallPriority(name, priority), self.now)
        self.reclass(name, priority)
        self.stand()

    @rule(what=st.sampled_from(HOLD_TARGETS), state=st.sampled_from(HoldState))
    def gate(self, what: str, state: HoldState) -> None:
        self.change(changes.hold(what, state, self.core.state.next_seq, self.now))
        self.stand()

    @rule(team=st.sampled_from(sorted(set(TEAMS.values()))), share=st.sampled_from([0.5, 1.0, 3.0]))
    def weigh(self, team: str, share: float) -> None:
        self.change(changes.weight(team, share, self.now))
        self.weights[team] = share

    @rule(quota=st.sampled_from(QUOTAS), factor=st.sampled_from([0.25, 0.5, 1.0, 2.0]))
    def change_limits(self, quota: Quota, factor: float) -> None:
        self.limits[quota.name] = changed = scaled(quota, factor)
        self.change(changes.limits(quota.name, changed, self.now))
        self.spent.append(Changed(self.true, changed))

    @precondition(lambda self: self.queue)
    @rule()
    def follow_the_clock_it_names(self) -> None:
        self.admit()
        at = self.core.next_event(self.now)
        if at is None:
            waits = [call for name, call in self.queue.items() if name in self.standing]
            assert not waits or self.slots_are_taken()
        else:
            self.pass_time(at)
            self.admit()

    @precondition(lambda self: self.flying)
    @rule(pick=st.integers(0))
    def send(self, pick: int) -> None:
        self.core.handle(MarkSent(self.flying_one(pick), self.now), self.now)

    @precondition(lambda self: self.flying)
    @rule(
        pick=st.integers(0),
        state=st.sampled_from(ENDS),
        used=st.none() | st.floats(0, 1),
        sent=st.booleans(),
    )
    def finish(self, pick: int, state: CallState, used: float | None, sent: bool) -> None:
        name = self.flying_one(pick)
        tokens = None if used is None else int(used * self.flying[name].call.tokens)
        self.end_attempt(name, Outcome(state, sent=sent, used_tokens=tokens))
        self.ended.add(name)

    @precondition(lambda self: self.flying)
    @rule(pick=st.integers(0), delay=st.none() | st.floats(-1, 30), sent=st.booleans())
    def requeue(self, pick: int, delay: float | None, sent: bool) -> None:
        name = self.flying_one(pick)
        not_before = None if delay is None else self.now + delay
        self.queue[name] = self.flying[name].call
        if not_before is not None and not_before > self.now:
            self.aside[name] = not_before
        self.end_attempt(name, Outcome(CallState.QUEUED, sent=sent, not_before=not_before))
        self.stand()

    @precondition(lambda self: self.queue)
    @rule(pick=st.integers(0))
    def cancel(self, pick: int) -> None:
        name = sorted(self.queue)[pick % len(self.queue)]
        self.core.handle(Settle(name, Outcome(CallState.CANCELLED, sent=False)), self.now)
        self.leave(name)
        self.due.pop(name, None)
        del self.queue[name]
        self.aside.pop(name, None)
        self.ended.add(name)

    @rule(quota=st.sampled_from(NAMES), seconds=st.floats(0, 20))
    def pause(self, quota: str, seconds: float) -> None:
        until = self.now + seconds
        self.core.handle(Observe("", {quota: Observation(pause_until=until)}), self.now)
        self.paused[quota] = max(self.paused.get(quota, 0.0), until)

    @rule()
    def restart_in_this_process(self) -> None:
        self.restart({*self.queue, *self.flying})
        self.stand()

    @rule()
    def restart_after_a_crash(self) -> None:
        """In flight becomes unknown; what was queued is resumed at once."""
        self.restart(set(self.queue))
        self.lose_what_flies()
        self.stand()

    @rule()
    def restart_with_nobody_there(self) -> None:
        """Queued calls wait until their runs are resumed."""
        self.restart(set())
        self.lose_what_flies()
        self.parked |= self.queue
        self.queue.clear()
        self.aside.clear()

    @precondition(lambda self: self.flying)
    @rule(pick=st.integers(0))
    def lose(self, pick: int) -> None:
        """Its run is cut off: nobody will know what came of it."""
        name = self.flying_one(pick)
        self.end_attempt(name, Outcome(CallState.UNKNOWN))
        self.lost_attempts[name] += 1
        self.ended.add(name)

    @precondition(lambda self: self.parked or self.ended)
    @rule(pick=st.integers(0))
    def ask_again(self, pick: int) -> None:
        row = self.one_of(pick, CallState.UNKNOWN, CallState.FAILED, CallState.CANCELLED)
        if row is not None and self.is_too_large(row.call):
            with pytest.raises(CallTooLarge):
                self.core.handle(Resubmit(row), self.now)
        elif row is not None:
            self.resubmit(row)

    @precondition(lambda self: self.parked or self.ended)
    @rule(pick=st.integers(0), state=st.sampled_from(DECISIONS))
    def decide(self, pick: int, state: CallState) -> None:
        row = self.one_of(pick, CallState.UNKNOWN)
        if row is None:
            return
        self.core.handle(Decide(row, Outcome(state, answer="yes")), self.now)
        self.parked.pop(row.call.id, None)
        self.ended.add(row.call.id)
        if state is CallState.QUEUED:
            self.ended.remove(row.call.id)
            self.parked[row.call.id] = row.call

    # What must hold

    @invariant()
    def no_window_is_over_budget(self) -> None:
        """A bucket charged at admission with what was really used: never short of the next."""
        for quota in QUOTAS:
            for limit in quota.limits:
                if limit.resource is not Resource.CONCURRENCY:
                    self.check_windows(quota.name, limit)

    def check_windows(self, quota: str, limit: Limit) -> None:
        fill, at = limit.capacity, START
        for each in self.spent:
            fill = min(limit.capacity, fill + (each.at - at) * limit.per_second)
            at = each.at
            if isinstance(each, Changed):
                if each.quota.name == quota:
                    resource = limit.resource
                    limit = next(one for one in each.quota.limits if one.resource is resource)
                    fill = min(fill, limit.capacity)
            elif quota in each.call.quotas:
                amount = each.amount(limit.resource)
                assert fill >= min(amount, limit.capacity) - 1e-3
                fill -= amount

    @invariant()
    def no_call_is_lost(self) -> None:
        state, now = self.core.state, self.now
        live = {name for name in self.arrival if explain(state, name, now) is not None}
        assert live == set(self.arrival) - self.ended
        assert live == {*self.queue, *self.flying, *self.parked}
        counts = statistics(self.core.state, self.now)
        assert counts.in_flight == len(self.flying)
        assert sum(counts.waiting) == len(self.queue)
        assert counts.parked == len(self.parked)

    @invariant()
    def no_row_is_of_another_place_or_hides_a_loss(self) -> None:
        for name, row in self.rows.items():
            assert row.seq == self.arrival[name]
            assert row.lost_attempts <= self.lost_attempts[name]

    @invariant()
    def nothing_is_free_twice_or_leaked(self) -> None:
        for gauge in statistics(self.core.state, self.now).gauges:
            assert gauge.available <= gauge.capacity + 1e-6
            if not self.flying and not gauge.per_second:
                assert gauge.available == gauge.capacity

    @invariant()
    def no_reservation_is_negative_or_outlives_its_call(self) -> None:
        for quota in self.core.state.lanes.quotas.values():
            for bucket in quota.buckets:
                assert bucket.reserved >= 0
                if not self.flying:
                    assert bucket.reserved == 0

    def teardown(self) -> None:
        if hasattr(self, "core"):
            self.everything_goes_in_the_end()

    def everything_goes_in_the_end(self) -> None:
        for quota in QUOTAS:
            self.change_limits(quota, 1.0)
        for target in HOLD_TARGETS:
            self.gate(target, "open")
        for name in list(self.parked):
            self.resubmit(replace(self.rows[name]))
        for _ in range(1_000):
            for name in list(self.flying):
                self.end_attempt(name, Outcome(CallState.DONE))
                self.ended.add(name)
            self.admit()
            self.pass_time(self.core.next_event(self.now) or self.now)
            if not self.queue and not self.flying:
                return
        raise AssertionError(f"still queued: {sorted(self.queue)}")

    # Helpers

    def flying_one(self, pick: int) -> str:
        return sorted(self.flying)[pick % len(self.flying)]

    def end_attempt(self, name: str, outcome: Outcome) -> None:
        attempt = self.flying.pop(name)
        attempt.is_over = True
        restarted = attempt.at < self.restarted_at
        if not outcome.sent and not restarted:
            attempt.tokens = attempt.requests = 0
        elif outcome.used_tokens is not None and not restarted:
            attempt.tokens = outcome.used_tokens
        self.core.handle(Settle(name, outcome), self.now)
        if outcome.state is not CallState.QUEUED:
            self.due.pop(name, None)

    def pass_time(self, until: float) -> None:
        self.true += until - self.now
        self.now = until
        self.order.advance(self.now)

    def begin_anew(self) -> None:
        """A new core, and what does not outlive the old one: clocks of teams, what runs took.

        Its lanes are there at once, so that they make one pool.
        """
        self.core = Scheduler(QUOTAS, self.now, self.policy)
        self.order = PlainOrder(self.policy, self.weights, at=self.now)
        self.standing: dict[str, Waiter] = {}
        self.due: dict[str, float] = {}
        self.attained: Counter[str] = Counter()
        for quotas in MODELS:
            self.core.state.lanes.of(quotas, self.now)
        for run in self.runs.values():
            self.core.handle(SaveRun(run), self.now)
        for name, on in self.waits.items():
            self.core.handle(AwaitRuns(name, on), self.now)

    def change(self, change: Change) -> None:
        self.core.handle(ApplyChange(change), self.now)
        self.changes[change.action, change.target] = change

    def is_too_large(self, call: Call) -> bool:
        limits = (limit for name in call.quotas for limit in self.limits[name].limits)
        return any(call.tokens > each.largest for each in limits if each.resource == "tokens")

    def check_slots(self, call: Call) -> None:
        """Each admitted call has a slot, unless it was admitted before the slots became fewer."""
        if "local" in call.quotas:
            assert self.in_slots() <= self.slots()

    def in_slots(self) -> int:
        return sum("local" in attempt.call.quotas for attempt in self.flying.values())

    def slots(self) -> float:
        limits = {limit.resource: limit for limit in self.limits["local"].limits}
        return limits[Resource.CONCURRENCY].capacity

    def slots_are_taken(self) -> bool:
        return self.in_slots() >= self.slots()

    def reclass(self, name: str, priority: Priority) -> None:
        waiting = self.queue if name in self.queue else self.parked
        waiting[name] = replace(waiting[name], priority=priority)

    def stand(self) -> None:
        """Have every call that waits for its turn stand where it belongs now, oldest first."""
        for name in sorted(self.queue, key=self.arrival.__getitem__):
            call = self.queue[name]
            priority, team = self.priority(call), TEAMS[call.run_id]
            waits = name not in self.aside and not self.is_held(call, priority)
            old = self.standing.get(name)
            if old is not None and waits and (old.effective_priority, old.team) == (priority, team):
                continue
            self.leave(name)
            if waits:
                due = self.due.setdefault(name, self.due_of(call))
                record = CallRecord(call, self.arrival[name])
                self.standing[name] = new = Waiter(record, priority, team, due, self.cost(call))
                self.order.advance(self.now)
                self.order.push(call.quotas, new)

    def leave(self, name: str) -> None:
        if (old := self.standing.pop(name, None)) is not None:
            self.order.leave(old)

    def take_its_turn(self, call: Call) -> None:
        first = self.order.head(call.quotas)
        assert first is not None
        assert first.record.call.id == call.id, "it was passed"
        self.order.serve(first)
        del self.standing[call.id]
        self.attained[call.run_id] += first.cost

    def priority(self, call: Call) -> Priority:
        """Its own class, or that of the most urgent other run that waits for its run."""
        found = {call.run_id}
        while more := {name for name, on in self.waits.items() if on & found} - found:
            found |= more
        others = [self.runs[name].priority for name in found if name != call.run_id]
        return min([call.priority, *others])

    def is_held(self, call: Call, priority: Priority) -> bool:
        for target in ("all", "model:m", f"class:{priority.label}"):
            change = self.changes.get((changes.HOLD, target))
            state, first = (HoldState.OPEN, 0) if change is None else changes.hold_of(change)
            if state == HoldState.PAUSED or (
                state == HoldState.DRAINED and self.arrival[call.id] >= first
            ):
                return True
        return False

    def due_of(self, call: Call) -> float:
        taken = self.attained[call.run_id]
        patience = min(self.policy.patience_seconds, self.policy.size_factor * taken)
        deadline = self.runs[call.run_id].deadline
        due = call.submitted_at + patience
        return due if deadline is None else min(due, deadline - taken)

    def cost(self, call: Call) -> float:
        limits = [limit for name in call.quotas for limit in self.limits[name].limits]
        amounts = ((each, call.tokens if each.resource == "tokens" else 1) for each in limits)
        return max(amount / (each.per_second or each.capacity) for each, amount in amounts)

    def lose_what_flies(self) -> None:
        for name, attempt in self.flying.items():
            attempt.is_over = True
            self.lost_attempts[name] += 1
            self.ended.add(name)
        self.flying.clear()

    def one_of(self, pick: int, *states: CallState) -> CallRecord | None:
        """The row of a parked call, or of one that ended so."""
        self.write()
        rows = [
            row
            for name, row in sorted(self.rows.items())
            if name in self.parked or row.state in states
        ]
        return replace(rows[pick % len(rows)]) if rows else None

    def resubmit(self, row: CallRecord) -> None:
        name = row.call.id
        self.core.handle(Resubmit(row), self.now)
        self.queue[name] = self.parked.pop(name, row.call)
        self.ended.discard(name)
        self.stand()

    def write(self) -> None:
        self.was_written = True
        batch = self.core.take_batch(self.now)
        self.rows |= {r.call.id: replace(r) for r in (*batch.new, *batch.changed)}
        self.buckets |= {(state.quota, state.resource): state for state in batch.buckets}

    def aside_again(self) -> dict[str, float]:
        """After a restart, calls whose rows name a time wait for it.

        That a call's time has come is not written by itself. So if the clock steps back before
        that time and the core is built anew, the call waits for it once more.
        """
        waits = {name: at for name, at in self.aside.items() if at > self.now}
        rows = ((name, self.rows[name].not_before) for name in self.queue)
        again = {name: at for name, at in rows if at is not None and at > self.now}
        assert waits.items() <= again.items()
        assert waits == again or self.has_stepped_back
        return again

    def restart(self, owned: set[str]) -> None:
        """Write, forget and go on: the gauges must read the same.

        What was written earlier counts as in transit until it has surely arrived: then they may
        read less, by what refills in that time. After a step back, what has refilled since a
        bucket was written is not known to have. A pause that a step back left far ahead is cut to
        the longest that there is.
        """
        latest = self.now + LONGEST_STATED_SECONDS
        self.paused = {name: min(until, latest) for name, until in self.paused.items()}
        was_written = self.was_written
        self.write()
        assert all(row.lost_attempts == self.lost_attempts[name] for name, row in self.rows.items())
        live = sorted(
            (replace(row) for row in self.rows.values() if row.state in LIVE_CALLS),
            key=lambda row: row.seq,
        )
        crashed = {row.call.id for row in live if row.state in IN_FLIGHT} - owned
        before = statistics(self.core.state, self.now).gauges
        self.begin_anew()
        changes = tuple(self.changes.values())
        buckets = tuple(self.buckets.values())
        snapshot = Snapshot(buckets, tuple(live), len(self.rows), changes)
        self.core.restore(snapshot, self.now, lambda record: record.call.id in owned)
        self.aside = self.aside_again()
        self.restarted_at = self.true
        self.was_written = False
        for old, new in zip(before, statistics(self.core.state, self.now).gauges, strict=True):
            if new.per_second:
                slack = TRANSIT_SECONDS * new.per_second if was_written else 0.0
                assert new.available < old.available + 1e-3
                assert new.available > old.available - slack - 1e-3 or self.has_stepped_back
            elif not crashed:
                assert new.available == old.available


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_call_waits_for_its_time_again_if_the_clock_steps_back_before_a_restart(
    policy: Policy,
) -> None:
    lives = Lives()
    lives.begin(policy=policy)
    lives.submit(run="r1", quotas=("org",), tokens=600, priority=Priority.INTERACTIVE, copies=2)
    lives.admit()
    lives.pause(quota="org", seconds=2.0)
    lives.requeue(pick=0, delay=1.0, sent=False)
    lives.restart_after_a_crash()
    lives.follow_the_clock_it_names()
    assert not lives.aside
    lives.step_back(seconds=0.1)
    lives.restart_after_a_crash()
    assert list(lives.aside) == ["c0"]
    lives.teardown()
