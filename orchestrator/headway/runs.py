"""Executes runs: builds a team, drives it to its end, and writes down what became of it.

Law of this file: a run's row is written before the thing that it says is relied upon.

Theory of operation. A run is *queued* when its row is on disk, *running* before its team is built,
and ends as *completed*, *failed* or *cancelled* with its result in the same row. When its task is
cancelled from outside (Ctrl-C, the end of the process), it becomes *interrupted*. If the process
dies on any line, the next start finds it *running* and calls it *interrupted*. Whatever way it
ends, its scope is closed first: AutoGen alone would go on buying calls.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import anyio

from headway_scheduler.errors import HeadwayError, SchedulerClosed, StoreError
from headway_scheduler.model import CallRecord, Run, Usage
from headway_scheduler.service import Service
from headway_scheduler.states import ENDED_RUNS, RunState, check_run

from .events import Ended, Started

if TYPE_CHECKING:
    from autogen_agentchat.base import TaskResult

    from headway_agents import Attempt

Build = Callable[[Run], Awaitable["Attempt"]]
"""Makes a fresh team for a run: a team is never used for a second attempt."""


class RunFailed(HeadwayError):
    """The run has no result. ``state`` says how it ended, the message why."""

    def __init__(self, run: Run) -> None:
        super().__init__(
            f"run {run.id} ({run.workflow}) {run.state}: {run.error or 'no reason kept'}"
        )
        self.run_id = run.id
        self.state = run.state


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a completed run said and what it took.

    ``waited_seconds`` is the sum over its calls of the time spent in the queue.
    """

    run_id: str
    task_result: "TaskResult"
    calls: int
    usage: Usage
    waited_seconds: float

    @property
    def text(self) -> str:
        """The last message."""
        return self.task_result.messages[-1].to_text() if self.task_result.messages else ""


class RunHandle:
    """A run of this process: watch it, wait for it, cancel it."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.error: Exception | None = None
        self.task_result: TaskResult | None = None
        self.calls: dict[str, CallRecord] = {}
        self._events: list[Any] = []
        self._changed = anyio.Event()
        self._scope = anyio.CancelScope()
        self._is_cancelled = False

    @property
    def id(self) -> str:
        """The run's id."""
        return self.run.id

    def cancel(self) -> None:
        """Stop the run for good: its queued calls leave the queue, nothing more is bought."""
        self._is_cancelled = True
        self._scope.cancel()

    async def stream(self) -> AsyncIterator[Any]:
        """All messages of the team and all progress events, from the first one to the end."""
        seen = 0
        while True:
            for event in self._events[seen:]:
                seen += 1
                yield event
                if isinstance(event, Ended):
                    return
            if seen == len(self._events):
                await self._changed.wait()

    async def result(self) -> RunResult:
        """Wait for the end. Raises RunFailed unless the run completed."""
        async for _ in self.stream():
            pass
        if self.task_result is None:
            raise RunFailed(self.run) from self.error
        records = self.calls.values()
        usages = [record.usage for record in records if record.usage is not None]
        return RunResult(
            self.id,
            self.task_result,
            len(self.calls),
            Usage(sum(u.input_tokens for u in usages), sum(u.output_tokens for u in usages)),
            sum((r.admitted_at or r.call.submitted_at) - r.call.submitted_at for r in records),
        )

    def show_past(self, records: Sequence[CallRecord]) -> None:
        """Be the handle of a run that is not executed here: its stream holds only its end."""
        self.calls = {record.call.id: record for record in records}
        if self.run.result is not None:
            from headway_agents import load_result

            self.task_result = load_result(self.run.result)
        at = self.run.finished_at or self.run.created_at
        self.publish(Ended(self.id, self.run.state, self.run.error, at))

    def publish(self, event: Any) -> None:
        """Add to the stream. For the runner and the listener to commits."""
        self._events.append(event)
        self._changed.set()
        self._changed = anyio.Event()


class Runner:
    """Executes runs of this process through one scheduler."""

    def __init__(self, service: Service, build: Build) -> None:
        self._service = service
        self._build = build

    async def execute(self, handle: RunHandle) -> None:
        """Drive one run to its end. Errors of the run stay with the run; ours are raised."""
        await self._enter(handle, RunState.RUNNING, started_at=self._service.now())
        handle.publish(Started(handle.id, self._service.now()))
        ended = RunState.INTERRUPTED
        try:
            with handle._scope:
                ended = await self._drive(handle)
            if handle._is_cancelled:
                ended = RunState.CANCELLED
        finally:
            with anyio.CancelScope(shield=True):
                await self._end(handle, ended)

    async def _drive(self, handle: RunHandle) -> RunState:
        attempt = None
        try:
            attempt = await self._build(handle.run)
            async with aclosing(attempt.events(handle.run.task)) as events:
                async for event in events:
                    handle.publish(event)
            handle.task_result = attempt.result
            return RunState.COMPLETED
        except Exception as error:
            handle.error = _original(error, attempt)
            if isinstance(handle.error, SchedulerClosed):
                return RunState.INTERRUPTED
            return RunState.FAILED
        finally:
            if attempt is not None:
                attempt.close()

    async def _end(self, handle: RunHandle, state: RunState) -> None:
        error = text = None
        if handle.error is not None:
            from headway_agents.keys import scrubbed

            error = scrubbed(f"{type(handle.error).__name__}: {handle.error}")
        if handle.task_result is not None:
            from headway_agents import dump_result

            text = dump_result(handle.task_result)
        finished_at = self._service.now() if state in ENDED_RUNS else None
        try:
            await self._enter(handle, state, finished_at=finished_at, result=text, error=error)
        except StoreError as problem:
            # The row still says running: the next start will call it interrupted, nothing is lost.
            handle.error, handle.task_result = problem, None
            handle.run = replace(handle.run, state=RunState.INTERRUPTED, error=str(problem))
        finally:
            handle.publish(
                Ended(handle.id, handle.run.state, handle.run.error, self._service.now())
            )

    async def _enter(self, handle: RunHandle, state: RunState, **changes: Any) -> None:
        check_run(handle.id, handle.run.state, state)
        changed = replace(handle.run, state=state, **changes)
        with suppress(SchedulerClosed):
            await self._service.save_run(changed)
        handle.run = changed


def _original(error: Exception, attempt: "Attempt | None") -> Exception:
    """What an agent raised: a team wraps its text in a RuntimeError, and the type is lost."""
    raised = attempt.error if attempt is not None else None
    return raised if raised is not None and str(raised) in str(error) else error
