"""One attempt of a run, as its calls see it: the asynchronous shell of the replay machine.

Law of this file: it decides nothing. It tells the machine (``journal/machine.py``) what happened,
and does what the machine asks for: resolves futures, starts timers, cancels calls.

All of it runs on one event loop, and no method awaits between telling the machine and doing what it
asks. So between two awaits the tasks of the agents, of the scheduler and of timers see machine,
futures and live calls in agreement; after each await anything may have changed, the end of the
attempt included.

A request belongs to the scope and path of the client that makes it. Binding a team gives every
holder of a client a handle that knows both, whatever task, runtime or thread asks. A client that
was not bound (in a closure, say) falls back on the context: the runner sets ``current_scope``
before ``run_stream``, AutoGen's runtime copies the context once, and AutoGen says which agent's
message it is handling. If several teams share a runtime, its context is that of the team that
started it.
"""

import asyncio
import re
from asyncio import get_running_loop
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, assert_never

from autogen_core import MessageHandlerContext

from headway_scheduler.errors import CallerError
from headway_scheduler.model.calls import BYPASS, Priority, ServiceLane
from headway_scheduler.runtime.client import SchedulerClient

from .journal.events import (
    AnswerCame,
    CancelCalls,
    CloseAsked,
    Deliver,
    Delivered,
    End,
    JournalSlot,
    LeftBarrier,
    Numbered,
    OpenBarrier,
    Opened,
    Pass,
    PauseAsked,
    PersonNeeded,
    Quiet,
    ReachedBarrier,
    Ready,
    ReplayEffect,
    ReplayEvent,
    Requested,
    Settle,
    Settled,
    Skipped,
    StartTimer,
    StopAsked,
    WorkBegan,
    WorkEnded,
)
from .journal.machine import ReplayMachine, run_closed
from .journal.outcomes import AttemptOutcome
from .journal.recorded import NESTED, Journal
from .requests.prompts import RequestDigest

SETTLING_ITERATIONS = 16
"""Iterations of the event loop between two deliveries, in which AutoGen passes an answer on.

With 0 iterations, 20 to 38 % of replays with parallel branches differed from the recorded run; with
16, none of 40 did.
"""

LiveCalls = dict[str, Callable[[BaseException], None]]
"""By the id of each live call, the function that cancels it for a given reason."""

UNKNOWN_AGENT = "caller"
"""The path of a request that no agent made, such as a script's own."""

# AutoGen builds the type of an agent from its name and the id of its team.
_TEAM_SUFFIX = re.compile(r"_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")


