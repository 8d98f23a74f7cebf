"""What may be done to a run that is not being executed. Law of this file: rows first, then the run.

Every method says what the run must be for it; anything else is a RunNotResumable with what to do.
"""

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, assert_never

from headway_scheduler.errors import CallerError, NothingToAnswer, RunNotResumable
from headway_scheduler.model.calls import CallRecord, Outcome
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import ENDED_RUNS, CallState, RunState
from headway_scheduler.ports import Store
from headway_scheduler.runtime.client import SchedulerClient

from .handle import ReplayOptions
from .journal import answered, inherited_answers
from .runner import Runner

if TYPE_CHECKING:
    from headway_agents import NonDeterminism

_R = RunState
_HINTS = {
    _R.QUEUED: "is queued: `headway work` takes it",
    _R.RUNNING: "is running",
    _R.WAITING: "waits for a person: `headway runs answer {id} …`",
    _R.PAUSED: "is paused: `headway resume {id}`",
    _R.INTERRUPTED: "was interrupted: `headway resume {id}`",
    _R.FAILED: "has failed: `headway runs retry {id}`",
    _R.COMPLETED: "is completed: `headway runs continue {id} TASK` or `headway runs fork {id}`",
    _R.CANCELLED: "was cancelled: `headway runs fork {id} --at CALL`",
}
_ID_ALPHABET = "23456789abcdefghjkmnpqrstvwxyz"  # no letters that are read as others
RESUMABLE = frozenset({_R.QUEUED, _R.INTERRUPTED, _R.PAUSED})


@dataclass(frozen=True, slots=True)
class Check:
    """What a resume would do. ``outcome``: completes, asks, waits, changed or fails.

    ``next`` says who asks next, or why it fails; ``change`` is the difference of a changed
    workflow.
    """

    run_id: str
    replayed: int
    outcome: str
    next: str | None = None
    change: str | None = None


class Control:
    """Acts on the rows of runs. Copies are the ``worker``'s, and of no other process."""

    def __init__(self, service: SchedulerClient, store: Store, worker: str | None = None) -> None:
        self._service = service
        self._store = store
        self._worker = worker

    async def cancel(self, run: Run) -> Run:
        """End a run that is not executed for good; its calls leave the queue."""
        if run.state is _R.CANCELLED:
            return run
        _require(run, {_R.QUEUED, _R.WAITING, _R.PAUSED, _R.INTERRUPTED}, "cancelled")
        for record in await self._store.calls(run.id, {CallState.QUEUED}):
            await self._service.decide(record, Outcome(CallState.CANCELLED, sent=False))
        now = self._service.now()
        return await self._saved(replace(run, state=_R.CANCELLED, finished_at=now, waits_for=None))

    async def pause(self, run: Run) -> Run:
        """Keep a run that is not executed from being taken up."""
        if run.state is _R.PAUSED:
            return run
        _require(run, {_R.QUEUED, _R.INTERRUPTED}, "paused")
        return await self._saved(replace(run, state=_R.PAUSED))

    async def answer(self, run: Run, outcome: CallState, words: str = "") -> Run:
        """Settle what the run waits for: done with ``words``, queued to be done again, cancelled.

        Raises NothingToAnswer.
        """
        record = await question_of(self._store, run)
        if record is None or record.state not in (CallState.QUEUED, CallState.UNKNOWN):
            raise NothingToAnswer(f"run {run.id} waits for no answer: it {_hint(run)}")
        if outcome is CallState.CANCELLED:
            return await self.cancel(run)
        if outcome is CallState.QUEUED and record.call.kind == "person":
            raise CallerError(f"run {run.id} asks a question: give the words of the answer")
        if outcome is CallState.DONE and record.call.kind == "sdk":
            raise CallerError(
                f"call {record.call.id} was made through an SDK, which takes no words for an "
                "answer: have it made again (--again), or cancel the run (--abort)"
            )
        if outcome is CallState.DONE:
            text = _answer_text(record, words)
            arrival = await self._next_arrival(run)
            await self._service.decide(record, Outcome(outcome, answer=text, arrival=arrival))
        elif record.state is CallState.UNKNOWN:
            await self._service.decide(record, Outcome(outcome))
        return await self._saved(replace(run, state=_R.QUEUED, waits_for=None))

    async def accept(self, run: Run, change: "NonDeterminism") -> None:
        """Set aside the answers that the changed workflow does not want."""
        records = await self._store.calls(run.id)
        first = change.next_arrival
        unwanted = [
            replace(record, arrival=None)
            for record in answered(records)
            if first is not None and record.arrival is not None and record.arrival >= first
        ]
        await self._service.amend(*unwanted)

    async def copied(
        self,
        run: Run,
        *,
        task: str | None = None,
        history: tuple[str, ...] | None = None,
        until: int | None = None,
    ) -> Run:
        """Write a new run that begins with the answers of ``run``, those before ``until``."""
        copy = Run(
            id=new_run_id(),
            workflow=run.workflow,
            task=run.task if task is None else task,
            priority=run.priority,
            state=_R.QUEUED,
            created_at=self._service.now(),
            component=run.component,
            parameters=run.parameters,
            history=run.history if history is None else history,
            parent=run.id,
            parent_until=until,
            worker=self._worker,
        )
        return await self._saved(copy)

    async def prune(
        self, before: float, *, keep: int | None = None, is_dry: bool = False
    ) -> list[str]:
        """Delete runs that ended earlier, but for those that younger ones began as copies of.

        ``keep``: not the last so many that ended. ``is_dry``: only say which.
        """
        every = await self._store.runs()
        ended = sorted(
            (run for run in every if run.state in ENDED_RUNS), key=_ended_at, reverse=True
        )
        old = {run.id for run in ended[keep or 0 :] if _ended_at(run) < before}
        for run in every:  # newest first: a parent comes after its copies
            if run.parent is not None and run.id not in old:
                old.discard(run.parent)
        if old and not is_dry:
            await self._service.forget(*old)
        return sorted(old)

    async def cut(self, run: Run, at: str) -> int:
        """The number of the answer of call ``at`` of a run; ``at`` is its id or its number."""
        records = [*await inherited_answers(self._store, run)]
        records += await self._store.calls(run.id)
        found = [r for r in records if at == r.call.id or f"{run.id}.{at}" == r.call.id]
        if not found or found[0].arrival is None:
            raise CallerError(
                f"run {run.id} has no answered call {at!r}: `headway runs show {run.id}` lists them"
            )
        return found[0].arrival

    async def _next_arrival(self, run: Run) -> int:
        rows = [*await inherited_answers(self._store, run)]
        rows += await self._store.calls(run.id)
        return max((row.arrival for row in rows if row.arrival is not None), default=-1) + 1

    async def _saved(self, run: Run) -> Run:
        await self._service.save_run(run)
        return run


