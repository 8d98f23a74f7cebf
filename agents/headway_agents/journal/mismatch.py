"""Words for how a changed workflow differs from what it asked before. Law: text in, text out."""

import difflib
import json
from collections.abc import Sequence

from .outcomes import NonDeterminism

MOST_LINES = 60
"""Lines of a difference that are shown."""


def difference(changed: NonDeterminism, recorded: Sequence[str]) -> str:
    """Return who asks what is not recorded, and how it differs from the nearest recorded request.

    ``recorded``: the chunks of that request.
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


def _lines(chunks: Sequence[str]) -> list[str]:
    """One line for each message, and for each line of a long text; settings one by one."""
    lines: list[str] = []
    for index, chunk in enumerate(chunks):
        if index == 0 and chunk.startswith("{"):
            lines += _settings(chunk)
        else:
            lines += chunk.splitlines() or [""]
    return lines


def _settings(chunk: str) -> list[str]:
    return json.dumps(json.loads(chunk), indent=1, sort_keys=True, ensure_ascii=False).splitlines()
