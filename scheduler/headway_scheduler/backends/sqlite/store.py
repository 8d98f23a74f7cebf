"""Stores the journal in one SQLite file. Linux and macOS: the lock beside the file is ``flock``.

Theory of operation. One connection writes, on aiosqlite's thread: each commit is one hop to that
thread and one synced transaction. Readers open the file anew for each question (see ``reads``).
"""

import logging
import os
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

import aiosqlite
import anyio
from anyio import to_thread

from ...errors import StoreCorrupt, StoreError, StoreReadOnly
from ...model.batch import NOTHING, Batch, Lesson, Snapshot
from ...model.batches import BatchedRequest, Gathered, ProviderBatch
from ...model.calls import CallRecord, Spent
from ...model.changes import Change
from ...model.history import Crowd, Ended, Retention, Try, WaitCount
from ...model.notices import Notice
from ...model.runs import Run, Worker
from ...model.schedules import ScheduleState
from ...model.states import CallState, RunState
from ...ports import Clock, UnreadableRow, Vacancy
from . import reads
from .boot_clock import new_anchor
from .errors import explained, taken_over
from .network import refuse_network
from .opening import Writer, begin, open_writer
from .reads import Connection, OpenedFile, own_threads
from .rows import Work, with_bytes, work_of
from .sql import without_nulls

T = TypeVar("T")

_log = logging.getLogger("headway")


