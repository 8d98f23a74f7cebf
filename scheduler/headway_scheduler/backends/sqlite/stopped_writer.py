"""A process that is stopped in the middle of a write: have it finish. Linux.

Theory of operation. SQLite's write lock is the kernel's, and a stopped process (SIGSTOP, Ctrl-Z)
keeps it: nobody could write until it goes on. The kernel says who has the lock, without the file
being opened: closing it would drop the locks that this process has on it. So the one that is
stopped is continued. It ends its commit, which is as good as one that came before; if another one
leads by then, its next commit is refused. Where the kernel does not say (macOS, another container)
and while a debugger holds the process, everyone waits.
"""

import logging
import os
import signal
from pathlib import Path

WRITE_LOCK = 120
"""The byte of the ``-shm`` file that whoever writes has locked; part of SQLite's format."""

_log = logging.getLogger("headway")


def wake_writer(path: Path) -> bool:
    """Continue whoever is stopped while it writes the database at ``path``; whether one was."""
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
    """The process that has the write lock."""
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
