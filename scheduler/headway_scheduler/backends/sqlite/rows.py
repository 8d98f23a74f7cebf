"""Converts the model to rows and back. Law of this file: no I/O.

A commit is a list of statement names, each with its rows: flat tuples in the order of ``COLUMNS``.
They are made on the event loop, up to a thousand per commit, before the writer's thread sees them,
because the core may change its records at any time after. Rows that are read have the names that
their statement gives (``sql.named``), so no statement's order of columns is known here. Every value
is checked: another program, a bug or a bad disk may have written it. What is wrong raises a
ValueError that names the column.
"""

import json
import re
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from math import isfinite
from typing import Any, Final, NoReturn

import msgspec

from ...model.batch import Answer, Batch, Lesson
from ...model.batches import BatchedRequest, BatchState, Gathered, ProviderBatch
from ...model.calls import (
    LARGEST_COUNT,
    PARTS,
    Call,
    CallRecord,
    Charge,
    Priority,
    Route,
    ServiceLane,
    Spent,
    Usage,
)
from ...model.changes import Change, hold_of, quota_of, weight_of
from ...model.data import astuple, replace
from ...model.history import BUCKETS, HOUR, MINUTE, Crowd, Ended, Retention, Try, WaitCount
from ...model.notices import Notice, NoticeKind
from ...model.quotas import BucketState, Resource
from ...model.runs import WORKER_ID_PATTERN, Run, Task, Worker
from ...model.schedules import Overlap, Schedule, ScheduleState
from ...model.states import CallState, RunState

Row = tuple[Any, ...]
Work = list[tuple[str, list[Row], bool]]
"""Statement names, each with the rows to run it on, and whether every row changes one."""

COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "calls": (
        *("seq", "id", "run_id", "kind", "path", "model", "quotas", "priority", "tokens"),
        *("submitted_at", "request_hash", "occurrence", "state", "attempts", "not_before"),
        *("admitted_at", "sent_at", "finished_at", "input_tokens", "output_tokens", "answer"),
        *("error", "arrival", "losses", "input_estimate", "output_estimate", "usd_estimate"),
        *("worker", "usage_parts", "usd", "usd_source", "tier", "served_model", "lane"),
        "routes",
    ),
    "runs": (
        *("id", "workflow", "task", "priority", "state", "created_at", "key", "component"),
        *("started_at", "finished_at", "result", "error", "parameters", "version", "history"),
        *("parent", "parent_until", "deadline", "budget_usd", "waits_for", "attempts"),
        *("resumed_at", "team", "worker", "lives_lost", "lost_spared", "lane"),
        "messages",
    ),
    "buckets": ("quota", "resource", "available", "as_of", "paused_until", "capacity"),
    "pieces": ("hash", "text"),
    "links": ("hash", "parent", "piece"),
    "changes": ("at", "kind", "target", "value"),
    "lessons": ("kind", "subject", "value"),
    "provider_batches": (
        *("id", "model", "endpoint", "state", "created_at", "file_id", "provider_id"),
    ),
    "batched_requests": (
        *("call_id", "model", "endpoint", "body", "created_at", "batch_id", "answer"),
    ),
    "schedules": (
        *("name", "cron", "zone", "run", "overlap", "catchup_seconds", "source", "next_at"),
        *("is_paused", "buffered_at", "last_at", "last_run", "skipped"),
    ),
    "notices": ("id", "kind", "at", "data", "attempts", "not_before"),
    "tries": (
        *("call_id", "run_id", "quota", "admitted_at", "ended_at", "news", "pause_until", "error"),
    ),
    "waits": ("span", "at", "priority", "team", "bucket", "calls"),
    "crowds": ("at", "priority", "waiting", "in_flight"),
    "workers": ("id", "pid", "since", "label", "slots", "takes_interrupted", "workflows"),
}
"""The columns of each table that a commit fills, in the order in which rows have them."""

FIXED: Final = frozenset(
    {"seq", "id", "run_id", "kind", "path", "submitted_at", "request_hash", "occurrence"}
)
"""Columns of calls and runs that never change. A call's class and its route may."""

