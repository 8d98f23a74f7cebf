"""Defines the life of a call and of a run, as tables.

Law of this file: a state changes only along these arrows; any other step raises
:class:`IllegalTransition` and changes nothing.

Theory of operation: a call is *queued* until all of its quotas admit it. *Admitted* is the
durable permission to send. *Sent* is the only change that may precede its commit: it is written
with whichever commit comes next. Safe, because after a crash *admitted* and *sent* both become
*unknown*: possibly paid. If waiting can mend a failed attempt, the call goes back to *queued*, at
its old place; so does a call without an answer when its run goes on. A *batched* call waits in a
batch of the provider, or for one: it outlives its process, so it never becomes *unknown*. A
question to a person is a *queued* call, which the person's answer ends; a person also decides on
*unknown* steps.
"""

from collections.abc import Mapping
from enum import StrEnum


class CallState(StrEnum):
    """How far a call has come."""

    QUEUED = "queued"
    ADMITTED = "admitted"
    SENT = "sent"
    BATCHED = "batched"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


class RunState(StrEnum):
    """How far a run has come."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    PAUSED = "paused"
    INTERRUPTED = "interrupted"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


_C = CallState
CALL_TRANSITIONS: Mapping[CallState, frozenset[CallState]] = {
    _C.QUEUED: frozenset({_C.ADMITTED, _C.DONE, _C.FAILED, _C.CANCELLED}),
    _C.ADMITTED: frozenset(
        {_C.SENT, _C.BATCHED, _C.QUEUED, _C.DONE, _C.FAILED, _C.CANCELLED, _C.UNKNOWN}
    ),
    _C.SENT: frozenset({_C.QUEUED, _C.DONE, _C.FAILED, _C.CANCELLED, _C.UNKNOWN}),
    _C.BATCHED: frozenset({_C.QUEUED, _C.DONE, _C.FAILED, _C.CANCELLED}),
    _C.UNKNOWN: frozenset({_C.QUEUED, _C.DONE, _C.FAILED, _C.CANCELLED}),
    _C.DONE: frozenset(),
    _C.FAILED: frozenset({_C.QUEUED}),
    _C.CANCELLED: frozenset({_C.QUEUED}),
}

_R = RunState
_ENDS = frozenset({_R.COMPLETED, _R.FAILED, _R.CANCELLED})
RUN_TRANSITIONS: Mapping[RunState, frozenset[RunState]] = {
    _R.QUEUED: frozenset({_R.RUNNING, _R.PAUSED, _R.CANCELLED, _R.FAILED}),
    _R.RUNNING: frozenset({_R.WAITING, _R.PAUSED, _R.INTERRUPTED}) | _ENDS,
    _R.WAITING: frozenset(
        {_R.RUNNING, _R.QUEUED, _R.PAUSED, _R.INTERRUPTED, _R.CANCELLED, _R.FAILED}
    ),
    _R.PAUSED: frozenset({_R.QUEUED, _R.RUNNING, _R.CANCELLED}),
    _R.INTERRUPTED: frozenset({_R.RUNNING, _R.QUEUED, _R.PAUSED, _R.CANCELLED, _R.FAILED}),
    _R.COMPLETED: frozenset(),
    _R.FAILED: frozenset({_R.RUNNING, _R.QUEUED}),
    _R.CANCELLED: frozenset(),
}

IN_FLIGHT = frozenset({CallState.ADMITTED, CallState.SENT})
LIVE_CALLS = IN_FLIGHT | {CallState.QUEUED, CallState.BATCHED}
ENDED_RUNS = _ENDS
UNDER_WAY = frozenset({RunState.RUNNING, RunState.WAITING})
