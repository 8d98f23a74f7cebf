"""Commands, in a process that follows: asked of the leader. Law: asked exactly once.

Theory of operation. A command becomes a request in the database, and its answer is waited for. If
whoever admits goes away meanwhile, the system frees the lock, and this process gets it, leads for
as long as the letters that wait need, its own among them, and finds its answer like any other. A
process that is killed while it waits has asked all the same.
"""

import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import assert_never

import anyio
from anyio import to_thread

from headway_scheduler.backends.sqlite.leadership import Stamp
from headway_scheduler.backends.sqlite.mailbox import Inbox
from headway_scheduler.cluster.remote import posted
from headway_scheduler.model.changes import Change
from headway_scheduler.protocol.codec import dump, error_of, load_answer
from headway_scheduler.protocol.commands import Command
from headway_scheduler.protocol.envelopes import ASKER, Done, Refused

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
        self._sender = f"{ASKER}{secrets.token_hex(6)}"
        self._stand_in = stand_in

    async def execute(self, command: Command) -> Change | None:
        """Ask the leader, and return what an operator changed by it. Raises what the leader does.

        CallerError for a value that JSON does not have.
        """
        request = dump(command)
        inbox = await to_thread.run_sync(Inbox, self._database)
        try:
            request_id = await posted(inbox, self._sender, request, meanwhile=self._stand_in)
            answer = load_answer(await self._answer(inbox, request_id))
        finally:
            inbox.close()
        match answer:
            case Done():
                return answer.change
            case Refused():
                raise error_of(answer)
            case _:
                assert_never(answer)

    async def _answer(self, inbox: Inbox, letter_id: int) -> str:
        pause = SHORTEST_SECONDS
        while (answer := inbox.answer(letter_id)) is None:
            await anyio.sleep(pause)
            pause = min(2 * pause, LONGEST_SECONDS)
            if pause == LONGEST_SECONDS:
                await self._stand_in()
        return answer
