"""Events of a run, beside AutoGen's own messages. Law of this file: frozen data.

``at`` is in epoch seconds; ``agent`` is the path of the agent that asks.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from headway_scheduler.model.batch import Batch
from headway_scheduler.model.calls import BYPASS, Call, CallRecord, Priority, Usage
from headway_scheduler.model.states import CallState, RunState
from headway_scheduler.ports import Clock


@dataclass(frozen=True, slots=True)
class Started:
    """The run has begun, or goes on."""

    run_id: str
    at: float
    answers: int = 0
    """How many recorded answers it will get back."""
    is_changed: bool = False
    """The code of its workflow differs from what it was at the first attempt."""


@dataclass(frozen=True, slots=True)
class Queued:
    """An agent asks its model; the call waits for its admission."""

    run_id: str
    call_id: str
    agent: str
    model: str
    priority: Priority
    tokens: int
    """The tokens that the call reserves from its quotas."""
    at: float


@dataclass(frozen=True, slots=True)
class Admitted:
    """The call may be sent: all its quotas had room, and it was next."""

    run_id: str
    call_id: str
    agent: str
    waited_seconds: float
    at: float
    model: str
    """The model that it goes to; a deployment or fallback may stand in for the one of Queued."""


@dataclass(frozen=True, slots=True)
class Retrying:
    """The provider refused or failed in a way that waiting mends; the call keeps its place."""

    run_id: str
    call_id: str
    agent: str
    attempts: int
    """How often it was sent by now."""
    not_before: float | None
    """The earliest time of the next try, epoch seconds; None: as soon as there is room."""
    reason: str


@dataclass(frozen=True, slots=True)
class Finished:
    """A call has ended: done, failed, cancelled or unknown."""

    run_id: str
    call_id: str
    agent: str
    state: CallState
    usage: Usage | None
    """Tokens as the provider counted them, if it did."""
    error: str | None
    at: float


@dataclass(frozen=True, slots=True)
class Ended:
    """The run is over, or has stopped for now: paused, waiting, interrupted."""

    run_id: str
    state: RunState
    error: str | None
    at: float


@dataclass(frozen=True, slots=True)
class Missed:
    """Of ``Headway.events``: the reader was slow, and older events than the next one are lost."""

    count: int
    """How many."""


Progress = Started | Queued | Admitted | Retrying | Finished | Ended


def of_batch(batch: Batch, clock: Clock) -> Iterator[Progress]:
    """Yield the events that a commit stands for, in order of the calls.

    ``clock`` is asked only for a row that states no time of its own.
    """
    for record in batch.new:
        call = record.call
        if call.kind == BYPASS:
            continue
        yield _queued(call)
        if record.state is not CallState.QUEUED:
            yield of_record(record, clock)
    for record in batch.changed:
        if record.state not in (CallState.SENT, CallState.BATCHED):
            yield of_record(record, clock)


def of_record(record: CallRecord, clock: Clock) -> Progress:
    """Return the event that the state of a call stands for."""
    call, state = record.call, record.state
    if state in (CallState.ADMITTED, CallState.SENT, CallState.BATCHED):
        at = record.admitted_at or clock()
        waited_seconds = at - call.submitted_at
        return Admitted(call.run_id, call.id, call.path, waited_seconds, at, call.model)
    if state is CallState.QUEUED and not record.attempts:  # its run was resumed
        return _queued(call)
    if state is CallState.QUEUED:
        lost = "cut off with its process" if record.lost_attempts else "sent again"
        reason = record.error or lost
        return Retrying(call.run_id, call.id, call.path, record.attempts, record.not_before, reason)
    at = record.finished_at or clock()
    return Finished(call.run_id, call.id, call.path, state, record.usage, record.error, at)


def _queued(call: Call) -> Queued:
    return Queued(
        call.run_id,
        call.id,
        call.path,
        call.model,
        call.priority,
        call.tokens,
        call.submitted_at,
    )
