"""The time that all processes on a database share: what wall time is, since which boot.

Theory of operation. The wall clock steps, by hours when somebody sets it; so time is counted by
the clock that runs since the machine was started, sleep included. What that is in wall time is
agreed on once for each database and boot (``Anchor``): all processes have the same time, and one
that starts after a step goes on where the one before was. A correction of the wall clock is taken
in at the next boot.
"""

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_SINCE_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


@dataclass(frozen=True, slots=True)
class Anchor:
    """Wall time is ``offset`` more than the time since the boot named ``boot``."""

    boot: str
    offset: float

    @property
    def is_valid(self) -> bool:
        """Whether the machine has not been started since."""
        return self.boot != "" and self.boot == boot_id()

    def now(self) -> float:
        """The time, epoch seconds."""
        return self.offset + time.clock_gettime(_SINCE_BOOT)


def new_anchor() -> Anchor:
    """Wall time as the machine has it now."""
    return Anchor(boot_id(), time.time() - time.clock_gettime(_SINCE_BOOT))


def boot_id() -> str:
    """A name for the time since the machine was started; empty where it has none."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
