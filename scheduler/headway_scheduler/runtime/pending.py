"""Messages that are not committed yet, and the callers that wait for it. Law: decides nothing.

A *pending* has messages that a caller told together, and a *completion*, for which the caller
waits.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import anyio

from ..errors import CallerError, HeadwayError, InternalError, KeyTaken, SchedulerClosed, own_copy
from ..model.batch import NOTHING, Answer, Batch
from ..model.calls import Call, CallRecord, Outcome
from ..model.changes import Change
from ..model.states import CallState
from ..protocol.commands import Order
from ..protocol.messages import AwaitRuns, Message, Settle
from ..protocol.storable import is_storable

NOT_RECORDED = "its end could not be recorded"

Answering = Callable[[Change | None], Answer]
"""Writes down that a request was carried out, with the change that an operator made by it."""

_answering: ContextVar[Answering | None] = ContextVar("answering", default=None)


@contextmanager
def answering(answer: Answering) -> Iterator[None]:
    """Carry out another process's request: the commit that it causes also writes its answer.

    The answer is attached to the first commit that changes runs, limits, weights or holds, so that
    commit must be the last.
    """
    token = _answering.set(answer)
    try:
        yield
    finally:
        _answering.reset(token)


def answer_here(change: Change | None = None) -> Batch:
    """Return a batch that answers the request that this task carries out; empty for none."""
    answer = _answering.get()
    return NOTHING if answer is None else Batch(answers=(answer(change),))


class Completion:
    """The end of a wait: set once, after the commit, with or without an error."""

    __slots__ = ("_error",)

    def __init__(self) -> None:
        # A bare future: every call waits twice, and an anyio.Event costs four times as much.
        self._error: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def set(self, error: Exception | None = None) -> None:
        """Let the caller go on, or raise ``error`` there. What was set before stays."""
        if not self._error.done():
            self._error.set_result(error)

    async def wait(self) -> None:
        """Wait until it is set. Raises the error that it was set to, as an object of its own."""
        if (error := await self._error) is not None:
            raise own_copy(error)


@dataclass(slots=True, eq=False)
class Pending:
    """Messages that were told together."""

    messages: Sequence[Message]
    also: Batch = NOTHING
    """Rows that are written with the messages and do not concern the core."""
    completion: Completion | None = None
    """Set once the messages are on disk. None: nobody waits for that."""
    sender: str | None = None
    """The worker that told them; None: this process."""
    request_id: int = 0
    """The row in which another process told them."""
    unreadable: str = ""
    """Why nothing of the request could be read, if that is so."""
    evicted: bool = False
    """Whether the sender was taken for dead: nothing that it tells is taken any more."""
    orders: tuple[tuple[str, Order], ...] = ()
    """Orders that the commit sends to workers: the worker's id, and the order."""
    until_granted: bool = False
    """Whether the caller waits on until its call is admitted."""
    granted: Call | None = None
    """The call as it is admitted, by one of its routes."""
    stands: bool = False
    """Whether the messages are on disk."""
    refused: dict[int, HeadwayError] = field(default_factory=dict[int, HeadwayError])
    """Errors of messages that the core did not take, by their place in ``messages``."""

    def refuse(self, error: HeadwayError) -> bool:
        """Refuse the messages that a commit was refused for; False if all were refused before.

        For a value that cannot be kept they are found by looking, for a key that is taken they may
        be any but the ends of calls. If neither finds one, all are refused. The end of a call is
        told as a failure instead, so that what the call holds comes back.
        """
        left = [n for n in range(len(self.messages)) if n not in self.refused]
        guilty = [n for n in left if _may_be_refused(self.messages[n], error)] or left
        self.messages = list(self.messages)
        for number in guilty:
            failed = failed_end(self.messages[number], error)
            if failed is None:
                self.refused[number] = error
            else:
                self.messages[number] = failed
        return bool(guilty)

    def accepted(self) -> Sequence[Message]:
        """The messages that the core took."""
        if not self.refused:
            return self.messages
        return [each for n, each in enumerate(self.messages) if n not in self.refused]

    def complete(self, error: Exception | None = None) -> None:
        """Tell the caller, if it waits."""
        if self.completion is not None:
            self.completion.set(error)


@dataclass(slots=True)
class Decided:
    """The core's decisions about calls in one iteration."""

    grants: list[CallRecord]
    """Calls that may be sent."""
    preempted: list[CallRecord]
    """Calls in flight to cancel and queue again."""
    refused: list[tuple[CallRecord, CallerError]]
    """Calls that waited and can never go, each with its error."""
    batch: Batch = NOTHING
    """The rows that were committed."""


