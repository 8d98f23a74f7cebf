"""Hints to other processes that something was written for them. Law: a lost hint costs only time.

Theory of operation. Each owner has a named pipe beside the database; to ring is to write a byte. A
thread of the owner sleeps on the pipe, and looks every 0.25 s without a ring, because hints may be
lost. The event loop is the wrong place to look from: teams may keep it busy for seconds, and waking
it for nothing costs more than looking. So the thread asks ``PRAGMA data_version``, which reads no
disk, whether any process has committed anything, reads ahead what was written for its owner, and
wakes the loop only if there is something.
"""

import asyncio
import os
import select
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Self

import anyio
from anyio import to_thread

from ...errors import StoreError, StoreReplaced, StoreTakenOver
from .errors import explained
from .reads import OpenedFile, connect

POLL_SECONDS = 0.25
"""How often the listener looks without a ring."""

POLL_SECONDS_WITHOUT_PIPE = 0.04
"""How often the listener looks where the file system has no pipes."""


class SqliteNotifier:
    """Waits for rows for ``owner`` in the database at ``path``.

    ``read_ahead`` is called in the listener's thread, and returns whether there are any.
    """

    def __init__(
        self,
        path: Path,
        owner: str,
        read_ahead: Callable[[str], bool],
        file: OpenedFile | None = None,
    ) -> None:
        self._path = path
        self._file = OpenedFile(path) if file is None else file
        self._owner = owner
        self._read_ahead = read_ahead
        self._come = anyio.Event()
        self._loop: asyncio.AbstractEventLoop
        self._listener: Listener

    async def __aenter__(self) -> Self:
        """Listen, instead of whoever listened for this owner before. Raises StoreError."""
        self._loop = asyncio.get_running_loop()
        # Shielded: a listener that starts after a cancellation would be closed by nobody.
        with anyio.CancelScope(shield=True):
            self._listener = await to_thread.run_sync(
                Listener, self._path, self._owner, self._look, self._file
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Listen no more."""
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(self._listener.close)

    async def wait(self) -> None:
        """Return when something may have been written since this last returned."""
        await self._come.wait()
        # No await between these lines, so no wake-up can come between: a hint from here on is for
        # the next wait().
        self._come = anyio.Event()

    def ring(self, owner: str) -> None:
        """Hint that something was written for ``owner``."""
        ring(pipe_of(self._path, owner))

    def _look(self) -> None:
        try:
            if not self._read_ahead(self._owner):
                return
        except StoreError as error:
            if isinstance(error, StoreTakenOver) or self._file.is_lost():
                # Wake the loop as well: it reads for itself, and gets the same error.
                self._loop.call_soon_threadsafe(self._wake)
            raise
        self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._come.set()


class Listener:
    """A thread that calls ``look`` when the pipe of ``owner`` rings, if there are new commits.

    It looks without a ring every ``poll_seconds``, and ends when ``look`` raises StoreTakenOver or
    StoreReplaced. Close it after use. Raises StoreError.
    """

    def __init__(
        self,
        path: Path,
        owner: str,
        look: Callable[[], None],
        file: OpenedFile | None = None,
        *,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._path = path
        self._call = look
        self._file = OpenedFile(path) if file is None else file
        self._poll_seconds = poll_seconds
        self._seen: int | None = None
        self._is_over = False
        with explained(path):
            # For writing, as in every process that posts: it keeps the shared log (-wal, -shm) in
            # place.
            self._db = connect(path, "mode=rw")
        self._pipe = NamedPipe(pipe_of(path, owner))
        self._thread = threading.Thread(target=self._listen, name="headway listener", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more. Blocks until the last look is over."""
        self._is_over = True
        self._pipe.ring()
        self._thread.join()
        self._pipe.close()

    def _listen(self) -> None:
        with closing(self._db):
            while not self._is_over:
                try:
                    if self._has_changed():
                        self._call()
                except (StoreTakenOver, StoreReplaced):
                    return
                except StoreError:
                    self._seen = None  # the rows are still to be read: look again at the next poll
                self._pipe.wait(self._poll_seconds)

    def _has_changed(self) -> bool:
        """Whether any process has committed since the last question; True at the first one.

        True too for a file that is gone, or replaced: there, nobody commits any more.
        """
        if self._file.is_lost():  # asked first: of such a file SQLite may only give errors
            return True
        with explained(self._path):
            (version,) = self._db.execute("PRAGMA data_version").fetchone()
        before, self._seen = self._seen, version
        return bool(before != version)


def pipe_of(database: Path, owner: str) -> Path:
    """Return the pipe of a worker, or of the leader."""
    return Path(f"{database}.{owner}.bell")


def ring(pipe: Path) -> None:
    """Ring a pipe. Never blocks, and raises nothing."""
    # No process waits there, or the pipe is full: then it has been rung already. A name that no
    # file can have is a ValueError.
    with suppress(OSError, ValueError):
        end = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(end, b"!")
        finally:
            os.close(end)


class NamedPipe:
    """A pipe that this process waits on, instead of the process before. Close it after use."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pipe: int | None = None
        with suppress(OSError):
            path.unlink(missing_ok=True)
            os.mkfifo(path, 0o600)
            # For writing too: a pipe without a writer is at its end, and poll() would return at
            # once instead of waiting.
            self._pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def wait(self, seconds: float) -> bool:
        """Wait until it is rung, at most ``seconds``. Return whether it may have been."""
        if self._pipe is None:
            time.sleep(min(seconds, POLL_SECONDS_WITHOUT_PIPE))
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
            # The next leader may have put its own pipe in this place: that one must stay.
            if os.path.samestat(os.fstat(self._pipe), self._path.stat()):
                self._path.unlink()
        os.close(self._pipe)
        self._pipe = None
