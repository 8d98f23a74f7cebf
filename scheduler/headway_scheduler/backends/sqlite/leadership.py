"""One leader per database: a lock file beside it, and a pulse. Linux and macOS.

Theory of operation. The lock is the kernel's (``flock``), not the file's existence: it is free the
moment its process is gone, even after ``kill -9``. The file holds the process id for the message.
It is removed at the end, so whoever gets the lock must see that it is still the file of that name:
otherwise the holder before removed it meanwhile, and the lock is worth nothing.

A process that is frozen (SIGSTOP, a debugger) keeps its lock. So the holder has a thread that
touches the file; somebody who waits and sees no touch for a while removes the file and makes
another. That keeps two processes from leading at once as a rule only. What makes it sure is the
epoch in the database (see ``opening``): every commit asserts it, so a lost lock does no harm.
"""

import fcntl
import os
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from ...errors import StoreBusy
from .notifier import bell_of

PROBES, PROBE_SECONDS = 3, 0.002
"""Somebody who asks who the holder is has the lock for some microseconds: try again after that."""

BEAT_SECONDS = 0.25
SILENT_SECONDS = 1.5
"""How long a leader shows no life until it counts as frozen: six beats."""

WORKER_BEAT_SECONDS = 1.0
WORKER_SILENT_SECONDS = 10.0
"""How long a worker does: its runs are begun anew elsewhere, and what is in flight is lost."""

LOOK_SECONDS = 0.2
"""What one look counts at most: one who looks late may have been stopped too, with the holder."""

WORKER = "w-"
"""What the ids of workers begin with."""

Stamp = tuple[int, int]
"""A state of the lock file: which file, and when it was last touched."""


class FileLock:
    """Holds the lock of the database at ``path``. Raises StoreBusy or OSError.

    ``frozen``: take it even from a holder whose lock file is in this state. It is touched every
    ``beat_seconds``.
    """

    def __init__(
        self, path: Path, *, frozen: Stamp | None = None, beat_seconds: float = BEAT_SECONDS
    ) -> None:
        self._path = Path(f"{path}.lock")
        self._beat_seconds = beat_seconds
        self._file = _locked(path, self._path, frozen)
        self._end = threading.Event()
        self._pulse = threading.Thread(target=self._beat, name="headway pulse", daemon=True)
        try:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, str(os.getpid()).encode(), 0)
        except OSError:
            self._give_back()
            raise
        self._pulse.start()

    def is_ours(self) -> bool:
        """Whether the lock is still worth something: nobody has put another file in its place."""
        return _is_still_there(self._file, self._path)

    def release(self) -> None:
        """Stop the pulse, and give the lock back."""
        self._end.set()
        self._pulse.join()
        self._give_back()

    def _give_back(self) -> None:
        """Remove the file, then free the lock: in the other order it might be someone else's."""
        try:
            if self.is_ours():
                self._path.unlink(missing_ok=True)
        finally:
            os.close(self._file)

    def _beat(self) -> None:
        while not self._end.wait(self._beat_seconds):
            with suppress(OSError):  # at worst, this process counts as frozen
                os.utime(self._file)


class Vigil:
    """Watches the holder of a lock, by the watcher's own clock. Look often, at least every .2 s."""

    def __init__(self, database: Path, silent_seconds: float = SILENT_SECONDS) -> None:
        self._lock = Path(f"{database.resolve()}.lock")
        self._silent_seconds = silent_seconds
        self._stamp: Stamp | None = None
        self._silent = 0.0
        self._looked = 0.0

    @property
    def frozen(self) -> Stamp | None:
        """The state in which the lock file stays, if its holder shows no life."""
        return self._stamp if self._silent > self._silent_seconds else None

    def may_lead(self) -> bool:
        """Look: whether nobody has the lock, or nobody who is alive."""
        stamp, now = _stamp(self._lock), time.monotonic()
        if stamp is None or stamp != self._stamp:
            self._stamp, self._silent = stamp, 0.0
        else:
            self._silent += min(now - self._looked, LOOK_SECONDS)
        self._looked = now
        return self.frozen is not None or _holder(self._lock) is None


def worker_lock(database: Path, worker: str) -> Path:
    """What a worker holds the lock of while it lives, beside the database."""
    return Path(f"{database.resolve()}.{worker}")


def sweep(database: Path, but: Collection[str]) -> None:
    """Remove the locks and bells that workers left which were killed."""
    database = database.resolve()
    for lock in database.parent.glob(f"{database.name}.{WORKER}*.lock"):
        worker = lock.name.removeprefix(f"{database.name}.").removesuffix(".lock")
        if worker not in but and holder(lock.with_suffix("")) is None:
            lock.unlink(missing_ok=True)
            bell_of(database, worker).unlink(missing_ok=True)


def holder(database: Path) -> str | None:
    """Return the id of the process that has the database open for writing, None if nobody has.

    The kernel's lock is asked, not the file: that one outlives ``kill -9``.
    """
    return _holder(Path(f"{database.resolve()}.lock"))


def _holder(lock: Path) -> str | None:
    try:
        file = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except PermissionError:
        return "of another user"
    try:
        # Shared and given back at once: it only refuses a process that starts in that moment.
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return os.pread(file, 20, 0).decode("ascii", "replace") or "(unknown)"
    finally:
        os.close(file)


def silent_seconds(path: Path) -> float | None:
    """How long ago the holder of the lock showed life, by the wall clock; None without one."""
    stamp = _stamp(Path(f"{path}.lock"))
    return None if stamp is None else max(0.0, time.time() - stamp[1] / 1e9)


def _locked(path: Path, lock: Path, frozen: Stamp | None) -> int:
    tries = PROBES
    while True:
        file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still_there(file, lock):
                return file
        except BlockingIOError:
            if tries := tries - 1:
                os.close(file)
                time.sleep(PROBE_SECONDS)
                continue
            if frozen is not None and _stamp(lock) == frozen:
                os.close(file)
                lock.unlink(missing_ok=True)
                # Another one may do the same now, and its file is there next: it leads then.
                tries, frozen = PROBES, None
                continue
            process = os.pread(file, 20, 0).decode("ascii", "replace") or "(unknown)"
            os.close(file)
            raise StoreBusy(
                f"{path}: is in use by process {process}; stop it or use another database "
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


def _stamp(lock: Path) -> Stamp | None:
    try:
        status = lock.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns
