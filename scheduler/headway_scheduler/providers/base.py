"""Defines what Headway asks about a provider, and the cautious answers for an unknown one.

Law of this file: pure; it reads what came and says what it means, and changes nothing.

An error is about the pace of requests (wait, and all others with it), about the provider (go again
later), about the call alone (no wait mends it), or about the account (no wait mends it for anyone).
"""

import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import Any

from ..model.calls import Usage
from ..model.formulas import LONGEST_STATED_SECONDS, backoff_seconds, short_seconds
from ..model.quotas import RateLimitHeader, Resource
from . import readings
from .limit_headers import litellm_limits
from .readings import Odd, duration_seconds, is_litellm, retry_after_seconds, word
from .refusals import (
    is_about_a_day,
    is_about_slots,
    litellm_minute_seconds,
    litellm_refusal,
    openai_refusal,
    refused_resource,
)

# And everything from 500, as in OpenAI's SDK.
_TRANSIENT_STATUS = frozenset({408, 409, 425})
_OVERLOADED_STATUS = frozenset({498, 503, 529})
_WITHOUT_CAPACITY = frozenset({"resource_unavailable", "capacity_exceeded"})
"""Codes of a 429 (OpenAI) and a 498 (Groq) that a request by flex gets while there is no room."""
_OF_THE_WAY = frozenset({502, 504, *range(520, 531)})
"""What proxies answer when the server behind them does not."""
_STATUS_OF_CODE = {
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "server_is_overloaded": 503,
    "overloaded_error": 529,
    "server_error": 500,
    "api_error": 500,
    "timeout_error": 504,
}
"""The status that an error would have had that comes inside an answer, after HTTP 200."""

_OF_ANY_ACCOUNT = frozenset({"api_key_invalid", "invalid_api_key"})
"""Codes that mean the same of whoever they come, if there are accounts at all."""
_OF_THE_ACCOUNT = frozenset({"key", "workspace", "guardrail"})
"""OpenRouter's ``limit_source`` of a 403 that is about the account."""
_IN_FLIGHT_BUDGET = "openrouter_in_flight_budget"
"""OpenRouter's ``limit_source`` of a 402 that ends when calls in flight do."""
_TOO_HEAVY = "weight_exceeds_budget"
"""The code of a 402 that one request alone is to blame for."""

_ABOUT_THE_CALL = frozenset(
    {
        "content_filter",
        "content_policy_violation",
        "context_length_exceeded",
        "invalid_prompt",
        "invalid_request_error",
        "responsibleaipolicyviolation",
    }
)


_INNER = ("error", "innererror", "details", "metadata", "violations", "response")
"""Fields that hold a part of an error."""

MOST_PARTS = 1_000
"""How many objects and lists of an error's body are looked at. Real ones have a dozen."""


SLOT_SECONDS = 0.25
"""How soon a call goes again that was one too many at once, if a slot is free."""

LONGEST_SAID = 500
"""How many characters of two answers are compared."""
_DIGITS = re.compile(r"\d+")


class ErrorClass(StrEnum):
    """The classes of errors, by what can be done about them."""

    RATE_LIMITED = "rate limited"  # the quota pauses, the call goes again
    AT_ONCE = "at once"  # the call goes again, and fewer at once: others are in flight
    SPENT = "spent"  # as rate limited, but until a day is over
    OVERLOADED = "overloaded"  # this call goes again, later, and fewer at once
    TRANSIENT = "transient"  # this call goes again, later
    FINAL = "final"  # no wait mends this call
    ACCOUNT = "account"  # no wait mends any call: a bad key, no money
    CAPACITY = "capacity"  # none for the lane that was asked for: the lane pauses


