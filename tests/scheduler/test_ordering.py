from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway_scheduler.model import Call, CallRecord, Priority
from headway_scheduler.ordering import StrictPriority


def record(seq: int, priority: Priority = Priority.NORMAL) -> CallRecord:
    return CallRecord(Call(f"c{seq}", "r", "a", "m", ("q",), priority, 1, 0.0), seq)


def drain(queue: StrictPriority) -> list[int]:
    return [queue.pop().seq for _ in range(len(queue))]


def test_the_lower_class_number_goes_first_then_the_earlier_arrival() -> None:
    queue = StrictPriority()
    for seq, priority in enumerate((Priority.LOW, Priority.HIGH, Priority.LOW, Priority.HIGH)):
        queue.push(record(seq, priority))
    assert drain(queue) == [1, 3, 0, 2]


def test_a_call_that_comes_back_has_its_old_place() -> None:
    queue = StrictPriority()
    for seq in range(3):
        queue.push(record(seq))
    queue.push(queue.pop())
    assert drain(queue) == [0, 1, 2]


def test_a_call_that_was_removed_and_comes_back_is_there_once() -> None:
    queue = StrictPriority()
    for seq in range(3):
        queue.push(record(seq))
    queue.remove(again := record(0))
    queue.push(again)
    assert drain(queue) == [0, 1, 2]
    assert queue.head() is None


def test_removing_what_is_not_there_changes_nothing() -> None:
    queue = StrictPriority()
    queue.push(record(1))
    queue.remove(record(7))
    assert drain(queue) == [1]


def test_an_empty_queue_has_no_head_and_nothing_to_pop() -> None:
    queue = StrictPriority()
    assert queue.head() is None
    with pytest.raises(IndexError, match="empty"):
        queue.pop()


def test_removed_calls_do_not_pile_up() -> None:
    queue = StrictPriority()
    queue.push(record(0))
    for seq in range(1, 10_000):
        queue.push(record(seq))
        queue.remove(record(seq))
    assert len(queue._heap) < 20


OPERATIONS: list[Callable[[StrictPriority, CallRecord], object]] = [
    StrictPriority.push,
    StrictPriority.remove,
    lambda queue, _: queue.pop() if len(queue) else None,
]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 9), st.sampled_from(Priority)))
)
def test_it_agrees_with_a_sorted_list(
    steps: list[tuple[Callable[[StrictPriority, CallRecord], object], int, Priority]],
) -> None:
    queue = StrictPriority()
    classes: dict[int, Priority] = {}
    for operation, seq, priority in steps:
        operation(queue, record(seq, classes.setdefault(seq, priority)))
        expected = sorted(queue, key=lambda r: (r.call.priority, r.seq))
        head = queue.head()
        assert (head[1] if head else None) == (expected[0] if expected else None)
        assert len(queue) == len(expected)
    assert drain(queue) == [r.seq for r in expected] if steps else True
