"""A real terminal for tests: tmux, and what its screen shows, as text.

`make test` installs tmux where it is missing. Without one the tests are skipped, and in CI they
fail. Each terminal is a tmux server of its own, which ends with its test.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from shlex import join
from typing import Self

import pytest

LONGEST_SECONDS = 90.0
"""How long something may take to be on the screen: far above what it takes on a busy machine."""
LOOK_SECONDS = 0.05
_NUMBERS = count()

SGR = re.compile("\x1b\\[([0-9;]*)m")
OTHER_ESCAPES = re.compile("\x1b[()][A-Z0-9]|\x0f|\x0e")
ATTRIBUTES = {1: "bold", 2: "dim", 3: "italic", 4: "underlined", 7: "reverse"}
COLOURS = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")


def required() -> str:
    """Return the path of tmux; skip the test without one, and fail it in CI."""
    found = shutil.which("tmux")
    if found is None and "CI" in os.environ:
        pytest.fail("tmux is not installed: `make test` installs it")
    if found is None:
        pytest.skip("tmux is not installed: `make tmux` installs it")
    return found


class Terminal:
    """A terminal of some size in which a command runs; what it shows can be read and keys pressed.

    Its environment is that of the tests, with ``environment``, without what tells of colours.
    """

    def __init__(
        self,
        folder: Path,
        command: Sequence[str],
        *,
        columns: int = 80,
        lines: int = 24,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = folder
        # Sockets have short paths: no folder of pytest's is short enough for sure. No name is used
        # twice: the server before takes a while to end.
        name = f"headway-{os.getpid()}-{next(_NUMBERS)}"
        sockets = Path(os.environ.get("TMUX_TMPDIR", "/tmp"), f"tmux-{os.getuid()}")
        self._tmux, self._socket = [required(), "-L", name], sockets / name
        # In Python's development mode asyncio would say on the terminal what took long.
        telling = ("NO_COLOR", "COLORTERM", "TERM", "COLUMNS", "LINES", "TMUX", "FORCE_COLOR")
        telling += ("PYTHONDEVMODE",)
        ours = {k: v for k, v in os.environ.items() if k not in telling}
        self._environment = ours | {"LC_ALL": "C.UTF-8", "TERM": "xterm"} | dict(environment or {})
        self._size = ("-x", str(columns), "-y", str(lines))
        # The screen stays when the command is over, and says what it came to.
        self._command = f'{join(command)}; echo "[ended: $?]"; exec sleep {LONGEST_SECONDS * 3}'

    def __enter__(self) -> Self:
        settings = self._folder / "tmux.conf"
        settings.write_text("set -g default-terminal screen-256color\nset -g status off\n")
        command = ("new-session", "-d", *self._size, "-c", str(self._folder), self._command)
        self._run("-f", str(settings), *command)
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run([*self._tmux, "kill-server"], env=self._environment, check=False)
        self._socket.unlink(missing_ok=True)

    def press(self, *keys: str) -> None:
        """Press keys, by their names in tmux, as in ``Enter`` or ``Down``; else as text."""
        self._run("send-keys", *keys)

    def shown(self, *, colour: bool = False) -> str:
        """Return the screen's lines, without what is blank at their ends.

        ``colour``: each text that has a style is written as in ``{bold red:text}``.
        """
        screen = self._run("capture-pane", "-p", *(("-e",) if colour else ()))
        lines = (styled(screen) if colour else screen).splitlines()
        return "\n".join(line.rstrip() for line in lines).rstrip("\n") + "\n"

    def until(self, *texts: str, gone: str | None = None) -> str:
        """Wait until the screen has all these texts, and not what is to be ``gone``; return it."""
        give_up_at = time.monotonic() + LONGEST_SECONDS
        while True:
            screen = self.shown()
            if all(text in screen for text in texts) and (gone is None or gone not in screen):
                return screen
            assert time.monotonic() < give_up_at, f"no {texts} on the screen:\n{screen}"
            time.sleep(LOOK_SECONDS)

    def _run(self, *arguments: str) -> str:
        command = [*self._tmux, *arguments]
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def headway(*arguments: str) -> list[str]:
    """Return the command line of a command of Headway, for a terminal."""
    return [sys.executable, "-m", "headway", *arguments]


def styled(screen: str) -> str:
    """Write the styles of a screen as words: versions of tmux order their escapes in other ways."""
    written, now = list[str](), set[str]()
    for place, part in enumerate(SGR.split(OTHER_ESCAPES.sub("", screen))):
        if place % 2:
            now = _changed(now, [int(each or 0) for each in part.split(";")])
            continue
        for text in re.split("(\n)", part):
            words = " ".join(sorted(now))
            written.append(f"{{{words}:{text}}}" if words and text.strip() else text)
    return "".join(written)


def _changed(now: set[str], codes: list[int]) -> set[str]:
    changed, rest = set(now), list(codes)
    while rest:
        code = rest.pop(0)
        if code == 0:
            changed.clear()
        elif code in ATTRIBUTES:
            changed.add(ATTRIBUTES[code])
        elif code in (22, 23, 24, 27):
            gone = {22: {"bold", "dim"}, 23: {"italic"}, 24: {"underlined"}, 27: {"reverse"}}
            changed -= gone[code]
        elif code in (38, 48) and rest[:1] == [5]:
            changed = {each for each in changed if not _is_colour(each, code - 38)}
            changed.add(f"{'on-' if code == 48 else ''}{rest[1]}")
            del rest[:2]
        elif 30 <= code <= 49 or 90 <= code <= 107:
            is_ground = code in range(40, 50) or code >= 100
            changed = {each for each in changed if not _is_colour(each, 10 * is_ground)}
            if code % 10 < 8:
                bright = "bright-" if code >= 90 else ""
                changed.add(f"{'on-' if is_ground else ''}{bright}{COLOURS[code % 10]}")
    return changed


def _is_colour(word: str, ground: int) -> bool:
    return word not in ATTRIBUTES.values() and word.startswith("on-") == bool(ground)


SNAPSHOTS = Path(__file__).parent / "snapshots"


def assert_snapshot(name: str, screen: str) -> None:
    """Compare a screen with the file ``snapshots/NAME.txt``; SNAPSHOTS=write writes it anew."""
    file = SNAPSHOTS / f"{name}.txt"
    if os.environ.get("SNAPSHOTS") == "write":
        file.parent.mkdir(exist_ok=True)
        file.write_text(screen)
    assert screen == file.read_text(), f"{file.name} differs; SNAPSHOTS=write writes it anew"
