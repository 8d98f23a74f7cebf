"""What callers tell the service, and how they get their answer. Law: it decides nothing."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

from .core import Scheduler
from .model import (
    NO_PROMPT,
    Answer,
    Batch,
    Call,
    CallRecord,
    Change,
    Lesson,
    Outcome,
    Prompt,
    Run,
    Signals,
)
from .states import CallState

answers_here: ContextVar[tuple[Answer, ...]] = ContextVar("answers_here", default=())
"""What the next change of this task answers: see :func:`answering`."""


@contextmanager
def answering(answer: Answer) -> Iterator[None]:
    """Carry out a letter of another process: whatever commit changes something here answers it.

    Of a verb with several commits only the last one may change runs, limits, weights or gates.
    """
    token = answers_here.set((answer,))
    try:
        yield
    finally:
        answers_here.reset(token)


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
        """Wait for the answer. Raises the error that it is."""
        if (error := await self._error) is not None:
            raise error


def _nothing(core: Scheduler, now: float) -> None:
    pass


@dataclass(slots=True, eq=False)
class Event:
    """One thing that a caller told. Once it is on disk it ``stands``, and ``reply`` is set.

    ``tell`` tells it to the core; what must be done beside that has a field of its own; ``signals``
    are those of an attempt at the call ``about``. With
    ``until_granted`` the reply waits on until the call is admitted, as it is ``granted``.
    """

    tell: Callable[[Scheduler, float], None] = _nothing
    prompt: Prompt = NO_PROMPT
    rows: tuple[CallRecord, ...] = ()
    forget: tuple[str, ...] = ()
    settle: tuple[str, Outcome] | None = None
    signals: Mapping[str, Signals] | None = None
    about: str = ""
    run: Run | None = None
    change: Change | None = None
    lessons: tuple[Lesson, ...] = ()
    answers: tuple[Answer, ...] = ()
    reply: Reply | None = None
    until_granted: bool = False
    granted: Call | None = None
    stands: bool = False

    def told(self, core: Scheduler, now: float) -> None:
        """Tell the core. What is raised changed nothing there.

        So signals, which may be wrong by themselves, come first.
        """
        for quota, signals in (self.signals or {}).items():
            core.observe(quota, signals, now, self.about)
        self.tell(core, now)
        if self.settle is not None:
            core.settle(*self.settle, now)
        if self.run is not None:
            core.track(self.run, now)
        if self.change is not None:
            core.apply(self.change, now)

    def answer(self, error: Exception | None = None) -> None:
        """Tell the caller, if it waits."""
        if self.reply is not None:
            self.reply.set(error)


def batch_with(batch: Batch, events: Iterable[Event]) -> Batch:
    """Add what goes past the core: it decides nothing."""
    return replace(
        batch,
        lessons=(*batch.lessons, *(lesson for event in events for lesson in event.lessons)),
        changes=tuple(event.change for event in events if event.change is not None),
        runs=tuple(event.run for event in events if event.run is not None),
        changed=(*batch.changed, *(row for event in events for row in event.rows)),
        pieces=tuple(piece for event in events for piece in event.prompt.pieces),
        links=tuple(link for event in events for link in event.prompt.links),
        forget=tuple(run_id for event in events for run_id in event.forget),
        answers=tuple(answer for event in events for answer in event.answers),
    )


def as_final(call_id: str, outcome: Outcome) -> tuple[str, Outcome]:
    """What to record once there is room, when the caller was told that it is not recorded."""
    if outcome.state is CallState.QUEUED:
        outcome = Outcome(CallState.FAILED, error=outcome.error, sent=outcome.sent)
    return call_id, outcome
