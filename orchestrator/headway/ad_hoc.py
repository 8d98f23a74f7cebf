"""The runs of calls that belong to no run: those of clients that a program makes for itself.

Law of this file: such a run begins with the first client, and is never resumed, because nobody
could build it again. It takes a bounded number of calls and then ends, so that it can be pruned
while the program, perhaps a server, goes on.
"""

from typing import TYPE_CHECKING

from headway_scheduler.model.calls import Priority
from headway_scheduler.model.data import replace
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import RunState
from headway_scheduler.runtime.client import SchedulerClient

from .config import Config
from .runs.options import new_run_id

if TYPE_CHECKING:
    from headway_agents import AdHocScope, RunScope

AD_HOC = "(ad hoc)"
"""The workflow of these runs, which take no slot of their worker."""
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
        self._current: tuple[Run, AdHocScope] | None = None
        self._earlier: list[tuple[Run, AdHocScope]] = []

    def scope(self) -> "AdHocScope":
        """The scope of the ad-hoc run that takes the next call."""
        now = self._scheduler.now()
        if self._current is not None and self._current[1].is_over:
            # A stream may have been asked for and not be read yet, so its run stays open while the
            # next one fills.
            self._end_idle(now)
            self._earlier.append(self._current)
            self._current = None
        if self._current is None:
            self._current = self._begun(now)
        return self._current[1]

    def scope_of_caller(self) -> "RunScope":
        """The scope of the run that asks, else that of the ad-hoc run."""
        from headway_agents import current_scope

        return current_scope.get() or self.scope()

    async def close(self) -> None:
        """Complete those that have begun."""
        now, begun = self._scheduler.now(), self._earlier
        if self._current is not None:
            begun = [*begun, self._current]
        self._current, self._earlier = None, []
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

    def _end_idle(self, now: float) -> None:
        """Complete earlier ones whose calls have ended. They take no call any more."""
        left = []
        for run, scope in self._earlier:
            if scope.live_calls:
                left.append((run, scope))
            else:
                scope.close()
                self._scheduler.note_run(_ended(run, now))
        self._earlier = left


def _ended(run: Run, now: float) -> Run:
    return replace(run, state=RunState.COMPLETED, finished_at=now, worker=None)
