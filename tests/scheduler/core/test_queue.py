"""The order of the queue: each rule by itself, and all of them against a model without heaps."""

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from plain import PlainOrder

from headway_scheduler.core.admission.queue import Line, Pool, Waiter
from headway_scheduler.core.policy import STRICT, Policy
from headway_scheduler.model.calls import Call, CallRecord, Priority

POLICY = Policy(promised_share=(0.0, 0.1, 0.1, 0.05, 0.05), credit_seconds=2.0)


def waiter(
    seq: int,
    priority: Priority = Priority.NORMAL,
    team: str = "",
    due: float | None = None,
    cost: float = 1.0,
) -> Waiter:
    call = Call(f"c{seq}", "r", "a", "m", ("q",), priority, 1, 0.0)
    return Waiter(CallRecord(call, seq), priority, team, float(seq if due is None else due), cost)


def line(policy: Policy = STRICT, weights: dict[str, float] | None = None) -> Line:
    return Line(Pool(policy, weights or {}, 0.0))


def filled(queue: Line, *waiters: Waiter) -> Line:
    for each in waiters:
        queue.push(each, 0.0)
    return queue


def serve(queue: Line, now: float = 0.0) -> int:
    queue.pool.advance(now)
    head = queue.head()
    assert head is not None
    rank, first = head
    queue.serve(first, rank)
    return first.record.seq


def drain(queue: Line) -> list[int]:
    return [serve(queue) for _ in range(queue.waiting)]


def test_the_more_urgent_class_goes_first_then_the_earlier_arrival() -> None:
    priorities = (Priority.LOW, Priority.HIGH, Priority.LOW, Priority.HIGH)
    queue = filled(line(), *(waiter(seq, priority) for seq, priority in enumerate(priorities)))
    assert drain(queue) == [1, 3, 0, 2]
    assert queue.head() is None


def test_a_call_that_was_removed_and_comes_back_is_there_once() -> None:
    calls = [waiter(seq) for seq in range(3)]
    queue = filled(line(), *calls)
    queue.remove(calls[0])
    queue.push(replace(calls[0], is_gone=False), 0.0)
    assert drain(queue) == [0, 1, 2]
    assert queue.head() is None


def test_inside_a_team_the_earlier_due_time_goes_first() -> None:
    queue = filled(line(), *(waiter(seq, due=due) for seq, due in enumerate((3.0, 1.0, 2.0))))
    assert drain(queue) == [1, 2, 0]


def test_teams_take_turns_however_many_calls_one_has() -> None:
    flood = [waiter(seq, team="flood") for seq in range(6)]
    queue = filled(line(), *flood, *(waiter(seq, team="calm") for seq in (6, 7)))
    assert drain(queue)[:4] == [0, 6, 1, 7]


def test_a_team_of_twice_the_weight_gets_twice_as_much() -> None:
    calls = [waiter(seq, team="light" if seq % 2 else "heavy") for seq in range(24)]
    queue = filled(line(weights={"heavy": 2.0}), *calls)
    first = [serve(queue) for _ in range(12)]
    assert sum(seq % 2 == 0 for seq in first) == 8


def test_a_team_pays_by_cost_not_by_calls() -> None:
    dear = [waiter(seq, team="dear", cost=4.0) for seq in range(6)]
    cheap = [waiter(seq, team="cheap", cost=1.0) for seq in range(6, 26)]
    queue = filled(line(), *dear, *cheap)
    first = [serve(queue) for _ in range(15)]
    assert sum(seq < 6 for seq in first) == 3


def test_a_share_that_was_not_used_is_not_saved_up() -> None:
    queue = filled(line(), *(waiter(seq, team="busy") for seq in range(20)))
    for _ in range(10):
        serve(queue)
    filled(queue, *(waiter(seq, team="late") for seq in range(20, 30)))
    assert sum(serve(queue) >= 20 for _ in range(8)) == 4


def test_a_class_is_lifted_once_it_has_earned_its_next_call() -> None:
    low, high = Priority.BACKGROUND, Priority.INTERACTIVE
    queue = filled(line(POLICY), waiter(0, low), *(waiter(seq, high) for seq in range(1, 5)))
    assert serve(queue, now=19.0) == 1
    assert serve(queue, now=20.1) == 0  # 0.05 of 20 seconds is its cost of 1
    assert serve(queue, now=20.1) == 2


def test_what_a_class_gets_in_its_turn_counts_as_what_it_was_promised() -> None:
    low, high = Priority.BACKGROUND, Priority.INTERACTIVE
    queue = filled(line(POLICY), waiter(0, low), waiter(1, low))
    assert serve(queue, now=19.0) == 0
    filled(queue, waiter(2, high))
    assert serve(queue, now=21.0) == 2


def test_a_class_saves_up_no_more_than_its_credit() -> None:
    low, high = Priority.BACKGROUND, Priority.INTERACTIVE
    calls = [waiter(seq, low if seq < 5 else high) for seq in range(10)]
    queue = filled(line(POLICY), *calls)
    assert [serve(queue, now=1e6) for _ in range(4)] == [0, 1, 5, 6]


def test_a_call_above_the_credit_is_served_and_leaves_its_class_in_debt() -> None:
    low, high = Priority.BACKGROUND, Priority.INTERACTIVE
    calls = [waiter(0, low, cost=10.0), waiter(1, low), waiter(2, high), waiter(3, high)]
    queue = filled(line(POLICY), *calls)
    assert serve(queue, now=40.0) == 0
    assert [serve(queue, now=now) for now in (41.0, 199.0)] == [2, 3]


