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

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import anyio
from anyio.abc import TaskGroup

from . import operations
from .clock import Clock, system_clock
from .core import Scheduler
from .errors import HeadwayError, InternalError, KeyTaken, SchedulerClosed, StoreError
from .estimates import TOKENS, Estimates
from .inbox import Event, Reply, answers_here, as_final, batch_with
from .model import (
    NO_PROMPT,
    Answer,
    Batch,
    Call,
    CallRecord,
    Change,
    Outcome,
    Priority,
    Prompt,
    Quota,
    Route,
    Run,
    Signals,
    Snapshot,
    Usage,
)
from .policy import Policy
from .states import UNDER_WAY, CallState
from .store.base import Store
from .views import Explanation, Statistics

RETRY_COMMIT_SECONDS = 1.0
"""How long after a failed commit the next one is tried if nobody asks."""


class Service:
    """Schedules the calls of this process. Use as an async context manager.

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
        self._store = store
        self._quotas = tuple(quotas)
        self._clock = clock or system_clock()
        self._on_change = on_change
        self._policy = policy or Policy()
        self._core = Scheduler(self._quotas, self._clock(), self._policy)
        self._estimates = Estimates()
        self._under_way: dict[str, Run] = {}
        self._waits: Counter[tuple[str, str]] = Counter()
        self._events: list[Event] = []
        self._wake = anyio.Event()
        self._waiting: dict[str, Event] = {}
        self._sending: set[str] = set()
        self._on_preempt: dict[str, Callable[[], None]] = {}
        self._retry_at: float | None = None
        self._closed = False
        self._life = anyio.CancelScope(shield=True)
        self._tasks: TaskGroup

    async def __aenter__(self) -> Self:
        """Go on from the store. What was in flight at a crash is unknown from here on.

        Raises StoreError.
        """
        snapshot = await self._rebuild()
        for lesson in snapshot.lessons:
            if lesson.kind == TOKENS:
                self._estimates.load(lesson)
        self._core.try_again(self._clock())
        if batch := self._core.take_batch(self._clock()):
            await self._store.commit(batch)
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._pump, name="headway pump")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        self._life.cancel()
        return await self._tasks.__aexit__(kind, error, trace)

    # What callers ask

    async def acquire(
        self, call: Call, prompt: Prompt = NO_PROMPT, routes: tuple[Route, ...] = ()
    ) -> Call:
        """Queue ``call`` and wait until it may be sent; that is on disk then, and its ``prompt``.

        Return it as it is to be sent: on one of its ``routes``, if it has any.

        The caller then owes one :meth:`settle`, :meth:`retry` or :meth:`abandon`. Cancelling the
        wait takes the call out of the queue.

        Raises UnknownQuota, CallTooLarge, KeyTaken or StoreError: it is not queued then;
        SchedulerClosed: a call that was queued before stays on disk, parked.
        """
        event = Event(lambda core, now: core.submit(call, now, routes=routes), prompt)
        return await self._granted(call.id, event)

    async def reacquire(self, record: CallRecord, routes: tuple[Route, ...] = ()) -> Call:
        """Queue a call of an earlier attempt again, at its old place, and wait as for a new one.

        It is parked, unknown, failed or cancelled. Raises what :meth:`acquire` does.
        """
        event = Event(lambda core, now: core.resubmit(record, now, routes=routes))
        return await self._granted(record.call.id, event)

    async def ask(self, call: Call, prompt: Prompt = NO_PROMPT) -> None:
        """Write down a question to a person; on disk when this returns. It is never admitted."""
        await self._told(Event(lambda core, now: core.submit(call, now, parked=True), prompt))

    async def decide(self, record: CallRecord, outcome: Outcome) -> None:
        """Record a person's decision on a parked or unknown call: done, queued or cancelled.

        Raises IllegalTransition, or StoreError if it is not on disk.
        """
        await self._told(Event(lambda core, now: core.decide(record, outcome, now)))

    async def amend(self, *records: CallRecord) -> None:
        """Write rows of finished calls anew. Raises StoreError if they are not on disk."""
        await self._told(Event(rows=records))

    async def forget(self, *run_ids: str) -> None:
        """Delete ended runs, their calls, and texts that no other call holds.

        A run that has not ended, or that one which stays began as a copy of, is left as it is.
        Raises StoreError; nothing was deleted then.
        """
        await self._told(Event(forget=run_ids))

    def sent(self, call_id: str) -> None:
        """Note that the request leaves now. Written with the next commit.

        The core may run ahead of the disk in this alone: a crash cannot tell admitted from sent.
        """
        self._core.sent(call_id, self._clock())

    def on_preempt(self, call_id: str, act: Callable[[], None] | None) -> None:
        """Say what cancels the request of a call in flight, to be queued again; None: nothing."""
        if act is None:
            self._on_preempt.pop(call_id, None)
        else:
            self._on_preempt[call_id] = act

    def observed(self, call_id: str, quota: str, signals: Signals) -> None:
        """Take in what the head of an answer told of a quota. Written with the next commit.

        Nobody is woken for it, unless everybody waits for a sign of life of the provider.
        """
        if not self._closed:
            self._events.append(Event(signals={quota: signals}, about=call_id))
            if self._core.is_probing(quota):
                self._wake.set()

    def is_stopped(self, quota: str) -> bool:
        """Whether the provider's account is locked out: a bad key, no money."""
        return self._core.is_stopped(quota)

    def is_left_alone(self, quota: str) -> bool:
        """Whether nobody got an answer from the provider since its last fault."""
        return self._core.is_left_alone(quota)

    async def settle(
        self, call_id: str, outcome: Outcome, signals: Mapping[str, Signals] | None = None
    ) -> None:
        """Record how a call ended; on disk when this returns.

        Cancelling the wait does not undo it. Raises StoreError if it is not on disk yet: it will
        be recorded with the next commit that succeeds.
        """
        await self._told(Event(settle=(call_id, outcome), signals=signals, about=call_id))

    async def retry(
        self, call_id: str, outcome: Outcome, signals: Mapping[str, Signals] | None = None
    ) -> Call:
        """Queue an attempted call again at its old place and wait until it may be sent again.

        ``outcome`` has the state queued. Raises StoreError; the call has failed then.
        """
        event = Event(settle=(call_id, outcome), signals=signals, about=call_id)
        return await self._granted(call_id, event)

    def abandon(self, call_id: str, outcome: Outcome) -> None:
        """Settle without waiting, for a caller that is being cancelled."""
        if not self._closed:
            self._post(Event(settle=(call_id, outcome)))

    async def save_run(self, run: Run) -> None:
        """Write a run; on disk when this returns. Raises KeyTaken or StoreError if it is not."""
        await self._told(Event(run=run, answers=answers_here.get()))

    def note_run(self, run: Run) -> None:
        """Write a run no later than the calls that are asked for after this."""
        self._post(Event(run=run))

    async def bump(self, call_id: str, priority: Priority) -> None:
        """Change the class of a queued call. Raises IllegalTransition or StoreError."""
        event = Event(lambda core, now: core.bump(call_id, priority, now))
        event.answers = answers_here.get()
        await self._told(event)

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
        await self._told(Event(answers=(answer,)))

    @contextmanager
    def waiting(self, run_id: str, on: str) -> Iterator[None]:
        """While this is open, a run waits for another: its calls go as urgently as they would."""

        def tell(core: Scheduler, now: float) -> None:
            core.wait(run_id, self._waited_on(run_id), now)

        self._waits[run_id, on] += 1
        self._post(Event(tell))
        try:
            yield
        finally:
            self._waits -= Counter([(run_id, on)])
            if not self._closed:
                self._post(Event(tell))

    def _waited_on(self, run_id: str) -> frozenset[str]:
        return frozenset(on for waiting, on in self._waits if waiting == run_id)

    def expected(self, path: str, model: str, characters: int, cap: int | None) -> Usage:
        """What a call of an agent to a model will take, as its earlier calls show."""
        return self._estimates.of(path, model, characters, cap)

    def learn(self, path: str, model: str, characters: int, usage: Usage) -> None:
        """Take in what a call took. Written with the next commit."""
        if lessons := self._estimates.learn(path, model, characters, usage):
            self._post(Event(lessons=tuple(lessons)))

    def now(self) -> float:
        """The scheduler's time, epoch seconds."""
        return self._clock()

    def explain(self, call_id: str) -> Explanation | None:
        """What a queued call waits for; None if it is not live."""
        return self._core.explain(call_id, self._clock())

    def queued(self) -> list[CallRecord]:
        """Every queued call, next one first. Read only."""
        return self._core.queued()

    def statistics(self) -> Statistics:
        """How many wait and are in flight, and every gauge."""
        return self._core.statistics(self._clock())

    # How callers wait

    def _post(self, event: Event) -> None:
        if self._closed:
            raise SchedulerClosed("the scheduler is closed: nothing more can be asked of it")
        self._events.append(event)
        self._wake.set()

    async def _change(self, change: Change) -> None:
        await self._told(Event(change=change, answers=answers_here.get()))

    async def _told(self, event: Event) -> None:
        """Wait until what an event tells is on disk."""
        event.reply = Reply()
        self._post(event)
        await event.reply.wait()

    async def _granted(self, call_id: str, event: Event) -> Call:
        if call_id in self._waiting:
            raise InternalError(f"call {call_id}: somebody waits for its turn already")
        event.reply, event.until_granted = Reply(), True
        self._post(event)
        self._waiting[call_id] = event
        try:
            await event.reply.wait()
        except anyio.get_cancelled_exc_class():
            self.abandon(call_id, Outcome(CallState.CANCELLED, sent=False))
            raise
        finally:
            self._waiting.pop(call_id, None)
        assert event.granted is not None
        return event.granted

    # The pump

    async def _pump(self) -> None:
        try:
            # Only closing ends it: callers that are being cancelled still have things to tell.
            with self._life:
                while True:
                    await self._gather()
                    with anyio.CancelScope(shield=True):
                        await self._turn()
        finally:
            self._closed = True
            try:
                with anyio.CancelScope(shield=True):
                    await self._turn()
            finally:
                closed = SchedulerClosed("the scheduler was closed while this call waited")
                for event in self._waiting.values():
                    event.answer(closed)

    async def _gather(self) -> None:
        """Sleep until an event, or until the core wants to be asked."""
        now = self._clock()
        ask_at = self._retry_at if self._retry_at is not None else self._core.next_event(now)
        with anyio.move_on_after(None if ask_at is None else ask_at - now):
            await self._wake.wait()
        self._wake = anyio.Event()

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
        try:
            event.told(self._core, now)
        except HeadwayError as error:
            if event.reply is None:
                raise
            event.answer(error)
            return False
        return True

    def _answer(self, accepted: list[Event], grants: list[CallRecord]) -> None:
        """The commit stands: wake those whose event it was, and those who may send."""
        for event in accepted:
            event.stands = True
            if event.run is not None:
                self._under_way[event.run.id] = event.run
                if event.run.state not in UNDER_WAY:
                    del self._under_way[event.run.id]
            if event.settle is not None:
                self._sending.discard(event.settle[0])
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

    def _fail(self, events: list[Event], error: Exception) -> None:
        """The commit does not stand: say so, keep what must still be recorded, rebuild later."""
        for event in events:
            event.answer(error)
            if event.settle is not None:
                settle, about = as_final(*event.settle), event.about
                self._events.append(Event(settle=settle, signals=event.signals, about=about))

    async def _rebuild(self) -> Snapshot:
        """Build the core from the store. Raises StoreError and leaves the old one then."""
        snapshot = await self._store.snapshot()
        now = self._clock()
        core = Scheduler(self._quotas, now, self._policy)
        for run in self._under_way.values():
            core.track(run, now)
        for run_id, _ in self._waits:
            core.wait(run_id, self._waited_on(run_id), now)
        core.restore(snapshot, now, self._has_caller)
        self._core = core
        self._retry_at = None
        return snapshot

    def _has_caller(self, call_id: str) -> bool:
        """Whether a call on disk is somebody's here; not yet, if asking again is still to stand."""
        waiting = self._waiting.get(call_id)
        return call_id in self._sending or (waiting is not None and waiting.stands)
