"""Headway: what Python, the command line and the web may ask or do. The one seam.

Everything that imports AutoGen is imported when the first team is built, not before.
"""

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import anyio
from anyio.abc import TaskGroup

from headway_scheduler.clock import system_clock
from headway_scheduler.errors import (
    CallerError,
    RunNotFound,
    RunNotResumable,
    StoreBusy,
    StoreError,
    StoreTakenOver,
)
from headway_scheduler.model import Batch, CallRecord, Priority, Run
from headway_scheduler.policy import Policy
from headway_scheduler.service import Service
from headway_scheduler.states import CallState, RunState
from headway_scheduler.store.lock import Stamp, Vigil
from headway_scheduler.store.sqlite import SqliteStore

from . import config as configuration
from .control import (
    Check,
    Control,
    new_run_id,
    question_of,
    question_text,
    require_completed,
    require_failed,
    require_resumable,
)
from .costs import KEYS, Cost, added_up
from .events import of_batch
from .following import Follower
from .handles import Plan, RunHandle, RunOptions
from .journals import inherited_answers
from .leading import attending
from .operations import Operations
from .prices import Prices
from .receipt import Receipt, receipt
from .runs import Person, Runner
from .steering import Here, Steering
from .workflows import Workflows

if TYPE_CHECKING:
    from autogen_core.models import ChatCompletionClient
    from openai import AsyncOpenAI

    from headway_agents import RunScope

OnChange = Literal["abort", "fork", "accept"]

_NOT_OPEN = "Headway is not open: use it inside `async with Headway() as hw:`"

OPENING_SECONDS = 5.0
"""How long a process that follows waits for the one that leads to make the database."""


LOOK_SECONDS = 0.08
"""How often a process that waits for its turn looks whether anybody leads."""


