"""Asks the person at the terminal, one question at a time.

No thread waits for the line: Python would wait for that thread before it ends, and so for a line
that nobody types any more.
"""

import asyncio
import os
import sys

import anyio

from .output import one_line
from .views import View

LONGEST_LINE = 65536
"""Bytes of an answer; a terminal hands over 4,096 at a time."""


class TerminalPerson:
    """The person at the terminal. Called with a question, it returns the line that they type.

    Raises EOFError when they answer no more (Ctrl-D).
    """

    def __init__(self, view: View) -> None:
        self._view = view
        self._is_line_open = False
        self._one_at_a_time = anyio.Lock()

    async def __call__(self, question: str) -> str:
        """Ask, and wait for a line."""
        async with self._one_at_a_time:
            with self._view.asking():
                self._is_line_open = True
                try:
                    sys.stderr.write(f"{one_line(question.rstrip())} ")
                    sys.stderr.flush()
                    line = await _line()
                    self._is_line_open = not line.endswith("\n")  # a terminal shows what is typed
                finally:
                    self.end_line()
        if not line:
            raise EOFError("nobody answers at the terminal any more")
        return line.removesuffix("\n")

    def end_line(self) -> None:
        """End the line of a question that is open: something else is to be said."""
        if self._is_line_open:
            sys.stderr.write("\n")
            self._is_line_open = False


async def _line() -> str:
    loop, file, is_there = asyncio.get_running_loop(), sys.stdin.fileno(), anyio.Event()
    loop.add_reader(file, is_there.set)
    try:
        await is_there.wait()
    finally:
        loop.remove_reader(file)
    # A terminal hands over whole lines, so this returns at once.
    return os.read(file, LONGEST_LINE).decode(errors="replace")
