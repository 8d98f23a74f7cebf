"""The workers, as the leader sees them. Law: no worker's clock is believed.

The leader takes the messages of a worker in their order. The commit that writes their consequences
also deletes their request, so a leader that dies before leaves the request to the next leader. The
same commit writes the notification that tells the worker.
"""

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from types import MappingProxyType
from typing import assert_never

from msgspec import structs

from ..core.views import ProviderHealth
from ..errors import StoreError
from ..model.batch import NOTHING, Batch, OutboxRow
from ..model.calls import Outcome
from ..model.data import replace
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
from .pending import Callers, Completion, Decided, Pending, answer_here

DEATHS_SECONDS = 60.0
"""For how long the death of a worker speaks for the runs of workers that die after it."""

MOST_DEATHS = 100
"""How many such deaths are kept at most."""


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
        self._killed = deque[tuple[float, frozenset[str]]](maxlen=MOST_DEATHS)
        """Deaths that are nobody's fault here: when, and the runs that were executed. Only this
        leader's: without them a run is judged by its own deaths, as if no other worker died."""

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
        executed = frozenset(run.id for run in runs if run.state is RunState.RUNNING)
        now, found = self._clock(), Evidence()
        if died:
            found = await evidence(self._store, runs)
            found = Evidence(found.further, {*found.spared, *self._spared(executed, now)})
            left = after_death(runs, found, now)
        else:
            left = [released(run) for run in runs]
        messages: list[Message] = [DropWorker(worker_id), *(SaveRun(run) for run in left)]
        await self._callers.written(Pending(messages, Batch(left=(worker_id,))))
        if died and len(suspects(runs, found)) != 1:
            self._killed.append((now, executed))
        return left

    def _spared(self, executed: Iterable[str], now: float) -> set[str]:
        """Return the runs without which a worker died lately too, and no suspect was to blame."""
        lately = [runs for at, runs in self._killed if abs(now - at) < DEATHS_SECONDS]
        return {run_id for run_id in executed if any(run_id not in runs for runs in lately)}

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


def released(run: Run) -> Run:
    """Return a run without its worker: interrupted, if it was running."""
    state = RunState.INTERRUPTED if run.state is RunState.RUNNING else run.state
    return replace(run, state=state, worker=None)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Ids of a dead worker's runs of which more is known than that they were executed."""

    further: Collection[str] = ()
    """Runs that got a new answer since they were last resumed."""
    spared: Collection[str] = ()
    """Runs that most likely did not end it: they waited for a model's answer, so their own code was
    at rest; or workers without them die too, so somebody kills workers."""


async def evidence(store: Store, runs: Iterable[Run]) -> Evidence:
    """Read from the calls of a dead worker's runs which got further, and which waited."""
    further, waiting = set[str](), set[str]()
    for run in runs:
        if run.state is RunState.RUNNING and run.resumed_at is not None:
            try:
                calls = await store.calls(run.id, {CallState.DONE, *LIVE_CALLS})
            except StoreError:
                continue  # unreadable rows of one run must not keep the others from being released
            if any((each.finished_at or 0.0) >= run.resumed_at for each in calls):
                further.add(run.id)
            if any(each.state in LIVE_CALLS and each.call.is_paid for each in calls):
                waiting.add(run.id)
    return Evidence(further, waiting)


def suspects(runs: Iterable[Run], found: Evidence) -> list[Run]:
    """Return those of a dead worker's runs that it was to execute alone, and got no further."""
    executed = (run for run in runs if run.state is RunState.RUNNING)
    return [run for run in executed if run.is_suspect and run.id not in found.further]


def after_death(runs: Sequence[Run], found: Evidence, now: float) -> list[Run]:
    """Return the runs of one worker as they are once it has died: those executed lost one.

    Lives are lost in a row: a run that got further in this life has lost this one alone. A run that
    is spared loses a life only the third time. If another run of the worker was a suspect too,
    either may be to blame, and neither loses its last life.
    """
    most = LIVES if len(suspects(runs, found)) == 1 else LIVES - 1
    return [
        _after_death(run, found, most, now) if run.state is RunState.RUNNING else released(run)
        for run in runs
    ]


def _after_death(run: Run, found: Evidence, most: int, now: float) -> Run:
    """Take a life from a run whose worker died; ``most`` is how many it may have lost then."""
    lost_before = 0 if run.id in found.further else run.lives_lost
    lost_spared = run.lost_spared + 1 if run.id in found.spared else 0
    if 0 < lost_spared < LIVES:
        # No life is lost. But the run is a suspect, executed alone until it gets further.
        lives_lost = max(1, lost_before)
    else:
        lives_lost, lost_spared = min(lost_before + 1, most), 0
    left = replace(released(run), lives_lost=lives_lost, lost_spared=lost_spared)
    if lives_lost < LIVES:
        return left
    return replace(
        left,
        state=RunState.FAILED,
        finished_at=now,
        error=f"Quarantined: {LIVES} workers in a row died while they executed it, the last one "
        f"{run.worker}: see what it does to its process; `headway runs retry {run.id}` tries again",
    )


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
