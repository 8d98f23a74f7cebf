"""Says in the log what calls wait for, for the leader, where that takes long.

``headway work`` and ``top`` show it. A program of one's own shows nothing: without a word, a limit
of a day that is spent looks like a program that hangs.
"""

import logging
from datetime import UTC, datetime

import anyio

from headway_scheduler.core.views import Blocker
from headway_scheduler.runtime.local import LocalScheduler

LOOK_SECONDS = 20.0
"""How often the queue is looked at."""
LONG_SECONDS = 60.0
"""A wait that ends sooner needs no word."""
MOST_LINES = 16
"""How many lines of calls are looked at."""

_log = logging.getLogger("headway")


class LongWaits:
    """Reports each limit or pause that keeps calls for long: once, until it is to end."""

    def __init__(self, scheduler: LocalScheduler) -> None:
        self._scheduler = scheduler
        self._told: dict[tuple[str, str | None], float] = {}

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            await anyio.sleep(LOOK_SECONDS)
            self._look()

    def _look(self) -> None:
        now = self._scheduler.now()
        self._told = {about: at for about, at in self._told.items() if at > now}
        # The first of each line: those behind it wait for it.
        heads: dict[tuple[str, ...], str] = {}
        for record in self._scheduler.queued():
            if not record.parked and len(heads) < MOST_LINES:
                heads.setdefault(record.call.quotas, record.call.id)
        for call_id in heads.values():
            explained = self._scheduler.explain(call_id)
            for blocker in explained.blockers if explained is not None else ():
                self._tell(blocker, now)

    def _tell(self, blocker: Blocker, now: float) -> None:
        about = (blocker.quota, blocker.resource)
        if blocker.at is None or blocker.at - now < LONG_SECONDS or about in self._told:
            return
        self._told[about] = blocker.at
        _log.warning(
            "calls wait until %s: %s of quota %r (`headway queue list`)",
            f"{datetime.fromtimestamp(blocker.at, UTC):%Y-%m-%d %H:%M} UTC",
            "a pause by the provider" if blocker.resource is None else blocker.resource,
            blocker.quota,
        )
