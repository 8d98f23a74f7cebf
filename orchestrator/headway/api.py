"""Headway: what Python, the command line and the web may ask or do. The one seam.

Everything that imports AutoGen is imported when the first team is built, not before.
"""

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

import anyio

from headway_scheduler.backends import open_backend
from headway_scheduler.cluster.remote import FollowerCallbacks, RemoteScheduler
from headway_scheduler.errors import (
    CallerError,
    StoreBusy,
    StoreError,
    StoreTakenOver,
)
from headway_scheduler.model.calls import CallRecord, Priority
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import RunState
from headway_scheduler.ports import Clock, Store, Vacancy
from headway_scheduler.protocol.commands import CancelRun, PauseRun
from headway_scheduler.runtime.client import SchedulerClient
from headway_scheduler.runtime.clock import system_clock
from headway_scheduler.runtime.local import LocalScheduler

from . import config as configuration
from .ad_hoc import AdHocRun
from .limits import Limits
from .pricing.costs import KEYS, Cost, added_up
from .pricing.prices import Prices
from .queue import Queue
from .runs.actions import Actions, Check, OnChange, OnUnknown
from .runs.handle import RunHandle, RunResult
from .runs.journal import inherited_answers
from .runs.options import RunOptions, with_options
from .runs.receipt import Receipt, receipt
from .runs.runner import Person, Runner
from .runs.stopped import find_run, new_run_id
from .workers.commands import Commands
from .workers.executor import Executor, new_worker
from .workers.leader import Leader, LocalWorker, raise_store_error
from .workers.remote_commands import RemoteCommands
from .workflows import Workflows

if TYPE_CHECKING:
    from autogen_core.models import ChatCompletionClient
    from openai import AsyncOpenAI

Factory = TypeVar("Factory", bound=Callable[..., Any])

_NOT_OPEN = "Headway is not open: use it inside `async with Headway() as hw:`"

_log = logging.getLogger("headway")

OPENING_SECONDS = 5.0
"""How long a process that follows waits for the one that leads to make the database."""


LOOK_SECONDS = 0.08
"""How often a process that can neither lead nor follow yet tries again."""


