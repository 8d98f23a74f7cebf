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
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from anyio import CapacityLimiter

from ...errors import (
    StoreCorrupt,
    StoreError,
    StoreForeign,
    StoreMissing,
    StoreReplaced,
    StoreTooNew,
)
from ...model.batch import Lesson, Snapshot
from ...model.batches import BatchedRequest, Gathered, ProviderBatch
from ...model.calls import CallRecord, Spent
from ...model.changes import Change
from ...model.data import asdict
from ...model.history import Crowd, Ended, Retention, Try, WaitCount
from ...model.notices import Notice
from ...model.runs import Run, Worker
from ...model.schedules import ScheduleState
from ...model.states import LIVE_CALLS, CallState, RunState
from ...ports import UnreadableRow
from ..lookup import CANDIDATES, node_hash, only_run
from . import rows
from .boot_clock import Anchor
from .errors import explained, taken_over
from .sql import APPLICATION_ID, NEWEST, STATEMENTS, named

T = TypeVar("T")

BUSY_SECONDS = 5.0
"""How long SQLite waits for another process's lock; the default of Python's sqlite3."""


def own_threads() -> CapacityLimiter:
    """Return the threads of one part of the backend, as many as anyio has for all others.

    A tool may take all of those.
    """
    return CapacityLimiter(40)


class OpenedFile:
    """The file that a process has opened: it must stay at its path, and not become shorter.

    A connection goes on with a file that was removed or replaced, and what it writes is lost. So
    whoever is about to rely on the file looks first. The process shares one of these; what it once
    found holds for good, because nobody knows what became of the file meanwhile.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key: tuple[int, int] | None = None
        self._size = 0
        self._lost = ""

    def keep(self) -> None:
        """Take the file that is there for the one that was opened, unless one was before."""
        if self._key is None:
            status = self._path.stat()
            self._key, self._size = (status.st_dev, status.st_ino), 0

    def check(self, *, grows: bool = False) -> None:
        """Raise StoreReplaced if it is not the file that was opened.

        ``grows``: for the leader, under whom no process gives space back to the disk.
        """
        if not self._lost and self._key is not None:
            self._lost = self._look(grows)
        if self._lost:
            raise StoreReplaced(
                f"{self._path}: the file was {self._lost} while it was open: nothing that came "
                "after is recorded; see what happened to it, bring it back and start again"
            )

    def is_lost(self) -> bool:
        """Whether it is not the file that was opened."""
        try:
            self.check()
        except StoreReplaced:
            return True
        return False

    def _look(self, grows: bool) -> str:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return "removed"
        if (status.st_dev, status.st_ino) != self._key:
            return "replaced by another one"
        if status.st_size == 0 or (grows and status.st_size < self._size):
            return "cut short"
        if grows:
            self._size = status.st_size
        return ""


class Connection(sqlite3.Connection):
    """A connection that remembers the rows that it could not read."""

    left_out: set[UnreadableRow]


def connect(path: Path, options: str) -> Connection:
    """Open ``path`` with SQLite's URI ``options``; transactions are begun by hand."""
    db = sqlite3.connect(
        f"{path.as_uri()}?{options}",
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
        uri=True,
        factory=Connection,
    )
    db.left_out = set()
    db.text_factory = rows.as_text
    return db


def read(
    path: Path,
    question: Callable[[Connection], T],
    *,
    any_age: bool = False,
    left_out: set[UnreadableRow] | None = None,
) -> T:
    """Ask the database at ``path`` in one read transaction. Raises StoreError.

    ``any_age``: the question fits older formats too, so a database to be migrated is read as well.
    ``left_out`` gets the rows that cannot be read.
    """
    ask = partial(_ask, path, question=question, any_age=any_age, left_out=left_out)
    with explained(path):
        if not path.exists():
            raise StoreMissing(
                f"{path}: there is no such database: start a run to make it, or say where it is "
                "(HEADWAY_DATABASE)"
            )
        if not path.is_file():
            raise StoreError(f"{path}: is not a file: name a file in a folder of yours")
        before = _file_state(path)
        if before[0]:
            return ask("mode=ro")
        try:
            answer = ask("mode=ro&immutable=1")
        # A writer that begins during an immutable read makes the file look damaged or stale. So the
        # answer, or the error, counts only if the file is as it was before.
        except (sqlite3.Error, StoreError):
            if _file_state(path) == before:
                raise
        else:
            if _file_state(path) == before:
                return answer
        return ask("mode=ro")


def _file_state(path: Path) -> tuple[bool, int, int]:
    status = path.stat()
    return Path(f"{path}-wal").exists(), status.st_size, status.st_mtime_ns


