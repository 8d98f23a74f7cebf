"""Budgets of runs: what calls in flight may cost counts, so many at once do not pass a budget."""

import random
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from headway_scheduler.core.inspection import explain
from headway_scheduler.core.scheduler import Scheduler
from headway_scheduler.errors import BudgetExceeded
from headway_scheduler.model.batch import Batch, Snapshot
from headway_scheduler.model.calls import Call, CallRecord, Outcome, Priority, Route, Usage
from headway_scheduler.model.data import replace
from headway_scheduler.model.quotas import BucketState, Quota, Resource
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import LIVE_CALLS, CallState, RunState
from headway_scheduler.protocol.messages import (
    ForgetRuns,
    MarkSent,
    Reestimate,
    Resubmit,
    SaveRun,
    Settle,
    Submit,
)

NOW = 1_000_000.0
ANSWER = Usage(10, 10)


def run(budget_usd: float | None = 1.0, **facts: object) -> Run:
    return replace(
        Run("r", "w", "t", Priority.NORMAL, RunState.RUNNING, NOW, budget_usd=budget_usd),
        **facts,  # type: ignore[arg-type]
    )


def call(id: str, usd: float, *, unbounded: bool = False, run_id: str = "r") -> Call:
    return Call(id, run_id, "a", "m", ("q",), Priority.NORMAL, 1, NOW, usd=usd, unbounded=unbounded)


def core(budget_usd: float | None = 1.0, *, at_once: int = 100) -> Scheduler:
    scheduler = Scheduler([Quota.per_minute("q", concurrency=at_once)], NOW)
    scheduler.handle(SaveRun(run(budget_usd)), NOW)
    return scheduler


def admitted(scheduler: Scheduler) -> list[str]:
    return [record.call.id for record in scheduler.admit(NOW)]


def done(usd: float | None) -> Outcome:
    usage = None if usd is None else ANSWER
    return Outcome(CallState.DONE, usage=usage, answer="{}", usd=usd)


def test_calls_in_flight_count_what_they_reserve_and_the_others_wait_and_say_why() -> None:
    scheduler = core()
    for id in ("a", "b", "c"):
        scheduler.handle(Submit(call(id, 0.4)), NOW)
    assert admitted(scheduler) == ["a", "b"]
    why = explain(scheduler.state, "c", NOW)
    assert why is not None
    [blocker] = why.blockers
    assert (blocker.quota, blocker.resource, blocker.at) == ("run r", Resource.USD, None)
    assert (blocker.need, blocker.free) == (pytest.approx(0.4), pytest.approx(0.2))
    scheduler.handle(Settle("a", done(0.1)), NOW)
    assert admitted(scheduler) == ["c"]


def test_a_call_that_no_end_of_another_can_help_is_refused_at_once() -> None:
    scheduler = core()
    scheduler.handle(Submit(call("a", 0.4)), NOW)
    assert admitted(scheduler) == ["a"]
    with pytest.raises(BudgetExceeded, match=r"may spend \$1.0000, .* come to \$1.1000"):
        scheduler.handle(Submit(call("b", 1.1)), NOW)


def test_a_call_that_waits_is_refused_once_no_end_can_help_it_any_more() -> None:
    scheduler = core()
    scheduler.handle(Submit(call("a", 0.6)), NOW)
    scheduler.handle(Submit(call("b", 0.5)), NOW)
    assert admitted(scheduler) == ["a"]
    assert scheduler.take_refused() == []
    scheduler.handle(Settle("a", done(0.6)), NOW)
    assert admitted(scheduler) == []
    [(record, error)] = scheduler.take_refused()
    assert (record.call.id, record.state) == ("b", CallState.FAILED)
    assert isinstance(error, BudgetExceeded)
    assert "b" not in scheduler.state.live
    assert record in scheduler.take_batch(NOW).new


@pytest.mark.parametrize(
    ("outcome", "spent"),
    [
        (done(0.25), 0.25),
        (done(None), 0.4),
        (Outcome(CallState.UNKNOWN), 0.4),
        (Outcome(CallState.CANCELLED), 0.4),
        (Outcome(CallState.CANCELLED, sent=False), 0.0),
        (Outcome(CallState.FAILED, error="500", usd=0.0), 0.0),
        (Outcome(CallState.QUEUED, error="cut"), 0.4),
        (Outcome(CallState.QUEUED, error="429", refused=True), 0.0),
        (done(-5.0), 0.0),
    ],
)
def test_what_an_end_costs(outcome: Outcome, spent: float) -> None:
    scheduler = core()
    scheduler.handle(Submit(call("a", 0.4)), NOW)
    scheduler.admit(NOW)
    scheduler.handle(Settle("a", outcome), NOW)
    budget = scheduler.state.budgets.by_run["r"]
    assert (budget.spent_usd, budget.reserved_usd) == (pytest.approx(spent), 0.0)