def become_one(queue: Line, other: Line, is_absorbed: bool) -> None:
    one, gone = (other, queue) if is_absorbed else (queue, other)
    one.pool.absorb(gone.pool)
    gone.pool = one.pool


@pytest.mark.parametrize("is_absorbed", [False, True])
def test_what_a_class_earned_in_one_pool_it_is_not_owed_in_another(is_absorbed: bool) -> None:
    low, high = Priority.BACKGROUND, Priority.INTERACTIVE
    queue = filled(line(POLICY), waiter(0, low), waiter(1, high))
    queue.pool.advance(40.0)
    other = filled(Line(Pool(POLICY, {}, 40.0)), waiter(2, low), waiter(3, high))
    become_one(queue, other, is_absorbed)
    assert [serve(each, now=40.0) for each in (queue, other)] == [1, 3]


@pytest.mark.parametrize("is_absorbed", [False, True])
def test_a_pool_in_which_nobody_waited_brings_no_time_along(is_absorbed: bool) -> None:
    queue, empty = Line(Pool(POLICY, {}, 40.0)), Line(Pool(POLICY, {}, 0.0))
    queue.push(waiter(0, Priority.BACKGROUND), 40.0)
    queue.push(waiter(1, Priority.INTERACTIVE), 40.0)
    become_one(queue, empty, is_absorbed)
    assert [serve(queue, now=40.0) for _ in range(2)] == [1, 0]


def test_a_clock_that_stepped_back_while_nobody_waited_costs_nothing() -> None:
    queue = Line(Pool(POLICY, {}, 100.0))
    queue.push(waiter(0, Priority.BACKGROUND), 0.0)
    queue.push(waiter(1, Priority.INTERACTIVE), 0.0)
    assert serve(queue, now=40.0) == 0


@pytest.mark.parametrize("is_absorbed", [False, True])
def test_a_class_takes_its_debt_into_a_pool_that_becomes_one(is_absorbed: bool) -> None:
    low, high = Priority.BACKGROUND, Priority.INTERACTIVE
    queue = filled(line(POLICY), waiter(0, low, cost=10.0), waiter(1, low), waiter(2, high))
    assert serve(queue, now=40.0) == 0
    other = filled(Line(Pool(POLICY, {}, 40.0)), waiter(3, low), waiter(4, high))
    become_one(queue, other, is_absorbed)
    # Without the debt, the class would have earned its next call by now.
    assert [serve(each, now=61.0) for each in (queue, other)] == [2, 4]


# All rules together

TEAMS = ["a", "b", "c"]
WEIGHTS = {"b": 2.0}
COSTS = [0.1, 0.5, 1.0, 5.0]


class Orders(RuleBasedStateMachine):
    """Three lines of one pool."""

    @initialize()
    def begin(self) -> None:
        pool = Pool(POLICY, WEIGHTS, 0.0)
        self.lines = [Line(pool) for _ in range(3)]
        self.plain = PlainOrder(POLICY, WEIGHTS)
        self.now, self.count = 0.0, 0

    @rule(
        where=st.integers(0, 2),
        priority=st.sampled_from(Priority),
        team=st.sampled_from(TEAMS),
        cost=st.sampled_from(COSTS),
        due=st.integers(0, 5),
        copies=st.integers(1, 6),
    )
    def push(
        self, where: int, priority: Priority, team: str, cost: float, due: int, copies: int
    ) -> None:
        for _ in range(copies):
            each = waiter(self.count, priority, team, float(due), cost)
            self.count += 1
            self.lines[where].push(each, self.now)
            self.plain.push(where, each)

    @precondition(lambda self: self.plain.waiting)
    @rule(where=st.integers(0, 2), times=st.integers(1, 5))
    def serve(self, where: int, times: int) -> None:
        for _ in range(times):
            head, expected = self.lines[where].head(), self.plain.head(where)
            if head is None:
                assert expected is None
                return
            rank, each = head
            assert each is expected
            assert rank == self.plain.rank(each)
            self.lines[where].serve(each, rank)
            self.plain.serve(each)

    @precondition(lambda self: self.plain.waiting)
    @rule(pick=st.integers(0))
    def remove(self, pick: int) -> None:
        where, each = self.plain.waiting[pick % len(self.plain.waiting)]
        self.lines[where].remove(each)
        self.plain.leave(each)

    @rule(seconds=st.sampled_from([0.0, 1.0, 10.0, 100.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.lines[0].pool.advance(self.now)
        self.plain.advance(self.now)

    @invariant()
    def the_heads_are_the_right_ones(self) -> None:
        for where, each in enumerate(self.lines):
            head = each.head()
            assert (head and head[1]) is self.plain.head(where)
            assert each.waiting == sum(at == where for at, _ in self.plain.waiting)

    @invariant()
    def nothing_is_kept_of_who_is_gone(self) -> None:
        for each in self.lines:
            entries = sum(queue._entries for queue in each._queues)
            assert entries <= 2 * each.waiting + 8 * len(Priority)
        if not self.plain.waiting:
            assert not any(each_class.teams for each_class in self.lines[0].pool.classes)

    def teardown(self) -> None:
        if hasattr(self, "lines"):
            for where, each in enumerate(self.lines):
                while each.head() is not None:
                    self.serve(where, 1)


TestOrders = Orders.TestCase
TestOrders.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
