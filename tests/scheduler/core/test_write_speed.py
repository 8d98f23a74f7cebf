"""A server of one's own that becomes slow is sent less at once."""

import pytest

from headway_scheduler.core.inspection import statistics
from headway_scheduler.core.limits.write_speed import ANSWERS, SLOW, WriteSpeed
from headway_scheduler.core.scheduler import Scheduler
from headway_scheduler.model.calls import Call, Outcome, Priority, Usage
from headway_scheduler.model.data import replace
from headway_scheduler.model.quotas import Quota
from headway_scheduler.model.states import CallState
from headway_scheduler.protocol.messages import MarkSent, Settle, Submit

NOW = 1_772_366_400.0


def answers(write_speed: WriteSpeed, seconds: float, count: int = ANSWERS) -> list[bool]:
    return [write_speed.add(seconds, 10) for _ in range(count)]


def test_a_steady_server_is_well() -> None:
    write_speed = WriteSpeed()
    assert not any(answers(write_speed, 1.0, 200))


@pytest.mark.parametrize("factor", [1.5, SLOW - 0.5])
def test_a_batch_may_make_it_somewhat_slower(factor: float) -> None:
    write_speed = WriteSpeed()
    answers(write_speed, 1.0)
    assert not any(answers(write_speed, factor, 50))


def test_far_slower_than_at_its_best_is_said_once() -> None:
    write_speed = WriteSpeed()
    answers(write_speed, 1.0)
    said = answers(write_speed, 10.0)
    assert sum(said) == 1
    assert said.index(True) < ANSWERS  # it takes some answers, not one


def test_one_slow_answer_is_nothing() -> None:
    write_speed = WriteSpeed()
    answers(write_speed, 1.0)
    assert not write_speed.add(20.0, 10)
    assert not any(answers(write_speed, 1.0, 50))


def test_a_larger_model_is_not_slow_for_ever() -> None:
    write_speed = WriteSpeed()
    answers(write_speed, 1.0)
    said = answers(write_speed, 6.0, 2_000)
    assert any(said)
    assert not any(said[-500:])


@pytest.mark.parametrize(("is_local", "slots"), [(True, 3), (False, 4)])
def test_it_is_sent_a_quarter_less_at_once(is_local: bool, slots: int) -> None:
    quota = replace(Quota.per_minute("gpu", concurrency=4), is_local=is_local)
    core = Scheduler([quota], NOW)
    now = NOW
    for n in range(2 * ANSWERS):
        for other in range(4):
            call = Call(f"{n}.{other}", "r", "a", "m", ("gpu",), Priority.NORMAL, 1, now)
            core.handle(Submit(call), now)
        took = 1.0 if n < ANSWERS else 20.0
        for record in core.admit(now):
            core.handle(MarkSent(record.call.id, now), now)
            if record.call.id.endswith(".0"):
                first = record.call.id
        core.handle(Settle(first, Outcome(CallState.DONE, Usage(5, 10), "{}")), now + took)
        (gauge,) = statistics(core.state, now + took).gauges
        if gauge.capacity < 4:
            break
        for other in range(1, 4):
            core.handle(Settle(f"{n}.{other}", Outcome(CallState.CANCELLED)), now + took)
        now += took
    assert gauge.capacity == slots
