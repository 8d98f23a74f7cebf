"""The nouns of the scheduler. Law of this file: data only, frozen unless said, no decisions.

A *call* is one request to a model. It asks for an *amount* of each *resource* of every *quota*
that its model draws on. Times are seconds since the epoch, as told by the caller.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum, StrEnum

from .errors import InvalidQuota
from .states import CallState, RunState


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


class Resource(StrEnum):
    """What a limit counts."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    INPUT_TOKENS = "input tokens"
    OUTPUT_TOKENS = "output tokens"
    CONCURRENCY = "concurrency"
    REQUESTS_PER_DAY = "requests per day"
    TOKENS_PER_DAY = "tokens per day"
    USD_PER_DAY = "dollars per day"

    @property
    def is_daily(self) -> bool:
        """Whether it is full again once a day, and not little by little."""
        return self in _DAILY


_DAILY = {Resource.REQUESTS_PER_DAY, Resource.TOKENS_PER_DAY, Resource.USD_PER_DAY}
DAY_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class Limit:
    """One number that a provider enforces, as a token bucket.

    ``capacity`` is what a full bucket holds; it refills at ``per_second``. Daily limits do not, but
    are full again every day, ``day_starts`` seconds after midnight UTC; concurrency counts what is
    held at once. ``largest`` is the most that one call may ever ask for: more than the capacity
    waits for a full bucket and leaves it in debt.
    """

    resource: Resource
    capacity: float
    per_second: float
    largest: float
    day_starts: float = 0.0


@dataclass(frozen=True, slots=True)
class Quota:
    """One limit scope of a provider: all of its limits must pass together.

    ``is_guess``: nobody stated these limits; what answers tell goes before them. ``is_local``: a
    server of one's own, where a call that is cancelled costs nothing but its time.
    """

    name: str
    limits: tuple[Limit, ...]
    is_guess: bool = False
    is_local: bool = False

    @classmethod
    def per_minute(
        cls,
        name: str,
        *,
        requests: float | None = None,
        tokens: float | None = None,
        concurrency: int | None = None,
        burst_seconds: float = 60.0,
    ) -> "Quota":
        """State limits as most providers do: RPM, TPM and calls at once. See :meth:`stated`."""
        limits = {
            Resource.REQUESTS: requests,
            Resource.TOKENS: tokens,
            Resource.CONCURRENCY: concurrency,
        }
        return cls.stated(name, limits, burst_seconds=burst_seconds)

    @classmethod
    def stated(
        cls,
        name: str,
        limits: Mapping[Resource, float | None],
        *,
        burst_seconds: float = 60.0,
        day_starts: float = 0.0,
        is_guess: bool = False,
    ) -> "Quota":
        """State any limits: per minute, per day, or at once, as each resource is counted.

        ``burst_seconds`` is how long the provider lets unused budget of a minute pile up;
        ``day_starts`` is when its day does, in seconds after midnight UTC.

        Raises InvalidQuota for a limit below 1 (of dollars: not above 0), or a burst that is not
        above 0.
        """
        if not burst_seconds > 0:
            raise InvalidQuota(f"quota {name!r}: burst_seconds must be above 0")
        stated = {resource: value for resource, value in limits.items() if value is not None}
        for resource, value in stated.items():
            if not (value >= 1 or (resource is Resource.USD_PER_DAY and value > 0)):
                raise InvalidQuota(f"quota {name!r}: {resource} must be at least 1, not {value!r}")
        found = (_limit(each, n, burst_seconds, day_starts) for each, n in stated.items())
        return cls(name, tuple(found), is_guess)


