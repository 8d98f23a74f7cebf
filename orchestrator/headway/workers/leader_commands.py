"""Carries commands out in the process that leads. Law: a row is written, then the answer.

A command changes runs, holds, limits or weights in one commit, the last that it makes, and the
answer is written with that commit: so it is true whenever the process dies. Cancelling or pausing a
run that is being executed takes two, the end of the run and the answer; if the process dies between
them, the next leader carries the command out again, and it changes nothing. The worker that
executes a run ends it, or the death of that worker does.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import assert_never

import anyio
import msgspec

from headway_scheduler.errors import RunNotResumable, SchedulerClosed, WorkerEvicted
from headway_scheduler.model.batch import Batch
from headway_scheduler.model.changes import Change
from headway_scheduler.model.data import replace
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import ENDED_RUNS, RunState
from headway_scheduler.ports import Store
from headway_scheduler.protocol.commands import (
    CancelRun,
    ClaimRun,
    Command,
    FireSchedule,
    HoldSchedule,
    PauseRun,
    QueueRun,
    RegisterWorker,
    ResumeQuota,
    RetireWorker,
    SetHold,
    SetLimits,
    SetPriority,
    SetSchedules,
    SetWeight,
)
from headway_scheduler.runtime.local import LocalScheduler

from ..config import Config
from ..runs.handle import RunHandle
from ..runs.options import permitted
from ..runs.stopped import StoppedRuns, being_executed, find_run, require_open
from .schedules import ScheduleEnqueuer

MOST_NAMED = 5
"""How many runs of a dead worker are named in the log."""

_log = logging.getLogger("headway")


class StillExecuted(Exception):
    """A worker was told to end a run, and has not let go of it. For whoever may not wait."""


class LeaderCommands:
    """Carries commands out in this process, which leads.

    ``handles`` are those of the runs that the worker ``own`` of this process executes, if any.
    """

    def __init__(
        self,
        config: Config,
        scheduler: LocalScheduler,
        store: Store,
        stopped: StoppedRuns,
        handles: Mapping[str, RunHandle],
        schedules: ScheduleEnqueuer,
        own: str | None = None,
    ) -> None:
        self._config = config
        self._scheduler = scheduler
        self._store = store
        self._stopped = stopped
        self.handles = handles
        self._schedules = schedules
        self._own = own
        self._keys = anyio.Lock()
        self.awaited: dict[str, anyio.Event] = {}
        """By run, what is set once its worker has let go of it, where a command waits for that."""
        self._is_over = False
        self.claim_lock: anyio.Lock = anyio.Lock()
        """Held from a look whether a run is executed until the row that follows from it is written.

        Two commands, or a command and the assignment of runs, would otherwise give a run twice.
        """

    async def execute(  # noqa: C901  # one case for each
        self, command: Command, *, waits: bool = True
    ) -> Change | None:
        """Carry a command out. Raises what each of the methods below does, or StoreError.

        Without ``waits``, StillExecuted where it would wait for a worker of another process.
        """
        scheduler = self._scheduler
        match command:
            case QueueRun():
                await self._queue(permitted(command.run, self._config))
            case CancelRun():
                await self._end(command, self._stopped.cancel, waits)
            case PauseRun():
                await self._end(command, self._stopped.pause, waits)
            case SetPriority():
                await self._set_priority(command)
            case SetHold():
                return await scheduler.set_hold(command.target, command.state)
            case SetLimits():
                limits = command.limits
                stated = None if limits is None else self._config.quota_with(command.quota, limits)
                return await scheduler.set_limits(command.quota, stated)
            case SetWeight():
                return await scheduler.set_weight(command.team, command.weight)
            case ResumeQuota():
                return await scheduler.resume_quota(command.quota)
            case SetSchedules():
                await self._schedules.define(command.schedules, command.removed)
            case HoldSchedule():
                await self._schedules.hold(command.name, command.is_paused)
            case FireSchedule():
                await self._schedules.fire(command.name, command.run_id)
            case RegisterWorker():
                if command.again:
                    self._require_listed(command.worker.id)
                await scheduler.workers.enlist(command.worker)
            case ClaimRun():
                await self._claim(command.run, command.worker_id)
            case RetireWorker():
                await self._retire(command)
            case _:
                assert_never(command)
        return None

    async def _retire(self, command: RetireWorker) -> None:
        async with self.claim_lock:
            left = await self._scheduler.workers.drop(command.worker_id, died=command.died)
        if command.died and left:
            states = ", ".join(f"{run.id} {run.state}" for run in left[:MOST_NAMED])
            more = f" and {len(left) - MOST_NAMED:,} more" if len(left) > MOST_NAMED else ""
            _log.warning("worker %s has died, and leaves %s%s", command.worker_id, states, more)

    async def _queue(self, run: Run) -> None:
        if run.worker not in self._scheduler.workers.listed:
            run = replace(run, worker=None)  # the worker that wanted to execute it is gone
        async with self._keys:  # two commands with one key: the second must see the first one's row
            known = None if run.key is None else await self._store.run_with_key(run.key)
            if known is None:
                await self._scheduler.save_run(run)
                return
        async with self.claim_lock:
            known = await find_run(self._store, known.id)
            is_idle = known.worker is None and known.id not in self.handles
            if known.state is RunState.INTERRUPTED and is_idle:
                await self._scheduler.save_run(replace(known, state=RunState.QUEUED))

    async def _end(
        self,
        command: CancelRun | PauseRun,
        stopped: Callable[[Run], Awaitable[Run]],
        waits: bool,
    ) -> None:
        """Have the worker that executes a run end it; ``stopped`` ends a run without one.

        Raises RunNotFound or RunNotResumable; SchedulerClosed once this process leads no more.
        """
        while True:
            async with self.claim_lock:
                run = await find_run(self._store, command.run_id)
                order = msgspec.structs.replace(command, run_id=run.id)
                handle = self.handles.get(run.id)
                if handle is None and (worker := self.executes(run)) is None:
                    await stopped(run)
                    return
                if handle is None and worker is not None:
                    released = self.awaited.setdefault(run.id, anyio.Event())
                    await self._scheduler.workers.order(worker, order)
            if handle is not None:
                handle.obey(order)
                await handle.ended()
                run = handle.run
            else:
                if not waits:
                    raise StillExecuted
                # Outside of the lock: other commands go on until the worker has let go of the run.
                await released.wait()
                if self._is_over:
                    raise SchedulerClosed(f"run {run.id}: this process leads no more")
                run = await find_run(self._store, run.id)
            # The order may have come while it was written that the run waits, or is to be taken
            # again: then it was heeded by nobody, and is carried out on the row.
            if run.state in ENDED_RUNS or (
                isinstance(command, PauseRun) and run.state is RunState.PAUSED
            ):
                return

    async def _set_priority(self, command: SetPriority) -> None:
        """Change a class. Raises RunNotFound, RunNotResumable or IllegalTransition."""
        run_id, is_call, number = command.target.partition(".")
        async with self.claim_lock:
            run = await find_run(self._store, run_id)
            require_open(run)
            bumped = permitted(replace(run, priority=command.priority), self._config)
            if is_call:
                await self._scheduler.bump(f"{run.id}.{number}", bumped.priority)
                return
            order = SetPriority(run.id, bumped.priority)
            if (handle := self.handles.get(run.id)) is not None:
                handle.obey(order)
                await self._scheduler.save_run(handle.run)
            elif (worker := self.executes(run)) is not None:
                await self._scheduler.workers.order(worker, order, bumped)
            else:
                await self._scheduler.save_run(bumped)

    async def _claim(self, run: Run, worker: str) -> None:
        """Give a run to a worker, if none executes it and its state is still that of ``run``.

        Raises RunNotResumable; WorkerEvicted for a worker that others took for dead.
        """
        async with self.claim_lock:
            now = await find_run(self._store, run.id)
            if now.worker == worker:
                return  # the leader gave it to this worker meanwhile, and the order is on its way
            is_other = worker != self._own
            is_local = is_other and now.id in self.handles
            if is_local or self.executes(now) is not None:
                raise being_executed(run.id)
            if now.state is not run.state:
                raise RunNotResumable(f"run {run.id} has become {now.state}: look again")
            self._require_listed(worker)
            await self._scheduler.save_run(replace(run, worker=worker, priority=now.priority))

    def _require_listed(self, worker: str) -> None:
        """Raise WorkerEvicted for a worker that others took for dead."""
        if worker not in self._scheduler.workers.listed:
            raise WorkerEvicted(f"worker {worker} showed no life: others took its runs")

    def executes(self, run: Run) -> str | None:
        """Return the worker of another process that executes a run, if it is alive."""
        is_alive = run.worker in self._scheduler.workers.listed and run.worker != self._own
        return run.worker if is_alive else None

    def lose(self) -> None:
        """Let nobody wait for workers any more: what they do is told to the next leader."""
        self._is_over = True
        for event in self.awaited.values():
            event.set()

    def committed(self, batch: Batch) -> None:
        """Wake the commands that wait for a worker to let go of a run. Called after each commit."""
        for run in batch.runs:
            if run.worker is None and (event := self.awaited.pop(run.id, None)) is not None:
                event.set()
