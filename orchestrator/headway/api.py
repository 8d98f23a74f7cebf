"""``Headway``: what Python, the command line and the web may ask or do. The one seam.

Everything that imports AutoGen is imported when the first team is built, not before.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, Self, Unpack

from headway_scheduler.errors import CallerError
from headway_scheduler.model.calls import CallRecord, Priority
from headway_scheduler.model.runs import Run
from headway_scheduler.model.schedules import CATCHUP_SECONDS, Overlap
from headway_scheduler.model.states import RunState
from headway_scheduler.ports import Report, unheard
from headway_scheduler.protocol.commands import CancelRun, PauseRun
from headway_scheduler.runtime.local import LocalScheduler

from . import arguments
from . import config as configuration
from .limits import Limits
from .owner import NOT_OPEN, SessionOwner
from .pricing.costs import Cost, costs_by
from .pricing.prices import Prices
from .queue import Queue
from .runs.actions import Check, OnChange, OnUnknown
from .runs.event_stream import EventStream
from .runs.handle import RunHandle, RunResult
from .runs.options import RunOptions, StartOptions, new_run
from .runs.receipt import Receipt, receipt_of
from .runs.runner import Person
from .runs.stopped import find_run
from .schedules import Definitions, Schedules
from .session import Opener, Session
from .workflows import Factory, Workflows

if TYPE_CHECKING:
    from autogen_core.models import ChatCompletionClient
    from openai import AsyncOpenAI

    from headway_agents import TaskInput


class Headway:
    """One scheduler, its database and the workflows that it can run.

    Use as an async context manager; outside of the block everything but :meth:`workflow` raises
    CallerError. Leaving it waits for the runs that were started in it; leaving it with an error, or
    cancelling it, interrupts them. Settings come from ``config``, a path or a Config, else from
    ``HEADWAY_CONFIG`` or ``./headway.toml``. ``label`` names this process where workers are listed.
    """

    def __init__(
        self, config: "str | PathLike[str] | configuration.Config | None" = None, *, label: str = ""
    ) -> None:
        if not isinstance(config, configuration.Config):
            config = configuration.load(config)
        self.config = config
        self._prices = Prices(config)
        self.workflows: Workflows = Workflows(config)
        self._definitions = Definitions(config, self.workflows)
        self._opener = Opener(config, self.workflows, self._definitions, self._prices, label)
        self._owner: SessionOwner | None = None

    def workflow(self, name: str) -> Callable[[Factory], Factory]:
        """Register a factory: it gets ``models`` and returns a fresh AutoGen team or agent."""
        return partial(self.workflows.register, name)

    def schedule(
        self,
        name: str,
        *,
        cron: str,
        workflow: str,
        task: "TaskInput",
        zone: str = "UTC",
        overlap: Overlap | str = Overlap.SKIP,
        catchup_window_seconds: float = CATCHUP_SECONDS,
        **options: Unpack[StartOptions],
    ) -> None:
        """Have a run queued again and again, for any worker, by whichever process leads.

        ``cron``: minute, hour, day of the month, month and day of the week, by the clocks of
        ``zone``. ``overlap``: ``skip``, ``buffer_one`` or ``allow_all``: what becomes of a time at
        which the run before has not ended. ``catchup_window_seconds``: how old a missed time may be
        when it is caught up. It holds from when this opens, and stays when this closes, until it is
        removed or named anew. Raises CallerError for what cannot be, and while this is open.
        """
        if self._owner is not None and self._owner.is_open:
            raise CallerError(f"name schedule {name!r} before Headway opens: it is written then")
        self._definitions.name(
            name,
            cron=cron,
            zone=zone,
            workflow=workflow,
            task=task,
            overlap=overlap,
            catchup_window_seconds=catchup_window_seconds,
            options=options,
        )

    async def open(self) -> Self:
        """Open the database, and lead; if another process does, follow it. Raises StoreError.

        It may be closed in another task of the same event loop, as notebooks and fixtures do.
        """
        if self._owner is not None and self._owner.is_open:
            raise CallerError("Headway is open already: close it first, or make another one")
        owner = SessionOwner(self._opener)
        await owner.open()
        self._owner = owner
        return self

    async def close(self, error: BaseException | None = None) -> None:
        """Wait for the runs, or interrupt them if there is an ``error``, and close."""
        await self.__aexit__(None, error, None)

    __aenter__ = open

    async def __aexit__(
        self, kind: object, error: BaseException | None, trace: object
    ) -> bool | None:
        return None if self._owner is None else await self._owner.close(error)

    @property
    def _opened(self) -> Session:
        if self._owner is not None:
            return self._owner.session
        raise CallerError(NOT_OPEN)

    async def run(
        self, workflow: str, *, task: "TaskInput", **options: Unpack[StartOptions]
    ) -> RunResult:
        """Execute a run here and wait for its result. Raises RunFailed; else as :meth:`start`."""
        return await (await self.start(workflow, task=task, **options)).result()

    def run_sync(
        self, workflow: str, *, task: "TaskInput", **options: Unpack[StartOptions]
    ) -> RunResult:
        """Open, execute a run, wait for its result, and close. For scripts. As :meth:`run`.

        Raises CallerError where an event loop runs already, as in a notebook: await :meth:`run`.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise CallerError("run_sync cannot wait inside of an event loop: await hw.run(…)")

        async def opened() -> RunResult:
            async with self:
                return await self.run(workflow, task=task, **options)

        return asyncio.run(opened())

    async def start(
        self, workflow: str, *, task: "TaskInput", **options: Unpack[StartOptions]
    ) -> RunHandle:
        """Queue a run and start it here. With a ``key`` that was used before: that run.

        It goes on if it was interrupted; if another process executes it, it is waited for. Raises
        CallerError for a workflow that does not exist, StoreError if it is not on disk.
        """
        now = self._opened.scheduler.now()
        run, asked_priority = new_run(self.workflows, self.config, now, workflow, task, options)
        return await self._opened.executor.start(run, asked_priority)

    async def submit(
        self, workflow: str, *, task: "TaskInput", **options: Unpack[StartOptions]
    ) -> RunHandle:
        """Queue a run for any worker; the handle's ``run`` is its row. Else as :meth:`start`."""
        now = self._opened.scheduler.now()
        run, asked_priority = new_run(self.workflows, self.config, now, workflow, task, options)
        return await self._opened.executor.submit(run, asked_priority)

    async def handle(self, run_id: str) -> RunHandle:
        """Return a handle of a run, by whatever process it is executed. Raises RunNotFound."""
        return self._opened.executor.handle(await self.get_run(run_id))

    def events(self) -> EventStream:
        """Return an async iterator of what happens in all runs that this process executes.

        It yields ``Progress``, from now on until this closes. 1,000 events wait for a slow reader;
        of more, the oldest are lost, and ``Missed`` says how many.
        """
        return self._opened.executor.streams.open()

    async def get_run(self, run_id: str) -> Run:
        """Return the row of a run; its id may be shortened. Raises RunNotFound."""
        return await find_run(self._opened.store, run_id)

    async def list_runs(
        self,
        states: Sequence[RunState] = (),
        *,
        team: str | None = None,
        limit: int | None = None,
    ) -> Sequence[Run]:
        """Return the rows of runs, newest first; at most ``limit``, if given.

        ``states``: those in any of them; none: all. ``team``: those of a team; a run that names
        none belongs to the team that is called as its workflow.
        """
        most = None if limit is None else arguments.count("limit", limit, least=1)
        return await self._opened.store.runs(states, team=team, limit=most)

    async def list_calls(self, run_id: str) -> Sequence[CallRecord]:
        """Return the rows of a run's calls and steps, by arrival."""
        return await self._opened.store.calls(run_id)

    async def work(
        self,
        *,
        slots: int,
        forever: bool = False,
        watch: Callable[[RunHandle], None] | None = None,
    ) -> None:
        """Execute queued runs, most urgent first, ``slots`` at once, until none is left.

        ``forever``: take up interrupted runs as well, each once, and wait for more, until
        :meth:`drain`. ``watch`` is told of each run that starts; without one, the log says which
        runs failed.
        """
        await self._opened.executor.work(slots, forever, watch)

    def drain(self, *, timeout_seconds: float | None = None) -> None:
        """Take no more runs: :meth:`work` returns when those that it executes have ended.

        ``timeout_seconds``: after so long those that are left are interrupted, each once its calls
        in flight have ended; they lose no life. Nothing happens if Headway is closed.
        """
        if self._owner is not None and self._owner.is_open:
            self._opened.executor.drain(timeout_seconds)

    @property
    def is_draining(self) -> bool:
        """Whether :meth:`drain` was called."""
        return self._opened.executor.is_draining

    async def resume(
        self, run_id: str, *, unknown: OnUnknown = "send", on_change: OnChange = "abort"
    ) -> RunHandle:
        """Go on with a run that was interrupted or paused, or that a person has answered.

        ``unknown``: calls that were cut off in flight are sent again, or wait for a person.
        ``on_change``, if the workflow asks for something else than it did: abort changes nothing,
        fork goes on in a new run, accept in this one without its other answers. Raises RunNotFound
        or RunNotResumable.
        """
        return await self._opened.actions.resume(run_id, unknown, on_change)

    async def resume_all(self, *, unknown: OnUnknown = "send") -> list[RunHandle]:
        """Go on with every interrupted run, most urgent first."""
        return await self._opened.actions.resume_all(unknown)

    async def check(self, run_id: str, *, unknown: OnUnknown = "send") -> Check:
        """Replay a run offline, and say what resuming it would do. Nothing is paid or written."""
        return await self._opened.actions.check(run_id, unknown)

    async def retry(self, run_id: str, **options: Unpack[RunOptions]) -> RunHandle:
        """Go on with a failed run from its failure, with other options if given."""
        return await self._opened.actions.retry(run_id, options)

    async def fork(self, run_id: str, *, at: str, task: "TaskInput | None" = None) -> RunHandle:
        """Start a copy of a run that asks call ``at`` anew; what was answered before it is free.

        With another ``task``, the same agents get the earlier answers in order, whatever they ask.
        """
        return await self._opened.actions.fork(run_id, at, task)

    async def continue_run(self, run_id: str, task: "TaskInput") -> RunHandle:
        """Give the team of a completed run another task, as a new run; what it did is free."""
        return await self._opened.actions.continue_run(run_id, task)

    async def cancel(self, run_id: str) -> Run:
        """End a run for good, executed or not, by whatever process.

        Raises RunNotFound, and RunNotResumable for one that has completed or failed.
        """
        await self._opened.commands.execute(CancelRun((await self.get_run(run_id)).id))
        return await self.get_run(run_id)

    async def pause(self, run_id: str) -> Run:
        """Stop a run at its next call, until it is resumed; executed by whatever process."""
        await self._opened.commands.execute(PauseRun((await self.get_run(run_id)).id))
        return await self.get_run(run_id)

    async def question(self, run_id: str) -> tuple[CallRecord, str] | None:
        """Return what a run waits for a person to answer or decide: the call, and what it asks."""
        return await self._opened.actions.question(run_id)

    async def answer(
        self, run_id: str, words: str | None = None, *, again: bool = False, abort: bool = False
    ) -> Run:
        """Give a person's ``words`` to a waiting run, as the answer or as what came of a step.

        ``again``: the step that was cut off is done again; ``abort``: the run is cancelled.
        :meth:`resume` goes on with it, or a worker does. Raises NothingToAnswer, RunNotFound, or
        CallerError for none of the three or several.
        """
        return await self._opened.actions.answer(run_id, words, again, abort)

    async def receipt(self, run_id: str) -> Receipt:
        """Sum up what the last attempt at a run replayed, paid and saved."""
        run = await self.get_run(run_id)
        return await receipt_of(self._opened.store, run, self._prices.usd_of)

    async def prune(
        self,
        *,
        older_than_seconds: float | None = None,
        keep: int | None = None,
        is_dry: bool = False,
        report: Report = unheard,
    ) -> list[str]:
        """Delete runs that ended ``older_than_seconds`` ago, but not the last ``keep``; return ids.

        ``is_dry``: only say which. ``report`` is told how many are gone, and of how many. A run
        that another one began as a copy of stays as long as that one. Raises CallerError if neither
        number is given.
        """
        return await self._opened.actions.prune(older_than_seconds, keep, is_dry, report)

    def ask(self, person: Person | None) -> None:
        """Have runs ask a person who is present; without one, a run that has a question waits.

        It waits as well where ``person`` raises EOFError, as ``input()`` does.
        """
        self._opened.runner.person = person

    def model(
        self,
        model: "str | ChatCompletionClient",
        *,
        priority: Priority | str | None = None,
        **arguments: Any,
    ) -> "ChatCompletionClient":
        """Make a scheduled client for an agent of your own, by name or around your client.

        ``arguments`` go with each of its requests, such as ``temperature=0.2``: what AutoGen's
        client of the model takes as ``extra_create_args``.
        Its calls are those of ad-hoc runs, which cannot be resumed.
        """
        scope = self._opened.ad_hoc.scope()
        return self.workflows.client(model, scope, priority=priority, **arguments)

    def openai(self, model: str, *, priority: Priority | str | None = None) -> "AsyncOpenAI":
        """Make OpenAI's own client, scheduled, for memory stores and tools that use the SDK.

        Its calls draw on the quotas of ``model``, whatever model they name. They belong to the run
        that asks, else to the ad-hoc run.
        """
        scope = self._opened.ad_hoc.scope_of_caller
        return self.workflows.openai(model, scope, priority=priority)

    @property
    def queue(self) -> Queue:
        """Changes the order of the queue, and what is held back."""
        return Queue(self._opened.commands, self._opened.store, self.config)

    @property
    def limits(self) -> Limits:
        """Changes limits of quotas and shares of teams."""
        return Limits(self._opened.commands, self._opened.store)

    @property
    def schedules(self) -> Schedules:
        """Lists, pauses, resumes, runs and removes schedules."""
        return Schedules(self._opened.commands, self._opened.store, self.config)

    async def costs(self, by: str = "model", *, since_seconds: float | None = None) -> list[Cost]:
        """Add up what was spent, by model, team, workflow, run or day (UTC), and last the total.

        ``since_seconds``: only calls that came no longer ago. Raises CallerError for another key.
        """
        return await costs_by(by, since_seconds, self._opened.store, self._prices)

    @property
    def scheduler(self) -> LocalScheduler:
        """The scheduler, in the process that leads. Raises StoreBusy in another one."""
        return self._opened.local_scheduler

    @property
    def is_leader(self) -> bool:
        """Whether this process admits calls itself; else another one does."""
        return self._opened.leader is not None

    @property
    def waiting_calls(self) -> int:
        """How many calls of this process wait to be admitted."""
        return self._opened.scheduler.waiting_calls