def _limit(resource: Resource, number: float, burst_seconds: float, day_starts: float) -> Limit:
    if resource is Resource.CONCURRENCY:
        return Limit(resource, number, 0.0, 1)
    if resource.is_daily:
        return Limit(resource, number, 0.0, number, day_starts)
    return Limit(resource, max(1.0, number * burst_seconds / 60), number / 60, number)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that the provider counted for one answer."""

    input_tokens: int
    output_tokens: int

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
    ``losses`` counts attempts of which nobody knows what came. ``worker`` is the process that asked
    for it last, if not the one that admits.
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
    losses: int = 0
    worker: str | None = None
    parked: bool = False


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


@dataclass(frozen=True, slots=True)
class Piece:
    """A distinct text of prompts, stored once. ``hash`` has 16 bytes."""

    hash: bytes
    text: str


@dataclass(frozen=True, slots=True)
class Link:
    """A prompt, as the prompt before it and one piece more.

    A call's request hash is the hex of the ``hash`` of its prompt's last link.
    """

    hash: bytes
    parent: bytes | None
    piece: bytes


@dataclass(frozen=True, slots=True)
class Prompt:
    """What of a prompt may not be on disk yet. What is there already is left as it is."""

    pieces: tuple[Piece, ...] = ()
    links: tuple[Link, ...] = ()


NO_PROMPT = Prompt()


@dataclass(frozen=True, slots=True)
class Told:
    """What a provider said of one limit with an answer. None: it did not say.

    ``limit`` is for a minute, or for a day where the resource is; ``remaining`` is what was left of
    it when the request had been counted, ``reset_seconds`` how long until it is whole again.
    """

    limit: float | None = None
    remaining: float | None = None
    reset_seconds: float | None = None


class News(StrEnum):
    """What an answer, or its absence, says of the provider behind a quota."""

    ANSWERED = "answered"  # it lives, whatever it said of this call
    REFUSED = "refused"  # too fast for it
    OVERLOADED = "overloaded"  # too much at once for it
    FAILED = "failed"  # it did not answer, or not whole
    LOCKED_OUT = "locked out"  # it answers nobody of this account: a bad key, no money


@dataclass(frozen=True, slots=True)
class Signals:
    """What was learned of a quota by one attempt at a call.

    ``pause_until``: a time before which nothing is sent. ``told``: what headers said. ``error``:
    the provider's words, where its account is locked out.
    """

    pause_until: float | None = None
    news: News | None = None
    told: Mapping[Resource, Told] = field(default_factory=dict[Resource, Told])
    error: str = ""


@dataclass(frozen=True, slots=True)
class BucketState:
    """A bucket as it is stored: what was free at ``as_of``, counting reservations as spent."""

    quota: str
    resource: Resource
    available: float
    as_of: float
    paused_until: float | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a workflow on a task.

    ``source`` says how to build the team again: a name, ``module:factory`` or a component file,
    with ``component`` the text of that file. Result and error are JSON and plain text.

    ``parameters`` is a JSON object for the factory, ``version`` a hash of what built the run.
    ``history``: tasks that the team was given before. A run with a ``parent`` begins with its
    parent's answers, those that arrived before ``parent_until`` or all. ``deadline`` is a time,
    ``waits_for`` the call that a person must decide, ``resumed_at`` the start of the last of its
    ``attempts``. ``team`` is whose share of the quotas it draws on; the workflow's, if None.
    ``worker`` is the process that executes it, or is about to.
    """

    id: str
    workflow: str
    task: str
    priority: Priority
    state: RunState
    created_at: float
    key: str | None = None
    component: str | None = None
    started_at: float | None = None
    finished_at: float | None = None
    result: str | None = None
    error: str | None = None
    parameters: str | None = None
    version: str | None = None
    history: tuple[str, ...] = ()
    parent: str | None = None
    parent_until: int | None = None
    deadline: float | None = None
    budget_usd: float | None = None
    waits_for: str | None = None
    attempts: int = 0
    resumed_at: float | None = None
    team: str | None = None
    worker: str | None = None

    @property
    def share(self) -> str:
        """The team whose share of the quotas its calls draw on."""
        return self.workflow if self.team is None else self.team

    @property
    def is_whole(self) -> bool:
        """Whether it was paid for from its first call to its last in one attempt."""
        return self.state is RunState.COMPLETED and self.attempts <= 1 and self.parent is None


@dataclass(frozen=True, slots=True)
class Change:
    """What an operator changed while Headway was running, and when.

    ``kind`` limits, weight or gate; ``target`` the quota, team, or what is held; ``value`` JSON.
    The last one of each kind and target holds, over the configuration, until it is taken back.
    """

    at: float
    kind: str
    target: str
    value: str


@dataclass(frozen=True, slots=True)
class Lesson:
    """What was learned about ``subject``, as its learner wrote it down. ``kind``: who learned."""

    kind: str
    subject: str
    value: str


@dataclass(frozen=True, slots=True)
class Letter:
    """What another process asks of the one that admits. ``event`` is as its sender wrote it."""

    id: int
    sender: str
    event: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a letter. Written with what the letter changed, so it is carried out once."""

    letter_id: int
    text: str


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that executes runs. ``id`` is of this life of it alone; ``label`` is its user's.

    It takes queued runs while it has fewer than ``slots``; interrupted ones too, if it
    ``takes_interrupted``; of workflows that are registered by name only those of ``workflows``.
    """

    id: str
    pid: int
    since: float
    label: str = ""
    slots: int = 0
    takes_interrupted: bool = False
    workflows: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Order:
    """What a process is to do with a run: execute ``run``, cancel, pause or bump it."""

    verb: str
    run_id: str
    priority: Priority | None = None
    run: Run | None = None


@dataclass(frozen=True, slots=True)
class Mail:
    """What a worker is told, as it was written for it."""

    worker: str
    text: str


@dataclass(frozen=True, slots=True)
class Batch:
    """What one commit writes, all or nothing. ``changed`` and ``runs`` overwrite earlier rows.

    Pieces and links that are there already stay as they are. ``forget`` names runs whose rows go,
    and then the texts that no call holds; a run that has not ended, or that one which stays names
    as its parent, stays as well. ``taken``: letters that were carried out and want no answer.
    ``seen``: how far workers have read their mail, which goes. Workers that ``left`` are forgotten.
    """

    new: tuple[CallRecord, ...] = ()
    changed: tuple[CallRecord, ...] = ()
    buckets: tuple[BucketState, ...] = ()
    runs: tuple[Run, ...] = ()
    pieces: tuple[Piece, ...] = ()
    links: tuple[Link, ...] = ()
    forget: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()
    lessons: tuple[Lesson, ...] = ()
    answers: tuple[Answer, ...] = ()
    taken: tuple[int, ...] = ()
    mail: tuple[Mail, ...] = ()
    seen: tuple[tuple[str, int], ...] = ()
    joined: tuple[Worker, ...] = ()
    left: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return any(getattr(self, each.name) for each in fields(self))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the core needs to go on: buckets, the calls that are not finished, what was learned.

    ``changes`` has the last one of each kind and target.
    """

    buckets: tuple[BucketState, ...] = ()
    calls: tuple[CallRecord, ...] = ()
    next_seq: int = 0
    changes: tuple[Change, ...] = ()
    lessons: tuple[Lesson, ...] = ()
