"""Checks, repairs, copies, shrinks and migrates a database. Law: it is never made worse.

Reads leave out rows that cannot be read, so each harms only what it belongs to; but it stays where
it is, and its run can neither go on nor be deleted. Repairing moves it, as JSON, to a table of its
own: in one transaction, and under the leader's lock, because the core of a leader may hold what a
row says.
"""

import json
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

from anyio import to_thread

from ...errors import CallerError, HeadwayError, StoreBusy, StoreCorrupt, StoreError
from ...ports import Finding, Report, UnreadableRow, unheard
from ...protocol.codec import dump, load_notification, load_request
from ...protocol.envelopes import WORKER, Handled, Notification
from . import rows
from .errors import explained
from .lock_file import FileLock, holder_of
from .network import refuse_network
from .opening import HEARTBEAT_SECONDS, back_up, begin, open_writer
from .reads import Connection, connect, probe, read, snapshot
from .sql import STATEMENTS, named

MOST_PROBLEMS = 100
"""How many problems are listed at most."""

LOW_DISK_BYTES = 256 * 2**20
"""Free space below which ``headway doctor`` warns: room for some tens of thousands of calls."""


_OF_A_ROW = re.compile(r"(value|NULL) in \w+\.\w+$")
"""What SQLite's own check says of a value whose column has another type: the file is whole."""

_KEYS = {
    "buckets": ("quota", "resource"),
    "lessons": ("kind", "subject"),
    "workers": ("id",),
    "provider_batches": ("id",),
    "waits": ("span", "at", "priority", "team", "bucket"),
    "crowds": ("at", "priority"),
}
"""Keys of the tables that have no rowid."""


class SqliteMaintenance:
    """The database at ``path`` as a thing to look after."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def problems(self) -> Sequence[str]:
        """Look through all of it, beside whoever uses it; each thing that is wrong, in words."""
        return await to_thread.run_sync(problems, self._path)

    async def repair(self) -> Sequence[UnreadableRow]:
        """Set aside rows that cannot be read or contradict others. StoreBusy if it is in use."""
        return await to_thread.run_sync(repair, self._path)

    async def set_aside(self) -> Sequence[UnreadableRow]:
        """Return the rows that were set aside, oldest first."""
        return await to_thread.run_sync(rows_set_aside, self._path)

    async def back_up(self, to: str, report: Report = unheard) -> int:
        """Copy it as it is at one moment to the new file ``to``; return the copy's bytes."""
        return await to_thread.run_sync(back_up, self._path, Path(to), report)

    async def compact(self) -> int:
        """Give the space of deleted rows back; return the bytes. StoreBusy if it is in use."""
        return await to_thread.run_sync(compact, self._path)

    async def migrate(self) -> Sequence[str]:
        """Bring it to the format of this version; return the copies of older formats."""
        return await to_thread.run_sync(migrate, self._path)

    async def findings(self) -> Sequence[Finding]:
        """Return the lines of ``headway doctor`` on SQLite, the file and its disk."""
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


def _problems(db: Connection) -> list[str]:
    if found := _damage(db, MOST_PROBLEMS):
        return found  # what a damaged file says of its rows means nothing
    odd = named(db.execute(STATEMENTS["oddities"], {"limit": MOST_PROBLEMS}))
    problems = [str(row) for row, *_ in _unreadable(db)]
    problems += [f"{row.what} {row.subject}" for row in odd]
    return problems[:MOST_PROBLEMS]


def _damage(db: Connection, most: int) -> list[str]:
    """Return what SQLite finds wrong with the file, but for values of a wrong type."""
    found = [text for (text,) in db.execute(f"PRAGMA integrity_check({most})") if text != "ok"]
    return [text for text in found if not _OF_A_ROW.search(text)]


def rows_set_aside(path: Path) -> list[UnreadableRow]:
    """Return the rows that were set aside, oldest first."""

    def question(db: Connection) -> list[UnreadableRow]:
        kept = named(db.execute(STATEMENTS["rows_set_aside"]))
        return [UnreadableRow(row.kind, row.name, row.why) for row in kept]

    return read(path, question)


def repair(path: Path) -> list[UnreadableRow]:
    """Set aside rows that cannot be read or contradict others, and return them. Raises StoreError.

    StoreBusy while a process leads: it is to end first.
    """
    read(path, probe)  # a database that is not there, or not ours, is left as it is
    try:
        lock = FileLock(path, "", heartbeat_seconds=HEARTBEAT_SECONDS)
    except StoreBusy as error:
        raise StoreBusy(f"{error}; rows are set aside while no process leads") from None
    try:
        with explained(path), closing(connect(path, "mode=rw")) as db:
            db.execute("PRAGMA synchronous = FULL")
            begin(db, path)
            # A crash before COMMIT leaves every row where it was.
            if found := _damage(db, 1):
                raise StoreCorrupt(
                    f"{path}: the file is damaged ({found[0]}), and not only a row: bring back a "
                    "backup; `sqlite3 FILE .recover` may save what is left"
                )
            moved = [_moved(db, *each) for each in _unreadable(db)]
            # A run that is set aside may have copies, and those may have some.
            while more := [_moved(db, *each) for each in _contradicting(db)]:
                moved += more
            db.execute(STATEMENTS["begin_term"])
            db.execute("COMMIT")
            return moved
    finally:
        lock.release()


