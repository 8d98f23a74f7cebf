"""Opens Headway: leads or follows, and executes runs. Law of this file: one worker a session.

Theory of operation. The process that opens first leads, with its own runs beside it. Another one
follows: its calls and commands go through the leader. A follower that finds nobody leading opens a
leader beside itself, and stays a follower: its own calls go on through requests, so nothing of them
changes when leaders do.

A process that led from its beginning may lose the lead: a tool blocked its event loop, or it was
stopped. Then it follows from there on. Its worker stays listed, because its presence was shown by a
thread all the while; its calls name that worker, so the next leader counts them as in flight or
waiting; and what its runs told since is told to the next leader.
"""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import anyio
from anyio.abc import TaskStatus

from headway_scheduler.backends import open_backend
from headway_scheduler.cluster.posting import FollowerCallbacks
from headway_scheduler.cluster.remote import RemoteScheduler
from headway_scheduler.errors import (
    SchedulerClosed,
    StoreBusy,
    StoreError,
    StoreReplaced,
    StoreTakenOver,
)
from headway_scheduler.model.states import LIVE_CALLS, RunState
from headway_scheduler.ports import Presence, Store, Vacancy
from headway_scheduler.runtime.client import SchedulerClient
from headway_scheduler.runtime.clock import system_clock
from headway_scheduler.runtime.local import LocalScheduler
from headway_scheduler.runtime.pending import Callers
from headway_scheduler.runtime.retry import BUG

from .ad_hoc import AdHocRuns
from .config import Config
from .pricing.prices import Prices
from .runs.actions import Actions
from .runs.runner import Runner
from .schedules import Definitions
from .workers.assignment import LocalWorker
from .workers.commands import Commands
from .workers.executor import Executor, new_worker
from .workers.leader import Leader, SessionCommands, raise_store_error
from .workers.remote_commands import RemoteCommands
from .workflows import Workflows, asking_scope

OPENING_SECONDS = 5.0
"""How long a follower waits for the leader to make or migrate the database."""

LOOK_SECONDS = 0.08
"""How often a process that can neither lead nor follow tries again."""

_log = logging.getLogger("headway")


@dataclass(frozen=True, slots=True)
class Role:
    """A process's access to the scheduler: its own as the leader, the leader's as a follower."""

    store: Store
    scheduler: SchedulerClient
    commands: Commands


@dataclass(slots=True)
class Session:
    """The parts of an open Headway."""

    store: Store
    """The journal, to be read."""

    scheduler: SchedulerClient
    """Schedules the calls of this process."""

    commands: Commands
    """Carries commands out, here or in the leader."""

    executor: Executor
    """Executes runs of this process."""

    runner: Runner
    """Drives one run to its end."""

    actions: Actions
    """Verbs for runs that stopped."""

    ad_hoc: AdHocRuns
    """The run of calls outside of runs."""

    database: str
    """The name of the database in messages."""

    is_open: bool = True
    """Whether it may be used: its runs have not all ended, or its block goes on."""

    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def leader(self) -> Leader | None:
        """The leader that this process opened with; None if it follows."""
        return self.commands.leader if isinstance(self.commands, SessionCommands) else None

    @property
    def local_scheduler(self) -> LocalScheduler:
        """The scheduler that admits, in the process that leads. Raises StoreBusy in another one."""
        if self.leader is None:
            raise StoreBusy(f"{self.database}: another process leads, and has the scheduler")
        return self.leader.scheduler

    def keep(self, stack: AsyncExitStack) -> None:
        """Take over what is to be closed with this session."""
        self._stack = stack.pop_all()

    def asking_run(self) -> str | None:
        """Return the id of the run, of those that are executed here, whose code asks this."""
        if not self.executor.handles:
            return None
        scope = asking_scope()
        return scope.run_id if scope is not None and scope.run_id in self.executor.handles else None

    def shut(self) -> None:
        """Refuse what is asked from here on: the scheduler and the database close next."""
        self.is_open = False

    async def close(self, error: BaseException | None) -> bool | None:
        """Wait for the runs, or interrupt them if there is an ``error``, and close everything."""
        raised = (None, None, None) if error is None else (type(error), error, error.__traceback__)
        try:
            return await self._stack.__aexit__(*raised)
        except BaseExceptionGroup as group:
            # Task groups wrap even the error of their own block: it leaves as it came.
            raise_store_error(group, StoreReplaced)
            raise_store_error(group, StoreTakenOver)
            _, others = group.split(lambda inner: inner is error)
            if others is not None:
                raise
            return False


