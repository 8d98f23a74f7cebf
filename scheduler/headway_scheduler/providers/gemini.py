"""Reads Gemini's charges and errors, at its endpoint that speaks OpenAI's protocol.

Sources: Google's pages on rate limits and on errors. Requests a minute and a day and input tokens a
minute are counted for each project. No header tells of them; the body of a 429 may carry a
``RetryInfo`` with the time to wait, and a ``QuotaFailure`` with the limit.
"""

from ..model.calls import Usage
from ..model.quotas import RateLimitHeader, Resource
from .base import ErrorClass, Failure, Provider, Verdict, google_delay_seconds
from .refusals import google_refusal


class Gemini(Provider):
    """Gemini: output does not count; the body states the time to wait."""

    name = "gemini"
    account_codes = frozenset({"api_key_invalid", "unauthenticated"})
    account_words = ("api key not valid", "billing account")

    def reserved_tokens(self, characters: int, cap: int | None, expected: Usage) -> int:
        """Return the expected input: output does not count."""
        return max(1, expected.input_tokens)

    def settled_tokens(self, usage: Usage) -> int | None:
        """Return the input: output does not count."""
        return usage.input_tokens

    def judge(self, failure: Failure, attempt: int, now: float) -> Verdict:
        """Judge a quota of 0 as one of the account: this key may not ask this model at all."""
        if any(str(part.get("quotaValue")) == "0" for part in failure.parts()):
            return Verdict(ErrorClass.ACCOUNT)
        return super().judge(failure, attempt, now)

    def told_by_refusal(self, failure: Failure) -> dict[Resource, RateLimitHeader]:
        """Return the limits of the violations: they are told nowhere else."""
        return google_refusal(failure.parts()) or super().told_by_refusal(failure)

    def stated_seconds(self, failure: Failure, now: float) -> float | None:
        """Return ``retryDelay`` of the body, as in ``34.07s``, in seconds; else the headers'."""
        delay = google_delay_seconds(failure)
        return super().stated_seconds(failure, now) if delay is None else delay
