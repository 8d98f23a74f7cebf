"""Reads Azure OpenAI's charges, headers and errors.

Sources: Microsoft's pages on quota management and on the service's limits. A deployment is charged
the estimate of the prompt and the output cap when a request arrives. Its limits drop when the
region is under load, and its headers say so.
"""

import re

from ..model.calls import Usage
from .base import Failure
from .openai import OpenAI, characters_in_tokens
from .readings import duration_seconds

_IN_THE_TEXT = re.compile(
    r"(?:retry after|try again in) (\d{1,9}(?:\.\d{1,9})?) seconds?", re.IGNORECASE
)


class Azure(OpenAI):
    """Azure: as OpenAI, but prompt and cap add up, and the text may state the time to wait."""

    name = "azure"

    def reserved_tokens(self, characters: int, cap: int | None, expected: Usage) -> int:
        """Return prompt and output cap; without a cap the expected output: no default is known."""
        output = expected.output_tokens if cap is None else cap
        return max(1, characters_in_tokens(characters) + output)

    def stated_seconds(self, failure: Failure, now: float) -> float | None:
        """Return the seconds of the headers, else of the text."""
        stated = super().stated_seconds(failure, now)
        if stated is None and (found := _IN_THE_TEXT.search(failure.message)):
            return duration_seconds(found[1])
        return stated
