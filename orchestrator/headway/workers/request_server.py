"""Takes requests of other processes to the leader. Law: each is carried out once.

Theory of operation. Requests are taken by "has no answer and is not in hand": a request with a
lower id may appear later, and is taken as well. Requests of one sender are taken in the order in
which it posted them. Batches of messages go to the scheduler at once, many in one commit. Commands
are carried out one by one, and only those that wait for the end of a run let others pass. What a
request changes and its answer are one commit: a kill before it leaves a request that waits, a kill
after it a request that is answered. If the database cannot be written, requests wait.

A request may take the leader down, and each leader that meets it again. So each leader writes down,
before anything else, that it begins with the requests that wait. One that an earlier leader began
with is carried out alone: if this leader dies as well, there is no other to blame. After three it
is answered with an error, and set aside.
"""

import logging
from collections.abc import Sequence
from contextlib import suppress

import anyio
from anyio.abc import TaskGroup

from headway_scheduler.errors import (
    HeadwayError,
    InternalError,
    SchedulerClosed,
    StoreCorrupt,
    StoreError,
)
from headway_scheduler.model.batch import Answer, Letter
from headway_scheduler.ports import READ_AT_ONCE, Mailbox, Notifier
from headway_scheduler.protocol.codec import dump, load_request, refused
from headway_scheduler.protocol.commands import Command, LongRunning
from headway_scheduler.protocol.envelopes import WORKER, Done, MessageBatch
from headway_scheduler.runtime.local import LocalScheduler
from headway_scheduler.runtime.pending import Completion, answering
from headway_scheduler.runtime.retry import LOST, RETRY_SECONDS

from .leader_commands import LeaderCommands, StillExecuted

MOST_TRIES = 3
"""How many leaders may begin with a request when they start."""

_TRIED = (
    f"{MOST_TRIES} leaders in a row ended when they began with this request: it was not carried "
    "out, and is set aside (`headway db repair --list`); please report it"
)

_log = logging.getLogger("headway")


