"""Leads: admits the calls of all processes, takes their requests, and assigns runs.

Law of this file: a new leader takes every request that waits, and gives back the runs of dead
workers, before it admits anything.
"""

import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Self

import anyio

from headway_scheduler.core.policy import Policy
from headway_scheduler.errors import SchedulerClosed, StoreError, StoreTakenOver
from headway_scheduler.model.batch import Batch
from headway_scheduler.model.calls import ServiceLane
from headway_scheduler.model.changes import Change
from headway_scheduler.model.runs import Run
from headway_scheduler.ports import LEADER, Backend, Store, Term, Vacancy
from headway_scheduler.protocol.commands import Command
from headway_scheduler.runtime.local import LocalScheduler
from headway_scheduler.runtime.retry import keep_serving

from ..config import Config
from ..runs.stopped import StoppedRuns
from .assignment import LocalWorker, RunAssigner
from .batches import BatchLane
from .commands import Commands
from .history import HistoryPruner
from .leader_commands import LeaderCommands
from .long_waits import LongWaits
from .monitor import WorkerMonitor
from .notices import NoticeSender
from .request_server import RequestServer
from .schedules import ScheduleEnqueuer

LIFE_SECONDS = 0.25
"""How often a leader shows life."""
LOST_STARTS = 3
"""After how many starts in a row that did not come to their end the next one says so."""

_log = logging.getLogger("headway")


