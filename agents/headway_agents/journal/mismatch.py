"""How a changed workflow differs from what it asked before. Law of this file: text in, text out."""

import difflib
import json
from collections.abc import Sequence

from .outcomes import NonDeterminism

MOST_LINES = 60


def difference(changed: NonDeterminism, recorded: Sequence[str]) -> str:
    """Say who asks what anew, and how it differs from the ``recorded`` pieces of the nearest.

    Names the agent, the call and the difference; at most ``MOST_LINES`` lines of it.
    """
    near = changed.nearest
    if not changed.asked:
        assert near is not None
        return (
            f"the workflow ended after {changed.replayed} answers, but before it went on: "
            f"{near.call.path!r} made call {near.call.id} ({near.call.kind})"
        )
    head = f"after {changed.replayed} answers {changed.path!r} asks what is not recorded"
    if near is None:
        return f"{head}: nothing more was recorded"
    head = f"{head}; what was next, call {near.call.id} of {near.call.path!r}, differs:"
    return "\n".join([head, *_diff(_lines(recorded), _lines(changed.asked))])


def _diff(old: list[str], new: list[str]) -> list[str]:
    lines = list(difflib.unified_diff(old, new, "recorded", "asked now", n=1, lineterm=""))
    rest = len(lines) - MOST_LINES
    return lines if rest <= 0 else [*lines[:MOST_LINES], f"… {rest} more lines"]


def _lines(pieces: Sequence[str]) -> list[str]:
    """One line for each message, and for each line of a long text; settings one by one."""
    lines: list[str] = []
    for index, piece in enumerate(pieces):
        if index == 0 and piece.startswith("{"):
            lines += _settings(piece)
        else:
            lines += piece.splitlines() or [""]
    return lines


def _settings(piece: str) -> list[str]:
    return json.dumps(json.loads(piece), indent=1, sort_keys=True, ensure_ascii=False).splitlines()
