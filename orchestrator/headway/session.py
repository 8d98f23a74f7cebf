"""Opens Headway: leads or follows, and executes runs. Law of this file: one worker a session.

Theory of operation. The process that opens first leads, with its own runs beside it. Another one
follows: its calls and commands go through the leader. A follower that finds nobody leading opens a
leader beside itself, and stays a follower: its own calls go on through requests, so nothing of them
changes when leaders do.
"""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType

import anyio

from headway_scheduler.backends import open_backend
from headway_scheduler.cluster.posting import FollowerCallbacks
from headway_scheduler.cluster.remote import RemoteScheduler
from headway_scheduler.errors import StoreBusy, StoreError, StoreTakenOver
from headway_scheduler.model.states import RunState
from headway_scheduler.ports import Store, Vacancy
from headway_scheduler.runtime.client import SchedulerClient
from headway_scheduler.runtime.clock import system_clock
from headway_scheduler.runtime.local import LocalScheduler

from .ad_hoc import AdHocRun
from .config import Config
from .pricing.prices import Prices
from .runs.actions import Actions
from .runs.runner import Runner
from .workers.assignment import LocalWorker
from .workers.commands import Commands
from .workers.executor import Executor, new_worker
from .workers.leader import Leader, raise_store_error
from .workers.remote_commands import RemoteCommands
from .workflows import Workflows

OPENING_SECONDS = 5.0
"""How long a follower waits for the leader to make or migrate the database."""

LOOK_SECONDS = 0.08
"""How often a process that can neither lead nor follow tries again."""

_log = logging.getLogger("headway")


@dataclass(frozen=True, slots=True)
class Role:
    """What a process has of the scheduler: its own as the leader, the leader's as a follower."""

    store: Store
    scheduler: SchedulerClient
    commands: Commands
    leader: Leader | None = None


