"""Executes runs in this process: those that are started here, and those that the leader gives it.

Law of this file: a run is executed here only while its row names this worker.
"""

import logging
import os
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from math import inf
from typing import TypeVar, assert_never

import anyio
from anyio.abc import TaskGroup

from headway_scheduler.errors import (
    HeadwayError,
    RunNotResumable,
    SchedulerClosed,
    StoreError,
    WorkerEvicted,
)
from headway_scheduler.model.batch import Batch
from headway_scheduler.model.calls import Priority
from headway_scheduler.model.data import replace
from headway_scheduler.model.runs import Run, Worker
from headway_scheduler.model.states import CallState, RunState
from headway_scheduler.ports import Store
from headway_scheduler.protocol.commands import (
    CancelRun,
    ClaimRun,
    ExecuteRun,
    Order,
    PauseRun,
    QueueRun,
    RegisterWorker,
    RetireWorker,
    SetPriority,
)
from headway_scheduler.protocol.envelopes import WORKER
from headway_scheduler.runtime.client import SchedulerClient

from .. import arguments
from ..runs.event_stream import EventStreams
from ..runs.events import Ended, of_batch
from ..runs.handle import RemoteRunHandle, ReplayOptions, RunFailed, RunHandle
from ..runs.runner import Runner
from ..runs.stopped import being_executed
from ..workflows import Workflows
from .assignment import LAST_ALONE_SECONDS
from .commands import Commands

_log = logging.getLogger("headway")

POLL_SECONDS = 0.5
"""How often a worker that ends when no run is left looks for one."""

AT_ONCE = 32
"""How many interrupted runs a process that opens goes on with at once: there may be thousands."""

Watch = Callable[[RunHandle], None]
T = TypeVar("T")


def new_worker(now: float, label: str, workflows: Workflows) -> Worker:
    """Make a worker for this life of this process, without slots. A restart is another worker."""
    worker_id = f"{WORKER}{secrets.token_hex(6)}"
    return Worker(worker_id, os.getpid(), now, label, workflows=workflows.names)