TEXTS: Final = frozenset(
    {
        *("id", "run_id", "kind", "path", "model", "quotas", "request_hash", "state", "answer"),
        *("error", "workflow", "task", "key", "component", "result", "parameters", "version"),
        *("history", "parent", "waits_for", "team", "worker", "quota", "resource", "text"),
        *("target", "value", "subject", "label", "workflows", "usage_parts", "usd_source", "tier"),
        *("served_model", "lane", "call_id", "endpoint", "body", "batch_id", "file_id"),
        *("provider_id", "routes", "messages", "name", "cron", "zone", "run", "overlap", "source"),
        *("last_run", "data", "news"),
    }
)
"""Columns of text. Only in ``runs`` is ``parent`` one: in ``links`` it is bytes, so that statement
casts nothing."""


def work_of(batch: Batch) -> Work:
    """Return everything that a commit writes, as statement names and flat values."""
    # Most commits fill three of some thirty fields.
    filled = ((write, rows) for field, write in _WRITES.items() if (rows := getattr(batch, field)))
    return [each for write, rows in filled for each in write(rows)]


def with_bytes(rows: Sequence[Row]) -> list[Row]:
    """Hand every text over as bytes, so that lone surrogates pass."""
    return [tuple(map(as_bytes, row)) for row in rows]


def as_bytes(value: Any) -> Any:
    """Encode text as UTF-8 that lets lone surrogates pass; anything else stays."""
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value


def as_text(stored: bytes) -> str:
    """Reverse of :func:`as_bytes`. Bytes that are no text stay bytes, which no column of text is.

    An error here would end the whole question, and with it the rows that can be read.
    """
    try:
        return stored.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return stored  # type: ignore[return-value]


# What is read is checked

REALS: Final = frozenset(
    {
        *("submitted_at", "not_before", "admitted_at", "sent_at", "finished_at", "created_at"),
        *("started_at", "resumed_at", "deadline", "budget_usd", "usd_estimate", "available"),
        *("as_of", "paused_until", "at", "since", "usd", "last_at", "catchup_seconds", "next_at"),
        *("buffered_at", "ended_at", "pause_until", "capacity"),
    }
)
"""Columns of numbers with a fraction. All that are neither these nor text are whole numbers."""

MAYBE: Final = frozenset(
    {
        *("not_before", "admitted_at", "sent_at", "finished_at", "input_tokens", "output_tokens"),
        *("answer", "error", "arrival", "worker", "key", "component", "started_at", "result"),
        *("parameters", "version", "history", "parent", "parent_until", "deadline", "budget_usd"),
        *("waits_for", "resumed_at", "team", "paused_until", "usage_parts", "usd", "usd_source"),
        *("tier", "served_model", "file_id", "provider_id", "batch_id", "routes", "messages"),
        *("source", "buffered_at", "last_at", "last_run", "pause_until", "capacity"),
    }
)
"""Columns that may be NULL."""

TIMES: Final = frozenset(
    {
        *("created_at", "started_at", "finished_at", "resumed_at", "since", "at", "next_at"),
        *("buffered_at", "last_at", "ended_at"),
    }
)
LAST_TIME: Final = 253_402_300_799.0
"""The end of the year 9999: what comes later cannot be shown."""


def checked(row: Any) -> Any:
    """Return a row whose values all have their column's type and a value that can be used."""
    for column, value in zip(row._fields, row, strict=True):
        if value is None:
            if column not in MAYBE:
                raise ValueError(f"{column} is missing")
        elif column in TEXTS:
            if type(value) is not str:
                raise ValueError(f"{column} is no text")
        elif column in REALS:
            if type(value) not in (float, int) or not isfinite(value):
                raise ValueError(f"{column} is no finite number")
            if column in TIMES and abs(value) > LAST_TIME:
                raise ValueError(f"{column} is no time")
        elif type(value) is not int or not -LARGEST_COUNT <= value <= LARGEST_COUNT:
            raise ValueError(f"{column} is no whole number that can be")
    return row


def json_of(column: str, text: str) -> Any:
    """Return what a column has as JSON. NaN and infinite numbers are none."""
    try:
        return json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{column} is no JSON: {error}") from None


def _finite(digits: str) -> float:
    return number if isfinite(number := float(digits)) else _no_number(digits)


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word[:20]} is no number")


