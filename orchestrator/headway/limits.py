"""Changes limits and shares while everything runs. Law: a change that is made is on disk.

Changes hold over the configuration, after a restart too, until they are taken back. In a process
that follows, the leader makes them.
"""

from collections.abc import Mapping, Sequence
from math import isfinite

from headway_scheduler.errors import CallerError
from headway_scheduler.model.changes import Change
from headway_scheduler.ports import Store
from headway_scheduler.protocol.commands import ResumeQuota, SetLimits, SetWeight

from . import arguments
from .workers.commands import Commands, changed


class Limits:
    """Limits of quotas and shares of teams. ``Headway.limits`` is one.

    Each act returns the change, as :meth:`log` lists it.
    """

    def __init__(self, commands: Commands, store: Store) -> None:
        self._commands = commands
        self._store = store

    async def set(self, quota: str, limits: Mapping[str, object]) -> Change:
        """Change some of a quota's settings, by their names in the configuration.

        The others are as configured. Raises ConfigError, or CallerError.
        """
        limits = arguments.mapping("limits", limits)
        quota = arguments.text("quota", quota)
        nested = [name for name, value in limits.items() if isinstance(value, dict | list)]
        if nested:
            raise CallerError(f"limits must be numbers or texts: {nested[0]!r:.100} is a table")
        for name, value in limits.items():
            if isinstance(value, float) and not isfinite(value):
                raise CallerError(
                    f"limits must be finite numbers or texts: {name!r:.100} is {value}"
                )
        return await changed(self._commands, SetLimits(quota, dict(limits)))

    async def reset(self, quota: str) -> Change:
        """Go back to the configured limits. Raises UnknownQuota."""
        return await changed(self._commands, SetLimits(arguments.text("quota", quota), None))

    async def resume(self, quota: str) -> Change:
        """Let one call try of a quota that is stopped for a bad key or an empty account.

        Raises UnknownQuota.
        """
        return await changed(self._commands, ResumeQuota(arguments.text("quota", quota)))

    async def weight(self, team: str, weight: float | None) -> Change:
        """Change a team's share; None: back to the configured one. Raises CallerError."""
        share = None if weight is None else arguments.amount("weight", weight)
        return await changed(self._commands, SetWeight(arguments.text("team", team), share))

    async def log(self, *, limit: int | None = None) -> Sequence[Change]:
        """Return the changes of limits, shares and the queue, newest first; at most ``limit``."""
        most = None if limit is None else arguments.count("limit", limit, least=1)
        return await self._store.changes(limit=most)
