"""The rows of a run, found by what was asked.

Law of this file: whether a row's answer is given back or asked for again is decided here alone.

Theory of operation. :class:`Journal` is what the rows of a run say when an attempt begins.
:class:`Replay` finds the row of a request by the journal's key: kind, path, hash of the request,
and how often the path asked it before.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from headway_scheduler.model.calls import BYPASS, CallRecord
from headway_scheduler.model.states import CallState

Key = tuple[str, str, str, int]
"""Kind, path, request hash, occurrence."""

NESTED = "#"
"""Marks in a path what a step asks while it acts: ``writer#r-7f3k2m9q.14``.

Such answers are given back only while their step has none: its answer stands for all of them.
"""


@dataclass(frozen=True, slots=True)
class Journal:
    """The recorded rows of a run, and how an attempt uses them.

    ``records``: the run's rows. ``inherited``: answers of runs that it began as a copy of.
    ``retry_failed``: failed calls are made again. ``unknown_waits``: calls that were cut off in
    flight wait for a person. ``by_order``: inherited answers are matched by who asked and in which
    order, not by what, for a fork with a task of its own asks in other words. ``batch_answers``:
    the provider's responses to calls of the run by batch, by the call's id.
    """

    records: Sequence[CallRecord] = ()
    inherited: Sequence[CallRecord] = ()
    retry_failed: bool = False
    unknown_waits: bool = False
    by_order: bool = False
    batch_answers: Mapping[str, str] = field(default_factory=dict[str, str])

    def first_call(self) -> int:
        """Return the number of the next new call; ids are ``run_id.n``."""
        numbers = (int(record.call.id.rpartition(".")[2]) for record in self.records)
        return max(numbers, default=-1) + 1

    def first_arrival(self) -> int:
        """Return the number of the next new answer, above those of all rows."""
        rows = (*self.inherited, *self.records)
        return max((row.arrival for row in rows if row.arrival is not None), default=-1) + 1


class Replay:
    """Finds rows by what they asked, each once."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        rows = [row for row in (*journal.inherited, *journal.records) if row.call.kind != BYPASS]
        self._asked_again = _latest(rows)
        self._rows = {_key(row): row for row in rows if self._counts(row)}
        self._inherited: dict[tuple[str, str], deque[CallRecord]] = defaultdict(deque)
        if journal.by_order:
            for row in journal.inherited:
                self._inherited[row.call.kind, row.call.path].append(row)

    def answers(self) -> list[CallRecord]:
        """Return every row that is not found yet and whose answer is given back, by arrival."""
        rows = self._rows.values()
        found = {r.call.id: r for r in rows if r.arrival is not None and self.is_answer(r)}
        for by_order in self._inherited.values():
            found |= {row.call.id: row for row in by_order}
        return sorted(found.values(), key=lambda row: row.arrival or 0)

    def take(self, key: Key) -> CallRecord | None:
        """Return the row of a request, None if there is none. The row is not found again."""
        row, by_order = self._rows.pop(key, None), self._inherited.get(key[:2])
        if row is None and by_order:
            row = by_order.popleft()
            self._rows.pop(_key(row), None)
        elif row is not None and by_order and row in by_order:
            by_order.remove(row)
        return row

    def is_answer(self, row: CallRecord) -> bool:
        """Whether the row's answer is given back instead of asked for again.

        A failure is, if its agent asked something after it. Else it may have ended the run, and a
        retry asks again.
        """
        if row.state is CallState.DONE:
            return row.arrival is not None or NESTED in row.call.path
        if row.arrival is None:
            return False
        survived = self._asked_again.get(row.call.path, -1) > row.seq
        return row.state is CallState.FAILED and (survived or not self._journal.retry_failed)

    def unasked(self) -> list[CallRecord]:
        """Return answers that were not found yet, in the order in which they were first asked."""
        return sorted(self.answers(), key=lambda row: row.seq)

    def _counts(self, row: CallRecord) -> bool:
        """Whether the row is part of the journal.

        A finished row without a number was set aside when a changed workflow was accepted.
        """
        return self.is_answer(row) or row.state is not CallState.DONE


def _latest(rows: Iterable[CallRecord]) -> dict[str, int]:
    """Return the place of the last request of each path."""
    return {row.call.path: row.seq for row in sorted(rows, key=lambda row: row.seq)}


def _key(row: CallRecord) -> Key:
    call = row.call
    return (call.kind, call.path, call.request_hash, call.occurrence)