def test_of_calls_that_may_cost_more_than_they_reserve_one_at_a_time_goes() -> None:
    scheduler = core()
    for id in ("a", "b"):
        scheduler.handle(Submit(call(id, 0.1, unbounded=True)), NOW)
    scheduler.handle(Submit(call("c", 0.1)), NOW)
    assert admitted(scheduler) == ["a", "c"]
    scheduler.handle(Reestimate("b", (Route("m", ("q",), 1, usd=0.2),)), NOW)
    assert admitted(scheduler) == ["b"]
    assert scheduler.state.live["b"].record.call.usd == 0.2


def test_a_limit_of_dollars_a_day_counts_them_the_same() -> None:
    scheduler = Scheduler([Quota.stated("q", {Resource.USD_PER_DAY: 1.0})], NOW)
    for id in ("a", "b"):
        scheduler.handle(Submit(call(id, 0.1, unbounded=True)), NOW)
    assert admitted(scheduler) == ["a"]
    why = explain(scheduler.state, "b", NOW)
    assert why is not None
    assert [blocker.at for blocker in why.blockers] == [None]
    scheduler.handle(Settle("a", done(0.7)), NOW)
    assert admitted(scheduler) == ["b"]


def test_a_run_that_is_short_of_dollars_holds_up_no_other_run() -> None:
    scheduler = core(at_once=2)
    scheduler.handle(Submit(call("a", 0.9)), NOW)
    scheduler.handle(Submit(call("b", 0.9)), NOW)
    scheduler.handle(Submit(call("x", 0.0, run_id="other")), NOW)
    assert admitted(scheduler) == ["a", "x"]


def test_a_raised_budget_lets_those_go_that_wait() -> None:
    scheduler = core()
    for id in ("a", "b"):
        scheduler.handle(Submit(call(id, 0.9)), NOW)
    assert admitted(scheduler) == ["a"]
    scheduler.handle(SaveRun(run(2.0)), NOW)
    assert admitted(scheduler) == ["b"]


def test_what_was_spent_stays_spent_when_the_run_goes_on_with_more() -> None:
    scheduler = core()
    scheduler.handle(Submit(call("a", 0.9)), NOW)
    scheduler.admit(NOW)
    scheduler.handle(Settle("a", done(0.8)), NOW)
    scheduler.handle(SaveRun(run(state=RunState.FAILED)), NOW)
    scheduler.handle(SaveRun(run(1.5)), NOW)
    with pytest.raises(BudgetExceeded):
        scheduler.handle(Submit(call("b", 0.8)), NOW)
    failed = CallRecord(call("c", 0.0), 7, CallState.FAILED)
    dearer = (Route("m", ("q",), 1, usd=0.8),)
    with pytest.raises(BudgetExceeded):  # its row has the prices of an attempt without a budget
        scheduler.handle(Resubmit(failed, dearer), NOW)


def test_rows_tell_what_was_spent_where_nothing_else_does() -> None:
    scheduler = core()
    scheduler.handle(SaveRun(run(), spent_usd=0.8), NOW)
    scheduler.handle(SaveRun(run(), spent_usd=0.1), NOW)
    with pytest.raises(BudgetExceeded):
        scheduler.handle(Submit(call("a", 0.3)), NOW)
    [state] = scheduler.take_batch(NOW).buckets
    assert state == BucketState("run r", Resource.USD, -0.8, NOW)


def test_a_budget_is_forgotten_with_its_run() -> None:
    scheduler = core()
    scheduler.handle(SaveRun(run(state=RunState.COMPLETED)), NOW)
    scheduler.handle(ForgetRuns(("r", "unknown")), NOW)
    assert not scheduler.state.budgets.by_run


def test_a_call_that_leaves_its_place_lets_those_go_that_wait_behind_it() -> None:
    scheduler = core(at_once=1)
    scheduler.handle(Submit(call("a", 0.5)), NOW)
    assert admitted(scheduler) == ["a"]
    scheduler.handle(Submit(call("b", 0.8)), NOW)
    assert admitted(scheduler) == []
    scheduler.handle(Settle("b", Outcome(CallState.CANCELLED, sent=False)), NOW)
    scheduler.handle(Submit(call("c", 0.5)), NOW)
    scheduler.handle(Settle("a", done(0.4)), NOW)
    assert admitted(scheduler) == ["c"]


