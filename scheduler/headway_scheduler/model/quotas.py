"""Limits of a provider, what a bucket holds, and what a provider said of them. Data only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ..errors import InvalidQuota


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
class RateLimitHeader:
    """What a provider said of one limit with an answer. None: it did not say.

    ``limit`` is for a minute, or for a day where the resource is; ``remaining`` is what was left of
    it when the request had been counted, ``reset_seconds`` how long until it is whole again.
    """

    limit: float | None = None
    remaining: float | None = None
    reset_seconds: float | None = None


class ProviderEvent(StrEnum):
    """What an answer, or its absence, says of the provider behind a quota."""

    ANSWERED = "answered"  # it lives, whatever it said of this call
    REFUSED = "refused"  # too fast for it
    OVERLOADED = "overloaded"  # too much at once for it
    FAILED = "failed"  # it did not answer, or not whole
    LOCKED_OUT = "locked out"  # it answers nobody of this account: a bad key, no money


@dataclass(frozen=True, slots=True)
class Observation:
    """What was learned of a quota by one attempt at a call.

    ``pause_until``: a time before which nothing is sent. ``told``: what headers said. ``error``:
    the provider's words, where its account is locked out.
    """

    pause_until: float | None = None
    event: ProviderEvent | None = None
    headers: Mapping[Resource, RateLimitHeader] = field(
        default_factory=dict[Resource, RateLimitHeader]
    )
    error: str = ""


@dataclass(frozen=True, slots=True)
class BucketState:
    """A bucket as it is stored: what was free at ``as_of``, counting reservations as spent."""

    quota: str
    resource: Resource
    available: float
    as_of: float
    paused_until: float | None = None
