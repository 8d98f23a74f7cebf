"""Computes pauses after failures and tokens of texts, for several packages. Plain numbers only."""

CHARACTERS_PER_TOKEN = 4
"""OpenAI's rule of thumb for English text, used until a model's own ratio is learned."""


FIRST_PAUSE_SECONDS = 1.0
"""The pause after a first failure; each further one is twice as long."""


LONGEST_PAUSE_SECONDS = 60.0
"""The longest pause that Headway chooses itself."""


LONGEST_STATED_SECONDS = 900.0
"""The longest pause that a provider is believed: after 15 minutes it is asked again. Azure is known
to state a day where a minute would do, and limits may be raised meanwhile."""


def backoff_seconds(attempt: int) -> float:
    """Return the pause after the ``attempt``-th failure, from 1, where the provider states none.

    1 s, 2 s, 4 s, … up to 60 s.
    """
    return min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(attempt - 1, 10))
