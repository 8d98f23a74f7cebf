"""Handles of runs, and their results. Law of this file: a handle shows, and drives nothing.

The runner and the commits of this process tell it what happens; the one of a run that another
process executes reads the database.
"""

import json
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

import anyio

from headway_scheduler.errors import CallerError, HeadwayError, RunNotFound
from headway_scheduler.model.calls import CallRecord, Priority, ServiceLane, Usage
from headway_scheduler.model.data import replace
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import ENDED_RUNS, IN_FLIGHT, RunState
from headway_scheduler.ports import Store
from headway_scheduler.protocol.commands import CancelRun, PauseRun, RunOrder, SetPriority

from ..workflows import asking_scope, import_autogen
from .event_stream import EventStream
from .events import Ended, Progress
from .journal import unpacked

if TYPE_CHECKING:
    from autogen_agentchat.base import TaskResult
    from autogen_agentchat.messages import BaseAgentEvent, BaseChatMessage

    from headway_agents import Attempt


POLL_SECONDS = 0.25
"""How often the row of another process's run is read."""

SETTLING_SECONDS = 1.0
"""How long a run that is drained may go on after its last answer. An attempt of which nothing more
is asked ends by itself in less; only what waits, or code outside of the journal, takes longer."""

_STOPPED = ENDED_RUNS | {RunState.PAUSED, RunState.WAITING}


class RunFailed(HeadwayError):
    """The run has no result. ``state`` says how it ended, the message why."""

    def __init__(self, run: Run) -> None:
        reason = run.error or "no reason kept"
        if run.state is RunState.WAITING and run.lane is ServiceLane.BATCH:
            reason = "it waits for its batch, and goes on by itself"
        elif run.state is RunState.WAITING:
            reason = f"a person decides: `headway runs answer {run.id}`, or hw.question, hw.answer"
        super().__init__(f"run {run.id} ({run.workflow}) {run.state}: {reason}")
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
    """The result of a completed run, and the calls, tokens and waits that it took."""

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
    """A run that this process executes: watch it, wait for it, pause it, cancel it."""

    is_local = True
    """Whether this process executes the run."""

    def __init__(self, run: Run, replay: ReplayOptions | None = None) -> None:
        self.run: Run = run
        """The row, as last written."""
        self.asked_priority: Priority | None = None
        """The class that was asked for; that of ``run`` is less urgent if more is not permitted.
        None for a handle of a run that was not started or submitted by this call."""
        self.replay: ReplayOptions = replay or ReplayOptions()
        """How the attempt uses the journal."""
        self.change: str | None = None
        """How the workflow differs from what it was, if the run stopped for that."""
        self.error: Exception | None = None
        """The error that the run raised; None without one."""
        self.task_result: TaskResult | None = None
        """The result of AutoGen, once the run is completed."""
        self.calls: dict[str, CallRecord] = {}
        """Calls and steps by id, as last written."""
        self.cancel_scope: anyio.CancelScope = anyio.CancelScope()
        """Cuts the attempt off. For the runner."""
        self.is_cancelled: bool = False
        """Whether the run is to end for good."""
        self.listeners: Collection[EventStream] = ()
        """Streams of the process that get its progress as well."""
        self._events: list[Progress | BaseChatMessage | BaseAgentEvent] = []
        self._changed = anyio.Event()
        self.is_draining: bool = False
        """Whether the run is to be interrupted once its calls in flight have come back."""
        self._is_paused = False
        self._attempt: Attempt | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.run.workflow} {self.run.state}>"

    @property
    def id(self) -> str:
        """The run's id."""
        return self.run.id

    @property
    def replayed(self) -> int:
        """How many recorded answers the attempt got back so far."""
        return 0 if self._attempt is None else self._attempt.scope.machine.replayed

    def cancel(self) -> None:
        """End the run for good: its queued calls leave the queue, nothing more is bought."""
        self.is_cancelled = True
        self.cancel_scope.cancel()

    def interrupt(self) -> None:
        """Stop the run at once, as Ctrl-C does: what is in flight is cut off."""
        self.cancel_scope.cancel()

    def pause(self) -> None:
        """Stop the run at its next call; what is in flight comes back first."""
        self.is_draining, self._is_paused = False, True
        if self._attempt is not None:
            self._attempt.scope.pause()

    async def drain(self) -> None:
        """Interrupt the run once its calls and steps in flight have ended; it may end before.

        Queued calls are left in the queue, and questions to a person unanswered.
        """
        self.pause()
        self.is_draining = True
        while not self._has_ended:
            patience = None if self._in_flight else SETTLING_SECONDS
            with anyio.move_on_after(patience) as waiting:
                await self._changed.wait()
            if waiting.cancelled_caught and not self._in_flight:
                self.interrupt()
                return

    @property
    def _has_ended(self) -> bool:
        return bool(self._events) and isinstance(self._events[-1], Ended)

    @property
    def _in_flight(self) -> bool:
        return any(record.state in IN_FLIGHT for record in self.calls.values())

    def obey(self, order: RunOrder) -> None:
        """Carry out an order. The sender of a SetPriority writes the row."""
        match order:
            case CancelRun():
                self.cancel()
            case PauseRun():
                self.pause()
            case SetPriority():
                # Its waiting calls follow the row; the scope is for calls that it will make.
                self.run = replace(self.run, priority=order.priority)
                if self._attempt is not None:
                    self._attempt.scope.priority = order.priority
            case _:
                assert_never(order)

    async def stream(self) -> AsyncIterator["Progress | BaseChatMessage | BaseAgentEvent"]:
        """Yield all messages of the team and all progress events, from the first one to the end."""
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
        """Wait for the end, whatever it is. A run that waits for another lends it its priority."""
        with self._awaited():
            async for _ in self.stream():
                pass

    def _awaited(self) -> AbstractContextManager[None]:
        scope = asking_scope()
        if scope is None or scope.run_id == self.id:
            return nullcontext()
        return scope.scheduler.waiting(scope.run_id, on=self.id)

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
        """Take in the attempt, and what is recorded. For the runner."""
        self._attempt = attempt
        self.calls |= {record.call.id: record for record in records}
        if self._is_paused:
            attempt.scope.pause()

    def _take(self, run: Run, records: Sequence[CallRecord], result: "TaskResult | None") -> None:
        """Show a run that has stopped, as the database has it."""
        self.run, self.task_result = run, result
        self.calls = {record.call.id: record for record in records}
        for message in () if result is None else result.messages:
            self.publish(message)
        self.publish(Ended(run.id, run.state, run.error, run.finished_at or run.created_at))

    def publish(self, event: "Progress | BaseChatMessage | BaseAgentEvent") -> None:
        """Add to the stream. For the runner and for commits."""
        self._events.append(event)
        if self.listeners and isinstance(event, Progress):
            for stream in self.listeners:
                stream.put(event)
        self._changed.set()
        self._changed = anyio.Event()


