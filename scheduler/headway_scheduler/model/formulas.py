"""Formulas on plain numbers that several packages use: pauses after failures, tokens of texts."""

CHARACTERS_PER_TOKEN = 4


FIRST_PAUSE_SECONDS = 1.0


LONGEST_PAUSE_SECONDS = 60.0


LONGEST_STATED_SECONDS = 900.0
"""Azure is known to say a day where a minute would do, and limits are raised meanwhile: however
long a provider says, it is asked again after a quarter of an hour."""


def backoff_seconds(attempt: int) -> float:
    """How long to wait after the ``attempt``-th failure, from 1, if nobody says."""
    return min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(attempt - 1, 10))
