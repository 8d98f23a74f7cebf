"""A backend in memory, for tests and simulations: its processes are tasks of one process.

Law: it behaves as the SQLite backend does, and nothing outlives the process. Terms and presences
have ``fall_silent``, because a task cannot be stopped as a process can.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Self

import anyio
from anyio.lowlevel import checkpoint

from ...errors import StoreBusy, StoreError, StoreTakenOver
from ...model.batch import Letter
from ...ports import (
    LEADER,
    READ_AT_ONCE,
    Finding,
    History,
    Holder,
    Leadership,
    Mailbox,
    Maintenance,
    Notifier,
    Report,
    Store,
    UnreadableRow,
    Vacancy,
    WorkerRegistry,
    unheard,
)
from .history import MemoryHistory
from .store import MemoryStore, Tables

POLL_SECONDS = 0.25
"""How often an owner looks without a ring: the delay that a lost ring costs at most."""


class MemoryBackend:
    """A database in memory. Its processes are tasks that share this object."""

    def __init__(self, name: str = "memory") -> None:
        self.name = name
        self.tables = Tables()
        self.term: MemoryTerm | None = None
        self.present: dict[str, MemoryPresence] = {}
        self.listeners: dict[str, MemoryNotifier] = {}

    def reader(self) -> Store:
        """Return the journal for reading."""
        return MemoryStore(self.tables, name=self.name, read_only=True)

    def history(self) -> History:
        """Return what is asked about the past."""
        return MemoryHistory(self.tables.history, lambda: self.tables.calls.values())

    def leadership(self) -> Leadership:
        """Return the port to lead, or to watch who leads."""
        return MemoryLeadership(self)

    def workers(self) -> WorkerRegistry:
        """Return the port that tells which workers are alive."""
        return MemoryWorkers(self)

    def mailbox(self, epoch: int | None = None) -> Mailbox:
        """Return the mailbox; with ``epoch``, each read asserts that it still is the leader's."""
        return MemoryMailbox(self, epoch)

    def notifier(self, owner: str) -> Notifier:
        """Return the notifier on which ``owner`` waits."""
        return MemoryNotifier(self, owner)

    def maintenance(self) -> Maintenance:
        """Return the maintenance of this database."""
        return MemoryMaintenance(self)

    def ring(self, owner: str) -> None:
        """Wake up whoever listens for ``owner``."""
        if (listener := self.listeners.get(owner)) is not None:
            listener.wake()


@dataclass(frozen=True, slots=True)
class _Silence(Vacancy):
    """A vacancy whose leader, of this epoch, is silent: only its term may be taken over."""

    epoch: int


class MemoryLeadership:
    """The leader is the candidate whose term has begun and not ended."""

    leads_beside = False

    def __init__(self, backend: MemoryBackend) -> None:
        self._backend = backend

    def look(self) -> Vacancy | None:
        """Look once. Returns None if somebody alive leads."""
        term = self._backend.term
        if term is None:
            return Vacancy()
        return _Silence(term.epoch) if term.is_silent else None

    async def vacant(self) -> Vacancy:
        """Return once nobody alive leads. Looks every 0.25 s."""
        while (vacancy := self.look()) is None:  # noqa: ASYNC110 (as other processes would)
            await anyio.sleep(POLL_SECONDS)
        return vacancy

    async def campaign(self, candidate: str, vacancy: Vacancy | None = None) -> "MemoryTerm":
        """Lead as ``candidate``. Raises StoreBusy if somebody else leads."""
        backend, term = self._backend, self._backend.term
        if term is not None and not (term.is_silent and vacancy == _Silence(term.epoch)):
            raise StoreBusy(f"{backend.name}: is in use by worker {term.candidate}")
        backend.tables.epoch += 1
        backend.tables.starts += 1
        backend.term = MemoryTerm(backend, candidate, backend.tables.epoch)
        return backend.term

    async def holder(self) -> Holder | None:
        """Return the leader, alive or silent; None if nobody leads."""
        term = self._backend.term
        return None if term is None else Holder(term.candidate, f"worker {term.candidate}")