class Headway:
    """One scheduler, its database and the workflows that it can run.

    Use as an async context manager. Leaving the block waits for the runs that were started in it;
    leaving it with an error, or cancelling it, interrupts them. Settings come from ``config``, a
    path or a Config; without one from ``HEADWAY_CONFIG`` or ``./headway.toml``.

    One process leads: it admits the calls of all. Others follow it: they execute runs as well, and
    one of them leads when it is gone. ``label`` names this process where workers are listed.
    """

    def __init__(
        self,
        config: "str | PathLike[str] | configuration.Config | None" = None,
        *,
        label: str = "",
    ) -> None:
        if not isinstance(config, configuration.Config):
            config = configuration.load(config)
        self.config = config
        self._prices = Prices(config)
        self.workflows: Workflows = Workflows(config, self._prices)
        self._person: Person | None = None
        self._clock: Clock = system_clock()
        self._backend = open_backend(config.database)
        self._leadership = self._backend.leadership()
        self._label = label
        self._steer: Commands | None = None
        self._leader: Leader | None = None
        self._stack = AsyncExitStack()
        self._asking: SchedulerClient
        self._store: Store
        self._runner: Runner
        self._actions: Actions
        self._executor: Executor
        self._ad_hoc: AdHocRun

    def workflow(self, name: str) -> Callable[[Factory], Factory]:
        """Register a factory: it gets ``models`` and returns a fresh AutoGen team or agent."""

        def register(factory: Factory) -> Factory:
            self.workflows.register(name, factory)
            return factory

        return register

    async def __aenter__(self) -> Self:
        """Open the database, and lead; if another process does, follow it. Raises StoreError."""
        give_up = self._clock() + OPENING_SECONDS
        vacancy: Vacancy | None = None
        while True:
            try:
                await self._open(self._lead(vacancy))
                return self
            except StoreBusy:
                if await self._could_follow(give_up):
                    return self
            await anyio.sleep(LOOK_SECONDS)
            vacancy = self._leadership.look()

    async def _could_follow(self, give_up: float) -> bool:
        """Follow whoever leads, unless it is still about to make or migrate the database."""
        try:
            await self._open(self._follow())
            return True
        except StoreError:
            if self._clock() > give_up:
                raise
            return False

    async def _open(self, role: AbstractAsyncContextManager[None]) -> None:
        """Take a role, lead or follow, and what both have. Errors of groups leave as they came."""
        try:
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(role)
                stack.callback(self._no_longer_open)
                await self._begin(stack)
                self._stack = stack.pop_all()
        except BaseExceptionGroup as group:
            raise_store_error(group)
            raise

    @asynccontextmanager
    async def _lead(self, vacancy: Vacancy | None) -> AsyncIterator[None]:
        """Admit the calls of all processes. Raises StoreBusy if another one does."""
        self._executor = executor = self._new_executor()
        leader = Leader(
            self.config,
            self._backend,
            executor.worker.id,
            vacancy=vacancy,
            local_worker=LocalWorker(
                executor.worker, executor.handles, executor.obey, executor.committed
            ),
        )
        async with leader:
            self._store, self._asking, self._steer = leader.store, leader.service, leader.commands
            self._clock = leader.store.clock
            self._leader = leader
            executor.joined()
            yield
            await executor.leave()

    @asynccontextmanager
    async def _follow(self) -> AsyncIterator[None]:
        """Have another process admit the calls of this one."""
        self._executor = executor = self._new_executor()
        async with (
            self._backend.reader() as store,
            anyio.create_task_group() as group,
        ):
            follower = RemoteCommands(self._backend, self._stand_in_briefly)
            callbacks = FollowerCallbacks(
                executor.joins, executor.joined, executor.committed, executor.obey
            )
            self._clock = store.clock
            async with RemoteScheduler(
                self._backend, executor.worker.id, store.clock, callbacks
            ) as remote:
                remote.know(await store.lessons())
                self._store, self._asking, self._steer = store, remote, follower
                group.start_soon(self._stand_in, name="headway leader")
                yield
            # After its last batch: from a worker that has left, the leader would take none.
            await executor.leave()
            group.cancel_scope.cancel()

    def _new_executor(self) -> Executor:
        worker = new_worker(self._clock(), self._label, self.workflows)
        return Executor(worker, self.workflows)

    async def _begin(self, stack: AsyncExitStack) -> None:
        worker = self._executor.worker.id
        self._runner = Runner(self._asking, self._store, self.workflows, self._prices, worker)
        self._actions = Actions(
            self._asking,
            self._store,
            self._runner,
            self._executor.handles,
            self._executor.claim,
            worker,
        )
        stack.push_async_callback(self.workflows.close)
        self._ad_hoc = AdHocRun(self._asking, worker, self.config.priority)
        stack.push_async_callback(self._ad_hoc.close)
        runs = await stack.enter_async_context(anyio.create_task_group())
        self._executor.begin(self._asking, self._commands, self._store, self._runner, runs)
        if self.is_leader:
            await self._take_up()

    def _no_longer_open(self) -> None:
        self._steer = self._leader = None

    # Leading in the place of another process

    async def _stand_in(self) -> None:
        """Lead as well when nobody does, until this process closes or another one takes over.

        One that neither executes runs nor has calls that wait does not: it may be asleep for hours.
        """
        leadership = self._backend.leadership()
        while True:
            vacancy = await leadership.vacant()
            if not self._executor.has_joined and not self.waiting_calls:
                await anyio.sleep(LOOK_SECONDS)
                continue
            try:
                async with self._stand_in_leader(vacancy):
                    await anyio.sleep_forever()
            except* StoreError as group:
                _log.info("this process does not lead: %s", group.exceptions[0])

    async def _stand_in_briefly(self, vacancy: Vacancy) -> None:
        """Lead, for as long as the letters that wait need."""
        try:
            async with self._stand_in_leader(vacancy):
                pass
        except* (StoreBusy, StoreTakenOver):
            pass  # another process leads by now, and answers

    def _stand_in_leader(self, vacancy: Vacancy) -> Leader:
        return Leader(self.config, self._backend, self._executor.worker.id, vacancy=vacancy)

    async def _take_up(self) -> None:
        """Go on with interrupted runs whose workflow is registered here."""
        for run in await self._store.runs({RunState.INTERRUPTED}):
            if self.workflows.knows(run):
                await self._executor.claim(run)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        try:
            return await self._stack.__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            # Task groups wrap even the error of their own block: it leaves as it came.
            raise_store_error(group, StoreTakenOver)
            _, others = group.split(lambda inner: inner is error)
            if others is not None:
                raise
            return False

    # Runs

    async def run(
        self,
        workflow: str,
        *,
        task: str,
        priority: Priority | str | None = None,
        key: str | None = None,
        **options: Unpack[RunOptions],
    ) -> RunResult:
        """Execute a run here and wait for its result. Raises RunFailed; else as :meth:`start`."""
        handle = await self.start(workflow, task=task, priority=priority, key=key, **options)
        return await handle.result()

    async def start(
        self,
        workflow: str,
        *,
        task: str,
        priority: Priority | str | None = None,
        key: str | None = None,
        **options: Unpack[RunOptions],
    ) -> RunHandle:
        """Queue a run and start it here. With a ``key`` that was used before: that run.

        It goes on if it was interrupted; if another process executes it, it is waited for. Raises
        CallerError for a workflow that does not exist, StoreError if it is not on disk.
        """
        new = self._new_run(workflow, task, priority, key, **options)
        return await self._ready().start(new)

    async def handle(self, run_id: str) -> RunHandle:
        """A run by its id, to be waited for, whoever executes it. Raises RunNotFound."""
        return self._ready().handle(await self.get_run(run_id))

    async def submit(
        self,
        workflow: str,
        *,
        task: str,
        priority: Priority | str | None = None,
        key: str | None = None,
        **options: Unpack[RunOptions],
    ) -> RunHandle:
        """Queue a run for any worker, and start nothing. Same ``key`` and errors as :meth:`start`.

        The handle's ``run`` is the row.
        """
        executor = self._ready()
        run = await executor.queue(self._new_run(workflow, task, priority, key, **options))
        return executor.handle(run)

    def _new_run(
        self,
        workflow: str,
        task: str,
        priority: Priority | str | None,
        key: str | None,
        **options: Unpack[RunOptions],
    ) -> Run:
        workflow, component = self.workflows.describe(workflow)
        if isinstance(priority, str):
            priority = configuration.parse_priority(priority)
        run = Run(
            id=new_run_id(),
            workflow=workflow,
            task=task,
            priority=self.config.priority if priority is None else priority,
            state=RunState.QUEUED,
            created_at=self._clock(),
            key=key,
            component=component,
        )
        return with_options(run, self._clock(), **options)

    # Runs that stopped

    async def resume(
        self, run_id: str, *, unknown: OnUnknown = "send", on_change: OnChange = "abort"
    ) -> RunHandle:
        """Go on with a run that was interrupted or paused, or that a person has answered.

        ``unknown``: calls that were cut off in flight are sent again, or wait for a person.
        ``on_change``: what to do if the workflow asks for something else than it did: abort
        (nothing happens), fork (a new run goes on from there), accept (this one does, its other
        answers set aside). Raises RunNotFound or RunNotResumable.
        """
        return await self._acting.resume(run_id, unknown, on_change)

    async def resume_all(self, *, unknown: OnUnknown = "send") -> list[RunHandle]:
        """Go on with every interrupted run, most urgent first."""
        return await self._acting.resume_all(unknown)

    async def check(self, run_id: str, *, unknown: OnUnknown = "send") -> Check:
        """Say what resuming a run would do: it is replayed offline, nothing is paid or written."""
        return await self._acting.check(run_id, unknown)

    async def retry(self, run_id: str, **options: Unpack[RunOptions]) -> RunHandle:
        """Go on with a failed run from its failure, with other options if given."""
        return await self._acting.retry(run_id, options)

    async def fork(self, run_id: str, *, at: str, task: str | None = None) -> RunHandle:
        """Start a copy of a run that asks call ``at`` anew; what was answered before it is free.

        With a ``task`` of its own, the earlier answers are given to the same agents in the same
        order, whatever they ask. The run itself stays as it is.
        """
        return await self._acting.fork(run_id, at, task)

    async def continue_run(self, run_id: str, task: str) -> RunHandle:
        """Give the team of a completed run another task, as a new run; what it did is free."""
        return await self._acting.continue_run(run_id, task)

    async def cancel(self, run_id: str) -> Run:
        """End a run for good, executed or not, by whatever process."""
        commands, run = self._commands, await self.get_run(run_id)
        await commands.execute(CancelRun(run.id))
        return await self.get_run(run.id)

    async def pause(self, run_id: str) -> Run:
        """Stop a run at its next call, until it is resumed; executed by whatever process."""
        commands, run = self._commands, await self.get_run(run_id)
        await commands.execute(PauseRun(run.id))
        return await self.get_run(run.id)

    async def question(self, run_id: str) -> tuple[CallRecord, str] | None:
        """What a run waits for a person to answer or decide: the call, and what it asks."""
        return await self._acting.question(run_id)

    async def answer(
        self,
        run_id: str,
        words: str | None = None,
        *,
        again: bool = False,
        abort: bool = False,
    ) -> Run:
        """Give a person's ``words`` to a waiting run, as the answer or as what came of a step.

        ``again``: the step that was cut off is done again; ``abort``: the run is cancelled.
        :meth:`resume` goes on with it. Raises NothingToAnswer.
        """
        return await self._acting.answer(run_id, words, again, abort)

    async def receipt(self, run_id: str) -> Receipt:
        """What the last attempt at a run replayed, paid and saved."""
        run = await self.get_run(run_id)
        inherited = await inherited_answers(self._store, run)
        return receipt(run, await self.list_calls(run.id), inherited, self._prices.cost)

    async def work(
        self,
        *,
        slots: int,
        forever: bool = False,
        watch: Callable[[RunHandle], None] = lambda handle: None,
    ) -> None:
        """Execute queued runs, most urgent first, ``slots`` at once, until none is left.

        ``forever``: take up interrupted runs as well, each once, and wait for more, until
        :meth:`drain`. ``watch`` is told of each run that starts. Other processes may work beside
        this one: each run is executed by one of them.
        """
        await self._ready().work(slots, forever, watch)

    def drain(self) -> None:
        """Take no more runs: :meth:`work` returns when those that it executes have ended."""
        self._ready().drain()

    @property
    def is_draining(self) -> bool:
        """Whether :meth:`drain` was called."""
        return self._ready().is_draining

    async def get_run(self, run_id: str) -> Run:
        """The row of a run; its id may be shortened. Raises RunNotFound."""
        return await find_run(self._store, run_id)

    async def list_runs(
        self, states: Sequence[RunState] = (), *, limit: int | None = None
    ) -> Sequence[Run]:
        """Rows of runs, newest first; at most ``limit``, if given."""
        return await self._store.runs(states, limit=limit)

    async def list_calls(self, run_id: str) -> Sequence[CallRecord]:
        """Rows of a run's calls, by arrival."""
        return await self._store.calls(run_id)

    @property
    def person(self) -> Person | None:
        """Asks somebody who is there; without, a run that has a question waits for its answer."""
        return self._person

    @person.setter
    def person(self, person: Person | None) -> None:
        self._ready()
        self._person = self._runner.person = person

    async def prune(
        self,
        *,
        older_than_seconds: float | None = None,
        keep: int | None = None,
        is_dry: bool = False,
    ) -> list[str]:
        """Delete ended runs with their calls and texts; return their ids.

        Those that ended ``older_than_seconds`` ago, or at any time; but not the last ``keep``.
        ``is_dry``: only say which. A run that another one began as a copy of stays as long as that
        one. Raises CallerError if neither is given.
        """
        return await self._acting.prune(older_than_seconds, keep, is_dry)

    async def costs(self, by: str = "model", *, since_seconds: float | None = None) -> list[Cost]:
        """What was spent, by model, team, workflow, run or day (UTC), and last the total.

        ``since_seconds``: only calls that came no longer ago. Raises CallerError for another key.
        """
        if by not in KEYS:
            raise CallerError(f"costs are counted by {', '.join(KEYS)}, not by {by!r}")
        since = 0.0 if since_seconds is None else self._clock() - since_seconds
        return added_up(await self._store.spent(by, since), self._prices)

    # Models and the queue

    def model(
        self, model: "str | ChatCompletionClient", *, priority: Priority | str | None = None
    ) -> "ChatCompletionClient":
        """A scheduled client for an agent or team of your own, by name or around your client.

        Its calls are scheduled with all others, as an ad-hoc run that cannot be resumed.
        Raises CallerError outside of the ``async with`` block.
        """
        client = (
            self.workflows.model(model, priority=priority)
            if isinstance(model, str)
            else self.workflows.wrap(model, priority=priority)
        )
        self._ready()
        return client.bound(self._ad_hoc.scope())

    def openai(self, model: str, *, priority: Priority | str | None = None) -> "AsyncOpenAI":
        """OpenAI's own client, scheduled, for memory stores and tools that use the SDK directly.

        Its calls draw on the quotas of ``model``, whatever model they name. Inside a run they are
        calls of that run, else of the ad-hoc run that :meth:`model` has too.
        Raises CallerError outside of the ``async with`` block.
        """
        self._ready()
        return self.workflows.openai(model, self._ad_hoc.scope_of_caller, priority=priority)

    @property
    def is_leader(self) -> bool:
        """Whether this process admits calls itself; else another one does."""
        return self._leader is not None

    @property
    def waiting_calls(self) -> int:
        """How many calls of this process wait to be admitted."""
        return self._asking.waiting_calls if self._steer is not None else 0

    @property
    def queue(self) -> Queue:
        """Changes the order of the queue, and what is held back."""
        return Queue(self._commands)

    @property
    def limits(self) -> Limits:
        """Changes limits of quotas and shares of teams."""
        return Limits(self._commands, self._store)

    @property
    def _commands(self) -> Commands:
        """Whoever carries out what any process may ask: this one, or the one that it follows."""
        if self._steer is None:
            raise CallerError(_NOT_OPEN)
        return self._steer

    @property
    def _acting(self) -> Actions:
        _ = self._commands
        return self._actions

    def _ready(self) -> Executor:
        _ = self._commands
        return self._executor

    @property
    def scheduler(self) -> LocalScheduler:
        """The scheduler, in the process that leads. Raises StoreBusy in another one.

        Raises CallerError while Headway is not open.
        """
        _ = self._commands
        if self._leader is None:
            raise StoreBusy(f"{self._backend.name}: another process leads, and has the scheduler")
        return self._leader.service
