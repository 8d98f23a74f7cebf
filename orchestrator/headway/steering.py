"""What any process may ask of the one that admits, carried out there. Law: rows first, then words.

Every verb changes its runs, gates, limits or weights in one commit, the last that it makes; so an
answer that is written with that commit is true whenever the process dies. Two end a run that is
being executed, and its end is a commit of its own: asked again, they change nothing.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import anyio

from headway_scheduler.errors import RunNotFound
from headway_scheduler.model import Priority, Run
from headway_scheduler.service import Service
from headway_scheduler.store.base import Store

from .config import Config
from .control import Control, require_open
from .handles import RunHandle


class Steering(Protocol):
    """The verbs. All values can be written as JSON."""

    async def submit(self, run: Run) -> None:
        """Queue a run; if one has its key already, nothing happens."""

    async def cancel(self, run_id: str) -> None:
        """End a run for good, executed or not."""

    async def pause(self, run_id: str) -> None:
        """Stop a run at its next call, or keep it from being taken up."""

    async def bump(self, target: str, priority: Priority) -> None:
        """Change the class of a run, or of one waiting call."""

    async def set_gate(self, target: str, state: str) -> None:
        """Open, pause or drain."""

    async def set_limits(self, quota: str, limits: Mapping[str, object] | None) -> None:
        """Change some of a quota's settings; None: as configured."""

    async def set_weight(self, team: str, weight: float | None) -> None:
        """Change a team's share; None: as configured."""

    async def resume_quota(self, quota: str) -> None:
        """Let one call try of a quota that is stopped."""


class Here:
    """Carries the verbs out in this process, which admits."""

    def __init__(
        self,
        config: Config,
        service: Service,
        store: Store,
        control: Control,
        handles: Mapping[str, RunHandle],
    ) -> None:
        self._config = config
        self._service = service
        self._store = store
        self._control = control
        self._handles = handles
        self._keys = anyio.Lock()
        self.claims = anyio.Lock()
        """Held by whoever looks whether a run is executed, until what follows of it is written."""

    async def submit(self, run: Run) -> None:
        """Queue a run; if one has its key already, nothing happens."""
        async with self._keys:
            if run.key is None or await self._store.run_with_key(run.key) is None:
                await self._service.save_run(run)

    async def cancel(self, run_id: str) -> None:
        """End a run for good. Raises RunNotFound or RunNotResumable."""
        async with self.claims:
            run = await self._run(run_id)
            handle = self._handles.get(run.id)
            if handle is None:
                await self._control.cancel(run)
                return
        handle.cancel()
        await handle.ended()

    async def pause(self, run_id: str) -> None:
        """Stop a run at its next call. Raises RunNotFound or RunNotResumable."""
        async with self.claims:
            run = await self._run(run_id)
            handle = self._handles.get(run.id)
            if handle is None:
                await self._control.pause(run)
                return
        handle.pause()
        await handle.ended()

    async def bump(self, target: str, priority: Priority) -> None:
        """Change a class. Raises RunNotFound, RunNotResumable or IllegalTransition."""
        run_id, is_call, number = target.partition(".")
        async with self.claims:
            run = await self._run(run_id)
            require_open(run)
            if is_call:
                await self._service.bump(f"{run.id}.{number}", priority)
            elif (handle := self._handles.get(run.id)) is not None:
                await self._service.save_run(handle.bumped(priority))
            else:
                await self._service.save_run(replace(run, priority=priority))

    async def set_gate(self, target: str, state: str) -> None:
        """Open, pause or drain. Raises CallerError."""
        await self._service.set_gate(target, state)

    async def set_limits(self, quota: str, limits: Mapping[str, object] | None) -> None:
        """Change limits over the configuration of this process. Raises ConfigError."""
        stated = None if limits is None else self._config.quota_with(quota, limits)
        await self._service.set_limits(quota, stated)

    async def set_weight(self, team: str, weight: float | None) -> None:
        """Change a share. Raises CallerError."""
        await self._service.set_weight(team, weight)

    async def resume_quota(self, quota: str) -> None:
        """Let one call try. Raises UnknownQuota."""
        await self._service.resume_quota(quota)

    async def _run(self, run_id: str) -> Run:
        run = await self._store.run(run_id)
        if run is None:
            raise RunNotFound(f"no run {run_id!r}: `headway runs list` shows them")
        return run
