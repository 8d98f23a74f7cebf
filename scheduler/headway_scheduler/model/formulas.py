"""Pauses after failures, tokens of texts, and dollars in words. Plain numbers only."""

from math import floor, log10

CHARACTERS_PER_TOKEN = 4
"""OpenAI's rule of thumb for English text, used until a model's own ratio is learned."""


FIRST_PAUSE_SECONDS = 1.0
"""The pause after a first failure; each further one is twice as long."""


LONGEST_PAUSE_SECONDS = 60.0
"""The longest pause that Headway chooses itself."""


LONGEST_STATED_SECONDS = 900.0
"""The longest pause that a provider is believed: after 15 minutes it is asked again. Azure is known
to state a day where a minute would do, and limits may be raised meanwhile."""


FIRST_SHORT_SECONDS = 30.0
LONGEST_SHORT_SECONDS = 600.0
"""The first and the longest pause of a lane for which the provider has no capacity."""


def short_seconds(times: int) -> float:
    """Return the pause after a lane was without capacity ``times`` times in a row, from 1.

    30 s, 60 s, 120 s … 600 s.
    """
    return min(LONGEST_SHORT_SECONDS, FIRST_SHORT_SECONDS * 2.0 ** min(times - 1, 10))


def backoff_seconds(attempt: int) -> float:
    """Return the pause after the ``attempt``-th failure, from 1, where the provider states none.

    1 s, 2 s, 4 s, … up to 60 s.
    """
    return min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(attempt - 1, 10))


def dollars(usd: float) -> str:
    """Write an amount with four decimals, or so many that two digits of it are seen."""
    decimals = 4 if usd <= 0 else min(12, max(4, 1 - floor(log10(usd))))
    return f"${usd:,.{decimals}f}"
