"""Azure OpenAI.

Sources: Microsoft's pages on quota management and on the service's limits. A deployment is charged
the estimate of the prompt and the output cap when a request arrives. Its limits drop when the
region is under load, and its headers say so.
"""

import re

from ..model.calls import Usage
from .base import Failure, characters_in_tokens, retry_after_seconds
from .openai import OpenAI

_IN_THE_TEXT = re.compile(r"(?:retry after|try again in) (\d+(?:\.\d+)?) seconds?", re.IGNORECASE)


class Azure(OpenAI):
    """As OpenAI, but prompt and cap are charged both, and the time may stand in the text."""

    name = "azure"

    def reserved_tokens(self, characters: int, cap: int | None, expected: Usage) -> int:
        """Prompt and output cap; without a cap what is expected, for its default is not told."""
        output = expected.output_tokens if cap is None else cap
        return max(1, characters_in_tokens(characters) + output)

    def stated_seconds(self, failure: Failure, now: float) -> float | None:
        """The headers', else what the text says."""
        stated = retry_after_seconds(failure.headers, now)
        if stated is None and (found := _IN_THE_TEXT.search(failure.message)):
            return float(found[1])
        return stated
