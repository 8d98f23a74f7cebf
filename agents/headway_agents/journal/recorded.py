"""Recorded answers, found by what was asked, and given out in the order in which they came.

Law of this file: no clock, no I/O, nothing of AutoGen.

Theory of operation. :class:`Journal` is what a run's rows say when an attempt begins.
:class:`Replay` finds the row of a request by the journal's key. Whether it is an answer to give
back or a call to make is one question (``is_answer``), asked once, at the start. :class:`Turns`
hands answers out one by one, live ones as recorded ones: an answer's consequences settle before
the next is delivered, so that branches which run side by side go on as they did before.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from headway_scheduler.model.calls import CallRecord
from headway_scheduler.model.states import CallState

Key = tuple[str, str, str, int]
"""Kind, path, request hash, occurrence."""

INSIDE = "#"
"""Stands in the path of what a step asks while it acts. It is not replayed unless its step is."""

SETTLING_ITERATIONS = 16
"""Of the event loop, between two deliveries: what AutoGen needs to pass an answer on."""


@dataclass(frozen=True, slots=True)
class Journal:
    """What is recorded of a run, and how an attempt is to take it.

    ``inherited`` are answers of runs that this one began as a copy of. ``again``: failed calls are
    made again (retry). ``unknown_waits``: calls cut off in flight wait for a person.
    ``by_order``: inherited answers are matched by who asked and in which order, not by what.
    """

    records: Sequence[CallRecord] = ()
    inherited: Sequence[CallRecord] = ()
    again: bool = False
    unknown_waits: bool = False
    by_order: bool = False

    def first_call(self) -> int:
        """The number of the next new call: ids are ``run_id.n``."""
        numbers = (int(record.call.id.rpartition(".")[2]) for record in self.records)
        return max(numbers, default=-1) + 1


class Replay:
    """The rows of a run by what they asked."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        rows = [*journal.inherited, *journal.records]
        self._asked_again = _latest(rows)
        self._rows = {_key(row): row for row in rows if self._counts(row)}
        self._inherited: dict[tuple[str, str], deque[CallRecord]] = defaultdict(deque)
        if journal.by_order:
            for row in journal.inherited:
                self._inherited[row.call.kind, row.call.path].append(row)

    def answers(self) -> list[CallRecord]:
        """Everything to give back, in order of arrival."""
        rows = self._rows.values()
        found = {r.call.id: r for r in rows if r.arrival is not None and self.is_answer(r)}
        for by_order in self._inherited.values():
            found |= {row.call.id: row for row in by_order}
        return sorted(found.values(), key=lambda row: row.arrival or 0)

    def take(self, key: Key) -> CallRecord | None:
        """Return the row of a request, once."""
        row = self._rows.pop(key, None)
        if row is None and (rows := self._inherited.get(key[:2])):
            row = rows.popleft()
            self._rows.pop(_key(row), None)
        return row

    def is_answer(self, row: CallRecord) -> bool:
        """Whether the row is given back, not asked again.

        A failure is, if its agent went on after it. If nothing followed, it may be what ended the
        run, and then a retry asks again.
        """
        if row.state is CallState.DONE:
            return row.arrival is not None or INSIDE in row.call.path
        if row.arrival is None:
            return False
        survived = self._asked_again.get(row.call.path, -1) > row.seq
        return row.state is CallState.FAILED and (survived or not self._journal.again)

    def unasked(self) -> list[CallRecord]:
        """Answers that nobody has asked for yet, by the order in which they were first asked."""
        return sorted(self.answers(), key=lambda row: row.seq)

    def _counts(self, row: CallRecord) -> bool:
        """A finished row without a number was set aside when a changed workflow was accepted."""
        return self.is_answer(row) or row.state is not CallState.DONE


def _latest(rows: Iterable[CallRecord]) -> dict[str, int]:
    """The place of the last request of each path."""
    return {row.call.path: row.seq for row in sorted(rows, key=lambda row: row.seq)}


def _key(row: CallRecord) -> Key:
    call = row.call
    return (call.kind, call.path, call.request_hash, call.occurrence)


class Turns:
    """Lets answers out in order of their numbers, one at a time."""

    def __init__(self, due: Iterable[int] = (), first: int = 0) -> None:
        self._due = deque(sorted(due))
        self._next = max(self._due, default=first - 1) + 1
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._is_settling = False

    def __len__(self) -> int:
        """How many are still to be delivered."""
        return len(self._due)

    @property
    def waiting(self) -> int:
        """How many are there, and wait for one before them."""
        return len(self._waiting)

    def head(self) -> int | None:
        """The number that is to be delivered next."""
        return self._due[0] if self._due else None

    def draw(self) -> int:
        """Take the next number, for an answer that has come."""
        number = self._next
        self._next += 1
        self._due.append(number)
        return number

    async def wait(self, number: int) -> None:
        """Return when it is this number's turn. Left in any way, the turn is over."""
        try:
            if self._is_settling or self.head() != number:
                turn = self._waiting[number] = asyncio.get_running_loop().create_future()
                await turn
        finally:
            self._waiting.pop(number, None)
            self.skip(number)

    def skip(self, number: int) -> None:
        """Go on without this number; the next one's turn comes when things have settled."""
        was_head = self.head() == number
        if number in self._due:
            self._due.remove(number)
        if was_head and not self._is_settling:
            self._is_settling = True
            self._settle(SETTLING_ITERATIONS)

    def _settle(self, iterations: int) -> None:
        if iterations:
            asyncio.get_running_loop().call_soon(self._settle, iterations - 1)
            return
        self._is_settling = False
        head = self.head()
        if head is not None and (turn := self._waiting.get(head)) and not turn.done():
            turn.set_result(None)
