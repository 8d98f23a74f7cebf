"""Says on a terminal how far a benchmark is, between its steps and never within one."""

import sys
import time
from collections.abc import Iterator

from headway.cli.progress import progress_line


class Steps:
    """A known number of steps, and a line on stderr that says how many are done."""

    def __init__(self, total: int, words: str) -> None:
        self.total, self.words = total, words
        self.done, self._since = 0, time.monotonic()

    def step(self) -> None:
        """Note that one is done, and say so; the line is gone after the last one."""
        self.done += 1
        if not sys.stderr.isatty():
            return
        seconds = time.monotonic() - self._since
        line = progress_line(self.done, self.total, self.words, seconds)
        print(
            f"\r\x1b[K{line if self.done < self.total else ''}",
            end="",
            file=sys.stderr,
            flush=True,
        )

    def __iter__(self) -> Iterator[int]:
        for number in range(self.total):
            yield number
            self.step()
