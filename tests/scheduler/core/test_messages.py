"""``Scheduler.handle`` takes every message whole, or refuses it whole."""

from collections.abc import Callable

import pytest

from headway_scheduler.core.inspection import explain, provider_health, queued, statistics
from headway_scheduler.core.scheduler import Scheduler
from headway_scheduler.errors import (
    CallerError,
    CallTooLarge,
    HeadwayError,
    IllegalTransition,
    InternalError,
    NothingToAnswer,
    UnknownQuota,
)
from headway_scheduler.model import changes
from headway_scheduler.model.batch import Batch, Lesson
from headway_scheduler.model.calls import Call, CallRecord, Outcome, Priority, Route, Usage
from headway_scheduler.model.changes import HoldState
from headway_scheduler.model.data import replace
from headway_scheduler.model.prompts import ChainNode, Chunk, Prompt
from headway_scheduler.model.quotas import Observation, ProviderEvent, Quota
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import CallState, RunState
from headway_scheduler.protocol.messages import (
    Amend,
    ApplyChange,
    AwaitRuns,
    ChargeRequest,
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

NOW = 1_772_366_400.0
Q = Quota.per_minute("q", requests=60, tokens=6_000, concurrency=2)
DONE = Outcome(CallState.DONE, usage=Usage(1, 1), answer="{}")
FAILED = Observation(event=ProviderEvent.FAILED, pause_until=NOW + 9)
RUN = Run("r", "w", "task", Priority.NORMAL, RunState.RUNNING, NOW)
PROMPT = Prompt((Chunk(b"t", "text"),), (ChainNode(b"n", None, b"t"),))
LESSON = Lesson("tokens", "agent", "{}")
HELD = changes.hold("all", HoldState.PAUSED, 0, NOW)


def call(id: str, *quotas: str, tokens: int = 1) -> Call:
    return Call(id, "r", "agent", "model", quotas or ("q",), Priority.NORMAL, tokens, NOW)


def row(id: str, state: CallState) -> CallRecord:
    return CallRecord(call(id), 7, state)


PAST = replace(call("past"), kind="bypass")


def scheduler() -> Scheduler:
    """``flying`` is in flight for a worker, ``waiting`` is queued behind an operator's hold."""
    core = Scheduler([Q], NOW)
    core.handle(SaveRun(RUN), NOW)
    core.handle(Submit(call("flying")), NOW, worker="w-1")
    core.admit(NOW)
    core.handle(ApplyChange(HELD), NOW)
    core.handle(Submit(call("waiting")), NOW)
    core.handle(Submit(call("question"), parked=True), NOW)
    core.take_batch(NOW)
    return core


def visible_state(core: Scheduler) -> object:
    """All that callers can see of a scheduler."""
    names = ("flying", "waiting", "question", "new", "old")
    return (
        [explain(core.state, name, NOW) for name in names],
        [record.call for record in queued(core.state)],
        statistics(core.state, NOW),
        core.state.next_seq,
        provider_health(core.state),
    )


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (Submit(call("waiting")), InternalError),
        (Submit(call("new", "other")), UnknownQuota),
        (Submit(call("new", tokens=7_000), PROMPT), CallTooLarge),
        (Submit(call("new"), routes=(Route("m", ("other",), 1),)), UnknownQuota),
        (Resubmit(row("waiting", CallState.UNKNOWN)), InternalError),
        (Resubmit(row("old", CallState.DONE)), IllegalTransition),
        (Resubmit(row("old", CallState.UNKNOWN), (Route("m", ("other",), 1),)), UnknownQuota),
        (Resubmit(row("question", CallState.QUEUED), (Route("m", ("other",), 1),)), UnknownQuota),
        (Observe("flying", {"q": FAILED, "other": FAILED}), UnknownQuota),
        (Settle("flying", DONE, {"q": FAILED, "other": FAILED}), UnknownQuota),
        (Settle("waiting", DONE, {"q": FAILED}), IllegalTransition),
        (Settle("waiting", Outcome(CallState.UNKNOWN), {"q": FAILED}), IllegalTransition),
        (Decide(row("waiting", CallState.QUEUED), DONE), NothingToAnswer),
        (Decide(row("question", CallState.QUEUED), Outcome(CallState.UNKNOWN)), IllegalTransition),
        (Decide(row("old", CallState.DONE), DONE), IllegalTransition),
        (SetCallPriority("flying", Priority.HIGH), CallerError),
        (ChargeRequest(("q",), call("new")), IllegalTransition),
        (ApplyChange(changes.limits("other", Q, NOW)), UnknownQuota),
        (ApplyChange(changes.resume("other", NOW)), UnknownQuota),
        (ApplyChange(changes.hold("everything", HoldState.PAUSED, 0, NOW)), CallerError),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, type) else value.__name__,
)
def test_a_message_that_is_refused_changes_nothing(
    message: Message, error: type[HeadwayError]
) -> None:
    core = scheduler()
    before = visible_state(core)
    with pytest.raises(error):
        core.handle(message, NOW)
    assert not core.take_batch(NOW)
    assert visible_state(core) == before


