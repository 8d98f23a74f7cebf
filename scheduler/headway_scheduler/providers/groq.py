"""Reads Groq's charges and headers.

Sources: its pages on rate limits and on prompt caching. Its headers have OpenAI's names, but
requests are those of a day and tokens those of a minute; how many requests a minute may have is
told nowhere. Input that was read from its cache does not count.
"""

from collections.abc import Mapping

from ..model.quotas import RateLimitHeader, Resource
from .base import Provider
from .limit_headers import litellm_limits
from .openai import HEADERS
from .readings import Odd, duration_seconds, is_litellm, rate_limits

_NAMES = {
    Resource.REQUESTS_PER_DAY: HEADERS[Resource.REQUESTS],
    Resource.TOKENS: HEADERS[Resource.TOKENS],
}


class Groq(Provider):
    """Groq: settled on usage, cached input is free; OpenAI's names, but requests of a day."""

    name = "groq"
    caches_are_free = True

    def rate_limits(
        self, headers: Mapping[str, str], now: float, odd: list[Odd] | None = None
    ) -> dict[Resource, RateLimitHeader]:
        """Read ``x-ratelimit-{limit,remaining,reset}-{requests,tokens}``: of a day, of a minute."""
        if is_litellm(headers):
            return litellm_limits(headers, odd)
        return rate_limits(headers, _NAMES, duration_seconds, odd)
