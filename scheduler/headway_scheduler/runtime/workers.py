"""The workers, as the leader sees them. Law: no worker's clock is believed.

The leader takes the messages of a worker in their order. The commit that writes their consequences
also deletes their request, so a leader that dies before leaves the request to the next leader. The
same commit writes the notification that tells the worker.
"""

from collections.abc import Iterable, Mapping
from math import inf
from types import MappingProxyType
from typing import assert_never

from msgspec import structs

from ..core.views import ProviderHealth
from ..model.batch import NOTHING, Batch, Lesson, OutboxRow
from ..model.calls import Outcome
from ..model.data import replace
from ..model.formulas import LONGEST_STATED_SECONDS
from ..model.quotas import Observation
from ..model.runs import Run, Worker
from ..ports import Clock, Store
from ..protocol.codec import refused
from ..protocol.commands import Order
from ..protocol.envelopes import Handled, MessageBatch, Refusal
from ..protocol.messages import (
    Amend,
    ApplyChange,
    AwaitRuns,
    ChargeRequest,
    Decide,
    DropWorker,
    EnterBatch,
    ForgetRuns,
    Learn,
    LeaveBatch,
    MarkSent,
    Message,
    Observe,
    ProbeStopped,
    Reestimate,
    Resubmit,
    SaveRun,
    SetCallPriority,
    Settle,
    Submit,
)
from ..protocol.outbox import OutboxBuilder
from .deaths import after_death, lesson_of, recent_deaths, released
from .pending import Callers, Completion, Decided, Pending, answer_here


class Workers:
    """The listed workers, and the messages from and to them.

    A worker is listed from its first batch, or from a command, until it is dropped. After that the
    leader takes none of its messages.
    """

    def __init__(self, store: Store, clock: Clock, callers: Callers) -> None:
        self._store = store
        self._clock = clock
        self._callers = callers
        self._listed: dict[str, Worker] = {}
        self.listed: Mapping[str, Worker] = MappingProxyType(self._listed)
        """A live view, by worker id."""

    async def begin(self) -> None:
        """List the workers that the store knows. Raises StoreError."""
        self._listed |= {worker.id: worker for worker in await self._store.workers()}

    async def enlist(self, worker: Worker) -> None:
        """List a process that executes runs, or replace its row. Raises StoreError."""
        await self._callers.written(Pending((), Batch(joined=(worker,))))
        self._listed[worker.id] = worker

    async def begin_term(self) -> None:
        """Write that this leader's start succeeded. Raises StoreError."""
        await self._callers.written(Pending((), Batch(begins=True)))

    def deliver(self, request_id: int, batch: MessageBatch, *, age: float = inf) -> Completion:
        """Take a worker's batch of messages; the completion is set when it is on disk.

        A notification tells the worker which messages were refused. ``age``: seconds since the
        request was posted, where the engine can tell.
        """
        now, worker_id = self._clock(), batch.worker_id
        joined = () if batch.joins is None else (batch.joins,)
        # The worker is listed before its first batch is on disk, because its next batch may be
        # delivered before that.
        self._listed |= {each.id: each for each in joined}
        is_listed = worker_id in self._listed
        return self._callers.waited(
            Pending(
                [restamped(each, now, age) for each in batch.messages] if is_listed else (),
                Batch(taken=(request_id,), seen=((worker_id, batch.seen),), joined=joined),
                sender=worker_id,
                request_id=request_id,
                evicted=not is_listed,
            )
        )

    def deliver_unreadable(
        self, request_id: int, worker_id: str, why: str, *, is_kept: bool = False
    ) -> Completion:
        """Tell a worker that its batch could not be read; the completion is set when it is on disk.

        ``is_kept``: the batch is set aside, so that people can look at it.
        """
        also = Batch(taken=(request_id,), set_aside=((request_id, why),) if is_kept else ())
        return self._callers.waited(
            Pending((), also, sender=worker_id, request_id=request_id, unreadable=why)
        )

    async def drop(self, worker_id: str, *, died: bool = False) -> list[Run]:
        """Release the runs of a worker that is gone; on disk when this returns.

        Running runs become interrupted, queued ones stay queued. If the worker ``died``, each run
        that it executed has lost a life. All batches that the worker posted must have been
        delivered before. Raises StoreError, after which this may be called again.
        """
        self._listed.pop(worker_id, None)
        runs = [run for run in await self._store.assigned() if run.worker == worker_id]
        lessons: tuple[Lesson, ...] = ()
        if died:
            now = self._clock()
            before = await recent_deaths(self._store, now)
            left, deaths = await after_death(self._store, runs, before, now)
            lessons = (lesson_of(deaths),)
        else:
            left = [released(run) for run in runs]
        messages: list[Message] = [DropWorker(worker_id), *(SaveRun(run) for run in left)]
        also = Batch(left=(worker_id,), lessons=lessons)
        await self._callers.written(Pending(messages, also))
        return left

    async def order(self, worker_id: str, order: Order, run: Run | None = None) -> None:
        """Send a worker an order. ``run`` is written in the same commit. Raises StoreError."""
        messages = () if run is None else (SaveRun(run),)
        also = NOTHING if run is None else answer_here()
        await self._callers.written(Pending(messages, also, orders=((worker_id, order),)))