@dataclass(frozen=True, slots=True)
class Verdict:
    """The meaning of an error."""

    error_class: ErrorClass
    """The class of the error: what can be done about it."""
    pause_seconds: float = 0.0
    """How long to wait before the next attempt; 0 where none helps."""
    said: str = ""
    """What a server that works said, without digits: the same again and again is the request's own
    fault. Empty: the answer does not show that it works."""
    told: Mapping[Resource, RateLimitHeader] = field(
        default_factory=dict[Resource, RateLimitHeader]
    )
    """Limits that a refusal tells outside of its headers."""
    is_told: bool = field(default=False, compare=False)
    """Whether the provider told the pause."""
    about: Resource | None = field(default=None, compare=False)
    """What a refusal says that it is about."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The parts of an error that came instead of an answer."""

    status: int | None = None
    """The HTTP status, from 400; 200 for a whole answer that the client refused. None for no answer
    (timeout, refused or cut connection), and for an error inside an answer."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    """The headers, by lower-case names."""
    body: Any = None
    """The parsed JSON of the body; None without any."""
    message: str = ""
    """The error's text."""
    is_flex: bool = False
    """Whether the request asked to be served by flex."""

    @property
    def codes(self) -> frozenset[str]:
        """Every code, type, status and reason in the body, in lower case."""
        return self.words("code", "type", "status", "reason")

    def words(self, *names: str) -> frozenset[str]:
        """Every word in the body under one of these names, in lower case."""
        found = (word(part.get(name)) for part in self.parts() for name in names)
        return frozenset(each.lower() for each in found if each is not None)

    @property
    def meant_status(self) -> int | None:
        """The HTTP status, else the number that the body states in its place.

        Gateways answer 200 with an error inside, in a stream or instead of an answer.
        """
        if self.status is not None:
            return self.status
        numbers = (
            readings.status(part.get(name)) for part in self.parts() for name in ("code", "status")
        )
        by_code = (_STATUS_OF_CODE.get(each) for each in sorted(self.codes))
        return next((each for each in (*numbers, *by_code) if each is not None), None)

    def parts(self) -> Iterator[Mapping[str, Any]]:
        """Yield the objects of the body that may describe the error, the outer ones first.

        Google puts the error into a list, and its reasons into ``details``. At most ``MOST_PARTS``
        are looked at: a body may nest lists in lists.
        """
        waiting, seen = deque([self.body]), 1
        while waiting:
            part = waiting.popleft()
            inner: Iterator[Any] = iter(())
            if isinstance(part, Mapping):
                yield part
                inner = (part.get(name) for name in _INNER)
            elif isinstance(part, list):
                inner = iter(part)
            known = len(waiting)
            waiting.extend(islice((each for each in inner if each), MOST_PARTS - seen))
            seen += len(waiting) - known


