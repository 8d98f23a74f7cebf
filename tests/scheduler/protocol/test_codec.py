"""What processes write to each other comes back as it was."""

import json
from typing import get_args

import pytest
from msgspec.structs import fields

from headway_scheduler.errors import (
    CallTooLarge,
    HeadwayError,
    IllegalTransition,
    InternalError,
    StoreFull,
    UnknownQuota,
)
from headway_scheduler.model.batch import Lesson
from headway_scheduler.model.calls import Call, CallRecord, Outcome, Priority, Route, Usage
from headway_scheduler.model.changes import Change
from headway_scheduler.model.prompts import ChainNode, Chunk, Prompt
from headway_scheduler.model.quotas import Observation, ProviderEvent, RateLimitHeader, Resource
from headway_scheduler.model.runs import Order, Run, Worker
from headway_scheduler.model.states import CallState, RunState
from headway_scheduler.protocol.codec import (
    Grant,
    Notice,
    Parcel,
    Refusal,
    dump,
    error_of,
    error_text,
    is_parcel,
    load_notice,
    load_parcel,
)
from headway_scheduler.protocol.messages import (
    Amend,
    ApplyChange,
    AwaitRuns,
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

CALL = Call(
    "r.0", "r", "team/writer", "m", ("a", "b"), Priority.HIGH, 9, 1.5, "ab", 1, "sdk", 4, 5, 0.1
)
RUN = Run("r", "w", "task", Priority.LOW, RunState.RUNNING, 1.0, history=("before",), worker="w-1")
ROUTE = Route("other", ("a",), 9, rank=1)
RECORD = CallRecord(CALL, 7, CallState.UNKNOWN, attempts=2, usage=Usage(1, 2), lost_attempts=1)
SIGNALS = Observation(
    2.0, ProviderEvent.REFUSED, {Resource.TOKENS: RateLimitHeader(1.0, 0.0, 3.0)}, "slow down"
)

MESSAGES: tuple[Message, ...] = (
    Submit(
        CALL,
        Prompt((Chunk(b"\x00\xff", "t"),), (ChainNode(b"l", None, b"\xff"),)),
        (ROUTE,),
    ),
    Submit(CALL, parked=True),
    Resubmit(RECORD, (ROUTE,)),
    Decide(RECORD, Outcome(CallState.DONE, answer="words", arrival=3)),
    MarkSent("r.0", 2.5),
    Observe("r.0", {"a": SIGNALS}),
    Settle("r.0", Outcome(CallState.QUEUED, refused=True), {"a": SIGNALS}),
    SetCallPriority("r.0", Priority.INTERACTIVE),
    AwaitRuns("r", frozenset({"s", "t"})),
    SaveRun(RUN),
    ApplyChange(Change(1.0, "gate", "all", "[]")),
    Learn((Lesson("tokens", "s", "{}"),)),
    Amend((RECORD,)),
    ForgetRuns(("r", "s")),
    DropWorker("w-1"),
    ProbeStopped(),
)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_as_it_was(message: Message) -> None:
    parcel = Parcel("w-1", (message,), 3, Worker("w-1", 1, 2.0, "label", 3, True, ("a",)))
    assert is_parcel(dump(parcel))
    assert load_parcel(dump(parcel)) == parcel


def test_every_field_of_a_message_is_tried() -> None:
    """Each type of message, and each field that has a default, at another value."""
    assert {type(message) for message in MESSAGES} == set(get_args(Message))
    tried = {
        (type(message), each.name)
        for message in MESSAGES
        for each in fields(message)
        if getattr(message, each.name) != each.default
        and getattr(message, each.name) not in ({}, (), frozenset())
    }
    assert tried == {(kind, each.name) for kind in get_args(Message) for each in fields(kind)}


def test_a_notice_comes_back_as_it_was() -> None:
    notice = Notice(
        (Grant("r.0", 1.5, 2, ROUTE),),
        ((4, (Refusal(0, ("CallTooLarge", "words")),)), (5, ())),
        ("r.1",),
        (Order("execute", "r", run=RUN), Order("bump", "r", Priority.LOW)),
        ("a",),
        ("b",),
        True,
    )
    assert load_notice(dump(notice)) == notice


def test_lone_surrogates_pass() -> None:
    parcel = Parcel("w-1", (Settle("r.0", Outcome(CallState.DONE, answer="a\ud800b")),))
    text = dump(parcel)
    assert text.isascii()
    assert load_parcel(text) == parcel


@pytest.mark.parametrize("error", [CallTooLarge, UnknownQuota, StoreFull, IllegalTransition])
def test_an_error_comes_back_in_its_class_and_words(error: type[HeadwayError]) -> None:
    again = error_of(error_text(error("what to do")))
    assert (type(again), str(again)) == (error, "what to do")


def test_an_error_of_another_version_keeps_its_words() -> None:
    again = error_of(("FromTheFuture", "what to do"))
    assert (type(again), str(again)) == (HeadwayError, "what to do")


@pytest.mark.parametrize(
    "text", ['{"worker": 1}', json.dumps({"worker": "w", "messages": [{"submit": 3}]})]
)
def test_what_is_no_parcel_is_our_fault(text: str) -> None:
    with pytest.raises(InternalError, match="another version of Headway"):
        load_parcel(text)
