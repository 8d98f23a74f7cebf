"""Who is next inside one queue. Law of this file: an ordering decides order, never permission.

This is the seam for the policy: the core knows only :class:`Ordering`. Today's is strict class,
then arrival.
"""

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import Protocol

from .model import CallRecord

Rank = tuple[float, ...]
"""Compares across queues of the same policy; the smaller goes first."""


class Ordering(Protocol):
    """A queue of calls that draw on the same set of quotas. Operations are O(log n)."""

    def push(self, record: CallRecord) -> None:
        """Add a call; one that comes back keeps its old place."""

    def head(self) -> tuple[Rank, CallRecord] | None:
        """Show the next call and its rank."""

    def pop(self) -> CallRecord:
        """Take the next call out."""

    def remove(self, record: CallRecord) -> None:
        """Take a call out wherever it stands."""

    def rank(self, record: CallRecord) -> Rank:
        """Where ``record`` stands."""

    def __iter__(self) -> Iterator[CallRecord]:
        """All calls, in no particular order."""

    def __len__(self) -> int: ...


class StrictPriority:
    """Strict class, lowest number first; within a class, by arrival."""

    def __init__(self) -> None:
        self._heap: list[tuple[Rank, str]] = []
        self._records: dict[str, CallRecord] = {}

    def push(self, record: CallRecord) -> None:
        """Add a call at the place of its class and arrival number."""
        self._records[record.call.id] = record
        heappush(self._heap, (self.rank(record), record.call.id))

    def head(self) -> tuple[Rank, CallRecord] | None:
        """Show the next call, dropping removed ones on the way."""
        while self._heap:
            rank, call_id = self._heap[0]
            record = self._records.get(call_id)
            if record is not None:
                return rank, record
            heappop(self._heap)
        return None

    def pop(self) -> CallRecord:
        """Take the next call out. Raises IndexError when there is none."""
        if self.head() is None:
            raise IndexError("pop from an empty queue")
        return self._records.pop(heappop(self._heap)[1])

    def remove(self, record: CallRecord) -> None:
        """Forget a call; its heap entry goes when it surfaces, or when half of them are dead."""
        self._records.pop(record.call.id, None)
        if len(self._heap) > 2 * len(self._records) + 8:
            self._heap = [(self.rank(kept), key) for key, kept in self._records.items()]
            heapify(self._heap)

    def rank(self, record: CallRecord) -> Rank:
        """(class, arrival)."""
        return (record.call.priority, record.seq)

    def __iter__(self) -> Iterator[CallRecord]:
        return iter(self._records.values())

    def __len__(self) -> int:
        return len(self._records)