@dataclass
class Disk:
    """The committed rows, as a store has them."""

    rows: dict[str, CallRecord] = field(default_factory=dict)
    buckets: dict[tuple[str, Resource], BucketState] = field(default_factory=dict)

    def commit(self, batch: Batch) -> None:
        for record in (*batch.new, *batch.changed):
            self.rows[record.call.id] = replace(record)
        self.buckets |= {(each.quota, each.resource): each for each in batch.buckets}

    def snapshot(self) -> Snapshot:
        live = [replace(row) for row in self.rows.values() if row.state in LIVE_CALLS]
        return Snapshot(tuple(self.buckets.values()), tuple(live), len(self.rows))


@dataclass
class Spending:
    """A run that asks, is answered and changes leaders at random; the provider's bill counts."""

    chance: random.Random
    has_caps: bool
    disk: Disk = field(default_factory=Disk)
    billed: float = 0.0
    unheard: float = 0.0
    """What calls cost above what they reserved, without anybody telling."""
    flying: dict[str, float] = field(default_factory=dict)
    """By the id of each call in flight, what it is going to cost."""
    bound: float = 0.0
    number: int = 0

    def __post_init__(self) -> None:
        self.quotas = [Quota.per_minute("q", concurrency=self.chance.randint(1, 64))]
        self.budget = self.chance.uniform(0.5, 5.0)
        self.core = Scheduler(self.quotas, NOW)
        self.core.handle(SaveRun(run(self.budget)), NOW)

    def ask(self) -> None:
        for _ in range(self.chance.randint(0, 4)):
            usd = self.chance.uniform(0.0, 0.3)
            unbounded = not self.has_caps and self.chance.random() < 0.3
            with suppress(BudgetExceeded):
                self.core.handle(Submit(call(f"r.{self.number}", usd, unbounded=unbounded)), NOW)
            self.number += 1

    def admit(self) -> None:
        granted = self.core.admit(NOW)
        for record in granted:
            over = 0.0 if self.has_caps else self.chance.choice([0.0, 0.0, 0.5])
            self.flying[record.call.id] = self.chance.uniform(0.0, record.call.usd) + over
            self.core.handle(MarkSent(record.call.id, NOW), NOW)
        if granted:
            rows = [self.core.state.live[id].record.call for id in self.flying]
            assert sum(each.unbounded for each in rows) <= 1
            self.bound = self.unheard + sum(map(self.above, self.flying))
        self.core.take_refused()
        self.disk.commit(self.core.take_batch(NOW))

    def above(self, id: str) -> float:
        return max(0.0, self.flying[id] - self.core.state.live[id].record.call.usd)

    def change_leader(self) -> None:
        """Some of the workers die with the leader: their calls are billed, and nobody tells."""
        dead = {id for id in self.flying if self.chance.random() < 0.5}
        for id in dead:
            self.unheard += self.above(id)
            self.billed += self.flying.pop(id)
        self.core = Scheduler(self.quotas, NOW)
        self.core.restore(
            self.disk.snapshot(), NOW, lambda row: row.call.id not in dead, runs=[run(self.budget)]
        )
        self.disk.commit(self.core.take_batch(NOW))

    def answer(self) -> None:
        for id in [id for id in self.flying if self.chance.random() < 0.4]:
            kind = self.chance.choice(["told", "told", "unknown", "lost", "again"])
            outcome, cost = done(self.flying[id]), self.flying[id]
            if kind == "again":
                outcome, cost = Outcome(CallState.QUEUED, error="500", usd=0.0), 0.0
            elif kind != "told":
                outcome = done(None) if kind == "unknown" else Outcome(CallState.UNKNOWN)
                self.unheard += self.above(id)
            del self.flying[id]
            self.billed += cost
            self.core.handle(Settle(id, outcome), NOW)


@pytest.mark.parametrize("seed", range(200))
@pytest.mark.parametrize("has_caps", [True, False])
def test_a_budget_is_passed_by_no_more_than_its_calls_cost_above_what_they_reserve(
    seed: int, has_caps: bool
) -> None:
    """1 to 64 at once. With caps no call costs more than it reserves, so nothing is passed."""
    spending = Spending(random.Random(seed), has_caps)
    for _ in range(300):
        spending.ask()
        spending.admit()
        if spending.chance.random() < 0.1:
            spending.change_leader()
        spending.answer()
    total = spending.billed + sum(spending.flying.values())
    assert spending.number > 100
    assert not has_caps or spending.bound == 0.0
    assert total <= spending.budget + spending.bound + 1e-9
    assert total > spending.budget / 3
