"""Every type that processes write to each other comes back as it was, and is documented."""

import json
import re
from math import inf, nan
from pathlib import Path
from typing import cast, get_args

import msgspec
import pytest
from msgspec import Struct, inspect, structs
from tests.odd import unchecked
from tests.scheduler.protocol.examples import EXAMPLES

from headway_scheduler.errors import (
    CallerError,
    CallTooLarge,
    HeadwayError,
    IllegalTransition,
    InternalError,
    StoreFull,
    UnknownQuota,
)
from headway_scheduler.model.batch import Lesson
from headway_scheduler.model.batches import BatchedRequest
from headway_scheduler.model.calls import Call, CallRecord, Outcome, Priority, Route, Usage
from headway_scheduler.model.changes import Change, HoldState
from headway_scheduler.model.prompts import ChainNode, Chunk, Prompt
from headway_scheduler.model.quotas import Observation, ProviderEvent, RateLimitHeader, Resource
from headway_scheduler.model.runs import Run, Task, Worker
from headway_scheduler.model.schedules import Overlap, Schedule
from headway_scheduler.model.states import CallState, RunState
from headway_scheduler.protocol.codec import (
    dump,
    error_of,
    load_answer,
    load_notification,
    load_request,
    refused,
)
from headway_scheduler.protocol.commands import (
    CancelRun,
    ClaimRun,
    Command,
    ExecuteRun,
    FireSchedule,
    HoldSchedule,
    Order,
    PauseRun,
    QueueRun,
    RegisterWorker,
    ResumeQuota,
    RetireWorker,
    SetHold,
    SetLimits,
    SetPriority,
    SetSchedules,
    SetWeight,
)
from headway_scheduler.protocol.envelopes import (
    Answer,
    CallRefusal,
    Done,
    Grant,
    Handled,
    MessageBatch,
    Notification,
    Refusal,
    Refused,
    Request,
)
from headway_scheduler.protocol.messages import (
    Amend,
    ApplyChange,
    AwaitRuns,
    ChargeRequest,
    Decide,
    DropWorker,
    EnterBatch,
    ForgetRuns,
    Learn,
    LeaveBatch,
    MarkSent,
    Message,
    Observe,
    ProbeStopped,
    Reestimate,
    Resubmit,
    SaveRun,
    SetCallPriority,
    Settle,
    Submit,
)

CALL = Call(
    "r.0", "r", "team/writer", "m", ("a", "b"), Priority.HIGH, 9, 1.5, "ab", 1, "sdk", 4, 5, 0.1
)
RUN = Run(
    "r", "w", "task", Priority.LOW, RunState.RUNNING, 1.0, history=(Task("before"),), worker="w-1"
)
ROUTE = Route("other", ("a",), 9, rank=1)
RECORD = CallRecord(CALL, 7, CallState.UNKNOWN, attempts=2, usage=Usage(1, 2), lost_attempts=1)
WORKER = Worker("w-1", 1, 2.0, "label", 3, True, ("a",))
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
    EnterBatch(BatchedRequest("r.0", "m", "/v1/chat/completions", "{}", 2.5, "b", "{}")),
    LeaveBatch("r.0", "late"),
    Observe("r.0", {"a": SIGNALS}),
    Settle("r.0", Outcome(CallState.QUEUED, refused=True), {"a": SIGNALS}),
    SetCallPriority("r.0", Priority.INTERACTIVE),
    AwaitRuns("r", frozenset({"s", "t"})),
    SaveRun(RUN, 0.5),
    Reestimate("r.0", (ROUTE,)),
    ApplyChange(Change(1.0, "gate", "all", "[]")),
    Learn((Lesson("tokens", "s", "{}"),)),
    ChargeRequest(("q",), CALL),
    Amend((RECORD,)),
    ForgetRuns(("r", "s")),
    DropWorker("w-1"),
    ProbeStopped(),
)