class RequestServer:
    """Takes the requests that wait with :meth:`take_all` and :meth:`end_runs`; then :meth:`serve`
    takes all.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        notifier: Notifier,
        scheduler: LocalScheduler,
        commands: LeaderCommands,
    ) -> None:
        self._mailbox = mailbox
        self._notifier = notifier
        self._scheduler = scheduler
        self._commands = commands
        self._in_hand: set[int] = set()
        self._ending: list[Letter] = []

    async def take_all(self) -> None:
        """Take the requests that wait, before this process admits anything. Raises StoreError.

        Commands that end runs are left to :meth:`end_runs`.
        """
        while waiting := await self._read():
            # They may wait for the worker of a run, which may be dead, and is not found dead yet.
            self._ending += [each for each in waiting if isinstance(_read(each), LongRunning)]
            requests = [each for each in waiting if each not in self._ending]
            if not requests:
                continue
            fresh = [request for request in requests if not request.tries]
            # In their order: of one sender, none may pass another. Together only if all are fresh.
            parts = [requests] if len(fresh) == len(requests) else [[each] for each in requests]
            for part in parts:
                if part[0].tries >= MOST_TRIES:
                    await self._set_aside(part[0])
                else:
                    await self._begin_with(part)

    async def end_runs(self) -> None:
        """End the runs that are to be ended, once dead workers have been found. Raises StoreError.

        A leader that begins waits for no worker: those that live are told, and :meth:`serve` waits.
        """
        for request in self._ending:
            if request.tries >= MOST_TRIES:
                await self._set_aside(request)
                continue
            with suppress(StillExecuted):
                await self._begin_with([request])
            self._in_hand.discard(request.id)
        self._ending = []

    async def _begin_with(self, requests: Sequence[Letter]) -> None:
        """Take requests as the first thing that this leader does: each may be its last."""
        await self._scheduler.begin_with(*((each.id, each.tries + 1) for each in requests))
        try:
            await self._take(requests, None)
        except BaseException:
            # Closed, not done yet, or the database cannot be written: that is no fault of theirs.
            with anyio.CancelScope(shield=True), suppress(HeadwayError):
                await self._scheduler.begin_with(*((each.id, each.tries) for each in requests))
            raise

    async def _set_aside(self, request: Letter) -> None:
        _log.error("request %d of %s: %s", request.id, request.sender, _TRIED)
        workers = self._scheduler.workers
        if request.sender.startswith(WORKER):
            told = workers.deliver_unreadable(request.id, request.sender, _TRIED, is_kept=True)
            await told.wait()
        else:
            answer = Answer(request.id, dump(refused(InternalError(_TRIED))))
            await self._scheduler.answer(answer, aside=_TRIED)
        self._in_hand.discard(request.id)

    async def serve(self, group: TaskGroup) -> None:
        """Take requests as they come, until cancelled; long-running commands in ``group``.

        Raises StoreError, and StoreTakenOver once another process leads.
        """
        while True:
            requests = await self._read()
            await self._take(requests, group)
            if len(requests) < READ_AT_ONCE:
                await self._notifier.wait()

    async def _read(self) -> Sequence[Letter]:
        requests = await self._mailbox.waiting(self._in_hand, READ_AT_ONCE)
        self._in_hand |= {request.id for request in requests}
        return requests

    async def _take(self, requests: Sequence[Letter], group: TaskGroup | None) -> None:
        """Take requests in their order; only long-running commands let others pass."""
        batches: list[tuple[Letter, MessageBatch | InternalError]] = []
        for each in requests:
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
        self, request: Letter, command: Command | InternalError, group: TaskGroup | None
    ) -> None:
        if group is None:
            await self._settle(request, command, waits=False)
        elif isinstance(command, LongRunning):
            group.start_soon(self._settle_at_last, request, command)
        else:
            await self._settle_at_last(request, command)

    async def _deliver(
        self, batches: list[tuple[Letter, MessageBatch | InternalError]], is_first: bool
    ) -> None:
        """Hand batches over at once; after a failed commit, those that are not on disk again."""
        while batches:
            try:
                completions = [self._delivered(request, batch) for request, batch in batches]
                for completion in completions:
                    await completion.wait()
                    self._in_hand.discard(batches[0][0].id)
                    batches = batches[1:]
            except SchedulerClosed:
                return  # the next leader takes them
            except LOST:
                raise
            except StoreError:
                if is_first:
                    raise
                await anyio.sleep(RETRY_SECONDS)
            except Exception as error:
                _leave(batches[0][0], error)
                batches = batches[1:]

    def _delivered(self, request: Letter, batch: MessageBatch | InternalError) -> Completion:
        if isinstance(batch, MessageBatch):
            return self._scheduler.workers.deliver(request.id, batch)
        _log.error("a batch of worker %s cannot be read: %s", request.sender, batch)
        return self._scheduler.workers.deliver_unreadable(request.id, request.sender, str(batch))

    async def _settle(
        self, request: Letter, command: Command | InternalError, *, waits: bool = True
    ) -> None:
        outcome = await self._outcome(request, command, waits)
        await self._scheduler.answer(Answer(request.id, outcome))
        # Not before its answer is on disk: until then a read would find the request again.
        self._in_hand.discard(request.id)

    async def _settle_at_last(self, request: Letter, command: Command | InternalError) -> None:
        while True:
            try:
                await self._settle(request, command)
                return
            except SchedulerClosed:
                return  # the next leader takes it
            except LOST:
                raise
            except StoreError:
                await anyio.sleep(RETRY_SECONDS)
            except Exception as error:
                _leave(request, error)
                return

    async def _outcome(self, request: Letter, command: Command | InternalError, waits: bool) -> str:
        try:
            if isinstance(command, InternalError):
                raise command
            with answering(lambda change: Answer(request.id, dump(Done(change)))):
                return dump(Done(await self._commands.execute(command, waits=waits)))
        except StoreCorrupt as error:  # of what it asks for: it is so for the next leader too
            return dump(refused(error))
        except (StoreError, SchedulerClosed, StillExecuted):
            raise
        except HeadwayError as error:
            return dump(refused(error))
        except Exception as error:  # a bug: it must not end this process, nor the next leader
            return dump(refused(InternalError(f"{type(error).__name__}: {error}")))


def _leave(request: Letter, error: Exception) -> None:
    """Report a request of which nothing can be written. It stays in hand: it is not tried again."""
    bug = None if isinstance(error, HeadwayError) else error
    _log.error("request %d of %s is left: %s", request.id, request.sender, error, exc_info=bug)


def _read(request: Letter) -> MessageBatch | Command | InternalError:
    try:
        return load_request(request.event)
    except InternalError as error:
        return error
