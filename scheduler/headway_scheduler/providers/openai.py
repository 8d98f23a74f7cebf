"""Reads OpenAI's charges, headers and errors.

Sources: its rate limit guide (what counts, headers) and its error code guide. Requests and tokens
are charged when a request arrives: one request, and the larger of the output cap and an estimate
from the characters of the prompt. A shorter answer gives nothing back.
"""

import math
from collections.abc import Mapping

from ..model.calls import Usage
from ..model.formulas import CHARACTERS_PER_TOKEN
from ..model.quotas import RateLimitHeader, Resource
from .base import Failure, Provider
from .limit_headers import limits_of_other_hosts, litellm_limits
from .readings import NO_DAYS, Odd, duration_seconds, is_litellm, rate_limits

HEADERS = {
    resource: (
        f"x-ratelimit-limit-{word}",
        f"x-ratelimit-remaining-{word}",
        f"x-ratelimit-reset-{word}",
    )
    for word, resource in (("requests", Resource.REQUESTS), ("tokens", Resource.TOKENS))
}
"""The names of the three headers of each limit."""
_OF_A_DAY = {
    Resource.REQUESTS: Resource.REQUESTS_PER_DAY,
    Resource.TOKENS: Resource.TOKENS_PER_DAY,
}


class OpenAI(Provider):
    """OpenAI: charged on arrival, nothing given back; three headers for each limit."""

    name = "openai"
    account_codes = frozenset(
        {
            "account_deactivated",
            "billing_hard_limit_reached",
            "billing_not_active",
            "credit_balance_exhausted",
            "insufficient_quota",
            "invalid_api_key",
        }
    )

    def reserved_tokens(self, characters: int, cap: int | None, expected: Usage) -> int:
        """Return the larger of the output cap and the estimate from the characters."""
        return max(1, cap or 0, characters_in_tokens(characters))

    def settled_tokens(self, usage: Usage) -> int | None:
        """Return None: the charge on arrival stays."""
        return None

    def rate_limits(
        self, headers: Mapping[str, str], now: float, odd: list[Odd] | None = None
    ) -> dict[Resource, RateLimitHeader]:
        """Read ``x-ratelimit-{limit,remaining,reset}-{requests,tokens}``.

        At OpenAI itself, accounts without a payment have a limit of requests per day under the same
        name. It is recognized by its reset, which is longer than a limit per minute could take.
        Names of other hosts, which speak the same protocol, tell themselves of what they are.
        """
        if is_litellm(headers):
            return litellm_limits(headers, odd)
        is_own = "openai-version" in headers or "openai-processing-ms" in headers
        of_a_day = _OF_A_DAY if is_own else NO_DAYS
        told = rate_limits(headers, HEADERS, duration_seconds, odd, of_a_day=of_a_day)
        return told or limits_of_other_hosts(headers, now, odd)

    def is_too_large(self, failure: Failure) -> bool:
        """Look for it in the text: the code is that of any other 429."""
        return failure.message.find("Request too large") >= 0


def characters_in_tokens(characters: int) -> int:
    """Return what providers take for a prompt that they have not counted yet."""
    return math.ceil(characters / CHARACTERS_PER_TOKEN)
