"""The run of calls that belong to no run: those of clients that a program makes for itself.

Law of this file: it begins with the first such client, ends when Headway closes, and is never
resumed: nobody could build it again.
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
"""The workflow of the run, which takes no slot of its worker."""


class AdHocRun:
    """Has the scope of ``Headway.model`` and ``Headway.openai`` outside of runs."""

    def __init__(self, scheduler: SchedulerClient, worker: str, config: Config) -> None:
        self._scheduler = scheduler
        self._worker = worker
        self._highest = config.highest_of_all
        self._priority = max(config.priority, self._highest)
        self._begun: tuple[Run, AdHocScope] | None = None

    def scope(self) -> "AdHocScope":
        """The scope of the ad-hoc run, which begins if it has not."""
        if self._begun is None:
            from headway_agents import AdHocScope

            now = self._scheduler.now()
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
            scope = AdHocScope(self._scheduler, run.id, self._priority)
            scope.highest = self._highest
            self._begun = (run, scope)
            self._scheduler.note_run(run)
        return self._begun[1]

    def scope_of_caller(self) -> "RunScope":
        """The scope of the run that asks, else that of the ad-hoc run."""
        from headway_agents import current_scope

        return current_scope.get() or self.scope()

    async def close(self) -> None:
        """Complete the run, if it has begun."""
        if self._begun is not None:
            run, scope = self._begun
            scope.close()
            now = self._scheduler.now()
            ended = replace(run, state=RunState.COMPLETED, finished_at=now, worker=None)
            await self._scheduler.save_run(ended)
            self._begun = None
