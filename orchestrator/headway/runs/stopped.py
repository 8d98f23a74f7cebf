"""Changes the rows of runs that nobody executes. Law of this file: written first, then relied on.

Where the state of a run does not allow what is asked, RunNotResumable says what to do instead.
"""

import json
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from headway_scheduler.errors import CallerError, NothingToAnswer, RunNotFound, RunNotResumable
from headway_scheduler.model.calls import CallRecord, Outcome, ServiceLane
from headway_scheduler.model.data import replace
from headway_scheduler.model.runs import Run, Task
from headway_scheduler.model.states import ENDED_RUNS, CallState, RunState
from headway_scheduler.ports import Report, Store, unheard
from headway_scheduler.runtime.client import SchedulerClient

from .. import arguments
from ..spelling import did_you_mean
from .journal import answered, inherited_answers
from .options import new_run_id

if TYPE_CHECKING:
    from headway_agents import NonDeterminism

PRUNED_AT_ONCE = 1_000
"""How many runs are deleted in one commit. Each looks through all texts for those not needed."""
LOOKED_THROUGH = 100
"""How many of the newest runs may be meant by an id that is not there."""

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
_RESUMABLE = frozenset({_R.QUEUED, _R.INTERRUPTED, _R.PAUSED})


class StoppedRuns:
    """Changes the rows of runs that nobody executes. Copies are for the ``worker`` to execute."""

    def __init__(self, scheduler: SchedulerClient, store: Store, worker: str | None = None) -> None:
        self._scheduler = scheduler
        self._store = store
        self._worker = worker

    async def cancel(self, run: Run) -> Run:
        """End a run for good; its calls leave the queue. Raises RunNotResumable."""
        if run.state is _R.CANCELLED:
            return run
        _require(run, {_R.QUEUED, _R.WAITING, _R.PAUSED, _R.INTERRUPTED}, "cancelled")
        for record in await self._store.calls(run.id, {CallState.QUEUED}):
            await self._scheduler.decide(record, Outcome(CallState.CANCELLED, sent=False))
        now = self._scheduler.now()
        return await self._saved(replace(run, state=_R.CANCELLED, finished_at=now, waits_for=None))

    async def pause(self, run: Run) -> Run:
        """Keep a run from being taken up by a worker. Raises RunNotResumable."""
        if run.state is _R.PAUSED:
            return run
        _require(run, {_R.QUEUED, _R.INTERRUPTED}, "paused")
        return await self._saved(replace(run, state=_R.PAUSED))

    async def answer(self, run: Run, outcome: CallState, words: str = "") -> Run:
        """Settle what the run waits for: done with ``words``, queued to be done again, cancelled.

        The run is queued then, or cancelled. Raises NothingToAnswer or CallerError.
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
            await self._scheduler.decide(record, Outcome(outcome, answer=text, arrival=arrival))
        elif record.state is CallState.UNKNOWN:
            await self._scheduler.decide(record, Outcome(outcome))
        return await self._saved(replace(run, state=_R.QUEUED, waits_for=None))

    async def accept(self, run: Run, change: "NonDeterminism") -> None:
        """Set aside the recorded answers that the changed workflow does not ask for."""
        records = await self._store.calls(run.id)
        first = change.next_arrival
        unwanted = [
            replace(record, arrival=None)
            for record in answered(records)
            if first is not None and record.arrival is not None and record.arrival >= first
        ]
        await self._scheduler.amend(*unwanted)

    async def copied(
        self,
        run: Run,
        *,
        task: Task | None = None,
        history: tuple[Task, ...] | None = None,
        until: int | None = None,
    ) -> Run:
        """Write a new run that begins with the answers of ``run``, those before ``until``."""
        task = task or run.given
        copy = Run(
            id=new_run_id(),
            workflow=run.workflow,
            task=task.text,
            messages=task.messages,
            priority=run.priority,
            state=_R.QUEUED,
            created_at=self._scheduler.now(),
            component=run.component,
            parameters=run.parameters,
            history=run.history if history is None else history,
            parent=run.id,
            parent_until=until,
            worker=self._worker,
            lane=run.lane,
        )
        return await self._saved(copy)

    async def prune(
        self,
        before: float,
        *,
        keep: int | None = None,
        is_dry: bool = False,
        report: Report = unheard,
    ) -> list[str]:
        """Delete the runs that ended before a time, and return their ids.

        The last ``keep`` that ended stay, and the parents of runs that stay. ``is_dry``: only say
        which. ``PRUNED_AT_ONCE`` go in one commit, and ``report`` is told of it: callers wait no
        longer than for that, and after an error in between the rest is still there.
        """
        every = await self._store.runs()
        ended = sorted(
            (run for run in every if run.state in ENDED_RUNS), key=_ended_at, reverse=True
        )
        old = {run.id for run in ended[keep or 0 :] if _ended_at(run) < before}
        for run in every:  # newest first: a parent comes after its copies
            if run.parent is not None and run.id not in old:
                old.discard(run.parent)
        if not is_dry:
            # Newest first: a run may go only when its copies are gone.
            going = [run.id for run in every if run.id in old]
            for first in range(0, len(going), PRUNED_AT_ONCE):
                report(first, len(going))
                await self._scheduler.forget(*going[first : first + PRUNED_AT_ONCE])
        return sorted(old)

    async def cut(self, run: Run, at: str) -> int:
        """Return the arrival number of the answer of call ``at``, an id or a number in the run."""
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
        await self._scheduler.save_run(run)
        return run


async def find_run(store: Store, run_id: str) -> Run:
    """Return the row of a run; its id may be shortened. Raises RunNotFound."""
    run = await store.run(arguments.text("run_id", run_id))
    if run is None:
        newest = [each.id for each in await store.runs(limit=LOOKED_THROUGH)]
        # Ids are made by chance, so any two have some letters in common.
        meant = did_you_mean(run_id, newest, nearness=0.75) or "`headway runs list` shows them"
        raise RunNotFound(f"no run {run_id!r}: {meant}")
    return run


async def question_of(store: Store, run: Run) -> CallRecord | None:
    """Return the call of a run that a person must answer or decide; None if it waits for none."""
    records = await store.calls(run.id)
    found = next((record for record in records if record.call.id == run.waits_for), None)
    return None if found is None or is_by_batch(found) else found


def is_by_batch(record: CallRecord) -> bool:
    """Whether a call that a run waits for is in a batch, or has just left it: nobody is asked."""
    return record.call.lane is ServiceLane.BATCH and record.state is not CallState.UNKNOWN


def require_resumable(run: Run, *, with_person: bool) -> None:
    """Raise RunNotResumable unless the run can go on; ``with_person``: somebody can be asked."""
    _require(run, _RESUMABLE | ({_R.WAITING} if with_person else set()), "resumed")


def require_failed(run: Run) -> None:
    """Raise RunNotResumable unless the run has failed."""
    _require(run, {_R.FAILED}, "retried")


def require_completed(run: Run) -> None:
    """Raise RunNotResumable unless the run is completed."""
    _require(run, {_R.COMPLETED}, "continued")


def require_open(run: Run) -> None:
    """Raise RunNotResumable if the run has ended."""
    _require(run, frozenset(RunState) - ENDED_RUNS, "bumped")


def being_executed(run_id: str) -> RunNotResumable:
    """Return the error for a run that is being executed."""
    return RunNotResumable(
        f"run {run_id} is being executed: cancel or pause it first; if its process has just died, "
        "it is interrupted within seconds"
    )


def _require(run: Run, states: AbstractSet[RunState], what: str) -> None:
    if run.state not in states:
        raise RunNotResumable(f"run {run.id} cannot be {what}: it {_hint(run)}")


def _hint(run: Run) -> str:
    if run.state is _R.WAITING and run.lane is ServiceLane.BATCH:
        return f"waits for its batch, or for a person: `headway runs show {run.id}`"
    return _HINTS[run.state].format(id=run.id)


def question_text(record: CallRecord, chunks: Sequence[str]) -> str:
    """Return what a call asks of a person: a question, or what became of what was cut off."""
    text = "".join(chunks)
    if record.call.is_paid:
        return f"A request was cut off, and may have been answered. What came of it? {text}"
    name, request = json.loads(text)
    if record.call.kind == "person":
        return str(json.loads(request))
    return f"{name} was cut off, and may have happened. What came of {name}({request})?"


def _ended_at(run: Run) -> float:
    return run.finished_at or run.created_at


def _answer_text(record: CallRecord, words: str) -> str:
    from headway_agents import model_answer, person_answer

    return model_answer(words) if record.call.kind == "model" else person_answer(words)
