"""A database looked over, copied and made smaller. Law: what is there is never made worse.

Everything here blocks: call it in a thread.
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from ...errors import StoreError
from .errors import explained
from .leadership import FileLock
from .reads import connect, read
from .sql import STATEMENTS, named

MOST_PROBLEMS = 100


def problems(path: Path) -> list[str]:
    """Look through the whole database; each thing that is wrong, in words. Raises StoreError.

    Beside a live process: it is read as it was at one moment.
    """
    return read(path, _problems)


def back_up(path: Path, target: Path) -> None:
    """Copy the database as it is at one moment, beside whoever writes it.

    ``target`` must not exist; it is there whole and synced, or not at all. Raises StoreError.
    """
    draft = Path(f"{target}.part")
    with explained(target):
        if os.path.lexists(target):
            raise StoreError(f"{target}: is there already: name another file, or move it away")
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        try:
            with closing(sqlite3.connect(draft)) as copy:
                read(path, lambda db: db.backup(copy), any_age=True)
            sync(draft)
            draft.rename(target)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        sync(target.parent)


def compact(path: Path) -> None:
    """Give the space of deleted rows back to the disk. Raises StoreError, StoreBusy if it is used.

    SQLite writes the whole file anew for it, and for a while there are two.
    """
    lock = FileLock(path.resolve())
    try:
        with explained(path), closing(connect(path.resolve(), "mode=rw")) as db:
            db.execute("VACUUM")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        lock.release()


def _problems(db: sqlite3.Connection) -> list[str]:
    found = [
        text for (text,) in db.execute(f"PRAGMA integrity_check({MOST_PROBLEMS})") if text != "ok"
    ]
    if found:
        return found  # what a damaged file says of its rows means nothing
    rows = named(db.execute(STATEMENTS["oddities"], {"limit": MOST_PROBLEMS}))
    return [f"{row.what} {row.subject}" for row in rows]


def sync(path: Path) -> None:
    """Make what was written to a file, or a rename in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