def notifications(
    told: Iterable[Pending], decided: Decided, health: ProviderHealth
) -> tuple[OutboxRow, ...]:
    """Return the notifications of a commit: results of workers' batches, grants and orders."""
    outbox = OutboxBuilder()
    for pending in told:
        for worker, order in pending.orders:
            outbox.order(worker, order)
        if pending.sender is not None:
            refusals = (Refusal(n, refused(error)) for n, error in pending.refused.items())
            handled = Handled(pending.request_id, tuple(refusals), pending.unreadable)
            outbox.handled(pending.sender, handled, evicted=pending.evicted)
    for record in decided.grants:
        outbox.grant(record)
    for record in decided.preempted:
        outbox.preempt(record)
    for record, error in decided.refused:
        outbox.refuse(record, refused(error))
    return outbox.rows(health.unanswered, health.locked_out, health.one_fails)


def restamped(message: Message, now: float, age: float = inf) -> Message:
    """Return a worker's message with its times corrected by the leader's clock.

    Past times are moved between ``now - age`` and ``now``, where ``age`` is the seconds since the
    request was posted, by the database's clock; infinite where the engine has none. Future times
    are moved to at most ``LONGEST_STATED_SECONDS`` ahead. On one machine all processes have the
    same time, so nothing changes.
    """
    match message:
        case Submit(call=call):
            at = _past(call.submitted_at, now, age)
            if at == call.submitted_at:
                return message
            return structs.replace(message, call=replace(call, submitted_at=at))
        case MarkSent():
            at = _past(message.at, now, age)
            return message if at == message.at else MarkSent(message.call_id, at)
        case Observe():
            signals = _bounded(message.signals, now)
            return message if signals is None else Observe(message.call_id, signals)
        case Settle():
            outcome, signals = _sooner(message.outcome, now), _bounded(message.signals, now)
            if outcome is message.outcome and signals is None:
                return message
            return Settle(message.call_id, outcome, signals or message.signals)
        case (
            Resubmit()
            | EnterBatch()
            | LeaveBatch()
            | Decide()
            | SetCallPriority()
            | Reestimate()
            | AwaitRuns()
            | SaveRun()
            | ApplyChange()
            | DropWorker()
            | ProbeStopped()
            | Learn()
            | ChargeRequest()
            | Amend()
            | ForgetRuns()
        ):
            return message  # the core compares none of their times with its own
        case _:
            assert_never(message)


def _past(told: float, now: float, age: float) -> float:
    return min(now, max(told, now - age))


def _sooner(outcome: Outcome, now: float) -> Outcome:
    latest = now + LONGEST_STATED_SECONDS
    if outcome.not_before is None or outcome.not_before <= latest:
        return outcome
    return replace(outcome, not_before=latest)


def _bounded(signals: Mapping[str, Observation], now: float) -> dict[str, Observation] | None:
    """Return the signals with their pauses cut to the longest; None if none is too long."""
    latest = now + LONGEST_STATED_SECONDS
    cut = {
        quota: replace(each, pause_until=latest)
        for quota, each in signals.items()
        if each.pause_until is not None and each.pause_until > latest
    }
    return {**signals, **cut} if cut else None
