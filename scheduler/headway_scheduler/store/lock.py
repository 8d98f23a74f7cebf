"""One writer per database: a lock file beside it. Linux and macOS.

Theory of operation. The lock is the kernel's (``flock``), not the file's existence: it is free the
moment its process is gone, even after ``kill -9``. The file holds the process id for the message.
It is removed at the end, so whoever gets the lock must see that it is still the file of that name:
otherwise the holder before removed it meanwhile, and the lock is worth nothing.
"""

import fcntl
import os
import time
from pathlib import Path

from ..errors import StoreBusy

PROBES, PROBE_SECONDS = 3, 0.002
"""Somebody who asks who the holder is has the lock for some microseconds: try again after that."""


class FileLock:
    """Holds the lock of the database at ``path``. Raises StoreBusy or OSError."""

    def __init__(self, path: Path) -> None:
        self._path = Path(f"{path}.lock")
        self._file = _locked(path, self._path)
        try:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, str(os.getpid()).encode(), 0)
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        """Remove the file, then free the lock: in the other order it might be someone else's."""
        try:
            self._path.unlink(missing_ok=True)
        finally:
            os.close(self._file)


def holder(database: Path) -> str | None:
    """Return the id of the process that has the database open for writing, None if nobody has.

    The kernel's lock is asked, not the file: that one outlives ``kill -9``.
    """
    try:
        file = os.open(f"{database.resolve()}.lock", os.O_RDONLY | os.O_CLOEXEC)
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


def _locked(path: Path, lock: Path) -> int:
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
