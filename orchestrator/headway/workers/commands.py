"""Commands: what any process may ask, and of whom."""

from typing import Protocol

from headway_scheduler.errors import InternalError
from headway_scheduler.model.changes import Change
from headway_scheduler.protocol.commands import (
    Command,
    ResumeQuota,
    SetHold,
    SetLimits,
    SetWeight,
)


class Commands(Protocol):
    """Carries commands out, in this process or in the one that leads."""

    async def execute(self, command: Command) -> Change | None:
        """Do what is asked; it is on disk when this returns.

        Returns what an operator changed by it: limits, a weight, a hold, or a quota that may try
        again. Raises CallerError for what cannot be done as asked, or StoreError.
        """


async def changed(
    commands: Commands, command: SetHold | SetLimits | SetWeight | ResumeQuota
) -> Change:
    """Have limits, a weight or a hold changed, and return the change."""
    change = await commands.execute(command)
    if change is None:
        name = type(command).__name__
        raise InternalError(f"the leader, of another version, does not say what {name} changed")
    return change
