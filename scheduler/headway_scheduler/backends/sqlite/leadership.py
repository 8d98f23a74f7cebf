"""Elects one leader per database: the holder of the lock file beside it, fenced by the epoch.

Theory of operation. The lock makes a change of leader fast: the lock of a killed leader is free at
once, that of a silent leader may be taken after 1.5 s. The epoch makes it safe: each process that
opens the database to write raises it, and every commit asserts it, so a leader that was stopped and
wakes up writes nothing.
"""

from pathlib import Path
from typing import Self

import anyio
from anyio import to_thread

from ...ports import Holder, Vacancy
from .lock_file import LeaseMonitor, holder_of
from .reads import OpenedFile, own_threads
from .store import SqliteStore

SILENT_SECONDS = 1.5
"""How long a leader shows no life until another process may lead: six heartbeats."""

VACANCY_SECONDS = 0.08
"""How often a process that waits looks whether anybody leads."""


class SqliteLeadership:
    """Watches the leader of the database at ``path``, and campaigns. Of one watcher."""

    leads_beside = False

    def __init__(self, path: Path, file: OpenedFile | None = None) -> None:
        self._path = path
        self._threads = own_threads()
        self._file = file
        self._monitor = LeaseMonitor(path, SILENT_SECONDS)

    def look(self) -> Vacancy | None:
        """Look once. Return None if a process that is alive leads."""
        return self._monitor.look()

    async def vacant(self) -> Vacancy:
        """Look until nobody alive leads."""
        while (vacancy := self.look()) is None:  # noqa: ASYNC110 (a lock has no event)
            await anyio.sleep(VACANCY_SECONDS)
        return vacancy

    async def campaign(self, candidate: str, vacancy: Vacancy | None = None) -> "SqliteTerm":
        """Lead as ``candidate``. Raises StoreBusy if somebody else leads, or another StoreError."""
        # Opened here, not in the term: a caller that lost the race must learn it from campaign().
        store = SqliteStore(self._path, candidate=candidate, vacancy=vacancy, file=self._file)
        await store.__aenter__()
        return SqliteTerm(store)

    async def holder(self) -> Holder | None:
        """Return the leader, alive or silent; None if nobody leads."""
        return await to_thread.run_sync(holder_of, self._path, limiter=self._threads)


class SqliteTerm:
    """The time for which this process leads. Its store is open from the campaign on."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.epoch = store.epoch
        self.lost_starts = store.lost_starts

    async def __aenter__(self) -> Self:
        """Lead."""
        return self

    def show_life(self) -> None:
        """Say that the loop that admits turns. Raises StoreTakenOver if another process leads."""
        self.store.show_life()

    async def __aexit__(self, *_: object) -> None:
        """Close the store, and give the lock back."""
        await self.store.__aexit__()