class Leader:
    """Leads while it is open: an async context manager. Raises StoreBusy if another process does.

    ``candidate`` is the id of the worker for which it leads. ``vacancy`` names a silent leader that
    it may replace. ``local_worker`` executes runs in this process.
    """

    store: Store
    scheduler: LocalScheduler
    commands: LeaderCommands
    assigner: RunAssigner
    schedules: ScheduleEnqueuer
    sender: NoticeSender | None = None

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
        self._notifier = backend.notifier(LEADER)
        self.is_lost: bool = False
        """Whether it was ended from inside, as it is once another process leads."""
        self._resting: frozenset[str] = frozenset()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Open the database, take all requests, give back the runs of dead workers, and admit.

        Raises StoreError. Its block ends with StoreTakenOver, in a group, once another one leads.
        """
        try:
            await self._open()
        except BaseExceptionGroup as group:
            raise_store_error(group)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        # Its tasks cancel the block when they find that another process leads. Said before anything
        # closes: runs of this process go on meanwhile, and ask for things.
        self.is_lost = isinstance(error, anyio.get_cancelled_exc_class())
        self.commands.lose()
        return await self._stack.__aexit__(kind, error, trace)

    async def _open(self) -> None:
        backend, local_worker = self._backend, self._local_worker
        own = None if local_worker is None else local_worker.worker.id
        async with AsyncExitStack() as stack:
            campaign = backend.leadership().campaign(self._candidate, self._vacancy)
            term = await stack.enter_async_context(await campaign)
            # Outermost: life is shown until the last commit is done.
            life = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(life.cancel_scope.cancel)
            if term.lost_starts >= LOST_STARTS:
                _log.error(
                    "%s: the last %d processes that were to lead ended before they had begun: see "
                    "`headway db check`; `headway db repair` sets aside what cannot be read",
                    backend.name,
                    term.lost_starts,
                )
            self._prepare(term.store, own)
            await stack.enter_async_context(self.scheduler)
            mailbox = backend.mailbox(term.epoch)
            stack.push_async_callback(mailbox.close)
            server = RequestServer(mailbox, self._notifier, self.scheduler, self.commands)
            monitor = WorkerMonitor(self.scheduler, self.store, backend.workers(), mailbox, own=own)
            # In this order: what a worker posted before it died stands, and only then is it dead,
            # and nobody waits for it to end a run; what the living were granted is counted before
            # anything else is admitted.
            await server.take_all()
            await monitor.reap_dead_workers()
            await server.end_runs()
            await self.scheduler.workers.begin_term()
            self.scheduler.admit_from_here()
            await stack.enter_async_context(self._notifier)
            group = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(group.cancel_scope.cancel)
            group.start_soon(keep_serving, partial(server.serve, group), name="headway requests")
            group.start_soon(keep_serving, monitor.watch, name="headway workers")
            group.start_soon(keep_serving, self.assigner.assign_runs, name="headway runs")
            group.start_soon(keep_serving, self.schedules.serve, name="headway schedules")
            waits = LongWaits(self.scheduler, self.assigner.stalled)
            group.start_soon(keep_serving, waits.run, name="headway long waits")
            pruner = HistoryPruner(self.scheduler, backend.history())
            group.start_soon(keep_serving, pruner.run, name="headway history")
            if any(ServiceLane.BATCH in each.lanes for each in self._config.models.values()):
                batches = BatchLane(self.scheduler, self.store, self._config)
                group.start_soon(keep_serving, batches.run, name="headway batches")
            if self.sender is not None:
                group.start_soon(keep_serving, self.sender.serve, name="headway notices")
                stack.push_async_callback(self._finish_telling, self.sender)
            # From here on: to open a large database may keep the loop busy for longer than a leader
            # may be silent, and so it would for the next one.
            life.start_soon(self._show_life, term, name="headway life")
            self._stack = stack.pop_all()

    async def _finish_telling(self, sender: NoticeSender) -> None:
        """Have told what was never tried, unless another process leads and does."""
        if not self.is_lost:
            await sender.finish()

    async def _show_life(self, term: Term) -> None:
        """Show that the loop that admits turns. Raises StoreTakenOver once another one leads."""
        while True:
            term.show_life()
            await anyio.sleep(LIFE_SECONDS)

    def _prepare(self, store: Store, own: str | None) -> None:
        config, local_worker = self._config, self._local_worker
        self.store = store
        self.scheduler = LocalScheduler(
            store,
            config.quotas.values(),
            policy=Policy(
                weights=config.weights,
                waiting=config.waiting,
                waiting_bytes=config.waiting_bytes,
                flex_gives_up_seconds=config.flex_gives_up,
                flex_before_seconds=config.flex_before,
                batch_before_seconds=config.batch_before,
                notifies=config.notify.kinds,
            ),
            clock=store.clock,
            on_change=self._committed,
            admits=False,
            worker=own,
        )
        handles = {} if local_worker is None else local_worker.handles
        stopped = StoppedRuns(self.scheduler, store)
        if config.notify.kinds:
            self.sender = NoticeSender(self.scheduler, store, config.notify)
        self.schedules = ScheduleEnqueuer(self.scheduler, store, config)
        self.commands = LeaderCommands(
            config, self.scheduler, store, stopped, handles, self.schedules, own
        )
        self.assigner = RunAssigner(self.scheduler, store, self.commands, local_worker)

    def _committed(self, batch: Batch) -> None:
        """Tell of a commit. Called by the scheduler between two of them: it may not await."""
        if batch.runs and self.commands.awaited:
            self.commands.committed(batch)
        if batch.runs and self.schedules.awaited:
            self.schedules.committed(batch)
        if batch.notices and self.sender is not None:
            self.sender.committed(batch.notices)
        for row in batch.outbox:
            self._notifier.ring(row.worker)
        is_cleared = bool(self.assigner.alone_until) and self.assigner.is_cleared(batch)
        resting = frozenset(self.scheduler.waiting_runs)
        is_freed, self._resting = bool(resting - self._resting), resting
        if any((batch.joined, batch.left, is_cleared, is_freed, self._is_takeable(batch.runs))):
            self.assigner.committed(batch)
        local = self._local_worker
        if local is not None and (batch.runs or local.handles):
            local.on_change(batch)

    def _is_takeable(self, runs: Sequence[Run]) -> bool:
        """Whether one of the runs has no worker, and any worker takes runs at all."""
        if not any(run.worker is None for run in runs):
            return False
        return any(worker.slots for worker in self.scheduler.workers.listed.values())


class SessionCommands:
    """Has commands carried out by the ``leader`` of this process while it leads, then remotely."""

    def __init__(self, leader: Leader, remote: Commands) -> None:
        self.leader: Leader | None = leader
        """The leader of this process; None once another process leads."""
        self._remote = remote

    async def execute(self, command: Command) -> Change | None:
        """Do what is asked; it is on disk when this returns. Raises what the leader raises."""
        leader = self.leader  # it may be None by the time that this one raises
        if leader is not None:
            try:
                return await leader.commands.execute(command)
            except StoreTakenOver:
                pass  # nothing of it is on disk: the leader by now is asked
            except (SchedulerClosed, StoreError):
                # The lead was lost, and what led is being closed: its scheduler and its store take
                # nothing any more. While it leads, the error is that of the command.
                if not leader.is_lost:
                    raise
        return await self._remote.execute(command)


def raise_store_error(
    group: BaseExceptionGroup[BaseException], kind: type[StoreError] = StoreError
) -> None:
    """Raise the first error of a ``kind`` that task groups wrapped, as it was."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            raise_store_error(error, kind)
        elif isinstance(error, kind):
            raise error from None
