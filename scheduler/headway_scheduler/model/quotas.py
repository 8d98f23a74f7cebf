"""Defines limits of a provider, the state of a bucket, and a provider's signals. Data only."""

from collections.abc import Mapping
from enum import StrEnum

from ..errors import InvalidQuota
from .data import Data, field, replace


class Resource(StrEnum):
    """The unit in which a limit counts."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    INPUT_TOKENS = "input tokens"
    OUTPUT_TOKENS = "output tokens"
    CONCURRENCY = "concurrency"
    REQUESTS_PER_DAY = "requests per day"
    TOKENS_PER_DAY = "tokens per day"
    ENQUEUED_TOKENS = "enqueued tokens"
    USD_PER_DAY = "dollars per day"
    USD = "dollars"

    @property
    def is_daily(self) -> bool:
        """Whether its bucket is filled once a day, instead of continuously."""
        return self in _DAILY

    @property
    def is_money(self) -> bool:
        """Whether it counts dollars: such a limit is a cap, and no call leaves a debt on it."""
        return self in _MONEY

    @property
    def is_held(self) -> bool:
        """Whether a call holds it until it ends, and nothing refills."""
        return self in _HELD


_HELD = {Resource.CONCURRENCY, Resource.ENQUEUED_TOKENS}
_DAILY = {Resource.REQUESTS_PER_DAY, Resource.TOKENS_PER_DAY, Resource.USD_PER_DAY}
_MONEY = {Resource.USD_PER_DAY, Resource.USD}


class Window(StrEnum):
    """How a provider counts what was taken of a limit on a rate."""

    BUCKET = "bucket"  # it comes back continuously
    SLIDING = "sliding"  # each amount comes back a window's length after it was taken
    FIXED = "fixed"  # all comes back at the end of each window, and nothing before
    MINUTE = "minute"  # the same, at the full minutes of the provider's clock


DAY_SECONDS = 86_400.0
GUESSED = "at "
"""Begins the name of a quota that nobody configured, ``at HOST``: one for each address."""
GUESSED_PER_MINUTE = {Resource.REQUESTS: 500, Resource.TOKENS: 30_000}
"""What OpenAI's first paid tier grants gpt-4o: the lowest pair that a paying account meets."""
MINUTE_SECONDS = 60.0
LARGEST_LIMIT = 10**12
"""The largest limit, or remainder of one, that a header is believed."""
LONGEST_RESET_SECONDS = 31 * DAY_SECONDS
"""The longest time until a limit is full again that a header is believed."""
SHORTEST_PERIOD_SECONDS = 0.1
"""The shortest period of a limit that a header is believed."""
MOST_ODD_FIELDS = 64
"""How many odd fields one observation may name."""


class Limit(Data, frozen=True):
    """One number that a provider enforces, as a token bucket."""

    resource: Resource
    """The resource that the limit counts."""
    capacity: float
    """The content of a full bucket, in the resource's unit; for concurrency, calls at once."""
    per_second: float
    """Continuous refill, in units per second; 0 for daily limits and for concurrency."""
    largest: float
    """The most that one call may ask for, in units. A call that asks for more than the capacity
    waits for a full bucket and leaves it in debt."""
    day_starts: float = 0.0
    """When a daily limit is full again: seconds after midnight UTC. Of a fixed window: when one of
    them starts; epoch seconds."""
    window: Window | None = None
    """How the provider counts. None: it is learned, and until then it is a bucket."""
    window_seconds: float = MINUTE_SECONDS
    """The length of a window."""
    learns_burst: bool = False
    """Whether nobody stated how much piles up: ``capacity`` is where that begins."""