@dataclass(slots=True)
class Session:
    """What a Headway has while it is open."""

    store: Store
    """The journal: to be read, and in the leader to be written by its scheduler."""

    scheduler: SchedulerClient
    """Schedules the calls of this process."""

    commands: Commands
    """Carries commands out, here or in the leader."""

    leader: Leader | None
    """The leader that this process opened with; None if it follows."""

    executor: Executor
    """Executes runs of this process."""

    runner: Runner
    """Drives one run to its end."""

    actions: Actions
    """Verbs for runs that stopped."""

    ad_hoc: AdHocRun
    """The run of calls outside of runs."""

    database: str
    """What messages call the database."""

    is_open: bool = True
    """Whether it may be used: its runs have not all ended, or its block goes on."""

    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def local_scheduler(self) -> LocalScheduler:
        """The scheduler that admits, in the process that leads. Raises StoreBusy in another one."""
        if self.leader is None:
            raise StoreBusy(f"{self.database}: another process leads, and has the scheduler")
        return self.leader.scheduler

    def keep(self, stack: AsyncExitStack) -> None:
        """Take over what is to be closed with this session."""
        self._stack = stack.pop_all()

    def shut(self) -> None:
        """Refuse what is asked from here on: the scheduler and the database close next."""
        self.is_open = False

    async def close(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        """Wait for the runs, or interrupt them if there is an ``error``, and close everything."""
        try:
            return await self._stack.__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            # Task groups wrap even the error of their own block: it leaves as it came.
            raise_store_error(group, StoreTakenOver)
            _, others = group.split(lambda inner: inner is error)
            if others is not None:
                raise
            return False


class Opener:
    """Opens sessions of one Headway. ``label`` names this process where workers are listed."""

    def __init__(self, config: Config, workflows: Workflows, prices: Prices, label: str) -> None:
        self._config = config
        self._workflows = workflows
        self._prices = prices
        self._label = label
        self._clock = system_clock()
        self._backend = open_backend(config.database)

    async def open(self) -> Session:
        """Lead; if another process does, follow it. Raises StoreError."""
        give_up = self._clock() + OPENING_SECONDS
        leadership = self._backend.leadership()
        vacancy: Vacancy | None = None
        while True:
            try:
                return await self._open(partial(self._lead, vacancy))
            except StoreBusy:
                try:
                    return await self._open(self._follow)
                except StoreError:
                    # The leader may be about to make or migrate the database, or to go away.
                    if self._clock() > give_up:
                        raise
            await anyio.sleep(LOOK_SECONDS)
            vacancy = leadership.look()

    async def _open(self, take: Callable[[Executor], AbstractAsyncContextManager[Role]]) -> Session:
        """Take a role, and open what both roles have. Errors of groups leave as they came."""
        worker = new_worker(self._clock(), self._label, self._workflows)
        executor = Executor(worker, self._workflows)
        try:
            async with AsyncExitStack() as stack:
                role = await stack.enter_async_context(take(executor))
                session = self._session(role, executor)
                # Closed in the opposite order: the runs end first, then what they use.
                stack.callback(session.shut)
                stack.push_async_callback(self._workflows.close)
                stack.push_async_callback(session.ad_hoc.close)
                runs = await stack.enter_async_context(anyio.create_task_group())
                executor.begin(role.scheduler, role.commands, role.store, session.runner, runs)
                if role.leader is not None:
                    await self._take_up(session)
                session.keep(stack)
                return session
        except BaseExceptionGroup as group:
            raise_store_error(group)
            raise

    def _session(self, role: Role, executor: Executor) -> Session:
        worker, store, scheduler = executor.worker.id, role.store, role.scheduler
        runner = Runner(scheduler, store, self._workflows, self._prices, worker)
        return Session(
            store=store,
            scheduler=scheduler,
            commands=role.commands,
            leader=role.leader,
            executor=executor,
            runner=runner,
            actions=Actions(scheduler, store, runner, executor.handles, executor.claim, worker),
            ad_hoc=AdHocRun(scheduler, worker, self._config),
            database=self._backend.name,
        )

    async def _take_up(self, session: Session) -> None:
        """Go on with interrupted runs whose workflow is registered in this process."""
        for run in await session.store.runs({RunState.INTERRUPTED}):
            if self._workflows.knows(run):
                await session.executor.claim(run)

    @asynccontextmanager
    async def _lead(self, vacancy: Vacancy | None, executor: Executor) -> AsyncIterator[Role]:
        """Admit the calls of all processes. Raises StoreBusy if another one does."""
        local_worker = LocalWorker(
            executor.worker, executor.handles, executor.obey, executor.committed
        )
        leader = Leader(
            self._config,
            self._backend,
            executor.worker.id,
            vacancy=vacancy,
            local_worker=local_worker,
        )
        async with leader:
            executor.joined()
            yield Role(leader.store, leader.scheduler, leader.commands, leader)
            await executor.leave()

    @asynccontextmanager
    async def _follow(self, executor: Executor) -> AsyncIterator[Role]:
        """Have another process admit the calls of this one."""
        worker = executor.worker.id
        callbacks = FollowerCallbacks(
            executor.joins, executor.joined, executor.committed, executor.obey
        )
        async with self._backend.reader() as store, anyio.create_task_group() as group:
            async with RemoteScheduler(self._backend, worker, store.clock, callbacks) as remote:
                remote.know(await store.lessons())
                group.start_soon(self._stand_in, executor, remote, name="headway leader")
                lead_briefly = partial(self._lead_briefly, worker)
                yield Role(store, remote, RemoteCommands(self._backend, lead_briefly))
            # After its last batch: from a worker that has left, the leader would take none.
            await executor.leave()
            group.cancel_scope.cancel()

    async def _stand_in(self, executor: Executor, scheduler: SchedulerClient) -> None:
        """Lead as well when nobody does, until this process closes or another one takes over.

        A process without runs and without waiting calls does not: it may be asleep for hours.
        """
        leadership = self._backend.leadership()
        while True:
            vacancy = await leadership.vacant()
            if not executor.has_joined and not scheduler.waiting_calls:
                await anyio.sleep(LOOK_SECONDS)
                continue
            try:
                async with self._leader(executor.worker.id, vacancy):
                    await anyio.sleep_forever()
            except* StoreError as group:
                _log.info("this process does not lead: %s", group.exceptions[0])

    async def _lead_briefly(self, worker: str, vacancy: Vacancy) -> None:
        """Lead, for as long as the requests that wait need."""
        try:
            async with self._leader(worker, vacancy):
                pass
        except* (StoreBusy, StoreTakenOver):
            pass  # another process leads by now, and answers

    def _leader(self, worker: str, vacancy: Vacancy) -> Leader:
        return Leader(self._config, self._backend, worker, vacancy=vacancy)
