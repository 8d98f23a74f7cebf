"""The async shell around the core: one pump, one batch, one commit.

Law of this file: nobody is woken before the commit that says so. Memory is never ahead of disk.

Theory of operation. Callers leave events in a list and wake the pump. The pump takes all events
that have gathered, tells them to the core, asks it whom to admit, commits everything that changed
at once, and only then answers the callers. While a commit runs, the next batch gathers: the busier
it is, the more calls share a sync. Idle, the pump sleeps until an event or until the time that the
core named; there is no polling.

If a commit fails, nothing that the batch promised holds: its callers get the error, the core is
thrown away and built again from the store, and calls that others still wait for go on. What the
failed batch could not record about calls whose callers are gone is recorded with the next commit.
If it fails because a row of it is refused, its halves are tried one after the other, and so on:
only the event that brought the row fails.

If the process dies: before the commit, the events never happened; after it and before the
wake-up, a granted call is found *admitted* at the next start and becomes *unknown*.
"""

from collections.abc import Callable, Iterable

from . import operations
from .asking import Asking
from .clock import Clock, system_clock
from .core import Scheduler
from .errors import KeyTaken, StoreError
from .estimates import TOKENS
from .inbox import Event, Message, answers_here, batch_with, finals
from .model import (
    Answer,
    Batch,
    CallRecord,
    Change,
    Priority,
    Quota,
    Run,
    Signals,
    Snapshot,
)
from .policy import Policy
from .states import UNDER_WAY
from .store.base import Store
from .views import Explanation, Statistics

RETRY_COMMIT_SECONDS = 1.0
"""How long after a failed commit the next one is tried if nobody asks."""


