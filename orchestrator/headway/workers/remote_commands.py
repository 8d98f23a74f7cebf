"""Has commands carried out by the leader. Law: a command is asked exactly once.

Theory of operation. A command becomes a request in the database, and this process waits for the
answer. If nobody leads meanwhile, it leads itself for as long as the requests that wait need, its
own among them, and reads its answer like any other. Killed while it waits, it has asked all the
same.
"""

from collections.abc import Awaitable, Callable
from typing import assert_never

import anyio

from headway_scheduler.cluster.posting import new_asker
from headway_scheduler.model.changes import Change
from headway_scheduler.ports import Backend, Mailbox, Vacancy
from headway_scheduler.protocol.codec import dump, error_of, load_answer
from headway_scheduler.protocol.commands import Command
from headway_scheduler.protocol.envelopes import Done, Refused

from .leader import raise_store_error

SHORTEST_SECONDS = 0.002
LONGEST_SECONDS = 0.05
"""How often the answer is read: first after 0.002 s, then less and less often."""


class RemoteCommands:
    """Asks the leader. ``stand_in`` leads for a moment, or does nothing if another process does."""

    def __init__(self, backend: Backend, stand_in: Callable[[Vacancy], Awaitable[None]]) -> None:
        self._backend = backend
        self._stand_in = stand_in
        self._leadership = backend.leadership()
        self._sender = new_asker()

    async def execute(self, command: Command) -> Change | None:
        """Ask the leader, and return what an operator changed by it. Raises what the leader raises.

        CallerError for a value that JSON does not have.
        """
        request = dump(command)
        try:
            answer = load_answer(await self._answer_to(request))
        except BaseExceptionGroup as group:
            raise_store_error(group)
            raise
        match answer:
            case Done():
                return answer.change
            case Refused():
                raise error_of(answer)
            case _:
                assert_never(answer)

    async def _answer_to(self, request: str) -> str:
        mailbox = self._backend.mailbox()
        answered = anyio.Event()
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._lead_if_nobody_does, answered, name="headway stand-in")
                request_id = await mailbox.post(self._sender, request)
                answer = await self._answer(mailbox, request_id)
                # A stand-in that has just given this answer leads on to its end: it has not given
                # back the runs of dead workers yet.
                answered.set()
        finally:
            await mailbox.close()
        return answer

    async def _lead_if_nobody_does(self, answered: anyio.Event) -> None:
        """Stand in beside the post and the wait: both may need a leader that makes the database."""
        while True:
            with anyio.move_on_after(LONGEST_SECONDS):
                await answered.wait()
                return
            if (vacancy := self._leadership.look()) is not None:
                await self._stand_in(vacancy)

    async def _answer(self, mailbox: Mailbox, request_id: int) -> str:
        pause = SHORTEST_SECONDS
        while (answer := await mailbox.answer(request_id)) is None:
            await anyio.sleep(pause)
            pause = min(2 * pause, LONGEST_SECONDS)
        return answer
