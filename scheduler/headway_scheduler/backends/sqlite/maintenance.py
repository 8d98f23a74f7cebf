"""Checks, copies, shrinks and migrates a database. Law: what is there is never made worse."""

import os
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from anyio import to_thread

from ...errors import CallerError, StoreError
from ...ports import Finding
from .errors import explained
from .lock_file import FileLock, holder_of
from .network import refuse_network
from .opening import HEARTBEAT_SECONDS, back_up, open_writer
from .reads import connect, read, snapshot
from .sql import STATEMENTS, named

MOST_PROBLEMS = 100
"""How many problems are listed at most."""

LOW_DISK_BYTES = 256 * 2**20
"""Free space below which ``headway doctor`` warns: room for some tens of thousands of calls."""


class SqliteMaintenance:
    """The database at ``path`` as a thing to look after."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def problems(self) -> Sequence[str]:
        """Look through all of it, beside whoever uses it; each thing that is wrong, in words."""
        return await to_thread.run_sync(problems, self._path)

    async def back_up(self, to: str) -> int:
        """Copy it as it is at one moment to the new file ``to``; return the copy's bytes."""
        return await to_thread.run_sync(back_up, self._path, Path(to))

    async def compact(self) -> int:
        """Give the space of deleted rows back; return the bytes. StoreBusy if it is in use."""
        return await to_thread.run_sync(compact, self._path)

    async def migrate(self) -> Sequence[str]:
        """Bring it to the format of this version; return the copies of older formats."""
        return await to_thread.run_sync(migrate, self._path)

    async def findings(self) -> Sequence[Finding]:
        """What ``headway doctor`` shows of SQLite, the file and its disk."""
        return await to_thread.run_sync(lambda: list(_findings(self._path)))


def problems(path: Path) -> list[str]:
    """Look through the whole database; each thing that is wrong, in words. Raises StoreError.

    Beside a live process: it is read as it was at one moment.
    """
    return read(path, _problems)


def compact(path: Path) -> int:
    """Give the space of deleted rows back to the disk. Raises StoreError, StoreBusy if it is used.

    SQLite writes the whole file anew for it, and for a while there are two.
    """
    lock = FileLock(path, "", heartbeat_seconds=HEARTBEAT_SECONDS)
    try:
        with explained(path), closing(connect(path, "mode=rw")) as db:
            before = path.stat().st_size
            db.execute("VACUUM")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            return max(0, before - path.stat().st_size)
    finally:
        lock.release()


def migrate(path: Path) -> list[str]:
    """Open it to write, which migrates it. Raises StoreError, or CallerError if there is none."""
    if not path.exists():
        raise CallerError(f"{path}: there is no such database: the first run makes it")
    writer = open_writer(path, "")
    try:
        writer.connection.close()
    finally:
        writer.lock.release()
    return sorted(str(each) for each in path.parent.glob(f"{path.name}.v*"))


def _problems(db: sqlite3.Connection) -> list[str]:
    found = [
        text for (text,) in db.execute(f"PRAGMA integrity_check({MOST_PROBLEMS})") if text != "ok"
    ]
    if found:
        return found  # what a damaged file says of its rows means nothing
    rows = named(db.execute(STATEMENTS["oddities"], {"limit": MOST_PROBLEMS}))
    return [f"{row.what} {row.subject}" for row in rows]


def _findings(path: Path) -> Iterator[Finding]:
    yield Finding("SQLite", True, f"{sqlite3.sqlite_version}, aiosqlite {version('aiosqlite')}")
    yield _database(path)
    yield _disk(path)


def _database(path: Path) -> Finding:
    try:
        refuse_network(path)
        if os.path.lexists(path):
            read(path, snapshot)
    except StoreError as error:
        return Finding("database", False, str(error))
    place = path if path.exists() else _nearest(path)
    if not os.access(place, os.W_OK) or not os.access(_nearest(path.parent), os.W_OK):
        return Finding("database", False, f"{place}: may not be written: see who owns it")
    if not path.exists():
        return Finding("database", True, f"{path}: not there yet; the first run makes it")
    holder = holder_of(path)
    user = "no process" if holder is None else holder.text
    return Finding("database", True, f"{path}: {user} works on it")


def _disk(path: Path) -> Finding:
    folder = _nearest(path.parent)
    free = shutil.disk_usage(folder).free
    if free < LOW_DISK_BYTES:
        return Finding("disk", False, f"{free / 2**20:,.0f} MB free at {folder}: make room")
    return Finding("disk", True, f"{free / 2**30:,.1f} GB free at {folder}")


def _nearest(path: Path) -> Path:
    """Return the path, or the nearest folder above it that exists."""
    return next(place for place in (path, *path.parents) if place.exists())
