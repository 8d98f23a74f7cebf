"""The limits of a provider: token buckets, or windows. Law of this file: pure; time is an argument.

A bucket holds at most ``capacity`` and refills continuously. A cost above the capacity passes when
the bucket is full and leaves it in debt, so that a long request is slow rather than impossible.
"""

import math
from dataclasses import dataclass, replace
from enum import StrEnum

from .windows import FixedWindow, SlidingWindow, WindowKind

# Requests or tokens that float arithmetic may lose: a client that waits as long as it was told
# must not find the bucket a rounding error too empty.
ROUNDING = 1e-6


DEFAULT_CAP_TOKENS = 4096
"""Tokens that Bedrock charges for the output of a request that states no cap."""


class Charging(StrEnum):
    """The provider whose way of counting tokens applies, as that provider documents it."""

    OPENAI = "openai"  # the larger of prompt and output cap, at admission, for good
    AZURE = "azure"  # prompt and output cap, at admission, for good
    ANTHROPIC = "anthropic"  # the prompt at admission; the output at its end, from its own limit
    GEMINI = "gemini"  # the prompt at admission
    BEDROCK = "bedrock"  # prompt and output cap at admission, settled to what was used at the end

    @property
    def has_headers(self) -> bool:
        """Whether answers have rate limit headers."""
        return self not in (Charging.GEMINI, Charging.BEDROCK)

    def admitted(self, prompt: int, cap: int | None) -> int:
        """Return the tokens that a request is charged when it is admitted."""
        match self:
            case Charging.OPENAI:
                return max(prompt, cap or 0)
            case Charging.AZURE:
                return prompt + (cap or 0)
            case Charging.BEDROCK:
                return prompt + (cap or DEFAULT_CAP_TOKENS)
        return prompt


class HeaderStyle(StrEnum):
    """Which rate limit headers answers have, and how a refusal is worded."""

    OPENAI = "openai"  # limit, remaining and reset
    AZURE = "azure"  # the same without a reset; the limit is that of the window
    REMAINING = "remaining"  # what remains alone, as Azure often tells
    LITELLM = "litellm"  # LiteLLM's proxy: with the scope in their names, and no reset
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one scope; None for no limit.

    ``burst_seconds``: for how long unused budget piles up, so the capacity of a bucket.
    ``concurrency``: requests in flight. ``refused_count``: whether a refused request is charged one
    request too, as OpenAI documents. ``output_per_minute``: tokens of answers, for a ``charging``
    that counts them apart. ``window``, ``window_seconds``: how requests and tokens are counted; a
    window holds its share of a minute's limit. ``headers``: None for those of ``charging``.

    Raises ValueError for a limit, a burst or a window that is not above 0.
    """

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    burst_seconds: float = 60.0
    concurrency: int | None = None
    refused_count: bool = False
    output_per_minute: float | None = None
    charging: Charging = Charging.OPENAI
    window: WindowKind = WindowKind.BUCKET
    window_seconds: float = 60.0
    headers: HeaderStyle | None = None

    def __post_init__(self) -> None:
        stated = (
            self.requests_per_minute,
            self.tokens_per_minute,
            self.burst_seconds,
            self.concurrency,
            self.output_per_minute,
            self.window_seconds,
        )
        if any(value is not None and not value > 0 for value in stated):
            raise ValueError(f"limits must be above 0, or None for no limit: {self}")

    @property
    def request_capacity(self) -> float:
        """Requests in a full bucket, at least 1. Infinite without a request limit."""
        return max(1.0, _capacity(self.requests_per_minute, self.burst_seconds))

    @property
    def token_capacity(self) -> float:
        """Tokens in a full bucket. Infinite without a token limit."""
        return _capacity(self.tokens_per_minute, self.burst_seconds)

    def full(self, per_minute: float, now: float, clock_offset: float = 0.0) -> "Counter":
        """Return what counts one limit, with nothing counted yet.

        ``clock_offset``: what to add to ``now`` to get seconds since 1970, for minutes of a clock.
        """
        capacity, seconds = per_minute * self.window_seconds / 60, self.window_seconds
        match self.window:
            case WindowKind.BUCKET:
                full = max(1.0, per_minute * self.burst_seconds / 60)
                return Bucket.full(per_minute, full, now)
            case WindowKind.SLIDING:
                return SlidingWindow(capacity, seconds)
            case WindowKind.FIXED:
                return FixedWindow(capacity, seconds)
            case WindowKind.MINUTE:
                return FixedWindow(capacity, seconds, True, clock_offset)


def _capacity(per_minute: float | None, burst_seconds: float) -> float:
    return math.inf if per_minute is None else per_minute * burst_seconds / 60


@dataclass(frozen=True, slots=True)
class Bucket:
    """A token bucket that held ``fill`` at second ``at``. Below 0 it is in debt."""

    per_minute: float
    capacity: float
    fill: float
    at: float

    @classmethod
    def full(cls, per_minute: float, capacity: float, now: float) -> "Bucket":
        """Return a full bucket; ``now`` in seconds of the caller's clock, as everywhere below."""
        return cls(per_minute, capacity, capacity, now)

    def refilled(self, now: float) -> "Bucket":
        """Return the bucket as it is at ``now``."""
        fill = self.fill + (now - self.at) * self.per_minute / 60
        return replace(self, fill=min(self.capacity, fill), at=now)

    def wait_seconds(self, cost: float, now: float) -> float:
        """Return the seconds until ``cost`` passes if nobody else draws; 0.0 if it passes now."""
        short = min(cost, self.capacity) - self.refilled(now).fill
        return 0.0 if short <= ROUNDING else short * 60 / self.per_minute

    def taken(self, cost: float, now: float) -> "Bucket":
        """Return the bucket after ``cost`` was taken."""
        filled = self.refilled(now)
        return replace(filled, fill=filled.fill - cost)

    def spilled(self, now: float) -> "Bucket":
        """Return the bucket after a refusal that is charged as a request.

        It empties but never goes into debt: a client that hammers is refused as long as it hammers,
        and gets in again soon after it stops.
        """
        filled = self.refilled(now)
        return replace(filled, fill=min(filled.fill, max(0.0, filled.fill - 1)))

    def remaining(self, now: float) -> int:
        """Return the whole requests or tokens that are left."""
        return max(0, math.floor(self.refilled(now).fill + ROUNDING))

    def reset_seconds(self, now: float) -> float:
        """Return the seconds until the bucket is full again."""
        return (self.capacity - self.refilled(now).fill) * 60 / self.per_minute


Counter = Bucket | SlidingWindow | FixedWindow
"""What counts one limit."""


def milliseconds(seconds: float) -> int:
    """Return whole milliseconds, rounded up, so that waiting for that long is enough."""
    return math.ceil(round(seconds * 1000, 6))


def format_duration(seconds: float) -> str:
    """Format a duration as OpenAI's ``x-ratelimit-reset-*``: ``120ms``, ``1.5s``, ``6m0s``."""
    total = milliseconds(seconds)
    if 0 < total < 1000:
        return f"{total}ms"
    minutes, rest = divmod(total, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text