class RunScope:
    """One attempt of a run: its machine, its live calls, and the settings that they share.

    ``error``: the last error that an agent got; AutoGen passes on its text alone. ``stopped``: why
    the attempt was ended from inside, None if it was not; ``on_stop`` is called then. ``person``
    asks a person who is present, None if nobody is. ``quotas``: quotas that all calls draw on,
    beside those of their models; ``money_quotas``: those of them that count dollars alone;
    ``counts_usd``: whether one of them counts dollars or the run has a budget. ``lane``: the lane
    that its background calls may take. ``watch`` is told of requests past the scheduler, None where
    nobody minds them; ``bypassed``: how many there were, in all attempts. ``highest``: the most
    urgent class that its calls may ask for; ``lowered``: agents whose calls asked for a more urgent
    one. ``known_nodes``: hashes of chain nodes that are on disk. ``is_closed``: whether every
    further request is refused.
    """

    def __init__(
        self,
        scheduler: SchedulerClient,
        run_id: str,
        priority: Priority,
        *,
        journal: Journal | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.run_id = run_id
        self.priority = priority
        self.highest = Priority.INTERACTIVE
        self.lowered: set[str] = set()
        self.journal: Journal = journal or Journal()
        self.machine: ReplayMachine = ReplayMachine(run_id, self.journal)
        self.error: Exception | None = None
        self.stopped: AttemptOutcome | None = None
        self.on_stop: Callable[[], None] = lambda: None
        self.person: Callable[[str], Awaitable[str]] | None = None
        self.quotas: tuple[str, ...] = ()
        self.counts_usd = False
        self.money_quotas: tuple[str, ...] = ()
        self.lane = ServiceLane.STANDARD
        self.watch: Callable[[Any], None] | None = None
        rows = (row for row in self.journal.records if row.call.kind == BYPASS)
        self.bypassed: int = sum(1 for _ in rows)
        self.known_nodes: set[bytes] = set()
        # By the id() of the wrapped part. They are kept here, and not in a table of the wrappers'
        # module, so that they end with the attempt: an MCP server holds a client, and the client
        # holds this scope.
        self.lazy_starts: dict[int, Any] = {}
        self.live_calls: LiveCalls = {}
        self.is_closed: bool = False
        self._deliveries: dict[int, asyncio.Future[None]] = {}
        self._opened = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._loop = _running_loop()

    def for_next_call(self) -> "RunScope":
        """Return the scope that the next call belongs to: this one."""
        return self

    def open_slot(self, kind: str, path: str, digest: RequestDigest) -> JournalSlot:
        """Find the slot of a request in the journal, or open a new one.

        Raises RunClosed, and CallerError in an event loop that does not execute the run: nothing
        would wake up there.
        """
        if self._loop is not None and _running_loop() is not self._loop:
            raise CallerError(
                f"run {self.run_id} is executed in another event loop, or thread: make the code "
                "that asks async and await it there, or use asyncio.run_coroutine_threadsafe"
            )
        if (step := _inside.get()) is not None and step[0] is self:
            path = f"{path}{NESTED}{step[1]}"
        opened, *_ = self.tell(Requested(kind, path, digest.request_hash, digest.chunks))
        assert isinstance(opened, Opened)
        if opened.slot.record is not None:
            self.known_nodes.update(node.hash for node, _ in digest.chain)
        return opened.slot

    async def replay_barrier(self, slot: JournalSlot) -> None:
        """Wait until the run may make a new request: every recorded answer was delivered."""
        if slot.is_unordered:
            return
        try:
            while Pass() not in self.tell(ReachedBarrier(slot)):
                # A pause may come after the barrier opens and before this task runs: ask again.
                self._opened.clear()
                await self._opened.wait()
        except BaseException:
            self.tell(LeftBarrier(slot))
            raise

    async def for_person(self, slot: JournalSlot) -> None:
        """Wait for a person who is not there. The attempt ends once nothing else goes on."""
        self.tell(PersonNeeded(slot))
        await asyncio.Event().wait()  # the end of the attempt cancels the call

    def number(self) -> int:
        """Return the arrival number of an answer that came. Raises RunClosed."""
        for effect in self.tell(AnswerCame()):
            if isinstance(effect, Numbered):
                return effect.arrival
        raise run_closed(self.run_id)

    async def deliver(self, arrival: int, *events: ReplayEvent) -> None:
        """Wait for the turn of answer ``arrival``; its agent gets it when this returns.

        ``events`` happened right before the answer was ready. If this raises, the answer is
        skipped, because the next answer would wait for it for ever.
        """
        if Deliver(arrival) in self.tell(*events, Ready(arrival)):
            return
        delivery = self._deliveries[arrival] = get_running_loop().create_future()
        try:
            await delivery
        except BaseException:
            self.tell(Skipped(arrival))
            raise
        finally:
            del self._deliveries[arrival]
        self.tell(Delivered(arrival))

    def pause(self) -> None:
        """End the attempt at its next call, once what is in flight has come back."""
        self.tell(PauseAsked())

    def stop(self, outcome: AttemptOutcome) -> None:
        """End the attempt now, with ``outcome``."""
        self.tell(StopAsked(outcome))

    def close(self, *, interrupted: bool = False) -> None:
        """End every live call, queued or in flight, and let no other begin. Idempotent.

        AutoGen alone would go on making requests for a team whose stream is left. ``interrupted``:
        the run is not over, so calls in flight become unknown instead of cancelled.
        """
        self.tell(CloseAsked(interrupted))

    def note_work(self, change: WorkBegan | WorkEnded) -> None:
        """Take in that a call is in flight from here on, or is no longer."""
        self.tell(change)

    def tell(self, *events: ReplayEvent) -> list[ReplayEffect]:  # noqa: C901 - one match over all effects
        """Tell the machine what happened, do what it asks for, and return its effects.

        Raises RunClosed for a request to a closed run.
        """
        effects: list[ReplayEffect] = []
        for event in events:
            effects += self.machine.handle(event)
        for effect in effects:
            match effect:
                case Opened() | Pass() | Numbered():
                    pass  # the caller reads these
                case Deliver(arrival):
                    delivery = self._deliveries.get(arrival)
                    if delivery is None:  # `deliver` has not waited yet: it returns at once
                        effects += self.machine.handle(Delivered(arrival))
                    elif not delivery.done():
                        # A delivery that is done was cancelled in this iteration of the loop: its
                        # task has not run since, and will skip the answer.
                        delivery.set_result(None)
                case Settle():
                    settled: Callable[[], object] = partial(self.tell, Settled())
                    for _ in range(SETTLING_ITERATIONS - 1):
                        settled = partial(get_running_loop().call_soon, settled)
                    get_running_loop().call_soon(settled)
                case OpenBarrier():
                    self._opened.set()
                case StartTimer(seconds, activity):
                    if self._timer is not None:
                        self._timer.cancel()
                    quiet = partial(self.tell, Quiet(activity))
                    self._timer = get_running_loop().call_later(seconds, quiet)
                case End(outcome):
                    self.stopped = outcome
                    self.on_stop()
                case CancelCalls():
                    self.is_closed = True
                    # A copy, because a call that is cancelled may leave the table at once.
                    for cancel in list(self.live_calls.values()):
                        cancel(run_closed(self.run_id))
                case _:
                    assert_never(effect)
        return effects


class AdHocScope(RunScope):
    """The calls of a program that belong to no run. They are never replayed.

    A program may make any number of them, so this scope keeps nothing of a call that has ended.
    Without a replay, the order of parallel answers need not repeat: each is delivered as it comes.
    After ``most_calls``, or ``until`` then (epoch seconds), ``renew`` gives the scope of another
    run.
    """

    def __init__(
        self,
        scheduler: SchedulerClient,
        run_id: str,
        priority: Priority,
        *,
        renew: "Callable[[], AdHocScope]",
        most_calls: int,
        until: float,
    ) -> None:
        super().__init__(scheduler, run_id, priority)
        self._renew = renew
        self._most_calls = most_calls
        self._until = until
        self.opened: int = 0
        """How many calls there were."""

    @property
    def is_over(self) -> bool:
        """Whether it takes no further call."""
        return self.opened >= self._most_calls or self.scheduler.now() > self._until

    def for_next_call(self) -> RunScope:
        """Return the scope that the next call belongs to: this one, or that of the next run."""
        return self._renew() if self.is_over else self

    def open_slot(self, kind: str, path: str, digest: RequestDigest) -> JournalSlot:
        """Open a new slot. Raises RunClosed."""
        if self.is_closed:
            raise run_closed(self.run_id)
        call, self.opened = self.opened, self.opened + 1
        return JournalSlot(
            id=f"{self.run_id}.{call}",
            kind=kind,
            path=path,
            request_hash=digest.request_hash,
            occurrence=call,
            record=None,
            is_answered=False,
            was_cut_off=False,
            is_unordered=True,
            agent=path,
            chunks=digest.chunks,
        )

    def note_work(self, change: WorkBegan | WorkEnded) -> None:
        """Do nothing: no timer waits until these calls are over."""


@contextmanager
def inside_step(scope: RunScope, slot: JournalSlot, name: str) -> Iterator[None]:
    """Nest the requests of this block: they belong to the step that acts."""
    token = _inside.set((scope, slot.id, name, slot.path))
    try:
        yield
    finally:
        _inside.reset(token)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return get_running_loop()
    except RuntimeError:
        return None


def acting_agent() -> str:
    """Return the path of the agent whose step acts, else the agent whose message is handled."""
    return asking_agent() if (step := _inside.get()) is None else step[3]


def acting_step() -> str:
    """Return the name of the step that acts, for messages; empty outside of steps."""
    return "" if (step := _inside.get()) is None else step[2]


_inside: ContextVar[tuple[RunScope, str, str, str] | None] = ContextVar(
    "headway_inside_step", default=None
)

current_scope: ContextVar[RunScope | None] = ContextVar("headway_current_scope", default=None)
"""The scope of clients that nobody bound."""


def scope_of_context(model: str) -> RunScope:
    """Return the scope that the runner set. Raises CallerError if there is none."""
    if (scope := current_scope.get()) is None:
        raise CallerError(
            f"the client of model {model!r} belongs to no run: have Headway run the team that "
            "holds it, or set headway_agents.current_scope before asking it"
        )
    return scope


def asking_agent() -> str:
    """Return the name of the agent whose message AutoGen is handling, else ``UNKNOWN_AGENT``.

    In nested teams that is the innermost agent, so it is no full path.
    """
    try:
        agent = MessageHandlerContext.agent_id().type
    except RuntimeError:
        return UNKNOWN_AGENT
    return _TEAM_SUFFIX.sub("", agent)
