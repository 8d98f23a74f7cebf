"""A call, its row, and how an attempt at it ended. Data only, frozen unless said.

Times are seconds since the epoch, as told by the caller.
"""

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TypeGuard

from ..errors import IllegalTransition
from .states import CALL_TRANSITIONS, CallState


class Priority(IntEnum):
    """Class of a call. The lower number goes first."""

    INTERACTIVE = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3
    BACKGROUND = 4

    @property
    def label(self) -> str:
        """The word that users write and read."""
        return self.name.lower()


LARGEST_COUNT = 10**12
"""More tokens than this no answer takes. Sums of such counts are far from 2^63, where SQL ends."""


def _is_count(number: object) -> TypeGuard[int]:
    return type(number) is int and 0 <= number <= LARGEST_COUNT


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that the provider counted for one answer."""

    input_tokens: int
    output_tokens: int

    @classmethod
    def counted(cls, input_tokens: object, output_tokens: object) -> "Usage | None":
        """What a provider says that it counted; None for 0 and 0, or for what is no count.

        Clients say 0 and 0 where they do not know. Some servers send -1, NaN or 1.5.
        """
        if not (_is_count(input_tokens) and _is_count(output_tokens)):
            return None
        return cls(input_tokens, output_tokens) if input_tokens or output_tokens else None

    @property
    def total(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class Call:
    """One model request: who asks for what. While it waits, its class and its route may change.

    ``path`` names the agent inside its run, ``model`` the model as the workflow knows it.
    ``tokens`` is what will be reserved where input and output are counted together,
    ``input_tokens`` and ``output_tokens`` where they are counted apart, ``usd`` what the call will
    cost. (run_id, kind, path, request_hash, occurrence) is the
    journal's key: the same request asked for the second time has occurrence 1. Of ``kind`` model is
    what a model client asks, of kind sdk what is asked through a provider's own SDK. Calls of
    another kind are steps, such as tools; they have no quotas, and ``model`` names the tool.
    """

    id: str
    run_id: str
    path: str
    model: str
    quotas: tuple[str, ...]
    priority: Priority
    tokens: int
    submitted_at: float
    request_hash: str = ""
    occurrence: int = 0
    kind: str = "model"
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0

    @property
    def is_paid(self) -> bool:
        """Whether a provider is asked: it draws on quotas, and costs money."""
        return self.kind in _PAID_KINDS


_PAID_KINDS = {"model", "sdk"}


@dataclass(frozen=True, slots=True)
class Route:
    """A way that a call may go: to which model, and what it takes there.

    ``rank`` 0 is as good as the model that was asked for; others, the lower the better, are taken
    only where no better one would answer.
    """

    model: str
    quotas: tuple[str, ...]
    tokens: int
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0
    rank: int = 0

    def taken_by(self, call: Call) -> Call:
        """The same call on this way."""
        return replace(
            call,
            model=self.model,
            quotas=self.quotas,
            tokens=self.tokens,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            usd=self.usd,
        )


@dataclass(slots=True)
class CallRecord:
    """The row of a call: its facts and how far it has come. Only the core changes one.

    ``seq`` is its place in the order of arrival, kept through retries and restarts.
    ``parked`` calls were queued when their process died; they wait for their run to resume, or for
    a person. ``arrival`` numbers the answers of a run in the order in which they were given out.
    ``lost_attempts`` counts attempts of which nobody knows what came. ``worker`` is the process
    that asked for it last, if not the one that admits.
    """

    call: Call
    seq: int
    state: CallState = CallState.QUEUED
    attempts: int = 0
    not_before: float | None = None
    admitted_at: float | None = None
    sent_at: float | None = None
    finished_at: float | None = None
    usage: Usage | None = None
    answer: str | None = None
    error: str | None = None
    arrival: int | None = None
    lost_attempts: int = 0
    worker: str | None = None
    parked: bool = False

    def check(self, state: CallState) -> None:
        """Raise IllegalTransition unless a call may go from its state to ``state``."""
        if state not in CALL_TRANSITIONS[self.state]:
            raise IllegalTransition(
                f"call {self.call.id}: {self.state} to {state} is not a step of its life"
            )

    def check_end(self, outcome: "Outcome") -> None:
        """Raise IllegalTransition unless an attempt at the call may end with ``outcome`` now."""
        self.check(outcome.state)
        was_queued = self.state is CallState.QUEUED
        if was_queued and outcome.state is CallState.DONE and not self.parked:
            raise IllegalTransition(
                f"call {self.call.id}: it was never admitted, and asks no person"
            )

    def resubmit(self, worker: str | None) -> None:
        """Queue it again; what earlier attempts reserved stays spent."""
        self.state, self.parked, self.worker = CallState.QUEUED, False, worker
        self.error = self.not_before = self.finished_at = self.arrival = None

    def admit(self, at: float) -> None:
        """Give the permission to send it."""
        self.state, self.admitted_at = CallState.ADMITTED, at
        self.attempts += 1
        self.not_before = None

    def mark_sent(self, at: float) -> None:
        """Note that its request has left."""
        self.state, self.sent_at = CallState.SENT, at

    def settle(self, outcome: "Outcome", now: float) -> None:
        """End an attempt: queued for another try, or over with the answer or the error."""
        self.state, self.error = outcome.state, outcome.error
        self.lost_attempts += outcome.state is CallState.UNKNOWN
        if outcome.state is CallState.QUEUED:
            self.not_before = outcome.not_before
            return
        self.finished_at, self.arrival = now, outcome.arrival
        self.usage, self.answer = outcome.usage, outcome.answer

    def decide(self, outcome: "Outcome", now: float) -> None:
        """Take a person's decision; queued parks the call until its run goes on."""
        self.state, self.answer, self.arrival = outcome.state, outcome.answer, outcome.arrival
        self.parked = outcome.state is CallState.QUEUED
        self.finished_at = None if self.parked else now


@dataclass(frozen=True, slots=True)
class Spent:
    """Calls of one model, under one ``key``, that took the same: ``usage`` of each.

    ``calls`` that brought an answer or a bill, without ``usage`` where nobody counted it; ``lost``
    attempts of which nobody knows whether they were paid.
    """

    key: str
    model: str
    usage: Usage | None
    calls: int
    lost: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt at a call ended.

    ``state`` is done, failed, cancelled, unknown, or queued for another try not before
    ``not_before``. ``sent`` is false when no byte left: then nothing is charged.
    ``used_tokens`` replaces the reserved tokens where the provider settles on usage; ``usd`` is
    what it cost. Input and output that are counted apart, and dollars, are always settled.
    ``refused`` for its rate: of what it held only a request is spent, as OpenAI has it.
    """

    state: CallState
    usage: Usage | None = None
    answer: str | None = None
    error: str | None = None
    sent: bool = True
    not_before: float | None = None
    used_tokens: int | None = None
    arrival: int | None = None
    usd: float | None = None
    refused: bool = False
