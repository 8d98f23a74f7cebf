"""Finds values that no store keeps. Pure. A commit is refused as a whole for one of them."""

from math import isfinite
from typing import Any

import msgspec

from .messages import Message

LONGEST_TEXT = 1_000_000_000
"""The most characters of a text in a row: SQLite's limit is as many bytes."""


def is_storable(message: Message) -> bool:
    """Whether every value of a message can be kept: whole numbers below 2^63, finite floats."""
    return _is_storable(msgspec.to_builtins(message))


def _is_storable(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_storable, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_storable, value))
    if isinstance(value, str):
        return len(value) < LONGEST_TEXT
    if isinstance(value, float):
        return isfinite(value)
    return not isinstance(value, int) or -(2**63) <= value < 2**63