def failed_end(message: Message, error: Exception) -> Settle | None:
    """Return the message that fails a call whose end cannot be recorded; None for other messages.

    None too if the message is such a one already: no end of that call can be recorded.
    """
    if not isinstance(message, Settle) or (message.outcome.error or "").startswith(NOT_RECORDED):
        return None
    return Settle(message.call_id, Outcome(CallState.FAILED, error=f"{NOT_RECORDED}: {error}"))


def _may_be_refused(message: Message, error: HeadwayError) -> bool:
    if isinstance(error, KeyTaken):
        return not isinstance(message, Settle)
    return not is_storable(message)


class Wakeup:
    """Wakes the pump: set ``event`` to have it iterate."""

    def __init__(self) -> None:
        self.event: anyio.Event = anyio.Event()

    async def wait(self, seconds: float | None) -> None:
        """Sleep until it is set; not longer than ``seconds``, if that is given."""
        with anyio.move_on_after(seconds):
            await self.event.wait()
        self.event = anyio.Event()


class Callers:
    """The callers of this process: their messages, and the completions that they wait for.

    ``wakeup`` wakes the pump, which may serve other Callers as well.
    """

    def __init__(self, wakeup: Wakeup | None = None) -> None:
        self.wakeup: Wakeup = wakeup or Wakeup()
        self.pending: list[Pending] = []
        """Messages that callers told and the pump has not taken, in order."""
        self.waiting: dict[str, Pending] = {}
        """By call id: the completion of the caller that waits for its admission."""
        self.on_preempt: dict[str, Callable[[], None]] = {}
        """By call id: the function that cancels a request in flight."""
        self.ends: dict[str, Outcome] = {}
        """By the id of a call that waits: its end, where its wait is cancelled for that."""
        self.waits: Counter[tuple[str, str]] = Counter()
        """How many tasks of a run wait for another run, by the ids of both."""
        self.is_closed: bool = False

    def send(self, pending: Pending) -> None:
        """Leave something for the pump and wake it. Raises SchedulerClosed."""
        if self.is_closed:
            raise SchedulerClosed("the scheduler is closed: nothing more can be asked of it")
        self.pending.append(pending)
        self.wakeup.event.set()

    def post(self, message: Message) -> None:
        """Tell a message, and wait for nothing. Raises SchedulerClosed."""
        self.send(Pending((message,)))

    def awaiting(self, run_id: str) -> AwaitRuns:
        """Say which runs a run waits for."""
        return AwaitRuns(run_id, frozenset(on for run, on in self.waits if run == run_id))

    def repeat_waits(self) -> None:
        """Say again which run waits for which: the leader may be another one."""
        for run_id in {run for run, _ in self.waits}:
            self.post(self.awaiting(run_id))

    async def tell(self, message: Message, also: Batch = NOTHING) -> None:
        """Tell a message, and wait until it is on disk. Raises what the core or the commit does."""
        await self.written(Pending((message,), also))

    async def granted(self, call_id: str, message: Message) -> Call:
        """Tell a message that queues a call, and wait until the call may be sent; as what."""
        if call_id in self.waiting:
            raise InternalError(f"call {call_id}: somebody waits for its turn already")
        pending = Pending((message,), until_granted=True)
        completion = self.waited(pending)
        self.waiting[call_id] = pending
        try:
            await completion.wait()
        except anyio.get_cancelled_exc_class():
            # It may have been granted meanwhile: this end of it comes after the grant.
            if not self.is_closed:
                cancelled = Outcome(CallState.CANCELLED, sent=False)
                self.post(Settle(call_id, self.ends.get(call_id, cancelled)))
            raise
        finally:
            del self.waiting[call_id]
            self.ends.pop(call_id, None)
        assert pending.granted is not None
        return pending.granted

    def waited(self, pending: Pending) -> Completion:
        """Send it, and return what is completed once it is on disk. Raises SchedulerClosed."""
        pending.completion = completion = Completion()
        self.send(pending)
        return completion

    async def written(self, pending: Pending) -> None:
        """Send it, and wait until it is on disk. Raises the error of its commit."""
        await self.waited(pending).wait()

    def wake(self) -> None:
        """Have the pump iterate although nobody told anything."""
        self.wakeup.event.set()

    def complete_all(self, error: Exception) -> None:
        """Let nobody wait any more."""
        for pending in (*self.pending, *self.waiting.values()):
            pending.complete(error)


def finals(pendings: Iterable[Pending]) -> Iterator[Settle]:
    """Call endings from a batch whose commit failed: told again, so that they are still recorded.

    The caller was told that its call is not recorded, so a call that it wanted to retry has failed.
    What other processes told is still there in their requests.
    """
    for pending in pendings:
        if pending.sender is not None:
            continue
        for message in pending.messages:
            if isinstance(message, Settle):
                outcome = message.outcome
                if outcome.state is CallState.QUEUED:
                    outcome = Outcome(CallState.FAILED, error=outcome.error, sent=outcome.sent)
                yield Settle(message.call_id, outcome, message.signals)