class Service(Asking):
    """Schedules the calls of this process, which admits. Use as an async context manager.

    ``on_change`` is called after every commit, for live views.
    """

    def __init__(
        self,
        store: Store,
        quotas: Iterable[Quota],
        *,
        policy: Policy | None = None,
        clock: Clock | None = None,
        on_change: Callable[[Batch], None] = lambda batch: None,
    ) -> None:
        super().__init__(clock or system_clock())
        self._store = store
        self._quotas = tuple(quotas)
        self._on_change = on_change
        self._policy = policy or Policy()
        self._core = Scheduler(self._quotas, self._clock(), self._policy)
        self._under_way: dict[str, Run] = {}
        self._waited_on: dict[str, frozenset[str]] = {}
        self._sending: set[str] = set()
        self._retry_at: float | None = None

    async def _begin(self) -> None:
        """Go on from the store. What was in flight at a crash is unknown from here on."""
        snapshot = await self._rebuild()
        for lesson in snapshot.lessons:
            if lesson.kind == TOKENS:
                self._estimates.load(lesson)
        self._core.try_again(self._clock())
        if batch := self._core.take_batch(self._clock()):
            await self._store.commit(batch)

    # What callers ask

    async def forget(self, *run_ids: str) -> None:
        """Delete ended runs, their calls, and texts that no other call holds.

        A run that has not ended, or that one which stays began as a copy of, is left as it is.
        Raises StoreError; nothing was deleted then.
        """
        await self._told(Message(forget=run_ids))

    def sent(self, call_id: str) -> None:
        """Note that the request leaves now. Written with the next commit.

        The core may run ahead of the disk in this alone: a crash cannot tell admitted from sent.
        """
        self._core.sent(call_id, self._clock())

    def observed(self, call_id: str, quota: str, signals: Signals) -> None:
        """Take in what the head of an answer told of a quota. Written with the next commit.

        Nobody is woken for it, unless everybody waits for a sign of life of the provider.
        """
        if not self._closed:
            self._events.append(Event((Message(signals={quota: signals}, about=call_id),)))
            if self._core.is_probing(quota):
                self._wake.set()

    def is_stopped(self, quota: str) -> bool:
        """Whether the provider's account is locked out: a bad key, no money."""
        return self._core.is_stopped(quota)

    def is_left_alone(self, quota: str) -> bool:
        """Whether nobody got an answer from the provider since its last fault."""
        return self._core.is_left_alone(quota)

    async def bump(self, call_id: str, priority: Priority) -> None:
        """Change the class of a queued call. Raises IllegalTransition or StoreError."""
        await self._told(Message(bump=(call_id, priority)), answers_here.get())

    async def set_limits(self, quota: str, limits: Quota | None) -> None:
        """Change a quota's limits, or go back to the configured ones; on disk when this returns.

        Raises UnknownQuota or StoreError.
        """
        await self._change(operations.limits(quota, limits, self._clock()))

    async def set_weight(self, team: str, weight: float | None) -> None:
        """Change a team's share, or go back to the configured one; on disk when this returns.

        Raises CallerError or StoreError.
        """
        await self._change(operations.weight(team, weight, self._clock()))

    async def resume_quota(self, quota: str) -> None:
        """Let one call try of a quota whose account was locked out; on disk when this returns.

        Raises UnknownQuota or StoreError.
        """
        await self._change(operations.resume(quota, self._clock()))

    async def set_gate(self, target: str, state: str) -> None:
        """Open, pause or drain all, a class or a model; on disk when this returns.

        Raises CallerError or StoreError.
        """
        change = operations.gate(target, state, self._core.next_seq, self._clock())
        await self._change(change)

    async def answer(self, answer: Answer) -> None:
        """Say what became of a letter, unless a commit has said it. Raises StoreError."""
        await self._told(Message(), (answer,))

    def explain(self, call_id: str) -> Explanation | None:
        """What a queued call waits for; None if it is not live."""
        return self._core.explain(call_id, self._clock())

    def queued(self) -> list[CallRecord]:
        """Every queued call, next one first. Read only."""
        return self._core.queued()

    def statistics(self) -> Statistics:
        """How many wait and are in flight, and every gauge."""
        return self._core.statistics(self._clock())

    async def _change(self, change: Change) -> None:
        await self._told(Message(change=change), answers_here.get())

    # The pump

    def _next_turn_at(self, now: float) -> float | None:
        return self._retry_at if self._retry_at is not None else self._core.next_event(now)

    async def _turn(self) -> None:
        """Everything that has gathered: one batch, unless a row of it is refused."""
        parts, self._events = [self._events], []
        while parts:
            part = parts.pop()
            try:
                batch, grants = await self._commit(part)
            except KeyTaken as error:
                self._retry_at = self._clock()
                if len(part) > 1:
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
                else:
                    self._fail(part, error)
            except Exception as error:
                for failed in (part, *reversed(parts)):
                    self._fail(failed, error)
                self._retry_at = self._clock() + RETRY_COMMIT_SECONDS
                if isinstance(error, StoreError):
                    return
                raise
            else:
                self._answer(part, grants)
                if batch:
                    self._on_change(batch)

    async def _commit(self, events: list[Event]) -> tuple[Batch, list[CallRecord]]:
        """Tell the core, ask it, and commit. Takes out of ``events`` what the core refused."""
        if self._retry_at is not None:
            await self._rebuild()
        now = self._clock()
        events[:] = [event for event in events if self._tell(event, now)]
        grants = [] if self._closed else self._core.admit(now)
        batch = batch_with(self._core.take_batch(now), events)
        if batch:
            await self._store.commit(batch)
        return batch, grants

    def _tell(self, event: Event, now: float) -> bool:
        """Tell the core one event; a caller's mistake goes back to that caller alone."""
        event.tell(self._core, now)
        for message in event.accepted():
            if message.waits is not None:
                run_id, on = message.waits
                self._waited_on[run_id] = on
                if not on:
                    del self._waited_on[run_id]
        for error in event.refused.values():
            if event.reply is None:
                raise error
            event.answer(error)
        return not event.refused

    def _answer(self, accepted: list[Event], grants: list[CallRecord]) -> None:
        """The commit stands: wake those whose event it was, and those who may send."""
        for event in accepted:
            event.stands = True
            for message in event.accepted():
                self._note(message)
            if not event.until_granted:
                event.answer()
        for call_id in self._core.take_preempted():
            if (act := self._on_preempt.get(call_id)) is not None:
                act()
        for record in grants:
            # A caller that was cancelled meanwhile has an abandon on its way.
            self._sending.add(record.call.id)
            if waiting := self._waiting.get(record.call.id):
                waiting.granted = record.call
                waiting.answer()

    def _note(self, message: Message) -> None:
        """Keep what the store does not tell a core that is built again."""
        if message.settle is not None:
            self._sending.discard(message.settle[0])
        if (run := message.run) is not None:
            self._under_way[run.id] = run
            if run.state not in UNDER_WAY:
                del self._under_way[run.id]

    def _fail(self, events: list[Event], error: Exception) -> None:
        """The commit does not stand: say so, keep what must still be recorded, rebuild later."""
        for event in events:
            event.answer(error)
        self._events += [Event((message,)) for message in finals(events)]

    async def _rebuild(self) -> Snapshot:
        """Build the core from the store. Raises StoreError and leaves the old one then."""
        snapshot = await self._store.snapshot()
        now = self._clock()
        core = Scheduler(self._quotas, now, self._policy)
        for run in self._under_way.values():
            core.track(run, now)
        for run_id, on in self._waited_on.items():
            core.wait(run_id, on, now)
        core.restore(snapshot, now, self._has_caller)
        self._core = core
        self._retry_at = None
        return snapshot

    def _has_caller(self, call_id: str) -> bool:
        """Whether a call on disk is somebody's here; not yet, if asking again is still to stand."""
        waiting = self._waiting.get(call_id)
        return call_id in self._sending or (waiting is not None and waiting.stands)
