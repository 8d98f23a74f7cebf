"""Posts messages to the leader, one request an iteration, and takes in its notifications.

Law: a caller goes on when the leader has written what it said; or, for the end of a call, when the
request that says so is durable.

Theory of operation. What callers told gathers while a request is posted, and goes with the next.
The post makes the end of a call durable: whoever leads takes requests in order, and those of a dead
worker before its calls are given up. For everything else the leader's commit is waited for, which
also writes the notification that says so. If this process dies before a post, nothing was told;
after it, the leader carries out what was.
"""

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from ..core.views import ProviderHealth
from ..errors import HeadwayError, InternalError, StoreError, StoreTakenOver, own_copy
from ..model.batch import Batch
from ..model.calls import CallRecord, Outcome
from ..model.runs import Worker
from ..model.states import LIVE_CALLS, CallState
from ..ports import Clock, Mailbox
from ..protocol.codec import dump, error_of, load_notification, load_request
from ..protocol.commands import Order
from ..protocol.envelopes import ASKER, CallRefusal, Grant, Handled, MessageBatch, Notification
from ..protocol.messages import Message, Settle, Submit
from ..protocol.mirror import Mirror
from ..runtime.pending import Callers, Pending, finals
from ..runtime.retry import BUG, RETRY_SECONDS

_log = logging.getLogger("headway")


@dataclass(frozen=True, slots=True)
class FollowerCallbacks:
    """Functions of the process that a remote scheduler calls."""

    joins: Callable[[], Worker | None]
    """Says which worker this is, if the leader does not know it yet."""

    on_join: Callable[[], None]
    """Called once the leader will know."""

    handles: Mapping[str, object]
    """Runs that it executes."""

    on_change: Callable[[Batch], None]
    """Called with what becomes of its runs, and of its calls while it executes any."""

    on_order: Callable[[Order], None]
    """Called with what is to become of its runs."""


def new_asker() -> str:
    """The name of somebody who posts commands. A worker's batches are posted in its own name."""
    return f"{ASKER}{secrets.token_hex(6)}"


