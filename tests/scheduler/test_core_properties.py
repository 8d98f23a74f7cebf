"""Random lives of random calls, checked against a model that knows none of the core's tricks."""

from collections import Counter
from dataclasses import dataclass, replace
from itertools import count

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headway_scheduler.budget import TRANSIT_SECONDS
from headway_scheduler.core import Scheduler
from headway_scheduler.model import (
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
from headway_scheduler.policy import STRICT
from headway_scheduler.states import IN_FLIGHT, LIVE_CALLS, CallState

START = 1_772_366_400.0
MODELS = [("org",), ("org", "small"), ("org", "local"), ("small",), ("local", "small")]
QUOTAS = (
    Quota.per_minute("org", requests=120, tokens=6_000, burst_seconds=10),
    Quota.per_minute("small", tokens=600),
    Quota.per_minute("local", requests=60, concurrency=2),
)
LIMITS = {(quota.name, limit.resource): limit for quota in QUOTAS for limit in quota.limits}
ENDS = [CallState.DONE, CallState.FAILED, CallState.CANCELLED]
DECISIONS = [CallState.DONE, CallState.QUEUED, CallState.CANCELLED]


@dataclass
class Spent:
    """One attempt: what it took of each limit, corrected when it was settled."""

    at: float
    call: Call
    tokens: float
    requests: float = 1
    is_over: bool = False

    def amount(self, resource: Resource) -> float:
        return self.tokens if resource is Resource.TOKENS else self.requests


class Lives(RuleBasedStateMachine):
    restarted_at = 0.0
    was_written = False

    @initialize()
    def begin(self) -> None:
        self.now = START
        self.core = Scheduler(QUOTAS, self.now, STRICT)
        self.names = count()
        self.arrival: dict[str, int] = {}
        self.ended: set[str] = set()
        self.flying: dict[str, Spent] = {}
        self.aside: dict[str, float] = {}
        self.queue: dict[str, Call] = {}
        self.parked: dict[str, Call] = {}
        self.losses: Counter[str] = Counter()
        self.spent: list[Spent] = []
        self.paused: dict[str, float] = {}
        self.rows: dict[str, CallRecord] = {}
        self.buckets: dict[tuple[str, Resource], BucketState] = {}

    # Steps

    @rule(
        quotas=st.sampled_from(MODELS),
        tokens=st.sampled_from([1, 50, 300, 600]),
        priority=st.sampled_from(Priority),
        copies=st.integers(1, 4),
    )
    def submit(self, quotas: tuple[str, ...], tokens: int, priority: Priority, copies: int) -> None:
        for _ in range(copies):
            number = next(self.names)
            call = Call(f"c{number}", "r", "a", "m", quotas, priority, tokens, self.now)
            self.core.submit(call, self.now)
            self.arrival[call.id] = number
            self.queue[call.id] = call

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.3, 1.0, 7.0, 100.0]) | st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def admit(self) -> None:
        due = {name for name, at in self.aside.items() if at <= self.now}
        for name in due:
            del self.aside[name]
        for record in self.core.admit(self.now):
            call = record.call
            assert record.state is CallState.ADMITTED
            assert call.id not in self.aside, "it had to wait for its own time"
            assert not any(self.paused.get(name, 0) > self.now for name in call.quotas)
            self.check_nobody_was_passed(call)
            del self.queue[call.id]
            self.flying[call.id] = attempt = Spent(self.now, call, call.tokens)
            self.spent.append(attempt)
        at = self.core.next_event(self.now)
        assert at is None or at > self.now

    @precondition(lambda self: self.queue)
    @rule()
    def follow_the_clock_it_names(self) -> None:
        self.admit()
        at = self.core.next_event(self.now)
        if at is None:
            assert not self.queue or self.slots_are_taken()
        else:
            self.now = at
            self.admit()

    @precondition(lambda self: self.flying)
    @rule(pick=st.integers(0))
    def send(self, pick: int) -> None:
        self.core.sent(self.flying_one(pick), self.now)

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

    @precondition(lambda self: self.queue)
    @rule(pick=st.integers(0))
    def cancel(self, pick: int) -> None:
        name = sorted(self.queue)[pick % len(self.queue)]
        self.core.settle(name, Outcome(CallState.CANCELLED, sent=False), self.now)
        del self.queue[name]
        self.aside.pop(name, None)
        self.ended.add(name)

    @rule(quota=st.sampled_from([quota.name for quota in QUOTAS]), seconds=st.floats(0, 20))
    def pause(self, quota: str, seconds: float) -> None:
        until = self.now + seconds
        self.core.observe(quota, Signals(pause_until=until), self.now)
        self.paused[quota] = max(self.paused.get(quota, 0.0), until)

    @rule()
    def restart_in_this_process(self) -> None:
        self.restart({*self.queue, *self.flying})

    @rule()
    def restart_after_a_crash(self) -> None:
        """In flight becomes unknown; what was queued is resumed at once."""
        self.restart(set(self.queue))
        self.lose_what_flies()

    @rule()
    def restart_with_nobody_there(self) -> None:
        """What was queued waits for its run to resume."""
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
        self.losses[name] += 1
        self.ended.add(name)

    @precondition(lambda self: self.parked or self.ended)
    @rule(pick=st.integers(0))
    def ask_again(self, pick: int) -> None:
        if row := self.one_of(pick, CallState.UNKNOWN, CallState.FAILED, CallState.CANCELLED):
            self.resubmit(row)

    @precondition(lambda self: self.parked or self.ended)
    @rule(pick=st.integers(0), state=st.sampled_from(DECISIONS))
    def decide(self, pick: int, state: CallState) -> None:
        row = self.one_of(pick, CallState.UNKNOWN)
        if row is None:
            return
        self.core.decide(row, Outcome(state, answer="yes"), self.now)
        self.parked.pop(row.call.id, None)
        self.ended.add(row.call.id)
        if state is CallState.QUEUED:
            self.ended.remove(row.call.id)
            self.parked[row.call.id] = row.call

    # What must hold

    @invariant()
    def no_window_is_over_budget(self) -> None:
        for (quota, resource), limit in LIMITS.items():
            attempts = [a for a in self.spent if quota in a.call.quotas]
            if resource is Resource.CONCURRENCY:
                assert sum(not a.is_over for a in attempts) <= limit.capacity
                continue
            # A bucket charged at admission with what was really used: never short of the next.
            level, at = limit.capacity, START
            for attempt in attempts:
                level = min(limit.capacity, level + (attempt.at - at) * limit.per_second)
                at = attempt.at
                assert level >= min(attempt.amount(resource), limit.capacity) - 1e-3
                level -= attempt.amount(resource)

    @invariant()
    def no_call_is_lost(self) -> None:
        live = {name for name in self.arrival if self.core.explain(name, self.now) is not None}
        assert live == set(self.arrival) - self.ended
        assert live == {*self.queue, *self.flying, *self.parked}
        statistics = self.core.statistics(self.now)
        assert statistics.in_flight == len(self.flying)
        assert sum(statistics.waiting) == len(self.queue)
        assert statistics.parked == len(self.parked)

    @invariant()
    def no_row_is_of_another_place_or_hides_a_loss(self) -> None:
        for name, row in self.rows.items():
            assert row.seq == self.arrival[name]
            assert row.losses <= self.losses[name]

    @invariant()
    def nothing_is_free_twice_or_leaked(self) -> None:
        for gauge in self.core.statistics(self.now).gauges:
            assert gauge.available <= gauge.capacity + 1e-6
            if not self.flying and not gauge.per_second:
                assert gauge.available == gauge.capacity

    @invariant()
    def no_reservation_is_negative_or_outlives_its_call(self) -> None:
        for quota in self.core._lanes.quotas.values():
            for bucket in quota.buckets:
                assert bucket.reserved >= 0
                if not self.flying:
                    assert bucket.reserved == 0

    def teardown(self) -> None:
        if hasattr(self, "core"):
            self.everything_goes_in_the_end()

    def everything_goes_in_the_end(self) -> None:
        for name in list(self.parked):
            self.resubmit(replace(self.rows[name]))
        for _ in range(1_000):
            for name in list(self.flying):
                self.end_attempt(name, Outcome(CallState.DONE))
                self.ended.add(name)
            self.admit()
            self.now = self.core.next_event(self.now) or self.now
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
        if outcome.used_tokens is not None and not restarted:
            attempt.tokens = outcome.used_tokens
        self.core.settle(name, outcome, self.now)

    def check_nobody_was_passed(self, call: Call) -> None:
        """A better call of the same model was ready and is still waiting: it was passed."""
        rank = call.priority, self.arrival[call.id]
        for other in self.queue.values():
            if other.quotas == call.quotas and other.id not in self.aside:
                assert (other.priority, self.arrival[other.id]) >= rank

    def slots_are_taken(self) -> bool:
        return sum("local" in attempt.call.quotas for attempt in self.flying.values()) == 2

    def lose_what_flies(self) -> None:
        for name, attempt in self.flying.items():
            attempt.is_over = True
            self.losses[name] += 1
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
        self.core.resubmit(row, self.now)
        self.queue[name] = row.call
        self.parked.pop(name, None)
        self.ended.discard(name)

    def write(self) -> None:
        self.was_written = True
        batch = self.core.take_batch(self.now)
        self.rows |= {r.call.id: replace(r) for r in (*batch.new, *batch.changed)}
        self.buckets |= {(state.quota, state.resource): state for state in batch.buckets}

    def restart(self, owned: set[str]) -> None:
        """Write, forget and go on: the gauges must read the same.

        What was written earlier counts as in transit until it has surely arrived: then they may
        read less, by what refills in that time.
        """
        was_written = self.was_written
        self.write()
        assert all(row.losses == self.losses[name] for name, row in self.rows.items())
        live = sorted(
            (replace(row) for row in self.rows.values() if row.state in LIVE_CALLS),
            key=lambda row: row.seq,
        )
        crashed = {row.call.id for row in live if row.state in IN_FLIGHT} - owned
        before = self.core.statistics(self.now).gauges
        self.core = Scheduler(QUOTAS, self.now, STRICT)
        snapshot = Snapshot(tuple(self.buckets.values()), tuple(live), len(self.rows))
        self.core.restore(snapshot, self.now, owned.__contains__)
        self.restarted_at = self.now
        self.was_written = False
        for old, new in zip(before, self.core.statistics(self.now).gauges, strict=True):
            if new.per_second:
                slack = TRANSIT_SECONDS * new.per_second if was_written else 0.0
                assert -slack - 1e-3 < new.available - old.available < 1e-3
            elif not crashed:
                assert new.available == old.available


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
