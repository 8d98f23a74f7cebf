"""Carries out the verbs for runs that stopped. Law of this file: rows first, then the run.

A verb finds the run, refuses one that is being executed, has :class:`StoppedRuns` change its row or
copy it, and hands it to whoever executes runs in this process.
"""

import logging
from collections.abc import Awaitable, Callable, Container
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, assert_never

from headway_scheduler.errors import CallerError, RunNotResumable, WorkflowNotHere
from headway_scheduler.model.calls import CallRecord
from headway_scheduler.model.data import replace
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import CallState, RunState
from headway_scheduler.ports import Report, Store
from headway_scheduler.runtime.client import SchedulerClient

from .. import arguments
from .handle import ReplayOptions, RunHandle
from .options import RunOptions, with_options
from .runner import Runner
from .stopped import (
    StoppedRuns,
    being_executed,
    find_run,
    question_of,
    question_text,
    require_completed,
    require_failed,
    require_resumable,
)

if TYPE_CHECKING:
    from headway_agents import NonDeterminism, TaskInput

Execute = Callable[[Run, ReplayOptions], Awaitable[RunHandle]]
"""Claims a run for this process and executes it. Raises RunNotResumable if another one does."""

_log = logging.getLogger("headway")

OnUnknown = Literal["send", "wait"]
OnChange = Literal["abort", "fork", "accept"]


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of resuming a run, found out offline."""

    run_id: str
    """The run's id."""

    replayed: int
    """How many recorded answers it would be given back."""

    outcome: Literal["completes", "asks", "waits", "changed", "fails"]
    """What comes after them."""

    next: str | None = None
    """The agent that would ask next, the call that a person must answer, or why it fails."""

    change: str | None = None
    """How the workflow differs from what it was, if it does."""


class Actions:
    """The verbs of ``Headway`` for runs that stopped.

    ``executed`` has the ids of runs that the ``worker`` of this process executes; ``execute`` has
    it execute one more.
    """

    def __init__(
        self,
        scheduler: SchedulerClient,
        store: Store,
        runner: Runner,
        executed: Container[str],
        execute: Execute,
        worker: str,
    ) -> None:
        self._scheduler = scheduler
        self._store = store
        self._runner = runner
        self._executed = executed
        self._execute = execute
        self._stopped = StoppedRuns(scheduler, store, worker)

    async def resume(self, run_id: str, unknown: OnUnknown, on_change: OnChange) -> RunHandle:
        """Go on with a run that was interrupted or paused, or that a person has answered."""
        run = await self._find_to_build(run_id)
        require_resumable(run, with_person=self._runner.person is not None)
        options = _replay_options(unknown)
        if on_change == "abort":
            return await self._execute(run, options)
        if on_change not in ("fork", "accept"):
            raise CallerError(f"on_change is abort, fork or accept, not {on_change!r}")
        _, change = await rehearsed(self._runner, run, options)
        if change is not None and on_change == "fork":
            copy = await self._stopped.copied(run, until=change.next_arrival or 0)
            return await self._execute(copy, ReplayOptions())
        if change is not None:
            await self._stopped.accept(run, change)
        return await self._execute(run, options)

    async def resume_all(self, unknown: OnUnknown) -> list[RunHandle]:
        """Go on with every interrupted run, most urgent first."""
        handles = []
        for run in await self._store.runs({RunState.INTERRUPTED}, urgent_first=True):
            try:
                handles.append(await self.resume(run.id, unknown, "abort"))
            except (WorkflowNotHere, RunNotResumable) as error:
                _log.warning("left as it is: %s", error)  # or another process was faster
        return handles

    async def check(self, run_id: str, unknown: OnUnknown) -> Check:
        """Replay a run offline, and say what resuming it would do."""
        run = await self._find(run_id)
        check, _ = await rehearsed(self._runner, run, _replay_options(unknown))
        return check

    async def retry(self, run_id: str, options: RunOptions) -> RunHandle:
        """Go on with a failed run from its failure."""
        run = await self._find_to_build(run_id)
        require_failed(run)
        run = replace(
            with_options(run, self._scheduler.now(), **options), lives_lost=0, lost_spared=0
        )
        return await self._execute(run, ReplayOptions(retry_failed=True))

    async def fork(self, run_id: str, at: str, task: "TaskInput | None") -> RunHandle:
        """Start a copy of a run that asks call ``at`` anew."""
        run = await self._find_to_build(run_id)
        given = None if task is None else arguments.task(task)
        at = arguments.text("at", at)
        until = await self._stopped.cut(run, at)
        copy = await self._stopped.copied(run, task=given, until=until)
        return await self._execute(copy, ReplayOptions())

    async def continue_run(self, run_id: str, task: "TaskInput") -> RunHandle:
        """Start a copy of a completed run, with another task."""
        run = await self._find_to_build(run_id)
        require_completed(run)
        given = arguments.task(task)
        copy = await self._stopped.copied(run, task=given, history=(*run.history, run.given))
        return await self._execute(copy, ReplayOptions())

    async def question(self, run_id: str) -> tuple[CallRecord, str] | None:
        """Return the call that waits for a person, and what it asks."""
        record = await question_of(self._store, await find_run(self._store, run_id))
        if record is None:
            return None
        chunks = await self._store.prompt(record.call.request_hash)
        return record, question_text(record, chunks or ())

    async def answer(self, run_id: str, words: str | None, again: bool, abort: bool) -> Run:
        """Settle what a run waits for, and queue or cancel the run."""
        run = await self._find(run_id)
        if (words is not None) + again + abort != 1:
            raise CallerError("an answer is words, or again, or abort: one of them")
        if words is not None:
            words = arguments.long_text("words", words)
        outcome = CallState.CANCELLED if abort else CallState.QUEUED
        outcome = outcome if words is None else CallState.DONE
        return await self._stopped.answer(run, outcome, words or "")

    async def prune(
        self, older_than_seconds: float | None, keep: int | None, is_dry: bool, report: Report
    ) -> list[str]:
        """Delete ended runs with their calls and texts; return their ids."""
        if older_than_seconds is None and keep is None:
            raise CallerError("say which runs: older_than_seconds, keep, or both")
        before = float("inf")
        if older_than_seconds is not None:
            age = arguments.amount("older_than_seconds", older_than_seconds, least=0)
            before = self._scheduler.now() - age
        if keep is not None:
            keep = arguments.count("keep", keep)
        return await self._stopped.prune(before, keep=keep, is_dry=is_dry, report=report)

    async def _find_to_build(self, run_id: str) -> Run:
        """Return the row of a run to execute here. Raises WorkflowNotHere, and as :meth:`_find`."""
        run = await self._find(run_id)
        self._runner.require_workflow(run)
        return run

    async def _find(self, run_id: str) -> Run:
        """Return the row of a run that is not executed here. A claim asks the other processes."""
        run = await find_run(self._store, run_id)
        if run.id in self._executed:
            raise being_executed(run.id)
        return run


async def rehearsed(
    runner: Runner, run: Run, replay: ReplayOptions
) -> tuple[Check, "NonDeterminism | None"]:
    """Replay a run offline. Nothing is asked, paid or written."""
    from headway_agents import DeadlinePassed, NeedsInput, NonDeterminism, Paused, WouldCall

    try:
        attempt, _ = await runner.rehearse(run, replay)
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


def _replay_options(unknown: OnUnknown) -> ReplayOptions:
    if unknown not in ("send", "wait"):
        raise CallerError(f"unknown is send or wait, not {unknown!r}")
    return ReplayOptions(unknown_waits=unknown == "wait")
