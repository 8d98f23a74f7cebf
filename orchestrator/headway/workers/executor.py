"""Executes runs in this process: those that are started here, and those that the leader gives it.

Law of this file: a run is executed here only while its row names this worker.
"""

import os
import secrets
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TypeVar, assert_never

import anyio
from anyio.abc import TaskGroup

from headway_scheduler.errors import SchedulerClosed, StoreError
from headway_scheduler.model.batch import Batch
from headway_scheduler.model.runs import Run, Worker
from headway_scheduler.model.states import RunState
from headway_scheduler.ports import Clock, Store
from headway_scheduler.protocol.commands import (
    CancelRun,
    ExecuteRun,
    Order,
    PauseRun,
    RegisterWorker,
    RetireWorker,
    SetPriority,
)
from headway_scheduler.protocol.envelopes import WORKER
from headway_scheduler.runtime.client import SchedulerClient

from ..runs.events import Ended, of_batch
from ..runs.handle import ReplayOptions, RunHandle
from ..runs.runner import Runner
from ..runs.stopped import require_idle
from ..workflows import Workflows
from .commands import Commands

LOOK_SECONDS = 0.5
"""How often one that works until nothing is left looks whether anything is."""

Watch = Callable[[RunHandle], None]
T = TypeVar("T")


def new_worker(now: float, label: str, workflows: Workflows) -> Worker:
    """This life of this process, which takes no runs yet."""
    worker_id = f"{WORKER}{secrets.token_hex(6)}"
    return Worker(worker_id, os.getpid(), now, label, workflows=workflows.names)


