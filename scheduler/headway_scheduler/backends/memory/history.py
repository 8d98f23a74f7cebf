"""History in memory. Law of this file: it behaves as that of the SQLite store does."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from ...model.batch import Batch
from ...model.calls import CallRecord, Priority
from ...model.history import HOUR, MINUTE, Crowd, Ended, Retention, Try, WaitCount

WaitKey = tuple[int, int, Priority, str, int]
"""Span, its beginning, class, team and bucket of a ``WaitCount``."""


@dataclass
class HistoryTables:
    """The rows of history."""

    tries: dict[int, Try] = field(default_factory=dict[int, Try])
    waits: Counter[WaitKey] = field(default_factory=Counter[WaitKey])
    crowds: dict[tuple[int, Priority], Crowd] = field(
        default_factory=dict[tuple[int, Priority], Crowd]
    )
    last_try: int = 0
    """The id of the last try."""

    def write(self, batch: Batch) -> None:
        """Write what a commit has of history."""
        for each in batch.tries:
            self.last_try += 1
            self.tries[self.last_try] = each
        for count in batch.waits:
            key = (count.span, count.at, count.priority, count.team, count.bucket)
            self.waits[key] += count.calls
        for crowd in batch.crowds:
            old = self.crowds.get((crowd.at, crowd.priority), crowd)
            waiting, in_flight = (
                max(crowd.waiting, old.waiting),
                max(crowd.in_flight, old.in_flight),
            )
            new = Crowd(crowd.at, crowd.priority, waiting, in_flight)
            self.crowds[crowd.at, crowd.priority] = new
        for retention in batch.prune:
            tries, waits, crowds = self.outdated(retention)
            self.tries = {k: v for k, v in self.tries.items() if k not in tries}
            self.waits = Counter({k: v for k, v in self.waits.items() if k not in waits})
            self.crowds = {k: v for k, v in self.crowds.items() if k not in crowds}

    def forget(self, run_ids: Collection[str]) -> None:
        """Delete the tries of runs that are gone."""
        self.tries = {k: v for k, v in self.tries.items() if v.run_id not in run_ids}

    def outdated(self, keep: Retention) -> tuple[set[int], set[WaitKey], set[tuple[int, Priority]]]:
        """Return the keys of the rows that are to go."""
        since = {MINUTE: keep.minutes_since, HOUR: keep.hours_since}
        return (
            {
                key
                for key, each in self.tries.items()
                if each.ended_at < keep.tries_since or key <= self.last_try - keep.most_tries
            },
            {key for key in self.waits if key[1] < since[key[0]]},
            {key for key in self.crowds if key[0] < keep.crowds_since},
        )


class MemoryHistory:
    """Answers questions about the past, from the rows of a database in memory."""

    def __init__(self, tables: HistoryTables, calls: Callable[[], Iterable[CallRecord]]) -> None:
        self._tables, self._calls = tables, calls

    async def tries(
        self, *, run_id: str | None = None, since: float = 0.0, limit: int | None = None
    ) -> Sequence[Try]:
        """Return attempts without an answer that ended at ``since`` or later, newest first."""
        found = [
            each
            for each in reversed(self._tables.tries.values())
            if each.ended_at >= since and run_id in (None, each.run_id)
        ]
        if run_id is None:
            found.sort(key=lambda each: each.ended_at, reverse=True)
        return found[:limit]

    async def waits(self, span: int, since: float) -> Sequence[WaitCount]:
        """Return counts of waits by spans that began at ``since`` or later."""
        waits = self._tables.waits
        keys = sorted(key for key in waits if key[0] == span and key[1] >= since)
        return [WaitCount(*key, waits[key]) for key in keys]

    async def crowds(self, since: float) -> Sequence[Crowd]:
        """Return crowds of minutes that began at ``since`` or later."""
        crowds = self._tables.crowds
        return [crowds[key] for key in sorted(crowds) if key[0] >= since]

    async def ended(self, since: float, *, most: int) -> Sequence[Ended]:
        """Return, of the ``most`` last calls, those that ended at ``since`` or later."""
        calls, given, made = (Counter[tuple[str, ...]]() for _ in range(3))
        last = sorted(self._calls(), key=lambda record: record.seq, reverse=True)
        for record in islice(last, most):
            quotas, usage = record.call.quotas, record.usage
            if quotas and (record.finished_at or 0.0) >= since:
                calls[quotas] += 1
                given[quotas] += 0 if usage is None else usage.input_tokens
                made[quotas] += 0 if usage is None else usage.output_tokens
        return [Ended(key, calls[key], given[key], made[key]) for key in sorted(calls)]

    async def has_outdated(self, retention: Retention) -> bool:
        """Whether there is history to prune."""
        return any(self._tables.outdated(retention))
