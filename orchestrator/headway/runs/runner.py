"""Executes runs: builds a team, drives it to its end, and records the outcome.

Law of this file: a state is in the run's row before anybody relies on it.

Theory of operation. A run is *queued* when its row is on disk, *running* before its code is
imported or executed, and ends as *completed*, *failed* or *cancelled* with its result in the same
row. If its task is cancelled from outside (Ctrl-C, the end of the process), it becomes
*interrupted*. If the process dies on any line, the next leader finds the row *running* and makes it
*interrupted*. Every end closes the run's scope first: AutoGen alone would go on buying calls.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, assert_never

import anyio

from headway_scheduler.errors import (
    CallerError,
    DeadlineExceeded,
    SchedulerClosed,
    StoreError,
    WorkflowNotHere,
)
from headway_scheduler.model.data import replace
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import ENDED_RUNS, RunState
from headway_scheduler.ports import Store
from headway_scheduler.runtime.client import SchedulerClient

from ..pricing.costs import spent
from ..pricing.prices import Prices
from ..workflows import Workflows, import_autogen
from .events import Ended, Started
from .handle import ReplayOptions, RunHandle
from .journal import answered, journal_of, packed

if TYPE_CHECKING:
    from autogen_agentchat.base import TaskResult

    from headway_agents import Attempt, AttemptOutcome, NonDeterminism

Person = Callable[[str], Awaitable[str]]
"""Asks a person who is present a question, and returns the words of the answer. Raises EOFError if
nobody answers any more: the run waits then."""


class Runner:
    """Executes runs of this process through one scheduler."""

    def __init__(
        self,
        scheduler: SchedulerClient,
        store: Store,
        workflows: Workflows,
        prices: Prices,
        worker: str,
    ) -> None:
        self._worker = worker
        self._scheduler = scheduler
        self._store = store
        self._workflows = workflows
        self._prices = prices
        self.person: Person | None = None

    async def execute(self, handle: RunHandle) -> None:
        """Drive one run to its end. Errors of the run are kept in its handle, ours are raised."""
        await import_autogen()
        before, now = handle.run, self._scheduler.now()
        # To import a workflow executes the user's code. If that ends the process, the row must say
        # that the run was executed: only such a run loses a life.
        is_imported = self._workflows.is_imported(before)
        await self._enter(
            handle,
            RunState.RUNNING,
            version=before.version or (self._version(before) if is_imported else None),
            started_at=before.started_at or now,
            resumed_at=now,
            attempts=before.attempts + 1,
            finished_at=None,
            error=None,
        )
        ended = RunState.INTERRUPTED
        try:
            with handle.cancel_scope:  # cancelled, it ends the block, and the run is interrupted
                ended = await self._drive(handle)
            if handle.is_cancelled:
                ended = RunState.CANCELLED
        finally:
            # Ctrl-C or the end of Headway may have cancelled this task. The end is written all the
            # same: others wait for it, and a row that says running would be taken for a crash.
            with anyio.CancelScope(shield=True):
                await self._end(handle, ended, before)

    def require_workflow(self, run: Run) -> None:
        """Raise WorkflowNotHere unless this process can build the team of a run."""
        if not self._workflows.can_build(run):
            raise WorkflowNotHere(
                f"run {run.id}: no workflow {run.workflow!r} is registered in this process: a "
                "program that registers it before it opens Headway goes on with the run, and one "
                "that registers it later resumes it then"
            )

    async def rehearse(
        self, run: Run, replay: ReplayOptions
    ) -> tuple["Attempt", "TaskResult | None"]:
        """Replay a run up to its first request that is not recorded, and ask nothing.

        Raises what the run raises by then.
        """
        await import_autogen()
        from headway_agents import current_scope

        # The replay sets the scope of this task, and the caller, which is no part of the run, goes
        # on in the same task.
        outside = current_scope.get()
        try:
            return await self._rehearsed(run, replay)
        finally:
            current_scope.set(outside)

    async def _rehearsed(
        self, run: Run, replay: ReplayOptions
    ) -> tuple["Attempt", "TaskResult | None"]:
        attempt = await self._attempt(run, replay)
        attempt.scope.machine.is_check = True
        try:
            await _shown(attempt, run, lambda event: None)
        except Exception:
            if attempt.stopped is None:
                raise
        finally:
            attempt.close()
            await self._workflows.release(run.id)
        return attempt, attempt.result

    async def difference(self, changed: "NonDeterminism") -> str:
        """Return the difference between what a changed workflow asks and what it asked before."""
        from headway_agents import difference

        near = changed.nearest
        recorded = None if near is None else await self._store.prompt(near.call.request_hash)
        return difference(changed, recorded or ())

    async def _drive(self, handle: RunHandle) -> RunState:
        attempt = None
        try:
            attempt = await self._attempt(handle.run, handle.replay, handle)
            with self._until_deadline(handle.run, attempt):
                await _shown(attempt, handle.run, handle.publish)
            if attempt.stopped is not None:
                return await self._stopped(handle, attempt.stopped)
            handle.task_result = attempt.result
            return RunState.COMPLETED
        except BaseException as error:
            from headway_agents.containment import contained, is_asked_for

            if is_asked_for(error):
                raise
            if attempt is not None and attempt.stopped is not None:
                return await self._stopped(handle, attempt.stopped)
            handle.error = _original(contained(error), attempt)
            if isinstance(handle.error, SchedulerClosed):
                return RunState.INTERRUPTED
            return RunState.FAILED
        finally:
            if attempt is not None:
                attempt.close()

    async def _attempt(
        self, run: Run, replay: ReplayOptions, handle: RunHandle | None = None
    ) -> "Attempt":
        """Build a fresh team on the run's journal; the handle gets what is recorded."""
        journal = await journal_of(
            self._store,
            run,
            retry_failed=replay.retry_failed,
            unknown_waits=replay.unknown_waits,
        )
        attempt = await self._workflows.build(run, self._scheduler, journal)
        attempt.scope.person = self.person
        if handle is not None:
            version = self._version(run)
            if run.version is None and version is not None:
                handle.run = replace(handle.run, version=version)
                await self._scheduler.save_run(handle.run)
            handle.begin(attempt, journal.records)
            if run.budget_usd is not None:
                spent_usd = spent(journal.records, self._prices)
                self._scheduler.note_run(handle.run, spent_usd=spent_usd)
            answers = len(answered([*journal.inherited, *journal.records]))
            is_changed = run.version not in (None, version)
            handle.publish(Started(run.id, self._scheduler.now(), answers, is_changed))
        return attempt

    async def _stopped(self, handle: RunHandle, outcome: "AttemptOutcome") -> RunState:
        from headway_agents import DeadlinePassed, NeedsInput, NonDeterminism, Paused, WouldCall

        match outcome:
            case NeedsInput(call_id):
                handle.run = replace(handle.run, waits_for=call_id)
                return RunState.WAITING
            case Paused():
                return RunState.INTERRUPTED if handle.is_draining else RunState.PAUSED
            case DeadlinePassed():
                handle.error = DeadlineExceeded(
                    f"run {handle.id} passed its deadline: `headway runs retry {handle.id} "
                    "--deadline TIME` goes on with more time"
                )
                return RunState.FAILED
            case NonDeterminism():
                handle.change = await self.difference(outcome)
                return RunState.INTERRUPTED
            case WouldCall():
                return RunState.INTERRUPTED  # only a check ends so, and it has no handle
            case _:
                assert_never(outcome)

    def _version(self, run: Run) -> str | None:
        try:
            return self._workflows.version(run)
        except CallerError:
            return None  # building the team raises it too, and says what to do

    @contextmanager
    def _until_deadline(self, run: Run, attempt: "Attempt") -> Iterator[None]:
        """Stop the attempt at the run's deadline, if it has one."""
        if run.deadline is None:
            yield
            return
        from headway_agents import DeadlinePassed

        seconds = max(0.0, run.deadline - self._scheduler.now())
        timer = asyncio.get_running_loop().call_later(seconds, attempt.scope.stop, DeadlinePassed())
        try:
            yield
        finally:
            timer.cancel()

    async def _end(self, handle: RunHandle, state: RunState, before: Run) -> None:
        if handle.change is not None:
            # Nothing was asked or paid, so the row goes back to what it was; only a run that had
            # not ended is interrupted now.
            was_over = before.state in ENDED_RUNS
            state = before.state if was_over else RunState.INTERRUPTED
            handle.run = replace(before, state=RunState.RUNNING)
            changes: dict[str, Any] = {}
        else:
            state, changes = self._outcome(handle, state)
        try:
            await self._enter(handle, state, **changes)
        except StoreError as problem:
            # The row still says running, and the next leader will make it interrupted. The journal
            # has every answer, so nothing is lost but the result.
            handle.error, handle.task_result = problem, None
            handle.run = replace(handle.run, state=RunState.INTERRUPTED, error=str(problem))
        finally:
            handle.publish(
                Ended(handle.id, handle.run.state, handle.run.error, self._scheduler.now())
            )

    def _outcome(self, handle: RunHandle, state: RunState) -> tuple[RunState, dict[str, Any]]:
        error = text = None
        if handle.task_result is not None:
            from headway_agents import dump_result

            try:
                text = packed(dump_result(handle.task_result), handle.calls.values())
            except Exception as problem:  # a message of the workflow's own may raise anything
                handle.error, handle.task_result, state = problem, None, RunState.FAILED
        if handle.error is not None:
            from headway_agents.calls.errors import described

            error = described(handle.error)
        finished_at = self._scheduler.now() if state in ENDED_RUNS else None
        waits_for = handle.run.waits_for if state is RunState.WAITING else None
        return state, {
            "finished_at": finished_at,
            "result": text,
            "error": error,
            "waits_for": waits_for,
        }

    async def _enter(self, handle: RunHandle, state: RunState, **changes: Any) -> None:
        handle.run.check(state)
        worker = self._worker if state is RunState.RUNNING else None
        changed = replace(handle.run, state=state, worker=worker, **changes)
        with suppress(SchedulerClosed):
            await self._scheduler.save_run(changed)
        handle.run = changed


async def _shown(attempt: "Attempt", run: Run, publish: Callable[[Any], None]) -> None:
    from headway_agents import load_task

    history = [load_task(each) for each in run.history]
    async with aclosing(attempt.events(load_task(run.given), history)) as events:
        async for event in events:
            publish(event)


def _original(error: Exception, attempt: "Attempt | None") -> Exception:
    """Return what an agent raised: a team wraps its text in a RuntimeError and loses the type."""
    raised = attempt.error if attempt is not None else None
    return raised if raised is not None and str(raised) in str(error) else error