class Executor:
    """The runs of this process. ``begin`` it before anything is started."""

    def __init__(self, worker: Worker, workflows: Workflows, clock: Clock) -> None:
        self.worker = worker
        self.handles: dict[str, RunHandle] = {}
        self.is_draining = False
        self.has_joined = False
        self._registering = anyio.Lock()
        self._workflows = workflows
        self._clock = clock
        self._expected: set[RunHandle] = set()
        self._given_again: dict[str, Run] = {}
        self._watch: Watch = lambda handle: None
        self._changed = anyio.Event()
        self._asking: SchedulerClient
        self._commands: Commands
        self._store: Store
        self._runner: Runner
        self._runs: TaskGroup

    def begin(
        self,
        asking: SchedulerClient,
        commands: Commands,
        store: Store,
        runner: Runner,
        runs: TaskGroup,
    ) -> None:
        """Execute from here on, in the task group ``runs``."""
        self._asking, self._commands, self._store = asking, commands, store
        self._runner, self._runs = runner, runs
        self.is_draining = False

    @contextmanager
    def expecting(self, run: Run, plan: ReplayOptions | None = None) -> Iterator[RunHandle]:
        """Have a handle for a run while it is written as this worker's; start it in the block.

        Others see the row before this worker does, and what they want of the run is heeded; the
        leader may even give it to this worker meanwhile, and the run is begun then.
        Raises RunNotResumable for a run that is executed here.
        """
        require_idle(run.id, run.id in self.handles)
        self.handles[run.id] = handle = RunHandle(run, plan)
        self._expected.add(handle)
        try:
            yield handle
        finally:
            if self.is_expected(handle):
                self._expected.remove(handle)
                del self.handles[run.id]
                handle.publish(Ended(run.id, handle.run.state, None, self._clock()))
                self._tell()

    async def to_its_end(self, work: Callable[[], Awaitable[T]]) -> T:
        """Wait for ``work``, which goes on if the wait is cancelled, until Headway closes."""
        results: list[T] = []
        errors: list[Exception] = []
        is_over = anyio.Event()

        async def carry_out() -> None:
            try:
                results.append(await work())
            except Exception as error:  # its caller's, not that of the runs
                errors.append(error)
            finally:
                is_over.set()

        self._runs.start_soon(carry_out, name="headway run to be")
        await is_over.wait()
        if results:
            return results[0]
        raise errors[0] if errors else SchedulerClosed("Headway was closed meanwhile")

    def is_expected(self, handle: RunHandle) -> bool:
        """Whether the run of a handle has not been started yet."""
        return handle in self._expected

    def start(self, handle: RunHandle) -> RunHandle:
        """Execute an expected run, now that its row names this worker. Once: again is nothing."""
        if self.is_expected(handle):
            self._expected.remove(handle)
            self._runs.start_soon(self._execute, handle, name=f"headway run {handle.id}")
        return handle

    async def join(self) -> None:
        """Be known as one who executes runs, before the first of them."""
        async with self._registering:
            if not self.has_joined:
                await self._register()

    def joins(self) -> Worker | None:
        """This worker, if the leader does not know it yet."""
        return None if self.has_joined else self.worker

    def joined(self) -> None:
        """Take in that the leader knows."""
        self.has_joined = True

    async def leave(self) -> None:
        """Execute runs no more. If that cannot be written, the leader sees that it is gone."""
        if self.has_joined:
            with suppress(StoreError):
                await self._commands.execute(RetireWorker(self.worker.id))

    async def work(self, slots: int, forever: bool, watch: Watch) -> None:
        """Take runs from the leader, until none is left or, ``forever``, until drained."""
        self._watch = watch
        await self._offer(slots, forever)
        try:
            while not self.is_draining and (forever or await self._is_any_left()):
                changed = self._changed
                with anyio.move_on_after(None if forever else LOOK_SECONDS):
                    await changed.wait()
        finally:
            with anyio.CancelScope(shield=True):
                await self._offer(0, False)
        while self.handles:
            await self._changed.wait()

    def drain(self) -> None:
        """Take no more runs."""
        self.is_draining = True
        self._tell()

    def heed(self, order: Order) -> None:
        """Do what the leader wants done with a run."""
        match order:
            case ExecuteRun():
                self._given(order.run, self.handles.get(order.run.id))
            case CancelRun() | PauseRun():
                # Without a handle it has ended, and its row is on its way.
                if (handle := self.handles.get(order.run_id)) is not None:
                    handle.obey(order)
            case SetPriority():
                if (handle := self.handles.get(order.target)) is not None:
                    handle.obey(order)
                    self._asking.note_run(handle.run)
            case _:
                assert_never(order)

    def committed(self, batch: Batch) -> None:
        """Show the runs of this process what became of their calls."""
        for event in of_batch(batch, self._clock()):
            if handle := self.handles.get(event.run_id):
                handle.publish(event)
        for record in (*batch.new, *batch.changed):
            if handle := self.handles.get(record.call.run_id):
                handle.calls[record.call.id] = record
        if batch.runs:
            self._tell()

    def _given(self, run: Run, handle: RunHandle | None = None) -> None:
        """Execute what the leader gives: its row names this worker from the order on."""
        if handle is not None and handle.run.state is RunState.RUNNING:
            # The end of this attempt is on disk, and its task has not been told yet.
            self._given_again[run.id] = run
        elif handle is not None:
            self.start(handle)
        elif self.is_draining:
            self._asking.note_run(replace(run, worker=None))
        else:
            with self.expecting(run) as handle:
                self._watch(self.start(handle))

    async def _execute(self, handle: RunHandle) -> None:
        try:
            await self._runner.execute(handle)
        finally:
            del self.handles[handle.id]
            self._tell()
            if (again := self._given_again.pop(handle.id, None)) is not None:
                self._given(again)
            with anyio.CancelScope(shield=True):
                await self._workflows.release(handle.id)

    async def _offer(self, slots: int, takes_interrupted: bool) -> None:
        async with self._registering:
            self.worker = replace(
                self.worker,
                slots=slots,
                takes_interrupted=takes_interrupted,
                workflows=self._workflows.names,
            )
            await self._register()

    async def _register(self) -> None:
        # One at a time: a task that starts a run registers this worker as well as the task that
        # works, and of two requests the leader believes the one that was written last.
        await self._commands.execute(RegisterWorker(self.worker))
        self.has_joined = True

    async def _is_any_left(self) -> bool:
        """Whether a run is executed here, or waits for somebody to do it."""
        if self.handles:
            return True
        waiting = await self._store.runs({RunState.QUEUED})
        return any(
            run.worker in (None, self.worker.id) and self._workflows.can_build(run)
            for run in waiting
        )

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