class Executor:
    """Executes the runs of this process. :meth:`begin` comes before everything else."""

    def __init__(self, worker: Worker, workflows: Workflows) -> None:
        self.worker: Worker = worker
        """This process as the leader knows it, or is about to."""
        self.handles: dict[str, RunHandle] = {}
        """Handles by run, of those that are executed here, or are about to be."""
        self.streams: EventStreams = EventStreams()
        """Readers of the events of all runs that are executed here."""
        self.is_draining: bool = False
        """Whether no more runs are taken."""
        self.has_joined: bool = False
        """Whether the leader knows this worker."""
        self._registering = anyio.Lock()
        self._workflows = workflows
        self._expected: set[RunHandle] = set()
        self._given_again: dict[str, Run] = {}
        self._suspicion = anyio.Lock()
        self._suspects: dict[str, anyio.Event] = {}
        self._watch: Watch | None = None
        self._drain_until = inf
        self._changed = anyio.Event()
        self._scheduler: SchedulerClient
        self._commands: Commands
        self._store: Store
        self._runner: Runner
        self._runs: TaskGroup

    def begin(
        self,
        scheduler: SchedulerClient,
        commands: Commands,
        store: Store,
        runner: Runner,
        runs: TaskGroup,
    ) -> None:
        """Execute from here on, in the task group ``runs``."""
        self._workflows.on_change = self._tell
        self._scheduler, self._commands, self._store = scheduler, commands, store
        self._runner, self._runs = runner, runs
        self.is_draining, self._drain_until = False, inf

    # Runs that are started here

    async def queue(self, run: Run) -> Run:
        """Queue a run and return its row, or the row of the run that has its key already.

        Raises StoreError.
        """
        key = run.key
        existing = await self._store.run_with_key(key) if key is not None else None
        if existing is None:
            await self._commands.execute(QueueRun(run))
            # Another process may have queued a run with this key meanwhile. Then the leader left
            # this one out.
            existing = await self._store.run_with_key(key) if key is not None else None
        if existing is None:
            return run
        if (existing.workflow, existing.given) != (run.workflow, run.given):
            _log.warning(
                "key %r belongs to run %s, whose task or workflow is another: you get that run; "
                "use another key for another task",
                key,
                existing.id,
            )
        return existing

    async def submit(self, new: Run, asked_priority: Priority) -> RunHandle:
        """Queue a run for any worker, and return its handle; as well one that was interrupted.

        Raises StoreError.
        """
        run = await self.queue(new)
        if run.state is RunState.INTERRUPTED:
            await self._commands.execute(QueueRun(new))
            run = await self._store.run(run.id) or run
        handle = self.handle(run)
        handle.asked_priority = asked_priority
        return handle

    async def start(self, new: Run, asked_priority: Priority) -> RunHandle:
        """Queue a run and execute it. If its key was used before, go on with that run, or show it.

        Raises StoreError.
        """
        handle = await self._started(new)
        handle.asked_priority = asked_priority
        return handle

    async def _started(self, new: Run) -> RunHandle:
        await self.join()

        async def queued() -> tuple[Run, RunHandle | None]:
            with self.expecting(replace(new, worker=self.worker.id)) as handle:
                run = await self.queue(handle.run)
                return run, self.execute(handle) if run.id == new.id else None

        run, handle = await self.to_its_end(queued)
        if handle is not None:
            return handle
        if run.state in (RunState.QUEUED, RunState.INTERRUPTED):
            with suppress(RunNotResumable):  # it is executed here, or another process was faster
                return await self.claim(run)
        return self.handle(run)

    async def claim(self, run: Run, replay: ReplayOptions | None = None) -> RunHandle:
        """Claim a run for this worker, and execute it. Raises RunNotResumable if another does.

        A run in its last life waits first, for 60 s at most, until the suspects that this worker
        executes got further.
        """
        await self.join()
        await self._note_suspect(run)

        async def claimed() -> RunHandle:
            with self.expecting(replace(run, worker=self.worker.id), replay) as handle:
                try:
                    if run.worker != self.worker.id:
                        await self._commands.execute(ClaimRun(run, self.worker.id))
                except RunNotResumable:
                    if self.is_expected(handle):
                        raise
                    # The leader gave the run to this worker by itself, and it has ended by now.
                return self.execute(handle)

        return await self.to_its_end(claimed)

    async def _note_suspect(self, run: Run) -> None:
        """Note that this worker will execute a suspect; in its last life, only once it is alone."""
        if run.has_last_life:
            async with self._suspicion:  # one run waits at a time, so that no two begin together
                with anyio.move_on_after(LAST_ALONE_SECONDS):
                    for cleared in tuple(self._suspects.values()):
                        await cleared.wait()
                self._suspects[run.id] = anyio.Event()
        elif run.is_suspect:
            self._suspects[run.id] = anyio.Event()

    async def take_up(self, runs: Sequence[Run]) -> None:
        """Go on with interrupted runs; with those in their last life one after the other.

        Some may be gone by now: other processes open at the same time, and take up theirs.
        """
        ready = [run for run in runs if not run.has_last_life]
        for run in ready[:AT_ONCE]:
            with suppress(RunNotResumable):
                await self.claim(run)
        if later := ready[AT_ONCE:]:
            self._runs.start_soon(self._take_up_later, later, AT_ONCE, name="headway take-up")
        if suspects := [run for run in runs if run.has_last_life]:
            self._runs.start_soon(self._take_up_later, suspects, inf, name="headway suspects")

    async def _take_up_later(self, runs: Sequence[Run], at_once: float) -> None:
        for run in runs:
            while len(self.handles) >= at_once:
                await self._changed.wait()
            if self.is_draining:
                return
            with suppress(RunNotResumable, StoreError, SchedulerClosed):  # they stay interrupted
                await self.claim(run)

    def handle(self, run: Run) -> RunHandle:
        """Return the handle of a run: the one that executes it here, or one that reads its row."""
        return self.handles.get(run.id) or RemoteRunHandle(run, self._store)

    @contextmanager
    def expecting(self, run: Run, replay: ReplayOptions | None = None) -> Iterator[RunHandle]:
        """Keep a handle for a run while its row is being written; the block executes the run.

        Raises RunNotResumable for a run that is executed here.
        """
        # The leader may read the row and send orders before this worker hears that the row is
        # written. They find this handle, and an order to execute the run executes it.
        if run.id in self.handles:
            raise being_executed(run.id)
        self.handles[run.id] = handle = RunHandle(run, replay)
        handle.listeners = self.streams
        self._expected.add(handle)
        try:
            yield handle
        finally:
            if self.is_expected(handle):
                self._expected.remove(handle)
                del self.handles[run.id]
                self._clear(run.id)
                handle.publish(Ended(run.id, handle.run.state, None, self._scheduler.now()))
                self._tell()

    async def to_its_end(self, work: Callable[[], Awaitable[T]]) -> T:
        """Wait for ``work``. It goes on if the wait is cancelled, until Headway closes.

        If a cancellation came between writing a row and executing its run, the row would name this
        worker, and no worker would execute the run as long as this one lives.
        """
        results: list[T] = []
        errors: list[Exception] = []
        is_over = anyio.Event()

        async def carry_out() -> None:
            try:
                results.append(await work())
            except Exception as error:  # for the caller: it must not end the task group
                errors.append(error)
            finally:
                is_over.set()

        self._runs.start_soon(carry_out, name="headway run to be")
        await is_over.wait()
        if results:
            return results[0]
        raise errors[0] if errors else SchedulerClosed("Headway was closed meanwhile")

    def is_expected(self, handle: RunHandle) -> bool:
        """Whether the run of a handle has not been executed yet."""
        return handle in self._expected

    def execute(self, handle: RunHandle) -> RunHandle:
        """Execute an expected run, now that its row names this worker. Idempotent."""
        if self.is_expected(handle):
            self._expected.remove(handle)
            self._runs.start_soon(self._run_to_end, handle, name=f"headway run {handle.id}")
        return handle

    # This worker, as the leader knows it

    async def join(self) -> None:
        """Register this worker, before its first run."""
        async with self._registering:
            if not self.has_joined:
                await self._register()

    def joins(self) -> Worker | None:
        """Return this worker, if the leader does not know it yet."""
        return None if self.has_joined else self.worker

    def joined(self) -> None:
        """Take in that the leader knows this worker."""
        self.has_joined = True

    async def leave(self) -> None:
        """Retire this worker. If that cannot be written, the leader will find it dead."""
        if self.has_joined:
            with suppress(StoreError):
                await self._commands.execute(RetireWorker(self.worker.id))

    # Runs that the leader gives

    async def work(self, slots: int, forever: bool, watch: Watch | None) -> None:
        """Take runs from the leader, until none is left or, ``forever``, until drained."""
        slots = arguments.count("slots", slots, least=1)
        self._watch = watch
        await self._offer(slots, forever)
        try:
            while not self.is_draining and (forever or await self._is_any_left()):
                changed = self._changed
                with anyio.move_on_after(None if forever else POLL_SECONDS):
                    await changed.wait()
                if self._workflows.names != self.worker.workflows:  # one was registered meanwhile
                    await self._offer(slots, forever)
        finally:
            # An evicted worker is given nothing more as it is.
            with anyio.CancelScope(shield=True), suppress(WorkerEvicted):
                await self._offer(0, False)
        while self.handles:
            with anyio.move_on_at(self._drain_until) as waiting:
                await self._changed.wait()
            if waiting.cancelled_caught:
                self._drain_until = inf
                async with anyio.create_task_group() as ends:
                    for handle in self.handles.values():
                        ends.start_soon(handle.drain)

    def drain(self, timeout_seconds: float | None = None) -> None:
        """Take no more runs. After the timeout, :meth:`work` interrupts those that are left."""
        self.is_draining = True
        if timeout_seconds is not None:
            seconds = arguments.amount("timeout_seconds", timeout_seconds, least=0)
            self._drain_until = anyio.current_time() + seconds
        self._tell()

    def obey(self, order: Order) -> None:
        """Carry out an order of the leader. Called between two commits: it may not await."""
        match order:
            case ExecuteRun():
                self._given(order.run, self.handles.get(order.run.id))
            case CancelRun() | PauseRun():
                # Without a handle the run has ended, and its row is on its way to the leader.
                if (handle := self.handles.get(order.run_id)) is not None:
                    handle.obey(order)
            case SetPriority():
                if (handle := self.handles.get(order.target)) is not None:
                    handle.obey(order)
                    self._scheduler.note_run(handle.run)
            case _:
                assert_never(order)

    def committed(self, batch: Batch) -> None:
        """Show a commit in the handles of this process. It may not await.

        Called after each one that has runs, before :meth:`begin` too, or while there are handles.
        """
        events = of_batch(batch, self._scheduler.now) if self.handles else ()
        for event in events:
            if handle := self.handles.get(event.run_id):
                handle.publish(event)
        for record in (*batch.new, *batch.changed):
            if handle := self.handles.get(record.call.run_id):
                handle.calls[record.call.id] = record
                if record.state is CallState.DONE:
                    self._clear(record.call.run_id)
        if batch.runs:
            self._tell()

    def _given(self, run: Run, handle: RunHandle | None = None) -> None:
        """Execute a run that the leader gives: from the order on, its row names this worker."""
        if handle is not None and handle.run.state is RunState.RUNNING:
            # The end of its last attempt is on disk, where the leader saw it, and the task of that
            # attempt has not gone on yet.
            self._given_again[run.id] = run
        elif handle is not None:
            self.execute(handle)
        elif self.is_draining:
            self._scheduler.note_run(replace(run, worker=None))
        else:
            with self.expecting(run) as handle:
                self.execute(handle)
            if self._watch is not None:
                self._watch(handle)
            else:
                self._runs.start_soon(_log_failure, handle, name=f"headway log of {run.id}")

    async def _run_to_end(self, handle: RunHandle) -> None:
        try:
            await self._runner.execute(handle)
        finally:
            del self.handles[handle.id]
            self._clear(handle.id)
            self._tell()
            if (again := self._given_again.pop(handle.id, None)) is not None:
                self._given(again)
            with anyio.CancelScope(shield=True):
                await self._workflows.release(handle.id)
        if handle.is_cancelled and handle.run.state is RunState.WAITING:
            # It was cancelled while that was written. By now it may be executed elsewhere, or be
            # over: the leader knows.
            with suppress(HeadwayError):
                await self._commands.execute(CancelRun(handle.id))

    def _clear(self, run_id: str) -> None:
        """Note that a run got further or ended: whoever waits for it as a suspect may begin."""
        if (cleared := self._suspects.pop(run_id, None)) is not None:
            cleared.set()

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
        # One at a time: a task that starts a run registers this worker, and so does the task that
        # works. Requests that two tasks post at once come in either order, and the last one counts.
        await self._commands.execute(RegisterWorker(self.worker, again=self.has_joined))
        self.has_joined = True

    async def _is_any_left(self) -> bool:
        """Whether a run is executed here, or is queued for this worker or any."""
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


async def _log_failure(handle: RunHandle) -> None:
    """Say in the log that a run failed: it was queued, so perhaps nobody holds its handle."""
    await handle.ended()
    if handle.run.state is RunState.FAILED:
        _log.error("%s", RunFailed(handle.run))
