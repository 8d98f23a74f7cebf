"""Prints. Law of this file: no text reaches a terminal with control characters.

Models, tasks and errors of providers can hold escape sequences that move the cursor, set titles or
answer for the user. Here they become visible text. JSON is plain ASCII, so it needs no cleaning.
"""

import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but for tab and new line, DEL, C1
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"  # line separators, and what turns text around
    "\ud800-\udfff]"  # halves of characters
)


def clean(text: str) -> str:
    """Make control characters visible, but for tabs and ends of lines."""
    return _CONTROLS.sub(lambda found: _escaped(found[0]), text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    r"""Clean, and write ends of lines as ``\n``."""
    return clean(text).replace("\n", r"\n").replace("\t", " ")


def shortened(text: str, width: int) -> str:
    """One line of at most ``width`` characters. Not for ids."""
    line = one_line(text)
    return line if len(line) <= width else f"{line[: width - 1]}…"


def say(text: str) -> None:
    """Print to stdout."""
    sys.stdout.write(f"{clean(text)}\n")


def _tell(level: str, line: str) -> None:
    del level
    sys.stderr.write(f"headway: {line}\n")
    sys.stderr.flush()


teller: Callable[[str, str], None] = _tell
"""Writes a line of a level (a word of logging's) to stderr. ``log.begun`` sets another."""


def complain(text: str, level: str = "error") -> None:
    """Print to stderr, each line with ``headway:`` in front."""
    for line in clean(text).splitlines():
        teller(level, line)


def say_json(data: Any, *, indent: int | None = 2) -> None:
    """Print one JSON document."""
    import json  # `headway --help` needs none

    sys.stdout.write(f"{json.dumps(data, indent=indent)}\n")


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align columns with two spaces between them; the last column is not cut or filled."""
    lines = [[one_line(cell) for cell in row] for row in (headers, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = (zip(line, widths, strict=True) for line in lines)
    return "\n".join("  ".join(cell.ljust(width) for cell, width in row).rstrip() for row in padded)


def forget_reader() -> None:
    """Send what is left in stdout to nowhere: its reader has gone, and a flush would raise."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
