"""The verbs of callers, and how they wait. Law: no caller goes on before its message is on disk.

Theory of operation. Callers leave messages in a list and wake the pump, which takes all that have
gathered at once. The subclass says where they go from there: to the core of this process
(``local``), or to the leader's (``remote``). A process that loses the lead goes from the one to the
other while its callers wait on: they hold a :class:`SessionClient`.
"""

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import inf
from types import TracebackType
from typing import Any, Protocol, Self

import anyio
from anyio.abc import TaskGroup

from ..core.runs.token_estimates import TOKENS, Estimates
from ..core.views import ProviderHealth
from ..errors import SchedulerClosed
from ..model.batch import Lesson
from ..model.batches import BatchedRequest
from ..model.calls import Call, CallRecord, Outcome, Route, Usage
from ..model.prompts import NO_PROMPT, Prompt
from ..model.quotas import Observation
from ..model.runs import Run
from ..ports import Clock
from ..protocol.messages import (
    Amend,
    ChargeRequest,
    Decide,
    EnterBatch,
    ForgetRuns,
    Learn,
    Reestimate,
    Resubmit,
    SaveRun,
    Settle,
    Submit,
)
from .pending import Callers, answer_here

ANSWERED = "answered"
"""The kind of the lessons that an address has answered."""
MOST_ADDRESSES = 10_000
"""How many addresses are kept that have answered; further ones count as new in each process."""

_log = logging.getLogger("headway")


class Iterates(Protocol):
    """The object that a pump drives."""

    def next_at(self) -> float | None:
        """When to iterate although nobody told anything; None for never."""

    async def iterate(self) -> None:
        """Take what has gathered, and answer its callers. An error ends the client."""


