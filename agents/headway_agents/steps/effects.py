"""How authors declare what a tool does to the world.

Law of this file: what nobody declared happens once; a person decides about it.
"""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from typing import Any, TypeVar

from headway_scheduler.errors import CallerError

T = TypeVar("T")


class Effect(StrEnum):
    """What a step does to the world: that decides about one that was cut off while it acted."""

    PURE = "pure"  # changes nothing: it is done again
    IDEMPOTENT = "idempotent"  # acts once for one key: it is done again, with its key
    ONCE = "once"  # anything else: a person says what came of it


Effects = Mapping[str, Effect]
"""Declarations by a tool's name, from the configuration. They win over those in the code."""

_MARK = "__headway_effect__"
_key: ContextVar[str] = ContextVar("headway_idempotency_key")


def pure(tool: T) -> T:
    """Declare that a call changes nothing, so one that was cut off is made again.

    ``tool`` is a function, before it becomes a tool, or a BaseTool, Workbench, CodeExecutor or
    Memory. Raises CallerError for what cannot be marked.
    """
    return _marked(tool, Effect.PURE)


def idempotent(tool: T) -> T:
    """Declare that calls with the same :func:`idempotency_key` act once: one that was cut off is
    made again, with its key. Otherwise as :func:`pure`.
    """
    return _marked(tool, Effect.IDEMPOTENT)


def once(tool: T) -> T:
    """Declare the default: a call that was cut off waits for a person. Else as :func:`pure`."""
    return _marked(tool, Effect.ONCE)


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

    Raises CancelledError if the block swallowed one. AutoGen's local code executor does: it answers
    "Cancelled", although nobody knows what the code has done by then.
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


def effect_of(name: str, effects: Effects, *declared: Any) -> Effect:
    """Return how a tool is declared, by its name or on its parts; ONCE if it is not."""
    marks = (getattr(part, _MARK, None) for part in declared)
    return effects.get(name) or next((mark for mark in marks if mark is not None), Effect.ONCE)


def _marked(tool: T, effect: Effect) -> T:
    try:
        # A bound method has no attributes of its own.
        setattr(getattr(tool, "__func__", tool), _MARK, effect)
    except (AttributeError, TypeError):
        raise CallerError(
            f"{tool!r} cannot be declared {effect}: declare it by its name in the configuration"
        ) from None
    return tool