COMMANDS: tuple[Command, ...] = (
    QueueRun(RUN),
    CancelRun("r"),
    PauseRun("r"),
    SetPriority("r.0", Priority.LOW),
    SetHold("model:m", HoldState.DRAINED),
    SetLimits("q", {"requests_per_minute": 5, "guess": False, "charging": "openai"}),
    SetLimits("q", None),
    SetWeight("team", 2.5),
    SetWeight("team", None),
    ResumeQuota("q"),
    SetSchedules((Schedule("n", "0 3 * * *", "UTC", RUN, Overlap.ALLOW_ALL, 60.0, "f"),), ("m",)),
    HoldSchedule("n", is_paused=True),
    FireSchedule("n", "r"),
    RegisterWorker(WORKER, again=True),
    ClaimRun(RUN, "w-1"),
    RetireWorker("w-1", died=True),
)
REQUESTS: tuple[Request, ...] = (
    *COMMANDS,
    *(MessageBatch("w-1", (message,), 3, WORKER) for message in MESSAGES),
)
ANSWERS: tuple[Answer, ...] = (Done(), Done(Change(1.0, "gate", "all", "[]")), Refused("E", "why"))
NOTIFICATION = Notification(
    (Grant("r.0", 1.5, 2, ROUTE),),
    (Handled(4, (Refusal(0, Refused("CallTooLarge", "words")),)), Handled(5, unreadable="why")),
    ("r.1",),
    (ExecuteRun(RUN), CancelRun("r"), PauseRun("r"), SetPriority("r", Priority.LOW)),
    ("a",),
    ("b",),
    True,
    (CallRefusal("r.2", Refused("BudgetExceeded", "words")),),
    ("c",),
)


def name(said: Struct) -> str:
    return type(said.messages[0] if isinstance(said, MessageBatch) else said).__name__


@pytest.mark.parametrize("request_", REQUESTS, ids=name)
def test_a_request_comes_back_as_it_was(request_: Request) -> None:
    assert load_request(dump(request_)) == request_


@pytest.mark.parametrize("answer", ANSWERS, ids=name)
def test_an_answer_comes_back_as_it_was(answer: Answer) -> None:
    assert load_answer(dump(answer)) == answer


def test_a_notification_comes_back_as_it_was() -> None:
    assert load_notification(dump(NOTIFICATION)) == NOTIFICATION


def test_every_type_and_every_field_of_what_is_said_is_tried() -> None:
    """Each field at another value than its default."""
    tried = [*MESSAGES, *COMMANDS, *REQUESTS, *ANSWERS, *NOTIFICATION.orders, NOTIFICATION]
    tried += [
        *NOTIFICATION.refused,
        *NOTIFICATION.grants,
        *NOTIFICATION.handled,
        *NOTIFICATION.handled[0].refusals,
    ]
    fields = {(type(each), field.name) for each in tried for field in structs.fields(each)}
    assert {type(each) for each in tried} == TYPES
    assert fields == {
        (type(each), field.name)
        for each in tried
        for field in structs.fields(each)
        if getattr(each, field.name) not in (field.default, {}, ())
    }


@pytest.mark.parametrize("request_", REQUESTS, ids=name)
def test_a_default_that_is_written_is_read_as_one_that_is_left_out(request_: Request) -> None:
    """msgspec by itself writes the nouns whole."""
    whole = msgspec.json.encode(request_).decode()
    assert len(dump(request_)) <= len(whole)
    assert load_request(whole) == request_


def test_lone_surrogates_pass() -> None:
    batch = MessageBatch("w-1", (Settle("r.0", Outcome(CallState.DONE, answer="a\ud800b")),))
    text = dump(batch)
    assert text.isascii()
    assert load_request(text) == batch


@pytest.mark.parametrize("number", [inf, nan])
def test_numbers_that_json_does_not_have_are_refused_beside_lone_surrogates(number: float) -> None:
    with pytest.raises(CallerError, match="must be JSON"):
        dump(SetLimits("q", {"a\ud800b": number}))


@pytest.mark.parametrize("error", [CallTooLarge, UnknownQuota, StoreFull, IllegalTransition])
def test_an_error_comes_back_in_its_class_and_words(error: type[HeadwayError]) -> None:
    again = error_of(refused(error("what to do")))
    assert (type(again), str(again)) == (error, "what to do")


def test_an_error_of_another_version_keeps_its_words() -> None:
    again = error_of(Refused("FromTheFuture", "what to do"))
    assert (type(again), str(again)) == (HeadwayError, "what to do")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "{}",
        '{"worker": 1}',
        '{"type": "FromTheFuture"}',
        '{"type": "MessageBatch", "worker_id": "w"}',
        '{"type": "MessageBatch", "worker_id": "w", "messages": [{"type": "Submit", "call": 3}]}',
        '{"type": "MarkSent", "call_id": "r.0", "at": 1.0}',  # a message outside of a batch
        '{"type": "CancelRun", "run_id": "\ud800", "more": NaN}',
        json.dumps({"type": "SetWeight", "team": "\ud800", "weight": float("nan")}),
        '{"type": "SetLimits", "quota": "q", "limits": {"x": ' + "[" * 100_000,
        "[" * 100_000,
    ],
)
def test_what_is_no_request_is_our_fault(text: str) -> None:
    with pytest.raises(InternalError, match="another version of Headway"):
        load_request(text)


