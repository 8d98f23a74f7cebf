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
    """Stands in ``retry-after`` as it is."""

    def body(self) -> dict[str, Any]:
        """The JSON body."""
        error: dict[str, Any] = {"message": self.message, "type": self.kind}
        error |= {"param": None, "code": self.code}
        return {"error": error if self.details is None else error | {"details": self.details}}

    def headers(self) -> dict[str, str]:
        """``retry-after`` in whole seconds and ``retry-after-ms``, both rounded up."""
        if self.odd_pause is not None:
            return {"retry-after": self.odd_pause}
        if self.retry_seconds is None:
            return {}
        wait_ms = milliseconds(self.retry_seconds)
        return {"retry-after": str(math.ceil(wait_ms / 1000)), "retry-after-ms": str(wait_ms)}


@dataclass(frozen=True, slots=True)
class Shortage:
    """A bucket that is too empty: its resource and what the message tells about it."""

    resource: str
    limit: float
    used: float
    requested: float
    wait_seconds: float


def rate_limited(model: str, short: Shortage) -> Refusal:
    """The budget does not allow it now; it does in ``short.wait_seconds``."""
    message = (
        f"Rate limit reached for {model} on {_UNITS[short.resource]}: Limit {short.limit:.10g}, "
        f"Used {short.used:.10g}, Requested {short.requested:.10g}. "
        f"Please try again in {format_duration(short.wait_seconds)}."
    )
    wait = short.wait_seconds
    return Refusal(429, short.resource, message, short.resource, "rate_limit_exceeded", wait)


def too_large(model: str, limit: float, requested: float) -> Refusal:
    """The request alone is above the limit: waiting cannot help, so no time is named."""
    message = (
        f"Request too large for {model} on tokens per min (TPM): Limit {limit:.10g}, "
        f"Requested {requested:.10g}. The input or output tokens must be reduced in order to run "
        "successfully."
    )
    return Refusal(429, "too_large", message, "tokens", "rate_limit_exceeded")


def too_many_at_once(model: str, limit: int) -> Refusal:
    """Too many requests in flight. Nobody knows when one ends, so no time is named."""
    message = f"Too many concurrent requests for {model}: Limit {limit}."
    return Refusal(429, "concurrency", message, "requests", "rate_limit_exceeded")


def bad_request(message: str) -> Refusal:
    """The caller sent something that is no chat completion request."""
    return Refusal(400, "bad_request", message, "invalid_request_error")