class Headway:
    """One scheduler, its database and the workflows that it can run.

    Use as an async context manager. Leaving the block waits for the runs that were started in it;
    leaving it with an error, or cancelling it, interrupts them. Settings come from ``config``, a
    path or a Config; without one from ``HEADWAY_CONFIG`` or ``./headway.toml``.

    One process leads: it admits and executes. Another one follows it, to submit and to steer; with
    ``follow=False`` opening waits instead until this process may lead.
    """

    def __init__(
        self,
        config: "str | PathLike[str] | configuration.Config | None" = None,
        *,
        follow: bool = True,
    ) -> None:
        if not isinstance(config, configuration.Config):
            config = configuration.load(config)
        self.config = config
        self._prices = Prices(config)
        self.workflows = Workflows(config, self._prices)
        self._person: Person | None = None
        self._handles: dict[str, RunHandle] = {}
        self._clock = system_clock()
        self._vigil = Vigil(config.database)
        self._may_follow = follow
        self._busy: StoreBusy | None = None
        self._asked: Steering | None = None
        self._arrived = anyio.Event()
        self.is_draining = False
        self._taken_up: set[str] = set()
        self._stack = AsyncExitStack()
        self._service: Service | None = None
        self._ad_hoc: tuple[Run, RunScope] | None = None
        self._store: SqliteStore
        self._runner: Runner
        self._control: Control
        self._here: Here
        self._runs: TaskGroup

    def workflow(self, name: str) -> Callable[[Any], Any]:
        """Register a factory: it gets ``models`` and returns a fresh AutoGen team or agent."""

        def register(factory: Any) -> Any:
            self.workflows.register(name, factory)
            return factory

        return register

    async def __aenter__(self) -> Self:
        """Open the database, and call interrupted what a dead process left running.

        If another process works on it, follow that one. Raises StoreError.
        """
        give_up = self._clock() + OPENING_SECONDS
        while True:
            try:
                await self._lead(self._vigil.frozen)
                return self
            except StoreBusy as busy:
                if self._may_follow and await self._follows(busy, give_up):
                    return self
            await self._until_maybe_free()

    async def _until_maybe_free(self) -> None:
        """Wait until it is worth trying to lead; one who may follow soon tries again anyway."""
        while True:
            await anyio.sleep(LOOK_SECONDS)
            if self._vigil.may_lead() or self._may_follow:
                return

    async def _follows(self, busy: StoreBusy, give_up: float) -> bool:
        """Follow whoever leads, unless it is still about to make or migrate the database."""
        try:
            await self._follow(busy)
            return True
        except StoreError:
            if self._clock() > give_up:
                raise
            return False

    async def _lead(self, frozen: Stamp | None = None) -> None:
        """Be the process that admits. Raises StoreBusy if another one is, and not ``frozen``."""
        try:
            await self._open(frozen)
        except BaseExceptionGroup as group:
            _raise_store_error(group)
            raise

    async def _open(self, frozen: Stamp | None) -> None:
        async with AsyncExitStack() as stack:
            store = SqliteStore(self.config.database, frozen=frozen)
            self._store = await stack.enter_async_context(store)
            stack.callback(self._no_longer_open)
            self.is_draining = False
            quotas, policy = self.config.quotas.values(), Policy(weights=self.config.weights)
            service = Service(
                self._store, quotas, policy=policy, clock=self._clock, on_change=self._on_change
            )
            self._service = await stack.enter_async_context(service)
            for run in await self._store.runs({RunState.RUNNING}, limit=100_000):
                await service.save_run(replace(run, state=RunState.INTERRUPTED))
            self._runner = Runner(service, self._store, self.workflows, self._prices)
            self._control = Control(service, self._store, self._runner)
            self._here = Here(self.config, service, self._store, self._control, self._handles)
            self._asked = self._here
            stack.push_async_callback(self.workflows.close)
            stack.push_async_callback(self._end_ad_hoc)
            await stack.enter_async_context(attending(self._store, service, self._here))
            self._runs = await stack.enter_async_context(anyio.create_task_group())
            await self._take_up()
            self._stack = stack.pop_all()

    async def _follow(self, busy: StoreBusy) -> None:
        """Read, and ask the process that admits for everything else."""
        self._store = SqliteStore(self.config.database, read_only=True)
        await self._stack.enter_async_context(self._store)
        self._stack.callback(self._no_longer_open)
        self._busy = busy
        self._asked = Follower(self._store.path, self._stand_in)

    def _no_longer_open(self) -> None:
        self._service = self._busy = self._asked = None

    async def _stand_in(self) -> None:
        """Lead if nobody alive does, for as long as the letters that wait need."""
        if self._vigil.may_lead():
            leader = Headway(self.config)
            with suppress(StoreBusy):
                await leader._lead(self._vigil.frozen)
                await leader.__aexit__(None, None, None)

    async def _take_up(self) -> None:
        """Go on with interrupted runs whose workflow is registered here."""
        for run in await self._store.runs({RunState.INTERRUPTED}, limit=100_000):
            if self.workflows.knows(run):
                self._start(run)

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
            _raise_store_error(group, StoreTakenOver)
            _, others = group.split(lambda inner: inner is error)
            if others is not None:
                raise
            return False

    # Runs

    async def submit(
        self,
        workflow: str,
        *,
        task: str,
        priority: Priority | str | None = None,
        key: str | None = None,
        options: RunOptions | None = None,
    ) -> RunHandle:
        """Queue a run and start it here. With a ``key`` that was used before: that run.

        It goes on if it was interrupted. Raises CallerError for a workflow that does not exist,
        StoreError if it is not on disk, StoreBusy in a process that follows: it executes nothing.
        """
        _ = self.service
        run = await self.enqueue(workflow, task=task, priority=priority, key=key, options=options)
        handle = self._handles.get(run.id)
        if handle is None:
            if run.state in (RunState.QUEUED, RunState.INTERRUPTED):
                return self._start(run)
            handle = RunHandle(run)
            handle.show_past(await self.calls(run.id))
        return handle

    async def enqueue(
        self,
        workflow: str,
        *,
        task: str,
        priority: Priority | str | None = None,
        key: str | None = None,
        options: RunOptions | None = None,
    ) -> Run:
        """Queue a run without starting it: :meth:`work` takes it. Same errors as :meth:`submit`."""
        steering = self._steering
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
        run = (options or RunOptions()).applied(run, self._clock())
        existing = await self._store.run_with_key(key) if key is not None else None
        if existing is None:
            await steering.submit(run)
            existing = await self._store.run_with_key(key) if key is not None else None
        return existing or run

    # Runs that stopped

    async def resume(
        self, run_id: str, *, unknown_waits: bool = False, on_change: OnChange = "abort"
    ) -> RunHandle:
        """Go on with a run that was interrupted or paused, or that a person has answered.

        ``unknown_waits``: a call that was cut off in flight waits for a person instead of being
        sent again. ``on_change``: what to do if the workflow asks for something else than it did:
        abort (nothing happens), fork (a new run goes on from there), accept (this one does, its
        other answers set aside). Raises RunNotFound or RunNotResumable.
        """
        run = await self._stopped(run_id)
        require_resumable(run, with_person=self.person is not None)
        plan = Plan(unknown_waits=unknown_waits)
        if on_change != "abort":
            _, change = await self._control.check(run, plan)
            if change is not None and on_change == "fork":
                return self._start(await self._control.copied(run, until=change.next_arrival or 0))
            if change is not None:
                await self._control.accept(run, change)
        return self._start(run, plan)

    async def resume_all(self, *, unknown_waits: bool = False) -> list[RunHandle]:
        """Go on with every interrupted run, most urgent first."""
        interrupted = {RunState.INTERRUPTED}
        runs = await self._store.runs(interrupted, limit=100_000, urgent_first=True)
        return [await self.resume(run.id, unknown_waits=unknown_waits) for run in runs]

    async def check(self, run_id: str, *, unknown_waits: bool = False) -> Check:
        """Say what resuming a run would do: it is replayed offline, nothing is paid or written."""
        run = await self._stopped(run_id)
        check, _ = await self._control.check(run, Plan(unknown_waits=unknown_waits))
        return check

    async def retry(self, run_id: str, *, options: RunOptions | None = None) -> RunHandle:
        """Go on with a failed run from its failure, with other ``options`` if given."""
        run = await self._stopped(run_id)
        require_failed(run)
        run = (options or RunOptions()).applied(run, self.service.now())
        return self._start(run, Plan(again=True))

    async def fork(self, run_id: str, *, at: str, task: str | None = None) -> RunHandle:
        """Start a copy of a run that asks call ``at`` anew; what was answered before it is free.

        With a ``task`` of its own, the earlier answers are given to the same agents in the same
        order, whatever they ask. The run itself stays as it is.
        """
        run = await self._stopped(run_id)
        until = await self._control.cut(run, at)
        return self._start(await self._control.copied(run, task=task, until=until))

    async def continue_run(self, run_id: str, task: str) -> RunHandle:
        """Give the team of a completed run another task, as a new run; what it did is free."""
        run = await self._stopped(run_id)
        require_completed(run)
        history = (*run.history, run.task)
        return self._start(await self._control.copied(run, task=task, history=history))

    async def cancel(self, run_id: str) -> Run:
        """End a run for good, executed or not, here or by the process that this one follows."""
        steering, run = self._steering, await self.run(run_id)
        await steering.cancel(run.id)
        return await self.run(run.id)

    async def pause(self, run_id: str) -> Run:
        """Stop a run at its next call, until it is resumed; executed where :meth:`cancel` says."""
        steering, run = self._steering, await self.run(run_id)
        await steering.pause(run.id)
        return await self.run(run.id)

    async def question(self, run_id: str) -> tuple[CallRecord, str] | None:
        """What a run waits for a person to answer or decide: the call, and what it asks."""
        record = await question_of(self._store, await self.run(run_id))
        if record is None:
            return None
        pieces = await self._store.prompt(record.call.request_hash)
        return record, question_text(record, pieces or ())

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
        run = await self._stopped(run_id)
        if (words is not None) + again + abort != 1:
            raise CallerError("an answer is words, or again, or abort: one of them")
        outcome = CallState.CANCELLED if abort else CallState.QUEUED
        outcome = outcome if words is None else CallState.DONE
        return await self._control.answer(run, outcome, words or "")

    async def receipt(self, run_id: str) -> Receipt:
        """What the last attempt at a run replayed, paid and saved."""
        run = await self.run(run_id)
        inherited = await inherited_answers(self._store, run)
        return receipt(run, await self.calls(run.id), inherited, self._prices.cost)

    async def work(
        self,
        *,
        at_once: int,
        forever: bool = False,
        watch: Callable[[RunHandle], None] = lambda handle: None,
    ) -> None:
        """Execute queued runs, most urgent first, ``at_once`` of them, until none is left.

        ``forever``: take up interrupted runs as well, each once, and wait for more, until
        :meth:`drain`. ``watch`` is told of each run that starts. Raises StoreBusy in a process that
        follows.
        """
        _ = self.service
        async with anyio.create_task_group() as group:
            for _ in range(at_once):
                group.start_soon(self._take_runs, watch, forever)

    def drain(self) -> None:
        """Take no more runs: :meth:`work` returns when those that it executes have ended."""
        self.is_draining = True
        self._tell_workers()

    async def run(self, run_id: str) -> Run:
        """The row of a run; its id may be shortened. Raises RunNotFound."""
        run = await self._store.run(run_id)
        if run is None:
            raise RunNotFound(f"no run {run_id!r}: `headway runs list` shows them")
        return run

    async def runs(self, states: Sequence[RunState] = (), *, limit: int = 1000) -> Sequence[Run]:
        """Rows of runs, newest first."""
        return await self._store.runs(states, limit=limit)

    async def calls(self, run_id: str) -> Sequence[CallRecord]:
        """Rows of a run's calls, by arrival."""
        return await self._store.calls(run_id, limit=1_000_000)

    @property
    def person(self) -> Person | None:
        """Asks somebody who is there; without, a run that has a question waits for its answer."""
        return self._person

    @person.setter
    def person(self, person: Person | None) -> None:
        _ = self.service
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
        if older_than_seconds is None and keep is None:
            raise CallerError("say which runs: older_than_seconds, keep, or both")
        is_any = older_than_seconds is None
        before = float("inf") if is_any else self.service.now() - (older_than_seconds or 0.0)
        return await self._control.prune(before, keep=keep, is_dry=is_dry)

    async def costs(self, by: str = "model", *, since_seconds: float | None = None) -> list[Cost]:
        """What was spent, by model, team, workflow, run or day (UTC), and last the total.

        ``since_seconds``: only calls that came no longer ago. Raises CallerError for another key.
        """
        if by not in KEYS:
            raise CallerError(f"costs are counted by {', '.join(KEYS)}, not by {by!r}")
        since = 0.0 if since_seconds is None else self.service.now() - since_seconds
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
        return client.bound(self._ad_hoc_scope())

    def openai(self, model: str, *, priority: Priority | str | None = None) -> "AsyncOpenAI":
        """OpenAI's own client, scheduled, for memory stores and tools that use the SDK directly.

        Its calls draw on the quotas of ``model``, whatever model they name. Inside a run they are
        calls of that run, else of the ad-hoc run that :meth:`model` has too.
        Raises CallerError outside of the ``async with`` block.
        """
        _ = self.service
        return self.workflows.openai(model, self._asking_scope, priority=priority)

    @property
    def is_leader(self) -> bool:
        """Whether this process admits and executes; else it follows one that does."""
        return self._service is not None

    @property
    def queue(self) -> Operations:
        """What may be changed of the queue while everything runs."""
        return Operations(self._steering, self._store)

    @property
    def _steering(self) -> Steering:
        """Whoever carries out what any process may ask: this one, or the one that it follows."""
        if self._asked is None:
            raise CallerError(_NOT_OPEN)
        return self._asked

    @property
    def service(self) -> Service:
        """The scheduler of this process. Raises CallerError while Headway is not open.

        Raises StoreBusy in a process that follows: it admits nothing.
        """
        if self._busy is not None:
            raise StoreBusy(f"{self._busy}; `headway submit` queues a run beside it") from None
        if self._service is None:
            raise CallerError(_NOT_OPEN)
        return self._service

    # Inside

    def _start(self, run: Run, plan: Plan | None = None) -> RunHandle:
        handle = self._handles[run.id] = RunHandle(run, plan)
        self._runs.start_soon(self._execute, handle, name=f"headway run {run.id}")
        return handle

    async def _stopped(self, run_id: str) -> Run:
        """The row of a run that is not executed here. Raises StoreBusy if this process follows."""
        _ = self.service
        run = await self.run(run_id)
        if run.id in self._handles:
            raise RunNotResumable(f"run {run.id} is being executed: cancel or pause it first")
        return run

    async def _execute(self, handle: RunHandle) -> None:
        try:
            await self._runner.execute(handle)
        finally:
            del self._handles[handle.id]
            with anyio.CancelScope(shield=True):
                await self.workflows.release(handle.id)

    async def _take_runs(self, watch: Callable[[RunHandle], None], forever: bool) -> None:
        while not self.is_draining:
            arrived = self._arrived
            if (handle := await self._claim(interrupted=forever)) is not None:
                watch(handle)
                await self._execute(handle)
            elif forever:
                await arrived.wait()
            else:
                return

    def _tell_workers(self) -> None:
        self._arrived.set()
        self._arrived = anyio.Event()

    async def _claim(self, *, interrupted: bool) -> RunHandle | None:
        """Take the most urgent run that waits; from then on it is executed here."""
        states = {RunState.QUEUED, RunState.INTERRUPTED} if interrupted else {RunState.QUEUED}
        async with self._here.claims:
            # A run that was just taken here is queued until its first commit.
            limit = len(self._handles) + len(self._taken_up) + 1
            for run in await self._store.runs(states, limit=limit, urgent_first=True):
                if await self._may_take(run):
                    if run.state is RunState.INTERRUPTED:
                        # Once: it may stop where its workflow changed, and would again.
                        self._taken_up.add(run.id)
                    self._handles[run.id] = RunHandle(run)
                    return self._handles[run.id]
        return None

    async def _may_take(self, run: Run) -> bool:
        if run.id in self._handles:
            return False
        if run.state is RunState.INTERRUPTED and run.id in self._taken_up:
            return False
        # The list may be older than the end of a run that another worker took.
        return (await self.run(run.id)).state is run.state and run.id not in self._handles

    def _asking_scope(self) -> "RunScope":
        from headway_agents import current_scope

        return current_scope.get() or self._ad_hoc_scope()

    def _ad_hoc_scope(self) -> "RunScope":
        if self._ad_hoc is None:
            from headway_agents import RunScope

            now = self.service.now()
            run = Run(
                id=new_run_id(),
                workflow="(ad hoc)",
                task="",
                priority=Priority.BACKGROUND,  # nobody waits for it as a whole
                state=RunState.RUNNING,
                created_at=now,
                started_at=now,
            )
            self._ad_hoc = (run, RunScope(self.service, run.id, self.config.priority))
            self.service.note_run(run)
        return self._ad_hoc[1]

    async def _end_ad_hoc(self) -> None:
        if self._ad_hoc is not None:
            run, scope = self._ad_hoc
            scope.close()
            finished_at = self.service.now()
            await self.service.save_run(
                replace(run, state=RunState.COMPLETED, finished_at=finished_at)
            )
            self._ad_hoc = None

    def _on_change(self, batch: Batch) -> None:
        if any(run.state is RunState.QUEUED for run in batch.runs):
            self._tell_workers()
        for event in of_batch(batch, self.service.now()):
            if handle := self._handles.get(event.run_id):
                handle.publish(event)
        for record in (*batch.new, *batch.changed):
            if handle := self._handles.get(record.call.run_id):
                handle.calls[record.call.id] = record


def _raise_store_error(
    group: BaseExceptionGroup[BaseException], kind: type[StoreError] = StoreError
) -> None:
    """Raise the first error of a ``kind`` that task groups wrapped, as it was."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            _raise_store_error(error, kind)
        elif isinstance(error, kind):
            raise error from None