@pytest.mark.parametrize("number", [1.5, float("nan"), "3"])
def test_a_number_that_is_none_is_found_when_it_is_read(number: float) -> None:
    usage = unchecked(Usage, input_tokens=number, output_tokens=1)
    text = dump(MessageBatch("w-1", (Settle("r.0", Outcome(CallState.DONE, usage)),)))
    with pytest.raises(InternalError, match="another version of Headway"):
        load_request(text)


def test_what_json_does_not_have_is_the_callers_mistake() -> None:
    with pytest.raises(CallerError, match="must be JSON"):
        dump(SetLimits("q", {"requests_per_minute": object()}))


# The page

PAGE = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text()
TYPES = {
    *get_args(Message),
    *get_args(Request),
    *get_args(Order),
    *get_args(Answer),
    *(Notification, Grant, Handled, Refusal, CallRefusal),
}


def documented() -> dict[str, str]:
    """The example of each type, by its name."""
    sections = re.findall(r"^### `(\w+)`\n(.*?)(?=^#|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return {name: re.findall(r"```json\n(.*?)```", text, re.DOTALL)[0] for name, text in sections}


def test_every_type_of_the_protocol_is_documented_and_no_other() -> None:
    assert len(EXAMPLES) == len(TYPES)
    assert {type(example) for example in EXAMPLES} == TYPES
    assert documented().keys() == {each.__name__ for each in TYPES}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)
def test_the_page_shows_what_is_written(example: Struct) -> None:
    text = documented()[type(example).__name__]
    assert json.loads(text) == json.loads(dump(cast(Request, example)))
    assert msgspec.json.decode(text, type=type(example)) == example


# Versions


def required(kind: inspect.Type, found: dict[str, set[str]]) -> dict[str, set[str]]:
    """The fields without a default of every type that can be reached from one."""
    if isinstance(kind, inspect.StructType | inspect.DataclassType):
        if kind.cls.__name__ not in found:
            found[kind.cls.__name__] = {each.name for each in kind.fields if each.required}
            for each in kind.fields:
                required(each.type, found)
        return found
    inner = [getattr(kind, name, None) for name in ("item_type", "key_type", "value_type")]
    for one in (*inner, *getattr(kind, "item_types", ()), *getattr(kind, "types", ())):
        if isinstance(one, inspect.Type):
            required(one, found)
    return found


def test_a_field_that_is_added_has_a_default() -> None:
    """Texts of older processes lack a new field. The listed fields are as old as their types."""
    found: dict[str, set[str]] = {}
    for root in (Request, Answer, Notification):
        required(inspect.type_info(root), found)
    assert {name: " ".join(sorted(fields)) for name, fields in found.items() if fields} == {
        "Amend": "records",
        "ApplyChange": "change",
        "AwaitRuns": "on run_id",
        "Call": "id model path priority quotas run_id submitted_at tokens",
        "CallRecord": "call seq",
        "CallRefusal": "call_id error",
        "CancelRun": "run_id",
        "ChainNode": "chunk hash parent",
        "Change": "action at target value",
        "ChargeRequest": "quotas",
        "Chunk": "hash text",
        "ClaimRun": "run worker_id",
        "Decide": "outcome record",
        "BatchedRequest": "body call_id created_at endpoint model",
        "DropWorker": "worker_id",
        "EnterBatch": "request",
        "ExecuteRun": "run",
        "FireSchedule": "name run_id",
        "ForgetRuns": "run_ids",
        "Grant": "admitted_at attempts call_id route",
        "Handled": "request_id",
        "HoldSchedule": "is_paused name",
        "Learn": "lessons",
        "LeaveBatch": "call_id error",
        "Lesson": "kind subject value",
        "MarkSent": "at call_id",
        "MessageBatch": "messages worker_id",
        "Observe": "call_id signals",
        "Outcome": "state",
        "PauseRun": "run_id",
        "QueueRun": "run",
        "Reestimate": "call_id routes",
        "Refusal": "error index",
        "Refused": "error text",
        "RegisterWorker": "worker",
        "Resubmit": "record",
        "ResumeQuota": "quota",
        "RetireWorker": "worker_id",
        "Route": "model quotas tokens",
        "Run": "created_at id priority state task workflow",
        "SaveRun": "run",
        "Schedule": "cron name run zone",
        "SetCallPriority": "call_id priority",
        "SetHold": "state target",
        "SetLimits": "limits quota",
        "SetPriority": "priority target",
        "SetWeight": "team weight",
        "Settle": "call_id outcome",
        "Submit": "call",
        "Task": "text",
        "Usage": "input_tokens output_tokens",
        "Worker": "id pid since",
    }
