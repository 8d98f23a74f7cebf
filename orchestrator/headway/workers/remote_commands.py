"""The verbs, in a process that does not admit: asked of the one that does. Law: asked exactly once.

Theory of operation. A verb becomes a letter in the database, and its answer is waited for. If
whoever admits goes away meanwhile, the system frees the lock, and this process gets it, leads for
as long as the letters that wait need, its own among them, and finds its answer like any other. A
process that is killed while it waits has asked all the same.
"""

import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
from anyio import to_thread

from headway_scheduler.backends.sqlite.leadership import Stamp
from headway_scheduler.backends.sqlite.mailbox import Inbox
from headway_scheduler.cluster.remote import posted
from headway_scheduler.errors import InternalError
from headway_scheduler.model.calls import Priority
from headway_scheduler.model.changes import Change
from headway_scheduler.model.runs import Run, Worker

from .letters import letter, outcome_of

SHORTEST_SECONDS = 0.002
LONGEST_SECONDS = 0.05
"""How often the answer is looked for: less and less often."""


class Vacancy:
    """That nobody leads, told from outside of any task."""

    def __init__(self) -> None:
        self._told = anyio.Event()
        self._frozen: Stamp | None = None

    def tell(self, frozen: Stamp | None) -> None:
        """Nobody leads; or only one whose lock file stays in this state."""
        self._frozen = frozen
        self._told.set()

    async def come(self) -> Stamp | None:
        """Wait until that is told, and return what :meth:`tell` was given."""
        await self._told.wait()
        self._told = anyio.Event()
        return self._frozen


class RemoteCommands:
    """Asks the leader. ``stand_in`` leads for a moment, or does nothing if somebody leads."""

    def __init__(self, database: Path, stand_in: Callable[[], Awaitable[None]]) -> None:
        self._database = database
        self._stand_in = stand_in

    async def submit(self, run: Run) -> None:
        """Queue a run; if one has its key already, nothing happens."""
        await self._ask("submit", run=run)

    async def cancel(self, run_id: str) -> None:
        """End a run for good. Raises RunNotFound or RunNotResumable."""
        await self._ask("cancel", run_id=run_id)

    async def pause(self, run_id: str) -> None:
        """Stop a run at its next call. Raises RunNotFound or RunNotResumable."""
        await self._ask("pause", run_id=run_id)

    async def bump(self, target: str, priority: Priority) -> None:
        """Change a class. Raises RunNotFound, RunNotResumable or IllegalTransition."""
        await self._ask("bump", target=target, priority=priority)

    async def set_gate(self, target: str, state: str) -> Change:
        """Open, pause or drain. Raises CallerError."""
        return await self._change("set_gate", target=target, state=state)

    async def set_limits(self, quota: str, limits: Mapping[str, object] | None) -> Change:
        """Change limits over the configuration of the leader. Raises ConfigError."""
        return await self._change("set_limits", quota=quota, limits=limits)

    async def set_weight(self, team: str, weight: float | None) -> Change:
        """Change a share. Raises CallerError."""
        return await self._change("set_weight", team=team, weight=weight)

    async def resume_quota(self, quota: str) -> Change:
        """Let one call try. Raises UnknownQuota."""
        return await self._change("resume_quota", quota=quota)

    async def enlist(self, worker: Worker) -> None:
        """Execute runs in this process, so many of them."""
        await self._ask("enlist", worker=worker)

    async def claim(self, run: Run, worker: str) -> None:
        """Have a run for this process. Raises RunNotResumable."""
        await self._ask("claim", run=run, worker=worker)

    async def retire(self, worker: str) -> None:
        """Execute runs no more."""
        await self._ask("retire", worker=worker)

    async def _change(self, verb: str, **values: Any) -> Change:
        change = await self._ask(verb, **values)
        if change is None:
            raise InternalError(f"the leader, of another version, does not say what {verb} changed")
        return change

    async def _ask(self, verb: str, **values: Any) -> Change | None:
        event = letter(verb, **values)
        inbox = await to_thread.run_sync(Inbox, self._database)
        try:
            letter_id = await posted(inbox, str(os.getpid()), event, meanwhile=self._stand_in)
            answer = await self._answer(inbox, letter_id)
        finally:
            inbox.close()
        return outcome_of(answer)

    async def _answer(self, inbox: Inbox, letter_id: int) -> str:
        pause = SHORTEST_SECONDS
        while (answer := inbox.answer(letter_id)) is None:
            await anyio.sleep(pause)
            pause = min(2 * pause, LONGEST_SECONDS)
            if pause == LONGEST_SECONDS:
                await self._stand_in()
        return answer