class SchedulerClient(ABC):
    """Schedules the calls of this process, for ``callers``; by default, its own."""

    def __init__(self, clock: Clock, callers: Callers | None = None) -> None:
        self.now: Clock = clock
        """The scheduler's time, epoch seconds."""
        self._callers = callers or Callers()
        self.on_preempt: dict[str, Callable[[], None]] = self._callers.on_preempt
        """By call id: the function that cancels a request in flight and queues its call again."""
        self._estimates = Estimates()
        self.reestimates: dict[str, tuple[str, Callable[[], tuple[Route, ...]]]] = {}
        """By the id of a call that may wait for dollars: its agent, and what estimates it anew."""

        self.ends: dict[str, Outcome] = self._callers.ends
        """By the id of a call that waits: its end, where its wait is cancelled for that."""
        self.answered: set[str] = set()
        """Addresses of servers that have answered, in whatever process."""
        self.silent: dict[str, Any] = {}
        """By address: how a caller knows that nobody gets an answer there. Emptied by answers."""
        self.lessons: Callable[[], Awaitable[Iterable[Lesson]]] | None = None
        """Reads what was learned elsewhere since, in a process that follows."""

    # Calls

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
        message = Submit(call, None if prompt == NO_PROMPT else prompt, routes)
        return await self._callers.granted(call.id, message)

    async def reacquire(self, record: CallRecord, routes: tuple[Route, ...] = ()) -> Call:
        """Queue a call of an earlier attempt again, at its old place, and wait as for a new one.

        It is parked, unknown, failed or cancelled. Raises what :meth:`acquire` does.
        """
        return await self._callers.granted(record.call.id, Resubmit(record, routes))

    async def ask(self, call: Call, prompt: Prompt = NO_PROMPT) -> None:
        """Write down a question to a person; on disk when this returns. It is never admitted."""
        message = Submit(call, None if prompt == NO_PROMPT else prompt, parked=True)
        await self._callers.tell(message)

    async def decide(self, record: CallRecord, outcome: Outcome) -> None:
        """Record a person's decision on a parked or unknown call: done, queued or cancelled.

        Raises NothingToAnswer if it waits for none, or StoreError if it is not on disk.
        """
        await self._callers.tell(Decide(record, outcome))

    async def enter_batch(self, request: BatchedRequest) -> None:
        """Keep the request of an admitted call for the next batch; on disk when this returns.

        The call needs nobody any more then. Raises StoreError.
        """
        await self._callers.tell(EnterBatch(request))

    def adopt(self, records: Iterable[CallRecord]) -> None:
        """Take over live calls that this process did not ask for: of a batch."""
        # A process that leads has them in its core.
        del records

    async def amend(self, *records: CallRecord) -> None:
        """Write rows of finished calls anew. Raises StoreError if they are not on disk."""
        await self._callers.tell(Amend(records))

    async def forget(self, *run_ids: str) -> None:
        """Delete ended runs, their calls, and texts that no other call holds.

        A run that has not ended, or that one which stays began as a copy of, is left as it is.
        Raises StoreError; nothing was deleted then.
        """
        await self._callers.tell(ForgetRuns(run_ids))

    async def settle(
        self, call_id: str, outcome: Outcome, signals: Mapping[str, Observation] | None = None
    ) -> None:
        """Record how a call ended; on disk when this returns.

        Cancelling the wait does not undo it. Raises StoreError if it is not on disk yet: it will
        be recorded with the next commit that succeeds.
        """
        await self._callers.tell(Settle(call_id, outcome, signals or {}))

    async def retry(
        self, call_id: str, outcome: Outcome, signals: Mapping[str, Observation] | None = None
    ) -> Call:
        """Queue an attempted call again at its old place and wait until it may be sent again.

        ``outcome`` has the state queued. Raises StoreError; the call has failed then.
        """
        message = Settle(call_id, outcome, signals or {})
        return await self._callers.granted(call_id, message)

    def abandon(self, call_id: str, outcome: Outcome) -> None:
        """Settle without waiting, for a caller that is being cancelled."""
        if not self._callers.is_closed:
            self._callers.post(Settle(call_id, outcome))

    async def save_run(self, run: Run) -> None:
        """Write a run; on disk when this returns. Raises KeyTaken or StoreError if it is not."""
        await self._callers.tell(SaveRun(run), answer_here())

    def note_run(self, run: Run, *, spent_usd: float = 0.0) -> None:
        """Write a run no later than the calls that are asked for after this.

        ``spent_usd``: what its rows show to be spent of its budget.
        """
        self._callers.post(SaveRun(run, spent_usd))

    @contextmanager
    def waiting(self, run_id: str, on: str) -> Iterator[None]:
        """Inside this block, run ``run_id`` waits for run ``on``.

        That one is as urgent meanwhile (priority inheritance), and this one needs no slot of its
        worker.
        """
        self._callers.waits[run_id, on] += 1
        self._callers.post(self._callers.awaiting(run_id))
        try:
            yield
        finally:
            self._callers.waits -= Counter([(run_id, on)])
            if not self._callers.is_closed:
                self._callers.post(self._callers.awaiting(run_id))

    def expected(self, path: str, model: str, characters: int, cap: int | None) -> Usage:
        """Return the expected usage of a call of an agent to a model, by its earlier calls."""
        return self._estimates.of(path, model, characters, cap)

    def most(
        self, path: str, model: str, characters: int, most_tokens: int, cap: int | None
    ) -> tuple[Usage, bool]:
        """Return what a call takes at most, and whether that is to be relied on."""
        return self._estimates.most(path, model, characters, most_tokens, cap)

    def learn(self, path: str, model: str, characters: int, usage: Usage) -> None:
        """Take in what a call took. Written with the next commit.

        Calls of the agent that wait are estimated anew, once its answers are enough for that.
        """
        was_proven = not self.reestimates or self._estimates.is_proven(path, model)
        if lessons := self._estimates.learn(path, model, characters, usage):
            self._callers.post(Learn(tuple(lessons)))
        if not was_proven and self._estimates.is_proven(path, model):
            for call_id, (agent, routes) in self.reestimates.items():
                if agent == path:
                    self._callers.post(Reestimate(call_id, routes()))

    def reroute(self, call_id: str, routes: tuple[Route, ...]) -> None:
        """Leave these routes alone to a call that waits. Written with the next commit."""
        if not self._callers.is_closed:
            self._callers.post(Reestimate(call_id, routes))

    def charge_request(self, quotas: Iterable[str], call: Call | None = None) -> None:
        """Charge a request that nobody admitted; ``call`` is its row, if it has one.

        Written with the next commit. Nothing happens once the scheduler is closed.
        """
        if not self._callers.is_closed:
            self._callers.post(ChargeRequest(tuple(quotas), call))

    def note_answer(self, address: str | None) -> None:
        """Note that the server at an address answers. Written with the next commit."""
        if address is None:
            return
        self.silent.pop(address, None)
        if address not in self.answered and len(self.answered) < MOST_ADDRESSES:
            self.answered.add(address)
            if not self._callers.is_closed:
                self._callers.post(Learn((Lesson(ANSWERED, address, "true"),)))

    async def has_answered(self, address: str) -> bool:
        """Whether the server at an address has ever answered, in whatever process."""
        if address not in self.answered and self.lessons is not None:
            self.know(await self.lessons())
        return address in self.answered

    def know(self, lessons: Iterable[Lesson]) -> None:
        """Take in what was learned before, or elsewhere."""
        for lesson in lessons:
            if lesson.kind == ANSWERED and len(self.answered) < MOST_ADDRESSES:
                self.answered.add(lesson.subject)
            if lesson.kind == TOKENS:
                try:
                    self._estimates.load(lesson)
                except Exception as error:  # of whatever kind: it may come from disk
                    _log.warning("lesson %s is left out (%s)", lesson.subject, error)

    @property
    def waiting_calls(self) -> int:
        """How many calls of this process wait to be admitted."""
        return len(self._callers.waiting)

    @abstractmethod
    async def sent(self, call_id: str) -> None:
        """Note that the request leaves now. Written with the next commit.

        Waits until it may leave: a worker that was cut off from the others asks them first. Raises
        StoreTakenOver; it must not leave then.
        """

    @abstractmethod
    def observed(self, call_id: str, quota: str, signals: Observation) -> None:
        """Take in what the head of an answer told of a quota. Written with the next commit.

        Nobody is woken for it, unless everybody waits for a sign of life of the provider.
        """

    @abstractmethod
    def provider_health(self) -> ProviderHealth:
        """Which quotas' providers do not answer as they should, as far as this process knows."""


