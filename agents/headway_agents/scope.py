"""Which run and which agent is asking. Law of this file: no answer is guessed when one is known.

Theory of operation. A :class:`RunScope` is one attempt of one run. When a team is bound, every
holder of a client gets a handle of its own that knows its scope and path: that is the rule, and it
holds whatever task, runtime or thread of control asks. A client that nobody bound (one in a
closure, say) falls back on the context: the runner sets ``current_scope`` before ``run_stream``,
whose runtime copies the context once, and AutoGen says whose message is being handled.

Nothing new is asked of the world before every recorded answer has been delivered: a new request
waits at the *door*. If then all is *quiet* (nothing in flight, nothing delivered, nothing asked
for a while), recorded answers that nobody wants any more mean that the workflow changed. The same
quiet ends an attempt that waits for a person, or is paused, when its last branch waits.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Never

from autogen_core import MessageHandlerContext

from headway_scheduler.errors import CallerError, RunClosed
from headway_scheduler.model.calls import Call, CallRecord, Priority
from headway_scheduler.model.states import CallState
from headway_scheduler.runtime.client import SchedulerClient

from .journal.outcomes import Changed, Paused, Stop, Waits, WouldAsk
from .journal.recorded import INSIDE, Journal, Replay, Turns
from .requests.prompts import Taken

MODEL = "model"
"""The kind of a call that a model client makes; steps are of other kinds."""
SDK = "sdk"
"""The kind of a call that is made through OpenAI's own SDK."""

UNKNOWN_AGENT = "caller"
"""The path of a request that no agent made: a script that asks a model by itself."""

QUIET_SECONDS = 2.0
"""How long nothing must happen before recorded answers count as unwanted."""
WAITING_SECONDS = 0.2
"""How long nothing must happen before a run that waits for a person leaves its process. What it
does meanwhile outside of the journal is done again when it goes on."""

_TEAM_SUFFIX = re.compile(r"_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")


@dataclass(frozen=True, slots=True)
class Place:
    """A request's place in the journal: its id, its key, and the row if it was asked before."""

    id: str
    kind: str
    path: str
    taken: Taken
    occurrence: int
    record: CallRecord | None
    is_answered: bool

    @property
    def is_inside(self) -> bool:
        """Whether a step asks, while it acts. Its answers come and go without a turn."""
        return INSIDE in self.path

    @property
    def agent(self) -> str:
        """Who asks, in whatever step: what is learned of an agent is not learned for each step."""
        return self.path.partition(INSIDE)[0]


