"""Walks both tables: every pair of states is tried."""

from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import pytest

from headway_scheduler.errors import IllegalTransition
from headway_scheduler.model.calls import Call, CallRecord, Priority
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import (
    CALL_TRANSITIONS,
    ENDED_RUNS,
    IN_FLIGHT,
    LIVE_CALLS,
    RUN_TRANSITIONS,
    CallState,
    RunState,
)

Table = Mapping[Any, frozenset[Any]]
Check = Callable[..., object]


def check_call(call_id: str, old: CallState, new: CallState) -> CallState:
    call = Call(call_id, "x", "agent", "model", (), Priority.NORMAL, 1, 0.0)
    CallRecord(call, 0, old).check(new)
    return new


def check_run(run_id: str, old: RunState, new: RunState) -> RunState:
    Run(run_id, "workflow", "task", Priority.NORMAL, old, 0.0).check(new)
    return new


TABLES: list[tuple[Table, Check]] = [(CALL_TRANSITIONS, check_call), (RUN_TRANSITIONS, check_run)]
PAIRS = [(table, check, *pair) for table, check in TABLES for pair in product(table, repeat=2)]
LEGAL = [(check, old, new) for table, check, old, new in PAIRS if new in table[old]]
ILLEGAL = [(check, old, new) for table, check, old, new in PAIRS if new not in table[old]]


def reachable(table: Table, start: str) -> set[str]:
    seen, todo = {start}, [start]
    while todo:
        fresh = table[todo.pop()] - seen
        seen |= fresh
        todo.extend(fresh)
    return seen


@pytest.mark.parametrize(("check", "old", "new"), LEGAL)
def test_a_step_of_the_table_passes(check: Check, old: str, new: str) -> None:
    assert check("x-1", old, new) is new


@pytest.mark.parametrize(("check", "old", "new"), ILLEGAL)
def test_any_other_step_raises_and_names_what_was_asked(check: Check, old: str, new: str) -> None:
    with pytest.raises(IllegalTransition, match=f"x-1: {old} to {new}"):
        check("x-1", old, new)


@pytest.mark.parametrize(
    ("table", "states"), [(CALL_TRANSITIONS, CallState), (RUN_TRANSITIONS, RunState)]
)
def test_the_table_has_a_row_for_every_state(
    table: Table, states: type[CallState] | type[RunState]
) -> None:
    assert set(table) == set(states)


@pytest.mark.parametrize(
    ("table", "start"),
    [(CALL_TRANSITIONS, CallState.QUEUED), (RUN_TRANSITIONS, RunState.QUEUED)],
)
def test_every_state_is_reachable_from_queued(table: Table, start: str) -> None:
    assert reachable(table, start) == set(table)


def test_an_answer_is_final_and_a_call_without_one_may_be_asked_again() -> None:
    ends = {CallState.DONE, CallState.FAILED, CallState.CANCELLED}
    again = frozenset({CallState.QUEUED})
    assert {state: CALL_TRANSITIONS[state] for state in ends} == {
        CallState.DONE: frozenset(),
        CallState.FAILED: again,
        CallState.CANCELLED: again,
    }


def test_a_finished_run_has_no_way_out_but_a_failed_one_may_run_again() -> None:
    ways = {state: RUN_TRANSITIONS[state] for state in ENDED_RUNS}
    assert ways == {
        RunState.COMPLETED: frozenset(),
        RunState.CANCELLED: frozenset(),
        RunState.FAILED: frozenset({RunState.RUNNING, RunState.QUEUED}),
    }


@pytest.mark.parametrize(
    "state", [RunState.INTERRUPTED, RunState.PAUSED, RunState.WAITING, RunState.FAILED]
)
def test_a_run_that_stopped_before_its_end_may_go_on(state: RunState) -> None:
    assert {RunState.RUNNING, RunState.QUEUED} <= RUN_TRANSITIONS[state]


def test_a_run_that_waits_for_a_person_may_stop_in_any_way() -> None:
    ways = {RunState.PAUSED, RunState.INTERRUPTED, RunState.CANCELLED, RunState.FAILED}
    assert ways <= RUN_TRANSITIONS[RunState.WAITING]


@pytest.mark.parametrize("state", sorted(LIVE_CALLS | {CallState.UNKNOWN}))
def test_every_unfinished_call_can_be_cancelled_and_can_fail(state: CallState) -> None:
    assert {CallState.CANCELLED, CallState.FAILED} <= CALL_TRANSITIONS[state]


@pytest.mark.parametrize("state", sorted(IN_FLIGHT))
def test_every_call_in_flight_can_become_unknown(state: CallState) -> None:
    assert CallState.UNKNOWN in CALL_TRANSITIONS[state]
