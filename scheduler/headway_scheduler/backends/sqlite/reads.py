"""Reads the database, each question on a connection of its own, so that none delays a commit.

Theory of operation. A database that no process has open for writing has no ``-wal`` file. A usual
read would leave one behind, so the database is then read as *immutable*: no locks, no traces. If a
writer came meanwhile, it is read again as usual. Nothing but SQLite may open the file: closing any
other descriptor of it would drop the locks that this process has on it. Everything here blocks:
call it in a thread.
"""

import json
import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from ...errors import StoreCorrupt, StoreError, StoreForeign, StoreTooNew
from ...model.batch import Lesson, Snapshot
from ...model.calls import CallRecord, Spent
from ...model.changes import Change
from ...model.runs import Run, Worker
from ...model.states import LIVE_CALLS, CallState, RunState
from ..lookup import CANDIDATES, node_hash, only_run
from . import rows
from .boot_clock import Anchor
from .errors import explained, taken_over
from .sql import APPLICATION_ID, NEWEST, STATEMENTS, named

T = TypeVar("T")

BUSY_SECONDS = 5.0
"""How long SQLite waits for another process's lock; the default of Python's sqlite3."""


def connect(path: Path, options: str) -> sqlite3.Connection:
    """Open ``path`` with SQLite's URI ``options``; transactions are begun by hand."""
    db = sqlite3.connect(
        f"{path.as_uri()}?{options}",
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
        uri=True,
    )
    db.text_factory = rows.as_text
    return db


def read(path: Path, question: Callable[[sqlite3.Connection], T], *, any_age: bool = False) -> T:
    """Ask the database at ``path`` in one read transaction. Raises StoreError.

    ``any_age``: the question fits older formats too, so a database to be migrated is read as well.
    """
    with explained(path):
        if not path.exists():
            raise StoreError(
                f"{path}: there is no such database: start a run to make it, or say where it is "
                "(HEADWAY_DATABASE)"
            )
        if not path.is_file():
            raise StoreError(f"{path}: is not a file: name a file in a folder of yours")
        before = _file_state(path)
        if before[0]:
            return _ask(path, "mode=ro", question, any_age)
        try:
            answer = _ask(path, "mode=ro&immutable=1", question, any_age)
        # A writer that begins during an immutable read makes the file look damaged or stale. So the
        # answer, or the error, counts only if the file is as it was before.
        except (sqlite3.Error, StoreError):
            if _file_state(path) == before:
                raise
        else:
            if _file_state(path) == before:
                return answer
        return _ask(path, "mode=ro", question, any_age)


def _file_state(path: Path) -> tuple[bool, int, int]:
    status = path.stat()
    return Path(f"{path}-wal").exists(), status.st_size, status.st_mtime_ns


def _ask(path: Path, options: str, question: Callable[[sqlite3.Connection], T], any_age: bool) -> T:
    with closing(connect(path, options)) as db:
        db.execute("BEGIN")
        _check_version(path, db, any_age)
        try:
            return question(db)
        except ValueError as error:
            raise StoreCorrupt(
                f"{path}: the file is damaged: it has a value that was never written ({error}); "
                "bring back a backup"
            ) from error


def _check_version(path: Path, db: sqlite3.Connection, any_age: bool) -> None:
    (application,) = db.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION_ID:
        raise StoreForeign(
            f"{path}: this is a database of another program: move it away or use another path "
            "(HEADWAY_DATABASE)"
        )
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > NEWEST:
        raise StoreTooNew(
            f"{path}: was written by a newer Headway (format {version}, this one knows {NEWEST}): "
            "upgrade Headway"
        )
    if version < NEWEST and not any_age:
        raise StoreError(
            f"{path}: was written by an older Headway (format {version}, now {NEWEST}): "
            "start a run once to migrate it"
        )


# The questions


def probe(db: sqlite3.Connection) -> None:
    """Read the schema and the upper pages, to notice damage early."""
    db.execute(STATEMENTS["probe"]).fetchone()


def read_anchor(db: sqlite3.Connection) -> Anchor:
    """Return the anchor that was agreed on last; not valid if the machine was started since."""
    row = next(named(db.execute(STATEMENTS["anchor"])))
    return Anchor(boot=row.boot, offset=row.clock_offset)


