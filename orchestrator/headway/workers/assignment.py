"""Gives runs that wait to workers with room. Law: a run is given to one worker at a time.

A run is given by a row that names the worker, in the commit that tells the worker.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import anyio

from headway_scheduler.errors import StoreError, StoreTakenOver
from headway_scheduler.model.batch import Batch
from headway_scheduler.model.runs import Run, Worker
from headway_scheduler.model.states import RunState
from headway_scheduler.ports import Store
from headway_scheduler.protocol.commands import ExecuteRun, Order
from headway_scheduler.runtime.local import LocalScheduler

from ..runs.handle import RunHandle
from ..workflows import is_portable
from .leader_commands import LeaderCommands
from .request_server import RETRY_SECONDS

WAITING = (RunState.QUEUED, RunState.INTERRUPTED)


@dataclass(frozen=True, slots=True)
class LocalWorker:
    """The worker of the process that leads. Nothing between the two goes through requests."""

    worker: Worker
    """The worker, as it is registered."""

    handles: Mapping[str, RunHandle]
    """Handles of the runs that it executes, by run."""

    on_order: Callable[[Order], None]
    """Called with what the leader wants of it, after the commit."""

    on_change: Callable[[Batch], None]
    """Called with each batch that was committed."""


class RunAssigner:
    """Gives queued and interrupted runs to workers, for the leader.

    ``local_worker`` gets its orders directly, other workers in notifications.
    """

    def __init__(
        self,
        scheduler: LocalScheduler,
        store: Store,
        commands: LeaderCommands,
        local_worker: LocalWorker | None,
    ) -> None:
        self._scheduler = scheduler
        self._store = store
        self._commands = commands
        self._local_worker = local_worker
        self._adopted: set[tuple[str, str]] = set()
        self._changed = anyio.Event()

    async def assign_runs(self) -> None:
        """Give runs whenever runs or workers change, until cancelled."""
        while True:
            changed = self._changed  # before the look: a change during it is not missed
            try:
                await self._assign()
            except StoreTakenOver:
                raise
            except StoreError:
                await anyio.sleep(RETRY_SECONDS)
                continue
            await changed.wait()

    def committed(self, batch: Batch) -> None:
        """Look again after a commit that freed a run, or changed who executes runs."""
        if batch.left:
            known = self._scheduler.workers.listed.keys() - set(batch.left)
            self._adopted = {each for each in self._adopted if each[0] in known}
        self._changed.set()
        self._changed = anyio.Event()

    async def _assign(self) -> None:
        async with self._commands.claims:
            busy = Counter(run.worker for run in await self._store.assigned())
            workers = self._scheduler.workers.listed
            room = {key: max(0, worker.slots - busy[key]) for key, worker in workers.items()}
            # Most often the first runs can be given. Any number may have to be passed over: runs
            # that are given, that no worker has the workflow of, or that were adopted once.
            limit = sum(room.values()) + busy.total()
            while any(room.values()):
                runs = await self._store.runs(WAITING, limit=limit, urgent_first=True)
                for run in runs:
                    able = [key for key in room if room[key] and self._may_take(workers[key], run)]
                    if run.worker is None and run.id not in self._commands.handles and able:
                        worker = max(able, key=lambda key: room[key])
                        await self.give(run, worker)
                        room[worker] -= 1
                if len(runs) < limit:
                    return
                limit *= 2

    def _may_take(self, worker: Worker, run: Run) -> bool:
        if not is_portable(run) and run.workflow not in worker.workflows:
            return False
        if run.state is RunState.QUEUED:
            return True
        # Once: an adopted run may stop where its workflow changed, and would stop there again.
        return worker.takes_interrupted and (worker.id, run.id) not in self._adopted

    async def give(self, run: Run, worker: str) -> None:
        """Have a worker execute a run that no worker executes. Raises StoreError."""
        taken = replace(run, worker=worker)
        order = ExecuteRun(taken)
        if self._local_worker is not None and worker == self._local_worker.worker.id:
            await self._scheduler.save_run(taken)
            self._local_worker.on_order(order)
        else:
            await self._scheduler.workers.order(worker, order, taken)
        if run.state is RunState.INTERRUPTED:
            self._adopted.add((worker, run.id))
