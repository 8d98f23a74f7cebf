"""The scheduler of another process, as callers here see it. Law: grants come from disk alone.

Theory of operation. What callers tell goes to the leader by requests, and what it grants comes back
by notifications (``posting``). Others take this worker for dead when it shows no life for long:
nothing that it tells is taken any more then, and everyone who waits here gets StoreTakenOver. It
looks for that before it sends what it was granted (``contact``).
"""

import time
from collections.abc import Iterable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import anyio

from ..core.views import ProviderHealth
from ..errors import StoreReplaced, StoreTakenOver, own_copy
from ..model.calls import CallRecord
from ..model.quotas import Observation
from ..ports import CONTACT_SECONDS, Backend, Clock, Presence
from ..protocol.messages import MarkSent, Message, Observe
from ..runtime.client import Iterates, PumpedClient
from ..runtime.pending import Callers, Pending
from ..runtime.retry import keep_serving
from .contact import Contact
from .posting import FollowerCallbacks, Posting

REPEAT_SECONDS = 5.0
"""How often the leader is told again which run waits for which: it keeps that in memory alone."""


class RemoteScheduler(PumpedClient):
    """Schedules the calls of this process through the leader. Use as an async context manager.

    ``worker`` is the id of this life of the process, ``presence`` that of the worker, to be entered
    before.
    """

    def __init__(
        self,
        backend: Backend,
        worker: str,
        clock: Clock,
        callbacks: FollowerCallbacks,
        presence: Presence,
        callers: Callers | None = None,
    ) -> None:
        super().__init__(clock, callers)
        self.worker = worker
        self._presence = presence
        self._mailbox = backend.mailbox()
        self._notifier = backend.notifier(worker)
        eviction = StoreTakenOver(
            f"{backend.name}: this process showed no life, and others took its runs: nothing more "
            "was written; they go on there, or with `headway resume`"
        )
        self._posting = Posting(self._mailbox, worker, clock, self._callers, callbacks, eviction)
        self._contact = Contact(
            presence,
            lambda: self._posting.joined_at if callbacks.joins() is None else None,
            self._posting.is_joining,
        )
        self._read = 0
        self._watching = anyio.CancelScope()
        self._resources = AsyncExitStack()

    async def sent(self, call_id: str) -> None:
        """Note that the request leaves now. Raises StoreTakenOver; it must not leave then."""
        if time.monotonic() - self._presence.contact_at > CONTACT_SECONDS:
            try:
                await self._contact.renew()
            except StoreTakenOver:
                self._posting.lose()
        if self._posting.lost is not None:
            raise own_copy(self._posting.lost)
        self._note(MarkSent(call_id, self.now()))

    def observed(self, call_id: str, quota: str, signals: Observation) -> None:
        """Take in what the head of an answer told of a quota. Goes with the next request."""
        self._note(Observe(call_id, {quota: signals}))
        if quota in self._posting.health.unanswered:
            self._callers.wake()

    def provider_health(self) -> ProviderHealth:
        """Which quotas' providers did not answer as they should when the leader last wrote."""
        return self._posting.health

    def adopt(self, records: Iterable[CallRecord]) -> None:
        """Take over callers of a process that led, before this is entered; or calls of a batch.

        ``records`` are live calls, as they are on disk.
        """
        self._posting.adopt(records)

    def _note(self, message: Message) -> None:
        """Tell something with the next request; nobody is woken for it."""
        if not self._callers.is_closed:
            self._callers.pending.append(Pending((message,)))

    # Its life

    async def __aenter__(self) -> Self:
        """Listen to the leader. Raises StoreError."""
        await super().__aenter__()
        self._tasks.start_soon(self._watch, name="headway contact")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        self._watching.cancel()
        try:
            return await super().__aexit__(kind, error, trace)
        finally:
            with anyio.CancelScope(shield=True):
                await self._resources.aclose()

    async def _begin(self) -> Iterates:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._mailbox.close)
            await self._mailbox.connect()
            await stack.enter_async_context(self._notifier)
            self._resources = stack.pop_all()
        return self._posting

    async def _watch(self) -> None:
        with self._watching:
            async with anyio.create_task_group() as group:
                group.start_soon(keep_serving, self._listen, name="headway notifications")
                group.start_soon(keep_serving, self._repeat_waits, name="headway waits")
                try:
                    await self._contact.watch()
                except StoreTakenOver:
                    self._posting.lose()

    async def _repeat_waits(self) -> None:
        while True:
            await anyio.sleep(REPEAT_SECONDS)
            if not self._callers.is_closed:
                self._callers.repeat_waits()

    async def _listen(self) -> None:
        """Read what the leader tells, as it comes. Raises StoreError."""
        while True:
            try:
                notifications = await self._mailbox.notifications(self.worker, self._read)
            except StoreReplaced as error:
                self._posting.lose(error)
                return
            if notifications:
                self._read = notifications[-1][0]
                self._posting.arrived(notifications)
            await self._notifier.wait()

    def _answer_all(self, error: Exception) -> None:
        self._posting.complete_all(error)
