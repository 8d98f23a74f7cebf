"""Answers that are errors, worded as OpenAI words them. Pure."""

import math
from dataclasses import dataclass
from typing import Any

from .limits import format_duration, milliseconds

_UNITS = {"requests": "requests per min (RPM)", "tokens": "tokens per min (TPM)"}


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error answer. ``why`` is the ledger's word for it; ``retry_seconds`` becomes headers."""

    status: int
    why: str
    message: str
    kind: str
    code: str | None = None
    retry_seconds: float | None = None
    details: Any = None
    odd_pause: str | None = None
    """Replaces the value of ``retry-after``, whatever it says."""
    limit_type: str | None = None
    """What LiteLLM's proxy says that the limit is of: a header."""

    def body(self) -> dict[str, Any]:
        """The JSON body."""
        error: dict[str, Any] = {"message": self.message, "type": self.kind}
        error |= {"param": None, "code": self.code}
        return {"error": error if self.details is None else error | {"details": self.details}}

    def headers(self) -> dict[str, str]:
        """``retry-after`` in whole seconds and ``retry-after-ms``, both rounded up."""
        if self.odd_pause is not None:
            return {"retry-after": self.odd_pause}
        if self.limit_type is not None and self.retry_seconds is not None:
            seconds = f"{self.retry_seconds:.0f}"
            return {"retry-after": seconds, "rate_limit_type": self.limit_type}
        if self.retry_seconds is None:
            return {}
        wait_ms = milliseconds(self.retry_seconds)
        return {"retry-after": str(math.ceil(wait_ms / 1000)), "retry-after-ms": str(wait_ms)}


@dataclass(frozen=True, slots=True)
class Shortage:
    """A bucket that is too empty: its resource, and the numbers of the message."""

    resource: str
    limit: float
    used: float
    requested: float
    wait_seconds: float


def rate_limited(model: str, short: Shortage) -> Refusal:
    """Refuse a request that the bucket will allow in ``short.wait_seconds``."""
    message = (
        f"Rate limit reached for {model} on {_UNITS[short.resource]}: Limit {short.limit:.10g}, "
        f"Used {short.used:.10g}, Requested {short.requested:.10g}. "
        f"Please try again in {format_duration(short.wait_seconds)}."
    )
    wait = short.wait_seconds
    return Refusal(429, short.resource, message, short.resource, "rate_limit_exceeded", wait)


def too_large(model: str, limit: float, requested: float) -> Refusal:
    """Refuse a request that is above the limit by itself: no wait helps, so none is named."""
    message = (
        f"Request too large for {model} on tokens per min (TPM): Limit {limit:.10g}, "
        f"Requested {requested:.10g}. The input or output tokens must be reduced in order to run "
        "successfully."
    )
    return Refusal(429, "too_large", message, "tokens", "rate_limit_exceeded")


def too_many_at_once(model: str, limit: int) -> Refusal:
    """Refuse a request because of those in flight. Their ends are unknown: no wait is named."""
    message = f"Too many concurrent requests for {model}: Limit {limit}."
    return Refusal(429, "concurrency", message, "requests", "rate_limit_exceeded")


def throttled(limit_type: str, limit: float, window_seconds: float) -> Refusal:
    """Refuse a request as LiteLLM's proxy does: the wait is the window's length, whatever helps."""
    why = "concurrency" if limit_type == "max_parallel_requests" else limit_type
    message = (
        f"Rate limit exceeded for api_key: key. Limit type: {limit_type}. Current limit: "
        f"{limit:.0f}, Remaining: 0."
    )
    return Refusal(
        429, why, message, "throttling_error", "429", window_seconds, limit_type=limit_type
    )


def bad_request(message: str) -> Refusal:
    """Refuse a malformed request."""
    return Refusal(400, "bad_request", message, "invalid_request_error")