def _ask(
    path: Path,
    options: str,
    question: Callable[[Connection], T],
    any_age: bool,
    left_out: set[UnreadableRow] | None,
) -> T:
    with closing(connect(path, options)) as db:
        db.execute("BEGIN")
        _check_version(path, db, any_age)
        try:
            answer = question(db)
        except _CannotBeRead as error:
            raise StoreCorrupt(f"{path}: {error}: `headway db repair` sets it aside") from error
        if left_out is not None:
            left_out |= db.left_out
        return answer


class _CannotBeRead(ValueError):
    """A row that was asked for, and that cannot be left out."""


def _check_version(path: Path, db: Connection, any_age: bool) -> None:
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


def probe(db: Connection) -> None:
    """Read the schema and the upper pages, to notice damage early."""
    db.execute(STATEMENTS["probe"]).fetchone()


def read_anchor(db: Connection) -> Anchor:
    """Return the anchor that was agreed on last; not valid if the machine was started since."""
    row = next(named(db.execute(STATEMENTS["anchor"])))
    return Anchor(boot=row.boot, offset=row.clock_offset)


def assert_epoch(db: Connection, path: Path, epoch: int) -> None:
    """Raise StoreTakenOver if another process has raised the epoch since ``epoch``."""
    (now,) = db.execute(STATEMENTS["epoch"]).fetchone()
    if now != epoch:
        raise taken_over(path)


def snapshot(db: Connection) -> Snapshot:
    """See ``Store.snapshot``."""
    buckets = tuple(_fetch(db, "buckets", "buckets"))
    live = _fetch(db, "live_calls", "calls", states=_listed(LIVE_CALLS))
    (next_seq,) = db.execute(STATEMENTS["next_seq"]).fetchone()
    changes = tuple(_fetch(db, "standing_changes", "changes"))
    return Snapshot(buckets, tuple(live), next_seq, changes, lessons(db))


def lessons(db: Connection) -> tuple[Lesson, ...]:
    """See ``Store.lessons``."""
    return tuple(_fetch(db, "lessons", "lessons"))


def changes(db: Connection, limit: int | None) -> Sequence[Change]:
    """See ``Store.changes``."""
    return _fetch(db, "changes", "changes", limit=limit)


def run(db: Connection, run_id: str) -> Run | None:
    """See ``Store.run``. Raises ValueError for a row that cannot be read."""
    found = _fetch(db, "runs_like", "runs", prefix=rows.as_bytes(run_id), limit=CANDIDATES + 1)
    if not found or found[0].id != run_id:
        for row in sorted(db.left_out):
            if row.id == run_id or (not found and row.id.startswith(run_id)):
                raise _CannotBeRead(str(row))
    return only_run(run_id, found)


def run_with_key(db: Connection, key: str) -> Run | None:
    """See ``Store.run_with_key``. Raises ValueError for a row that cannot be read."""
    found = _fetch(db, "run_with_key", "runs", must_be_whole=True, key=rows.as_bytes(key))
    return next(iter(found), None)


def runs(
    db: Connection,
    states: Collection[RunState],
    team: str | None,
    limit: int | None,
    urgent_first: bool,
) -> Sequence[Run]:
    """See ``Store.runs``."""
    if urgent_first:
        return _fetch(db, "urgent_runs", "runs", states=_listed(states or RunState), limit=limit)
    of_team = None if team is None else rows.as_bytes(team)
    if not states:
        return _fetch(db, "runs", "runs", team=of_team, limit=limit)
    return _fetch(db, "runs_in", "runs", states=_listed(states), team=of_team, limit=limit)


def calls(
    db: Connection, run_id: str | None, states: Collection[CallState], limit: int | None
) -> Sequence[CallRecord]:
    """See ``Store.calls``. Of a run all are given, or ValueError is raised.

    A run that went on without one of its answers would pay for it again.
    """
    listed = _listed(states)
    if run_id is not None:
        values = {"run_id": rows.as_bytes(run_id), "states": listed}
        return _fetch(db, "calls_of_run", "calls", must_be_whole=True, limit=limit, **values)
    name = "live_calls" if states and LIVE_CALLS.issuperset(states) else "calls"
    return _fetch(db, name, "calls", states=listed, limit=limit)


def tries(db: Connection, run_id: str | None, since: float, limit: int | None) -> Sequence[Try]:
    """See ``History.tries``."""
    if run_id is None:
        return _fetch(db, "tries", "tries", since=since, limit=limit)
    run = rows.as_bytes(run_id)
    return _fetch(db, "tries_of_run", "tries", run_id=run, since=since, limit=limit)


def waits(db: Connection, span: int, since: float) -> Sequence[WaitCount]:
    """See ``History.waits``."""
    return _fetch(db, "waits", "waits", span=span, since=since)


def crowds(db: Connection, since: float) -> Sequence[Crowd]:
    """See ``History.crowds``."""
    return _fetch(db, "crowds", "crowds", since=since)


