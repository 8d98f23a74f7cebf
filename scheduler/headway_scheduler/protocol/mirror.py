"""The rows of a worker's calls as the leader will have written them. Law: pure.

What watches a run, sums its dollars and packs its result needs them, and must not ask the database.
"""

from collections.abc import Iterable
from typing import assert_never

from ..model.batch import Batch
from ..model.calls import Call, CallRecord, Outcome
from ..model.data import replace
from ..model.runs import Run
from ..model.states import LIVE_CALLS, CallState
from .envelopes import Grant
from .messages import (
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
    Reestimate,
    Resubmit,
    SaveRun,
    SetCallPriority,
    Settle,
    Submit,
)


class Mirror:
    """The calls that this process has handed over and that have not ended."""

    def __init__(self) -> None:
        self._live: dict[str, CallRecord] = {}
        self._new: list[CallRecord] = []
        self._changed: list[CallRecord] = []
        self._runs: list[Run] = []

    def adopt(self, record: CallRecord, *, is_queued: bool) -> None:
        """Take in a live call that this process handed to its own scheduler while it led."""
        mirrored = replace(record)
        if is_queued:
            mirrored.state = CallState.QUEUED
        self._live[record.call.id] = mirrored

    def record_messages(self, messages: Iterable[Message], now: float) -> None:
        """Take in what was handed over."""
        for message in messages:
            match message:
                case Submit():
                    record = CallRecord(message.call, seq=0, parked=message.parked)
                    self._live[record.call.id] = record
                    self._new.append(record)
                case Resubmit():
                    self._resubmitted(message.record)
                case Settle():
                    self._settled(message.call_id, message.outcome, now)
                case SaveRun():
                    self._runs.append(message.run)
                case (
                    MarkSent()
                    | Observe()
                    | Decide()
                    | SetCallPriority()
                    | Reestimate()
                    | AwaitRuns()
                    | ApplyChange()
                    | DropWorker()
                    | ProbeStopped()
                    | Learn()
                    | ChargeRequest()
                    | Amend()
                    | ForgetRuns()
                ):
                    pass  # they change no row of a call that this process waits for
                case _:
                    assert_never(message)

    def record_grant(self, grant: Grant) -> Call | None:
        """Take in that a call may be sent, and return it as it goes; None if it is over."""
        record = self._live.get(grant.call_id)
        if record is None:
            return None
        record.call = grant.route.taken_by(record.call)
        record.admit(grant.admitted_at)
        record.attempts = grant.attempts
        self._changed.append(record)
        return record.call

    def record_refusal(self, call_id: str) -> None:
        """Take in that a call was not taken."""
        self._live.pop(call_id, None)

    def record_end(self, call_id: str, error: str, now: float) -> None:
        """Take in that a call that waited has failed."""
        self._settled(call_id, Outcome(CallState.FAILED, error=error, sent=False), now)

    def take_batch(self) -> Batch | None:
        """Return the changes since the last time; None for none."""
        if not (self._new or self._changed or self._runs):
            return None
        batch = Batch(tuple(self._new), tuple(self._changed), runs=tuple(self._runs))
        self._new, self._changed, self._runs = [], [], []
        return batch

    def _resubmitted(self, record: CallRecord) -> None:
        again = replace(record)
        again.resubmit(record.worker)
        self._live[again.call.id] = again
        self._changed.append(again)

    def _settled(self, call_id: str, outcome: Outcome, now: float) -> None:
        record = self._live.get(call_id)
        if record is None:
            return
        record.settle(outcome, now)
        self._changed.append(record)
        if outcome.state not in LIVE_CALLS:
            del self._live[call_id]
