"""Holds a lock file with a heartbeat, and watches whether its holder still shows life.

Theory of operation. The lock is the kernel's (``flock``), not the file's existence: it is free the
moment its process is gone, even after ``kill -9``. The file holds the process id and its worker's
id, for messages. It is removed at the end. So a process that gets the lock must check that the file
still has its name: otherwise the holder before removed it meanwhile, and the lock is on a file that
no other process will ever open.

A process that is stopped (SIGSTOP, a debugger) keeps its lock. So the holder has a thread that
touches the file; that of a leader does so only when the event loop says that it turns, because a
leader whose loop is blocked admits nothing. A watcher that sees no touch for a while removes the
file and makes another. Then two processes may hold a lock at once, and the first does not know.
That does no harm: a leader is fenced by the epoch in the database (``opening``), a worker by its
row there.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...errors import StoreBusy, StoreError
from ...ports import Holder, Vacancy

if sys.platform == "win32":
    raise StoreError("Headway runs on Linux and macOS: on Windows, run it in WSL")

import fcntl

PROBES, PROBE_SECONDS = 3, 0.002
"""How often, and after which pause, a refused lock is tried: ``holder_of`` of another process has
it for some microseconds."""

LOOK_SECONDS = 0.2
"""Cap on the silence that one look counts: if the watcher was stopped too, its long gap says
nothing about the holder."""

State = tuple[int, int]
"""Inode and modification time in ns: which lock file, and when it was last touched."""


@dataclass(frozen=True, slots=True)
class LockVacancy(Vacancy):
    """A vacancy on SQLite, as one look at the lock file found it."""

    expired: State | None = None
    """The state in which a silent holder's file has stayed; None if nobody holds the lock."""


def lock_file_of(path: Path) -> Path:
    """Return the lock file of the database, or of a worker, at ``path``."""
    return Path(f"{path}.lock")


class FileLock:
    """Holds the lock file of ``path`` until ``release``. Raises StoreBusy or OSError.

    ``vacancy``: take it even from the silent holder that this vacancy is about. The lock's thread
    touches the file every ``heartbeat_seconds``, and calls ``heartbeat`` after each touch.
    """

    def __init__(
        self,
        path: Path,
        worker_id: str,
        *,
        heartbeat_seconds: float,
        vacancy: Vacancy | None = None,
        heartbeat: Callable[[], None] = lambda: None,
    ) -> None:
        self._path = lock_file_of(path)
        self._heartbeat_seconds = heartbeat_seconds
        self._heartbeat = heartbeat
        expired = vacancy.expired if isinstance(vacancy, LockVacancy) else None
        self._file = _locked(path, self._path, expired)
        self._end = threading.Event()
        self._due = threading.Event()
        self._is_loop_driven = False
        self._is_replaced = False
        self._heartbeat_thread = threading.Thread(
            target=self._keep_beating, name="headway heartbeat", daemon=True
        )
        try:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()} {worker_id}".encode(), 0)
        except OSError:
            self._give_back()
            raise
        self._heartbeat_thread.start()

    def is_ours(self) -> bool:
        """Whether the lock file still has its name: no process has put another in its place."""
        return _is_still_there(self._file, self._path)

    def touch(self) -> None:
        """Show life. Raises OSError."""
        os.utime(self._file)

    def show_life(self) -> bool:
        """Have the thread touch the file now; from the first time on, only when this is called.

        For the event loop, so it does no I/O. Return whether another process has put a file in its
        place, as the thread saw it when it last touched the file.
        """
        self._is_loop_driven = True
        self._due.set()
        return self._is_replaced

    def leave(self) -> None:
        """Have the thread touch the file by itself again: the event loop is about to end."""
        self._is_loop_driven = False
        self._due.set()

    def release(self) -> None:
        """Stop the heartbeat, and give the lock back."""
        self._end.set()
        self._due.set()
        self._heartbeat_thread.join()
        self._give_back()

    def _give_back(self) -> None:
        # Remove, then free. A process that gets the lock in between finds that the file is gone and
        # makes another. In the other order that process could hold the lock of the file that is
        # removed next, and a third one could lock a new file at the same time.
        try:
            if self.is_ours():
                self._path.unlink(missing_ok=True)
        finally:
            os.close(self._file)

    def _keep_beating(self) -> None:
        while not self._end.is_set():
            is_due = self._due.wait(self._heartbeat_seconds)
            self._due.clear()
            if self._end.is_set() or (self._is_loop_driven and not is_due):
                continue
            # A full or failing disk: at worst, this process counts as dead.
            with suppress(OSError):
                self.touch()
                self._is_replaced = not self.is_ours()
            self._heartbeat()