class Posting:
    """Posts what ``callers`` told, and takes in what the leader tells the worker."""

    def __init__(
        self,
        mailbox: Mailbox,
        worker_id: str,
        clock: Clock,
        callers: Callers,
        callbacks: FollowerCallbacks,
        eviction: StoreTakenOver,
    ) -> None:
        self.health = ProviderHealth((), (), (), ())
        """Which quotas' providers did not answer as they should when the leader last wrote."""
        self.lost: StoreError | None = None
        """Why nothing of this worker counts any more: others took it for dead, or the database is
        gone."""
        self.joined_at: float = -inf
        """When the batch was posted by which the worker joined; ``time.monotonic()``."""
        self._join_request: int | None = None
        self._mailbox = mailbox
        self._worker_id = worker_id
        self._clock = clock
        self._callers = callers
        self._callbacks = callbacks
        self._eviction = eviction
        self._mirror = Mirror()
        self._outstanding = Outstanding()
        self._notifications: list[tuple[int, str]] = []
        self._seen = 0
        self._is_new = True
        self._retry_at: float | None = None

    def arrived(self, notifications: Iterable[tuple[int, str]]) -> None:
        """Take in notifications with the next iteration, which is now."""
        self._notifications += notifications
        self._callers.wake()

    def adopt(self, records: Iterable[CallRecord]) -> None:
        """Take over the live calls of a process that led. Before the first iteration."""
        waiting = self._callers.waiting
        for record in records:
            pending = waiting.get(record.call.id)
            # The next leader may have granted it by now. Whoever waits has not heard of that: the
            # notification says so, and is read after this.
            is_queued = pending is not None and pending.stands and pending.granted is None
            self._mirror.adopt(record, is_queued=is_queued)
        self._callers.wake()  # for what they told and the leader could not commit

    def lose(self, why: StoreError | None = None) -> None:
        """Let nobody wait any more, and end. None: others took the runs of this process."""
        if self.lost is None:
            self.lost = why or self._eviction
            self.complete_all(self.lost)
            self._callers.wake()

    async def is_joining(self) -> bool:
        """Whether the batch by which the worker joins still waits for a leader to take it."""
        request_id = self._join_request
        if request_id is not None and not await self._mailbox.is_waiting(request_id):
            self._join_request = None  # it is not asked for again
        return self._join_request is not None

    def complete_all(self, error: Exception) -> None:
        """Let nobody wait any more."""
        self._callers.complete_all(error)
        self._outstanding.complete_all(error)

    def next_at(self) -> float | None:
        """When to post again what could not be posted; None for never."""
        return self._retry_at

    async def iterate(self) -> None:
        """Take in what has come, and post what has gathered. Raises StoreTakenOver once lost."""
        self._retry_at = None
        arrived, self._notifications = self._notifications, []
        for number, text in arrived:
            self._seen = number
            try:
                self._take_in(load_notification(text))
            except Exception as error:
                self._give_up_waiting(error)
        if self.lost is not None:
            raise own_copy(self.lost)
        pendings, self._callers.pending = self._callers.pending, []
        if pendings:
            await self._post(pendings)
        changed = self._mirror.take_batch()
        if changed is not None and (changed.runs or self._callbacks.handles):
            try:
                self._callbacks.on_change(changed)
            except Exception:  # what was told is posted
                _log.exception(BUG)

    async def _post(self, pendings: list[Pending]) -> None:
        pendings, batch, text = readable(pendings, self._batch)
        is_durable = any(map(is_end, batch.messages))
        began = time.monotonic()
        try:
            request_id = await self._mailbox.post(self._worker_id, text, durable=is_durable)
        except StoreError as error:
            self._fail(pendings, error)
            return
        if batch.joins is not None:
            self.joined_at, self._join_request = began, request_id
            self._callbacks.on_join()
        # No await since the post: what comes of it can only be taken in after this.
        self._outstanding.add(request_id, pendings)
        # Only the end of a call has a time there.
        self._mirror.record_messages(batch.messages, self._clock() if is_durable else 0.0)

    def _batch(self, pendings: Sequence[Pending]) -> MessageBatch:
        messages = tuple(message for pending in pendings for message in pending.messages)
        joins = self._callbacks.joins() if self._is_new else None
        self._is_new = joins is not None
        return MessageBatch(self._worker_id, messages, self._seen, joins)

    def _fail(self, pendings: list[Pending], error: StoreError) -> None:
        """Say that nothing was posted, and keep what must still be."""
        for pending in pendings:
            pending.complete(error)
        kept = [Pending((message,)) for message in finals(pendings)]
        self._callers.pending = kept + self._callers.pending
        self._retry_at = self._clock() + RETRY_SECONDS if kept else None

    def _take_in(self, told: Notification) -> None:
        if told.evicted:
            self.lose()
            return
        self.health = ProviderHealth((), told.unanswered, told.one_fails, told.locked_out)
        for handled in told.handled:
            for call_id in self._outstanding.handled(handled):
                self._mirror.record_refusal(call_id)
            if handled.unreadable:  # let no caller go on as if it were recorded
                self.complete_all(unreadable(handled.unreadable))
        for grant in told.grants:
            self._grant(grant)
        for refusal in told.refused:
            self._refuse(refusal)
        for call_id in told.preempt:
            if (act := self._callers.on_preempt.get(call_id)) is not None:
                act()
        for order in told.orders:
            self._callbacks.on_order(order)

    def _give_up_waiting(self, error: Exception) -> None:
        """Let nobody wait on for what the leader told in words that cannot be taken in.

        It may have been a grant, so the calls that wait are ended for the leader too: what they
        hold comes back.
        """
        bug = None if isinstance(error, HeadwayError) else error
        _log.error("a notification cannot be read: %s", error, exc_info=bug)
        waiting = list(self._callers.waiting)
        self.complete_all(
            InternalError(f"this process could not read what the leader told it ({error})")
        )
        ended = Outcome(CallState.FAILED, error="its grant could not be read", sent=False)
        self._callers.pending += [Pending((Settle(call_id, ended),)) for call_id in waiting]

    def _refuse(self, refusal: CallRefusal) -> None:
        error = error_of(refusal.error)
        text = f"{refusal.error.error}: {error}"
        self._mirror.record_end(refusal.call_id, text, self._clock())
        if (waiting := self._callers.waiting.get(refusal.call_id)) is not None:
            waiting.complete(error)

    def _grant(self, grant: Grant) -> None:
        call, waiting = self._mirror.record_grant(grant), self._callers.waiting.get(grant.call_id)
        if call is not None and waiting is not None:
            waiting.granted = call
            waiting.complete()
        elif call is not None:
            # Whoever waited was cancelled while the grant was on its way. This goes with the
            # present iteration, which may be the last one: nothing can be sent to callers then.
            unused = Outcome(CallState.CANCELLED, sent=False)
            self._callers.pending.append(Pending((Settle(grant.call_id, unused),)))