def ended(db: Connection, since: float, most: int) -> Sequence[Ended]:
    """See ``History.ended``."""
    found = db.execute(STATEMENTS["ended"], {"since": since, "most": most})
    return [rows.ended(row) for row in named(found)]


def has_outdated(db: Connection, retention: Retention) -> bool:
    """See ``History.has_outdated``."""
    (answer,) = db.execute(STATEMENTS["has_outdated"], asdict(retention)).fetchone()
    return bool(answer)


def assigned(db: Connection) -> Sequence[Run]:
    """See ``Store.assigned``."""
    return _fetch(db, "assigned_runs", "runs")


def provider_batches(db: Connection) -> Sequence[ProviderBatch]:
    """See ``Store.provider_batches``."""
    return _fetch(db, "provider_batches", "provider_batches")


def batched_requests(db: Connection, batch_id: str | None) -> Sequence[BatchedRequest]:
    """See ``Store.batched_requests``."""
    return _fetch(db, "batched_requests", "batched_requests", batch_id=batch_id)


def gathered(db: Connection) -> Sequence[Gathered]:
    """See ``Store.gathered``."""
    return [rows.gathered(row) for row in named(db.execute(STATEMENTS["gathered"]))]


def batch_answers(db: Connection, run_id: str) -> dict[str, str]:
    """See ``Store.batch_answers``."""
    found = db.execute(STATEMENTS["batch_answers"], {"run_id": rows.as_bytes(run_id)})
    return {row.call_id: row.answer for row in named(found)}


def runs_to_wake(db: Connection) -> Sequence[Run]:
    """See ``Store.runs_to_wake``."""
    return _fetch(db, "runs_to_wake", "runs")


def unwanted_calls(db: Connection) -> Sequence[str]:
    """See ``Store.unwanted_calls``."""
    return [call_id for (call_id,) in db.execute(STATEMENTS["unwanted_calls"])]


def schedules(db: Connection) -> Sequence[ScheduleState]:
    """See ``Store.schedules``."""
    return _fetch(db, "schedules", "schedules")


def notices(db: Connection, limit: int | None) -> Sequence[Notice]:
    """See ``Store.notices``."""
    return _fetch(db, "notices", "notices", limit=limit)


def workers(db: Connection) -> Sequence[Worker]:
    """See ``Store.workers``."""
    return _fetch(db, "workers", "workers")


def is_listed(db: Connection, worker_id: str) -> bool:
    """Whether a worker has its row; the leader removes it if it takes the worker for dead."""
    (row,) = named(db.execute(STATEMENTS["is_listed"], {"worker": worker_id}))
    return bool(row.is_listed)


def spent(db: Connection, by: str, since: float) -> Sequence[Spent]:
    """See ``Store.spent``."""
    found = []
    for row in named(db.execute(STATEMENTS["spent"], {"by": by, "since": since})):
        try:
            found.append(rows.spent(row))
        except ValueError as error:
            db.left_out.add(UnreadableRow("call", f"of {row.key!r}", str(error)))
    return found


def prompt(db: Connection, request_hash: str) -> Sequence[str] | None:
    """See ``Store.prompt``."""
    found = db.execute(STATEMENTS["prompt"], {"hash": node_hash(request_hash)}).fetchall()
    if any(type(text) is not str for (text,) in found):
        raise _CannotBeRead(f"a text of prompt {request_hash} cannot be read")
    return [text for (text,) in reversed(found)] or None


def _listed(states: Iterable[CallState | RunState]) -> str:
    return json.dumps([state.value for state in states])


def _fetch(
    db: Connection,
    name: str,
    table: str,
    *,
    must_be_whole: bool = False,
    limit: int | None = None,
    **values: object,
) -> list[Any]:
    """Run a statement for rows of a table; leave out what cannot be read, or raise ValueError."""
    asked = limit
    while True:
        cursor = db.execute(STATEMENTS[name], {**values, "limit": asked})
        found, left_out = split(named(cursor), table)
        db.left_out |= set(left_out)
        if must_be_whole and left_out:
            raise _CannotBeRead(str(left_out[0]))
        missing = 0 if limit is None else limit - len(found)
        if not missing or not left_out or len(found) + len(left_out) < (asked or 0):
            return found
        # Others take the places of rows that cannot be read, or those would hide them for good.
        asked = (asked or 0) + missing


def split(found: Iterable[Any], table: str) -> tuple[list[Any], list[UnreadableRow]]:
    """Convert rows of a table; return those that can be read, and the others."""
    kind, key, convert = rows.READERS[table]
    good: list[Any] = []
    bad: list[UnreadableRow] = []
    for row in found:
        try:
            good.append(convert(row))
        except Exception as error:  # of whatever kind: the value may be anything
            words = str(error) or type(error).__name__
            bad.append(UnreadableRow(kind, rows.id_of(row, key), words[:200]))
    return good, bad
