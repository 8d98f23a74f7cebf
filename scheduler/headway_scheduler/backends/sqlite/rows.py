"""Model to row and back. Law of this file: no I/O.

A row is one flat tuple in the order of its statement: a thousand of them are made per commit, on
the event loop, before the writer's thread sees them (records may change at any time after).
"""

import json
from collections.abc import Sequence
from dataclasses import astuple
from functools import lru_cache
from typing import Any

from ...model.batch import Batch
from ...model.calls import Call, CallRecord, Priority, Spent, Usage
from ...model.quotas import BucketState, Resource
from ...model.runs import Run, Worker
from ...model.states import CallState, RunState
from .sql import STATEMENTS

Row = tuple[Any, ...]
Work = list[tuple[str, list[Row], bool]]
"""Statements, each with the rows to run it on, and whether every row changes one of the table's."""


def work_of(batch: Batch) -> Work:
    """Everything that a commit writes, as flat values."""
    work: Work = [
        ("insert_piece", [(piece.hash, piece.text) for piece in batch.pieces], False),
        ("insert_link", [(link.hash, link.parent, link.piece) for link in batch.links], False),
        ("insert_call", [_inserted(record) for record in batch.new], True),
        ("update_call", [_updated(record) for record in batch.changed], True),
        ("save_bucket", [_bucket_row(bucket) for bucket in batch.buckets], True),
        ("save_run", [_run_row(run) for run in batch.runs], True),
        ("insert_change", [astuple(change) for change in batch.changes], True),
        ("save_lesson", [astuple(lesson) for lesson in batch.lessons], True),
        *_forgetting(batch.forget),
        ("answer_letter", [(answer.text, answer.letter_id) for answer in batch.answers], False),
        ("forget_letters", [()] if batch.answers else [], False),
        ("take_letter", [(letter_id,) for letter_id in batch.taken], False),
        ("save_worker", [_worker_row(worker) for worker in batch.joined], False),
        ("forget_worker", [(worker,) for worker in batch.left], False),
        ("forget_lost_mail", [()] if batch.left else [], False),
        ("forget_mail", list(batch.seen), False),
        ("send_mail", [(mail.worker, mail.text) for mail in batch.mail], True),
    ]
    return [(STATEMENTS[name], rows, is_exact) for name, rows, is_exact in work if rows]


def with_bytes(work: Work) -> Work:
    """Hand every text over as bytes, so that lone surrogates pass."""
    return [(sql, [tuple(map(as_bytes, row)) for row in rows], exact) for sql, rows, exact in work]


def as_bytes(value: Any) -> Any:
    """UTF-8 that lets lone surrogates pass; anything but text stays."""
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value


def as_text(stored: bytes) -> str:
    """Reverse of :func:`as_bytes`."""
    return stored.decode("utf-8", "surrogatepass")


def _forgetting(run_ids: Sequence[str]) -> Work:
    if not run_ids:
        return []
    ids: list[Row] = [(json.dumps(run_ids),)]
    texts: Work = [("forget_links", [()], False), ("forget_pieces", [()], False)]
    return [("forget_runs", ids, False), ("forget_calls", ids, False), *texts]


@lru_cache(maxsize=1024)
def _quotas_text(quotas: tuple[str, ...]) -> str:
    return json.dumps(quotas)


@lru_cache(maxsize=1024)
def _quotas(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))


def _inserted(record: CallRecord) -> Row:
    call, usage = record.call, record.usage
    return (
        record.seq,
        call.id,
        call.run_id,
        call.path,
        call.model,
        _quotas_text(call.quotas),
        call.priority.value,  # a plain int: sqlite3 searches an adapter for any subclass
        call.tokens,
        call.submitted_at,
        call.request_hash,
        call.occurrence,
        call.kind,
        record.state.value,
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
        call.usd,
        record.worker,
    )


def _updated(record: CallRecord) -> Row:
    call, usage = record.call, record.usage
    return (
        call.model,
        _quotas_text(call.quotas),
        call.tokens,
        call.input_tokens,
        call.output_tokens,
        call.usd,
        call.priority.value,
        record.state.value,
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
        record.worker,
        record.seq,
    )


def _bucket_row(bucket: BucketState) -> Row:
    resource = bucket.resource.value
    return (bucket.quota, resource, bucket.available, bucket.as_of, bucket.paused_until)


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
        json.dumps(run.history) if run.history else None,
        run.parent,
        run.parent_until,
        run.deadline,
        run.budget_usd,
        run.waits_for,
        run.attempts,
        run.resumed_at,
        run.team,
        run.worker,
    )


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


def call_record(row: Sequence[Any]) -> CallRecord:
    """The call of a row. Raises ValueError for a value that no Headway writes."""
    call_id, run_id, path, model, quotas, priority = row[:6]
    call = Call(
        call_id, run_id, path, model, _quotas(quotas), Priority(priority), *row[6:11], *row[24:27]
    )
    seq, state, *progress, input_tokens, output_tokens, answer, error, arrival, losses = row[11:24]
    record = CallRecord(call, seq, CallState(state), *progress)
    if input_tokens is not None:
        record.usage = Usage(input_tokens, output_tokens)
    record.answer, record.error = answer, error
    record.arrival, record.lost_attempts, record.worker = arrival, losses, row[27]
    return record


def bucket(row: Sequence[Any]) -> BucketState:
    """The bucket of a row. Raises ValueError for a value that no Headway writes."""
    return BucketState(row[0], Resource(row[1]), *row[2:])


def run(row: Sequence[Any]) -> Run:
    """The run of a row. Raises ValueError for a value that no Headway writes."""
    run_id, workflow, task, priority, state = row[:5]
    history = () if row[14] is None else tuple(json.loads(row[14]))
    stored = (*row[5:14], history, *row[15:])
    return Run(run_id, workflow, task, Priority(priority), RunState(state), *stored)


def worker(row: Sequence[Any]) -> Worker:
    """Read a worker."""
    worker_id, pid, since, label, slots, takes_interrupted, workflows = row
    known = tuple(json.loads(workflows))
    return Worker(worker_id, pid, since, label, slots, bool(takes_interrupted), known)


def spent(row: Sequence[Any]) -> Spent:
    """Read what was spent."""
    key, model, input_tokens, output_tokens, calls, lost = row
    usage = None if input_tokens is None else Usage(input_tokens, output_tokens)
    return Spent(key, model, usage, calls, lost)