def assert_epoch(db: sqlite3.Connection, path: Path, epoch: int) -> None:
    """Raise StoreTakenOver if another process has raised the epoch since ``epoch``."""
    (now,) = db.execute(STATEMENTS["epoch"]).fetchone()
    if now != epoch:
        raise taken_over(path)


def snapshot(db: sqlite3.Connection) -> Snapshot:
    """See ``Store.snapshot``."""
    buckets = tuple(_fetch(db, "buckets", rows.bucket))
    live = _fetch(db, "live_calls", rows.call_record, states=_listed(LIVE_CALLS), limit=None)
    (next_seq,) = db.execute(STATEMENTS["next_seq"]).fetchone()
    changes = tuple(_fetch(db, "standing_changes", rows.change))
    return Snapshot(buckets, tuple(live), next_seq, changes, lessons(db))


def lessons(db: sqlite3.Connection) -> tuple[Lesson, ...]:
    """See ``Store.lessons``."""
    return tuple(_fetch(db, "lessons", rows.lesson))


def changes(db: sqlite3.Connection, limit: int | None) -> Sequence[Change]:
    """See ``Store.changes``."""
    return _fetch(db, "changes", rows.change, limit=limit)


def run(db: sqlite3.Connection, run_id: str) -> Run | None:
    """See ``Store.run``."""
    return only_run(
        run_id,
        _fetch(db, "runs_like", rows.run, prefix=rows.as_bytes(run_id), limit=CANDIDATES + 1),
    )


def run_with_key(db: sqlite3.Connection, key: str) -> Run | None:
    """See ``Store.run_with_key``."""
    return next(iter(_fetch(db, "run_with_key", rows.run, key=rows.as_bytes(key))), None)


def runs(
    db: sqlite3.Connection, states: Collection[RunState], limit: int | None, urgent_first: bool
) -> Sequence[Run]:
    """See ``Store.runs``."""
    if urgent_first:
        return _fetch(db, "urgent_runs", rows.run, states=_listed(states or RunState), limit=limit)
    if not states:
        return _fetch(db, "runs", rows.run, limit=limit)
    return _fetch(db, "runs_in", rows.run, states=_listed(states), limit=limit)


def calls(
    db: sqlite3.Connection, run_id: str | None, states: Collection[CallState], limit: int | None
) -> Sequence[CallRecord]:
    """See ``Store.calls``."""
    listed = _listed(states)
    if run_id is not None:
        name = "calls_of_run"
        return _fetch(
            db, name, rows.call_record, run_id=rows.as_bytes(run_id), states=listed, limit=limit
        )
    name = "live_calls" if states and LIVE_CALLS.issuperset(states) else "calls"
    return _fetch(db, name, rows.call_record, states=listed, limit=limit)


def assigned(db: sqlite3.Connection) -> Sequence[Run]:
    """See ``Store.assigned``."""
    return _fetch(db, "assigned_runs", rows.run)


def workers(db: sqlite3.Connection) -> Sequence[Worker]:
    """See ``Store.workers``."""
    return _fetch(db, "workers", rows.worker)


def is_listed(db: sqlite3.Connection, worker_id: str) -> bool:
    """Whether a worker has its row; the leader removes it if it takes the worker for dead."""
    (row,) = named(db.execute(STATEMENTS["is_listed"], {"worker": worker_id}))
    return bool(row.is_listed)


def spent(db: sqlite3.Connection, by: str, since: float) -> Sequence[Spent]:
    """See ``Store.spent``."""
    return _fetch(db, "spent", rows.spent, by=by, since=since)


def prompt(db: sqlite3.Connection, request_hash: str) -> Sequence[str] | None:
    """See ``Store.prompt``."""
    found = db.execute(STATEMENTS["prompt"], {"hash": node_hash(request_hash)}).fetchall()
    return [text for (text,) in reversed(found)] or None


def _listed(states: Iterable[CallState | RunState]) -> str:
    return json.dumps([state.value for state in states])


def _fetch(
    db: sqlite3.Connection, name: str, convert: Callable[[Any], T], **values: object
) -> list[T]:
    return [convert(row) for row in named(db.execute(STATEMENTS[name], values))]
