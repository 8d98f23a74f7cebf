"""Faults on request: their kinds, the header that asks for one, their error answers. Pure.

A fault with a 4xx status comes before admission: the request is refused and charges nothing. Any
other fault comes after it: the request is charged, and its answer is faulty.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from .limits import format_duration
from .refusals import Refusal

FAULT_HEADER = "x-simulate-fault"


class FaultKind(StrEnum):
    """What goes wrong. The value is the word in the header and in the ledger.

    *Charged*: the request counts against the limits. *Paid*: its answer was generated and is on
    the bill, too.
    """

    RATE_LIMIT = "rate_limit"
    """429 although the budget is free."""
    INSUFFICIENT_QUOTA = "insufficient_quota"
    """429 that waiting does not mend: the account has no credit."""
    SERVER_ERROR = "server_error"
    """500; charged, not paid."""
    OVERLOADED = "overloaded"
    """503; charged, not paid."""
    UNAUTHORIZED = "unauthorized"
    """401."""
    CUT_STREAM = "cut_stream"
    """The connection closes before the answer is complete; paid."""
    STREAM_ERROR = "stream_error"
    """An error event inside a stream, after HTTP 200; paid. An answer in one body is cut."""
    OVERLOADED_529 = "overloaded_529"
    """529, as Anthropic has it; charged, not paid."""
    HANG = "hang"
    """No answer until the client leaves or the provider stops; charged, not paid."""
    MALFORMED = "malformed"
    """200 with a body that is not JSON; paid."""
    ODD_USAGE = "odd_usage"
    """Both token counts of the usage are the JSON text ``value``; paid."""
    ODD_HEADER = "odd_header"
    """All rate limit headers are ``value``; paid."""
    ODD_PAUSE = "odd_pause"
    """429 whose ``retry-after`` is ``value``."""
    DEEP_ERROR = "deep_error"
    """429 whose body nests 300 lists in 300 lists."""
    DEEP = "deep"
    """200 with JSON that nests 50,000 objects; paid."""
    LARGE = "large"
    """An answer with ``size_mb`` MiB of spaces, in a stream as one line; paid."""
    PACKED = "packed"
    """The same, compressed with gzip; paid."""
    FOREIGN_PACKING = "foreign_packing"
    """An answer that claims an encoding that was not offered, zstd; paid."""
    DRIP = "drip"
    """One byte of the answer each ``every_seconds``; paid."""
    STALL = "stall"
    """The head and the first byte of an answer; then silence until the client leaves; paid."""
    REDIRECT = "redirect"
    """307 to ``value``; charged, not paid."""
    ERROR_INSIDE = "error_inside"
    """200 with the error object ``value`` (JSON) in the place of an answer; in a stream as an event
    after ``after_chunks`` others. Paid."""
    UNFINISHED = "unfinished"
    """A stream that ends well, but before its finish; paid."""
    CUT_AFTER_END = "cut_after_end"
    """A stream whose connection breaks after its end mark; paid."""
    UNKNOWN_PARAMETER = "unknown_parameter"
    """422 that names the parameter ``value``."""
    NO_CAPACITY = "no_capacity"
    """429: no capacity for flex now."""
    UNPAID = "unpaid"
    """402: the account has no money."""
    FORBIDDEN = "forbidden"
    """403: the key lacks a permission."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    ``retry_after_seconds`` goes into the headers of an error answer. ``after_chunks``, for
    CUT_STREAM and STREAM_ERROR, is how many events are sent first; an answer that is not streamed
    is cut in the middle of its body, or before its first byte if ``after_chunks`` is 0. ``value``,
    ``size_mb`` and ``every_seconds`` are for the kinds that name them.
    """

    kind: FaultKind
    retry_after_seconds: float | None = None
    after_chunks: int = 1
    value: str = "NaN"
    size_mb: int = 64
    every_seconds: float = 0.05

    @classmethod
    def parse(cls, text: str) -> "Fault":
        """Read a header: ``hang``, ``rate_limit; retry_after_seconds=2``.

        Raises ValueError for a kind or a setting that does not exist.
        """
        name, *settings = (part.strip() for part in text.split(";"))
        fault = cls(FaultKind(name))
        for setting in settings:
            key, _, value = setting.partition("=")
            if key not in _SETTINGS:
                raise ValueError(f"{FAULT_HEADER}: no setting {key!r}")
            fault = replace(fault, **{key: _SETTINGS[key](value)})
        return fault

    def refusal(self, model: str) -> Refusal | None:
        """Return the error answer of this fault; None if its status is no error."""
        known = _ERRORS.get(self.kind)
        if known is None:
            return None
        status, message, kind, code = known
        hint = ""
        if self.kind is FaultKind.RATE_LIMIT and self.retry_after_seconds is not None:
            hint = f" Please try again in {format_duration(self.retry_after_seconds)}."
        text = message.format(model=model, value=self.value) + hint
        why, seconds = self.kind.value, self.retry_after_seconds
        details: Any = [[[{}] * 300] * 300] if self.kind is FaultKind.DEEP_ERROR else None
        pause = self.value if self.kind is FaultKind.ODD_PAUSE else None
        return Refusal(status, why, text, kind, code, seconds, details, pause)


_SETTINGS: dict[str, Callable[[str], Any]] = {
    "retry_after_seconds": float,
    "after_chunks": int,
    "value": str,
    "size_mb": int,
    "every_seconds": float,
}

_ERRORS: dict[FaultKind, tuple[int, str, str, str | None]] = {
    FaultKind.RATE_LIMIT: (
        429,
        "Rate limit reached for {model} on requests per min (RPM).",
        "requests",
        "rate_limit_exceeded",
    ),
    FaultKind.INSUFFICIENT_QUOTA: (
        429,
        "You exceeded your current quota, please check your plan and billing details.",
        "insufficient_quota",
        "insufficient_quota",
    ),
    FaultKind.SERVER_ERROR: (
        500,
        "The server had an error while processing your request. Sorry about that!",
        "server_error",
        None,
    ),
    FaultKind.OVERLOADED: (
        503,
        "The server is overloaded. Please try again later.",
        "service_unavailable_error",
        "server_is_overloaded",
    ),
    FaultKind.ODD_PAUSE: (429, "Slow down.", "requests", "rate_limit_exceeded"),
    FaultKind.DEEP_ERROR: (429, "Slow down.", "requests", "rate_limit_exceeded"),
    FaultKind.OVERLOADED_529: (529, "Overloaded", "overloaded_error", None),
    FaultKind.UNKNOWN_PARAMETER: (
        422,
        "Extra inputs are not permitted: {value}",
        "invalid_request_error",
        None,
    ),
    FaultKind.NO_CAPACITY: (
        429,
        "Resource Unavailable: there is no flex capacity for {model} now.",
        "resource_unavailable",
        "resource_unavailable",
    ),
    FaultKind.UNPAID: (402, "Insufficient Balance", "unknown_error", None),
    FaultKind.FORBIDDEN: (
        403,
        "You have insufficient permissions for this operation.",
        "invalid_request_error",
        None,
    ),
    FaultKind.UNAUTHORIZED: (
        401,
        "Incorrect API key provided.",
        "invalid_request_error",
        "invalid_api_key",
    ),
}