class MemoryTerm:
    """The time for which a candidate leads."""

    def __init__(self, backend: MemoryBackend, candidate: str, epoch: int) -> None:
        self.candidate = candidate
        self.epoch = epoch
        self.lost_starts = backend.tables.starts - 1
        self.store: Store = MemoryStore(backend.tables, name=backend.name, epoch=epoch)
        self.is_silent = False
        self._backend = backend

    def fall_silent(self) -> None:
        """Show no life from here on, as if stopped."""
        self.is_silent = True

    def show_life(self) -> None:
        """Say that the loop that admits turns. Raises StoreTakenOver if somebody else leads."""
        if self._backend.term is not self:
            raise StoreTakenOver(f"{self._backend.name}: another process took over")

    async def __aenter__(self) -> Self:
        """Lead."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Give the leadership back, unless somebody has taken it."""
        if self._backend.term is self:
            self._backend.term = None


class MemoryWorkers:
    """The workers whose presence is open."""

    def __init__(self, backend: MemoryBackend) -> None:
        self._backend = backend

    def present(self, worker_id: str) -> "MemoryPresence":
        """Return the presence of this worker, which is not open yet."""
        return MemoryPresence(self._backend, worker_id)

    async def expired(self, worker_ids: Collection[str]) -> frozenset[str]:
        """Return those of these workers that are gone or silent."""
        alive = {key for key, each in self._backend.present.items() if not each.is_silent}
        return frozenset(worker_ids) - alive

    async def silent_seconds(self, worker_id: str) -> float | None:
        """Return the seconds since a worker's last heartbeat; None if the worker is gone."""
        presence = self._backend.present.get(worker_id)
        return None if presence is None else presence.silent_seconds()

    async def tidy(self, keep: Collection[str]) -> None:
        """Do nothing: a worker that is gone leaves nothing behind."""


class MemoryPresence:
    """The presence of a worker: a heartbeat happens whenever somebody asks for the last one."""

    def __init__(self, backend: MemoryBackend, worker_id: str) -> None:
        self._backend = backend
        self._worker_id = worker_id
        self._contact_at = time.monotonic()
        self._silent_since: float | None = None

    @property
    def is_silent(self) -> bool:
        """Whether :meth:`fall_silent` stopped the heartbeats."""
        return self._silent_since is not None

    @property
    def contact_at(self) -> float:
        """When the last heartbeat began that found the worker listed, by the monotonic clock."""
        if not self.is_silent and self._is_listed():
            self._contact_at = time.monotonic()
        return self._contact_at

    @contact_at.setter
    def contact_at(self, at: float) -> None:
        self._contact_at = at

    def fall_silent(self) -> None:
        """Show no life from here on, as if stopped."""
        self._silent_since = time.monotonic()

    def silent_seconds(self) -> float:
        """Return the seconds since the last heartbeat."""
        return 0.0 if self._silent_since is None else time.monotonic() - self._silent_since

    async def confirm(self) -> None:
        """Do one heartbeat now. Raises StoreTakenOver if others took the worker for dead."""
        began = time.monotonic()
        await checkpoint()
        if not self._is_listed():
            raise StoreTakenOver(f"{self._backend.name}: others took {self._worker_id} for dead")
        self._contact_at, self._silent_since = began, None

    async def __aenter__(self) -> Self:
        """Begin to be present. Raises StoreBusy if another worker has this id."""
        if self._worker_id in self._backend.present:
            raise StoreBusy(f"{self._backend.name}: worker {self._worker_id} is there already")
        self._backend.present[self._worker_id] = self
        self._contact_at = time.monotonic()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop being present."""
        if self._backend.present.get(self._worker_id) is self:
            del self._backend.present[self._worker_id]

    def _is_listed(self) -> bool:
        return self._worker_id in self._backend.tables.workers


class MemoryMailbox:
    """Requests to the leader and notifications to workers, in the shared tables."""

    def __init__(self, backend: MemoryBackend, epoch: int | None) -> None:
        self._backend = backend
        self._tables = backend.tables
        self._epoch = epoch

    async def connect(self) -> None:
        """Do nothing: there is nothing to open."""

    async def post(self, sender: str, text: str, *, durable: bool = False) -> int:
        """Append a request and return its id. Here ``durable`` means nothing: no row outlives the
        process.
        """
        await checkpoint()
        request_id = self._tables.next_id()
        self._tables.inbox[request_id] = Letter(request_id, sender, text)
        self._backend.ring(LEADER)
        return request_id

    async def waiting(
        self, in_hand: Collection[int], limit: int = READ_AT_ONCE
    ) -> Sequence[Letter]:
        """Return requests that have no answer and are not in hand, oldest first.

        Raises StoreTakenOver if another process leads since.
        """
        await checkpoint()
        self._tables.assert_epoch(self._epoch, self._backend.name)
        inbox = self._tables.inbox
        return [inbox[each] for each in sorted(inbox) if each not in in_hand][:limit]

    async def answer(self, request_id: int) -> str | None:
        """Return the answer to a request; None as long as there is none.

        Raises StoreError if the answer was deleted: the last 1,000 are kept.
        """
        await checkpoint()
        if request_id in self._tables.inbox:
            return None
        if request_id not in self._tables.answers:
            raise StoreError(
                f"{self._backend.name}: the answer was given, and is kept no longer: see what "
                "became of it"
            )
        return self._tables.answers[request_id]

    async def is_waiting(self, request_id: int) -> bool:
        """Whether no leader has taken a request yet."""
        await checkpoint()
        return request_id in self._tables.inbox

    async def notifications(self, worker_id: str, after: int) -> Sequence[tuple[int, str]]:
        """Return the (id, text) of a worker's notifications whose id is above ``after``."""
        await checkpoint()
        told = self._tables.outbox.items()
        return [(n, each.text) for n, each in told if each.worker == worker_id and n > after]

    async def close(self) -> None:
        """Do nothing."""


