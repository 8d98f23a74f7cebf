"""Declares what a database engine gives to the rest. Law of this file: types and text, no I/O.

Theory of operation. Processes meet in the database and nowhere else. One of them leads: it holds a
*term*, commits batches to the journal, and takes the requests of the others from its *mailbox*.
Workers are *present* in the registry of workers. A *notifier* rings for an owner that has something
to read; a ring may be lost, so every owner looks without a ring as well.

Every error is a StoreError with a message that names the database and says what to do; or KeyTaken,
if a row is refused for a caller's mistake. An engine whose database may be unreachable for a while
waits for it inside ``Store.commit``, ``Mailbox.post`` and ``Presence.confirm``, which have no
timeout for that reason; opening and reading raise the StoreError.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

from .model.batch import Batch, Lesson, Letter, Snapshot
from .model.batches import BatchedRequest, Gathered, ProviderBatch
from .model.calls import CallRecord, Spent
from .model.changes import Change
from .model.history import Crowd, Ended, Retention, Try, WaitCount
from .model.notices import Notice
from .model.runs import Run, Worker
from .model.schedules import ScheduleState
from .model.states import CallState, RunState

Clock = Callable[[], float]
"""Seconds since the epoch; never goes back within a process."""

Report = Callable[[int, int], None]
"""Takes how much of something is done, and of how much, in parts of whatever size."""


def unheard(done: int, total: int) -> None:
    """Take a report, and do nothing."""


LEADER = "leader"
"""The owner of the leader's notifier. A worker's notifier is owned by the worker's id."""

READ_AT_ONCE = 100
"""How many requests, or notifications, are read at once."""


CONTACT_SECONDS = 7.0
"""How old a worker's last answered heartbeat may be when a request leaves: 10 s until the worker
counts as dead, less 3 s for what lies between this check and the first byte."""


class Backend(Protocol):
    """A database, named by the configuration. Making one opens nothing and cannot fail.

    Each method gives a new object, for one user.
    """

    @property
    def name(self) -> str:
        """The database in messages: its path or its URL, never with a password."""

    def reader(self) -> "Store":
        """Return the journal for reading: it takes no lock, so any number may be open."""

    def history(self) -> "History":
        """Return what is asked about the past. It needs no opening."""

    def leadership(self) -> "Leadership":
        """Return a watcher of the leader, which can also campaign."""

    def workers(self) -> "WorkerRegistry":
        """Return a watcher of the workers."""

    def mailbox(self, epoch: int | None = None) -> "Mailbox":
        """Return requests and notifications. ``epoch``: of the leader that takes the requests."""

    def notifier(self, owner: str) -> "Notifier":
        """Return what rings for ``owner``: ``LEADER``, or a worker's id."""

    def maintenance(self) -> "Maintenance":
        """Return the means to check, copy, shrink and migrate the database."""


class UnreadableRow(NamedTuple):
    """A row that no Headway has written: it is left out of answers, and harms nobody else."""

    kind: str
    """The kind of the row: ``run``, ``call``, ``limit``, ``change``, ``lesson``, ``worker``,
    ``schedule``, ``notice``, ``request`` or ``notification``."""
    id: str
    """Its id or key."""
    why: str
    """Why it cannot be read."""

    def __str__(self) -> str:
        return f"{self.kind} {self.id} cannot be read ({self.why})"


