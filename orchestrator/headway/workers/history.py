"""Prunes history, for the leader. Law of this file: it deletes no run, and nothing that costs say.

Waits by the minute are kept for as long as anybody looks at minutes, waits by the hour for a
quarter. Tries can grow fast where a provider refuses much, so their number is limited too.
"""

import anyio

from headway_scheduler.model.batch import NOTHING, Batch
from headway_scheduler.model.history import Retention
from headway_scheduler.ports import History
from headway_scheduler.runtime.local import LocalScheduler

PRUNE_SECONDS = 60.0
"""How often history is pruned."""
DAY = 86_400.0
MOST_TRIES = 100_000
"""How many tries are kept: with errors of 300 characters about 50 MB."""


def retention(now: float) -> Retention:
    """Return how much history is kept at ``now``, epoch seconds."""
    return Retention(
        minutes_since=now - 3 * DAY,
        hours_since=now - 90 * DAY,
        crowds_since=now - 14 * DAY,
        tries_since=now - 30 * DAY,
        most_tries=MOST_TRIES,
    )


class HistoryPruner:
    """Deletes old history a few thousand rows a commit, so that no caller waits for long."""

    def __init__(self, scheduler: LocalScheduler, history: History) -> None:
        self._scheduler, self._history = scheduler, history

    async def run(self) -> None:
        """Prune once a minute, until cancelled. Raises StoreError."""
        while True:
            await anyio.sleep(PRUNE_SECONDS)
            await self.prune()

    async def prune(self) -> None:
        """Delete what is too old. Raises StoreError."""
        # Nobody may ask for anything while many wait, say for a pause to end. Then this writes how
        # many they were; a commit of nothing writes nothing.
        await self._scheduler.write(NOTHING)
        keep = retention(self._scheduler.now())
        while await self._history.has_outdated(keep):
            await self._scheduler.write(Batch(prune=(keep,)))
