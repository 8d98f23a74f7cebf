"""The scheduler of another process, as callers here see it. Law: grants come from disk alone.

Theory of operation. What callers tell gathers while the pump iterates, and is posted to the leader
as one request. That post makes the end of a call durable: whoever leads takes requests in order,
and those of a dead worker before its calls are given up. For everything else the leader's commit is
waited for, which notifies this worker and rings for it.

Others take this worker for dead when it shows no life for long. Nothing that it tells is taken any
more then, and everyone who waits here gets StoreTakenOver. It looks for that before it sends what
it was granted (``contact``).
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import anyio

from ..core.views import ProviderHealth
from ..errors import StoreError, StoreTakenOver, own_copy
from ..model.batch import Batch
from ..model.calls import Outcome
from ..model.quotas import Observation
from ..model.runs import Worker
from ..model.states import CallState
from ..ports import Backend, Clock
from ..protocol.codec import load_notification
from ..protocol.commands import Order
from ..protocol.envelopes import Grant, MessageBatch, Notification
from ..protocol.messages import MarkSent, Message, Observe
from ..protocol.mirror import Mirror
from ..runtime.client import Iterates, SchedulerClient
from ..runtime.pending import Pending, finals
from .contact import CONTACT_SECONDS, Contact
from .posting import Outstanding, is_end, readable, unreadable

RETRY_SECONDS = 1.0
"""How long after a request that could not be written the next one is tried if nobody asks."""


@dataclass(frozen=True, slots=True)
class FollowerCallbacks:
    """What a remote scheduler needs of its process.

    ``joins`` says who asks if the leader does not know it yet, ``on_join`` is called once it does;
    ``on_change`` is called with what becomes of this process's calls, ``on_order`` with what is to
    become of its runs.
    """

    joins: Callable[[], Worker | None]
    on_join: Callable[[], None]
    on_change: Callable[[Batch], None]
    on_order: Callable[[Order], None]


class RemoteScheduler(SchedulerClient):
    """Schedules the calls of this process through the one that leads. An async context manager.

    ``worker`` is the id of this life of the process.
    """

    def __init__(
        self, backend: Backend, worker: str, clock: Clock, callbacks: FollowerCallbacks
    ) -> None:
        super().__init__(clock)
        self.worker = worker
        self._name = backend.name
        self._callbacks = callbacks
        self._presence = backend.workers().present(worker)
        self._mailbox = backend.mailbox()
        self._notifier = backend.notifier(worker)
        self._contact = Contact(self._presence, lambda: callbacks.joins() is None)
        self._mirror = Mirror()
        self._outstanding = Outstanding()
        self._notices: list[tuple[int, str]] = []
        self._read = self._seen = 0
        self._is_new = True
        self._health = ProviderHealth((), (), ())
        self._retry_at: float | None = None
        self._lost: StoreTakenOver | None = None
        self._watching = anyio.CancelScope()
        self._resources = AsyncExitStack()

    async def sent(self, call_id: str) -> None:
        """Note that the request leaves now. Raises StoreTakenOver; it must not leave then."""
        if time.monotonic() - self._presence.contact_at > CONTACT_SECONDS:
            try:
                await self._contact.renew()
            except StoreTakenOver:
                self._lose()
        if self._lost is not None:
            raise own_copy(self._lost)
        self._note(MarkSent(call_id, self._clock()))

    def observed(self, call_id: str, quota: str, signals: Observation) -> None:
        """Take in what the head of an answer told of a quota. Goes with the next request."""
        self._note(Observe(call_id, {quota: signals}))
        if quota in self._health.unanswered:
            self._callers.wake()

    def provider_health(self) -> ProviderHealth:
        """Which quotas' providers did not answer as they should when the leader last wrote."""
        return self._health

    async def __aenter__(self) -> Self:
        """Be there as a worker, and listen. Raises StoreError."""
        await super().__aenter__()
        self._tasks.start_soon(self._watch, name="headway notifications")
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

    # The pump

    async def _begin(self) -> Iterates:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._presence)
            stack.push_async_callback(self._mailbox.close)
            await stack.enter_async_context(self._notifier)
            self._resources = stack.pop_all()
        return self

    def next_at(self) -> float | None:
        """When to post again what could not be posted; None for never."""
        return self._retry_at

    async def iterate(self) -> None:
        """Heed what has come, and hand over what has gathered."""
        self._retry_at = None
        notices, self._notices = self._notices, []
        for notice_id, text in notices:
            self._heed(load_notification(text))
            self._seen = notice_id
        if self._lost is not None:
            raise own_copy(self._lost)
        pendings, self._callers.pending = self._callers.pending, []
        if pendings:
            await self._hand_over(pendings)
        if (changed := self._mirror.take_batch()) is not None:
            self._callbacks.on_change(changed)

    async def _hand_over(self, pendings: list[Pending]) -> None:
        pendings, batch, text = readable(pendings, self._batch)
        is_durable = any(map(is_end, batch.messages))
        try:
            request_id = await self._mailbox.post(self.worker, text, durable=is_durable)
        except StoreError as error:
            self._fail(pendings, error)
            return
        if batch.joins is not None:
            self._callbacks.on_join()
        self._mirror.told(batch.messages, self._clock())
        # No await since the post: what comes of it can only be heeded after this.
        self._outstanding.add(request_id, pendings)

    def _batch(self, pendings: Sequence[Pending]) -> MessageBatch:
        messages = tuple(message for pending in pendings for message in pending.messages)
        joins = self._callbacks.joins() if self._is_new else None
        self._is_new = joins is not None
        return MessageBatch(self.worker, messages, self._seen, joins)

    def _fail(self, pendings: list[Pending], error: StoreError) -> None:
        """Say that nothing was handed over, and keep what must still be."""
        for pending in pendings:
            pending.complete(error)
        kept = [Pending((message,)) for message in finals(pendings)]
        self._callers.pending = kept + self._callers.pending
        self._retry_at = self._clock() + RETRY_SECONDS if kept else None

    def _note(self, message: Message) -> None:
        """Tell something with the next request; nobody is woken for it."""
        if not self._callers.is_closed:
            self._callers.pending.append(Pending((message,)))

    # What comes back

    async def _watch(self) -> None:
        with self._watching:
            async with anyio.create_task_group() as group:
                group.start_soon(self._listen, name="headway notifications")
                try:
                    await self._contact.watch()
                except StoreTakenOver:
                    self._lose()

    async def _listen(self) -> None:
        """Read what the leader tells, as it comes."""
        while True:
            try:
                notices = await self._mailbox.notifications(self.worker, self._read)
            except StoreError:
                await anyio.sleep(RETRY_SECONDS)  # the hint is used up: look without one
                continue
            if notices:
                self._read = notices[-1][0]
                self._arrived(notices)
            await self._notifier.wait()

    def _arrived(self, notices: Sequence[tuple[int, str]]) -> None:
        self._notices += notices
        self._callers.wake()

    def _heed(self, notice: Notification) -> None:
        if notice.evicted:
            self._lose()
            return
        self._health = ProviderHealth((), notice.unanswered, notice.locked_out)
        for handled in notice.handled:
            for call_id in self._outstanding.handled(handled):
                self._mirror.refused(call_id)
            if handled.unreadable:  # let no caller go on as if it were recorded
                self._answer_all(unreadable(handled.unreadable))
        for grant in notice.grants:
            self._take(grant)
        for call_id in notice.preempt:
            if (act := self._callers.on_preempt.get(call_id)) is not None:
                act()
        for order in notice.orders:
            self._callbacks.on_order(order)

    def _take(self, grant: Grant) -> None:
        call, waiting = self._mirror.granted(grant), self._callers.waiting.get(grant.call_id)
        if call is not None and waiting is not None:
            waiting.granted = call
            waiting.complete()
        elif call is not None:
            self.abandon(grant.call_id, Outcome(CallState.CANCELLED, sent=False))

    def _lose(self) -> None:
        """Others took the runs of this process: nothing of it counts any more."""
        if self._lost is not None:
            return
        self._lost = StoreTakenOver(
            f"{self._name}: this process showed no life, and others took its runs: nothing "
            "more was written; they go on there, or with `headway resume`"
        )
        self._answer_all(self._lost)
        self._callers.wake()

    def _answer_all(self, error: Exception) -> None:
        super()._answer_all(error)
        self._outstanding.complete_all(error)
