"""What the simulated provider says by itself, for tests that look for an answer in an output."""

_PAIR = r"[a-z]{4} the [a-z]{5}"

SENTENCE = rf"[A-Z][a-z]{{3}} the [a-z]{{5}}, {_PAIR} and {_PAIR}\."
"""A pattern of any of its sentences."""