class Provider:
    """A provider about whose limits nothing is known: the cautious default.

    Its calls reserve the expected usage and are settled on the real one. Its headers are ignored:
    servers that speak OpenAI's protocol give them other meanings (per day, per key). LiteLLM's are
    read, because their names say what they mean.
    """

    name = "other"
    """Its name in the configuration."""
    account_codes: frozenset[str] = frozenset({"invalid_api_key", "authentication_error"})
    """Error codes, in lower case, that mean that the account is locked out."""
    caches_are_free: bool = False
    """Whether limits leave out input that was read from the provider's cache."""
    account_words: tuple[str, ...] = ()
    """Parts of messages, in lower case, that mean the same where no code does."""

    def reserved_tokens(self, characters: int, cap: int | None, expected: Usage) -> int:
        """Return the tokens that a limit on input and output together takes when a request arrives.

        ``characters`` are those of the prompt, ``cap`` is the request's limit on output tokens,
        ``expected`` the estimate from earlier calls.
        """
        return max(1, expected.total)

    def settled_tokens(self, usage: Usage) -> int | None:
        """Return what such a limit has taken after the answer; None: as much as on arrival."""
        return usage.total - (usage.cache_read_tokens if self.caches_are_free else 0)

    def rate_limits(
        self, headers: Mapping[str, str], now: float, odd: list[Odd] | None = None
    ) -> dict[Resource, RateLimitHeader]:
        """Read the rate limit headers of an answer; their names are in lower case.

        Fields that hold nothing in their range are added to ``odd``.
        """
        return litellm_limits(headers, odd) if is_litellm(headers) else {}

    def stated_seconds(self, failure: Failure, now: float) -> float | None:
        """Return the seconds that the provider says to wait; None or 0 if it does not say."""
        stated = retry_after_seconds(failure.headers, now)
        if stated is None:
            stated = google_delay_seconds(failure)
        if stated is None:
            stated = litellm_minute_seconds(failure.headers, failure.message, now)
        return stated

    def judge(self, failure: Failure, attempt: int, now: float) -> Verdict:
        """Judge a failed attempt, the ``attempt``-th of its call from 1, at ``now``."""
        status, stated = failure.meant_status, self.stated_seconds(failure, now)
        # A stated 0 (or a date that has passed) counts as none: retrying at once would hammer.
        pause = min(LONGEST_STATED_SECONDS, stated or backoff_seconds(attempt))
        if failure.is_flex and self.lacks_capacity(failure):
            return Verdict(ErrorClass.CAPACITY, short_seconds(attempt))
        if status == 402:
            return self._judge_unpaid(failure, stated, pause)
        if status == 401 or (not stated and self._is_about_the_account(failure)):
            return Verdict(ErrorClass.ACCOUNT)
        if status == 403 and failure.words("limit_source") & _OF_THE_ACCOUNT:
            return Verdict(ErrorClass.ACCOUNT)
        if status == 429:
            return self._judge_refused(failure, pause, now, is_told=bool(stated))
        if status in _OVERLOADED_STATUS:
            return Verdict(ErrorClass.OVERLOADED, pause)
        if status is None and not failure.codes & _ABOUT_THE_CALL:
            return Verdict(ErrorClass.TRANSIENT, pause)
        if status is not None and (status in _TRANSIENT_STATUS or status >= 500):
            has_words = status >= 500 and status not in _OF_THE_WAY and failure.body is not None
            return Verdict(ErrorClass.TRANSIENT, pause, _said(failure) if has_words else "")
        return Verdict(ErrorClass.FINAL)

    def _judge_refused(
        self, failure: Failure, pause: float, now: float, *, is_told: bool
    ) -> Verdict:
        """Judge a 429: too many in flight, too many for a day, or requests that come too fast."""
        if self.is_too_large(failure):
            return Verdict(ErrorClass.FINAL)
        told = self.told_by_refusal(failure)
        if is_about_slots(failure.headers, failure.message):
            # Its ``retry-after`` is that of a rate: a slot is free when a call in flight ends.
            return Verdict(ErrorClass.AT_ONCE, SLOT_SECONDS, told=told)
        days = (each for each in self.rate_limits(failure.headers, now).items() if each[0].is_daily)
        if is_about_a_day(failure.message, failure.parts()) or any(
            header.remaining == 0 for _, header in days
        ):
            return Verdict(ErrorClass.SPENT, LONGEST_STATED_SECONDS, told=told)
        about = refused_resource(failure.headers, failure.words("type"), failure.message)
        return Verdict(ErrorClass.RATE_LIMITED, pause, told=told, is_told=is_told, about=about)

    def told_by_refusal(self, failure: Failure) -> dict[Resource, RateLimitHeader]:
        """Return the limits that the body or the text of a refusal tells."""
        return litellm_refusal(failure.headers, failure.message) or openai_refusal(
            failure.words("type"), failure.message
        )

    def _judge_unpaid(self, failure: Failure, stated: float | None, pause: float) -> Verdict:
        """Judge a 402: no money, unless it says that time, or a lighter request, mends it."""
        if _TOO_HEAVY in failure.codes:
            return Verdict(ErrorClass.FINAL)
        if stated or _IN_FLIGHT_BUDGET in failure.words("limit_source"):
            return Verdict(ErrorClass.RATE_LIMITED, pause)
        return Verdict(ErrorClass.ACCOUNT)

    def lacks_capacity(self, failure: Failure) -> bool:
        """Whether the provider has no room for a lane that it serves when it has."""
        words = failure.message.lower().replace("_", " ")
        is_told = not failure.codes.isdisjoint(_WITHOUT_CAPACITY) or "resource unavailable" in words
        return failure.meant_status == 498 or (failure.meant_status == 429 and is_told)

    def is_too_large(self, failure: Failure) -> bool:
        """Whether a 429 means that this request alone is above the limit: no wait mends that."""
        return False

    def _is_about_the_account(self, failure: Failure) -> bool:
        words = failure.message.lower()
        codes = {*self.account_codes, *_OF_ANY_ACCOUNT} if self.account_codes else ()
        return not failure.codes.isdisjoint(codes) or any(
            part in words for part in self.account_words
        )


def google_delay_seconds(failure: Failure) -> float | None:
    """Return ``retryDelay`` of Google's ``RetryInfo``, in seconds; None without one.

    No other field has this name, so it is read whoever the provider is said to be: Gemini is asked
    through clients and gateways of OpenAI's protocol.
    """
    delays = (part.get("retryDelay") for part in failure.parts())
    delay = next((each for each in delays if isinstance(each, str)), None)
    return duration_seconds(delay)


def _said(failure: Failure) -> str:
    """Return what tells an answer from others, without times and numbers of requests in it."""
    return _DIGITS.sub("", f"{sorted(failure.codes)} {failure.message[:LONGEST_SAID]}")
