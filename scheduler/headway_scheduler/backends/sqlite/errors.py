"""Turns errors of SQLite and the system into errors that name the file and say what to do."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import (
    HeadwayError,
    KeyTaken,
    RowRefused,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreForeign,
    StoreFull,
    StoreReadOnly,
    StoreTakenOver,
)

_NO_ROOM = "no room to write ({error}): free some space; nothing was promised, ask again"
_READ_ONLY = "may not be written ({error}): see who owns the file and its folder"

_TAKEN = (KeyTaken, "a row was refused and nothing was written ({error}): its id or key is taken")
_VALUE = (
    RowRefused,
    "a row was refused and nothing was written ({error}): no number above 2^63 - 1, and no text "
    "above 1,000,000,000 bytes, can be kept",
)

_BY_SQLITE_CODE: dict[int, tuple[type[HeadwayError], str]] = {
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY: _TAKEN,
    sqlite3.SQLITE_CONSTRAINT_ROWID: _TAKEN,
    sqlite3.SQLITE_CONSTRAINT_UNIQUE: _TAKEN,
    sqlite3.SQLITE_FULL: (StoreFull, _NO_ROOM),
    sqlite3.SQLITE_READONLY: (StoreReadOnly, _READ_ONLY),
    sqlite3.SQLITE_BUSY: (
        StoreBusy,
        "another program keeps it locked: end what it does there and ask again",
    ),
    sqlite3.SQLITE_CORRUPT: (
        StoreCorrupt,
        "the file is damaged ({error}): bring back a backup, or move it away to start anew; "
        "`sqlite3 FILE .recover` may save what is left",
    ),
    sqlite3.SQLITE_NOTADB: (
        StoreForeign,
        "this is not a Headway database ({error}): move it away or use another path",
    ),
    sqlite3.SQLITE_CONSTRAINT: _VALUE,
    sqlite3.SQLITE_MISMATCH: _VALUE,
    sqlite3.SQLITE_TOOBIG: _VALUE,
    sqlite3.SQLITE_CANTOPEN: (
        StoreError,
        "it cannot be opened ({error}): see that it is a file and that you may read its folder",
    ),
}

_BY_ERRNO: dict[int, tuple[type[StoreError], str]] = {
    errno.ENOSPC: (StoreFull, _NO_ROOM),
    errno.EDQUOT: (StoreFull, _NO_ROOM),
    errno.EACCES: (StoreReadOnly, _READ_ONLY),
    errno.EPERM: (StoreReadOnly, _READ_ONLY),
    errno.EROFS: (StoreReadOnly, _READ_ONLY),
}

_OTHER = (StoreError, "the database failed ({error}): nothing was written; see the disk, ask again")


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn every error of the database at ``path`` into a StoreError or KeyTaken."""
    try:
        yield
    except sqlite3.Error as error:
        # Errors that the sqlite3 module finds by itself have no code.
        code = getattr(error, "sqlite_errorcode", None) or 0
        if getattr(error, "sqlite_errorname", "") == "SQLITE_IOERR_SHMSIZE":
            code = sqlite3.SQLITE_FULL  # what a full disk is called while the -shm file grows
        known = _BY_SQLITE_CODE.get(code) or _BY_SQLITE_CODE.get(code & 0xFF)
        if isinstance(error, sqlite3.DataError) or "binding parameter" in str(error):
            known = _VALUE  # found by the module, before SQLite saw the row
        raise _failure(path, error, known) from error
    except OSError as error:
        raise _failure(path, error, _BY_ERRNO.get(error.errno or 0)) from error
    except OverflowError as error:
        raise _failure(path, error, _VALUE) from error


def _failure(
    path: Path, error: Exception, known: tuple[type[HeadwayError], str] | None
) -> HeadwayError:
    error_class, advice = known or _OTHER
    return error_class(f"{path}: {advice.format(error=error)}")


def taken_over(path: Path) -> StoreTakenOver:
    """The error of a leader that another process has replaced."""
    return StoreTakenOver(
        f"{path}: another process took over, because this one showed no life: nothing was written"
    )
