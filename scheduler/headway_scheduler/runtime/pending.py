"""What callers tell the scheduler, and how they get their answer. Law: it decides nothing.

A *message* is data, so that another process can say it as well. An *event* is one or several of
them, told together, and whoever waits for what becomes of it.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

from ..core.scheduler import Scheduler
from ..errors import HeadwayError, own_copy
from ..model.batch import Answer, Batch, Lesson
from ..model.calls import Call, CallRecord, Outcome, Priority, Route
from ..model.changes import Change
from ..model.prompts import NO_PROMPT, Prompt
from ..model.quotas import Observation
from ..model.runs import Order, Run
from ..model.states import CallState

NOTHING = Batch()

Answering = Callable[[Change | None], Answer]
"""Writes down that a letter was carried out, with the change that an operator made by it."""

_answering: ContextVar[Answering | None] = ContextVar("answering", default=None)


@contextmanager
def answering(answer: Answering) -> Iterator[None]:
    """Carry out a letter of another process: whatever commit changes something here answers it.

    Of a verb with several commits only the last one may change runs, limits, weights or gates.
    """
    token = _answering.set(answer)
    try:
        yield
    finally:
        _answering.reset(token)


def answer_here(change: Change | None = None) -> Batch:
    """What the commit of a change of this task answers: the letter that it carries out, if any."""
    answer = _answering.get()
    return NOTHING if answer is None else Batch(answers=(answer(change),))


class Reply:
    """What a caller waits for: set once, after the commit."""

    __slots__ = ("_error",)

    def __init__(self) -> None:
        # A bare future: every call waits twice, and an anyio.Event costs four times as much.
        self._error: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def set(self, error: Exception | None = None) -> None:
        """Let the caller go on, or raise ``error`` there. What was set before stays."""
        if not self._error.done():
            self._error.set_result(error)

    async def wait(self) -> None:
        """Wait for the answer. Raises the error that it is, as an object of this caller's own."""
        if (error := await self._error) is not None:
            raise own_copy(error)


@dataclass(slots=True, eq=False)
class Message:
    """One thing that a caller tells. ``signals`` are those of an attempt at the call ``about``.

    A ``submit`` that is ``parked`` asks a person; ``waits`` is a run, and the runs that it waits
    for; ``rows`` are rows of finished calls, written anew; ``disown`` names a worker that is gone.
    """

    submit: Call | None = None
    resubmit: CallRecord | None = None
    routes: tuple[Route, ...] = ()
    parked: bool = False
    prompt: Prompt = NO_PROMPT
    decide: tuple[CallRecord, Outcome] | None = None
    sent: tuple[str, float] | None = None
    settle: tuple[str, Outcome] | None = None
    signals: Mapping[str, Observation] | None = None
    about: str = ""
    bump: tuple[str, Priority] | None = None
    waits: tuple[str, frozenset[str]] | None = None
    disown: str | None = None
    run: Run | None = None
    change: Change | None = None
    lessons: tuple[Lesson, ...] = ()
    rows: tuple[CallRecord, ...] = ()
    forget: tuple[str, ...] = ()

    def tell(self, core: Scheduler, now: float, worker: str | None = None) -> None:
        """Tell the core what a ``worker`` says, or this process. What is raised changed nothing.

        So signals, which may be wrong by themselves, come first.
        """
        for quota, signals in (self.signals or {}).items():
            core.observe(quota, signals, now, self.about)
        if self.submit is not None:
            core.submit(self.submit, now, routes=self.routes, parked=self.parked, worker=worker)
        elif self.resubmit is not None:
            core.resubmit(self.resubmit, now, routes=self.routes, worker=worker)
        elif self.settle is not None:
            core.settle(*self.settle, now)
        elif self.decide is not None:
            core.decide(*self.decide, now)
        elif self.sent is not None:
            core.sent(*self.sent)
        elif self.bump is not None:
            core.bump(*self.bump, now)
        else:
            self._tell_of_runs(core, now)

    def _tell_of_runs(self, core: Scheduler, now: float) -> None:
        if self.waits is not None:
            core.wait(*self.waits, now)
        elif self.run is not None:
            core.track(self.run, now)
        elif self.change is not None:
            core.apply(self.change, now)
        elif self.disown is not None:
            core.disown(self.disown, now)

    @property
    def as_final(self) -> "Message | None":
        """What to record once there is room, when the caller was told that it is not recorded."""
        if self.settle is None:
            return None
        call_id, outcome = self.settle
        if outcome.state is CallState.QUEUED:
            outcome = Outcome(CallState.FAILED, error=outcome.error, sent=outcome.sent)
        return Message(settle=(call_id, outcome), signals=self.signals, about=self.about)


@dataclass(slots=True, eq=False)
class Event:
    """What was told at once. Once it is on disk it ``stands``, and ``reply`` is set.

    ``also`` is written with it. ``refused`` has the errors of messages that the core did not take,
    by number. With ``until_granted`` the reply waits on until the call is admitted, as it is
    ``granted``. What another process tells has its ``sender`` and the id of the letter; that of one
    that others took for dead ``is_of_nobody``. ``orders`` go to other processes.
    """

    messages: Sequence[Message]
    also: Batch = NOTHING
    reply: Reply | None = None
    sender: str | None = None
    letter_id: int = 0
    is_of_nobody: bool = False
    orders: tuple[tuple[str, Order], ...] = ()
    until_granted: bool = False
    granted: Call | None = None
    stands: bool = False
    refused: dict[int, HeadwayError] = field(default_factory=dict[int, HeadwayError])

    def tell(self, core: Scheduler, now: float) -> None:
        """Tell the core every message, and keep what it refuses."""
        for number, message in enumerate(self.messages):
            try:
                message.tell(core, now, self.sender)
            except HeadwayError as error:
                self.refused[number] = error

    def refused_for(self, error: HeadwayError) -> "Event":
        """The same event, with none of its messages taken."""
        self.refused = dict.fromkeys(range(len(self.messages)), error)
        self.messages = ()
        return self

    def accepted(self) -> Iterator[Message]:
        """The messages that the core took."""
        if not self.refused:
            return iter(self.messages)
        return (each for n, each in enumerate(self.messages) if n not in self.refused)

    def answer(self, error: Exception | None = None) -> None:
        """Tell the caller, if it waits."""
        if self.reply is not None:
            self.reply.set(error)


def batch_with(batch: Batch, events: Sequence[Event]) -> Batch:
    """Add what goes past the core: it decides nothing."""
    messages = [message for event in events for message in event.accepted()]
    return replace(
        batch,
        lessons=(*batch.lessons, *(lesson for each in messages for lesson in each.lessons)),
        changes=tuple(each.change for each in messages if each.change is not None),
        runs=tuple(each.run for each in messages if each.run is not None),
        changed=(*batch.changed, *(row for each in messages for row in each.rows)),
        pieces=tuple(piece for each in messages for piece in each.prompt.pieces),
        links=tuple(link for each in messages for link in each.prompt.links),
        forget=tuple(run_id for each in messages for run_id in each.forget),
        answers=tuple(each for event in events for each in event.also.answers),
        taken=tuple(each for event in events for each in event.also.taken),
        seen=tuple(each for event in events for each in event.also.seen),
        joined=tuple(each for event in events for each in event.also.joined),
        left=tuple(each for event in events for each in event.also.left),
    )


def finals(events: Iterable[Event]) -> Iterator[Message]:
    """What events that did not stand still have to say of calls that have ended.

    What other processes told is still there in their letters.
    """
    for event in events:
        if event.sender is not None:
            continue
        for message in event.messages:
            if (final := message.as_final) is not None:
                yield final
