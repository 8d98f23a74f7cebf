"""The scheduler of another process, as callers here see it. Law: grants come from disk alone.

Theory of operation. What callers ask gathers while the pump turns, and goes to the leader as one
letter. Its commit makes the end of a call durable: whoever leads takes letters in order, and those
of a dead worker before its calls are lost. For everything else the leader's commit is waited for,
which sends a notice and rings a bell for it.

A worker holds the lock of a file of its own, and so is known to live. One that was frozen for long
finds that it was taken for dead: nothing that it tells is taken any more, and everyone who waits
here gets StoreTakenOver. It looks for that before it sends what it was granted earlier.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType

import anyio
from anyio import to_thread

from ..backends.sqlite.leadership import (
    LOOK_SECONDS,
    WORKER_BEAT_SECONDS,
    FileLock,
    Stamp,
    Vigil,
    worker_lock,
)
from ..backends.sqlite.listener import Lookout
from ..backends.sqlite.mailbox import Inbox
from ..backends.sqlite.notifier import Bell, bell_of
from ..backends.sqlite.stopped_writer import wake_writer
from ..errors import HeadwayError, InternalError, StoreBusy, StoreError, StoreTakenOver, own_copy
from ..model.batch import Batch
from ..model.calls import Outcome
from ..model.quotas import Observation
from ..model.runs import Worker
from ..model.states import LIVE_CALLS, CallState
from ..protocol.codec import dump, error_of, load_notification, load_request
from ..protocol.commands import Order
from ..protocol.envelopes import Grant, Handled, MessageBatch, Notification
from ..protocol.messages import MarkSent, Message, Observe, Settle, Submit
from ..protocol.mirror import Mirror
from ..runtime.client import SchedulerClient
from ..runtime.clock import Clock
from ..runtime.pending import Pending, finals

VIGIL_SECONDS = 0.08
"""How often it is looked whether anybody leads."""

POLL_SECONDS = 0.25
"""How often it is looked for notices although no bell has rung."""

POST_SECONDS = 60.0
"""How long others may keep the database locked until that is an error."""

STOPPED_SECONDS = 3.0
"""How long one of them may who is stopped. By then it does not lead any more, if it did."""

RETRY_SECONDS = 1.0
"""How long after a letter that could not be written the next one is tried if nobody asks."""

FROZEN_SECONDS = 1.0
"""Whoever did not look for longer may have been taken for dead."""

_log = logging.getLogger("headway")


@dataclass(frozen=True, slots=True)
class FollowerCallbacks:
    """What a remote scheduler needs of its process.

    ``joins`` says who asks if the leader does not know it yet, ``on_join`` is called once it does;
    ``on_change`` is called with what becomes of this process's calls, ``on_order`` with what is to
    become of its runs, ``on_vacancy`` when nobody leads, or with the state of the lock file of a
    leader that is frozen.
    """

    joins: Callable[[], Worker | None]
    on_join: Callable[[], None]
    on_change: Callable[[Batch], None]
    on_order: Callable[[Order], None]
    on_vacancy: Callable[[Stamp | None], None]


class RemoteScheduler(SchedulerClient):
    """Schedules the calls of this process through the one that leads. An async context manager.

    ``worker`` is the id of this life of the process.
    """

    def __init__(
        self, database: Path, worker: str, clock: Clock, callbacks: FollowerCallbacks
    ) -> None:
        super().__init__(clock)
        self.worker = worker
        self._database = database
        self._callbacks = callbacks
        self._mirror = Mirror()
        self._posted: dict[int, dict[int, Pending]] = {}
        self._notices: list[tuple[int, str]] = []
        self._read = self._seen = 0
        self._alone: frozenset[str] = frozenset()
        self._stopped: frozenset[str] = frozenset()
        self._retry_at: float | None = None
        self._lost: StoreTakenOver | None = None
        self._vigil = Vigil(database)
        self._looked_at = self._read_at = time.monotonic()
        self._loop: asyncio.AbstractEventLoop
        self._outgoing: Inbox
        self._incoming: Inbox
        self._resources = ExitStack()

    def sent(self, call_id: str) -> None:
        """Note that the request leaves now. Raises StoreTakenOver; it must not leave then."""
        if time.monotonic() - self._looked_at > FROZEN_SECONDS and not self._is_listed():
            self._lose()
        if self._lost is not None:
            raise own_copy(self._lost)
        self._note(MarkSent(call_id, self._clock()))

    def observed(self, call_id: str, quota: str, signals: Observation) -> None:
        """Take in what the head of an answer told of a quota. Goes with the next letter."""
        self._note(Observe(call_id, {quota: signals}))
        if quota in self._alone:
            self._wake.set()

    def is_stopped(self, quota: str) -> bool:
        """Whether the provider's account was locked out when the leader last wrote."""
        return quota in self._stopped

    def is_left_alone(self, quota: str) -> bool:
        """Whether nobody had an answer since the provider's last fault when the leader wrote."""
        return quota in self._alone

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        try:
            return await super().__aexit__(kind, error, trace)
        finally:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(self._resources.close)

    # The pump

    async def _begin(self) -> None:
        self._loop = asyncio.get_running_loop()
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(self._open)

    def _open(self) -> None:
        with ExitStack() as stack:
            path = worker_lock(self._database, self.worker)
            lock = FileLock(path, beat_seconds=WORKER_BEAT_SECONDS)
            stack.callback(lock.release)
            self._outgoing, self._incoming = Inbox(self._database), Inbox(self._database)
            stack.callback(self._outgoing.close)
            stack.callback(self._incoming.close)
            bell = Bell(bell_of(self._database, self.worker))
            stack.callback(bell.close)
            lookout = Lookout(bell, self._look, VIGIL_SECONDS)
            stack.callback(lookout.stop)
            lookout.start()
            self._resources = stack.pop_all()

    def _next_iteration_at(self, now: float) -> float | None:
        return self._retry_at

    async def _iterate(self) -> None:
        """Heed what has come, and hand over what has gathered."""
        self._retry_at = None
        notices, self._notices = self._notices, []
        for notice_id, text in notices:
            self._heed(load_notification(text))
            self._seen = notice_id
        if self._lost is not None:
            raise self._lost
        if pendings := self._pending:
            self._pending = []
            await self._hand_over(pendings)
        if changed := self._mirror.take_batch():
            self._callbacks.on_change(changed)

    async def _hand_over(self, pendings: list[Pending]) -> None:
        pendings, batch, text = self._readable(pendings)
        is_synced = any(map(_is_end, batch.messages))
        try:
            letter_id = await posted(self._outgoing, self.worker, text, synced=is_synced)
        except StoreError as error:
            self._fail(pendings, error)
            return
        if batch.joins is not None:
            self._callbacks.on_join()
        self._mirror.told(batch.messages, self._clock())
        awaiting: dict[int, Pending] = {}
        for number, pending in enumerate(pendings):  # of this process: one message each
            if _is_end(pending.messages[0]):
                pending.complete()
            elif pending.completion is not None:
                awaiting[number] = pending
        if awaiting:
            self._posted[letter_id] = awaiting

    def _readable(self, pendings: list[Pending]) -> tuple[list[Pending], MessageBatch, str]:
        """Return the batch, and its text, of those pendings that the leader will be able to read.

        The agents of calls that end in it go on at once, so what cannot be read is found here. It
        is raised at its own caller; an end is told as a failure, so that what the call holds comes
        back.
        """
        batch = self._batch(pendings)
        try:
            text = dump(batch)
            load_request(text)
        except HeadwayError:
            pendings = [kept for each in pendings if (kept := self._kept(each)) is not None]
            batch = self._batch(pendings)
            text = dump(batch)
        return pendings, batch, text

    def _kept(self, pending: Pending) -> Pending | None:
        try:
            load_request(dump(self._batch([pending])))
        except HeadwayError as error:
            pending.complete(error)
            told = pending.messages[0]
            if not isinstance(told, Settle):
                return None
            failed = Outcome(CallState.FAILED, error=str(error))
            return Pending((Settle(told.call_id, failed),))
        return pending

    def _batch(self, pendings: Sequence[Pending]) -> MessageBatch:
        messages = tuple(message for pending in pendings for message in pending.messages)
        return MessageBatch(self.worker, messages, self._seen, self._callbacks.joins())

    def _fail(self, pendings: list[Pending], error: StoreError) -> None:
        """Say that nothing was handed over, and keep what must still be."""
        for pending in pendings:
            pending.complete(error)
        kept = [Pending((message,)) for message in finals(pendings)]
        self._pending = kept + self._pending
        self._retry_at = self._clock() + RETRY_SECONDS if kept else None

    # What comes back

    def _heed(self, notice: Notification) -> None:
        if notice.evicted:
            self._lose()
            return
        self._alone, self._stopped = frozenset(notice.unanswered), frozenset(notice.locked_out)
        for handled in notice.handled:
            self._answer(self._posted.pop(handled.request_id, {}), handled)
        for grant in notice.grants:
            self._take(grant)
        for call_id in notice.preempt:
            if (act := self._on_preempt.get(call_id)) is not None:
                act()
        for order in notice.orders:
            self._callbacks.on_order(order)

    def _answer(self, awaiting: dict[int, Pending], handled: Handled) -> None:
        if handled.unreadable:
            self._lose_batch(awaiting, handled.unreadable)
            return
        for refusal in handled.refusals:
            error = error_of(refusal.error)
            if (pending := awaiting.pop(refusal.index, None)) is None:
                _log.error("the leader refused what nobody waits for: %s", error)
                continue
            if isinstance(told := pending.messages[0], Submit):
                self._mirror.refused(told.call.id)
            pending.complete(error)
        for pending in awaiting.values():
            pending.stands = True
            if not pending.until_granted:
                pending.complete()

    def _lose_batch(self, awaiting: dict[int, Pending], why: str) -> None:
        """The leader could read nothing of a batch: let no caller go on as if it were recorded."""
        for pending in awaiting.values():
            if isinstance(told := pending.messages[0], Submit):
                self._mirror.refused(told.call.id)
            pending.complete(_unreadable(why))
        self._answer_all(_unreadable(why))

    def _take(self, grant: Grant) -> None:
        call, waiting = self._mirror.granted(grant), self._waiting.get(grant.call_id)
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
            f"{self._database}: this process showed no life, and others took its runs: nothing "
            "more was written; they go on there, or with `headway resume`"
        )
        self._answer_all(self._lost)
        self._wake.set()

    def _answer_all(self, error: Exception) -> None:
        super()._answer_all(error)
        for awaiting in self._posted.values():
            for pending in awaiting.values():
                pending.complete(error)

    def _note(self, message: Message) -> None:
        if not self._closed:
            self._pending.append(Pending((message,)))

    # In the thread that looks

    def _look(self, has_rung: bool) -> None:
        now = time.monotonic()
        was_frozen = now - self._looked_at > FROZEN_SECONDS
        if was_frozen and not self._is_listed():
            self._loop.call_soon_threadsafe(self._lose)
        is_due = now - self._looked_at > VIGIL_SECONDS / 2
        self._looked_at = now
        if has_rung or now - self._read_at > POLL_SECONDS:
            self._read_mail()
            self._read_at = now
        if is_due and self._vigil.may_lead():
            self._loop.call_soon_threadsafe(self._callbacks.on_vacancy, self._vigil.frozen)

    def _read_mail(self) -> None:
        if not self._incoming.has_changed():
            return
        try:
            while mail := self._incoming.mail(self.worker, self._read):
                self._read = mail[-1][0]
                self._loop.call_soon_threadsafe(self._arrived, mail)
        except StoreError:
            self._incoming.look_again()
            raise

    def _arrived(self, mail: Sequence[tuple[int, str]]) -> None:
        self._notices += mail
        self._wake.set()

    def _is_listed(self) -> bool:
        return self._callbacks.joins() is not None or self._incoming.is_listed(self.worker)


async def _nothing() -> None:
    pass


async def posted(
    inbox: Inbox,
    sender: str,
    text: str,
    *,
    synced: bool = False,
    meanwhile: Callable[[], Awaitable[None]] = _nothing,
) -> int:
    """Append a letter as soon as others let the database be written, and return its id.

    ``meanwhile`` is called again and again as long as they do not. Raises StoreError; there is no
    letter then.
    """
    waited, looked_at = 0.0, time.monotonic()
    while True:
        try:
            return await to_thread.run_sync(partial(inbox.post, sender, text, synced=synced))
        except StoreBusy:
            # Counted as a vigil counts: on a machine so busy that nobody has seen the leader's
            # silence yet, continuing it now would have it lead on.
            now = time.monotonic()
            waited, looked_at = waited + min(now - looked_at, LOOK_SECONDS), now
            if waited > POST_SECONDS:
                raise
            if waited > STOPPED_SECONDS:
                wake_writer(inbox.path)
        await meanwhile()


def _unreadable(why: str) -> InternalError:
    return InternalError(
        f"the leader could not read what this process told it ({why}): nothing of it is recorded"
    )


def _is_end(message: Message) -> bool:
    return isinstance(message, Settle) and message.outcome.state not in LIVE_CALLS