def is_end(message: Message) -> bool:
    """Whether a message ends a call: its answer must not be lost, and nobody can refuse it."""
    return isinstance(message, Settle) and message.outcome.state not in LIVE_CALLS


def readable(
    pendings: list[Pending], batch_of: Callable[[Sequence[Pending]], MessageBatch]
) -> tuple[list[Pending], MessageBatch, str]:
    """Return the batch, and its text, of those pendings that the leader will be able to read.

    The agents of calls that end in it go on at once, so what cannot be read is found here. It is
    raised at its own caller; an end is told as a failure, so that what the call holds comes back.
    """
    batch = batch_of(pendings)
    try:
        text = dump(batch)
        load_request(text)
    except HeadwayError:
        pendings = [kept for each in pendings if (kept := _kept(each, batch_of)) is not None]
        batch = batch_of(pendings)
        text = dump(batch)
    return pendings, batch, text


def _kept(
    pending: Pending, batch_of: Callable[[Sequence[Pending]], MessageBatch]
) -> Pending | None:
    try:
        load_request(dump(batch_of([pending])))
    except HeadwayError as error:
        pending.complete(error)
        told = pending.messages[0]
        if not isinstance(told, Settle):
            return None
        failed = Outcome(CallState.FAILED, error=str(error))
        return Pending((Settle(told.call_id, failed),))
    return pending


def unreadable(why: str) -> InternalError:
    """The error of everybody who waits, once the leader could read nothing of a batch."""
    return InternalError(
        f"the leader could not read what this process told it ({why}): nothing of it is recorded"
    )


class Outstanding:
    """Messages that are posted and that the leader has not written yet."""

    def __init__(self) -> None:
        self._requests: dict[int, dict[int, Pending]] = {}

    def add(self, request_id: int, pendings: Sequence[Pending]) -> None:
        """Take in what was posted. Whoever ended a call need not wait for the leader."""
        awaiting: dict[int, Pending] = {}
        for number, pending in enumerate(pendings):  # of this process: one message each
            if pending.completion is None:
                continue
            if is_end(pending.messages[0]):
                pending.complete()
            else:
                awaiting[number] = pending
        if awaiting:
            self._requests[request_id] = awaiting

    def handled(self, handled: Handled) -> list[str]:
        """Let those go on who wait for a request; return the ids of calls that were not taken."""
        awaiting = self._requests.pop(handled.request_id, {})
        errors: dict[int, HeadwayError] = {
            refusal.index: error_of(refusal.error) for refusal in handled.refusals
        }
        if handled.unreadable:
            errors = dict.fromkeys(awaiting, unreadable(handled.unreadable))
        not_taken = []
        for index, error in errors.items():
            if (pending := awaiting.pop(index, None)) is None:
                _log.error("the leader refused what nobody waits for: %s", error)
                continue
            if isinstance(told := pending.messages[0], Submit):
                not_taken.append(told.call.id)
            pending.complete(error)
        for pending in awaiting.values():
            pending.stands = True
            if not pending.until_granted:
                pending.complete()
        return not_taken

    def complete_all(self, error: Exception) -> None:
        """Let nobody wait any more."""
        for awaiting in self._requests.values():
            for pending in awaiting.values():
                pending.complete(error)