class Opener:
    """Opens sessions of one Headway. ``label`` names this process where workers are listed."""

    def __init__(
        self,
        config: Config,
        workflows: Workflows,
        schedules: Definitions,
        prices: Prices,
        label: str,
    ) -> None:
        self._config = config
        self._workflows = workflows
        self._schedules = schedules
        self._prices = prices
        self._label = label
        self._clock = system_clock()
        self._backend = open_backend(config.database)

    async def open(self) -> Session:
        """Lead; if another process does, follow it. Raises StoreError."""
        # Of this session: it holds on to the file that it opens, and to no other.
        self._backend = open_backend(self._config.database)
        give_up = self._clock() + OPENING_SECONDS
        leadership = self._backend.leadership()
        vacancy: Vacancy | None = None
        while True:
            try:
                return await self._open(partial(self._lead, vacancy))
            except (StoreBusy, StoreTakenOver):
                # Taken over: this process was stopped while it opened, and another one leads.
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
                stack.callback(executor.streams.end)
                stack.push_async_callback(self._workflows.close)
                stack.push_async_callback(session.ad_hoc.close)
                runs = await stack.enter_async_context(anyio.create_task_group())
                executor.begin(role.scheduler, role.commands, role.store, session.runner, runs)
                await self._schedules.declare(role.store, role.commands)
                if session.leader is not None:
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
            executor=executor,
            runner=runner,
            actions=Actions(scheduler, store, runner, executor.handles, executor.claim, worker),
            ad_hoc=AdHocRuns(scheduler, worker, self._config),
            database=self._backend.name,
        )

    async def _take_up(self, session: Session) -> None:
        """Go on with interrupted runs whose workflow is registered in this process."""
        interrupted = await session.store.runs({RunState.INTERRUPTED}, urgent_first=True)
        await session.executor.take_up([run for run in interrupted if self._workflows.knows(run)])

    @asynccontextmanager
    async def _lead(self, vacancy: Vacancy | None, executor: Executor) -> AsyncIterator[Role]:
        """Admit the calls of all processes. Raises StoreBusy if another one does."""
        worker = executor.worker
        local_worker = LocalWorker(worker, executor.handles, executor.obey, executor.committed)
        leader = Leader(
            self._config, self._backend, worker.id, vacancy=vacancy, local_worker=local_worker
        )
        presence = self._backend.workers().present(worker.id)
        commands = SessionCommands(leader, self._remote_commands(worker.id))
        lead = Lead(leader, executor)

        async def lead_or_follow(*, task_status: TaskStatus[None]) -> None:
            try:
                if await lead.until_closed(task_status):
                    commands.leader = None
                    await self._go_on(lead, presence)
            finally:
                lead.end()

        async with AsyncExitStack() as resources, anyio.create_task_group() as group:
            # In a task of its own: who loses the lead leaves the leader, not the block of this one.
            await group.start(lead_or_follow, name="headway leader")
            try:
                store = await resources.enter_async_context(self._backend.reader())
                # Before the worker is listed: whoever leads next looks whether it is alive.
                leader.scheduler.presence = await resources.enter_async_context(presence)
                await leader.scheduler.workers.enlist(worker)
                executor.joined()
                yield Role(store, leader.scheduler.session, commands)
                lead.is_leaving = True
            finally:
                lead.closing.set()
                with anyio.CancelScope(shield=True):
                    await lead.is_over.wait()

    async def _go_on(self, lead: "Lead", presence: Presence) -> None:
        """Follow with the calls and runs of a process that led."""
        executor, session = lead.executor, lead.leader.scheduler.session
        _log.warning(
            "another process leads: this one was stopped, or its event loop was blocked; its runs "
            "go on, and their calls go through requests"
        )
        async with self._backend.reader() as store:
            async with (
                self._remote(executor, store, presence, session.callers) as remote,
                self._standing_in(executor, session),
            ):
                session.through = remote
                await lead.closing.wait()
            # After its last batch: from a worker that has left, the leader would take none.
            if lead.is_leaving:
                await executor.leave()

    @asynccontextmanager
    async def _follow(self, executor: Executor) -> AsyncIterator[Role]:
        """Have another process admit the calls of this one."""
        worker = executor.worker.id
        presence = self._backend.workers().present(worker)
        # The presence first: a worker that the leader knows must be seen to be alive.
        async with self._backend.reader() as store, presence:
            async with self._remote(executor, store, presence) as remote:
                remote.know(await store.lessons())
                async with self._standing_in(executor, remote):
                    yield Role(store, remote, self._remote_commands(worker))
            # After its last batch: from a worker that has left, the leader would take none.
            await executor.leave()

    def _remote_commands(self, worker: str) -> RemoteCommands:
        return RemoteCommands(self._backend, partial(self._lead_briefly, worker))

    @asynccontextmanager
    async def _remote(
        self, executor: Executor, store: Store, presence: Presence, callers: Callers | None = None
    ) -> AsyncIterator[RemoteScheduler]:
        """Schedule through the leader; ``callers``: of calls that this process admitted itself."""
        worker = executor.worker.id
        callbacks = FollowerCallbacks(
            executor.joins, executor.joined, executor.handles, executor.committed, executor.obey
        )
        remote = RemoteScheduler(self._backend, worker, store.clock, callbacks, presence, callers)
        if callers is not None:
            live = await store.calls(states=LIVE_CALLS)
            remote.adopt(record for record in live if record.worker == worker)
        remote.lessons = store.lessons
        async with remote:
            yield remote

    @asynccontextmanager
    async def _standing_in(
        self, executor: Executor, scheduler: SchedulerClient
    ) -> AsyncIterator[None]:
        """Lead beside the runs of this process whenever nobody does."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._stand_in, executor, scheduler, name="headway leader")
            yield
            group.cancel_scope.cancel()

    async def _stand_in(self, executor: Executor, scheduler: SchedulerClient) -> None:
        """Lead as well when nobody does, until this process closes or another one takes over.

        A process without runs, waiting calls and schedules does not: it may be asleep for hours.
        """
        leadership = self._backend.leadership()
        while True:
            vacancy = await leadership.vacant()
            is_needed = executor.has_joined or scheduler.waiting_calls or self._schedules.are_any
            if not is_needed:
                await anyio.sleep(LOOK_SECONDS)
                continue
            try:
                async with self._leader(executor.worker.id, vacancy):
                    await anyio.sleep_forever()
            except* StoreError as group:
                _log.info("this process does not lead: %s", group.exceptions[0])
            except* Exception:  # of what leads: the runs of this process go on
                _log.exception(BUG)
            # Here a cancellation may land: nothing above waits if nobody can lead at all.
            await anyio.sleep(LOOK_SECONDS)

    async def _lead_briefly(self, worker: str, vacancy: Vacancy) -> None:
        """Lead, for as long as the requests that wait need."""
        try:
            async with self._leader(worker, vacancy):
                pass
        except* (StoreBusy, StoreTakenOver):
            pass  # another process leads by now, and answers

    def _leader(self, worker: str, vacancy: Vacancy) -> Leader:
        return Leader(self._config, self._backend, worker, vacancy=vacancy)


class Lead:
    """The lead of a process that opened with it: until it closes, or another process leads."""

    def __init__(self, leader: Leader, executor: Executor) -> None:
        self.leader: Leader = leader
        self.executor: Executor = executor
        self.closing: anyio.Event = anyio.Event()
        """Set when the session closes."""
        self.is_leaving: bool = False
        """Whether the worker is to be retired then: its runs have ended in order."""
        self.is_over: anyio.Event = anyio.Event()
        """Set once nothing of this process leads or follows any more."""
        self._has_begun = False

    def end(self) -> None:
        """Let nobody wait any more: nothing of this process leads or follows."""
        if self._has_begun:
            session = self.leader.scheduler.session
            session.close()
            session.callers.complete_all(SchedulerClosed("Headway was closed meanwhile"))
        self.is_over.set()

    async def until_closed(self, task_status: TaskStatus[None]) -> bool:
        """Lead until the session closes; return whether another process led before that.

        Raises StoreError if it cannot lead.
        """
        is_lost = False
        try:
            async with self.leader:
                self._has_begun = True
                task_status.started()
                await self.closing.wait()
                if self.is_leaving:
                    await self.executor.leave()
                self.leader.scheduler.session.close()
        except* StoreTakenOver:
            if not self._has_begun:
                raise
            is_lost = True
        return is_lost