class RunScope:
    """One attempt of a run: knows its journal, numbers its calls, ends them all when it is closed.

    Call ids are ``run_id.n``. ``error`` is the last error that went to an agent: AutoGen loses its
    type on the way. ``stopped`` says why the attempt was ended from inside. ``person`` asks
    somebody who is there, if anybody is. Its calls draw on ``quotas`` beside those of their
    models; ``counts_usd`` if one of them is of dollars. ``may_pay`` is asked before each new call
    and raises if the run's budget does not cover it.
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
        self.error: Exception | None = None
        self.stopped: Stop | None = None
        self.on_stop: Callable[[], None] = lambda: None
        self.person: Callable[[str], Awaitable[str]] | None = None
        self.quotas: tuple[str, ...] = ()
        self.counts_usd = False
        self.may_pay: Callable[[Call], None] = lambda call: None
        self.known_links: set[bytes] = set()
        # By id, for ``behind``. A table beside the scope would keep it: a server's client knows it.
        self.behind: dict[int, Any] = {}
        self.replayed = 0
        self.is_check = False
        self._replay = Replay(self.journal)
        self._first_new = self._first_arrival()
        answers = [row.arrival for row in self._replay.answers() if row.arrival is not None]
        self.turns = Turns(answers, self._first_new)
        self._next_call = self.journal.first_call()
        self._occurrences: Counter[tuple[str, str, str]] = Counter()
        self._live: dict[str, Callable[[BaseException], None]] = {}
        self._acting = 0
        self._at_door: dict[str, Place] = {}
        self._opened = asyncio.Event()
        self._activity = 0
        self._closed = False
        self._is_interrupted = False
        self._is_paused = False
        self._for_person: str | None = None

    # SchedulerClient

    def place(self, kind: str, path: str, taken: Taken) -> Place:
        """Find the place of a request, or make one. Raises RunClosed."""
        if self._closed:
            raise self.ended()
        if (step := _acting.get()) is not None and step[0] is self:
            path = f"{path}{INSIDE}{step[1]}"
        key = (kind, path, taken.request_hash)
        occurrence = self._occurrences[key]
        self._occurrences[key] += 1
        self._stir()
        record = self._replay.take((*key, occurrence))
        if record is None:
            call_id = f"{self.run_id}.{self._next_call}"
            self._next_call += 1
            return Place(call_id, kind, path, taken, occurrence, None, False)
        self.known_links.update(link.hash for link, _ in taken.chain)
        is_answer = self._replay.is_answer(record)
        return Place(record.call.id, kind, path, taken, occurrence, record, is_answer)

    async def turn(self, arrival: int) -> None:
        """Wait until an answer may be delivered."""
        self._stir()
        try:
            await self.turns.wait(arrival)
        finally:
            if self._is_free():
                self._opened.set()
            self._stir()

    async def delivered(self, place: Place) -> None:
        """Wait until a recorded answer may be given back."""
        assert place.record is not None
        if place.is_inside:
            return
        assert place.record.arrival is not None
        await self.turn(place.record.arrival)
        self.replayed += 1

    async def door(self, place: Place) -> None:
        """Wait until something new may be asked: all that is recorded has been delivered."""
        if place.is_inside or (self._is_free() and not self.is_check):
            return
        self._at_door[place.id] = place
        if place.record is None and self._is_change(place):
            self._halt(place)
        try:
            while not self._is_free():
                self._opened.clear()
                self._stir()
                await self._opened.wait()
            if self.is_check:
                self.stop(WouldAsk(place.path, place.kind, place.record))
                await asyncio.Event().wait()  # until the attempt is closed
        finally:
            self._at_door.pop(place.id, None)
            self._stir()

    def must_decide(self, record: CallRecord) -> bool:
        """Whether a person has to say what becomes of a model call that was cut off."""
        return record.state is CallState.UNKNOWN and self.journal.unknown_waits

    async def for_person(self, place: Place) -> Never:
        """Wait for a person who is not there: the attempt ends when nothing else goes on."""
        self._for_person = self._for_person or place.id
        self._at_door[place.id] = place
        self._stir()
        await asyncio.Event().wait()  # until the attempt is closed
        raise AssertionError

    # Ending

    @contextmanager
    def acting(self, place: Place) -> Iterator[None]:
        """Note that what is asked for in here belongs to the step that acts."""
        token = _acting.set((self, place.id))
        try:
            yield
        finally:
            _acting.reset(token)

    def attach(self, call_id: str, cancel: Callable[[BaseException], None]) -> None:
        """Have ``cancel`` called with the reason if the scope is closed while the call lives."""
        self._live[call_id] = cancel

    def failed(self, error: Exception) -> None:
        """Keep what a call raised; what closing makes of the others is not why the run failed."""
        if not self._closed:
            self.error = error

    def detach(self, call_id: str) -> None:
        """Forget a call that has ended."""
        self._live.pop(call_id, None)
        self._stir()

    def begin(self) -> None:
        """Note that something is in flight: it is not quiet."""
        self._acting += 1

    def end(self) -> None:
        """Note that it no longer is."""
        self._acting -= 1
        self._stir()

    def pause(self) -> None:
        """End the attempt at the next call, when what is in flight has come back."""
        self._is_paused = True
        self._opened.clear()
        self._stir()

    def stop(self, reason: Stop) -> None:
        """End the attempt from inside, for a reason that is no error of an agent."""
        if self.stopped is None and not self._closed:
            self.stopped = reason
            self.close(interrupted=True)
            self.on_stop()

    def close(self, *, interrupted: bool = False) -> None:
        """End every live call, queued or in flight, and let no other begin. May be repeated.

        AutoGen alone would go on: a team that is not listened to any more keeps asking. What was
        in flight of an attempt that is ``interrupted`` is unknown from here on.
        """
        self._is_interrupted = self._is_interrupted or (interrupted and not self._closed)
        self._closed = True
        for cancel in list(self._live.values()):
            cancel(self.ended())

    @property
    def is_interrupted(self) -> bool:
        """Whether it was closed before its run was over."""
        return self._is_interrupted

    def unasked(self) -> list[CallRecord]:
        """Recorded answers that the workflow, now over, never asked for."""
        return self._replay.unasked()

    def check_finished(self) -> None:
        """Stop if the workflow ended while answers that it once asked for are left."""
        if self.unasked():
            self._halt(None)

    # Inside

    def _first_arrival(self) -> int:
        rows = (*self.journal.inherited, *self.journal.records)
        return max((row.arrival for row in rows if row.arrival is not None), default=-1) + 1

    def _is_replaying(self) -> bool:
        head = self.turns.head()
        return head is not None and head < self._first_new

    def _is_free(self) -> bool:
        """Whether new requests may go: at replay's end, live answers never close the door."""
        return not self._is_paused and not self._is_replaying()

    def _is_change(self, place: Place) -> bool:
        """Whether a request without a row shows at once that the workflow changed.

        Rows are written in the order in which a path asks, so it cannot have lost this one and
        kept a later one. Other paths may be late; for them it takes quiet.
        """
        key = (place.kind, place.path)
        rows = [] if self.journal.by_order else self.unasked()
        return any((row.call.kind, row.call.path) == key for row in rows)

    def _stir(self) -> None:
        """Something happened: look again, later, whether all is quiet."""
        self._activity += 1
        if self._closed or not (self._at_door or self.turns.waiting):
            return
        seconds = QUIET_SECONDS if self._is_replaying() else WAITING_SECONDS
        asyncio.get_running_loop().call_later(seconds, self._look, self._activity)

    def _look(self, activity: int) -> None:
        if activity != self._activity or self._closed or self._acting:
            return
        if self._is_replaying():
            self._halt(next(iter(self._at_door.values()), None))
        elif self._for_person is not None:
            self.stop(Waits(self._for_person))
        elif self._is_paused:
            self.stop(Paused())

    def _halt(self, place: Place | None) -> None:
        """Nothing is paid and nothing is written: a person decides."""
        unasked = self.unasked()
        near = [row for row in unasked if place is None or row.call.path == place.path]
        self.stop(
            Changed(
                path=None if place is None else place.path,
                kind=None if place is None else place.kind,
                asked=() if place is None else tuple(place.taken.pieces()),
                nearest=next(iter(near or unasked), None),
                replayed=self.replayed,
                next_arrival=self.turns.head(),
            )
        )

    def ended(self) -> RunClosed:
        """What is raised to whoever still asks."""
        return RunClosed(
            f"run {self.run_id} has ended: its agents may ask for nothing more; "
            "resume it or submit a new one"
        )


_acting: ContextVar[tuple[RunScope, str] | None] = ContextVar("headway_acting", default=None)

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
