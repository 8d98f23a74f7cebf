"""Changes what the queue does while everything runs. Law: a change that is made is on disk.

Changes hold over the configuration, after a restart too, until they are taken back. In a process
that follows, the leader makes them.
"""

from headway_scheduler.errors import CallerError
from headway_scheduler.model.calls import Priority
from headway_scheduler.model.changes import ALL, HOLD, Change, HoldState, hold_of
from headway_scheduler.model.states import LIVE_CALLS
from headway_scheduler.ports import Store
from headway_scheduler.protocol.commands import SetHold, SetPriority

from . import arguments
from .config import Config
from .runs.stopped import find_run
from .spelling import did_you_mean
from .workers.commands import Commands, changed

PRIORITIES = tuple(priority.label for priority in Priority)


class Queue:
    """Classes of runs and calls, and what is held back. ``Headway.queue`` is one.

    Each act on what is held returns the change, as ``Headway.limits.log`` lists it, and raises
    CallerError for a target that names nothing.
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
        return await self._held(target, HoldState.PAUSED)

    async def drain(self, target: str = ALL) -> Change:
        """Admit of it what waits already, and hold what comes later."""
        return await self._held(target, HoldState.DRAINED)

    async def resume(self, target: str = ALL) -> Change:
        """Admit it again; what was held kept its place."""
        return await self._held(target, HoldState.OPEN)

    async def _held(self, target: str, state: HoldState) -> Change:
        """Raises CallerError for a model that is not configured, has no live call and no hold."""
        kind, _, name = arguments.text("target", target).partition(":")
        if kind == "model" and self._config.models and name not in self._config.models:
            known = set(self._config.models)
            known |= {each.call.model for each in await self._store.calls(states=LIVE_CALLS)}
            known |= {
                each.target.removeprefix("model:")
                for each in await self._store.changes()
                if each.action == HOLD and hold_of(each)[0] is not HoldState.OPEN
            }
            if name and name not in known:
                advice = did_you_mean(name, known) or f"known are {', '.join(sorted(known))}"
                raise CallerError(f"there is no model {name!r}: {advice}")
        elif kind == "class" and name not in PRIORITIES:
            advice = did_you_mean(name, PRIORITIES) or f"there are {', '.join(PRIORITIES)}"
            raise CallerError(f"there is no class {name!r}: {advice}")
        return await changed(self._commands, SetHold(target, state))
