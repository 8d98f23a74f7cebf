"""Reads Anthropic's charges, headers and errors.

Sources: its pages on rate limits and on errors. Requests, input and output tokens have a limit
each, with continuous refill; input is counted when a request arrives and output as it is produced.
Tokens read from its prompt cache are free for most models.
"""

from collections.abc import Mapping
from functools import partial

from ..model.data import replace
from ..model.quotas import RateLimitHeader, Resource, Window
from .base import Provider
from .limit_headers import litellm_limits
from .readings import Odd, answered_at, is_litellm, rate_limits, seconds_until

_HEADERS = {
    resource: (
        f"anthropic-ratelimit-{word}-limit",
        f"anthropic-ratelimit-{word}-remaining",
        f"anthropic-ratelimit-{word}-reset",
    )
    for word, resource in (
        ("requests", Resource.REQUESTS),
        ("tokens", Resource.TOKENS),
        ("input-tokens", Resource.INPUT_TOKENS),
        ("output-tokens", Resource.OUTPUT_TOKENS),
    )
}


class Anthropic(Provider):
    """Anthropic: settled on usage; resets are dates."""

    name = "anthropic"
    caches_are_free = True
    account_codes = frozenset({"authentication_error", "billing_error"})
    # The spending limit comes as a 400 or a 429 with the type of any other.
    account_words = ("credit balance is too low", "api usage limits", "spend limit")

    def rate_limits(
        self, headers: Mapping[str, str], now: float, odd: list[Odd] | None = None
    ) -> dict[Resource, RateLimitHeader]:
        """Read ``anthropic-ratelimit-…-{limit,remaining,reset}`` of each resource."""
        if is_litellm(headers):
            return litellm_limits(headers, odd)
        until_reset = partial(seconds_until, now=answered_at(headers, now))
        told = rate_limits(headers, _HEADERS, until_reset, odd)
        # As it documents; its rests are rounded, so its resets alone would not show it.
        return {name: replace(header, window=Window.BUCKET) for name, header in told.items()}
