"""Reads tasks from standard input and files, and writes what a run said.

Law of this file: what cannot be read or written is refused before a run is made.
"""

import os
import sys
from pathlib import Path
from typing import BinaryIO

from headway_scheduler.errors import CallerError

from ..arguments import LONGEST_TEXT

MOST_BYTES = 4 * LONGEST_TEXT
"""Of a task: no character takes more than four bytes in UTF-8."""


def given_task(word: str) -> str:
    """Return the task that a word of the command line stands for: itself, ``-`` or ``@FILE``.

    ``@@words`` is the task ``@words``. Without its last line end, a file is the same task as its
    text typed as an argument. Raises CallerError for what cannot be read, is no UTF-8, is empty or
    is too long.
    """
    if word == "-":
        if sys.stdin is None:
            raise CallerError("standard input is closed: give the task as text or as @FILE")
        return _decoded("standard input", _read(sys.stdin.buffer))
    if word.startswith("@@") or not word.startswith("@"):
        return word.removeprefix("@")
    try:
        with open(word[1:], "rb") as file:
            return _decoded(word[1:], _read(file))
    except OSError as error:
        raise CallerError(
            f"{word[1:] or 'a file without a name'} cannot be read ({error.strerror}); a task that "
            "itself begins with @ is written @@"
        ) from None


def _read(file: BinaryIO) -> bytes:
    """Read a byte more than is permitted, and not all of what may have no end."""
    return file.read(MOST_BYTES + 1)


def _decoded(name: str, data: bytes) -> str:
    if len(data) > MOST_BYTES:
        raise CallerError(
            f"the task in {name} is too long: it may have {LONGEST_TEXT:,} characters"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CallerError(
            f"the task in {name} is no UTF-8 at byte {error.start:,}: convert it, with iconv, say"
        ) from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text.strip():
        raise CallerError(f"the task in {name} is empty")
    return text


def check_writable(file: str) -> None:
    """Raise CallerError if a file cannot be written. Nothing is changed."""
    path = Path(file)
    if path.is_dir():
        raise CallerError(f"{file} is a folder: name a file")
    if not path.parent.is_dir():
        raise CallerError(f"{file} cannot be written: there is no folder {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise CallerError(f"{file} cannot be written: permission denied")


def write_private(file: str, text: str) -> None:
    """Write a file that only its owner can read: what agents said may be private.

    Raises CallerError if it cannot be written.
    """
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            if os.name == "posix" and os.path.isfile(file):
                os.fchmod(descriptor, 0o600)  # it may have been there, open to others
            # Models return halves of surrogate pairs, which UTF-8 has not.
            opened.write(text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise CallerError(f"{file} cannot be written: {error.strerror}") from error
