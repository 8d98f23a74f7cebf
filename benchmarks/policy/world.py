"""Runs, clients and the provider in simulated time. Law of this file: no clock, no I/O.

Theory of operation. A heap of things to do at a time. A run asks for its calls one after the
other; a call that is *ready* is handed to the contender, which sends it when it likes. A request
travels for a few milliseconds to 0.2 s (``NETWORK_SECONDS``), in both directions; then the provider
accepts or refuses it. What the contender learns, it learns when the answer is back.

A call waits from when it is ready to when the request that was accepted left. A call that is on
its way for the first time does not wait; one that its client gave up waits for ever.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush
from random import Random
from typing import Protocol

from headway_scheduler.model.calls import Priority

from .provider import SLICE_SECONDS, Budget, Provider
from .workload import Job, Step

NETWORK_SECONDS = (0.005, 0.2)
LONGEST = 10
"""A simulation ends after as many times the time of the arrivals, whatever is left."""


@dataclass(slots=True, eq=False)
class Running:
    """A run under way. ``died_at``: when its client gave up."""

    job: Job
    next_step: int = 0
    ended_at: float | None = None
    died_at: float | None = None


@dataclass(slots=True, eq=False)
class Request:
    """A call of a run that is ready, and how it goes with it."""

    id: str
    run: Running
    step: Step
    ready_at: float
    sent_at: float | None = None
    refusals: int = 0
    is_waiting: bool = False

    @property
    def priority(self) -> Priority:
        return self.run.job.priority


class Contender(Protocol):
    """One way to decide when calls go."""

    def began(self, run: Running) -> None:
        """A run has arrived; its first call comes next."""

    def ready(self, request: Request) -> None:
        """A call may go: sooner or later, ``World.send`` it."""

    def refused(self, request: Request, retry_after: float) -> None:
        """A 429 has come back: send it again, or give up."""

    def answered(self, request: Request) -> None:
        """The answer is back; the run's next call comes after this."""

    def ended(self, run: Running) -> None:
        """The last answer of a run is back."""


@dataclass(slots=True)
class Wait:
    """How long a call waited. ``at``: when it was ready."""

    priority: Priority
    at: float
    seconds: float


@dataclass(slots=True)
class Ledger:
    """What was seen. ``taken`` and ``lost_idle``: of the tokens, when the arrivals ended."""

    waits: list[Wait] = field(default_factory=list)
    runs: list[Running] = field(default_factory=list)
    taken: float = 0.0
    lost_idle: float = 0.0


class World:
    """One simulation."""

    def __init__(self, jobs: Iterable[Job], budget: Budget, seed: int) -> None:
        self.now = 0.0
        self.provider = Provider(budget)
        self.ledger = Ledger()
        self.rng = Random(seed)
        self._jobs = list(jobs)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._waiting = 0
        self._contender: Contender

    def run(self, contender: Contender, seconds: float) -> Ledger:
        """Go on until every run has ended. ``seconds``: when the last may arrive."""
        self._contender = contender
        for job in self._jobs:
            self.at(job.arrives_at, partial(self._begin, job))
        self.at(seconds, self._read)
        while self._heap and self._heap[0][0] <= LONGEST * seconds:
            self.now, _, act = heappop(self._heap)
            act()
        return self.ledger

    def at(self, when: float, act: Callable[[], None]) -> None:
        self._number += 1
        heappush(self._heap, (max(when, self.now), self._number, act))

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        self.at(self.now + seconds, act)

    def send(self, request: Request) -> None:
        """Let a call leave now."""
        request.sent_at = self.now
        if not request.refusals:
            self._set_waiting(request, False)
        self.after(self._travel(), partial(self._arrive, request))

    def give_up(self, request: Request) -> None:
        """The client raises, and the run dies of it."""
        request.run.died_at = self.now

    def _begin(self, job: Job) -> None:
        run = Running(job)
        self.ledger.runs.append(run)
        self._contender.began(run)
        self._step(run)

    def _step(self, run: Running) -> None:
        step = run.job.steps[run.next_step]
        request = Request(f"{run.job.id}/{run.next_step}", run, step, self.now)
        run.next_step += 1
        self._set_waiting(request, True)
        self._contender.ready(request)

    def _arrive(self, request: Request) -> None:
        step = request.step
        retry_after = self.provider.request(step.input_tokens, step.output_tokens, self.now)
        if retry_after is not None:
            request.refusals += 1
            self._set_waiting(request, True)
            self.after(self._travel(), partial(self._contender.refused, request, retry_after))
            return
        self._set_waiting(request, False)
        assert request.sent_at is not None
        waited = request.sent_at - request.ready_at
        self.ledger.waits.append(Wait(request.priority, request.ready_at, waited))
        self.after(step.seconds, partial(self._finish, request))
        if self.provider.output is not None:
            self._stream(step)

    def _stream(self, step: Step) -> None:
        slices = max(1, round(step.seconds / SLICE_SECONDS))
        for index in range(slices):
            at = self.now + step.seconds * (index + 1) / slices
            self.at(at, lambda: self.provider.emitted(step.output_tokens / slices, self.now))

    def _finish(self, request: Request) -> None:
        step = request.step
        self.provider.ended(step.input_tokens, step.output_tokens, self.now)
        self.after(self._travel(), partial(self._answer, request))

    def _answer(self, request: Request) -> None:
        run = request.run
        self._contender.answered(request)
        if run.next_step < len(run.job.steps):
            self._step(run)
        else:
            run.ended_at = self.now
            self._contender.ended(run)

    def _set_waiting(self, request: Request, is_waiting: bool) -> None:
        if request.is_waiting is not is_waiting:
            request.is_waiting = is_waiting
            self._waiting += 1 if is_waiting else -1
            self.provider.waited_for(self._waiting > 0, self.now)

    def _read(self) -> None:
        self.provider.advance(self.now)
        self.ledger.taken = self.provider.tokens.taken
        self.ledger.lost_idle = self.provider.tokens.lost_idle

    def _travel(self) -> float:
        return self.rng.uniform(*NETWORK_SECONDS)
