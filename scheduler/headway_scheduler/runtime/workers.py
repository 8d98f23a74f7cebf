"""The workers, as the leader sees them. Law: no worker's clock is believed.

What a worker tells is taken in its order and written with the row that says so; whoever leads by
then takes what is not. What a worker is told goes with the commit that makes it true.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from types import MappingProxyType
from typing import assert_never

from msgspec import structs

from ..core.views import ProviderHealth
from ..errors import StoreError
from ..model.batch import NOTHING, Batch, OutboxRow
from ..model.calls import Outcome
from ..model.formulas import LONGEST_STATED_SECONDS
from ..model.quotas import Observation
from ..model.runs import LIVES, Run, Worker
from ..model.states import LIVE_CALLS, CallState, RunState
from ..ports import Clock, Store
from ..protocol.codec import refused
from ..protocol.commands import Order
from ..protocol.envelopes import Handled, MessageBatch, Refusal
from ..protocol.messages import (
    Amend,
    ApplyChange,
    AwaitRuns,
    Decide,
    DropWorker,
    ForgetRuns,
    Learn,
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
from .pending import Callers, Completion, Decided, Pending, answer_here


class Workers:
    """The listed workers, and what is done with them.

    A worker is listed from its first batch, or from a command, until it is dropped: then nothing
    that it tells is taken any more.
    """

    def __init__(self, store: Store, clock: Clock, callers: Callers) -> None:
        self._store = store
        self._clock = clock
        self._callers = callers
        self._listed: dict[str, Worker] = {}
        self.listed: Mapping[str, Worker] = MappingProxyType(self._listed)
        """By id, as it is at any time."""

    async def begin(self) -> None:
        """List those that the store knows. Raises StoreError."""
        self._listed |= {worker.id: worker for worker in await self._store.workers()}

    async def enlist(self, worker: Worker) -> None:
        """List a process that executes runs, or what it states anew. Raises StoreError."""
        await self._callers.written(Pending((), Batch(joined=(worker,))))
        self._listed[worker.id] = worker

    async def begin_term(self) -> None:
        """Write that this leader has begun. Raises StoreError."""
        await self._callers.written(Pending((), Batch(begins=True)))

    def deliver(self, request_id: int, batch: MessageBatch, *, age: float = inf) -> Completion:
        """Take what a worker tells, at once; the completion is set when it is on disk.

        What of it is refused goes back in a notification. ``age`` is how old the request is, in
        seconds, where the engine can tell.
        """
        now, worker_id = self._clock(), batch.worker_id
        joined = () if batch.joins is None else (batch.joins,)
        # Before its first messages are on disk: its next batch may be delivered while they are not.
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
        """Tell a worker that nothing of its batch could be read; on disk when it is completed.

        ``is_kept``: its batch is set aside, for people to look at.
        """
        also = Batch(taken=(request_id,), set_aside=((request_id, why),) if is_kept else ())
        return self._callers.waited(
            Pending((), also, sender=worker_id, request_id=request_id, unreadable=why)
        )

    async def drop(self, worker_id: str, *, died: bool = False) -> list[Run]:
        """Take the runs of a worker that is gone away from it; on disk when this returns.

        They are interrupted, or queued as they were. If it ``died``, each that it executed has lost
        a life.
        Everything that it told must have been delivered. Raises StoreError; it may be said again
        then.
        """
        self._listed.pop(worker_id, None)
        runs = [run for run in await self._store.assigned() if run.worker == worker_id]
        if died:
            left = bereaved(runs, await evidence(self._store, runs), self._clock())
        else:
            left = [released(run) for run in runs]
        messages: list[Message] = [DropWorker(worker_id), *(SaveRun(run) for run in left)]
        await self._callers.written(Pending(messages, Batch(left=(worker_id,))))
        return left

    async def order(self, worker_id: str, order: Order, run: Run | None = None) -> None:
        """Tell a worker what to do with a run, and write the row that changes for it, if one does.

        Raises StoreError.
        """
        messages = () if run is None else (SaveRun(run),)
        also = NOTHING if run is None else answer_here()
        await self._callers.written(Pending(messages, also, orders=((worker_id, order),)))


def notifications(
    told: Iterable[Pending], decided: Decided, health: ProviderHealth
) -> tuple[OutboxRow, ...]:
    """What a commit tells workers: what became of what they told, and what they are to do."""
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
    return outbox.rows(health.unanswered, health.locked_out)


def released(run: Run) -> Run:
    """Return a run as it is once nobody executes it any more."""
    state = RunState.INTERRUPTED if run.state is RunState.RUNNING else run.state
    return replace(run, state=state, worker=None)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the calls of a dead worker's runs say of its death. Ids of runs."""

    further: Collection[str] = ()
    """Those of which a new answer came in their last life."""
    waiting: Collection[str] = ()
    """Those that waited for an answer when it died."""


