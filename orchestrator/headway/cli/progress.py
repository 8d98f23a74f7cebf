"""Shows how far something is that takes a while, and how long it may still take.

Law of this file: only on a terminal, on stderr, and it is gone at the end.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from headway_scheduler.ports import Report, unheard

from .text import duration

WIDTH = 20


def is_shown(*, as_json: bool) -> bool:
    """Whether somebody looks at stderr, and wants words."""
    return not as_json and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


@contextmanager
def progress(words: str, *, as_json: bool = False) -> Iterator[Report]:
    """Show a bar beside ``words`` in the block. What it yields may be called in a thread."""
    if not is_shown(as_json=as_json):
        yield unheard
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(WIDTH),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(words, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total or None)


def progress_line(done: int, total: int, words: str, seconds: float) -> str:
    """Say in one line how far something is that has taken ``seconds`` so far. Pure."""
    filled = WIDTH * min(done, total) // max(1, total)
    line = f"{'━' * filled}{'╌' * (WIDTH - filled)} {done:,} of {total:,} {words}"
    if 0 < done < total:
        line += f", {duration(seconds / done * (total - done))} left"
    return line
