"""What any process may ask of the one that admits, carried out there. Law: rows first, then words.

Every verb changes its runs, gates, limits or weights in one commit, the last that it makes; so an
answer that is written with that commit is true whenever the process dies. Two end a run that is
being executed, and its end is a commit of its own: asked again, they change nothing. A run that
another worker executes is ended by that worker, or by its death.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Protocol

import anyio

from headway_scheduler.errors import RunNotFound, RunNotResumable, StoreTakenOver
from headway_scheduler.model.batch import Batch
from headway_scheduler.model.calls import Priority
from headway_scheduler.model.changes import Change
from headway_scheduler.model.runs import Order, Run, Worker
from headway_scheduler.model.states import RunState
from headway_scheduler.ports import Store
from headway_scheduler.runtime.local import LocalScheduler

from ..config import Config
from ..runs.actions import Control, require_idle, require_open
from ..runs.handle import BUMP, CANCEL, PAUSE, RunHandle


class Commands(Protocol):
    """The verbs. All values can be written as JSON. What an operator changes, they return."""

    async def submit(self, run: Run) -> None:
        """Queue a run; if one has its key already, nothing happens."""

    async def cancel(self, run_id: str) -> None:
        """End a run for good, executed or not."""

    async def pause(self, run_id: str) -> None:
        """Stop a run at its next call, or keep it from being taken up."""

    async def bump(self, target: str, priority: Priority) -> None:
        """Change the class of a run, or of one waiting call."""

    async def set_gate(self, target: str, state: str) -> Change:
        """Open, pause or drain."""

    async def set_limits(self, quota: str, limits: Mapping[str, object] | None) -> Change:
        """Change some of a quota's settings; None: as configured."""

    async def set_weight(self, team: str, weight: float | None) -> Change:
        """Change a team's share; None: as configured."""

    async def resume_quota(self, quota: str) -> Change:
        """Let one call try of a quota that is stopped."""

    async def enlist(self, worker: Worker) -> None:
        """Have a process execute runs, or say anew how many it takes."""

    async def claim(self, run: Run, worker: str) -> None:
        """Give a run that nobody executes to a worker, as it is written here."""

    async def retire(self, worker: str) -> None:
        """Let a process execute runs no more; what it has not begun goes to others."""


class LeaderCommands:
    """Carries the verbs out in this process, which admits.

    ``handles`` are the runs that are executed here, if any are, by the worker ``own``.
    """

    def __init__(
        self,
        config: Config,
        service: LocalScheduler,
        store: Store,
        control: Control,
        handles: Mapping[str, RunHandle],
        own: str | None = None,
    ) -> None:
        self._config = config
        self._service = service
        self._store = store
        self._control = control
        self.handles = handles
        self._own = own
        self._keys = anyio.Lock()
        self._let_go: dict[str, anyio.Event] = {}
        self.claims = anyio.Lock()
        """Held by whoever looks whether a run is executed, until what follows of it is written."""

    async def submit(self, run: Run) -> None:
        """Queue a run; if one has its key already, nothing happens."""
        if run.worker not in self._service.workers:
            run = replace(run, worker=None)  # whoever wanted to execute it is gone
        async with self._keys:
            if run.key is None or await self._store.run_with_key(run.key) is None:
                await self._service.save_run(run)

    async def cancel(self, run_id: str) -> None:
        """End a run for good. Raises RunNotFound or RunNotResumable."""
        await self._end(run_id, CANCEL, self._control.cancel)

    async def pause(self, run_id: str) -> None:
        """Stop a run at its next call. Raises RunNotFound or RunNotResumable."""
        await self._end(run_id, PAUSE, self._control.pause)

    async def _end(self, run_id: str, verb: str, stopped: Callable[[Run], Awaitable[Run]]) -> None:
        """Have whoever executes a run end it; ``stopped`` ends one that nobody executes."""
        while True:
            async with self.claims:
                run = await self._run(run_id)
                handle = self.handles.get(run.id)
                if handle is None and (worker := self.executes(run)) is None:
                    await stopped(run)
                    return
                if handle is None and worker is not None:
                    let_go = self._let_go.setdefault(run.id, anyio.Event())
                    await self._service.order(worker, Order(verb, run.id))
            if handle is not None:
                handle.heed(verb)
                await handle.ended()
                if handle.run.state is RunState.QUEUED:
                    continue  # it was not begun after all
                return
            await let_go.wait()
            if (await self._run(run.id)).state is not RunState.INTERRUPTED:
                return

    async def bump(self, target: str, priority: Priority) -> None:
        """Change a class. Raises RunNotFound, RunNotResumable or IllegalTransition."""
        run_id, is_call, number = target.partition(".")
        async with self.claims:
            run = await self._run(run_id)
            require_open(run)
            bumped = replace(run, priority=priority)
            if is_call:
                await self._service.bump(f"{run.id}.{number}", priority)
            elif (handle := self.handles.get(run.id)) is not None:
                await self._service.save_run(handle.bumped(priority))
            elif (worker := self.executes(run)) is not None:
                await self._service.order(worker, Order(BUMP, run.id, priority), bumped)
            else:
                await self._service.save_run(bumped)

    async def set_gate(self, target: str, state: str) -> Change:
        """Open, pause or drain. Raises CallerError."""
        return await self._service.set_gate(target, state)

    async def set_limits(self, quota: str, limits: Mapping[str, object] | None) -> Change:
        """Change limits over the configuration of this process. Raises ConfigError."""
        stated = None if limits is None else self._config.quota_with(quota, limits)
        return await self._service.set_limits(quota, stated)

    async def set_weight(self, team: str, weight: float | None) -> Change:
        """Change a share. Raises CallerError."""
        return await self._service.set_weight(team, weight)

    async def resume_quota(self, quota: str) -> Change:
        """Let one call try. Raises UnknownQuota."""
        return await self._service.resume_quota(quota)

    async def enlist(self, worker: Worker) -> None:
        """Take a process on that executes runs. Raises StoreError."""
        await self._service.enlist(worker)

    async def claim(self, run: Run, worker: str) -> None:
        """Give a run to a worker, if nobody executes it and it is in the state that was seen.

        Nothing happens if it was given to that worker meanwhile: its order is on the way.
        Raises RunNotResumable; StoreTakenOver for a worker that others took for dead.
        """
        async with self.claims:
            now = await self._run(run.id)
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

    async def retire(self, worker: str) -> None:
        """Forget a worker. What was its own is others' from here on. Raises StoreError."""
        async with self.claims:
            await self._service.lose(worker)

    def executes(self, run: Run) -> str | None:
        """The worker of another process that executes a run, if it is alive."""
        is_alive = run.worker in self._service.workers and run.worker != self._own
        return run.worker if is_alive else None

    def noticed(self, batch: Batch) -> None:
        """Take in what was committed."""
        for run in batch.runs:
            if run.worker is None and (event := self._let_go.pop(run.id, None)) is not None:
                event.set()

    async def _run(self, run_id: str) -> Run:
        run = await self._store.run(run_id)
        if run is None:
            raise RunNotFound(f"no run {run_id!r}: `headway runs list` shows them")
        return run