class Store(Protocol):
    """Durable state: the journal of calls, the runs, the buckets. It saves and loads, no more.

    Use as an async context manager. One instance has one writer. A row that cannot be read is left
    out, and named in ``unreadable``; only a question for that very run, or for the calls of that
    run, raises StoreCorrupt.
    """

    @property
    def unreadable(self) -> Collection[UnreadableRow]:
        """The rows that were left out of answers so far."""

    @property
    def clock(self) -> Clock:
        """The time that all processes on this database share, once the store is open."""

    async def __aenter__(self) -> Self:
        """Open, and migrate if needed. Raises StoreError; nothing was changed then."""

    async def __aexit__(self, *_: object) -> None:
        """Close. What was committed stays."""

    async def commit(self, batch: Batch) -> None:
        """Write all of ``batch`` and sync it, or raise StoreError or KeyTaken and write nothing.

        Returns only when a power cut cannot undo it any more. The epoch is asserted in the same
        transaction: StoreTakenOver if another process leads by now.
        """

    async def snapshot(self) -> Snapshot:
        """Load the buckets and every call that has not ended, by arrival."""

    async def run(self, run_id: str) -> Run | None:
        """The run with this id, or the only one whose id starts with it."""

    async def run_with_key(self, key: str) -> Run | None:
        """The run that was submitted under this idempotency key."""

    async def runs(
        self,
        states: Collection[RunState] = (),
        *,
        team: str | None = None,
        limit: int | None = None,
        urgent_first: bool = False,
    ) -> Sequence[Run]:
        """Runs in any of ``states`` (all, if empty), newest first; at most ``limit``, if given.

        ``team``: those whose calls draw on its share, newest first. ``urgent_first``: the best
        priority first, and of one priority the oldest; of all teams.
        """

    async def assigned(self) -> Sequence[Run]:
        """Load the runs that a worker executes, or is about to."""

    async def workers(self) -> Sequence[Worker]:
        """Load the workers, in the order in which they joined."""

    async def schedules(self) -> Sequence[ScheduleState]:
        """Load the schedules, by name."""

    async def notices(self, *, limit: int | None = None) -> Sequence[Notice]:
        """Load what is to be told to the world outside, oldest first; at most ``limit``."""

    async def lessons(self) -> Sequence[Lesson]:
        """Load everything that was learned."""

    async def changes(self, *, limit: int | None = None) -> Sequence[Change]:
        """Load the operators' changes, newest first; at most ``limit``, if given."""

    async def spent(self, by: str, since: float) -> Sequence[Spent]:
        """Sum up calls submitted at ``since`` or later, by model, team, workflow, run or day.

        ``since``: epoch seconds. Days are UTC, as in 2026-03-01; the key is empty for calls outside
        of any run.
        """

    async def prompt(self, request_hash: str) -> Sequence[str] | None:
        """Load the texts of a recorded request, in order; None if it is not recorded."""

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

    async def provider_batches(self) -> Sequence[ProviderBatch]:
        """Load the batches of the provider that have not ended, oldest first."""

    async def batched_requests(self, batch_id: str | None) -> Sequence[BatchedRequest]:
        """Load the requests of a batch; with None, those that are in none."""

    async def gathered(self) -> Sequence[Gathered]:
        """Count the requests that are in no batch, by model and endpoint."""

    async def batch_answers(self, run_id: str) -> Mapping[str, str]:
        """Load the provider's responses to the batched calls of a run, by call."""

    async def runs_to_wake(self) -> Sequence[Run]:
        """Load waiting runs whose call by batch is answered, or has left its batch."""

    async def unwanted_calls(self) -> Sequence[str]:
        """Load the ids of batched calls whose runs have ended for good."""


class History(Protocol):
    """Answers what waited, how many, and which attempts brought no answer. Raises StoreError.

    Rows that cannot be read are left out. The leader writes history with the calls that it is
    about, and prunes it.
    """

    async def tries(
        self, *, run_id: str | None = None, since: float = 0.0, limit: int | None = None
    ) -> Sequence[Try]:
        """Attempts that ended at ``since`` (epoch seconds) or later, newest first.

        Those of one run, if it is given; at most ``limit``, if given.
        """

    async def waits(self, span: int, since: float) -> Sequence[WaitCount]:
        """Counts of waits, by spans of ``span`` seconds that began at ``since`` or later."""

    async def crowds(self, since: float) -> Sequence[Crowd]:
        """Crowds of minutes that began at ``since`` (epoch seconds) or later, by time and class."""

    async def ended(self, since: float, *, most: int) -> Sequence[Ended]:
        """Of the ``most`` calls that came last, those that ended at ``since`` or later.

        Grouped by their quotas. Calls that draw on none are left out.
        """

    async def has_outdated(self, retention: Retention) -> bool:
        """Whether a batch with this ``prune`` would delete anything."""


class Vacancy:
    """Says that no process leads that is alive, as one look found it. Only its engine can read it.

    Handed to ``Leadership.campaign``, it says which silent leader may be replaced; one that has
    shown life since may not.
    """

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that leads."""

    worker_id: str | None
    """Its worker's id; None if it has written none."""
    text: str
    """Words for messages, as in ``process 4711``."""


class Leadership(Protocol):
    """Watches the leader. Each instance has its own clock: two may see a vacancy at two times."""

    @property
    def leads_beside(self) -> bool:
        """Whether a leader admits its own process's calls by requests too, as those of any other.

        If not, whoever opens first leads with its own runs, with no requests in between.
        """

    def look(self) -> Vacancy | None:
        """Look once. Return None if a leader is alive. A silent one is found by looking often."""

    async def vacant(self) -> Vacancy:
        """Return when no process leads that is alive."""

    async def campaign(self, candidate: str, vacancy: Vacancy | None = None) -> "Term":
        """Lead as ``candidate``: make or migrate the database, and raise the epoch.

        Raises StoreBusy if another process leads, unless it is the silent one that ``vacancy`` is
        about. Raises StoreError for anything else; nothing was changed then.
        """

    async def holder(self) -> Holder | None:
        """Return the process that leads now, alive or silent; None if none does."""


