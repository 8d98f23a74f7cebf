"""Gives all processes on a database the same time: seconds since boot, and one agreed offset.

Theory of operation. The wall clock steps, by hours when somebody sets it; so time is counted by
the clock that runs since the machine was started, sleep included. What that is in wall time is
agreed on once for each database and boot (``Anchor``): all processes have the same time, and a
process that starts after a step goes on where the one before it was. A corrected wall clock counts
from the next boot on.
"""

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_SINCE_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


@dataclass(frozen=True, slots=True)
class Anchor:
    """Turns seconds since a boot into wall time."""

    boot: str
    """Names the boot; empty where the system has no name for it."""
    offset: float
    """Seconds that wall time is ahead of the time since that boot."""

    @property
    def is_valid(self) -> bool:
        """Whether the machine still runs since that boot."""
        return self.boot != "" and self.boot == boot_id()

    def now(self) -> float:
        """Return the time that all processes share, epoch seconds."""
        return self.offset + time.clock_gettime(_SINCE_BOOT)


def new_anchor() -> Anchor:
    """Make the anchor of the machine's wall time as it is now."""
    return Anchor(boot_id(), time.time() - time.clock_gettime(_SINCE_BOOT))


def boot_id() -> str:
    """Return the name of the current boot; empty where the system has none."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
