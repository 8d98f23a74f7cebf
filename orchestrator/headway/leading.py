"""Letters of other processes, taken up by the one that admits. Law: each is carried out once.

Theory of operation. Letters are taken in the order in which they came, one at a time; only what
waits for the end of a run lets others pass, and whoever asked for it asks nothing else meanwhile.
What a letter changes and its answer are one commit. Cancelling or pausing a run that is being
executed is two, the run's end and the answer; between them a kill leaves a letter whose run has
ended, and ending it again changes nothing. If the database cannot be written, the letter waits.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from headway_scheduler.errors import (
    HeadwayError,
    InternalError,
    SchedulerClosed,
    StoreError,
    StoreTakenOver,
)
from headway_scheduler.inbox import answering
from headway_scheduler.model import Answer, Letter
from headway_scheduler.service import Service
from headway_scheduler.store.letters import Inbox
from headway_scheduler.store.lookout import Lookout
from headway_scheduler.store.sqlite import SqliteStore

from .letters import DONE, LASTING, carry_out, refusal, verb_of
from .steering import Steering

RETRY_SECONDS = 1.0
"""How long a letter waits that could not be answered, because the database cannot be written."""


@asynccontextmanager
async def attending(
    store: SqliteStore, service: Service, steering: Steering
) -> AsyncIterator[None]:
    """Carry out the letters that wait, and while the block runs all that come.

    Raises StoreTakenOver, in a group, once another process leads.
    """
    inbox = await to_thread.run_sync(Inbox, store.path, store.epoch)
    try:
        desk = _Desk(inbox, service, steering)
        async with anyio.create_task_group() as group:
            await desk.take_all()
            group.start_soon(desk.take, group, name="headway letters")
            yield
            group.cancel_scope.cancel()
    finally:
        inbox.close()


class _Desk:
    def __init__(self, inbox: Inbox, service: Service, steering: Steering) -> None:
        self._inbox = inbox
        self._service = service
        self._steering = steering
        self._come = anyio.Event()
        self._loop = asyncio.get_running_loop()
        self._lookout = Lookout(inbox, self._tell)

    async def take(self, group: TaskGroup) -> None:
        """Take letters as they come, until cancelled."""
        self._lookout.start()
        try:
            while True:
                await self._come.wait()
                self._come = anyio.Event()
                await self.take_all(group)
        finally:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(self._lookout.stop)

    def _tell(self) -> None:
        self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._come.set()

    async def take_all(self, group: TaskGroup | None = None) -> None:
        """Take the letters that wait; in ``group`` those that may wait for the end of a run.

        Without a group, before anything is executed here, raises StoreError instead of waiting.
        """
        while letters := await to_thread.run_sync(self._inbox.waiting, self._lookout.after):
            for letter in letters:
                self._lookout.after = letter.id
                if group is None:
                    await self._settle(letter)
                elif verb_of(letter.event) in LASTING:
                    group.start_soon(self._settle_at_last, letter)
                else:
                    await self._settle_at_last(letter)

    async def _settle(self, letter: Letter) -> None:
        await self._service.answer(Answer(letter.id, await self._outcome(letter)))

    async def _settle_at_last(self, letter: Letter) -> None:
        while True:
            try:
                await self._settle(letter)
                return
            except SchedulerClosed:
                return  # whoever admits next takes it
            except StoreTakenOver:
                raise
            except StoreError:
                await anyio.sleep(RETRY_SECONDS)

    async def _outcome(self, letter: Letter) -> str:
        try:
            with answering(Answer(letter.id, DONE)):
                await carry_out(letter.event, self._steering)
        except (StoreError, SchedulerClosed):
            raise
        except HeadwayError as error:
            return refusal(error)
        except Exception as error:  # a bug; it must not take this process with it, nor the next
            return refusal(InternalError(f"{type(error).__name__}: {error}"))
        return DONE
