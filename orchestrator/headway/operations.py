"""What may be changed of the queue while everything runs. Law: what is said to hold is on disk.

Changes hold over the configuration, after a restart too, until they are taken back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from headway_scheduler.errors import RunNotFound
from headway_scheduler.gates import ALL, DRAINED, OPEN, PAUSED
from headway_scheduler.model import Change, Priority
from headway_scheduler.service import Service
from headway_scheduler.store.base import Store

from .config import Config, parse_priority
from .control import require_open
from .handles import RunHandle


class Operations:
    """Priorities, gates, limits and weights. ``Headway.queue`` is one."""

    def __init__(
        self, config: Config, service: Service, store: Store, handles: Mapping[str, RunHandle]
    ) -> None:
        self._config = config
        self._service = service
        self._store = store
        self._handles = handles

    async def bump(self, id: str, priority: Priority | str) -> None:
        """Change the class of a run with its waiting calls, or of one waiting call.

        Raises RunNotFound, RunNotResumable for a run that has ended, IllegalTransition for a call
        that does not wait.
        """
        level = parse_priority(priority) if isinstance(priority, str) else priority
        run_id, is_call, number = id.partition(".")
        run = await self._store.run(run_id)
        if run is None:
            raise RunNotFound(f"no run {run_id!r}: `headway runs` lists them")
        require_open(run)
        if is_call:
            await self._service.bump(f"{run.id}.{number}", level)
        elif (handle := self._handles.get(run.id)) is not None:
            await self._service.save_run(handle.bumped(level))
        else:
            await self._service.save_run(replace(run, priority=level))

    async def pause(self, target: str = ALL) -> None:
        """Admit nothing of ``all``, ``class:CLASS`` or ``model:MODEL``; what is in flight ends."""
        await self._service.set_gate(target, PAUSED)

    async def drain(self, target: str = ALL) -> None:
        """Admit of it what waits already, and hold what comes later."""
        await self._service.set_gate(target, DRAINED)

    async def resume(self, target: str = ALL) -> None:
        """Admit it again; what was held kept its place."""
        await self._service.set_gate(target, OPEN)

    async def set_limits(self, quota: str, limits: Mapping[str, object]) -> None:
        """Change some of a quota's settings, by their names in the configuration.

        The others are as configured. Raises ConfigError.
        """
        await self._service.set_limits(quota, self._config.quota_with(quota, limits))

    async def reset_limits(self, quota: str) -> None:
        """Go back to the configured limits. Raises UnknownQuota."""
        await self._service.set_limits(quota, None)

    async def resume_quota(self, quota: str) -> None:
        """Let one call try of a quota that is stopped for a bad key or an empty account.

        Raises UnknownQuota.
        """
        await self._service.resume_quota(quota)

    async def set_weight(self, team: str, weight: float | None) -> None:
        """Change a team's share; None: back to the configured one. Raises CallerError."""
        await self._service.set_weight(team, weight)

    async def changes(self, *, limit: int = 1000) -> Sequence[Change]:
        """What was changed and when, newest first."""
        return await self._store.changes(limit=limit)
