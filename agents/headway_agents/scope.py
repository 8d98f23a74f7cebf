"""One attempt of a run, as its calls see it: the asynchronous shell of the replay machine.

Law of this file: it decides nothing. What happened goes to the machine (``journal/machine.py``),
and what the machine asks for is done here: futures are resolved, timers started, calls cancelled.

Which scope and which agent a request belongs to is not guessed where it is known. When a team is
bound, every holder of a client gets a handle of its own that knows its scope and path, whatever
task, runtime or thread asks. A client that nobody bound (one in a closure, say) falls back on the
context: the runner sets ``current_scope`` before ``run_stream``, whose runtime copies the context
once, and AutoGen says whose message is being handled. On a runtime that several teams share, the
context is that of whoever started it.
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
from headway_scheduler.model.calls import Call, Priority
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
)
from .journal.machine import ReplayMachine, run_closed
from .journal.outcomes import AttemptOutcome
from .journal.recorded import NESTED, Journal
from .requests.prompts import RequestDigest

SETTLING_ITERATIONS = 16
"""Of the event loop, between two deliveries: what AutoGen needs to pass an answer on."""

LiveCalls = dict[str, Callable[[BaseException], None]]
"""By id, what cancels each call that lives, given the reason."""

UNKNOWN_AGENT = "caller"
"""The path of a request that no agent made: a script that asks a model by itself."""

# AutoGen makes the type of an agent of its name and the id of its team.
_TEAM_SUFFIX = re.compile(r"_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")


class RunScope:
    """One attempt of a run: its journal, its live calls, and what they have in common.

    ``error`` is the last error that went to an agent: AutoGen loses its type on the way.
    ``stopped`` says why the attempt was ended from inside, and ``on_stop`` is called then.
    ``person`` asks somebody who is there, if anybody is. Its calls draw on ``quotas`` beside those
    of their models; ``counts_usd`` if one of them is of dollars. ``may_pay`` is asked before each
    new call and raises if the run's budget does not cover it. ``known_nodes`` are on disk.
    ``live_calls`` are what cancels each call, given the reason.
    """

    def __init__(
        self,
        service: SchedulerClient,
        run_id: str,
        priority: Priority,
        journal: Journal | None = None,
    ) -> None:
        self.service = service
        self.run_id = run_id
        self.priority = priority
        self.journal = journal or Journal()
        self.machine = ReplayMachine(run_id, self.journal)
        self.error: Exception | None = None
        self.stopped: AttemptOutcome | None = None
        self.on_stop: Callable[[], None] = lambda: None
        self.person: Callable[[str], Awaitable[str]] | None = None
        self.quotas: tuple[str, ...] = ()
        self.counts_usd = False
        self.may_pay: Callable[[Call], None] | None = None
        self.known_nodes: set[bytes] = set()
        # By id of what is started. A table beside the scope would keep the scope alive: the client
        # of a server knows it.
        self.lazy_starts: dict[int, Any] = {}
        self.live_calls: LiveCalls = {}
        self._deliveries: dict[int, asyncio.Future[None]] = {}
        self._opened = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def open_slot(self, kind: str, path: str, digest: RequestDigest) -> JournalSlot:
        """Find the journal's slot of a request, or make one. Raises RunClosed."""
        if (step := _inside.get()) is not None and step[0] is self:
            path = f"{path}{NESTED}{step[1]}"
        opened, *_ = self.tell(Requested(kind, path, digest.request_hash, digest.chunks))
        assert isinstance(opened, Opened)
        if opened.slot.record is not None:
            self.known_nodes.update(node.hash for node, _ in digest.chain)
        return opened.slot

    async def replay_barrier(self, slot: JournalSlot) -> None:
        """Wait until something new may be asked: all that is recorded has been delivered."""
        if slot.is_nested:
            return
        try:
            while Pass() not in self.tell(ReachedBarrier(slot)):
                # A pause may come between the opening and this task's next turn: so ask again.
                self._opened.clear()
                await self._opened.wait()
        except BaseException:
            self.tell(LeftBarrier(slot))
            raise

    async def for_person(self, slot: JournalSlot) -> None:
        """Wait for a person who is not there. The attempt ends when nothing else goes on."""
        self.tell(PersonNeeded(slot))
        await asyncio.Event().wait()  # until the attempt is closed

    def number(self) -> int:
        """Take the number of an answer that has come. Raises RunClosed."""
        for effect in self.tell(AnswerCame()):
            if isinstance(effect, Numbered):
                return effect.arrival
        raise run_closed(self.run_id)

    async def deliver(self, arrival: int, *events: ReplayEvent) -> None:
        """Wait until answer ``arrival`` may go to its agent; it goes when this returns.

        ``events`` happened right before it was ready.
        """
        delivery = self._deliveries[arrival] = get_running_loop().create_future()
        try:
            self.tell(*events, Ready(arrival))
            await delivery
        except BaseException:
            self.tell(Skipped(arrival))
            raise
        finally:
            del self._deliveries[arrival]
        self.tell(Delivered(arrival))

    def pause(self) -> None:
        """End the attempt at the next call, when what is in flight has come back."""
        self.tell(PauseAsked())

    def stop(self, outcome: AttemptOutcome) -> None:
        """End the attempt from inside, for a reason that is no error of an agent."""
        self.tell(StopAsked(outcome))

    def close(self, *, interrupted: bool = False) -> None:
        """End every live call, queued or in flight, and let no other begin. May be repeated.

        AutoGen alone would go on: a team that is not listened to any more keeps asking. What was
        in flight of an attempt that is ``interrupted`` is unknown from here on.
        """
        self.tell(CloseAsked(interrupted))

    def tell(self, *events: ReplayEvent) -> list[ReplayEffect]:  # noqa: C901 - one match over all effects
        """Have the machine take events in, do what it asks for, and return that.

        Raises RunClosed if a closed run is asked for something.
        """
        effects: list[ReplayEffect] = []
        for event in events:
            effects += self.machine.handle(event)
        for effect in effects:
            match effect:
                case Opened() | Pass() | Numbered():
                    pass  # answers to whoever told the event
                case Deliver(arrival):
                    # Cancelled in this very turn of the loop, it skips its number when it runs.
                    if not (delivery := self._deliveries[arrival]).done():
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
                    for cancel in list(self.live_calls.values()):
                        cancel(run_closed(self.run_id))
                case _:
                    assert_never(effect)
        return effects


@contextmanager
def inside_step(scope: RunScope, slot: JournalSlot) -> Iterator[None]:
    """Note that what is asked for in here belongs to the step that acts."""
    token = _inside.set((scope, slot.id))
    try:
        yield
    finally:
        _inside.reset(token)


_inside: ContextVar[tuple[RunScope, str] | None] = ContextVar("headway_inside_step", default=None)

current_scope: ContextVar[RunScope | None] = ContextVar("headway_current_scope", default=None)
"""The scope of clients that nobody bound."""


def scope_of_context(model: str) -> RunScope:
    """Return the scope that the runner set. Raises CallerError without one."""
    if (scope := current_scope.get()) is None:
        raise CallerError(
            f"the client of model {model!r} belongs to no run: have Headway run the team that "
            "holds it, or set headway_agents.current_scope before asking it"
        )
    return scope


def asking_agent() -> str:
    """Return the name of the agent whose message AutoGen is handling, else ``UNKNOWN_AGENT``.

    In nested teams that is the innermost, so it is no full path.
    """
    try:
        agent = MessageHandlerContext.agent_id().type
    except RuntimeError:
        return UNKNOWN_AGENT
    return _TEAM_SUFFIX.sub("", agent)
