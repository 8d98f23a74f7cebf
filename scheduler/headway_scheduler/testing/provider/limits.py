"""What a provider allows, as token buckets. Law of this file: pure; time is an argument.

A bucket holds at most ``capacity`` and refills continuously. A cost above the capacity passes when
the bucket is full and leaves it in debt, so that a long request is slow rather than impossible.
"""

import math
from dataclasses import dataclass, replace
from enum import StrEnum

# In requests or tokens: what float arithmetic may lose between "wait x" and being back after x.
ROUNDING = 1e-6


DEFAULT_CAP_TOKENS = 4096
"""What Bedrock takes for the output of a request that names no cap."""


class Charging(StrEnum):
    """Whose way of counting tokens holds, as each documents it."""

    OPENAI = "openai"  # the larger of prompt and output cap, at admission, for good
    AZURE = "azure"  # prompt and output cap, at admission, for good
    ANTHROPIC = "anthropic"  # the prompt at admission; the output at its end, of a limit of its own
    GEMINI = "gemini"  # the prompt at admission
    BEDROCK = "bedrock"  # prompt and output cap at admission, settled to what was used at the end

    @property
    def has_headers(self) -> bool:
        """Whether answers tell of limits."""
        return self not in (Charging.GEMINI, Charging.BEDROCK)

    def admitted(self, prompt: int, cap: int | None) -> int:
        """The tokens that a request takes when it arrives."""
        match self:
            case Charging.OPENAI:
                return max(prompt, cap or 0)
            case Charging.AZURE:
                return prompt + (cap or 0)
            case Charging.BEDROCK:
                return prompt + (cap or DEFAULT_CAP_TOKENS)
        return prompt


@dataclass(frozen=True, slots=True)
class Limits:
    """What one bucket set allows; None means that there is no such limit.

    ``burst_seconds`` is how long unused budget piles up. ``concurrency`` counts requests in flight.
    With ``refused_count`` a refused request takes one request too, as OpenAI documents.
    ``output_per_minute`` is only for ``charging`` that counts output apart.

    Raises ValueError for a limit or a burst that is not above 0.
    """

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    burst_seconds: float = 60.0
    concurrency: int | None = None
    refused_count: bool = False
    output_per_minute: float | None = None
    charging: Charging = Charging.OPENAI

    def __post_init__(self) -> None:
        stated = (
            self.requests_per_minute,
            self.tokens_per_minute,
            self.burst_seconds,
            self.concurrency,
            self.output_per_minute,
        )
        if any(value is not None and not value > 0 for value in stated):
            raise ValueError(f"limits must be above 0, or None for no limit: {self}")

    @property
    def request_capacity(self) -> float:
        """Requests in a full bucket; at least 1, or nothing would ever pass. Infinite if none."""
        return max(1.0, _capacity(self.requests_per_minute, self.burst_seconds))

    @property
    def token_capacity(self) -> float:
        """Tokens in a full bucket. Infinite without a token limit."""
        return _capacity(self.tokens_per_minute, self.burst_seconds)


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
        """A bucket that nobody has drawn on."""
        return cls(per_minute, capacity, capacity, now)

    def refilled(self, now: float) -> "Bucket":
        """The same bucket at ``now``, in seconds of the caller's clock."""
        fill = self.fill + (now - self.at) * self.per_minute / 60
        return replace(self, fill=min(self.capacity, fill), at=now)

    def wait_seconds(self, cost: float, now: float) -> float:
        """Seconds until ``cost`` passes if nobody else draws; 0.0 if it passes now."""
        short = min(cost, self.capacity) - self.refilled(now).fill
        return 0.0 if short <= ROUNDING else short * 60 / self.per_minute

    def taken(self, cost: float, now: float) -> "Bucket":
        """The bucket after ``cost`` passed."""
        filled = self.refilled(now)
        return replace(filled, fill=filled.fill - cost)

    def spilled(self, now: float) -> "Bucket":
        """The bucket after a refusal that counts as a request.

        It empties but never owes: who hammers stays out, and gets in again once he stops.
        """
        filled = self.refilled(now)
        return replace(filled, fill=min(filled.fill, max(0.0, filled.fill - 1)))

    def remaining(self, now: float) -> int:
        """Whole units that are left."""
        return max(0, math.floor(self.refilled(now).fill + ROUNDING))

    def reset_seconds(self, now: float) -> float:
        """Seconds until the bucket is full again."""
        return (self.capacity - self.refilled(now).fill) * 60 / self.per_minute


def milliseconds(seconds: float) -> int:
    """Whole milliseconds, rounded up: who waits that long has waited enough."""
    return math.ceil(round(seconds * 1000, 6))


def format_duration(seconds: float) -> str:
    """A duration as in OpenAI's ``x-ratelimit-reset-*``: ``120ms``, ``1.5s``, ``6m0s``."""
    total = milliseconds(seconds)
    if 0 < total < 1000:
        return f"{total}ms"
    minutes, rest = divmod(total, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text
