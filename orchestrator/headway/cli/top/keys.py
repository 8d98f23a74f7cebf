"""Reads single keys from the terminal. Law of this file: the terminal is left as it was found."""

import os
import select
import sys
import termios
import tty
from collections import deque
from typing import Any, Self

ESCAPED = {
    **dict.fromkeys((b"[A", b"OA"), "up"),
    **dict.fromkeys((b"[B", b"OB"), "down"),
    **dict.fromkeys((b"[5~",), "page up"),
    **dict.fromkeys((b"[6~",), "page down"),
}
"""What terminals send after Escape for a key that has no character."""
NAMED = {"\r": "enter", "\n": "enter", "\x7f": "backspace", "\x08": "backspace", "\x1b": "escape"}


class Keys:
    """The keys that are pressed while it is open. Without a terminal on stdin there are none."""

    def __init__(self) -> None:
        self._fd = sys.stdin.fileno() if sys.stdin.isatty() else None
        self._before: list[Any] = []
        self._pressed: deque[str] = deque()

    def __enter__(self) -> Self:
        if self._fd is not None:
            self._before = termios.tcgetattr(self._fd)
            tty.setcbreak(self._fd)  # Ctrl-C still interrupts
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd is not None:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)

    def wait(self, seconds: float) -> str | None:
        """Return the next key: its character or its name. None if none was pressed in time."""
        if not self._pressed:
            watched = [] if self._fd is None else [self._fd]
            ready, _, _ = select.select(watched, [], [], max(0.0, seconds))
            if self._fd is not None and ready:
                found = os.read(self._fd, 1024)
                if not found:  # the terminal is gone: it would be ready for ever
                    raise KeyboardInterrupt
                self._pressed.extend(pressed(found))
        return self._pressed.popleft() if self._pressed else None


def pressed(found: bytes) -> list[str]:
    """Return the keys of what a terminal sent. A key that is not known is none."""
    keys = list[str]()
    while found:
        if found[:1] == b"\x1b" and found[1:2] in (b"[", b"O"):
            end = next((n for n in range(2, len(found)) if 0x40 <= found[n] <= 0x7E), len(found))
            if (name := ESCAPED.get(found[1 : end + 1])) is not None:
                keys.append(name)
            found = found[end + 1 :]
            continue
        size = next((n for n in range(1, 5) if _is_whole(found[:n])), 1)
        character = found[:size].decode(errors="replace")
        if character in NAMED or character.isprintable():
            keys.append(NAMED.get(character, character))
        found = found[size:]
    return keys


def _is_whole(found: bytes) -> bool:
    try:
        found.decode()
    except UnicodeDecodeError:
        return False
    return True
