"""Defines a call, its row, and the end of an attempt at it. Data only, frozen but for the row.

Times are epoch seconds, as told by the caller.
"""

from enum import IntEnum, StrEnum
from typing import Any

from msgspec import Struct, to_builtins

from ..errors import IllegalTransition
from .data import Data, astuple, replace
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


class ServiceLane(StrEnum):
    """The way in which a provider takes a call, each with a price of its own."""

    STANDARD = "standard"
    FLEX = "flex"  # cheaper, and refused while the provider has no capacity
    PRIORITY = "priority"  # dearer, and faster
    BATCH = "batch"  # cheaper, in files that are answered within a day


LARGEST_READ_COUNT = 10**9
"""The largest count of tokens of one answer that is believed, and the largest estimate of one."""
LARGEST_COUNT = 10**12
"""The largest count of tokens that a row may have. Sums of such counts stay far below 2^63, the end
of SQL's integers."""


class Usage(Data, frozen=True):
    """Tokens that the provider counted for one answer. Raises ValueError for what is no count.

    The parts are named as genai-prices names them, and each lies inside its total: cached input is
    input, whatever the provider's own totals hold.
    """

    input_tokens: int
    """Tokens of the prompt, cached ones among them."""
    output_tokens: int
    """Tokens of the answer, those of its reasoning among them."""
    cache_read_tokens: int = 0
    """Input that the provider had in its cache."""
    cache_write_tokens: int = 0
    """Input that the provider put into its cache."""
    cache_write_1h_tokens: int = 0
    """Of these, what is kept for an hour."""
    output_reasoning_tokens: int = 0
    """Output that the model thought, and did not say."""
    input_audio_tokens: int = 0
    """Input of sound."""
    output_audio_tokens: int = 0
    """Output of sound."""
    input_image_tokens: int = 0
    """Input of images."""
    output_image_tokens: int = 0
    """Output of images."""
    has_odd_parts: bool = False
    """Whether parts were told that cannot be: none is kept, and the price is an upper bound."""

    def __post_init__(self) -> None:
        # The second wall: ``providers/readings.py`` lets nothing else through, and a process of
        # another version is not believed either. What else an answer told is checked where it is
        # decoded, in ``protocol/codec.py``.
        given, made = self.input_tokens, self.output_tokens
        for number in (given, made):
            if not (type(number) is int and 0 <= number <= LARGEST_COUNT):
                raise ValueError(f"{number!r:.40} tokens: not a whole number up to {LARGEST_COUNT}")
        parts = astuple(self)[2:-1]
        if not any(parts) and set(map(type, parts)) == {int}:
            return  # of most answers no part is told
        for part, most in (
            (self.cache_read_tokens, given),
            (self.cache_write_tokens, given - self.cache_read_tokens),
            (self.cache_write_1h_tokens, self.cache_write_tokens),
            (self.output_reasoning_tokens, made),
            (self.input_audio_tokens, given),
            (self.output_audio_tokens, made),
            (self.input_image_tokens, given),
            (self.output_image_tokens, made),
        ):
            if not (type(part) is int and 0 <= part <= most):
                raise ValueError(f"{part!r:.40} tokens of {most}: no part of them")

    @property
    def total(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens

    def parts(self) -> dict[str, int]:
        """Return every field but the two totals that is not 0, by its name."""
        told = to_builtins(self)  # what has its default is left out
        return {name: int(told[name]) for name in PARTS if name in told} if len(told) > 2 else {}

    def plus(self, other: "Usage") -> "Usage":
        """Return the usage of two answers together."""
        totals = (self.input_tokens + other.input_tokens, self.output_tokens + other.output_tokens)
        own, others = self.parts(), other.parts()
        parts: dict[str, Any] = {n: own.get(n, 0) + others.get(n, 0) for n in {**own, **others}}
        is_odd = self.has_odd_parts or other.has_odd_parts
        return Usage(*totals, **(parts | {"has_odd_parts": is_odd}))


PARTS = Usage.__struct_fields__[2:]
"""The fields of a Usage that are no totals."""


class Served(Data, frozen=True):
    """Usage, tier and model, as an answer tells them."""

    usage: Usage | None = None
    """The tokens that it took; None if it does not say, or says something impossible."""
    tier: str | None = None
    """The service tier that it is billed in, as its provider names it: it may differ from the one
    that was asked for."""
    model: str | None = None
    """The model that answered, as its provider names it."""


class Charge(Data, frozen=True):
    """The cost of an answer, fixed when it came."""

    usd: float | None
    """US dollars; None if no price is known."""
    source: str
    """Where the price is from: ``stated``, ``local``, ``list`` and a version, or ``unknown``."""


UNPRICED = Charge(None, "unknown")
"""The charge of a call whose price nobody knows."""


class Call(Data, frozen=True):
    """One request of an agent of a run: to a model, or a step such as a tool call.

    ``run_id``, ``kind``, ``path``, ``request_hash`` and ``occurrence`` are the journal's key. While
    the call waits, its priority and its route (model, quotas, estimates) may change.
    """

    id: str
    """The run's id and a number, as in ``r-7f3k2m9q.14``."""
    run_id: str
    """The run that it belongs to; the row of that run need not be there."""
    path: str
    """Names the agent inside its run."""
    model: str
    """The model as the configuration names it; of a step, the name of the tool."""
    quotas: tuple[str, ...]
    """Names of the quotas that it draws on, all at once; a step draws on none."""
    priority: Priority
    """The class that it asks for: its run's, unless its agent has one of its own. It may stand in a
    more urgent one, see ``RunRegistry``."""
    tokens: int
    """Estimate that is reserved where a limit counts input and output together."""
    submitted_at: float
    """When the agent asked."""
    request_hash: str = ""
    """Hash of all that is asked, in hex: the last node of its prompt. Empty for no prompt."""
    occurrence: int = 0
    """How often its run had asked the same before: 0 the first time."""
    kind: str = "model"
    """``model`` for a model client, ``sdk`` for a provider's own SDK, ``bypass`` for a request past
    the scheduler; any other kind is a step."""
    input_tokens: int = 0
    """Estimate that is reserved where a limit counts input alone."""
    output_tokens: int = 0
    """Estimate that is reserved where a limit counts output alone."""
    usd: float = 0.0
    """US dollars that are reserved where a limit or the run's budget counts dollars."""
    unbounded: bool = False
    """Whether it may cost more than ``usd``: nothing caps its answer, and too few answers of its
    agent are known. Of such calls one at a time draws on a limit of dollars."""
    lane: ServiceLane = ServiceLane.STANDARD
    """The lane that it goes by. A call by flex names the quota of the lane before all others."""

    @property
    def is_paid(self) -> bool:
        """Whether the call asks a provider: it draws on quotas, and costs money."""
        return self.kind in _PAID_KINDS

    @property
    def is_step(self) -> bool:
        """Whether it is anything else that a run journals."""
        return self.kind not in _PAID_KINDS and self.kind != BYPASS

    @property
    def is_question(self) -> bool:
        """Whether a person is asked, and not by code of the run itself: it is never admitted."""
        return self.kind == PERSON and self.model == QUESTION


_PAID_KINDS = {"model", "sdk"}
PERSON = "person"
"""The kind of what a person is asked, be it by a question or by code of the run itself."""
QUESTION = "question"
"""In place of a model: what a person is asked by a question, which is never admitted."""
BYPASS = "bypass"
"""The kind of a request that a run's code made itself, past the scheduler. Its row counts it: it
has no prompt and no answer, it is no step, and no replay gives it back."""


class Route(Data, frozen=True):
    """A model or deployment that may answer a call, with the estimates of the call there."""

    model: str
    """The model as the configuration names it."""
    quotas: tuple[str, ...]
    """Names of the quotas that the call draws on there."""
    tokens: int
    """As ``Call.tokens``."""
    input_tokens: int = 0
    """As ``Call.input_tokens``."""
    output_tokens: int = 0
    """As ``Call.output_tokens``."""
    usd: float = 0.0
    """As ``Call.usd``."""
    rank: int = 0
    """0 for a route as good as the model that was asked for. A higher rank is taken only if no
    route of a lower rank would answer, or none in time."""
    unbounded: bool = False
    """As ``Call.unbounded``."""
    lane: ServiceLane = ServiceLane.STANDARD
    """As ``Call.lane``. A route by another lane than the standard one goes before those of its rank
    while it is permitted."""
    classes: tuple[Priority, ...] = ()
    """The classes in which a call may stand to take it; empty for any."""

    def taken_by(self, call: Call) -> Call:
        """Return the same call on this route."""
        return replace(
            call,
            model=self.model,
            quotas=self.quotas,
            tokens=self.tokens,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            usd=self.usd,
            unbounded=self.unbounded,
            lane=self.lane,
        )


class CallRecord(Struct, omit_defaults=True, gc=False):
    """The row of a call: what it asks, and how far it has come. Only the core changes one."""

    call: Call
    """The request."""
    seq: int
    """Its place in the order of arrival at the leader, kept through retries and restarts."""
    state: CallState = CallState.QUEUED
    """Changes only along ``CALL_TRANSITIONS``."""
    attempts: int = 0
    """How often it was admitted, without those times when the provider had no capacity for it."""
    not_before: float | None = None
    """A queued call is not tried before this time; None: at once."""
    admitted_at: float | None = None
    """When it was last admitted; None: never."""
    sent_at: float | None = None
    """When its request last left; None: never."""
    finished_at: float | None = None
    """When it ended; None while it is live."""
    usage: Usage | None = None
    """Tokens of the answer, and of those before it that the client refused; None where nobody
    counted them."""
    answer: str | None = None
    """The recorded answer, as JSON; None until it is done."""
    error: str | None = None
    """Why the last attempt failed, in words."""
    usd: float | None = None
    """US dollars of ``usage``, as of when it came; None if the price is unknown."""
    usd_source: str | None = None
    """As ``Charge.source``; None until an answer is charged, and in older rows."""
    tier: str | None = None
    """As ``Served.tier``, of the last answer."""
    served_model: str | None = None
    """As ``Served.model``, of the last answer; None for the name that was asked for."""
    arrival: int | None = None
    """Numbers the answers of a run in the order in which agents get them; None without one."""
    lost_attempts: int = 0
    """Attempts that ended *unknown*: nobody knows whether the provider was paid."""
    worker: str | None = None
    """The worker that asked for it last; None: a process that leads and executes no runs."""
    parked: bool = False
    """Whether it is queued but never admitted: its process died, and it waits for its run to be
    resumed; or it is a question, and waits for a person."""
    routes: tuple[Route, ...] = ()
    """The routes that it may take while it is live; empty: only the one that ``call`` names."""

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
        """Queue it again. What lost attempts reserved stays spent."""
        self.state, self.parked, self.worker = CallState.QUEUED, False, worker
        self.error = self.not_before = self.finished_at = self.arrival = None

    def admit(self, at: float) -> None:
        """Permit to send it."""
        self.state, self.admitted_at = CallState.ADMITTED, at
        self.attempts += 1
        self.not_before = None

    def mark_sent(self, at: float) -> None:
        """Note that its request has left."""
        self.state, self.sent_at = CallState.SENT, at

    def settle(self, outcome: "Outcome", now: float) -> None:
        """End an attempt: queue the call for another one, or end it with an answer or an error."""
        self.state, self.error = outcome.state, outcome.error
        self.lost_attempts += outcome.state is CallState.UNKNOWN or outcome.lost
        self.attempts -= outcome.uncounted
        if outcome.usage is not None:
            usd = None if outcome.usd_source == UNPRICED.source else outcome.usd
            if self.usage is None:
                self.usage, self.usd = outcome.usage, usd
            else:  # an earlier attempt brought an answer that its client refused: both are paid
                self.usage = self.usage.plus(outcome.usage)
                self.usd = None if self.usd is None or usd is None else self.usd + usd
            self.usd_source = outcome.usd_source
            self.tier, self.served_model = outcome.tier, outcome.served_model
        if outcome.state is CallState.QUEUED:
            self.not_before = outcome.not_before
            return
        self.finished_at, self.arrival = now, outcome.arrival
        self.answer, self.routes = outcome.answer, ()

    def decide(self, outcome: "Outcome", now: float) -> None:
        """Record a person's decision: *queued* parks the call until its run goes on."""
        self.state, self.answer, self.arrival = outcome.state, outcome.answer, outcome.arrival
        self.parked = outcome.state is CallState.QUEUED
        self.finished_at = None if self.parked else now


SPENT_BY = ("model", "team", "workflow", "run", "day")
"""The keys by which ``Store.spent`` can group calls."""


class Spent(Data, frozen=True):
    """A group of calls of one model that took the same."""

    key: str
    """The key of the group: a model, team, workflow, run or day (``2026-03-01``, UTC); empty
    for calls outside of any run."""
    model: str
    """The model as the configuration names it."""
    usage: Usage | None
    """Tokens of each call; None where nobody counted them."""
    calls: int
    """How many calls brought an answer or a usage."""
    lost: int
    """How many attempts ended *unknown*: possibly paid."""
    charge: Charge | None = None
    """The charge of each call; None for calls from before charges were recorded."""
    last_at: float = 0.0
    """When the last of them ended."""


class Outcome(Data, frozen=True):
    """How an attempt at a call ended, and what it took of its reservation.

    Limits that count input alone, output alone or dollars are settled on ``usage`` and ``usd``;
    those that count tokens together, on ``used_tokens``. A None leaves the reserved amount spent.
    """

    state: CallState
    """Done, failed, cancelled, unknown, or queued for another attempt."""
    usage: Usage | None = None
    """Tokens that the provider counted; None if it did not."""
    answer: str | None = None
    """The answer to record, as JSON; None unless the state is done."""
    error: str | None = None
    """The error of the last attempt, in words; None without an error."""
    sent: bool = True
    """False if no byte of the request left: then nothing is charged."""
    not_before: float | None = None
    """If queued: not tried before this time; None: at once."""
    used_tokens: int | None = None
    """Tokens charged where input and output count together; None: as many as were reserved."""
    free_input_tokens: int = 0
    """Of the input of ``usage``, what no limit counts: as a rule, what was read from a cache."""
    arrival: int | None = None
    """See ``CallRecord.arrival``."""
    usd: float | None = None
    """US dollars that the attempt cost; None: as much as was reserved."""
    usd_source: str = UNPRICED.source
    """As ``Charge.source``, if there is a usage."""
    tier: str | None = None
    """As ``Served.tier``."""
    served_model: str | None = None
    """As ``Served.model``."""
    refused: bool = False
    """Whether it was refused for its rate: then it took at most one request, and no tokens, as with
    OpenAI."""
    lost: bool = False
    """Whether a time limit of ours ended it, so that nobody knows whether the provider was paid. It
    is counted in ``lost_attempts``, as an attempt that ends *unknown* is."""
    uncounted: bool = False
    """Whether it does not count as an attempt: the provider had no capacity for its lane."""
