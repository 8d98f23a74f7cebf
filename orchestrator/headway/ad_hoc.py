"""The runs of calls that belong to no run: those of clients that a program makes for itself.

Law of this file: such a run begins with the first client, and is never resumed, because nobody
could build it again. It takes a bounded number of calls and then ends, so that it can be pruned
while the program, perhaps a server, goes on.
"""

from typing import TYPE_CHECKING

from headway_scheduler.model.calls import Priority
from headway_scheduler.model.data import replace
from headway_scheduler.model.runs import AD_HOC, Run
from headway_scheduler.model.states import RunState
from headway_scheduler.runtime.client import SchedulerClient

from .config import Config
from .runs.options import new_run_id

if TYPE_CHECKING:
    from headway_agents import AdHocScope, RunScope

MOST_CALLS = 1_000
"""How many calls one of them takes,"""
LONGEST_SECONDS = 3_600.0
"""and for how long; the next call begins the next one."""


class AdHocRuns:
    """Has the scope of ``Headway.model`` and ``Headway.openai`` outside of runs."""

    def __init__(self, scheduler: SchedulerClient, worker: str, config: Config) -> None:
        self._scheduler = scheduler
        self._worker = worker
        self._highest = config.highest_of_all
        self._priority = max(config.priority, self._highest)
        self._open: list[tuple[Run, AdHocScope]] = []
        """Those that have begun and not ended; the last one takes the calls."""

    def scope(self) -> "AdHocScope":
        """The scope of the ad-hoc run that takes the next call."""
        if not self._open or self._open[-1][1].is_over:
            now = self._scheduler.now()
            # A stream of the last one may have been asked for and not be read yet, so that one
            # stays open while the next one fills.
            self._end_idle(self._open[:-1], now)
            self._open.append(self._begun(now))
        return self._open[-1][1]

    def scope_of_caller(self) -> "RunScope":
        """The scope of the run that asks, else that of the ad-hoc run."""
        from headway_agents import current_scope

        return current_scope.get() or self.scope()

    async def close(self) -> None:
        """Complete those that have begun."""
        now, begun, self._open = self._scheduler.now(), self._open, []
        for run, scope in begun:
            scope.close()
            await self._scheduler.save_run(_ended(run, now))

    def _begun(self, now: float) -> "tuple[Run, AdHocScope]":
        from headway_agents import AdHocScope

        run = Run(
            id=new_run_id(),
            workflow=AD_HOC,
            task="",
            priority=Priority.BACKGROUND,  # nobody waits for it as a whole
            state=RunState.RUNNING,
            created_at=now,
            started_at=now,
            worker=self._worker,
        )
        scope = AdHocScope(
            self._scheduler,
            run.id,
            self._priority,
            renew=self.scope,
            most_calls=MOST_CALLS,
            until=now + LONGEST_SECONDS,
        )
        scope.highest = self._highest
        self._scheduler.note_run(run)
        return run, scope

    def _end_idle(self, earlier: "list[tuple[Run, AdHocScope]]", now: float) -> None:
        """Complete those whose calls have ended. They take no call any more."""
        for run, scope in earlier:
            if not scope.live_calls:
                self._open.remove((run, scope))
                scope.close()
                self._scheduler.note_run(_ended(run, now))


def _ended(run: Run, now: float) -> Run:
    return replace(run, state=RunState.COMPLETED, finished_at=now, worker=None)
