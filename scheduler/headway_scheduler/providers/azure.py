"""Reads Azure OpenAI's charges, headers and errors.

Sources: Microsoft's pages on quota management and on the service's limits. A deployment is charged
the estimate of the prompt and the output cap when a request arrives. Its limits drop when the
region is under load, and its headers say so. Requests are counted over 1 or 10 s, and the limit
that headers tell is that of such a window (public reports: 120 a minute, limit 20).
"""

import re
from collections.abc import Mapping

from ..model.calls import Usage
from ..model.data import replace
from ..model.quotas import RateLimitHeader, Resource, Window
from .base import Failure
from .openai import OpenAI, characters_in_tokens
from .readings import Odd, duration_seconds, is_litellm

_IN_THE_TEXT = re.compile(
    r"(?:retry after|try again in) (\d{1,9}(?:\.\d{1,9})?) seconds?", re.IGNORECASE
)
WINDOW_SECONDS = 10.0
"""The window of its limit on requests, where the stated limit does not show another one."""


class Azure(OpenAI):
    """Azure: as OpenAI, but prompt and cap add up, and the text may state the time to wait."""

    name = "azure"

    def reserved_tokens(self, characters: int, cap: int | None, expected: Usage) -> int:
        """Return prompt and output cap; without a cap the expected output: no default is known."""
        output = expected.output_tokens if cap is None else cap
        return max(1, characters_in_tokens(characters) + output)

    def rate_limits(
        self, headers: Mapping[str, str], now: float, odd: list[Odd] | None = None
    ) -> dict[Resource, RateLimitHeader]:
        """Read OpenAI's names; requests are those of a short window, and never of a day."""
        told = super().rate_limits(headers, now, odd)
        requests = told.get(Resource.REQUESTS)
        if requests is not None and not is_litellm(headers):
            told[Resource.REQUESTS] = replace(
                requests, period_seconds=WINDOW_SECONDS, window=Window.SLIDING
            )
        return told

    def stated_seconds(self, failure: Failure, now: float) -> float | None:
        """Return the seconds of the headers, else of the text."""
        stated = super().stated_seconds(failure, now)
        if stated is None and (found := _IN_THE_TEXT.search(failure.message)):
            return duration_seconds(found[1])
        return stated
