"""Knows which workers are alive: each holds a lock file of its own beside the database.

Theory of operation. A worker that has ended has freed its lock. A stopped worker does not touch its
file, and counts as dead after 10 s: then its runs begin anew in other workers. A worker learns that
it was taken for dead from its row in ``workers``, which the leader removes in the commit that takes
its runs away. So a heartbeat is two things: a touch, for the others, and a look at the row, for
itself.
"""

import threading
import time
from collections.abc import Collection
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Self

import anyio
from anyio import to_thread

from ...errors import StoreError, StoreTakenOver
from ...protocol.envelopes import WORKER
from . import reads
from .errors import explained
from .lock_file import FileLock, LeaseMonitor, holder_of, silent_seconds
from .notifier import pipe_of
from .reads import own_threads

HEARTBEAT_SECONDS = 1.0
"""How often a worker touches its file and looks at its row."""
SILENT_SECONDS = 10.0
"""How long a worker shows no life until it counts as dead: its runs begin anew in other workers,
and its calls in flight are lost."""


class WorkerFiles:
    """Watches the workers on the database at ``path``. Of one watcher."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads = own_threads()
        self._monitors: dict[str, LeaseMonitor] = {}

    def present(self, worker_id: str) -> "WorkerFile":
        """Return the presence of this worker, to be entered."""
        return WorkerFile(self._path, worker_id)

    async def expired(self, worker_ids: Collection[str]) -> frozenset[str]:
        """Return which of these workers are dead. Ask at least every 0.2 s: silence is counted."""
        return await to_thread.run_sync(self._expired, tuple(worker_ids), limiter=self._threads)

    def _expired(self, worker_ids: Collection[str]) -> frozenset[str]:
        before = self._monitors
        self._monitors = {each: before.get(each) or self._monitor(each) for each in worker_ids}
        return frozenset(
            worker for worker, monitor in self._monitors.items() if monitor.look() is not None
        )

    def _monitor(self, worker_id: str) -> LeaseMonitor:
        return LeaseMonitor(_file_of(self._path, worker_id), SILENT_SECONDS)

    async def silent_seconds(self, worker_id: str) -> float | None:
        """Return how many seconds ago a worker touched its file; None if it has none."""
        return await to_thread.run_sync(
            silent_seconds, _file_of(self._path, worker_id), limiter=self._threads
        )

    async def tidy(self, keep: Collection[str]) -> None:
        """Remove the lock files and pipes of killed workers."""
        await to_thread.run_sync(self._tidy, keep, limiter=self._threads)

    def _tidy(self, keep: Collection[str]) -> None:
        for lock in self._path.parent.glob(f"{self._path.name}.{WORKER}*.lock"):
            worker = lock.name.removeprefix(f"{self._path.name}.").removesuffix(".lock")
            # A worker that has not joined yet is in no list to keep, but it holds its lock.
            if worker not in keep and holder_of(_file_of(self._path, worker)) is None:
                lock.unlink(missing_ok=True)
                pipe_of(self._path, worker).unlink(missing_ok=True)


class WorkerFile:
    """This worker's lock file, touched every second while it is open."""

    def __init__(self, path: Path, worker_id: str) -> None:
        self.contact_at = time.monotonic()
        self._path = path
        self._worker_id = worker_id
        self._threads = own_threads()
        self._contact_lock = threading.Lock()
        self._lock: FileLock

    async def __aenter__(self) -> Self:
        """Hold the lock file. Raises StoreBusy or another StoreError."""
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(self._open, limiter=self._threads)
        return self

    def _open(self) -> None:
        self.contact_at = time.monotonic()
        with explained(self._path):
            self._lock = FileLock(
                _file_of(self._path, self._worker_id),
                self._worker_id,
                heartbeat_seconds=HEARTBEAT_SECONDS,
                heartbeat=self._heartbeat,
            )

    async def __aexit__(self, *_: object) -> None:
        """Give the lock back."""
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(self._lock.release, limiter=self._threads)

    async def confirm(self) -> None:
        """Touch the file, and look at the row. Raises StoreTakenOver if there is none."""
        is_listed = await to_thread.run_sync(self._confirmed, limiter=self._threads)
        if not is_listed:
            raise StoreTakenOver(f"{self._path}: others took worker {self._worker_id} for dead")

    def _confirmed(self) -> bool:
        with explained(self._path):
            self._lock.touch()
        return self._is_listed()

    def _heartbeat(self) -> None:
        with suppress(StoreError):  # no contact then, and the next heartbeat may have it again
            self._is_listed()

    def _is_listed(self) -> bool:
        # The time before the read: this process may be stopped between these lines until others
        # have taken its runs. When it goes on, the old answer must not count as a new contact.
        began = time.monotonic()
        is_listed = reads.read(self._path, partial(reads.is_listed, worker_id=self._worker_id))
        # confirm() and the heartbeat's thread may end in any order: keep the later beginning.
        with self._contact_lock:
            if is_listed:
                self.contact_at = max(self.contact_at, began)
        return is_listed


def _file_of(path: Path, worker_id: str) -> Path:
    """Return the path beside the database that a worker's lock file is named after."""
    return Path(f"{path}.{worker_id}")
