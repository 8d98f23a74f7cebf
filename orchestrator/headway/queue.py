"""What may be changed of the queue while everything runs. Law: what is said to hold is on disk.

Changes hold over the configuration, after a restart too, until they are taken back. In a process
that follows, the one that leads makes them.
"""

from collections.abc import Mapping, Sequence

from headway_scheduler.model.calls import Priority
from headway_scheduler.model.changes import ALL, DRAINED, OPEN, PAUSED, Change
from headway_scheduler.ports import Store

from .config import parse_priority
from .workers.leader_commands import Steering


class Operations:
    """Priorities, gates, limits and weights. ``Headway.queue`` is one."""

    def __init__(self, steering: Steering, store: Store) -> None:
        self._steering = steering
        self._store = store

    async def bump(self, id: str, priority: Priority | str) -> None:
        """Change the class of a run with its waiting calls, or of one waiting call.

        Raises RunNotFound, RunNotResumable for a run that has ended, IllegalTransition for a call
        that does not wait.
        """
        level = parse_priority(priority) if isinstance(priority, str) else priority
        await self._steering.bump(id, level)

    async def pause(self, target: str = ALL) -> None:
        """Admit nothing of ``all``, ``class:CLASS`` or ``model:MODEL``; what is in flight ends."""
        await self._steering.set_gate(target, PAUSED)

    async def drain(self, target: str = ALL) -> None:
        """Admit of it what waits already, and hold what comes later."""
        await self._steering.set_gate(target, DRAINED)

    async def resume(self, target: str = ALL) -> None:
        """Admit it again; what was held kept its place."""
        await self._steering.set_gate(target, OPEN)

    async def set_limits(self, quota: str, limits: Mapping[str, object]) -> None:
        """Change some of a quota's settings, by their names in the configuration.

        The others are as configured. Raises ConfigError.
        """
        await self._steering.set_limits(quota, limits)

    async def reset_limits(self, quota: str) -> None:
        """Go back to the configured limits. Raises UnknownQuota."""
        await self._steering.set_limits(quota, None)

    async def resume_quota(self, quota: str) -> None:
        """Let one call try of a quota that is stopped for a bad key or an empty account.

        Raises UnknownQuota.
        """
        await self._steering.resume_quota(quota)

    async def set_weight(self, team: str, weight: float | None) -> None:
        """Change a team's share; None: back to the configured one. Raises CallerError."""
        await self._steering.set_weight(team, weight)

    async def changes(self, *, limit: int = 1000) -> Sequence[Change]:
        """What was changed and when, newest first."""
        return await self._store.changes(limit=limit)