class MemoryNotifier:
    """The notifier of one owner."""

    def __init__(self, backend: MemoryBackend, owner: str) -> None:
        self._backend = backend
        self._owner = owner
        self._come = anyio.Event()

    async def __aenter__(self) -> Self:
        """Begin to listen; an earlier listener of this owner hears no more rings."""
        self._backend.listeners[self._owner] = self
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop listening."""
        if self._backend.listeners.get(self._owner) is self:
            del self._backend.listeners[self._owner]

    async def wait(self) -> None:
        """Return at the next ring, after 0.25 s at the latest."""
        with anyio.move_on_after(POLL_SECONDS):
            await self._come.wait()
        self._come = anyio.Event()

    def ring(self, owner: str) -> None:
        """Hint that something was written for ``owner``."""
        self._backend.ring(owner)

    def wake(self) -> None:
        """Have :meth:`wait` return."""
        self._come.set()


class MemoryMaintenance:
    """The maintenance of a database that needs none: it is always sound and never on a disk."""

    def __init__(self, backend: MemoryBackend) -> None:
        self._backend = backend

    async def problems(self) -> Sequence[str]:
        """Return no problem: rows in memory are always readable."""
        return ()

    async def repair(self) -> Sequence[UnreadableRow]:
        """Set no row aside. Raises StoreBusy while somebody leads, as every backend does."""
        async with await self._backend.leadership().campaign("maintenance"):
            return ()

    async def set_aside(self) -> Sequence[UnreadableRow]:
        """Return the requests that were set aside, oldest first."""
        return tuple(self._backend.tables.set_aside)

    async def back_up(self, to: str, report: Report = unheard) -> int:
        """Raise StoreError: there is no file to copy."""
        raise StoreError(f"{self._backend.name}: is in memory, and cannot be copied to {to}")

    async def compact(self) -> int:
        """Return 0: no byte was freed. Raises StoreBusy while somebody leads."""
        async with await self._backend.leadership().campaign("maintenance"):
            return 0

    async def migrate(self) -> Sequence[str]:
        """Apply no migration: there is one format. Raises StoreBusy while somebody leads."""
        async with await self._backend.leadership().campaign("maintenance"):
            return ()

    async def findings(self) -> Sequence[Finding]:
        """Return the line that `headway doctor` shows."""
        return (Finding("database", True, f"{self._backend.name}: ends with this process"),)
