"""Takes requests of other processes to the leader. Law: each is carried out once.

Theory of operation. Requests are taken by "has no answer and is not in hand", so that one whose id
is lower and that appears later is taken as well. Those of one sender are taken in the order in
which it posted them. What workers tell of their calls (batches) goes to the scheduler at once, many
in one commit; a command is carried out by itself, and only what waits for the end of a run lets
others pass. What a request changes and its answer are one commit: a kill before it leaves a request
that waits, a kill after it one that is answered. If the database cannot be written, requests wait.
"""

import logging
from collections.abc import Sequence

import anyio
from anyio.abc import TaskGroup

from headway_scheduler.errors import (
    HeadwayError,
    InternalError,
    SchedulerClosed,
    StoreError,
    StoreTakenOver,
)
from headway_scheduler.model.batch import Answer, Letter
from headway_scheduler.ports import LETTERS, Mailbox, Notifier
from headway_scheduler.protocol.codec import dump, load_request, refused
from headway_scheduler.protocol.commands import Command, LongRunning
from headway_scheduler.protocol.envelopes import WORKER, Done, MessageBatch
from headway_scheduler.runtime.local import LocalScheduler
from headway_scheduler.runtime.pending import Completion, answering

from .leader_commands import LeaderCommands

RETRY_SECONDS = 1.0
"""How long a request waits that could not be answered, because the database cannot be written."""

_log = logging.getLogger("headway")


class RequestServer:
    """Takes requests. Until :meth:`serve` it does so only when it is asked to."""

    def __init__(
        self,
        mailbox: Mailbox,
        notifier: Notifier,
        service: LocalScheduler,
        commands: LeaderCommands,
    ) -> None:
        self._mailbox = mailbox
        self._notifier = notifier
        self._service = service
        self._commands = commands
        self._in_hand: set[int] = set()

    async def take_all(self) -> None:
        """Take the requests that wait, before anything is executed here. Raises StoreError."""
        while letters := await self._read():
            await self._take(letters, None)

    async def serve(self, group: TaskGroup) -> None:
        """Take requests as they come, until cancelled; in ``group`` those that may take long.

        Raises StoreTakenOver once they are another leader's.
        """
        while True:
            try:
                letters = await self._read()
            except StoreTakenOver:
                raise
            except StoreError:
                await anyio.sleep(RETRY_SECONDS)  # the hint is used up: look without one
                continue
            await self._take(letters, group)
            if len(letters) < LETTERS:
                await self._notifier.wait()

    async def _read(self) -> Sequence[Letter]:
        letters = await self._mailbox.waiting(self._in_hand, LETTERS)
        self._in_hand |= {letter.id for letter in letters}
        return letters

    async def _take(self, letters: Sequence[Letter], group: TaskGroup | None) -> None:
        """Take requests in their order; only what waits for the end of a run lets others pass."""
        batches: list[tuple[Letter, MessageBatch | InternalError]] = []
        for each in letters:
            match request := _read(each):
                case MessageBatch():
                    batches.append((each, request))
                case InternalError() if each.sender.startswith(WORKER):
                    batches.append((each, request))
                case _:
                    await self._deliver(batches, group is None)
                    batches = []
                    await self._answer(each, request, group)
        await self._deliver(batches, group is None)

    async def _answer(
        self, letter: Letter, command: Command | InternalError, group: TaskGroup | None
    ) -> None:
        if group is None:
            await self._settle(letter, command)
        elif isinstance(command, LongRunning):
            group.start_soon(self._settle_at_last, letter, command)
        else:
            await self._settle_at_last(letter, command)

    async def _deliver(
        self, batches: list[tuple[Letter, MessageBatch | InternalError]], is_first: bool
    ) -> None:
        """Hand batches over, all at once; if they cannot be written, again from the first one."""
        while batches:
            try:
                completions = [self._delivered(letter, batch) for letter, batch in batches]
                for completion in completions:
                    await completion.wait()
                    self._in_hand.discard(batches[0][0].id)
                    batches = batches[1:]
            except SchedulerClosed:
                return  # whoever admits next takes them
            except StoreTakenOver:
                raise
            except StoreError:
                if is_first:
                    raise
                await anyio.sleep(RETRY_SECONDS)

    def _delivered(self, letter: Letter, batch: MessageBatch | InternalError) -> Completion:
        if isinstance(batch, MessageBatch):
            return self._service.workers.deliver(letter.id, batch)
        _log.error("a batch of worker %s cannot be read: %s", letter.sender, batch)
        return self._service.workers.deliver_unreadable(letter.id, letter.sender, str(batch))

    async def _settle(self, letter: Letter, command: Command | InternalError) -> None:
        await self._service.answer(Answer(letter.id, await self._outcome(letter, command)))
        # Not before: until the answer stands, the request is waiting for whoever reads.
        self._in_hand.discard(letter.id)

    async def _settle_at_last(self, letter: Letter, command: Command | InternalError) -> None:
        while True:
            try:
                await self._settle(letter, command)
                return
            except SchedulerClosed:
                return  # whoever admits next takes it
            except StoreTakenOver:
                raise
            except StoreError:
                await anyio.sleep(RETRY_SECONDS)

    async def _outcome(self, letter: Letter, command: Command | InternalError) -> str:
        try:
            if isinstance(command, InternalError):
                raise command
            with answering(lambda change: Answer(letter.id, dump(Done(change)))):
                return dump(Done(await self._commands.execute(command)))
        except (StoreError, SchedulerClosed):
            raise
        except HeadwayError as error:
            return dump(refused(error))
        except Exception as error:  # a bug; it must not take this process with it, nor the next
            return dump(refused(InternalError(f"{type(error).__name__}: {error}")))


def _read(letter: Letter) -> MessageBatch | Command | InternalError:
    try:
        return load_request(letter.event)
    except InternalError as error:
        return error