async def rehearsed(
    runner: Runner, run: Run, plan: ReplayOptions
) -> tuple[Check, "NonDeterminism | None"]:
    """Replay a run offline. Nothing is asked, paid or written."""
    from headway_agents import DeadlinePassed, NeedsInput, NonDeterminism, Paused, WouldCall

    try:
        attempt, _ = await runner.rehearse(run, plan)
    except Exception as error:  # whatever its workflow raises
        return Check(run.id, 0, "fails", f"{type(error).__name__}: {error}"), None
    outcome, replayed = attempt.stopped, attempt.scope.machine.replayed
    match outcome:
        case NonDeterminism():
            text = await runner.difference(outcome)
            return Check(run.id, replayed, "changed", change=text), outcome
        case WouldCall(path, kind, record):
            state = "new" if record is None else f"{record.call.id}, {record.state}"
            return Check(run.id, replayed, "asks", f"{path} ({kind}, {state})"), None
        case NeedsInput(call_id):
            return Check(run.id, replayed, "waits", call_id), None
        case None | Paused() | DeadlinePassed():  # a check is not paused, and has no deadline
            return Check(run.id, replayed, "completes"), None
        case _:
            assert_never(outcome)


async def question_of(store: Store, run: Run) -> CallRecord | None:
    """The call of a run that a person must answer or decide."""
    records = await store.calls(run.id)
    return next((record for record in records if record.call.id == run.waits_for), None)


def new_run_id() -> str:
    """Return an id that no run has, short enough to be read out."""
    return "r-" + "".join(secrets.choice(_ID_ALPHABET) for _ in range(8))


def require_resumable(run: Run, *, with_person: bool) -> None:
    """Raise RunNotResumable unless the run can go on; ``with_person``: one who can be asked."""
    _require(run, RESUMABLE | ({_R.WAITING} if with_person else set()), "resumed")


def require_failed(run: Run) -> None:
    """Raise RunNotResumable unless the run has failed."""
    _require(run, {_R.FAILED}, "retried")


def require_completed(run: Run) -> None:
    """Raise RunNotResumable unless the run is completed."""
    _require(run, {_R.COMPLETED}, "continued")


def require_open(run: Run) -> None:
    """Raise RunNotResumable if the run has ended."""
    _require(run, frozenset(RunState) - ENDED_RUNS, "bumped")


def require_idle(run_id: str, is_executed: bool) -> None:
    """Raise RunNotResumable for a run that is being executed."""
    if is_executed:
        raise RunNotResumable(f"run {run_id} is being executed: cancel or pause it first")


def _require(run: Run, states: "frozenset[RunState] | set[RunState]", what: str) -> None:
    if run.state not in states:
        raise RunNotResumable(f"run {run.id} cannot be {what}: it {_hint(run)}")


def _hint(run: Run) -> str:
    return _HINTS[run.state].format(id=run.id)


def question_text(record: CallRecord, pieces: Sequence[str]) -> str:
    """What a call asks of a person: the question of a step, or the request that was cut off."""
    text = "".join(pieces)
    if record.call.is_paid:
        return text
    _, request = json.loads(text)
    return str(json.loads(request)) if record.call.kind == "person" else str(request)


def _ended_at(run: Run) -> float:
    return run.finished_at or run.created_at


def _answer_text(record: CallRecord, words: str) -> str:
    from headway_agents import model_answer, person_answer

    return model_answer(words) if record.call.kind == "model" else person_answer(words)
