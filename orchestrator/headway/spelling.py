"""Finds the word that was meant. Pure."""

from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str], *, nearness: float = 0.6) -> str:
    """Return a question for the known word that is nearest to ``word``; empty if none is near.

    ``nearness``: the least share, of 1, of equal parts, as difflib counts them.
    """
    from difflib import get_close_matches  # only a mistake needs it

    close = get_close_matches(word, list(known), n=1, cutoff=nearness)
    return f"did you mean {close[0]}?" if close else ""
