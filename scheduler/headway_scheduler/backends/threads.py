"""Runs what blocks in threads. Law: no code of a run can take the last of them.

anyio has 40 threads for everybody who gives no limiter. A tool that hands forty long calls to
``anyio.to_thread`` would hold up each question to the database, and with it all other runs.
"""

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple, Unpack

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

THREADS = 40

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

_limiter: RunVar[CapacityLimiter] = RunVar("headway_threads")


async def run_sync(function: Callable[[Unpack[Arguments]], T], *arguments: *Arguments) -> T:
    """Call ``function`` in a thread, and return what it returns."""
    try:
        limiter = _limiter.get()
    except LookupError:
        _limiter.set(limiter := CapacityLimiter(THREADS))
    return await to_thread.run_sync(function, *arguments, limiter=limiter)
