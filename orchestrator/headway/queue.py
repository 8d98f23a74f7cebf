"""What may be changed of the queue while everything runs. Law: what is said to hold is on disk.

Changes hold over the configuration, after a restart too, until they are taken back. In a process
that follows, the one that leads makes them.
"""

from collections.abc import Mapping, Sequence

from headway_scheduler.model.calls import Priority
from headway_scheduler.model.changes import ALL, DRAINED, OPEN, PAUSED, Change
from headway_scheduler.ports import Store

from .config import parse_priority
from .workers.leader_commands import Commands


class Operations:
    """Priorities, gates, limits and weights. ``Headway.queue`` is one.

    What changes a gate, a limit or a weight returns the change, as :meth:`changes` lists it.
    """

    def __init__(self, commands: Commands, store: Store) -> None:
        self._commands = commands
        self._store = store

    async def bump(self, id: str, priority: Priority | str) -> None:
        """Change the class of a run with its waiting calls, or of one waiting call.

        Raises RunNotFound, RunNotResumable for a run that has ended, IllegalTransition for a call
        that does not wait.
        """
        level = parse_priority(priority) if isinstance(priority, str) else priority
        await self._commands.bump(id, level)

    async def pause(self, target: str = ALL) -> Change:
        """Admit nothing of ``all``, ``class:CLASS`` or ``model:MODEL``; what is in flight ends."""
        return await self._commands.set_gate(target, PAUSED)

    async def drain(self, target: str = ALL) -> Change:
        """Admit of it what waits already, and hold what comes later."""
        return await self._commands.set_gate(target, DRAINED)

    async def resume(self, target: str = ALL) -> Change:
        """Admit it again; what was held kept its place."""
        return await self._commands.set_gate(target, OPEN)

    async def set_limits(self, quota: str, limits: Mapping[str, object]) -> Change:
        """Change some of a quota's settings, by their names in the configuration.

        The others are as configured. Raises ConfigError.
        """
        return await self._commands.set_limits(quota, limits)

    async def reset_limits(self, quota: str) -> Change:
        """Go back to the configured limits. Raises UnknownQuota."""
        return await self._commands.set_limits(quota, None)

    async def resume_quota(self, quota: str) -> Change:
        """Let one call try of a quota that is stopped for a bad key or an empty account.

        Raises UnknownQuota.
        """
        return await self._commands.resume_quota(quota)

    async def set_weight(self, team: str, weight: float | None) -> Change:
        """Change a team's share; None: back to the configured one. Raises CallerError."""
        return await self._commands.set_weight(team, weight)

    async def changes(self, *, limit: int | None = None) -> Sequence[Change]:
        """What was changed and when, newest first; at most ``limit``, if given."""
        return await self._store.changes(limit=limit)
