"""What a database engine gives to everybody else. Law of this file: types and text, no I/O.

Theory of operation. Processes meet in the database and nowhere else. One of them leads: it holds a
*term*, commits batches to the journal, and takes the requests of the others from its *mailbox*.
Who executes runs is *present* in the registry of workers. A *notifier* rings for whoever has
something to read; a ring may be lost, so everybody looks without one as well.

Every error that a caller may meet is a StoreError with a message that names the database and says
what to do; or KeyTaken, if a row is refused for a caller's mistake. An engine whose database may be
away for a while waits for it inside of ``Store.commit``, ``Mailbox.post`` and ``Presence.confirm``,
which have no timeout for that reason; whoever opens or only reads gets the StoreError.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

from .model.batch import Batch, Lesson, Letter, Snapshot
from .model.calls import CallRecord, Spent
from .model.changes import Change
from .model.runs import Run, Worker
from .model.states import CallState, RunState

Clock = Callable[[], float]
"""Seconds since the epoch; never goes back within a process."""

LEADER = "leader"
"""The owner of the notifier that rings for whoever leads. Workers' are named by their ids."""

READ_AT_ONCE = 100
"""How many requests are read at once."""


class Backend(Protocol):
    """A database, named by the configuration. Making one opens nothing and cannot fail.

    Each method gives a new object, for one user.
    """

    @property
    def name(self) -> str:
        """What messages call the database: its path or its URL, never with a password."""

    def reader(self) -> "Store":
        """The journal, to be read: it takes no lock, so any number may be open."""

    def leadership(self) -> "Leadership":
        """Who leads, and how to."""

    def workers(self) -> "WorkerRegistry":
        """Which workers are alive."""

    def mailbox(self, epoch: int | None = None) -> "Mailbox":
        """Requests and notifications. ``epoch``: of the leader that takes requests from it."""

    def notifier(self, owner: str) -> "Notifier":
        """Rings for ``owner``: ``LEADER``, or a worker's id."""

    def maintenance(self) -> "Maintenance":
        """The database as a thing to look after."""


class Store(Protocol):
    """Durable state: the journal of calls, the runs, the buckets. It saves and loads, no more.

    Use as an async context manager. One instance has one writer.
    """

    @property
    def clock(self) -> Clock:
        """The time that all processes on this database share, once it is open."""

    async def __aenter__(self) -> Self:
        """Open, and migrate if needed. Raises StoreError; nothing was changed then."""

    async def __aexit__(self, *_: object) -> None:
        """Close. What was committed stays."""

    async def commit(self, batch: Batch) -> None:
        """Write all of ``batch`` and sync it, or raise StoreError or KeyTaken and write nothing.

        Returns only when a power cut could no longer undo it. The epoch is asserted in the same
        transaction: StoreTakenOver if another process has come to lead. Runs to be forgotten stay
        if they have not ended, or if a run that stays names them as parent.
        """

    async def snapshot(self) -> Snapshot:
        """Load the buckets and every call that is queued, admitted or sent, by arrival."""

    async def run(self, run_id: str) -> Run | None:
        """The run with this id, or the only one whose id starts with it."""

    async def run_with_key(self, key: str) -> Run | None:
        """The run that was submitted under this idempotency key."""

    async def runs(
        self,
        states: Collection[RunState] = (),
        *,
        limit: int | None = None,
        urgent_first: bool = False,
    ) -> Sequence[Run]:
        """Runs in any of ``states`` (all, if empty), newest first; at most ``limit``, if given.

        ``urgent_first``: the best priority first, and of one priority the oldest.
        """

    async def assigned(self) -> Sequence[Run]:
        """Runs that a worker executes, or is about to."""

    async def workers(self) -> Sequence[Worker]:
        """Who executes runs, the first one to come first."""

    async def lessons(self) -> Sequence[Lesson]:
        """What was learned."""

    async def changes(self, *, limit: int | None = None) -> Sequence[Change]:
        """What operators changed, newest first; at most ``limit``, if given."""

    async def spent(self, by: str, since: float) -> Sequence[Spent]:
        """What calls took that came at ``since`` or later, by model, team, workflow, run or day.

        A day is one of UTC, as in 2026-03-01; the key of a call outside of any run is empty.
        """

    async def prompt(self, request_hash: str) -> Sequence[str] | None:
        """The texts of a recorded request, in order; None if it is not recorded."""

    async def calls(
        self,
        run_id: str | None = None,
        states: Collection[CallState] = (),
        *,
        limit: int | None = None,
    ) -> Sequence[CallRecord]:
        """Calls of a run (of all, if None) in any of ``states`` (all, if empty), by arrival.

        At most ``limit``, if given.
        """


class Vacancy:
    """That nobody alive leads, as one look found it. Opaque: only its engine can read it.

    Handed to ``Leadership.campaign``, it says which silent leader may be replaced; one that has
    shown life since may not.
    """

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Holder:
    """Who leads: the worker, if it told, and words for messages (``process 4711``)."""

    worker_id: str | None
    text: str


