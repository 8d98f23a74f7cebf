"""What a caller holds of a run: its handle, its result.

Law of this file: a handle shows what the runner tells it, or the database; it drives nothing.
"""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, assert_never

import anyio

from headway_scheduler.errors import CallerError, HeadwayError, RunNotFound
from headway_scheduler.model.calls import CallRecord, Usage
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import ENDED_RUNS, RunState
from headway_scheduler.ports import Store
from headway_scheduler.protocol.commands import CancelRun, PauseRun, RunOrder, SetPriority

from .events import Ended, Progress
from .results import unpacked

if TYPE_CHECKING:
    from autogen_agentchat.base import TaskResult
    from autogen_agentchat.messages import BaseAgentEvent, BaseChatMessage

    from headway_agents import Attempt


LOOK_SECONDS = 0.25
"""How often it is looked whether a run of another process has stopped."""

_STOPPED = ENDED_RUNS | {RunState.PAUSED, RunState.WAITING}


class RunFailed(HeadwayError):
    """The run has no result. ``state`` says how it ended, the message why."""

    def __init__(self, run: Run) -> None:
        super().__init__(
            f"run {run.id} ({run.workflow}) {run.state}: {run.error or 'no reason kept'}"
        )
        self.run_id: str = run.id
        self.state: RunState = run.state


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """How an attempt uses the journal: see ``headway_agents.Journal``."""

    retry_failed: bool = False
    """Ask again for calls that have failed."""

    unknown_waits: bool = False
    """Calls that were cut off in flight wait for a person, instead of being sent again."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a completed run said, and what it took."""

    run_id: str
    """The run's id."""

    task_result: "TaskResult"
    """AutoGen's own result: messages and stop reason."""

    calls: int
    """Model calls, replayed ones among them."""

    usage: Usage
    """Tokens of all calls, as the provider counted them."""

    waited_seconds: float
    """Seconds that its calls waited in the queue, added up."""

    @property
    def text(self) -> str:
        """The text of the last message."""
        return self.task_result.messages[-1].to_text() if self.task_result.messages else ""


class RunHandle:
    """A run of this process: watch it, wait for it, pause it, cancel it.

    ``change`` says how the workflow differs, if that is why it stopped.
    """

    is_local = True
    """Whether this process executes the run."""

    def __init__(self, run: Run, plan: ReplayOptions | None = None) -> None:
        self.run: Run = run
        self.plan: ReplayOptions = plan or ReplayOptions()
        self.change: str | None = None
        self.error: Exception | None = None
        self.task_result: TaskResult | None = None
        self.calls: dict[str, CallRecord] = {}
        self._events: list[Progress | BaseChatMessage | BaseAgentEvent] = []
        self._changed = anyio.Event()
        self._scope = anyio.CancelScope()
        self._is_cancelled = False
        self._is_paused = False
        self._attempt: Attempt | None = None

    @property
    def id(self) -> str:
        """The run's id."""
        return self.run.id

    def cancel(self) -> None:
        """Stop the run for good: its queued calls leave the queue, nothing more is bought."""
        self._is_cancelled = True
        self._scope.cancel()

    def interrupt(self) -> None:
        """Stop the run at once, as Ctrl-C does: what is in flight is cut off."""
        self._scope.cancel()

    def pause(self) -> None:
        """Stop the run at its next call; what is in flight comes back first."""
        self._is_paused = True
        if self._attempt is not None:
            self._attempt.scope.pause()

    def obey(self, order: RunOrder) -> None:
        """Do what an operator wants. Of another class the row is changed by whoever tells."""
        match order:
            case CancelRun():
                self.cancel()
            case PauseRun():
                self.pause()
            case SetPriority():
                # What waits of it follows with the row; this is for what it will ask.
                self.run = replace(self.run, priority=order.priority)
                if self._attempt is not None:
                    self._attempt.scope.priority = order.priority
            case _:
                assert_never(order)

    async def stream(self) -> AsyncIterator["Progress | BaseChatMessage | BaseAgentEvent"]:
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

    async def ended(self) -> None:
        """Wait for the end, whatever it is. A run that waits for another makes it as urgent."""
        with self._awaited():
            async for _ in self.stream():
                pass

    def _awaited(self) -> AbstractContextManager[None]:
        from headway_agents import current_scope

        scope = current_scope.get()
        if scope is None or scope.run_id == self.id:
            return nullcontext()
        return scope.service.waiting(scope.run_id, on=self.id)

    async def result(self) -> RunResult:
        """Wait for the end. Raises RunFailed unless the run completed."""
        await self.ended()
        if self.task_result is None:
            raise RunFailed(self.run) from self.error
        records = self.calls.values()
        usages = [record.usage for record in records if record.usage is not None]
        return RunResult(
            self.id,
            self.task_result,
            sum(record.call.is_paid for record in records),
            Usage(sum(u.input_tokens for u in usages), sum(u.output_tokens for u in usages)),
            sum((r.admitted_at or r.call.submitted_at) - r.call.submitted_at for r in records),
        )

    def begin(self, attempt: "Attempt", records: Sequence[CallRecord]) -> None:
        """Take note of the attempt and of what is recorded. For the runner."""
        self._attempt = attempt
        self.calls |= {record.call.id: record for record in records}
        if self._is_paused:
            attempt.scope.pause()

    def publish(self, event: "Progress | BaseChatMessage | BaseAgentEvent") -> None:
        """Add to the stream. For the runner and the listener to commits."""
        self._events.append(event)
        self._changed.set()
        self._changed = anyio.Event()


class RemoteRunHandle(RunHandle):
    """A run that this process does not execute: others do, or will, or it has ended.

    Its stream is what the team said and the end, once it is there: completed, failed, cancelled,
    paused, or waiting for a person. Cancel or pause it with ``Headway.cancel`` and ``pause``.
    """

    is_local = False

    def __init__(self, run: Run, store: Store) -> None:
        super().__init__(run)
        self._store = store

    def interrupt(self) -> None:
        """Raises CallerError."""
        raise CallerError(
            f"run {self.id} is not executed by this process: `await headway.cancel(run_id)` and "
            "`pause` reach it"
        )

    cancel = pause = interrupt

    async def stream(self) -> AsyncIterator["Progress | BaseChatMessage | BaseAgentEvent"]:
        """All messages of the team, and the end. Raises RunNotFound if it is deleted meanwhile."""
        while not self._events:
            run = await self._store.run(self.id)
            if run is None:
                raise RunNotFound(f"run {self.id} is there no more: it was pruned")
            if run.state in _STOPPED:
                self._show(run, await self._store.calls(self.id))
            else:
                await anyio.sleep(LOOK_SECONDS)
        async for event in super().stream():
            yield event

    def _show(self, run: Run, records: Sequence[CallRecord]) -> None:
        if self._events:  # somebody else waits too, and was faster
            return
        self.run, self.calls = run, {record.call.id: record for record in records}
        if run.result is not None:
            from headway_agents import load_result

            self.task_result = load_result(json.dumps(unpacked(run.result, records)))
            for message in self.task_result.messages:
                self.publish(message)
        self.publish(Ended(run.id, run.state, run.error, run.finished_at or run.created_at))
