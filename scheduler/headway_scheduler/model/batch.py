"""What one commit writes, and what a scheduler is built from again. Data only."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from itertools import chain

from .calls import CallRecord
from .changes import Change
from .prompts import ChainNode, Chunk
from .quotas import BucketState
from .runs import Run, Worker


@dataclass(frozen=True, slots=True)
class Lesson:
    """What was learned about ``subject``, as its learner wrote it down. ``kind``: who learned."""

    kind: str
    subject: str
    value: str


@dataclass(frozen=True, slots=True)
class Letter:
    """What another process asks of the one that admits. ``event`` is as its sender wrote it."""

    id: int
    sender: str
    event: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request, written with what the request changed."""

    request_id: int
    text: str


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """What a worker is told, as it was written for it."""

    worker: str
    text: str


@dataclass(frozen=True, slots=True)
class Batch:
    """What one commit writes, all or nothing. ``changed`` and ``runs`` overwrite earlier rows.

    Chunks and nodes that are there already stay as they are. ``forget`` names runs whose rows go,
    and then the texts that no call holds; a run that has not ended, or that one which stays names
    as its parent, stays as well. ``taken``: requests that were carried out and want no answer.
    ``seen``: how far workers have read their notifications: what was read goes. Workers that
    ``left`` are forgotten.
    """

    new: tuple[CallRecord, ...] = ()
    changed: tuple[CallRecord, ...] = ()
    buckets: tuple[BucketState, ...] = ()
    runs: tuple[Run, ...] = ()
    chunks: tuple[Chunk, ...] = ()
    nodes: tuple[ChainNode, ...] = ()
    forget: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()
    lessons: tuple[Lesson, ...] = ()
    answers: tuple[Answer, ...] = ()
    taken: tuple[int, ...] = ()
    outbox: tuple[OutboxRow, ...] = ()
    seen: tuple[tuple[str, int], ...] = ()
    joined: tuple[Worker, ...] = ()
    left: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self != _EMPTY

    def joined_with(self, others: "Iterable[Batch]") -> "Batch":
        """All that this batch and others write, in order."""
        batches, names = (self, *others), [each.name for each in fields(self)]
        columns = ((getattr(batch, name) for batch in batches) for name in names)
        return Batch(*(tuple(chain.from_iterable(column)) for column in columns))


_EMPTY = Batch()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the core needs to go on: buckets, the calls that are not finished, what was learned.

    ``changes`` has the last one of each action and target.
    """

    buckets: tuple[BucketState, ...] = ()
    calls: tuple[CallRecord, ...] = ()
    next_seq: int = 0
    changes: tuple[Change, ...] = ()
    lessons: tuple[Lesson, ...] = ()
