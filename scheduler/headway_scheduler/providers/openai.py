"""OpenAI and servers that speak its protocol.

Sources: OpenAI's rate limit guide (what counts, headers) and its error code guide. Requests and
tokens are charged when a request arrives: one request, and the larger of the output cap and an
estimate from the characters of the prompt. Nothing is given back when the answer is shorter.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum

CHARACTERS_PER_TOKEN = 4
_FINAL_CODES = frozenset({"insufficient_quota", "credit_balance_exhausted", "invalid_api_key"})
_TOO_LARGE = "Request too large"  # a 429 with the code of any other, but no wait makes it smaller
_TRANSIENT_STATUS = frozenset({408, 409})  # and everything from 500, as OpenAI's SDK has it
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 60.0


class Kind(StrEnum):
    """What can be done about an error."""

    RATE_LIMITED = "rate limited"  # the quota pauses, the call goes again
    TRANSIENT = "transient"  # this call goes again, later
    FINAL = "final"  # no wait mends it


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an error means: ``pause_seconds`` is how long to wait before the next try."""

    kind: Kind
    pause_seconds: float = 0.0


def reserved_tokens(characters: int, output_cap: int | None) -> int:
    """Tokens charged at admission for a prompt of ``characters`` and a cap on the output."""
    return max(1, output_cap or 0, math.ceil(characters / CHARACTERS_PER_TOKEN))


def judge(
    status: int | None,
    headers: Mapping[str, str],
    code: str | None,
    attempt: int,
    now: float,
    message: str = "",
) -> Verdict:
    """Judge a failed attempt, the ``attempt``-th of its call from 1.

    ``status`` is None when no answer came (timeout, refused or cut connection). ``headers`` have
    lower-case names. ``message`` is the provider's text.
    """
    stated = retry_after_seconds(headers, now)
    backoff = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** min(attempt - 1, 10))
    # A stated 0 (or a date gone by) is no time at all: taken at its word, we would hammer.
    pause = stated or backoff
    if not stated and (code in _FINAL_CODES or _TOO_LARGE in message):
        return Verdict(Kind.FINAL)
    if status == 429:
        return Verdict(Kind.RATE_LIMITED, pause)
    if status is None or status in _TRANSIENT_STATUS or status >= 500:
        return Verdict(Kind.TRANSIENT, pause)
    return Verdict(Kind.FINAL)


def retry_after_seconds(headers: Mapping[str, str], now: float) -> float | None:
    """Read ``retry-after-ms``, then ``retry-after`` as seconds or as a date; None without any."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * scale
        except ValueError:
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    try:
        date = parsedate_to_datetime(headers.get("retry-after", ""))
    except (ValueError, TypeError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, date.timestamp() - now)
