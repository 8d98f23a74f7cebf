"""A hint to another process that something was written for it. Law: losing one costs only time.

A bell is a named pipe beside the database; whoever waits for it keeps it open, and to ring it is to
write a byte. Where the file system has no pipes nobody is hinted, and looks from time to time.
"""

import os
import select
import time
from contextlib import suppress
from pathlib import Path

UNHEARD_SECONDS = 0.04
"""How long somebody waits at most who has no bell."""


def bell_of(database: Path, worker: str = "leader") -> Path:
    """The bell of a worker, or of whoever leads. ``database`` is resolved: this is asked often."""
    return Path(f"{database}.{worker}.bell")


def ring(bell: Path) -> None:
    """Hint to whoever waits for ``bell``, if anybody does."""
    with suppress(OSError):  # nobody is there, or it was rung often already
        pipe = os.open(bell, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(pipe, b"!")
        finally:
            os.close(pipe)


class Bell:
    """A bell that this process waits for, instead of whoever did before. Close it after use."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pipe: int | None = None
        with suppress(OSError):
            path.unlink(missing_ok=True)
            os.mkfifo(path, 0o600)
            # For writing too: else it would be at its end whenever nobody has it open.
            self._pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def wait(self, seconds: float) -> bool:
        """Wait until it is rung, at most so long; whether it may have been."""
        if self._pipe is None:
            time.sleep(min(seconds, UNHEARD_SECONDS))
            return True
        poll = select.poll()  # select() refuses a pipe that was opened after 1,023 other files
        poll.register(self._pipe, select.POLLIN)
        if not poll.poll(1000 * seconds):
            return False
        with suppress(BlockingIOError):
            os.read(self._pipe, 4096)
        return True

    def ring(self) -> None:
        """Wake up whoever waits, from another thread of this process."""
        if self._pipe is not None:
            with suppress(BlockingIOError):
                os.write(self._pipe, b"!")

    def close(self) -> None:
        """Wait no more."""
        if self._pipe is None:
            return
        with suppress(OSError):
            # Another leader may have put its own in the place.
            if os.path.samestat(os.fstat(self._pipe), self._path.stat()):
                self._path.unlink()
        os.close(self._pipe)
        self._pipe = None