class PumpedClient(SchedulerClient):
    """A client with a pump of its own. Use as an async context manager."""

    _closing_seconds = inf
    """How long closing waits for an iteration that is under way."""

    def __init__(self, clock: Clock, callers: Callers | None = None) -> None:
        super().__init__(clock, callers)
        self._life = anyio.CancelScope(shield=True)
        self._shield = anyio.CancelScope()
        self._give_up_at = inf
        self._tasks: TaskGroup

    async def __aenter__(self) -> Self:
        """Begin. Raises StoreError."""
        pump = await self._begin()
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._run, pump, name="headway pump")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        self._shield.deadline = self._give_up_at = anyio.current_time() + self._closing_seconds
        self._life.cancel()
        return await self._tasks.__aexit__(kind, error, trace)

    @abstractmethod
    async def _begin(self) -> Iterates:
        """Do what comes before the first iteration, and return what iterates."""

    async def _run(self, pump: Iterates) -> None:
        callers = self._callers
        try:
            # Only closing ends it: callers that are being cancelled still have things to tell.
            with self._life:
                while True:
                    at = pump.next_at()
                    await callers.wakeup.wait(None if at is None else at - self.now())
                    # A commit that has begun is waited for: without its end, its callers would not
                    # know whether it stands.
                    with anyio.CancelScope(shield=True) as self._shield:
                        await pump.iterate()
        finally:
            callers.is_closed = True
            try:
                # Not after a commit that was given up: the core is ahead of the disk by then.
                if anyio.current_time() < self._give_up_at:
                    with anyio.CancelScope(shield=True, deadline=self._give_up_at):
                        await pump.iterate()
            finally:
                self._answer_all(SchedulerClosed("the scheduler was closed while this call waited"))

    def _answer_all(self, error: Exception) -> None:
        """Let nobody wait any more."""
        self._callers.complete_all(error)


class SessionClient(SchedulerClient):
    """Schedules the calls of a process that leads, and goes on when another process leads.

    What its callers told and wait for stays theirs, whoever carries it out.
    """

    def __init__(
        self, clock: Clock, through: SchedulerClient, callers: Callers, worker: str | None
    ) -> None:
        super().__init__(clock, callers)
        self._estimates = through._estimates
        self.answered: set[str] = through.answered
        self.worker: str | None = worker
        """The worker that the rows of its calls name; None if this process executes no runs."""
        self.callers: Callers = callers
        """The callers whose messages it takes."""
        self.through: SchedulerClient = through
        """The scheduler that is used now: of this process, or of the leader."""

    def close(self) -> None:
        """Take no more messages. Callers that still wait are answered when the scheduler closes."""
        self.callers.is_closed = True

    async def sent(self, call_id: str) -> None:
        """Note that the request leaves now. Raises StoreTakenOver; it must not leave then."""
        await self.through.sent(call_id)

    def adopt(self, records: Iterable[CallRecord]) -> None:
        """Take over live calls that this process did not ask for: of a batch."""
        self.through.adopt(records)

    def observed(self, call_id: str, quota: str, signals: Observation) -> None:
        """Take in what the head of an answer told of a quota. Written with the next commit."""
        self.through.observed(call_id, quota, signals)

    def provider_health(self) -> ProviderHealth:
        """Which quotas' providers do not answer as they should."""
        return self.through.provider_health()

    async def has_answered(self, address: str) -> bool:
        """Whether the server at an address has ever answered, in whatever process."""
        return address in self.answered or await self.through.has_answered(address)
