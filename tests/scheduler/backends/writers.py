"""A process that has SQLite's write lock, running or stopped."""

import signal
import subprocess
from pathlib import Path

import pytest

WRITER = """
import os, signal, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
db.execute("BEGIN IMMEDIATE")
print("has it", flush=True)
if sys.argv[2] == "stopped":
    os.kill(os.getpid(), signal.SIGSTOP)
else:
    sys.stdin.read()
db.execute("COMMIT")
"""
"""A program: DATABASE stopped|running. One that runs commits when its input ends."""

needs_locks = pytest.mark.skipif(
    not Path("/proc/locks").exists(), reason="who has a lock is told by the kernel of Linux only"
)


def is_stopped(process: subprocess.Popen[str]) -> bool:
    state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state == "T"


def is_pending(process: subprocess.Popen[str], number: signal.Signals) -> bool:
    """Whether a signal is still on its way: another one of the same number would be lost."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    pending = (line.split()[1] for line in status.splitlines() if line.startswith("ShdPnd:"))
    return bool(int(next(pending), 16) >> (number - 1) & 1)