def _texts(column: str, text: str) -> tuple[str, ...]:
    found = json_of(column, text)
    if type(found) is not list or any(type(each) is not str for each in found):
        raise ValueError(f"{column} is no list of texts")
    return tuple(found)


def _saving(batches: Sequence[ProviderBatch]) -> Work:
    tidy: Work = [("forget_batched", [()], False), ("forget_batches", [()], False)]
    rows: list[Row] = [astuple(replace(each, state=each.state.value)) for each in batches]
    return [*tidy, ("save_batch", rows, True)]


def _forgetting(run_ids: Sequence[str]) -> Work:
    ids: list[Row] = [(json.dumps(run_ids),)]
    texts: Work = [("forget_links", [()], False), ("forget_pieces", [()], False)]
    names = ("forget_runs", "forget_calls", "forget_tries", "forget_budgets")
    runs: Work = [(name, ids, False) for name in names]
    return [*runs, *texts]


def _pruning(retentions: Sequence[Retention]) -> Work:
    return [
        ("prune_tries", [(each.tries_since, each.most_tries) for each in retentions], False),
        ("prune_waits", [(MINUTE, each.minutes_since) for each in retentions], False),
        ("prune_waits", [(HOUR, each.hours_since) for each in retentions], False),
        ("prune_crowds", [(each.crowds_since,) for each in retentions], False),
    ]


def _answering(answers: Sequence[Answer]) -> Work:
    rows: list[Row] = [(answer.text, answer.request_id) for answer in answers]
    return [("answer_request", rows, False), ("forget_requests", [()], False)]


def _leaving(workers: Sequence[str]) -> Work:
    rows: list[Row] = [(worker,) for worker in workers]
    return [("forget_worker", rows, False), ("forget_lost_notifications", [()], False)]


def _crowd_row(crowd: Crowd) -> Row:
    return (crowd.at, crowd.priority.value, crowd.waiting, crowd.in_flight)


def _wait_row(count: WaitCount) -> Row:
    priority = count.priority._value_
    return (count.span, count.at, priority, count.team, count.bucket, count.calls)


@lru_cache(maxsize=1024)
def _quotas_text(quotas: tuple[str, ...]) -> str:
    return json.dumps(quotas)


@lru_cache(maxsize=1024)
def _quotas(text: str) -> tuple[str, ...]:
    return _texts("quotas", text)


def _call_row(record: CallRecord) -> Row:
    call, usage = record.call, record.usage
    return (
        record.seq,
        call.id,
        call.run_id,
        call.kind,
        call.path,
        call.model,
        _quotas_text(call.quotas),
        # Plain values: sqlite3 searches an adapter for any subclass. `value` is a slow property.
        call.priority._value_,
        call.tokens,
        call.submitted_at,
        call.request_hash,
        call.occurrence,
        record.state._value_,
        record.attempts,
        record.not_before,
        record.admitted_at,
        record.sent_at,
        record.finished_at,
        None if usage is None else usage.input_tokens,
        None if usage is None else usage.output_tokens,
        record.answer,
        record.error,
        record.arrival,
        record.lost_attempts,
        call.input_tokens,
        call.output_tokens,
        # Below 0 for a call that may cost more: it needs no column of its own.
        -call.usd if call.unbounded else call.usd,
        record.worker,
        None if usage is None else _parts_text(usage),
        record.usd,
        record.usd_source,
        record.tier,
        record.served_model,
        call.lane._value_,
        msgspec.json.encode(record.routes).decode() if record.routes else None,
    )


def _routes(text: str) -> tuple[Route, ...]:
    try:
        return msgspec.json.decode(text, type=tuple[Route, ...])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"routes are none: {error}") from None


def _parts_text(usage: Usage) -> str | None:
    parts = usage.parts()
    return json.dumps(parts) if parts else None


def _bucket_row(bucket: BucketState) -> Row:
    return (
        bucket.quota,
        bucket.resource.value,
        bucket.available,
        bucket.as_of,
        bucket.paused_until,
        bucket.capacity,
    )