def _unreadable(db: Connection) -> Iterator[tuple[UnreadableRow, str, dict[str, Any]]]:
    """Find what cannot be read; with the table, and all columns that the row has."""
    for table, (kind, key, convert) in rows.READERS.items():
        columns = ", ".join(rows.COLUMNS[table])
        hidden = "" if table in _KEYS else "rowid AS rowid_, "
        found = db.execute(f"SELECT {hidden}{columns} FROM {table}")
        width = len(hidden and "x")
        names = rows.COLUMNS[table]
        for values in found.fetchall():
            row = rows.named_row(names, values[width:])
            if why := _why_not(convert, row):
                stored = dict(zip(names, values[width:], strict=True))
                stored |= {"rowid": values[0]} if width else {}
                yield UnreadableRow(kind, rows.id_of(row, key), why), table, stored
    for row in list(named(db.execute(STATEMENTS["every_request"]))):
        if why := _why_not(load_request, row.event):
            name = f"{row.id} of {rows.id_of(row, ('sender',))}"
            yield UnreadableRow("request", name, why), "inbox", row._asdict() | {"rowid": row.id}
    for row in list(named(db.execute(STATEMENTS["every_notification"]))):
        if why := _why_not(load_notification, row.text):
            name = f"{row.id} to {rows.id_of(row, ('worker',))}"
            yield (
                UnreadableRow("notification", name, why),
                "outbox",
                row._asdict() | {"rowid": row.id},
            )


def _contradicting(db: Connection) -> Iterator[tuple[UnreadableRow, str, dict[str, Any]]]:
    """Find what can be read and contradicts other rows, as :func:`_unreadable` does."""
    for statement, table, why in (
        ("answers_not_there", "calls", "it is marked as done, and its answer is not there"),
        ("calls_of_the_ended", "calls", "it waits in a run that has ended"),
        ("copies_of_none", "runs", "it is a copy of a run that is gone"),
    ):
        kind, key, _ = rows.READERS[table]
        names = rows.COLUMNS[table]
        for (rowid,) in db.execute(STATEMENTS[statement]).fetchall():
            asked = f"SELECT {', '.join(names)} FROM {table} WHERE rowid = ?"
            values = db.execute(asked, (rowid,)).fetchone()
            stored = dict(zip(names, values, strict=True)) | {"rowid": rowid}
            yield (
                UnreadableRow(kind, rows.id_of(rows.named_row(names, values), key), why),
                table,
                stored,
            )


def _why_not(convert: Any, value: Any) -> str:
    """Say why a value cannot be read; empty if it can be."""
    try:
        convert(value)
    except HeadwayError as error:
        return str(error)[:200]
    except Exception as error:  # of whatever kind: the value may be anything
        return str(error)[:200] or type(error).__name__
    return ""


def _moved(db: Connection, row: UnreadableRow, table: str, stored: dict[str, Any]) -> UnreadableRow:
    rowid = stored.get("rowid")
    if rowid is not None:
        db.execute(f"DELETE FROM {table} WHERE rowid = ?", (rowid,))
    else:
        # A key that is no text is one as bytes, or as another value.
        keys = " AND ".join(
            f"({key} IS :{key} OR {key} IS CAST(:{key} AS TEXT))" for key in _KEYS[table]
        )
        values = {key: rows.as_bytes(stored[key]) for key in _KEYS[table]}
        db.execute(f"DELETE FROM {table} WHERE {keys}", values)
    text = json.dumps(stored, default=lambda value: {"bytes": bytes(value).hex()})
    db.execute(STATEMENTS["set_aside"], (time.time(), row.kind, *map(_written, row[1:]), text))
    if table == "runs":
        db.execute(STATEMENTS["end_calls"], (rows.as_bytes(stored["id"]),))
    sender = stored.get("sender")
    if table == "inbox" and isinstance(sender, str) and sender.startswith(WORKER):
        # A worker waits for a word of its batch. Who waits for an answer finds its request gone.
        told = Notification(handled=(Handled(stored["id"], unreadable=row.why or "set aside"),))
        db.execute(STATEMENTS["notify"], (sender, dump(told)))
    return row


def _written(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


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
