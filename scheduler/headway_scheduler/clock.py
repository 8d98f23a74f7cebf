"""The time of the shell. The core never reads it: it is told."""

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Seconds since the epoch; never goes back within a process."""


def system_clock() -> Clock:
    """Wall time at start, carried on by the monotonic clock.

    A step of the wall clock (NTP, a person) while we run then neither fills nor freezes a bucket.
    """
    offset = time.time() - time.monotonic()
    return lambda: offset + time.monotonic()