class SqliteStore:
    """The journal in the file at ``path``; made, with its folder, if it is missing.

    ``read_only`` takes no lock and writes nothing: any number of processes may read while one
    process, named ``candidate``, writes. ``vacancy``: take the lock even from the silent process
    that this vacancy is about. Once another process has taken the lock, every commit of this one
    raises StoreTakenOver.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        read_only: bool = False,
        candidate: str = "",
        vacancy: Vacancy | None = None,
        file: OpenedFile | None = None,
    ) -> None:
        # Resolved: two names of one file must not have two locks.
        self.path = Path(path).resolve()
        self.read_only = read_only
        self._threads = own_threads()
        self._file = OpenedFile(self.path) if file is None else file
        self.clock: Clock = new_anchor().now
        """The time that all processes on the database share; wall time until this is open."""
        self.unreadable: set[UnreadableRow] = set()
        """The rows that were left out of answers so far."""
        self._candidate, self._vacancy = candidate, vacancy
        self._opened: Writer
        self._writer: aiosqlite.Connection | None = None

    async def __aenter__(self) -> Self:
        """Open, and migrate if needed. Raises StoreError; nothing was changed then."""
        if self.read_only:
            await to_thread.run_sync(refuse_network, self.path, limiter=self._threads)
            await self._read(reads.probe)
            await to_thread.run_sync(self._keep_file, limiter=self._threads)
            # A damaged table of the clock must not keep the rest from being read.
            with suppress(StoreCorrupt):
                anchor = await self._read(reads.read_anchor)
                self.clock = anchor.now if anchor.is_valid else self.clock
            return self
        # Shielded: a cancellation between the lock and this assignment would leave a lock, and its
        # thread, that nobody releases.
        with anyio.CancelScope(shield=True):
            self._opened = await to_thread.run_sync(self._open, limiter=self._threads)
            self.clock = self._opened.anchor.now
            # Opened before: a failed start of aiosqlite leaves its thread to end by itself.
            self._writer = await aiosqlite.Connection(lambda: self._opened.connection, 64)
        return self

    def _open(self) -> Writer:
        # Before anything is made: in the place of a file that is gone, no new one may appear.
        self._file.check()
        opened = open_writer(self.path, self._candidate, self._vacancy)
        try:
            self._keep_file()
        except BaseException:
            opened.connection.close()
            opened.lock.release()
            raise
        return opened

    def _keep_file(self) -> None:
        with explained(self.path):
            self._file.keep()
            self._file.check()

    async def __aexit__(self, *_: object) -> None:
        """Close. What was committed stays."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        self._opened.lock.leave()
        with anyio.CancelScope(shield=True):
            try:
                # Closed first: the next holder of the lock finds no other writer on the file. A
                # crash in between frees the lock by itself.
                await writer.close()
            finally:
                await to_thread.run_sync(self._opened.lock.release, limiter=self._threads)

    def show_life(self) -> None:
        """Show life as the leader. Raises StoreTakenOver if another process took the lock."""
        if self._opened.lock.show_life():
            raise taken_over(self.path)

    @property
    def epoch(self) -> int:
        """The epoch of this leader; every commit asserts that it is still the current one."""
        return self._opened.epoch

    @property
    def lost_starts(self) -> int:
        """How many starts of leaders in a row, before this one, never came to their end."""
        return self._opened.lost_starts

    async def commit(self, batch: Batch) -> None:
        """Write all of ``batch`` and sync it, or raise StoreError or KeyTaken and write nothing.

        A cancellation waits for the end: the caller always knows whether the batch was written.
        """
        if self.read_only:
            raise StoreReadOnly(f"{self.path}: was opened to be read only")
        if self._writer is None:
            raise StoreError(f"{self.path}: the store is not open")
        if batch == NOTHING:
            return
        # Rows are made here, on the loop: the core may change its records while the thread writes.
        work = work_of(batch)
        with anyio.CancelScope(shield=True):
            # Private, but the same in all versions that we allow: aiosqlite's public methods cost
            # one hop to the thread for each statement, ten times the work of a small commit.
            await self._writer._execute(_write, self._opened, self._file, work)  # type: ignore[no-untyped-call]

    async def snapshot(self) -> Snapshot:
        """Load the buckets and every call that has not ended, by arrival."""
        return await self._read(reads.snapshot)

    async def run(self, run_id: str) -> Run | None:
        """The run with this id, or the only one whose id starts with it.

        Raises RunNotFound if several do.
        """
        return await self._read(partial(reads.run, run_id=run_id))

    async def run_with_key(self, key: str) -> Run | None:
        """The run that was submitted under this idempotency key."""
        return await self._read(partial(reads.run_with_key, key=key))

    async def runs(
        self,
        states: Collection[RunState] = (),
        *,
        team: str | None = None,
        limit: int | None = None,
        urgent_first: bool = False,
    ) -> Sequence[Run]:
        """Runs in any of ``states`` (all, if empty), newest first or the most urgent first."""
        return await self._read(
            partial(reads.runs, states=states, team=team, limit=limit, urgent_first=urgent_first)
        )

    async def assigned(self) -> Sequence[Run]:
        """Runs that a worker executes, or is about to."""
        return await self._read(reads.assigned)

    async def workers(self) -> Sequence[Worker]:
        """Return the processes that execute runs, the oldest first."""
        return await self._read(reads.workers)

    async def schedules(self) -> Sequence[ScheduleState]:
        """Return every schedule, by name."""
        return await self._read(reads.schedules)

    async def notices(self, *, limit: int | None = None) -> Sequence[Notice]:
        """Return what is to be told to the world outside, oldest first."""
        return await self._read(partial(reads.notices, limit=limit))

    async def lessons(self) -> Sequence[Lesson]:
        """Return every lesson, by kind and subject."""
        return await self._read(reads.lessons)

    async def changes(self, *, limit: int | None = None) -> Sequence[Change]:
        """Return what operators changed, newest first."""
        return await self._read(partial(reads.changes, limit=limit))

    async def calls(
        self,
        run_id: str | None = None,
        states: Collection[CallState] = (),
        *,
        limit: int | None = None,
    ) -> Sequence[CallRecord]:
        """Calls of a run (of all, if None) in any of ``states`` (all, if empty), by arrival."""
        return await self._read(partial(reads.calls, run_id=run_id, states=states, limit=limit))

    async def spent(self, by: str, since: float) -> Sequence[Spent]:
        """What calls took that came at ``since`` or later, by model, team, workflow, run or day."""
        return await self._read(partial(reads.spent, by=by, since=since))

    async def prompt(self, request_hash: str) -> Sequence[str] | None:
        """The texts of a recorded request, in order; None if it is not recorded."""
        return await self._read(partial(reads.prompt, request_hash=request_hash))

    async def provider_batches(self) -> Sequence[ProviderBatch]:
        """Batches of the provider that have not ended, oldest first."""
        return await self._read(reads.provider_batches)

    async def batched_requests(self, batch_id: str | None) -> Sequence[BatchedRequest]:
        """The requests of a batch; with None, those that are in none."""
        return await self._read(partial(reads.batched_requests, batch_id=batch_id))

    async def gathered(self) -> Sequence[Gathered]:
        """How many requests are in no batch, by model and endpoint."""
        return await self._read(reads.gathered)

    async def batch_answers(self, run_id: str) -> Mapping[str, str]:
        """The provider's responses to the batched calls of a run, by call."""
        return await self._read(partial(reads.batch_answers, run_id=run_id))

    async def runs_to_wake(self) -> Sequence[Run]:
        """Runs that wait for a call by batch which is answered, or which left its batch."""
        return await self._read(reads.runs_to_wake)

    async def unwanted_calls(self) -> Sequence[str]:
        """Batched calls of runs that have ended for good."""
        return await self._read(reads.unwanted_calls)

    # History: each question opens the file anew, so the store need not be open

    async def tries(
        self, *, run_id: str | None = None, since: float = 0.0, limit: int | None = None
    ) -> Sequence[Try]:
        """Attempts without an answer that ended at ``since`` or later, newest first."""
        return await self._read(partial(reads.tries, run_id=run_id, since=since, limit=limit))

    async def waits(self, span: int, since: float) -> Sequence[WaitCount]:
        """Counts of waits by spans that began at ``since`` or later."""
        return await self._read(partial(reads.waits, span=span, since=since))

    async def crowds(self, since: float) -> Sequence[Crowd]:
        """Crowds of minutes that began at ``since`` or later."""
        return await self._read(partial(reads.crowds, since=since))

    async def ended(self, since: float, *, most: int) -> Sequence[Ended]:
        """Of the ``most`` last calls, those that ended at ``since`` or later, by their quotas."""
        return await self._read(partial(reads.ended, since=since, most=most))

    async def has_outdated(self, retention: Retention) -> bool:
        """Whether there is history to prune."""
        return await self._read(partial(reads.has_outdated, retention=retention))

    async def _read(self, question: Callable[[Connection], T]) -> T:
        left_out: set[UnreadableRow] = set()
        answer = await to_thread.run_sync(self._answer, question, left_out, limiter=self._threads)
        if new := left_out - self.unreadable:
            self.unreadable |= new
            if not self.read_only:  # the leader says it once; commands that read show it
                for row in sorted(new):
                    _log.warning("%s: %s: left out; see `headway db check`", self.path, row)
        return answer

    def _answer(self, question: Callable[[Connection], T], left_out: set[UnreadableRow]) -> T:
        self._file.check()
        answer = reads.read(self.path, question, left_out=left_out)
        self._file.check()  # it may have been another file's
        return answer


def _write(writer: Writer, file: OpenedFile, work: Work) -> None:
    with explained(writer.path):
        try:
            _transact(writer, file, work)
        except UnicodeEncodeError:
            # A lone surrogate. Rare, so only then is every text handed over as bytes.
            _transact(writer, file, [(name, with_bytes(rows), exact) for name, rows, exact in work])
        # Once more: nobody may be told of what went to a file that was taken away meanwhile.
        file.check(grows=True)


def _transact(writer: Writer, file: OpenedFile, work: Work) -> None:
    db = writer.connection
    begin(db, writer.path)
    try:
        # What is written to the log of a file that was replaced would be read as the other's.
        file.check(grows=True)
        # Inside the transaction: SQLite's write lock is held, so no other leader can raise the
        # epoch between this check and COMMIT.
        reads.assert_epoch(db, writer.path, writer.epoch)
        for name, rows, is_exact in work:
            for statement, group in without_nulls(name, rows):
                if db.executemany(statement, group).rowcount != len(group) and is_exact:
                    raise sqlite3.IntegrityError("a call that changed was never written")
        db.execute("COMMIT")
    except BaseException:
        # SQLite may have rolled back by itself, as it does when the disk is full.
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