async def evidence(store: Store, runs: Iterable[Run]) -> Evidence:
    """Read what the calls of runs say of the death of their worker."""
    further, waiting = set[str](), set[str]()
    for run in runs:
        if run.state is RunState.RUNNING and run.resumed_at is not None:
            try:
                calls = await store.calls(run.id, {CallState.DONE, *LIVE_CALLS})
            except StoreError:
                continue  # rows of it that cannot be read must not keep others from being released
            if any((each.finished_at or 0.0) >= run.resumed_at for each in calls):
                further.add(run.id)
            if any(each.state in LIVE_CALLS and each.call.is_paid for each in calls):
                waiting.add(run.id)
    return Evidence(further, waiting)


def bereaved(runs: Sequence[Run], found: Evidence, now: float) -> list[Run]:
    """Return the runs of one worker as they are once it has died: those executed lost a life.

    Lives are lost in a row: a run that got further in this one has lost one only. One that waited
    for an answer loses a life the third time: most likely somebody killed the process. The last
    life counts only if nobody else can be to blame: no other run of this worker was suspect. So a
    run that was beside one that takes workers down is not quarantined.
    """
    executed = {run.id for run in runs if run.state is RunState.RUNNING}
    suspects = sum(run.is_suspect for run in runs if run.id in executed - {*found.further})
    most = LIVES if suspects == 1 else LIVES - 1
    return [
        _bereaved(run, found, most, now) if run.id in executed else released(run) for run in runs
    ]


def _bereaved(run: Run, found: Evidence, most: int, now: float) -> Run:
    lost_before = 0 if run.id in found.further else run.lives_lost
    lost_waiting = run.lost_waiting + 1 if run.id in found.waiting else 0
    if run.id in found.waiting and lost_waiting < LIVES:
        lives_lost = max(1, lost_before)  # it is alone from here on, until it gets further
    else:
        lives_lost, lost_waiting = min(lost_before + 1, most), 0
    left = replace(released(run), lives_lost=lives_lost, lost_waiting=lost_waiting)
    if left.lives_lost < LIVES:
        return left
    return replace(
        left,
        state=RunState.FAILED,
        finished_at=now,
        error=f"Quarantined: {LIVES} workers in a row died while they executed it, the last one "
        f"{run.worker}: see what it does to its process; `headway runs retry {run.id}` tries again",
    )


def restamped(message: Message, now: float, age: float = inf) -> Message:
    """Return a worker's message with its times as the leader's clock allows them.

    A time that has passed lies between ``now - age`` and ``now``, where ``age`` is how old the
    request is, in seconds by the database's clock; unbounded where the engine has none. A time to
    come is at most ``LONGEST_STATED_SECONDS`` ahead. On one machine all processes have the same
    time, and nothing changes.
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
            | Decide()
            | SetCallPriority()
            | Reestimate()
            | AwaitRuns()
            | SaveRun()
            | ApplyChange()
            | DropWorker()
            | ProbeStopped()
            | Learn()
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
    """The signals with pauses that are not too long; None if they are so already."""
    latest = now + LONGEST_STATED_SECONDS
    if all(each.pause_until is None or each.pause_until <= latest for each in signals.values()):
        return None
    return {
        quota: replace(each, pause_until=min(each.pause_until, latest))
        if each.pause_until is not None
        else each
        for quota, each in signals.items()
    }