class Leadership(Protocol):
    """Who leads. Each instance watches by its own clock, so two may see a vacancy at two times."""

    @property
    def leads_beside(self) -> bool:
        """Whether a leader admits its own process's calls by requests too, as those of any other.

        If not, whoever opens first leads with its own runs, with no requests in between.
        """

    def look(self) -> Vacancy | None:
        """Look once: None if somebody alive leads. A silent leader is found by looking often."""

    async def vacant(self) -> Vacancy:
        """Look until nobody alive leads."""

    async def campaign(self, candidate: str, vacancy: Vacancy | None = None) -> "Term":
        """Lead as ``candidate``: make or migrate the database, and raise the epoch.

        Raises StoreBusy if somebody leads; or, with a ``vacancy``, if somebody else than whom it
        tells of. Raises StoreError for anything else; nothing was changed then.
        """

    async def holder(self) -> Holder | None:
        """Who leads now, alive or silent; None if nobody does."""


class Term(Protocol):
    """The time for which a process leads: an async context manager, left when it is given back."""

    @property
    def epoch(self) -> int:
        """Its number. No two terms have the same one, and a later one has a higher one."""

    @property
    def store(self) -> Store:
        """The journal, open, to be written: every commit asserts the epoch."""

    async def __aenter__(self) -> Self:
        """Lead."""

    async def __aexit__(self, *_: object) -> None:
        """Give the leadership back; whoever waits for it may have it at once."""


class WorkerRegistry(Protocol):
    """Which workers are alive, by their heartbeats. Each instance judges by its own clock."""

    def present(self, worker_id: str) -> "Presence":
        """Be there as this worker."""

    async def expired(self, worker_ids: Collection[str]) -> frozenset[str]:
        """Which of these workers are dead: gone, or silent for 10 s. Ask often, for silence."""

    async def silent_seconds(self, worker_id: str) -> float | None:
        """How long ago a worker's last heartbeat was; None if it is gone."""

    async def tidy(self, keep: Collection[str]) -> None:
        """Remove what dead workers left behind, but for those to ``keep``."""


class Presence(Protocol):
    """A worker, there. An async context manager: its heart beats while it is open.

    Heartbeats do not come from the event loop: what blocks the loop is no death.
    """

    @property
    def contact_at(self) -> float:
        """When the last heartbeat began that found the worker listed; ``time.monotonic()``.

        Until the first one: when this was opened.
        """

    async def confirm(self) -> None:
        """Do one heartbeat now. Raises StoreTakenOver if others took the worker for dead."""

    async def __aenter__(self) -> Self:
        """Be there. Raises StoreBusy if a worker of this id is, StoreError for anything else."""

    async def __aexit__(self, *_: object) -> None:
        """Be gone: others see it at once."""


class Mailbox(Protocol):
    """Requests to the leader, and what it tells workers. Close it after use.

    It opens the database when it is first asked something. What was posted is carried out, whether
    its sender lives or not.
    """

    async def post(self, sender: str, text: str, *, durable: bool = False) -> int:
        """Append a request, ring for the leader, and return the request's id.

        ``durable``: it outlives a power cut from here on; else only from its answer on. A sender
        that posts one after the other has them taken in that order. Ids need not appear in order.
        Raises StoreError; there is no request then.
        """

    async def waiting(
        self, in_hand: Collection[int], limit: int = READ_AT_ONCE
    ) -> Sequence[Letter]:
        """Requests that have no answer and are not ``in_hand``, oldest first.

        Fewer than ``limit``: that is all for now. Raises StoreTakenOver if they are another
        leader's to take.
        """

    async def answer(self, request_id: int) -> str | None:
        """The answer to a request, None as long as there is none.

        Raises StoreError, also for an answer that is kept no longer.
        """

    async def notifications(self, worker_id: str, after: int) -> Sequence[tuple[int, str]]:
        """What a worker was told after notification ``after``: ids and texts, in order.

        ``after`` is the last one that it has read, and never goes back. No rows: that is all for
        now.
        """

    async def close(self) -> None:
        """Close. What was posted stays."""


class Notifier(Protocol):
    """Rings for one owner, and for others. An async context manager: open, it can be waited for.

    To ``ring`` it need not be open.
    """

    async def __aenter__(self) -> Self:
        """Listen, instead of whoever listened for this owner before. Raises StoreError."""

    async def __aexit__(self, *_: object) -> None:
        """Listen no more."""

    async def wait(self) -> None:
        """Return when something may have been written for the owner since this last returned.

        A ring that was lost is made up for within the engine's poll interval.
        """

    def ring(self, owner: str) -> None:
        """Hint that something was written for ``owner``. Losing it costs only time."""


class Finding(NamedTuple):
    """One thing that was looked at. ``says`` tells what to do if it is not ``ok``."""

    subject: str
    ok: bool
    says: str


class Maintenance(Protocol):
    """The database looked over, copied, made smaller: what is there is never made worse."""

    async def problems(self) -> Sequence[str]:
        """Look through all of it, beside whoever uses it; each thing that is wrong, in words."""

    async def back_up(self, to: str) -> int:
        """Copy it as it is at one moment to the new file ``to``; return the copy's bytes."""

    async def compact(self) -> int:
        """Give the space of deleted rows back; return the bytes. StoreBusy if it is in use."""

    async def migrate(self) -> Sequence[str]:
        """Bring it to the format of this version; return the copies of older formats.

        Raises StoreBusy if it is in use, CallerError if there is no database yet.
        """

    async def findings(self) -> Sequence[Finding]:
        """What ``headway doctor`` shows of the engine and the database, good or bad."""