class LeaseMonitor:
    """Watches the holder of the lock file of ``path``. Look at least every 0.2 s.

    Silence is counted by the watcher's own clock, and only while it looks: no two clocks are
    compared, so a step of the wall clock neither ends nor stretches a lease.
    """

    def __init__(self, path: Path, silent_seconds: float) -> None:
        self._lock = lock_file_of(path)
        self._silent_seconds = silent_seconds
        self._state: State | None = None
        self._silent = 0.0
        self._looked = 0.0

    def look(self) -> LockVacancy | None:
        """Look once. Return None if a process that shows life has the lock."""
        state, now = _state(self._lock), time.monotonic()
        if state is None or state != self._state:
            self._state, self._silent = state, 0.0
        else:
            self._silent += min(now - self._looked, LOOK_SECONDS)
        self._looked = now
        # A stopped holder still has the kernel's lock, so silence counts before that is asked.
        if self._silent > self._silent_seconds:
            return LockVacancy(self._state)
        return LockVacancy() if _holder(self._lock) is None else None


def holder_of(path: Path) -> Holder | None:
    """Return who has the lock of ``path``, alive or silent; None if nobody has.

    The kernel is asked, not the file: a file outlives ``kill -9``.
    """
    return _holder(lock_file_of(path))


def silent_seconds(path: Path) -> float | None:
    """Return how long ago the lock file was touched, by the wall clock; None without a file."""
    state = _state(lock_file_of(path))
    return None if state is None else max(0.0, time.time() - state[1] / 1e9)


def _holder(lock: Path) -> Holder | None:
    try:
        file = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except PermissionError:
        return Holder(None, "a process of another user")
    try:
        # Shared, and given back at once by close(). A process that wants the lock in these
        # microseconds is refused, which is why it tries three times (PROBES).
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return _as_written(file)
    finally:
        os.close(file)


def _as_written(file: int) -> Holder:
    process, _, worker = os.pread(file, 100, 0).decode("ascii", "replace").partition(" ")
    # Empty if the holder has the lock and has not written its ids yet.
    return Holder(worker or None, f"process {process or '(unknown)'}")


def _locked(path: Path, lock: Path, expired: State | None) -> int:
    tries = PROBES
    while True:
        file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before may have removed the file between the two lines above.
            if _is_still_there(file, lock):
                return file
        except BlockingIOError:
            if tries := tries - 1:
                os.close(file)
                time.sleep(PROBE_SECONDS)
                continue
            # Only in that state: a holder that has touched its file since is alive.
            if expired is not None and _state(lock) == expired:
                os.close(file)
                lock.unlink(missing_ok=True)
                # Another watcher may do the same between these lines. Then its file is there next,
                # and this process is refused, because it replaces a file only once.
                tries, expired = PROBES, None
                continue
            holder = _as_written(file)
            os.close(file)
            raise StoreBusy(
                f"{path}: is in use by {holder.text}; stop it or use another database "
                "(HEADWAY_DATABASE)"
            ) from None
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _is_still_there(file: int, lock: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), lock.stat())
    except FileNotFoundError:
        return False


def _state(lock: Path) -> State | None:
    try:
        status = lock.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns
