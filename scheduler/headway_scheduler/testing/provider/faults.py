"""Failures on request: which there are, how a header asks for one, what they answer. Pure.

A fault with a 4xx status comes before admission: the request is refused and charges nothing. Every
other comes after it: the request is charged, and the fault is in what is sent back.
"""

from dataclasses import dataclass
from enum import StrEnum

from .limits import format_duration
from .refusals import Refusal

FAULT_HEADER = "x-simulate-fault"


class FaultKind(StrEnum):
    """What goes wrong; the value is the word in the header and in the ledger."""

    RATE_LIMIT = "rate_limit"
    """429 although the budget is free."""
    INSUFFICIENT_QUOTA = "insufficient_quota"
    """429 that waiting does not mend."""
    SERVER_ERROR = "server_error"
    """500; charged, not paid."""
    OVERLOADED = "overloaded"
    """503; charged, not paid."""
    UNAUTHORIZED = "unauthorized"
    """401."""
    CUT_STREAM = "cut_stream"
    """The connection closes before the answer is complete; paid."""
    STREAM_ERROR = "stream_error"
    """An error event inside a stream, after HTTP 200; paid. What is not streamed is cut."""
    OVERLOADED_529 = "overloaded_529"
    """529, as Anthropic has it; charged, not paid."""
    HANG = "hang"
    """No answer until the client leaves or the provider stops; charged, not paid."""
    MALFORMED = "malformed"
    """200 with a body that is not JSON; paid."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One failure.

    ``retry_after_seconds`` goes into the headers of an error answer. ``after_chunks`` is for
    CUT_STREAM and STREAM_ERROR: events that are sent first. An answer that is not streamed is cut
    in the middle of its body, or before its first byte if ``after_chunks`` is 0.
    """

    kind: FaultKind
    retry_after_seconds: float | None = None
    after_chunks: int = 1

    @classmethod
    def parse(cls, text: str) -> "Fault":
        """Read a header: ``hang``, ``rate_limit; retry_after_seconds=2``.

        Raises ValueError for a kind or a setting that does not exist.
        """
        name, *settings = (part.strip() for part in text.split(";"))
        kind, retry_after_seconds, after_chunks = FaultKind(name), None, 1
        for setting in settings:
            key, _, value = setting.partition("=")
            if key == "retry_after_seconds":
                retry_after_seconds = float(value)
            elif key == "after_chunks":
                after_chunks = int(value)
            else:
                raise ValueError(f"{FAULT_HEADER}: no setting {key!r}")
        return cls(kind, retry_after_seconds, after_chunks)

    def refusal(self, model: str) -> Refusal | None:
        """The error answer of this fault; None if it is no error status."""
        known = _ERRORS.get(self.kind)
        if known is None:
            return None
        status, message, kind, code = known
        hint = ""
        if self.kind is FaultKind.RATE_LIMIT and self.retry_after_seconds is not None:
            hint = f" Please try again in {format_duration(self.retry_after_seconds)}."
        text = message.format(model=model) + hint
        return Refusal(status, self.kind.value, text, kind, code, self.retry_after_seconds)


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
    FaultKind.OVERLOADED_529: (529, "Overloaded", "overloaded_error", None),
    FaultKind.UNAUTHORIZED: (
        401,
        "Incorrect API key provided.",
        "invalid_request_error",
        "invalid_api_key",
    ),
}