class Term(Protocol):
    """The time for which a process leads: an async context manager, left when it is given back."""

    @property
    def epoch(self) -> int:
        """Its number. No two terms have the same one, and a later one has a higher one."""

    @property
    def lost_starts(self) -> int:
        """How many terms in a row, before this one, ended before a batch said that they begin."""

    @property
    def store(self) -> Store:
        """The journal, open, to be written: every commit asserts the epoch."""

    def show_life(self) -> None:
        """Say that the loop that admits turns. From the first time on, say it every 0.25 s.

        Without that, another process may lead after 1.5 s. Before, and once the term is being left,
        life is shown without it. Raises StoreTakenOver if another process leads by now; that may be
        noticed at the next time only.
        """

    async def __aenter__(self) -> Self:
        """Lead."""

    async def __aexit__(self, *_: object) -> None:
        """Give the leadership back; a process that waits for it may have it at once."""


class WorkerRegistry(Protocol):
    """Tells which workers are alive, by their heartbeats, and by its own clock."""

    def present(self, worker_id: str) -> "Presence":
        """Return the presence of this worker, to be entered."""

    async def expired(self, worker_ids: Collection[str]) -> frozenset[str]:
        """Return which of these workers are dead: gone, or silent for 10 s. Ask often."""

    async def silent_seconds(self, worker_id: str) -> float | None:
        """Return how many seconds ago a worker's last heartbeat was; None if it is gone."""

    async def tidy(self, keep: Collection[str]) -> None:
        """Remove the remains of dead workers, but for those to ``keep``."""


class Presence(Protocol):
    """Shows that a worker is alive. An async context manager: it sends heartbeats while it is open.

    Heartbeats do not come from the event loop: a blocked loop does not make a worker dead.
    """

    @property
    def contact_at(self) -> float:
        """When the last heartbeat began that found the worker listed; ``time.monotonic()``.

        Until the first one: when this was opened.
        """

    async def confirm(self) -> None:
        """Send one heartbeat now. Raises StoreTakenOver if the worker was taken for dead."""

    async def __aenter__(self) -> Self:
        """Begin. Raises StoreBusy if a worker of this id is there, else StoreError."""

    async def __aexit__(self, *_: object) -> None:
        """End: other processes see it at once."""


class Mailbox(Protocol):
    """Carries requests to the leader and notifications to workers. Close it after use.

    It opens the database at the first question, if it was not connected before. A posted request is
    carried out whether its sender lives or not.
    """

    async def connect(self) -> None:
        """Open what the first questions need, so that nobody waits for that. Raises StoreError."""

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
        """Return the answer to a request, None as long as there is none.

        Raises StoreError, also for an answer that is kept no longer.
        """

    async def is_waiting(self, request_id: int) -> bool:
        """Whether no leader has taken a request yet. Raises StoreError."""

    async def notifications(self, worker_id: str, after: int) -> Sequence[tuple[int, str]]:
        """Return a worker's notifications after the one with id ``after``: ids and texts, in order.

        ``after`` is the last one that it has read, and never goes back. No rows: that is all for
        now.
        """

    async def close(self) -> None:
        """Close. Posted requests stay."""


class Notifier(Protocol):
    """Rings for one owner, and for others. An async context manager: open, it can be waited for.

    To ``ring`` it need not be open.
    """

    async def __aenter__(self) -> Self:
        """Listen, in place of any other listener of this owner. Raises StoreError."""

    async def __aexit__(self, *_: object) -> None:
        """Listen no more."""

    async def wait(self) -> None:
        """Return when something may have been written for the owner since the last return.

        If a ring is lost, within the engine's poll interval.
        """

    def ring(self, owner: str) -> None:
        """Hint that something was written for ``owner``. Losing it costs only time."""


class Finding(NamedTuple):
    """One line of ``headway doctor``."""

    subject: str
    """The thing that was looked at."""
    ok: bool
    """Whether it is as it should be."""
    says: str
    """The finding; if not ``ok``, also what to do."""


class Maintenance(Protocol):
    """Checks, copies, shrinks and migrates a database, and never makes it worse."""

    async def problems(self) -> Sequence[str]:
        """Check all of it, while others use it; return each problem in words."""

    async def repair(self) -> Sequence[UnreadableRow]:
        """Set aside every row that cannot be read, and return them. StoreBusy if it is in use."""

    async def set_aside(self) -> Sequence[UnreadableRow]:
        """Return the rows that were set aside, oldest first. They are kept."""

    async def back_up(self, to: str, report: Report = unheard) -> int:
        """Copy it as it is at one moment to the new file ``to``; return the copy's bytes.

        ``report`` is told of each part, maybe in a thread.
        """

    async def compact(self) -> int:
        """Give the space of deleted rows back; return the bytes. StoreBusy if it is in use."""

    async def migrate(self) -> Sequence[str]:
        """Bring it to the format of this version; return the copies of older formats.

        Raises StoreBusy if it is in use, CallerError if there is no database yet.
        """

    async def findings(self) -> Sequence[Finding]:
        """Return what ``headway doctor`` shows of the engine and the database."""
