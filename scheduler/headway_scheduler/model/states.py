"""The life of a call and of a run, as tables.

Law of this file: a state changes only along these arrows; any other step raises
:class:`IllegalTransition` and changes nothing.

Theory of operation: a call is *queued* until all of its quotas admit it. *Admitted* is the
durable permission to send; *sent* is written with whichever commit comes next, so a crash cannot
tell the two apart and both become *unknown*: possibly paid. An attempt that waiting can mend goes
back to *queued*, at its old place; so does, when its run goes on, a call that has no answer. A
person's answer ends a question, which is *queued*, or says what came of an *unknown* step.
"""

from collections.abc import Mapping
from enum import StrEnum

from ..errors import IllegalTransition


class CallState(StrEnum):
    """Where a call is."""

    QUEUED = "queued"
    ADMITTED = "admitted"
    SENT = "sent"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


class RunState(StrEnum):
    """Where a run is."""

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
    _C.ADMITTED: frozenset({_C.SENT, _C.QUEUED, _C.DONE, _C.FAILED, _C.CANCELLED, _C.UNKNOWN}),
    _C.SENT: frozenset({_C.QUEUED, _C.DONE, _C.FAILED, _C.CANCELLED, _C.UNKNOWN}),
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
LIVE_CALLS = IN_FLIGHT | {CallState.QUEUED}
ENDED_RUNS = _ENDS
UNDER_WAY = frozenset({RunState.RUNNING, RunState.WAITING})


def check_run(run_id: str, old: RunState, new: RunState) -> RunState:
    """Return ``new`` if a run may go there from ``old``, else raise IllegalTransition."""
    if new not in RUN_TRANSITIONS[old]:
        raise IllegalTransition(f"run {run_id}: {old} to {new} is not a step of its life")
    return new
