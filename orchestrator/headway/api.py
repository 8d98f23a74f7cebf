"""Headway: what Python, the command line and the web may ask or do. The one seam.

Everything that imports AutoGen is imported when the first team is built, not before.
"""

import secrets
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import anyio
from anyio.abc import TaskGroup

from headway_scheduler.errors import CallerError, RunNotFound
from headway_scheduler.model import Batch, CallRecord, Priority, Run
from headway_scheduler.service import Service
from headway_scheduler.states import RunState
from headway_scheduler.store.sqlite import SqliteStore

from . import config as configuration
from .events import of_batch
from .runs import RunHandle, Runner
from .workflows import Workflows

if TYPE_CHECKING:
    from autogen_core.models import ChatCompletionClient

    from headway_agents import RunScope

_ID_ALPHABET = "23456789abcdefghjkmnpqrstvwxyz"  # no letters that are read as others


class Headway:
    """One scheduler, its database and the workflows that it can run.

    Use as an async context manager. Leaving the block waits for the runs that were started in it;
    leaving it with an error, or cancelling it, interrupts them. Settings come from ``config``, a
    path or a Config; without one from ``HEADWAY_CONFIG`` or ``./headway.toml``.
    """

    def __init__(self, config: "str | PathLike[str] | configuration.Config | None" = None) -> None:
        if not isinstance(config, configuration.Config):
            config = configuration.load(config)
        self.config = config
        self.workflows = Workflows(config)
        self._handles: dict[str, RunHandle] = {}
        self._keys = anyio.Lock()
        self._stack = AsyncExitStack()
        self._service: Service | None = None
        self._ad_hoc: tuple[Run, RunScope] | None = None
        self._store: SqliteStore
        self._runner: Runner
        self._runs: TaskGroup

    def workflow(self, name: str) -> Callable[[Any], Any]:
        """Register a factory: it gets ``models`` and returns a fresh AutoGen team or agent."""

        def register(factory: Any) -> Any:
            self.workflows.register(name, factory)
            return factory

        return register

    async def __aenter__(self) -> Self:
        """Open the database, and call interrupted what a dead process left running.

        Raises StoreError.
        """
        async with AsyncExitStack() as stack:
            self._store = await stack.enter_async_context(SqliteStore(self.config.database))
            quotas = self.config.quotas.values()
            service = Service(self._store, quotas, on_change=self._on_change)
            self._service = await stack.enter_async_context(service)
            for run in await self._store.runs({RunState.RUNNING}, limit=100_000):
                await service.save_run(replace(run, state=RunState.INTERRUPTED))
            self._runner = Runner(service, lambda run: self.workflows.build(run, service))
            stack.push_async_callback(self.workflows.close)
            stack.push_async_callback(self._end_ad_hoc)
            self._runs = await stack.enter_async_context(anyio.create_task_group())
            self._stack = stack.pop_all()
        return self

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
            _, others = group.split(lambda inner: inner is error)
            if others is not None:
                raise
            return False
        finally:
            self._service = None

    # Runs

    async def submit(
        self,
        workflow: str,
        *,
        task: str,
        priority: Priority | str | None = None,
        key: str | None = None,
    ) -> RunHandle:
        """Queue a run and start it here. With a ``key`` that was used before: that run.

        Raises CallerError for a workflow that does not exist, StoreError if it is not on disk.
        """
        run = await self.enqueue(workflow, task=task, priority=priority, key=key)
        handle = self._handles.get(run.id)
        if handle is None:
            handle = RunHandle(run)
            if run.state is RunState.QUEUED:
                self._handles[run.id] = handle
                self._runs.start_soon(self._execute, handle, name=f"headway run {run.id}")
            else:
                handle.show_past(await self.calls(run.id))
        return handle

    async def enqueue(
        self,
        workflow: str,
        *,
        task: str,
        priority: Priority | str | None = None,
        key: str | None = None,
    ) -> Run:
        """Queue a run without starting it: :meth:`work` takes it. Same errors as :meth:`submit`."""
        workflow, component = self.workflows.describe(workflow)
        if isinstance(priority, str):
            priority = configuration.parse_priority(priority)
        run = Run(
            id=f"r-{_random_text(8)}",
            workflow=workflow,
            task=task,
            priority=self.config.priority if priority is None else priority,
            state=RunState.QUEUED,
            created_at=self.service.now(),
            key=key,
            component=component,
        )
        async with self._keys:
            existing = await self._store.run_with_key(key) if key is not None else None
            if existing is None:
                await self.service.save_run(run)
        return existing or run

    async def work(
        self,
        *,
        at_once: int,
        watch: Callable[[RunHandle], None] = lambda handle: None,
    ) -> None:
        """Execute queued runs, most urgent first, ``at_once`` of them, until none is left.

        ``watch`` is told of each run that starts.
        """
        async with anyio.create_task_group() as group:
            for _ in range(at_once):
                group.start_soon(self._take_runs, watch)

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

    @property
    def service(self) -> Service:
        """The scheduler of this process. Raises CallerError while Headway is not open."""
        if self._service is None:
            raise CallerError("Headway is not open: use it inside `async with Headway() as hw:`")
        return self._service

    # Inside

    async def _execute(self, handle: RunHandle) -> None:
        try:
            await self._runner.execute(handle)
        finally:
            del self._handles[handle.id]
            with anyio.CancelScope(shield=True):
                await self.workflows.release(handle.id)

    async def _take_runs(self, watch: Callable[[RunHandle], None]) -> None:
        while run := await self._next_run():
            handle = self._handles[run.id] = RunHandle(run)
            # The list may be older than the end of a run that another worker took and finished.
            if (await self.run(run.id)).state is not RunState.QUEUED:
                del self._handles[run.id]
                continue
            watch(handle)
            await self._execute(handle)

    async def _next_run(self) -> Run | None:
        queued = await self._store.runs({RunState.QUEUED}, limit=100_000)
        free = [run for run in queued if run.id not in self._handles]
        return min(free, key=lambda run: (run.priority, run.created_at), default=None)

    def _ad_hoc_scope(self) -> "RunScope":
        if self._ad_hoc is None:
            from headway_agents import RunScope

            now = self.service.now()
            run = Run(
                id=f"r-{_random_text(8)}",
                workflow="(ad hoc)",
                task="",
                priority=self.config.priority,
                state=RunState.RUNNING,
                created_at=now,
                started_at=now,
            )
            self._ad_hoc = (run, RunScope(self.service, run.id, run.priority))
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
        for event in of_batch(batch, self.service.now()):
            if handle := self._handles.get(event.run_id):
                handle.publish(event)
        for record in (*batch.new, *batch.changed):
            if handle := self._handles.get(record.call.run_id):
                handle.calls[record.call.id] = record


def _random_text(length: int) -> str:
    return "".join(secrets.choice(_ID_ALPHABET) for _ in range(length))