Written = Callable[[Batch], object]


def test_a_call_is_written_with_its_prompt() -> None:
    core = scheduler()
    core.handle(Submit(call("new"), PROMPT), NOW)
    batch = core.take_batch(NOW)
    assert [record.call.id for record in batch.new] == ["new"]
    assert (batch.chunks, batch.nodes) == (PROMPT.chunks, PROMPT.nodes)


def changed(batch: Batch) -> list[tuple[str, CallState]]:
    return [(record.call.id, record.state) for record in batch.changed]


@pytest.mark.parametrize(
    ("message", "written", "expected"),
    [
        (Resubmit(row("old", CallState.UNKNOWN)), changed, [("old", CallState.QUEUED)]),
        (MarkSent("flying", NOW), changed, [("flying", CallState.SENT)]),
        (Settle("flying", DONE), changed, [("flying", CallState.DONE)]),
        (Decide(row("question", CallState.QUEUED), DONE), changed, [("question", CallState.DONE)]),
        (SetCallPriority("waiting", Priority.LOW), changed, [("waiting", CallState.QUEUED)]),
        (Amend((row("old", CallState.DONE),)), changed, [("old", CallState.DONE)]),
        (ChargeRequest(("q",), PAST), lambda b: [r.state for r in b.new], [CallState.CANCELLED]),
        (ChargeRequest(("q",)), lambda b: {each.quota for each in b.buckets}, {"q"}),
        (DropWorker("w-1"), changed, [("flying", CallState.UNKNOWN)]),
        (Observe("flying", {"q": FAILED}), lambda b: b.buckets[0].paused_until, NOW + 9),
        (SaveRun(RUN), lambda batch: batch.runs, (RUN,)),
        (ApplyChange(HELD), lambda batch: batch.changes, (HELD,)),
        (Learn((LESSON,)), lambda batch: batch.lessons, (LESSON,)),
        (ForgetRuns(("r-1", "r-2")), lambda batch: batch.forget, ("r-1", "r-2")),
        (AwaitRuns("r", frozenset({"s"})), bool, False),
        (ProbeStopped(), bool, False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_message_changes_is_written(
    message: Message, written: Written, expected: object
) -> None:
    core = scheduler()
    core.handle(message, NOW)
    assert written(core.take_batch(NOW)) == expected
    assert not core.take_batch(NOW)


def test_a_locked_out_quota_that_may_try_is_written() -> None:
    core = scheduler()
    locked = Observation(event=ProviderEvent.LOCKED_OUT, error="no money")
    core.handle(Observe("flying", {"q": locked}), NOW)
    core.take_batch(NOW)
    core.handle(ProbeStopped(), NOW)
    assert [lesson.subject for lesson in core.take_batch(NOW).lessons] == ["q"]
