"""Waiting in tests, and the bound that turns a test that hangs into one that fails.

The bound measures nothing: it is far above what any test takes beside other suites on a busy
machine. What a test says about time, it says by itself.
"""

import re
import sys
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

import anyio

HANG_SECONDS = 540.0 if sys.flags.dev_mode else 360.0
"""How long an async test may take; asyncio's debug mode takes up to twice as long. pytest's own
``timeout`` is above it: its signal raises out of the event loop and leaves the test's task there,
and the fixtures, which run in the same task, then wait for it for ever."""


def bounded(
    test: Callable[..., Awaitable[None]], seconds: float = HANG_SECONDS
) -> Callable[..., Awaitable[None]]:
    """Return the test with a bound on hanging; its error shows the line that waited."""

    @wraps(test)
    async def run(**arguments: Any) -> None:
        waited: BaseException | None = None
        with anyio.move_on_after(seconds):
            try:
                return await test(**arguments)
            except anyio.get_cancelled_exc_class() as error:
                waited = error
                raise
        raise TimeoutError(f"the test hung: it was not over after {seconds:g} s") from waited

    return run


async def until(is_so: Callable[[], object], *, look_every_seconds: float = 0.005) -> None:
    """Wait for something that has no event, as rows and counts: the test's bound ends it."""
    while not is_so():  # noqa: ASYNC110 - whoever calls this has nothing to wait on
        await anyio.sleep(look_every_seconds)


SLOW = re.compile(r"blocked the event loop for|Executing <.* took [0-9.]+ seconds$")
"""Lines in which Headway, and asyncio in its debug mode, name what keeps an event loop busy."""


def without_slowness(err: str) -> str:
    """What a process said on stderr, but for how long its code kept a busy machine busy."""
    lines = err.splitlines(keepends=True)
    return "".join(line for line in lines if not SLOW.search(line))