def _run_row(run: Run) -> Row:
    return (
        run.id,
        run.workflow,
        run.task,
        run.priority.value,
        run.state.value,
        run.created_at,
        run.key,
        run.component,
        run.started_at,
        run.finished_at,
        run.result,
        run.error,
        run.parameters,
        run.version,
        _history_text(run.history) if run.history else None,
        run.parent,
        run.parent_until,
        run.deadline,
        run.budget_usd,
        run.waits_for,
        run.attempts,
        run.resumed_at,
        run.team,
        run.worker,
        run.lives_lost,
        run.lost_spared,
        run.lane.value,
        run.messages,
    )


def _history_text(tasks: tuple[Task, ...]) -> str:
    """Write tasks as texts, and those of messages as pairs of text and messages."""
    return json.dumps(
        [each.text if each.messages is None else [each.text, each.messages] for each in tasks]
    )


def _history(text: str) -> tuple[Task, ...]:
    tasks = json_of("history", text)
    if type(tasks) is not list:
        raise ValueError("history is no list")
    found = []
    for each in tasks:
        match each:
            case str():
                found.append(Task(each))
            case [str(), str()]:
                found.append(Task(*each))
            case _:
                raise ValueError("history has what is no task")
    return tuple(found)


def _worker_row(worker: Worker) -> Row:
    return (
        worker.id,
        worker.pid,
        worker.since,
        worker.label,
        worker.slots,
        worker.takes_interrupted,
        json.dumps(worker.workflows),
    )


def _schedule_row(state: ScheduleState) -> Row:
    schedule = state.schedule
    return (
        schedule.name,
        schedule.cron,
        schedule.zone,
        msgspec.json.encode(schedule.run).decode(),
        schedule.overlap.value,
        schedule.catchup_seconds,
        schedule.source,
        state.next_at,
        state.is_paused,
        state.buffered_at,
        state.last_at,
        state.last_run,
        state.skipped,
    )


def _notice_row(notice: Notice) -> Row:
    kind = notice.kind.value
    return (notice.id, kind, notice.at, notice.data, notice.attempts, notice.not_before)


def _each(statement: str, row: Callable[[Any], Row], *, is_exact: bool) -> Callable[[Any], Work]:
    return lambda values: [(statement, [row(value) for value in values], is_exact)]


def _alone(value: Any) -> Row:
    return (value,)


_WRITES: Final[Mapping[str, Callable[[Any], Work]]] = {
    "chunks": _each("insert_piece", lambda x: (x.hash, x.text), is_exact=False),
    "nodes": _each("insert_link", lambda x: (x.hash, x.parent, x.chunk), is_exact=False),
    "new": _each("insert_call", _call_row, is_exact=True),
    "changed": _each("update_call", _call_row, is_exact=True),
    "buckets": _each("save_bucket", _bucket_row, is_exact=True),
    "runs": _each("save_run", _run_row, is_exact=True),
    "requests": _each("save_request", astuple, is_exact=True),
    "provider_batches": _saving,
    "tries": _each("insert_try", astuple, is_exact=True),
    "waits": _each("count_waits", _wait_row, is_exact=True),
    "crowds": _each("save_crowd", _crowd_row, is_exact=True),
    "prune": _pruning,
    "changes": _each("insert_change", astuple, is_exact=True),
    "lessons": _each("save_lesson", astuple, is_exact=True),
    "forget": _forgetting,
    "begins": lambda _: [("begin_term", [()], True)],
    "tried": _each("try_request", lambda x: (x[1], x[0]), is_exact=False),
    "set_aside": _each("set_request_aside", tuple, is_exact=False),
    "answers": _answering,
    "taken": _each("take_request", _alone, is_exact=False),
    "schedules": _each("save_schedule", _schedule_row, is_exact=False),
    "unscheduled": _each("forget_schedule", _alone, is_exact=False),
    "notices": _each("save_notice", _notice_row, is_exact=False),
    "told": _each("forget_notice", _alone, is_exact=False),
    "joined": _each("save_worker", _worker_row, is_exact=False),
    "left": _leaving,
    "seen": _each("forget_notifications", tuple, is_exact=False),
    "outbox": _each("notify", lambda x: (x.worker, x.text), is_exact=True),
}
"""The statements of each field of a batch, in the order in which a commit executes them."""


