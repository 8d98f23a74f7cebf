"""Database engines for the suites of the ports: what every backend does is tested on each."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import pytest

from headway_scheduler.backends.memory.backend import MemoryBackend, MemoryPresence, MemoryTerm
from headway_scheduler.backends.sqlite import leadership, opening, worker_files
from headway_scheduler.backends.sqlite.backend import SqliteBackend
from headway_scheduler.backends.sqlite.leadership import SqliteTerm
from headway_scheduler.backends.sqlite.lock_file import FileLock
from headway_scheduler.backends.sqlite.worker_files import WorkerFile
from headway_scheduler.model.batch import Letter
from headway_scheduler.ports import Backend, Presence, Term


class Engine(Protocol):
    """A database of some engine, and what may befall those who use it."""

    def process(self) -> Backend:
        """The database as another process has it."""

    def stop(self, life: Term | Presence) -> None:
        """Have it show no life from here on, as a process that is stopped."""

    def wake(self, life: Term | Presence) -> None:
        """Have it show life once more."""

    def kill(self, presence: Presence) -> None:
        """End it as ``kill -9`` would. It must not be left then."""

    def appear(self, request: Letter) -> None:
        """Have a request appear under this id, as where ids are handed out before a commit."""


class Memory:
    """The engine in memory: all processes share one backend object."""

    def __init__(self) -> None:
        self.backend = MemoryBackend()

    def process(self) -> Backend:
        return self.backend

    def stop(self, life: Term | Presence) -> None:
        assert isinstance(life, MemoryTerm | MemoryPresence)
        life.fall_silent()

    def wake(self, life: Term | Presence) -> None:
        assert isinstance(life, MemoryTerm)
        life.is_silent = False

    def kill(self, presence: Presence) -> None:
        present = self.backend.present
        (worker_id,) = [key for key, each in present.items() if each is presence]
        del present[worker_id]

    def appear(self, request: Letter) -> None:
        self.backend.tables.inbox[request.id] = request


class Sqlite:
    """A file. Those who use it are dead sooner than outside of tests."""

    def __init__(self, path: Path, patch: pytest.MonkeyPatch) -> None:
        self.path = path
        patch.setattr(leadership, "SILENT_SECONDS", 0.3)
        patch.setattr(leadership, "VACANCY_SECONDS", 0.01)
        patch.setattr(opening, "HEARTBEAT_SECONDS", 0.02)
        patch.setattr(worker_files, "SILENT_SECONDS", 0.3)
        patch.setattr(worker_files, "HEARTBEAT_SECONDS", 0.02)

    def process(self) -> Backend:
        return SqliteBackend(self.path)

    def stop(self, life: Term | Presence) -> None:
        lock = _lock_of(life)
        lock._end.set()
        lock._heartbeat_thread.join()

    def wake(self, life: Term | Presence) -> None:
        _lock_of(life).touch()

    def kill(self, presence: Presence) -> None:
        self.stop(presence)
        os.close(_lock_of(presence)._file)

    def appear(self, request: Letter) -> None:
        with closing(sqlite3.connect(self.path)) as db, db:
            row = (request.id, request.sender, request.event)
            db.execute("INSERT INTO inbox (id, sender, event) VALUES (?, ?, ?)", row)


def _lock_of(life: Term | Presence) -> FileLock:
    if isinstance(life, SqliteTerm):
        return life.store._opened.lock
    assert isinstance(life, WorkerFile)
    return life._lock


class Deaf:
    """An engine whose notifiers lose every ring."""

    def __init__(self, engine: Engine, patch: pytest.MonkeyPatch) -> None:
        self._engine = engine
        patch.setattr(MemoryBackend, "ring", lambda *_: None)
        patch.setattr("headway_scheduler.backends.sqlite.mailbox.ring", lambda *_: None)
        patch.setattr("headway_scheduler.backends.sqlite.notifier.ring", lambda *_: None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


Make = Callable[[Path, pytest.MonkeyPatch], Engine]
ENGINES: dict[str, Make] = {
    "memory": lambda folder, patch: Memory(),
    "sqlite": lambda folder, patch: Sqlite(folder / "headway.db", patch),
}
DEAF: dict[str, Make] = {
    "memory, rings lost": lambda folder, patch: Deaf(ENGINES["memory"](folder, patch), patch),
    "sqlite, rings lost": lambda folder, patch: Deaf(ENGINES["sqlite"](folder, patch), patch),
}
