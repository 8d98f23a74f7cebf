"""What the code of a run may do wrong: raise, cancel, or return what nobody expects."""

import asyncio
from collections.abc import Callable
from typing import Any

from .odd import Random, Rude, python_value, text


class Strange(BaseException):
    """What no ``except Exception`` sees."""


class Mute(Exception):
    """An error whose text raises."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def _deep(level: int = 0) -> int:
    return _deep(level + 1) + 1


ERRORS: tuple[Callable[[str], BaseException], ...] = (
    *(ValueError, RuntimeError, KeyError, OSError, TimeoutError, ConnectionError, AssertionError),
    *(SystemExit, KeyboardInterrupt, Strange, asyncio.CancelledError, MemoryError, Mute),
    *(
        StopIteration,
        StopAsyncIteration,
        RecursionError,
        EOFError,
        UnicodeError,
        NotImplementedError,
    ),
    lambda said: ExceptionGroup(said, [ValueError(said), Mute(said)]),
    lambda said: BaseExceptionGroup(said, [SystemExit(3), ValueError(said)]),
    lambda said: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "odd"),
)


async def misbehave(rng: Random) -> Any:
    """Raise or return something odd."""
    await asyncio.sleep(0)
    odd = rng.random()
    if odd < 0.6:
        raise rng.choice(ERRORS)(text(rng))
    if odd < 0.63:
        return _deep()
    if odd < 0.66:
        task = asyncio.current_task()
        assert task is not None
        task.cancel(text(rng))
        await asyncio.sleep(0.01)
    if odd < 0.68:
        try:
            raise rng.choice(ERRORS)(text(rng))
        except BaseException as error:
            raise Mute("from another") from error
    if odd < 0.70:
        return Rude()
    if odd < 0.72:
        return "y" * 100_000
    return python_value(rng)