def call_record(row: Any) -> CallRecord:
    """Return the call of a row. Raises ValueError for a value that no Headway writes."""
    checked(row)
    call = Call(
        id=row.id,
        run_id=row.run_id,
        path=row.path,
        model=row.model,
        quotas=_quotas(row.quotas),
        priority=Priority(row.priority),
        tokens=row.tokens,
        submitted_at=row.submitted_at,
        request_hash=row.request_hash,
        occurrence=row.occurrence,
        kind=row.kind,
        input_tokens=row.input_estimate,
        output_tokens=row.output_estimate,
        usd=abs(row.usd_estimate),
        unbounded=row.usd_estimate < 0,
        lane=ServiceLane(row.lane),
    )
    return CallRecord(
        call,
        row.seq,
        CallState(row.state),
        attempts=row.attempts,
        not_before=row.not_before,
        admitted_at=row.admitted_at,
        sent_at=row.sent_at,
        finished_at=row.finished_at,
        usage=_usage(row),
        answer=row.answer,
        error=row.error,
        arrival=row.arrival,
        lost_attempts=row.losses,
        worker=row.worker,
        usd=row.usd,
        usd_source=row.usd_source,
        tier=row.tier,
        served_model=row.served_model,
        routes=() if row.routes is None else _routes(row.routes),
    )


def bucket(row: Any) -> BucketState:
    """Return the bucket of a row. Raises ValueError for a value that no Headway writes."""
    stored: dict[str, Any] = checked(row)._asdict()
    if abs(row.available) > LARGEST_COUNT:
        raise ValueError("available is more than can be")
    if row.capacity is not None and not 0 <= row.capacity <= LARGEST_COUNT:
        raise ValueError("capacity is no amount that can be")
    return BucketState(**stored | {"resource": Resource(row.resource)})


def run(row: Any) -> Run:
    """Return the run of a row. Raises ValueError for a value that no Headway writes."""
    stored: dict[str, Any] = checked(row)._asdict()
    if row.parameters is not None and type(json_of("parameters", row.parameters)) is not dict:
        raise ValueError("parameters are no JSON object")
    if row.messages is not None and type(json_of("messages", row.messages)) is not list:
        raise ValueError("messages are no JSON list")
    return Run(
        **stored
        | {
            "priority": Priority(row.priority),
            "state": RunState(row.state),
            "history": () if row.history is None else _history(row.history),
            "lane": ServiceLane(row.lane),
        }
    )


def change(row: Any) -> Change:
    """Return the change of a row. Raises ValueError, or CallerError for limits that cannot be."""
    checked(row)
    change = Change(row.at, row.kind, row.target, row.value)
    json_of("value", row.value)
    match row.kind:
        case "limits":
            quota_of(change)
        case "weight":
            share = weight_of(change)
            if share is not None and not (type(share) in (int, float) and share > 0):
                raise ValueError("value is no weight")
        case "gate":
            hold_of(change)
        case "resume":
            pass
        case _:
            raise ValueError("kind is none that an operator's change has")
    return change


def lesson(row: Any) -> Lesson:
    """Return the lesson of a row. Its value is read by who learned it."""
    lesson = Lesson(**checked(row)._asdict())
    json_of("value", lesson.value)
    return lesson


def provider_batch(row: Any) -> ProviderBatch:
    """Return the batch of a row. Raises ValueError for a value that no Headway writes."""
    stored: dict[str, Any] = checked(row)._asdict()
    return ProviderBatch(**stored | {"state": BatchState(row.state)})


def batched_request(row: Any) -> BatchedRequest:
    """Return the request of a row. Raises ValueError for a value that no Headway writes."""
    request = BatchedRequest(**checked(row)._asdict())
    if request.answer is not None and type(json_of("answer", request.answer)) is not dict:
        raise ValueError("answer is no JSON object")
    return request


def gathered(row: Any) -> Gathered:
    """Return how many requests wait for a batch."""
    return Gathered(row.model, row.endpoint, row.calls, row.bytes, row.since)


def worker(row: Any) -> Worker:
    """Return the worker of a row. Raises ValueError for a value that no Headway writes."""
    stored: dict[str, Any] = checked(row)._asdict()
    if re.search(WORKER_ID_PATTERN, row.id) is None:
        raise ValueError("id is none of a worker")
    stored["takes_interrupted"] = bool(row.takes_interrupted)
    return Worker(**stored | {"workflows": _texts("workflows", row.workflows)})


