"""Changes what the queue does while everything runs. Law: a change that is made is on disk.

Changes hold over the configuration, after a restart too, until they are taken back. In a process
that follows, the leader makes them.
"""

from headway_scheduler.model.calls import Priority
from headway_scheduler.model.changes import ALL, Change, HoldState
from headway_scheduler.ports import Store
from headway_scheduler.protocol.commands import SetHold, SetPriority

from . import arguments
from .config import Config
from .runs.stopped import find_run
from .workers.commands import Commands, changed


class Queue:
    """Classes of runs and calls, and what is held back. ``Headway.queue`` is one.

    Each act on what is held returns the change, as ``Headway.limits.log`` lists it.
    """

    def __init__(self, commands: Commands, store: Store, config: Config) -> None:
        self._commands = commands
        self._store = store
        self._config = config

    async def bump(self, id: str, priority: Priority | str) -> Priority:
        """Change the class of a run with its waiting calls, or of one waiting call.

        Return the class that it has then: less urgent than ``priority`` if its team may not ask
        for that. Raises RunNotFound, RunNotResumable for a run that has ended, CallerError for a
        call that does not wait.
        """
        target = arguments.text("id", id)
        asked = arguments.priority(priority)
        await self._commands.execute(SetPriority(target, asked))
        run = await find_run(self._store, target.partition(".")[0])
        return max(asked, self._config.highest(run.share))

    async def pause(self, target: str = ALL) -> Change:
        """Admit nothing of ``all``, ``class:CLASS`` or ``model:MODEL``; what is in flight ends."""
        return await changed(
            self._commands, SetHold(arguments.text("target", target), HoldState.PAUSED)
        )

    async def drain(self, target: str = ALL) -> Change:
        """Admit of it what waits already, and hold what comes later."""
        return await changed(
            self._commands, SetHold(arguments.text("target", target), HoldState.DRAINED)
        )

    async def resume(self, target: str = ALL) -> Change:
        """Admit it again; what was held kept its place."""
        return await changed(
            self._commands, SetHold(arguments.text("target", target), HoldState.OPEN)
        )
