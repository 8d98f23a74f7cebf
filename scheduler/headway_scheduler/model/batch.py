"""Defines what one commit writes, and what a scheduler is built from again. Data only."""

from collections.abc import Iterable
from itertools import chain

from .batches import BatchedRequest, ProviderBatch
from .calls import CallRecord
from .changes import Change
from .data import Data
from .history import Crowd, Retention, Try, WaitCount
from .notices import Notice
from .prompts import ChainNode, Chunk
from .quotas import BucketState
from .runs import Run, Worker
from .schedules import ScheduleState


class Lesson(Data, frozen=True):
    """A fact that a part of the core learned, in that part's own text."""

    kind: str
    """The part that learned it: ``limits``, ``breaker``, ``odd``, ``run size``, ``tokens``,
    ``answered`` or ``deaths``."""
    subject: str
    """The subject: a quota, a workflow, a model and an agent, an address, or ``workers``. With
    ``kind``, the row's key: a later lesson overwrites an earlier one."""
    value: str
    """JSON that only its learner reads."""


class Letter(Data, frozen=True):
    """A request to the leader, as a row of table ``inbox``."""

    id: int
    """Its row. Never used again, so nobody reads the answer to somebody else's request."""
    sender: str
    """The worker that posted it, or ``c-`` and 12 hex digits for a process that is no worker."""
    event: str
    """The request as JSON: a ``MessageBatch`` or a command."""
    tries: int = 0
    """How many leaders met it when they started, and ended before they had carried it out."""


class Answer(Data, frozen=True):
    """The answer to a command, written in the commit that carries the command out.

    So a command is carried out once: whoever leads next finds the answer, or nothing done.
    """

    request_id: int
    """The request that it answers."""
    text: str
    """JSON: ``Done`` or ``Refused``."""


class OutboxRow(Data, frozen=True):
    """A notification to a worker, as a row of table ``outbox``."""

    worker: str
    """The id of the worker that it is for."""
    text: str
    """A ``Notification`` as JSON."""


class Batch(Data, frozen=True):
    """The rows of one commit, which writes all of them or none. Empty by default."""

    new: tuple[CallRecord, ...] = ()
    """Calls to insert."""
    changed: tuple[CallRecord, ...] = ()
    """Calls whose rows to overwrite; each must be there."""
    buckets: tuple[BucketState, ...] = ()
    """Buckets to insert or overwrite, by quota and resource."""
    runs: tuple[Run, ...] = ()
    """Runs to insert or overwrite, by id."""
    chunks: tuple[Chunk, ...] = ()
    """Texts to insert; those that are there already stay as they are."""
    nodes: tuple[ChainNode, ...] = ()
    """Chain nodes to insert; those that are there already stay as they are."""
    forget: tuple[str, ...] = ()
    """Runs to delete with their calls, then the texts that no call needs any more. A run stays if
    it has not ended, or if a run that stays has it as parent or earlier ancestor."""
    changes: tuple[Change, ...] = ()
    """Operators' changes to append."""
    lessons: tuple[Lesson, ...] = ()
    """Lessons to insert or overwrite, by kind and subject."""
    answers: tuple[Answer, ...] = ()
    """Answers to commands; the first answer to a request stays."""
    taken: tuple[int, ...] = ()
    """Requests to delete: message batches that this commit carries out. They get no answer, their
    senders are notified."""
    tried: tuple[tuple[int, int], ...] = ()
    """Requests, each with how many leaders have begun with it by now."""
    set_aside: tuple[tuple[int, str], ...] = ()
    """Requests to keep beside the journal before they are answered or deleted, each with why."""
    begins: bool = False
    """Whether the start of this leader has come to its end."""
    outbox: tuple[OutboxRow, ...] = ()
    """Notifications to append."""
    seen: tuple[tuple[str, int], ...] = ()
    """Workers, each with the id of the last notification that it has read: up to there its
    notifications are deleted."""
    joined: tuple[Worker, ...] = ()
    """Workers to insert, or to overwrite in what they take."""
    requests: tuple[BatchedRequest, ...] = ()
    """Requests of batched calls to insert or overwrite, by call. Those of calls that are batched no
    more are deleted with the next batch of the provider that is saved."""
    provider_batches: tuple[ProviderBatch, ...] = ()
    """Batches of the provider to insert or overwrite, by id."""
    schedules: tuple[ScheduleState, ...] = ()
    """Schedules to insert or overwrite, by name."""
    unscheduled: tuple[str, ...] = ()
    """Names of schedules to delete."""
    notices: tuple[Notice, ...] = ()
    """Notices to insert or overwrite, by id."""
    told: tuple[str, ...] = ()
    """Ids of notices to delete: they were told, or nobody will be."""
    tries: tuple[Try, ...] = ()
    """Attempts without an answer to append."""
    waits: tuple[WaitCount, ...] = ()
    """Counts of waits, to add to those of the same key."""
    crowds: tuple[Crowd, ...] = ()
    """Crowds to insert. Of a minute that has one the larger counts stay."""
    prune: tuple[Retention, ...] = ()
    """How much history stays: of each kind of older rows, a few thousand are deleted."""
    left: tuple[str, ...] = ()
    """Workers to delete, with the notifications of all workers that are not listed."""

    def __bool__(self) -> bool:
        return self != NOTHING

    def joined_with(self, others: "Iterable[Batch]") -> "Batch":
        """Return one batch that writes what this one and then the others write."""
        batches, names = (self, *others), self.__struct_fields__
        columns = {
            name: tuple(chain.from_iterable(getattr(batch, name) for batch in batches))
            for name in names
            if name != "begins"
        }
        return Batch(**columns, begins=any(batch.begins for batch in batches))


NOTHING = Batch()
"""A batch that writes nothing."""


class Snapshot(Data, frozen=True):
    """The rows from which a new core goes on."""

    buckets: tuple[BucketState, ...] = ()
    """Every stored bucket."""
    calls: tuple[CallRecord, ...] = ()
    """Calls that have not ended, by arrival."""
    next_seq: int = 0
    """The arrival number of the next call."""
    changes: tuple[Change, ...] = ()
    """The last change of each action and target, in the order in which they were made."""
    lessons: tuple[Lesson, ...] = ()
    """Everything that was learned."""
