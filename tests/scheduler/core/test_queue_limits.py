"""How many calls may wait, and how much text they may bring: new ones beyond that are refused."""

import pytest

from headway_scheduler.core.policy import Policy
from headway_scheduler.core.scheduler import Scheduler
from headway_scheduler.errors import QueueFull
from headway_scheduler.model.batch import Snapshot
from headway_scheduler.model.calls import Call, CallRecord, Outcome, Priority
from headway_scheduler.model.prompts import Chunk, Prompt
from headway_scheduler.model.quotas import Quota
from headway_scheduler.model.states import CallState
from headway_scheduler.protocol.messages import Resubmit, Settle, Submit

NOW = 1_000_000.0
CANCELLED = Outcome(CallState.CANCELLED, sent=False)


def call(id: str) -> Call:
    return Call(id, "r", "a", "m", ("q",), Priority.NORMAL, 1, NOW)


def texts(*characters: int, of: str = "x") -> Prompt:
    return Prompt(tuple(Chunk(bytes([n]) * 16, of * each) for n, each in enumerate(characters)), ())


def core(**limits: int) -> Scheduler:
    return Scheduler([Quota.per_minute("q", concurrency=1)], NOW, Policy(**limits))  # type: ignore[arg-type]


def test_a_call_beyond_the_limit_is_refused_and_nothing_else_changes() -> None:
    scheduler = core(waiting=2)
    scheduler.handle(Submit(call("a")), NOW)
    scheduler.handle(Submit(call("b")), NOW)
    with pytest.raises(QueueFull, match=r"2 calls wait .* defaults.waiting permits no more"):
        scheduler.handle(Submit(call("c")), NOW)
    assert sorted(scheduler.state.live) == ["a", "b"]
    scheduler.handle(Settle("a", CANCELLED), NOW)
    scheduler.handle(Submit(call("c")), NOW)
    assert [record.call.id for record in scheduler.take_batch(NOW).new] == ["a", "b", "c"]


def test_what_waited_before_is_never_refused() -> None:
    parked = [CallRecord(call(id), seq) for seq, id in enumerate("abc")]
    scheduler = core(waiting=1)
    scheduler.restore(Snapshot(calls=tuple(parked), next_seq=3), NOW, lambda record: False)
    for record in parked:
        scheduler.handle(Resubmit(record), NOW)
    scheduler.handle(Resubmit(CallRecord(call("d"), 3, CallState.FAILED)), NOW)
    [granted] = scheduler.admit(NOW)
    scheduler.handle(Settle(granted.call.id, Outcome(CallState.QUEUED)), NOW)
    assert len(scheduler.state.live) == 4


def test_texts_count_while_their_calls_live() -> None:
    scheduler = core(waiting_bytes=800)
    for id in "abcdefg":
        scheduler.handle(Submit(call(id), texts(60, 40)), NOW)
    scheduler.handle(Submit(call("h"), texts(25, of="é")), NOW)
    assert scheduler.state.bytes == 800
    with pytest.raises(QueueFull, match=r"brought 800 bytes .* brings 1, .*waiting_bytes"):
        scheduler.handle(Submit(call("i"), texts(1)), NOW)
    scheduler.handle(Submit(call("j")), NOW)
    scheduler.handle(Settle("h", CANCELLED), NOW)
    scheduler.handle(Submit(call("i"), texts(100)), NOW)


def test_no_call_alone_may_bring_more_than_an_eighth() -> None:
    scheduler = core(waiting_bytes=800)
    with pytest.raises(QueueFull, match=r"more than an eighth .*shorten the prompt"):
        scheduler.handle(Submit(call("a"), texts(101)), NOW)
    assert scheduler.state.bytes == 0