class Quota(Data, frozen=True):
    """One limit scope of a provider: all of its limits must pass together."""

    name: str
    """Its name in the configuration, unique there."""
    limits: tuple[Limit, ...]
    """Its limits, each resource once; empty for no limit."""
    is_guess: bool = False
    """Whether nobody stated these limits: limits learned from answers then replace them."""
    is_local: bool = False
    """Whether the server is the user's own: a call that is cancelled there costs only its time."""

    @classmethod
    def per_minute(
        cls,
        name: str,
        *,
        requests: float | None = None,
        tokens: float | None = None,
        concurrency: int | None = None,
        burst_seconds: float | None = 60.0,
    ) -> "Quota":
        """State requests and tokens per minute, and calls at once. See :meth:`stated`."""
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
        burst_seconds: float | None = 60.0,
        day_starts: float = 0.0,
        is_guess: bool = False,
        window: Window | None = None,
        window_seconds: float = MINUTE_SECONDS,
    ) -> "Quota":
        """State limits per minute, per day or at once, as each resource is counted; None: no limit.

        ``burst_seconds``: how long the provider lets unused budget of a per-minute limit pile up;
        None: that is learned, from one second's worth on. ``day_starts``: when its day begins, in
        seconds after midnight UTC. ``window``, ``window_seconds``: how the provider counts a limit
        per minute. Raises InvalidQuota for a limit below 1 (of dollars: 0 or less), a burst of 0 s
        or less, or a window shorter than 0.1 s or longer than a day.
        """
        if burst_seconds is not None and not burst_seconds > 0:
            raise InvalidQuota(f"quota {name!r}: burst_seconds must be above 0")
        if not SHORTEST_PERIOD_SECONDS <= window_seconds <= DAY_SECONDS:
            raise InvalidQuota(f"quota {name!r}: window_seconds must be from 0.1 to 86,400")
        stated = {resource: value for resource, value in limits.items() if value is not None}
        for resource, value in stated.items():
            if not (value >= 1 or (resource is Resource.USD_PER_DAY and value > 0)):
                raise InvalidQuota(f"quota {name!r}: {resource} must be at least 1, not {value!r}")
        made = [_limit(each, n, burst_seconds, day_starts) for each, n in stated.items()]
        found = (
            replace(each, window=window, window_seconds=window_seconds) if each.per_second else each
            for each in made
        )
        return cls(name, tuple(found), is_guess)

    @classmethod
    def guessed(cls, name: str) -> "Quota":
        """Guess the limits of an address that nobody configured; its answers tell better ones."""
        return cls.stated(name, GUESSED_PER_MINUTE, is_guess=True)


def _limit(
    resource: Resource, number: float, burst_seconds: float | None, day_starts: float
) -> Limit:
    if resource is Resource.CONCURRENCY:
        return Limit(resource, number, 0.0, 1)
    if resource.is_held:
        return Limit(resource, number, 0.0, number)
    if resource.is_daily:
        return Limit(resource, number, 0.0, number, day_starts)
    is_learned = burst_seconds is None
    capacity = max(1.0, number * (1.0 if burst_seconds is None else burst_seconds) / 60)
    return Limit(resource, capacity, number / 60, number, learns_burst=is_learned)


class RateLimitHeader(Data, frozen=True):
    """The headers of an answer about one limit. None where the provider sent no such header."""

    limit: float | None = None
    """The limit in its period."""
    remaining: float | None = None
    """The part of it that was left after the request had been counted."""
    reset_seconds: float | None = None
    """Seconds until all of it is available again."""
    period_seconds: float | None = None
    """The period. None: a minute, and of a daily resource a day."""
    window: Window | None = None
    """How it is counted; None: the source does not say."""


class ProviderEvent(StrEnum):
    """How the provider behind a quota took an attempt."""

    ANSWERED = "answered"  # the provider lives, whatever it said of this call
    REFUSED = "refused"  # 429: requests come too fast
    CROWDED = "crowded"  # 429: too many requests are in flight
    SPENT = "spent"  # 429: what there is for a day is used up
    OVERLOADED = "overloaded"  # 503, 529, 429 of a local server: too many at once
    FAILED = "failed"  # no answer, or an incomplete one
    LOCKED_OUT = "locked out"  # the account gets no answers: a bad key, no money
    NO_CAPACITY = "no capacity"  # none for the quota's lane: nothing was taken


class Observation(Data, frozen=True):
    """The observations of a quota by one attempt at a call."""

    pause_until: float | None = None
    """The quota sends nothing before this time; epoch seconds. None: no pause."""
    event: ProviderEvent | None = None
    """How the provider behaved; None if the attempt does not tell."""
    headers: Mapping[Resource, RateLimitHeader] = field(default_factory=dict)
    """The rate limit headers, by what they limit."""
    error: str = ""
    """The provider's words where the account is locked out; else empty."""
    odd: tuple[str, ...] = ()
    """``MODEL: FIELD`` of each field of the answer that was out of range, and so not read."""
    is_pause_told: bool = False
    """Whether the provider told the pause, so that its budget comes back then and not before."""
    about: Resource | None = None
    """What a refusal says that it is about: requests or tokens. None: it does not say."""
    date: float | None = None
    """The time of the answer by the provider's clock, in whole epoch seconds; None: not told."""


class BucketState(Data, frozen=True):
    """A bucket as it is stored. Reservations count as spent: a crash cannot tell."""

    quota: str
    """The name of its quota."""
    resource: Resource
    """The resource that its limit counts; with ``quota``, the key of the row."""
    available: float
    """The free amount at ``as_of``, in the resource's unit; below 0 in debt."""
    as_of: float
    """From when on it refills; epoch seconds."""
    paused_until: float | None = None
    """The quota sends nothing before this time; epoch seconds. None: no pause."""
    capacity: float | None = None
    """What a full bucket held then: under another limit, what was taken of a day stays taken. None
    in rows of before."""
