"""Carries commands out in the process that leads. Law: rows first, then words.

Every command changes its runs, holds, limits or weights in one commit, the last that it makes; so
an answer that is written with that commit is true whenever the process dies. Two of them end a run
that is being executed, and its end is a commit of its own: asked again, they change nothing. A run
that another worker executes is ended by that worker, or by its death.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import assert_never

import anyio
import msgspec

from headway_scheduler.errors import RunNotResumable, StoreTakenOver
from headway_scheduler.model.batch import Batch
from headway_scheduler.model.changes import Change
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import RunState
from headway_scheduler.ports import Store
from headway_scheduler.protocol.commands import (
    CancelRun,
    ClaimRun,
    Command,
    PauseRun,
    QueueRun,
    RegisterWorker,
    ResumeQuota,
    RetireWorker,
    SetHold,
    SetLimits,
    SetPriority,
    SetWeight,
)
from headway_scheduler.runtime.local import LocalScheduler

from ..config import Config
from ..runs.handle import RunHandle
from ..runs.stopped import StoppedRuns, find_run, require_idle, require_open


class LeaderCommands:
    """Carries commands out in this process, which leads.

    ``handles`` are the runs that are executed here, if any are, by the worker ``own``.
    """

    def __init__(
        self,
        config: Config,
        service: LocalScheduler,
        store: Store,
        stopped: StoppedRuns,
        handles: Mapping[str, RunHandle],
        own: str | None = None,
    ) -> None:
        self._config = config
        self._service = service
        self._store = store
        self._stopped = stopped
        self.handles = handles
        self._own = own
        self._keys = anyio.Lock()
        self._let_go: dict[str, anyio.Event] = {}
        self.claims = anyio.Lock()
        """Held by whoever looks whether a run is executed, until what follows of it is written."""

    async def execute(self, command: Command) -> Change | None:  # noqa: C901  # one case for each
        """Carry a command out. Raises what each of the methods below does, or StoreError."""
        service = self._service
        match command:
            case QueueRun():
                await self._queue(command.run)
            case CancelRun():
                await self._end(command, self._stopped.cancel)
            case PauseRun():
                await self._end(command, self._stopped.pause)
            case SetPriority():
                await self._set_priority(command)
            case SetHold():
                return await service.set_hold(command.target, command.state)
            case SetLimits():
                limits = command.limits
                stated = None if limits is None else self._config.quota_with(command.quota, limits)
                return await service.set_limits(command.quota, stated)
            case SetWeight():
                return await service.set_weight(command.team, command.weight)
            case ResumeQuota():
                return await service.resume_quota(command.quota)
            case RegisterWorker():
                await service.enlist(command.worker)
            case ClaimRun():
                await self._claim(command.run, command.worker_id)
            case RetireWorker():
                async with self.claims:
                    await service.lose(command.worker_id)
            case _:
                assert_never(command)
        return None

    async def _queue(self, run: Run) -> None:
        if run.worker not in self._service.workers:
            run = replace(run, worker=None)  # whoever wanted to execute it is gone
        async with self._keys:
            if run.key is None or await self._store.run_with_key(run.key) is None:
                await self._service.save_run(run)

    async def _end(
        self, command: CancelRun | PauseRun, stopped: Callable[[Run], Awaitable[Run]]
    ) -> None:
        """Have whoever executes a run end it; ``stopped`` ends one that nobody executes.

        Raises RunNotFound or RunNotResumable.
        """
        while True:
            async with self.claims:
                run = await find_run(self._store, command.run_id)
                order = msgspec.structs.replace(command, run_id=run.id)
                handle = self.handles.get(run.id)
                if handle is None and (worker := self.executes(run)) is None:
                    await stopped(run)
                    return
                if handle is None and worker is not None:
                    let_go = self._let_go.setdefault(run.id, anyio.Event())
                    await self._service.order(worker, order)
            if handle is not None:
                handle.obey(order)
                await handle.ended()
                if handle.run.state is RunState.QUEUED:
                    continue  # it was not begun after all
                return
            await let_go.wait()
            if (await find_run(self._store, run.id)).state is not RunState.INTERRUPTED:
                return

    async def _set_priority(self, command: SetPriority) -> None:
        """Raises RunNotFound, RunNotResumable or IllegalTransition."""
        run_id, is_call, number = command.target.partition(".")
        async with self.claims:
            run = await find_run(self._store, run_id)
            require_open(run)
            if is_call:
                await self._service.bump(f"{run.id}.{number}", command.priority)
                return
            order = SetPriority(run.id, command.priority)
            bumped = replace(run, priority=command.priority)
            if (handle := self.handles.get(run.id)) is not None:
                handle.obey(order)
                await self._service.save_run(handle.run)
            elif (worker := self.executes(run)) is not None:
                await self._service.order(worker, order, bumped)
            else:
                await self._service.save_run(bumped)

    async def _claim(self, run: Run, worker: str) -> None:
        """Give a run to a worker, if nobody executes it and it is in the state that was seen.

        Nothing happens if it was given to that worker meanwhile: its order is on the way.
        Raises RunNotResumable; StoreTakenOver for a worker that others took for dead.
        """
        async with self.claims:
            now = await find_run(self._store, run.id)
            if now.worker == worker:
                return
            is_other = worker != self._own
            is_here = is_other and now.id in self.handles
            require_idle(run.id, is_here or self.executes(now) is not None)
            if now.state is not run.state:
                raise RunNotResumable(f"run {run.id} has become {now.state}: look again")
            if worker not in self._service.workers:
                raise StoreTakenOver(f"worker {worker} showed no life: others took its runs")
            await self._service.save_run(replace(run, worker=worker, priority=now.priority))

    def executes(self, run: Run) -> str | None:
        """The worker of another process that executes a run, if it is alive."""
        is_alive = run.worker in self._service.workers and run.worker != self._own
        return run.worker if is_alive else None

    def noticed(self, batch: Batch) -> None:
        """Take in what was committed."""
        for run in batch.runs:
            if run.worker is None and (event := self._let_go.pop(run.id, None)) is not None:
                event.set()
