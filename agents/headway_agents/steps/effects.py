"""What becomes of a tool call that was cut off, as its author declares it.

Law of this file: what nobody declared happens once; a person decides the rest.
"""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from headway_scheduler.errors import CallerError

from .step import Again

T = TypeVar("T")
Kinds = Mapping[str, Again]
"""Declarations by a tool's name, from the configuration: they go before those in the code."""

_MARK = "__headway_again__"
_key: ContextVar[str] = ContextVar("headway_idempotency_key")


def pure(tool: T) -> T:
    """Declare that a call changes nothing: one that was cut off is made again.

    ``tool`` is a function, before it becomes a tool, or a BaseTool, Workbench, CodeExecutor or
    Memory. Raises CallerError for what cannot be marked.
    """
    return _marked(tool, Again.PURE)


def idempotent(tool: T) -> T:
    """Declare that calls with the same :func:`idempotency_key` act once: one that was cut off is
    made again, with its key. Otherwise as :func:`pure`.
    """
    return _marked(tool, Again.IDEMPOTENT)


def once(tool: T) -> T:
    """Declare what is so anyway: a call that was cut off waits for a person. As :func:`pure`."""
    return _marked(tool, Again.ONCE)


def idempotency_key() -> str:
    """Return the key of the tool call that is being made, the same at every attempt.

    Raises CallerError outside of a tool that Headway calls.
    """
    try:
        return _key.get()
    except LookupError:
        raise CallerError(
            "there is an idempotency key only inside a tool, or a step, of a run: "
            "ask for it where the tool acts"
        ) from None


@contextmanager
def keyed(key: str) -> Iterator[None]:
    """Have :func:`idempotency_key` return ``key`` to what acts in here.

    Raises CancelledError if what was cut off ended as if it had not been: AutoGen's local code
    executor answers "Cancelled", and nobody knows what it has done by then.
    """
    task = asyncio.current_task()
    cancels = task.cancelling() if task else 0
    token = _key.set(key)
    try:
        yield
    finally:
        _key.reset(token)
    if task and task.cancelling() > cancels:
        raise asyncio.CancelledError


def again_of(name: str, kinds: Kinds, *declared: Any) -> Again:
    """Return how a tool is declared: by its name in the configuration, or on its parts."""
    marks = (getattr(part, _MARK, None) for part in declared)
    return kinds.get(name) or next((mark for mark in marks if mark is not None), Again.ONCE)


def _marked(tool: T, again: Again) -> T:
    try:
        # A bound method has no attributes of its own.
        setattr(getattr(tool, "__func__", tool), _MARK, again)
    except (AttributeError, TypeError):
        raise CallerError(
            f"{tool!r} cannot be declared {again}: declare it by its name in the configuration"
        ) from None
    return tool
