"""Finds what calls wait for where that takes long, for the leader: says so, and has slots lent.

``headway work`` and ``top`` show what calls wait for. A program of one's own shows nothing: without
a word, a limit of a day that is spent looks like a program that hangs.
"""

import logging
from collections.abc import Callable, Sequence
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

CONTRADICTED = (
    'window = "fixed" is stated, and answers show a token bucket: leave `window` out of it'
)

_log = logging.getLogger("headway")


class LongWaits:
    """Reports each limit or pause that keeps calls for long: once, until it is to end.

    Reports also, once, a window that is stated and that answers contradict: calls wait in vain.

    ``on_stalled`` is called with the ids of the runs that it keeps.
    """

    def __init__(
        self, scheduler: LocalScheduler, on_stalled: Callable[[frozenset[str]], None]
    ) -> None:
        self._scheduler = scheduler
        self._on_stalled = on_stalled
        self._told: dict[tuple[str, str | None], float] = {}
        self._contradicted: set[str] = set()

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            await anyio.sleep(LOOK_SECONDS)
            self._look()

    def _look(self) -> None:
        for gauge in self._scheduler.statistics().gauges:
            if gauge.is_contradicted and gauge.quota not in self._contradicted:
                self._contradicted.add(gauge.quota)
                _log.warning("quota %r: %s", gauge.quota, CONTRADICTED)
        now = self._scheduler.now()
        self._told = {about: at for about, at in self._told.items() if at > now}
        reasons = self._scheduler.explain_first(MOST_LINES)
        stalled = {line for line, why in reasons.items() if self._is_long(why.blockers, now)}
        waiting = self._scheduler.queued() if stalled else ()
        self._on_stalled(
            frozenset(
                record.call.run_id
                for record in waiting
                if not record.parked and record.call.quotas in stalled
            )
        )

    def _is_long(self, blockers: Sequence[Blocker], now: float) -> bool:
        for blocker in blockers:
            self._tell(blocker, now)
        return any(
            blocker.stopped is not None or (blocker.at or now) - now >= LONG_SECONDS
            for blocker in blockers
        )

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
