"""Reads Anthropic's charges, headers and errors.

Sources: its pages on rate limits and on errors. Requests, input and output tokens have a limit
each, with continuous refill; input is counted when a request arrives and output as it is produced.
Tokens read from its prompt cache are free for most models, and not in the usage that comes back.
"""

from collections.abc import Mapping
from functools import partial

from ..model.quotas import RateLimitHeader, Resource
from .base import Provider
from .readings import Odd, answered_at, limit, read, remaining, seconds_until

_RESOURCES = {
    "requests": Resource.REQUESTS,
    "tokens": Resource.TOKENS,
    "input-tokens": Resource.INPUT_TOKENS,
    "output-tokens": Resource.OUTPUT_TOKENS,
}
_PARTS = ("limit", "remaining", "reset")


class Anthropic(Provider):
    """Anthropic: settled on usage; resets are dates."""

    name = "anthropic"
    account_codes = frozenset({"authentication_error", "billing_error"})
    # The spending limit comes as a 400 or a 429 with the type of any other.
    account_words = ("credit balance is too low", "api usage limits", "spend limit")

    def rate_limits(
        self, headers: Mapping[str, str], now: float, odd: list[Odd] | None = None
    ) -> dict[Resource, RateLimitHeader]:
        """Read ``anthropic-ratelimit-…-{limit,remaining,reset}`` of each resource."""
        found = {}
        noted: list[Odd] = [] if odd is None else odd
        until_reset = partial(seconds_until, now=answered_at(headers, now))
        for word, resource in _RESOURCES.items():
            names = [f"anthropic-ratelimit-{word}-{part}" for part in _PARTS]
            told = RateLimitHeader(
                limit=read(names[0], headers.get(names[0]), limit, noted),
                remaining=read(names[1], headers.get(names[1]), remaining, noted),
                reset_seconds=read(names[2], headers.get(names[2]), until_reset, noted),
            )
            if told != RateLimitHeader():
                found[resource] = told
        return found