def schedule(row: Any) -> ScheduleState:
    """Return the schedule of a row. Raises ValueError for a value that no Headway writes."""
    checked(row)
    definition = Schedule(
        row.name,
        row.cron,
        row.zone,
        msgspec.json.decode(row.run, type=Run),
        Overlap(row.overlap),
        row.catchup_seconds,
        row.source,
    )
    return ScheduleState(
        definition,
        row.next_at,
        bool(row.is_paused),
        row.buffered_at,
        row.last_at,
        row.last_run,
        row.skipped,
    )


def notice(row: Any) -> Notice:
    """Return the notice of a row. Raises ValueError for a value that no Headway writes."""
    stored: dict[str, Any] = checked(row)._asdict()
    if type(json_of("data", row.data)) is not dict:
        raise ValueError("data is no JSON object")
    return Notice(**stored | {"kind": NoticeKind(row.kind)})


def spent(row: Any) -> Spent:
    """Return a group of calls that took the same."""
    checked(row)
    charge = None if row.usd_source is None else Charge(row.usd, row.usd_source)
    return Spent(row.key, row.model, _usage(row), row.calls, row.lost, charge, row.last_at)


def attempt(row: Any) -> Try:
    """Return the try of a row. Raises ValueError for a value that no Headway writes."""
    return Try(**checked(row)._asdict())


def wait_count(row: Any) -> WaitCount:
    """Return the count of a row. Raises ValueError for a value that no Headway writes."""
    stored: dict[str, Any] = checked(row)._asdict()
    if row.span not in (MINUTE, HOUR) or not 0 <= row.bucket < BUCKETS or row.calls < 0:
        raise ValueError("span, bucket or calls cannot be")
    return WaitCount(**stored | {"priority": Priority(row.priority)})


def crowd(row: Any) -> Crowd:
    """Return the crowd of a row. Raises ValueError for a value that no Headway writes."""
    stored: dict[str, Any] = checked(row)._asdict()
    return Crowd(**stored | {"priority": Priority(row.priority)})


def ended(row: Any) -> Ended:
    """Return how many calls on the same quotas ended."""
    return Ended(_quotas(row.quotas), row.calls, row.input_tokens, row.output_tokens)


def _usage(row: Any) -> Usage | None:
    if row.input_tokens is None:
        return None
    if row.output_tokens is None:
        raise ValueError("output_tokens is missing")
    if row.usage_parts is None:
        return Usage(row.input_tokens, row.output_tokens)
    parts = json_of("usage_parts", row.usage_parts)
    if type(parts) is not dict or not parts.keys() <= set(PARTS):
        raise ValueError("usage_parts are none that a usage has")
    is_odd = bool(parts.pop("has_odd_parts", False))
    return Usage(row.input_tokens, row.output_tokens, has_odd_parts=is_odd, **parts)


READERS: Final = {
    "runs": ("run", ("id",), run),
    "calls": ("call", ("id",), call_record),
    "buckets": ("limit", ("quota", "resource"), bucket),
    "changes": ("change", ("kind", "target"), change),
    "lessons": ("lesson", ("kind", "subject"), lesson),
    "schedules": ("schedule", ("name",), schedule),
    "notices": ("notice", ("id",), notice),
    "workers": ("worker", ("id",), worker),
    "tries": ("try", ("call_id", "ended_at"), attempt),
    "waits": ("wait", ("span", "at", "priority", "team", "bucket"), wait_count),
    "crowds": ("crowd", ("at", "priority"), crowd),
    "provider_batches": ("batch", ("id",), provider_batch),
    "batched_requests": ("request by batch", ("call_id",), batched_request),
}
"""By table: what a row of it is called, the columns that name it, and what reads it."""


def named_row(columns: Sequence[str], values: Row) -> Any:
    """Return values under the names of their columns, as a statement would give them."""
    return _row_type(tuple(columns))._make(values)


@lru_cache(maxsize=16)
def _row_type(columns: tuple[str, ...]) -> Any:
    return namedtuple("Row", columns)


def id_of(row: Any, columns: Sequence[str]) -> str:
    """Return what names a row in messages, whatever its values are."""
    values = (getattr(row, column) for column in columns)
    return " ".join(each if isinstance(each, str) else repr(each) for each in values)[:200]
