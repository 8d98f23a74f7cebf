"""The async shell around the core: one pump, one batch, one commit.

Law of this file: nobody is woken before the commit that says so. Memory is never ahead of disk.

Theory of operation. Callers leave messages in a list and wake the pump. The pump takes all that
have gathered, tells them to the core, asks it whom to admit, commits everything that changed at
once, and only then answers the callers. While a commit runs, the next batch gathers: the busier it
is, the more calls share a sync. Idle, the pump sleeps until a message or until the time that the
core named; there is no polling.

If a commit fails, nothing that the batch promised holds: its callers get the error, the core is
thrown away and built again from the store, and calls that others still wait for go on. What the
failed batch could not record about calls whose callers are gone is recorded with the next commit.
If it fails because a row of it is refused, its halves are tried one after the other, and so on:
only the message that brought the row fails.

If the process dies: before the commit, the messages never happened; after it and before the
wake-up, a granted call is found *admitted* at the next start and becomes *unknown*.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

from ..core import inspection
from ..core.policy import Policy
from ..core.scheduler import Scheduler
from ..core.views import Explanation, ProviderHealth, Statistics
from ..errors import HeadwayError, KeyTaken, StoreError
from ..model import changes
from ..model.batch import Answer, Batch, Mail, Snapshot
from ..model.calls import CallRecord, Priority
from ..model.changes import Change, HoldState
from ..model.quotas import Observation, Quota
from ..model.runs import Run, Worker
from ..model.states import UNDER_WAY, RunState
from ..ports import Clock, Store
from ..protocol.codec import refused
from ..protocol.commands import Order
from ..protocol.envelopes import Handled, MessageBatch, Refusal
from ..protocol.messages import (
    ApplyChange,
    AwaitRuns,
    DropWorker,
    Learn,
    MarkSent,
    Message,
    Observe,
    ProbeStopped,
    SaveRun,
    SetCallPriority,
    Settle,
)
from ..protocol.outbox import OutboxBuilder
from .client import SchedulerClient
from .clock import system_clock
from .pending import NOTHING, Completion, Pending, answer_here, finals
from .workers import restamped

RETRY_COMMIT_SECONDS = 1.0
"""How long after a failed commit the next one is tried if nobody asks."""


class LocalScheduler(SchedulerClient):
    """Schedules the calls of this process, which admits. Use as an async context manager.

    ``on_change`` is called after every commit, for live views. One that does not ``admit`` yet
    gives no grants before :meth:`admit_from_here`.
    """

    def __init__(
        self,
        store: Store,
        quotas: Iterable[Quota],
        *,
        policy: Policy | None = None,
        clock: Clock | None = None,
        on_change: Callable[[Batch], None] = lambda batch: None,
        admits: bool = True,
    ) -> None:
        super().__init__(clock or system_clock())
        self._admits = admits
        self._store = store
        self._quotas = tuple(quotas)
        self._on_change = on_change
        self._policy = policy or Policy()
        self._core = Scheduler(self._quotas, self._clock(), self._policy)
        self._under_way: dict[str, Run] = {}
        self._waited_on: dict[str, frozenset[str]] = {}
        self._sending: set[str] = set()
        self._retry_at: float | None = None
        self._roll: dict[str, Worker] = {}

    async def _begin(self) -> None:
        """Go on from the store. What was in flight at a crash is unknown from here on.

        What belongs to a worker is that worker's, until :meth:`lose` says that it is dead.
        """
        self._roll = {worker.id: worker for worker in await self._store.workers()}
        assigned = [run for run in await self._store.assigned() if run.worker in self._roll]
        self._under_way = {run.id: run for run in assigned if run.state in UNDER_WAY}
        snapshot = await self._rebuild()
        self.know(snapshot.lessons)
        self._core.handle(ProbeStopped(), self._clock())
        if batch := self._core.take_batch(self._clock()):
            await self._store.commit(batch)

    # What callers ask

    async def sent(self, call_id: str) -> None:
        """Note that the request leaves now. Written with the next commit.

        The only in-memory change that may precede its commit. Safe: after a crash, ``admitted`` and
        ``sent`` both become ``unknown``.
        """
        now = self._clock()
        self._core.handle(MarkSent(call_id, now), now)

    def observed(self, call_id: str, quota: str, signals: Observation) -> None:
        """Take in what the head of an answer told of a quota. Written with the next commit.

        Nobody is woken for it, unless everybody waits for a sign of life of the provider.
        """
        if not self._closed:
            self._pending.append(Pending((Observe(call_id, {quota: signals}),)))
            state = self._core.state.lanes.quotas.get(quota)
            if state is not None and state.breaker.is_open:
                self._wake.set()

    def is_stopped(self, quota: str) -> bool:
        """Whether the provider's account is locked out: a bad key, no money."""
        return quota in self._health().locked_out

    def is_left_alone(self, quota: str) -> bool:
        """Whether nobody got an answer from the provider since its last fault."""
        return quota in self._health().unanswered

    def _health(self) -> ProviderHealth:
        return inspection.provider_health(self._core.state)

    async def bump(self, call_id: str, priority: Priority) -> None:
        """Change the class of a queued call. Raises IllegalTransition or StoreError."""
        await self._told(SetCallPriority(call_id, priority), answer_here())

    async def set_limits(self, quota: str, limits: Quota | None) -> Change:
        """Change a quota's limits, or go back to the configured ones; on disk when this returns.

        Raises UnknownQuota or StoreError.
        """
        return await self._change(changes.limits(quota, limits, self._clock()))

    async def set_weight(self, team: str, weight: float | None) -> Change:
        """Change a team's share, or go back to the configured one; on disk when this returns.

        Raises CallerError or StoreError.
        """
        return await self._change(changes.weight(team, weight, self._clock()))

    async def resume_quota(self, quota: str) -> Change:
        """Let one call try of a quota whose account was locked out; on disk when this returns.

        Raises UnknownQuota or StoreError.
        """
        return await self._change(changes.resume(quota, self._clock()))

    async def set_hold(self, target: str, state: HoldState) -> Change:
        """Open, pause or drain all, a class or a model; on disk when this returns.

        Raises CallerError or StoreError.
        """
        change = changes.gate(target, state, self._core.state.next_seq, self._clock())
        return await self._change(change)

    async def answer(self, answer: Answer) -> None:
        """Say what became of a letter, unless a commit has said it. Raises StoreError."""
        await self._noted(Batch(answers=(answer,)))

    # Other processes

    @property
    def workers(self) -> Mapping[str, Worker]:
        """Who executes runs, by id."""
        return self._roll

    def admit_from_here(self) -> None:
        """Give grants from now on."""
        self._admits = True
        self._wake.set()

    async def enlist(self, worker: Worker) -> None:
        """Take a process on that executes runs, or what it says anew of itself.

        Raises StoreError.
        """
        await self._noted(Batch(joined=(worker,)))
        self._roll[worker.id] = worker

    def deliver(self, request_id: int, batch: MessageBatch, *, age: float = inf) -> Completion:
        """Take what a worker tells, at once; the completion is set when it is on disk.

        What of it is refused goes back in a notification. Nothing is taken from a worker that is
        not listed. ``age`` is how old the request is, in seconds, where the engine can tell.
        """
        now = self._clock()
        worker = batch.worker_id
        joined = () if batch.joins is None else (batch.joins,)
        self._roll |= {each.id: each for each in joined}
        is_listed = worker in self._roll
        also = Batch(taken=(request_id,), seen=((worker, batch.seen),), joined=joined)
        return self._delivered(
            Pending(
                [restamped(each, now, age) for each in batch.messages] if is_listed else (),
                also,
                sender=worker,
                request_id=request_id,
                evicted=not is_listed,
            )
        )

    def deliver_unreadable(self, request_id: int, worker: str, why: str) -> Completion:
        """Tell a worker that nothing of its batch could be read; on disk when it is completed."""
        also = Batch(taken=(request_id,))
        return self._delivered(
            Pending((), also, sender=worker, request_id=request_id, unreadable=why)
        )

    def _delivered(self, pending: Pending) -> Completion:
        pending.completion = completion = Completion()
        self._send(pending)
        return completion

    async def lose(self, worker: str) -> list[Run]:
        """Take the runs of a worker that is dead away from it; on disk when this returns.

        They are interrupted, or queued as they were. Everything that it told must have been
        delivered. Raises StoreError; it may be said again then.
        """
        self._roll.pop(worker, None)
        runs = [run for run in await self._store.assigned() if run.worker == worker]
        left = [let_go(run) for run in runs]
        messages: list[Message] = [DropWorker(worker), *(SaveRun(run) for run in left)]
        completion = Completion()
        self._send(Pending(messages, Batch(left=(worker,)), completion))
        await completion.wait()
        return left

    async def order(self, worker: str, order: Order, run: Run | None = None) -> None:
        """Tell a worker what an operator wants, with a row that changes for it.

        Raises StoreError.
        """
        completion, orders = Completion(), ((worker, order),)
        if run is None:
            self._send(Pending((), completion=completion, orders=orders))
        else:
            self._send(Pending((SaveRun(run),), answer_here(), completion, orders=orders))
        await completion.wait()

    def explain(self, call_id: str) -> Explanation | None:
        """What a queued call waits for; None if it is not live."""
        return inspection.explain(self._core.state, call_id, self._clock())

    def queued(self) -> list[CallRecord]:
        """Every queued call, next one first. Read only."""
        return inspection.queued(self._core.state)

    def statistics(self) -> Statistics:
        """How many wait and are in flight, and every gauge."""
        return inspection.statistics(self._core.state, self._clock())

    async def _noted(self, also: Batch) -> None:
        """Write what does not concern the core, and wait until it is on disk."""
        completion = Completion()
        self._send(Pending((), also, completion))
        await completion.wait()

    async def _change(self, change: Change) -> Change:
        await self._told(ApplyChange(change), answer_here(change))
        return change

    # The pump

    def _next_iteration_at(self, now: float) -> float | None:
        if self._retry_at is not None or not self._admits:
            return self._retry_at
        return self._core.next_event(now)

    async def _iterate(self) -> None:
        """Everything that has gathered: one batch, unless a row of it is refused."""
        parts, self._pending = [self._pending], []
        while parts:
            part = parts.pop()
            try:
                iteration = await self._commit(part)
            except KeyTaken as error:
                self._retry_at = self._clock()
                if len(part) > 1:
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
                elif part and part[0].sender is not None:
                    self._pending.append(part[0].refused_for(error))
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
                self._answer(part, iteration)
                if iteration.batch:
                    self._on_change(iteration.batch)

    async def _commit(self, pendings: list[Pending]) -> "_Iteration":
        """Tell the core, ask it, and commit. Takes out of ``pendings`` what the core refused."""
        if self._retry_at is not None:
            await self._rebuild()
        now = self._clock()
        pendings[:] = [pending for pending in pendings if self._tell(pending, now)]
        grants = self._core.admit(now) if self._admits and not self._closed else []
        preempted = self._core.take_preempted()
        batch = self._core.take_batch(now)
        if also := [pending.also for pending in pendings if pending.also is not NOTHING]:
            batch = batch.joined_with(also)
        if mail := self._mail(pendings, grants, preempted):
            batch = replace(batch, mail=mail)
        if batch:
            await self._store.commit(batch)
        return _Iteration(batch, grants, preempted)

    def _tell(self, pending: Pending, now: float) -> bool:
        """Tell the core; a caller's mistake goes back to that caller alone."""
        for number, message in enumerate(pending.messages):
            try:
                self._core.handle(message, now, pending.sender)
            except HeadwayError as error:
                pending.refused[number] = error
                continue
            if isinstance(message, AwaitRuns):
                self._waited_on[message.run_id] = message.on
                if not message.on:
                    del self._waited_on[message.run_id]
            elif isinstance(message, Learn) and pending.sender is not None:
                self.know(message.lessons)
        if pending.sender is not None:
            return True
        for refusal in pending.refused.values():
            if pending.completion is None:
                raise refusal
            pending.complete(refusal)
        return not pending.refused

    def _mail(
        self,
        pendings: Sequence[Pending],
        grants: Sequence[CallRecord],
        preempted: Sequence[CallRecord],
    ) -> tuple[Mail, ...]:
        """What a commit tells workers: what became of what they told, and what they may send."""
        outbox = OutboxBuilder()
        for pending in pendings:
            for worker, order in pending.orders:
                outbox.order(worker, order)
            if pending.sender is not None:
                refusals = (Refusal(n, refused(error)) for n, error in pending.refused.items())
                handled = Handled(pending.request_id, tuple(refusals), pending.unreadable)
                outbox.handled(pending.sender, handled, evicted=pending.evicted)
        for record in grants:
            if record.worker is not None:
                outbox.grant(record.worker, record)
        for record in preempted:
            if record.worker is not None:
                outbox.preempt(record.worker, record.call.id)
        if not outbox:
            return ()
        health = self._health()
        return outbox.rows(health.unanswered, health.locked_out)

    def _answer(self, accepted: list[Pending], iteration: "_Iteration") -> None:
        """The commit stands: wake those who told something, and those who may send."""
        for pending in accepted:
            pending.stands = True
            for message in pending.accepted():
                self._note(message)
            if not pending.until_granted:
                pending.complete()
        for record in iteration.preempted:
            if (act := self._on_preempt.get(record.call.id)) is not None:
                act()
        for record in iteration.grants:
            # A caller that was cancelled meanwhile has an abandon on its way.
            if record.worker is not None:
                continue
            self._sending.add(record.call.id)
            if waiting := self._waiting.get(record.call.id):
                waiting.granted = record.call
                waiting.complete()

    def _note(self, message: Message) -> None:
        """Keep what the store does not tell a core that is built again."""
        if isinstance(message, Settle):
            self._sending.discard(message.call_id)
        elif isinstance(message, SaveRun):
            run = message.run
            self._under_way[run.id] = run
            if run.state not in UNDER_WAY:
                del self._under_way[run.id]

    def _fail(self, pendings: list[Pending], error: Exception) -> None:
        """The commit does not stand: say so, keep what must still be recorded, rebuild later."""
        for pending in pendings:
            pending.complete(error)
        self._pending += [Pending((message,)) for message in finals(pendings)]

    async def _rebuild(self) -> Snapshot:
        """Build the core from the store. Raises StoreError and leaves the old one then."""
        snapshot = await self._store.snapshot()
        now = self._clock()
        core = Scheduler(self._quotas, now, self._policy)
        runs = self._under_way.values()
        core.restore(snapshot, now, self._has_caller, runs=runs, awaited=self._waited_on)
        self._core = core
        self._retry_at = None
        return snapshot

    def _has_caller(self, record: CallRecord) -> bool:
        """Whether a call on disk is somebody's; not yet, if asking again is still to stand."""
        if record.worker is not None:
            return record.worker in self._roll
        call_id = record.call.id
        waiting = self._waiting.get(call_id)
        return call_id in self._sending or (waiting is not None and waiting.stands)


@dataclass(frozen=True, slots=True)
class _Iteration:
    """What a commit did."""

    batch: Batch
    grants: list[CallRecord]
    preempted: list[CallRecord]


def let_go(run: Run) -> Run:
    """A run that nobody executes any more."""
    state = RunState.INTERRUPTED if run.state is RunState.RUNNING else run.state
    return replace(run, state=state, worker=None)
