"""The time of a process that has no database open. The core never reads it: it is told."""

import time

from ..ports import Clock

_SINCE_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def system_clock() -> Clock:
    """Wall time now, carried on by the time since boot: a step of the wall clock is not seen."""
    offset = time.time() - time.clock_gettime(_SINCE_BOOT)
    return lambda: offset + time.clock_gettime(_SINCE_BOOT)
