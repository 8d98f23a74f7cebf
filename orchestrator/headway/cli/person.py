"""A person at the terminal. Law of this file: nobody is asked where nobody can answer."""

import sys

from anyio import to_thread

from ..runs import Person
from .output import one_line


def asking() -> Person | None:
    """What asks whoever sits at the terminal; None if there is none."""
    return _read_line if sys.stdin.isatty() and sys.stderr.isatty() else None


async def _read_line(question: str) -> str:
    sys.stderr.write(f"{one_line(question)} ")
    sys.stderr.flush()
    line: str = await to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
    return line.rstrip("\n")
