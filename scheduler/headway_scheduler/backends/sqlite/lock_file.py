"""A lock file with a heartbeat: who holds it, and whether that process still shows life.

Theory of operation. The lock is the kernel's (``flock``), not the file's existence: it is free the
moment its process is gone, even after ``kill -9``. The file holds the process id and its worker's
id, for messages. It is removed at the end, so whoever gets the lock must see that it is still the
file of that name: otherwise the holder before removed it meanwhile, and the lock is worth nothing.

A process that is stopped (SIGSTOP, a debugger) keeps its lock. So the holder has a thread that
touches the file; a watcher that sees no touch for a while removes the file and makes another. That
keeps two processes from holding it at once as a rule only. What makes it sure for a leader is the
epoch in the database (``opening``), and for a worker its row there: a lost lock does no harm.
"""

import fcntl
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...errors import StoreBusy
from ...ports import Holder, Vacancy

PROBES, PROBE_SECONDS = 3, 0.002
"""A probe of the lock by ``holder_of`` has it for some microseconds: try again after that."""

LOOK_SECONDS = 0.2
"""Cap on the silence that one look counts: if the watcher was stopped too, its long gap says
nothing about the holder."""

State = tuple[int, int]
"""A state of the lock file: which file, and when it was last touched."""


@dataclass(frozen=True, slots=True)
class LockVacancy(Vacancy):
    """``expired``: the state in which a silent holder's file stays; None, if nobody holds it."""

    expired: State | None = None


def lock_file_of(path: Path) -> Path:
    """The lock file of the database, or of a worker, at ``path``."""
    return Path(f"{path}.lock")


class FileLock:
    """Holds the lock file of ``path`` until ``release``. Raises StoreBusy or OSError.

    ``vacancy``: take it even from the silent holder that this tells of. ``heartbeat`` is called
    from the lock's thread after each touch of the file, every ``heartbeat_seconds``.
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
        """Whether the lock is still worth something: nobody has put another file in its place."""
        return _is_still_there(self._file, self._path)

    def touch(self) -> None:
        """Show life. Raises OSError."""
        os.utime(self._file)

    def release(self) -> None:
        """Stop the heartbeat, and give the lock back."""
        self._end.set()
        self._heartbeat_thread.join()
        self._give_back()

    def _give_back(self) -> None:
        # Remove, then free: a process that gets the lock in between finds that the file is gone
        # and makes another. In the other order the file that is removed might be that process's.
        try:
            if self.is_ours():
                self._path.unlink(missing_ok=True)
        finally:
            os.close(self._file)

    def _keep_beating(self) -> None:
        while not self._end.wait(self._heartbeat_seconds):
            with suppress(OSError):  # at worst, this process counts as dead
                self.touch()
            self._heartbeat()


class LeaseMonitor:
    """Watches the holder of the lock file of ``path``. Look often, at least every 0.2 s.

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
        """None if somebody alive has the lock."""
        state, now = _state(self._lock), time.monotonic()
        if state is None or state != self._state:
            self._state, self._silent = state, 0.0
        else:
            self._silent += min(now - self._looked, LOOK_SECONDS)
        self._looked = now
        if self._silent > self._silent_seconds:
            return LockVacancy(self._state)
        return LockVacancy() if _holder(self._lock) is None else None


def holder_of(path: Path) -> Holder | None:
    """Who has the lock of ``path``, alive or silent; None if nobody has.

    The kernel's lock is asked, not the file: that one outlives ``kill -9``.
    """
    return _holder(lock_file_of(path))


def silent_seconds(path: Path) -> float | None:
    """How long ago the lock file was last touched, by the wall clock; None without one."""
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
        # Shared and given back at once: it only refuses a process that starts in that moment,
        # which therefore tries three times (PROBES).
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return _as_written(file)
    finally:
        os.close(file)


def _as_written(file: int) -> Holder:
    process, _, worker = os.pread(file, 100, 0).decode("ascii", "replace").partition(" ")
    # Empty, if the holder has the lock and has not written yet.
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
            # Only in that state: a holder that has been touched since has come back to life.
            if expired is not None and _state(lock) == expired:
                os.close(file)
                lock.unlink(missing_ok=True)
                # Another process may do the same now, and its file is there next: it leads then.
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