class RemoteRunHandle(RunHandle):
    """A run that this process does not execute: another one does, or will, or it has ended.

    Its stream has the team's messages and the end, once the run is completed, failed, cancelled,
    paused, or waiting for a person. ``Headway.cancel`` and ``pause`` reach it.
    """

    is_local = False

    def __init__(self, run: Run, store: Store) -> None:
        super().__init__(run)
        self._store = store

    def cancel(self) -> None:
        """Raises CallerError."""
        self.interrupt()

    def pause(self) -> None:
        """Raises CallerError."""
        self.interrupt()

    def interrupt(self) -> None:
        """Raises CallerError."""
        raise CallerError(
            f"run {self.id} is not executed by this process: `await headway.cancel(run_id)` and "
            "`pause` reach it"
        )

    async def stream(self) -> AsyncIterator["Progress | BaseChatMessage | BaseAgentEvent"]:
        """Yield all messages of the team, and the end. Raises RunNotFound if the run is pruned."""
        while not self._events:
            run = await self._store.run(self.id)
            if run is None:
                raise RunNotFound(f"run {self.id} is there no more: it was pruned")
            if run.state in _STOPPED:
                if run.result is not None:
                    await import_autogen()
                self._show(run, await self._store.calls(self.id))
            else:
                await anyio.sleep(POLL_SECONDS)
        async for event in super().stream():
            yield event

    def _show(self, run: Run, records: Sequence[CallRecord]) -> None:
        if self._events:  # another task reads this stream too, and was faster
            return
        result = None
        if run.result is not None:
            from headway_agents import load_result

            result = load_result(json.dumps(unpacked(run.result, records)))
        self._take(run, records, result)
