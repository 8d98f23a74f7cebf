"""Opens a database for writing. Law: what cannot be opened is left as it was found.

Theory of operation. A new database is built under another name and then renamed, so the file is
never half made. An existing database is read before anything may write to it, and copied before it
is migrated. If a step fails, everything made before it is undone. The last step raises the epoch:
from its commit on, every commit of the process that led before is refused. Everything here blocks:
call it in a thread.
"""

import os
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path

from ...errors import StoreBusy, StoreError, StoreReadOnly
from ...ports import Report, Vacancy, unheard
from .boot_clock import Anchor, new_anchor
from .errors import explained
from .lock_file import FileLock
from .network import refuse_network
from .reads import Connection, connect, probe, read, read_anchor
from .sql import APPLICATION_ID, MIGRATIONS, STATEMENTS, named
from .stopped_writer import wake_writer

PAGES = 1_000
"""How many pages are copied at once: 8 MB."""
HEARTBEAT_SECONDS = 0.25
"""How often a leader shows life."""


@dataclass(frozen=True, slots=True)
class Writer:
    """A database that is open for writing."""

    path: Path
    """The file."""
    connection: Connection
    """The one connection that writes the journal."""
    lock: FileLock
    """The leader's lock, to be released after the connection was closed."""
    epoch: int
    """The epoch that every commit asserts."""
    anchor: Anchor
    """The time that all processes on this database share."""
    lost_starts: int
    """How many starts in a row, before this one, never came to their end."""


def open_writer(path: Path, worker_id: str, vacancy: Vacancy | None = None) -> Writer:
    """Lock the database at ``path``, make it if it is missing, check and migrate it.

    ``vacancy``: see ``FileLock``. Raises StoreError; nothing was changed then.
    """
    refuse_network(path)
    with explained(path), ExitStack() as undo:
        _make_folder(path.parent, undo)
        _check_writable(path)
        lock = FileLock(path, worker_id, heartbeat_seconds=HEARTBEAT_SECONDS, vacancy=vacancy)
        undo.callback(lock.release)
        # The leader before may be stopped inside a commit. begin() would find that out only after
        # SQLite's 5 s of waiting.
        wake_writer(path)
        if not path.exists() or (path.is_file() and path.stat().st_size == 0):
            _create(path, undo)
        read(path, probe, any_age=True)
        _keep_older(path, undo)
        db = undo.enter_context(closing(connect(path, "mode=rw")))
        _prepare(path, db)
        writer = _raise_epoch(path, db, lock)
        undo.pop_all()
    return writer


def begin(db: Connection, path: Path) -> None:
    """Begin to write, as soon as other writers let; a stopped writer is continued after 5 s."""
    try:
        db.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        if not wake_writer(path):
            raise
        db.execute("BEGIN IMMEDIATE")


def _raise_epoch(path: Path, db: Connection, lock: FileLock) -> Writer:
    begin(db, path)
    # Checked inside the transaction: of two processes that both hold a lock, the file has been
    # replaced under one, and that one finds out here, before it raises the epoch.
    if not lock.is_ours():
        db.execute("ROLLBACK")
        raise StoreBusy(f"{path}: another process took it in this moment: ask again")
    (row,) = named(db.execute(STATEMENTS["raise_epoch"]))
    anchor = read_anchor(db)
    if not anchor.is_valid:
        anchor = new_anchor()
        db.execute(STATEMENTS["set_anchor"], (anchor.boot, anchor.offset))
    db.execute("COMMIT")
    return Writer(path, db, lock, int(row.epoch), anchor, int(row.starts) - 1)


def _keep_older(path: Path, undo: ExitStack) -> None:
    """Copy a database that is about to be migrated; a copy that is there already stays."""
    (version,) = read(path, lambda db: db.execute("PRAGMA user_version").fetchone(), any_age=True)
    copy = Path(f"{path}.v{version}")
    if 0 < version < max(MIGRATIONS) and not copy.exists():
        back_up(path, copy)
        undo.callback(_remove, copy)


def _make_folder(folder: Path, undo: ExitStack) -> None:
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    for place in reversed(missing):
        place.mkdir(mode=0o700)
        undo.callback(_remove_folder, place)


def _remove_folder(folder: Path) -> None:
    with suppress(OSError):  # another process has put a file there meanwhile
        folder.rmdir()


def _check_writable(path: Path) -> None:
    for place in (path.parent, path):
        if place.exists() and not os.access(place, os.W_OK):
            raise StoreReadOnly(
                f"{path}: {place} may not be written: see who owns it, or use another database "
                "(HEADWAY_DATABASE)"
            )


def _create(path: Path, undo: ExitStack) -> None:
    draft = Path(f"{path}.new")
    _remove(draft)  # left by a process that was killed between here and the rename
    undo.callback(_remove, draft)
    # SQLite gives its -wal and -shm files the mode of the database.
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    with closing(connect(draft, "mode=rw")) as db:
        # Answers have some KB: more of them fit without a gap than into SQLite's 4096.
        db.execute("PRAGMA page_size = 8192")
        _prepare(path, db)
    # Before the rename a crash leaves a draft, which the next process removes; after it, a whole
    # database. The folder is synced so that the name survives a power cut.
    draft.rename(path)
    sync(path.parent)


def _remove(path: Path) -> None:
    for suffix in ("", "-journal", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _prepare(path: Path, db: Connection) -> None:
    db.executescript(STATEMENTS["writer_settings"])
    (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StoreError(f"{path}: its file system cannot share memory: use a local disk")
    (version,) = db.execute("PRAGMA user_version").fetchone()
    for number, script in MIGRATIONS.items():
        if number > version:
            _migrate(db, number, script)


def _migrate(db: Connection, number: int, script: str) -> None:
    # One script, because executescript would commit a transaction that is already open.
    mark = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {number};"
    try:
        db.executescript(f"BEGIN IMMEDIATE;\n{script}\n{mark}\nCOMMIT;")
    except sqlite3.Error:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def back_up(path: Path, target: Path, report: Report = unheard) -> int:
    """Copy the database as it is at one moment, beside whoever writes it; return the bytes.

    ``report`` is told of each ``PAGES`` pages. ``target`` must not exist; it is there whole and
    synced, or not at all. Raises StoreError.
    """
    draft = Path(f"{target}.part")
    with explained(target):
        if os.path.lexists(target):
            raise StoreError(f"{target}: is there already: name another file, or move it away")
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        try:
            with closing(sqlite3.connect(draft)) as copy:
                # read() holds one snapshot open, so no writer has the copy begin again.
                read(
                    path,
                    lambda db: db.backup(copy, pages=PAGES, progress=_told(report)),
                    any_age=True,
                )
            sync(draft)
            draft.rename(target)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        sync(target.parent)
        return target.stat().st_size


def _told(report: Report) -> Callable[[int, int, int], None]:
    return lambda status, remaining, total: report(total - remaining, total)


def sync(path: Path) -> None:
    """Make what was written to a file, or a rename in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
