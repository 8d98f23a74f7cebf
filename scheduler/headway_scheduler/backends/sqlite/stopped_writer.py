"""Continues a process that was stopped in the middle of a write. Linux.

Theory of operation. SQLite's write lock is the kernel's, and a stopped process (SIGSTOP, Ctrl-Z)
keeps it: no process could write until it goes on. So it is continued. It ends its commit, which is
as good as a commit before the stop; if another process leads by then, its next commit is refused.
``/proc/locks`` tells which process has the lock without the file being opened: POSIX locks of a
process are dropped when it closes any descriptor of the file, and these would be our own. Where the
kernel does not tell (macOS, another container), and while a debugger holds the process, all wait.
"""

import logging
import os
import signal
from pathlib import Path

WRITE_LOCK = 120
"""The byte of the ``-shm`` file that a writer locks; part of SQLite's format."""

_log = logging.getLogger("headway")


def wake_writer(path: Path) -> bool:
    """Continue a process that is stopped while it writes the database at ``path``.

    Return whether there was one.
    """
    try:
        writer = _writer(Path(f"{path}-shm"))
        if writer is None or not _is_stopped(writer):
            return False
        os.kill(writer, signal.SIGCONT)
    except (OSError, ValueError):
        return False
    _log.warning(
        "process %d was stopped in the middle of a write, and all others waited for it: "
        "it was continued",
        writer,
    )
    return True


def _writer(memory: Path) -> int | None:
    """Return the id of the process that has the write lock; None if the kernel lists none."""
    status = memory.stat()
    ours = os.major(status.st_dev), os.minor(status.st_dev), status.st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        # 1: POSIX  ADVISORY  WRITE 4711 08:01:131 120 120; a process that waits has "->" as well
        fields = line.split()
        if fields[1] == "POSIX" and fields[-5] == "WRITE" and _covers(fields[-2], fields[-1]):
            major, minor, inode = fields[-3].split(":")
            if (int(major, 16), int(minor, 16), int(inode)) == ours:
                return int(fields[-4])
    return None


def _covers(first: str, last: str) -> bool:
    return int(first) <= WRITE_LOCK and (last == "EOF" or int(last) >= WRITE_LOCK)


def _is_stopped(process: int) -> bool:
    # 4711 (a name (with anything)) T ...
    state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    return state == "T"
