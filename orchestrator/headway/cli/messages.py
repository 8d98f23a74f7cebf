"""What AutoGen's agents say, made fit to print. Law of this file: a message cannot pose as us."""

from dataclasses import is_dataclass
from typing import Any

from .output import clean

_CHUNK = "ModelClientStreamingChunkEvent"  # a piece of an answer that comes whole as well


def is_message(event: Any) -> bool:
    """Whether it is something that AutoGen said, and said whole; our events are dataclasses."""
    return not is_dataclass(event) and type(event).__name__ != _CHUNK


def indented(text: str) -> str:
    """Clean, and set further lines in, so that none looks like one of ours."""
    return clean(text).replace("\n", "\n  ")
