"""Reads Anthropic's charges, headers and errors.

Sources: its pages on rate limits and on errors. Requests, input and output tokens have a limit
each, with continuous refill; input is counted when a request arrives and output as it is produced.
Tokens read from its prompt cache are free for most models, and not in the usage that comes back.
"""

from collections.abc import Mapping
from datetime import UTC, datetime

from ..model.quotas import RateLimitHeader, Resource
from .base import Provider, number

_RESOURCES = {
    "requests": Resource.REQUESTS,
    "tokens": Resource.TOKENS,
    "input-tokens": Resource.INPUT_TOKENS,
    "output-tokens": Resource.OUTPUT_TOKENS,
}


class Anthropic(Provider):
    """Anthropic: settled on usage; resets are dates."""

    name = "anthropic"
    account_codes = frozenset({"authentication_error", "billing_error"})
    # The spending limit comes as a 400 or a 429 with the type of any other.
    account_words = ("credit balance is too low", "api usage limits", "spend limit")

    def rate_limits(
        self, headers: Mapping[str, str], now: float
    ) -> dict[Resource, RateLimitHeader]:
        """Read ``anthropic-ratelimit-…-{limit,remaining,reset}`` of each resource."""
        found = {}
        for word, resource in _RESOURCES.items():
            name = f"anthropic-ratelimit-{word}"
            told = RateLimitHeader(
                limit=number(headers.get(f"{name}-limit")) or None,
                remaining=number(headers.get(f"{name}-remaining")),
                reset_seconds=seconds_until(headers.get(f"{name}-reset"), now),
            )
            if told != RateLimitHeader():
                found[resource] = told
        return found


def seconds_until(text: str | None, now: float) -> float | None:
    """Read seconds until a date of RFC 3339: 0 if it has passed, None for any other text."""
    try:
        date = datetime.fromisoformat((text or "").strip())
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, date.timestamp() - now)
