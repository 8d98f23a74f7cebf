"""The process that leads: it admits calls, carries out letters, and says who executes what.

Law of this file: what comes in letters is carried out once, and no run is executed twice.

Theory of operation. Letters are taken in the order in which they came. What workers tell of their
calls (parcels) goes to the scheduler at once, many in one commit; a verb is carried out by itself,
and only what waits for the end of a run lets others pass. What a letter changes and its answer are
one commit. Cancelling or pausing a run that is being executed is two, the run's end and the answer;
between them a kill leaves a letter whose run has ended, and ending it again changes nothing. If the
database cannot be written, letters wait.

A new leader reads what was told before, gives the runs of dead workers back, and only then admits.
A worker is dead when its lock is free, or when it has touched its file for long no more. Runs are
given to workers by a row that names the worker, in the commit that tells it.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

import anyio

from headway_scheduler.cluster.posting import new_asker
from headway_scheduler.core.policy import Policy
from headway_scheduler.errors import StoreError, StoreTakenOver
from headway_scheduler.model.batch import Batch
from headway_scheduler.model.runs import Run, Worker
from headway_scheduler.model.states import RunState
from headway_scheduler.ports import LEADER, Backend, Mailbox, Store, Vacancy
from headway_scheduler.protocol.codec import dump
from headway_scheduler.protocol.commands import ExecuteRun, Order, RetireWorker
from headway_scheduler.runtime.local import LocalScheduler
from headway_scheduler.runtime.workers import released

from ..config import Config
from ..runs.handle import RunHandle
from ..runs.stopped import StoppedRuns
from ..workflows import is_portable
from .leader_commands import LeaderCommands
from .request_server import RETRY_SECONDS, RequestServer

WATCH_SECONDS = 0.2
"""How often it is looked whether workers live."""

WAITING = (RunState.QUEUED, RunState.INTERRUPTED)


@dataclass(frozen=True, slots=True)
class LocalWorker:
    """Who executes runs in the process that leads: ``handles`` are those that are executed.

    ``on_order`` is told which are to be; ``on_change`` is called after each commit.
    """

    worker: Worker
    handles: Mapping[str, RunHandle]
    on_order: Callable[[Order], None]
    on_change: Callable[[Batch], None]


class Leader:
    """Leads while it is open: an async context manager. Raises StoreBusy if another process does.

    It leads as ``candidate``. ``vacancy``: which silent leader it may replace. ``local_worker``:
    who executes runs beside it, not through letters.
    """

    store: Store
    service: LocalScheduler
    commands: LeaderCommands

    def __init__(
        self,
        config: Config,
        backend: Backend,
        candidate: str,
        *,
        vacancy: Vacancy | None = None,
        local_worker: LocalWorker | None = None,
    ) -> None:
        self._config = config
        self._backend = backend
        self._candidate = candidate
        self._vacancy = vacancy
        self._local_worker = local_worker
        self._registry = backend.workers()
        self._notifier = backend.notifier(LEADER)
        self._asker = new_asker()
        self._adopted: set[tuple[str, str]] = set()
        self._runs_changed = anyio.Event()
        self._stack = AsyncExitStack()
        self._mailbox: Mailbox

    async def __aenter__(self) -> Self:
        """Open the database, hear everybody, give back the runs of the dead, and admit.

        Raises StoreError. Its block ends with StoreTakenOver, in a group, once another one leads.
        """
        try:
            await self._open()
        except BaseExceptionGroup as group:
            raise_store_error(group)
            raise
        return self

    async def _open(self) -> None:
        leadership = self._backend.leadership()
        async with AsyncExitStack() as stack:
            term = await stack.enter_async_context(
                await leadership.campaign(self._candidate, self._vacancy)
            )
            self._prepare(term.store)
            await stack.enter_async_context(self.service)
            self._mailbox = self._backend.mailbox(term.epoch)
            stack.push_async_callback(self._mailbox.close)
            server = RequestServer(self._mailbox, self._notifier, self.service, self.commands)
            await server.take_all()
            await self._reap_dead_workers()
            if self._local_worker is not None:
                await self.service.workers.enlist(self._local_worker.worker)
            self.service.admit_from_here()
            await stack.enter_async_context(self._notifier)
            group = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(group.cancel_scope.cancel)
            group.start_soon(server.serve, group, name="headway requests")
            group.start_soon(self._watch_workers, name="headway workers")
            group.start_soon(self._assign_runs, name="headway runs")
            self._stack = stack.pop_all()

    def _prepare(self, store: Store) -> None:
        config, local_worker = self._config, self._local_worker
        self.store = store
        self.service = LocalScheduler(
            store,
            config.quotas.values(),
            policy=Policy(weights=config.weights),
            clock=store.clock,
            on_change=self._committed,
            admits=False,
        )
        own = None if local_worker is None else local_worker.worker.id
        handles = {} if local_worker is None else local_worker.handles
        stopped = StoppedRuns(self.service, store)
        self.commands = LeaderCommands(config, self.service, store, stopped, handles, own)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        return await self._stack.__aexit__(kind, error, trace)

    def _committed(self, batch: Batch) -> None:
        if batch.runs:
            self.commands.committed(batch)
        for mail in batch.mail:
            self._notifier.ring(mail.worker)
        if batch.left:
            known = self.service.workers.keys() - set(batch.left)
            self._adopted = {each for each in self._adopted if each[0] in known}
        if batch.joined or batch.left or any(run.worker is None for run in batch.runs):
            self._look_for_runs()
        if self._local_worker is not None:
            self._local_worker.on_change(batch)

    # Workers

    async def _reap_dead_workers(self) -> None:
        """Give back what the dead had, and those had whom nobody knows any more."""
        for worker in await self._registry.expired(list(self.service.workers)):
            await self.service.workers.drop(worker)
        running = await self.store.runs({RunState.RUNNING})
        for run in {run.id: run for run in (*running, *await self.store.assigned())}.values():
            if run.worker not in self.service.workers:
                await self.service.save_run(released(run))
        await self._registry.tidy(list(self.service.workers))

    async def _watch_workers(self) -> None:
        """Have the runs of workers that die taken from them, as long as this process leads."""
        own = None if self._local_worker is None else self._local_worker.worker.id
        dead: set[str] = set()
        while True:
            await anyio.sleep(WATCH_SECONDS)
            others = [key for key in self.service.workers if key != own and key not in dead]
            for worker in await self._registry.expired(others):
                # By a request: what the worker posted before it died is taken first.
                if await self._post(dump(RetireWorker(worker))):
                    dead.add(worker)

    async def _post(self, text: str) -> bool:
        """Post a request to this process; whether that was possible."""
        try:
            await self._mailbox.post(self._asker, text)
        except StoreError:
            return False
        return True

    # Runs

    async def _assign_runs(self) -> None:
        """Give runs that wait to workers that have room, whenever either changes."""
        while True:
            changed = self._runs_changed
            try:
                await self._assign()
            except StoreTakenOver:
                raise
            except StoreError:
                await anyio.sleep(RETRY_SECONDS)
                continue
            await changed.wait()

    def _look_for_runs(self) -> None:
        self._runs_changed.set()
        self._runs_changed = anyio.Event()

    async def _assign(self) -> None:
        async with self.commands.claims:
            busy = Counter(run.worker for run in await self.store.assigned())
            workers = self.service.workers
            room = {key: max(0, worker.slots - busy[key]) for key, worker in workers.items()}
            # Most often the first runs can be given. Any number may be passed over: those that are
            # given, that no worker has the workflow of, or that were adopted once.
            limit = sum(room.values()) + busy.total()
            while any(room.values()):
                runs = await self.store.runs(WAITING, limit=limit, urgent_first=True)
                for run in runs:
                    able = [key for key in room if room[key] and self._may_take(workers[key], run)]
                    if run.worker is None and run.id not in self.commands.handles and able:
                        worker = max(able, key=lambda key: room[key])
                        await self._give(run, worker)
                        room[worker] -= 1
                if len(runs) < limit:
                    return
                limit *= 2

    def _may_take(self, worker: Worker, run: Run) -> bool:
        if not is_portable(run) and run.workflow not in worker.workflows:
            return False
        if run.state is RunState.QUEUED:
            return True
        # Once: it may stop where its workflow changed, and would again.
        return worker.takes_interrupted and (worker.id, run.id) not in self._adopted

    async def _give(self, run: Run, worker: str) -> None:
        taken = replace(run, worker=worker)
        order = ExecuteRun(taken)
        if self._local_worker is not None and worker == self._local_worker.worker.id:
            await self.service.save_run(taken)
            self._local_worker.on_order(order)
        else:
            await self.service.workers.order(worker, order, taken)
        if run.state is RunState.INTERRUPTED:
            self._adopted.add((worker, run.id))


def raise_store_error(
    group: BaseExceptionGroup[BaseException], kind: type[StoreError] = StoreError
) -> None:
    """Raise the first error of a ``kind`` that task groups wrapped, as it was."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            raise_store_error(error, kind)
        elif isinstance(error, kind):
            raise error from None
