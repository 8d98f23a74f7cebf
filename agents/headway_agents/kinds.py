"""What becomes of a tool call that was cut off, as its author declares it.

Law of this file: what nobody declared happens once; a person decides the rest.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, TypeVar

from headway_scheduler.errors import CallerError

from .steps import Again

T = TypeVar("T")
_MARK = "__headway_again__"

current_key: ContextVar[str] = ContextVar("headway_idempotency_key")


def pure(tool: T) -> T:
    """Declare a function, tool or workbench to change nothing: a call that was cut off is made
    again.
    """
    return _marked(tool, Again.PURE)


def idempotent(tool: T) -> T:
    """Declare a function, tool or workbench to act once however often it is called with the same
    :func:`idempotency_key`: a call that was cut off is made again with it.
    """
    return _marked(tool, Again.IDEMPOTENT)


def once(tool: T) -> T:
    """Declare what is so anyway: a call that was cut off waits for a person."""
    return _marked(tool, Again.ONCE)


def idempotency_key() -> str:
    """Return the key of the tool call that is being made, the same at every attempt.

    Raises CallerError outside of a tool that Headway calls.
    """
    try:
        return current_key.get()
    except LookupError:
        raise CallerError("there is an idempotency key only inside a tool of a run") from None


def again_of(name: str, kinds: Mapping[str, Again], *declared: Any) -> Again:
    """Return how a tool is declared: by its name in the configuration, or on its parts."""
    marks = (getattr(part, _MARK, None) for part in declared)
    return kinds.get(name) or next((mark for mark in marks if mark is not None), Again.ONCE)


def _marked(tool: T, again: Again) -> T:
    setattr(tool, _MARK, again)
    return tool
