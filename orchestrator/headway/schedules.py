"""Schedules: what a program and its file define, and what an operator does with them.

Law of this file: definitions are compared where they are stated; the leader alone writes them.
"""

import logging
from collections.abc import Sequence

from headway_scheduler.core.schedules import SHORTEST_CATCHUP_SECONDS, check_cron, zone_of
from headway_scheduler.errors import CallerError
from headway_scheduler.model.data import replace
from headway_scheduler.model.schedules import Overlap, Schedule, ScheduleState
from headway_scheduler.ports import Store
from headway_scheduler.protocol.commands import FireSchedule, HoldSchedule, SetSchedules

from . import arguments
from .config import Config, ScheduleConfig
from .config.keys import COMPONENT_SUFFIXES
from .runs.options import StartOptions, described_run, new_run, new_run_id
from .workers.commands import Commands
from .workflows import Workflows

_log = logging.getLogger("headway")


class Definitions:
    """The schedules that a program names, and those of its file."""

    def __init__(self, config: Config, workflows: Workflows) -> None:
        self._config = config
        self._workflows = workflows
        self._named: dict[str, Schedule] = {}

    def name(
        self,
        name: str,
        *,
        cron: str,
        zone: str,
        workflow: str,
        task: object,
        overlap: Overlap | str,
        catchup_window_seconds: float,
        options: StartOptions,
    ) -> None:
        """Take the schedule of a program. Raises CallerError for what cannot be one."""
        if arguments.text("name", name) in self._config.schedules:
            file = self._config.file
            raise CallerError(f"schedule {name!r} is in {file} already: choose another name")
        if options.get("key") is not None:
            raise CallerError("a schedule makes the key of each of its runs: leave key out")
        run, _ = new_run(self._workflows, self._config, 0.0, workflow, task, options)
        zone_of(arguments.text("zone", zone))
        self._named[name] = Schedule(
            name,
            check_cron(arguments.text("cron", cron)),
            zone,
            replace(run, id=""),
            _overlap(overlap),
            arguments.amount(
                "catchup_window_seconds", catchup_window_seconds, least=SHORTEST_CATCHUP_SECONDS
            ),
        )

    @property
    def are_any(self) -> bool:
        """Whether this process defines any."""
        return bool(self._named or self._config.schedules)

    async def declare(self, store: Store, commands: Commands) -> None:
        """Have the leader write what differs from the rows. Raises CallerError or StoreError."""
        rows = {state.name: state.schedule for state in await store.schedules()}
        stated = dict(self._named)
        for name, of_file in self._config.schedules.items():
            try:
                stated[name] = self._of_file(name, of_file)
            except CallerError as error:  # a component file is gone: no reason to open nothing
                _log.error("schedule %s of the file stays as it was: %s", name, error)
        changed = tuple(each for name, each in stated.items() if rows.get(name) != each)
        file = None if self._config.file is None else str(self._config.file)
        gone = tuple(
            name
            for name, each in rows.items()
            if each.source is not None and each.source == file
            if name not in stated and name not in self._config.schedules
        )
        if changed or gone:
            await commands.execute(SetSchedules(changed, gone))

    def _of_file(self, name: str, stated: ScheduleConfig) -> Schedule:
        workflow, component = stated.workflow, None
        # A name that only a program registers is kept: its runs wait for a worker that has it.
        is_file = workflow.endswith(COMPONENT_SUFFIXES)
        if is_file or ":" in workflow or workflow in self._workflows.names:
            workflow, component = self._workflows.describe(workflow)
        options: StartOptions = {
            "priority": stated.priority,
            "team": stated.team,
            "parameters": stated.parameters,
            "budget_usd": stated.budget_usd,
            "deadline_seconds": stated.deadline,
            "lane": stated.lane,
        }
        given = arguments.task(stated.task)
        run, _ = described_run(self._config, 0.0, workflow, component, given, options)
        return Schedule(
            name,
            stated.cron,
            stated.zone,
            replace(run, id=""),
            Overlap(stated.overlap),
            stated.catchup_window,
            str(self._config.file),
        )


class Schedules:
    """Lists, pauses, resumes, runs and removes schedules. ``Headway.schedules`` is one."""

    def __init__(self, commands: Commands, store: Store, config: Config) -> None:
        self._commands = commands
        self._store = store
        self._config = config

    async def list(self) -> Sequence[ScheduleState]:
        """Return all schedules of the database, by name, with what became of each."""
        return await self._store.schedules()

    async def pause(self, name: str) -> None:
        """Queue no run of a schedule until it is resumed. Raises CallerError for none."""
        await self._commands.execute(HoldSchedule(arguments.text("name", name), is_paused=True))

    async def resume(self, name: str) -> None:
        """Go on with a paused schedule; what came meanwhile is not caught up.

        Raises CallerError for none.
        """
        await self._commands.execute(HoldSchedule(arguments.text("name", name), is_paused=False))

    async def run(self, name: str) -> str:
        """Queue the run of a schedule now, and return its id. Raises CallerError for none.

        Neither its overlap policy nor a pause holds it back; its next time stays as it is.
        """
        run_id = new_run_id()
        await self._commands.execute(FireSchedule(arguments.text("name", name), run_id))
        return run_id

    async def remove(self, name: str) -> None:
        """Delete a schedule; its runs stay. Raises CallerError for none.

        Raises CallerError too for one of the file, and a program that names it defines it again
        when it opens.
        """
        if name in self._config.schedules:
            raise CallerError(
                f"schedule {name!r} is in {self._config.file}: take it out there; it goes when the "
                "next process opens with that file"
            )
        states = await self._store.schedules()
        if not any(state.name == name for state in states):
            known = ", ".join(state.name for state in states) or "none"
            raise CallerError(f"no schedule {name!r}; there are: {known}")
        await self._commands.execute(SetSchedules((), (name,)))


def _overlap(value: object) -> Overlap:
    try:
        return Overlap(str(value))
    except ValueError:
        permitted = ", ".join(Overlap)
        raise CallerError(f"overlap must be one of {permitted}, not {value!r}") from None
