"""Follows runs of this process to their ends. Law of this file: each end is told.

Ctrl-C cancels the main task: the runs become *interrupted* on disk while Headway closes, and only
then the KeyboardInterrupt leaves the event loop. So the record of the runs is kept outside of it.
"""

import logging
import os
import sys
import time
from argparse import Namespace
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from traceback import format_exception
from typing import Any

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from headway_scheduler.errors import StoreError
from headway_scheduler.model.calls import CallRecord
from headway_scheduler.model.states import ENDED_RUNS, RunState

from ..api import Headway
from ..runs.events import Retrying, Started
from ..runs.handle import RunFailed, RunHandle
from ..runs.runner import Person
from .output import clean, complain, one_line, say, say_json
from .parser import BAD_DATABASE, CHANGED, FAILED, INTERRUPTED, WAITS
from .progress import progress_line
from .text import Totals, counted, status_line
from .views import View, new_view

_REPEATING_LOGGERS = ("autogen_core", "autogen_agentchat")
"""Loggers that print a traceback for every error of an agent, and every call that a Ctrl-C cancels.
Errors are printed here, once."""


COUNT_SECONDS = 5.0
"""How often it is counted how many runs are queued."""

_CHOICES = (
    "`headway resume {id} --on-change fork` goes on from there in a copy, "
    "`--on-change accept` here; or mend the workflow, and resume"
)
_ANSWERS = {
    True: '`headway runs answer {id} "WORDS"` goes on',
    False: "it was cut off, and may have happened: `headway runs answer {id} --done RESULT`, "
    "`--again` or `--abort`",
}


class Watch:
    """Follows runs, shows them in one view, and counts their ends."""

    def __init__(self, view: View) -> None:
        self.live: dict[str, RunHandle] = {}
        self.last: RunHandle | None = None
        self.states: Counter[RunState] = Counter()
        self.totals: Totals = Totals(0, 0, 0, 0.0)
        self.status: int = 0
        self._view = view
        self.takes_runs: bool = False
        """Whether queued runs are taken until none is left: their number says how far that is."""
        self._since = time.monotonic()
        self._answers: dict[str, int] = {}
        self._queued, self._count_at = 0, 0.0
        self._retries = 0
        self._last_retry = ""
        self._group: TaskGroup
        self._headway: Headway

    @asynccontextmanager
    async def beside(self, headway: Headway) -> AsyncIterator[None]:
        """Keep the status line while the block runs; leave when every run followed has ended."""
        self._headway = headway
        async with anyio.create_task_group() as helpers:
            helpers.start_soon(self._keep_status, headway)
            async with anyio.create_task_group() as self._group:
                yield
            helpers.cancel_scope.cancel()

    def follow(self, handle: RunHandle) -> None:
        """Show a run from its first event to its end, inside of :meth:`beside`."""
        self.live[handle.id] = handle
        self._group.start_soon(self._follow, handle)

    def count(self, handle: RunHandle) -> None:
        """Add a run that has ended or stopped to the sums."""
        # The same run may be here again by now, with another handle: its start failed.
        if self.live.get(handle.id) is handle:
            del self.live[handle.id]
        self.last = handle
        self._answers.pop(handle.id, None)
        self.states[handle.run.state] += 1
        self.totals = self.totals.plus(Totals.of(handle.calls.values(), time.time()))
        self.status = max(self.status, _status(handle))

    async def _follow(self, handle: RunHandle) -> None:
        async for event in handle.stream():
            if isinstance(event, Started):
                self._answers[handle.id] = event.answers
            if isinstance(event, Retrying):
                self._retries, self._last_retry = self._retries + 1, event.reason
            self._view.show(handle.id, event)
        if handle.run.state is not RunState.INTERRUPTED or handle.change is not None:
            self.count(handle)
            await self._tell_end(handle)

    async def _tell_end(self, handle: RunHandle) -> None:
        if handle.change is not None:
            complain(f"the workflow of {handle.id} changed: nothing was asked, paid or written")
            complain(handle.change)
            complain(_CHOICES.format(id=handle.id))
        elif handle.run.state is RunState.WAITING:
            asked = await self._headway.question(handle.id)
            if asked is None:
                complain(
                    f"{handle.id} waits for its batch: `headway work --forever` goes on with it"
                )
                return
            complain(f"{handle.id} waits for a person: {asked[1]}")
            complain(_ANSWERS[_is_question(asked)].format(id=handle.id))
        elif handle.run.state is not RunState.PAUSED:
            _tell_failure(handle)

    async def _progress(self, headway: Headway) -> list[str]:
        """Say how far it all is: what is given back, and how many of the runs have ended."""
        if not self._view.is_live:
            return []
        now = time.monotonic()
        told = []
        back = sum(min(run.replayed, self._answers.get(key, 0)) for key, run in self.live.items())
        answers = sum(self._answers.get(key, 0) for key in self.live)
        if back < answers:
            told.append(progress_line(back, answers, "answers given back", now - self._since))
        if self.takes_runs:
            if now >= self._count_at:
                self._queued = len(await headway.list_runs([RunState.QUEUED]))
                self._count_at = now + COUNT_SECONDS
            ended = self.states.total()
            total = ended + len(self.live) + self._queued
            told.append(progress_line(ended, total, "runs", now - self._since))
        return told

    async def _keep_status(self, headway: Headway) -> None:
        while True:
            await anyio.sleep(self._view.every_seconds)
            line = " | ".join([*await self._progress(headway), _status_line(headway)])
            if self._retries:
                sent_again = counted(self._retries, "retry", "retries")
                line = f"{line} | {sent_again}, the last: {self._last_retry}"
            self._view.status(line)


def watched(
    args: Namespace,
    work: Callable[[Namespace, Watch], Awaitable[None]],
    end: Callable[[Namespace, Watch], None],
    *,
    several_runs: bool,
) -> int:
    """Carry out ``work``, have ``end`` print the ends of its runs, and return the exit code."""
    for name in _REPEATING_LOGGERS:
        logging.getLogger(name).addHandler(logging.NullHandler())
    see_workflows()
    with new_view(as_json=args.json, several_runs=several_runs) as view:
        watch = Watch(view)
        try:
            anyio.run(work, args, watch)
        except KeyboardInterrupt:
            watch.status = INTERRUPTED
        finally:
            _tell_interrupted(watch)
    end(args, watch)
    return watch.status


def see_workflows() -> None:
    """Let module:factory be found in the working directory: a script has its own folder there."""
    sys.path.insert(0, os.getcwd())


def say_summary(watch: Watch, first: str, last: str) -> None:
    """Print two lines: the outcome with the sums, and where to see more."""
    say(f"{first} · {watch.totals}")
    say(last)


def say_result(watch: Watch, facts: dict[str, Any]) -> None:
    """Print the last line of ``--json``."""
    say_json({"event": "result", **facts, **watch.totals._asdict()}, indent=None)


def _status_line(headway: Headway) -> str:
    if not headway.is_leader:
        return f"waiting here: {headway.waiting_calls} (`headway top` shows all)"
    scheduler = headway.scheduler
    queued = scheduler.queued()
    head = scheduler.explain(queued[0].call.id) if queued else None
    return status_line(scheduler.statistics(), head, scheduler.now())


def _status(handle: RunHandle) -> int:
    if handle.change is not None:
        return CHANGED
    if handle.run.state in (RunState.COMPLETED, RunState.PAUSED):
        return 0
    if handle.run.state is RunState.WAITING:
        return WAITS
    return BAD_DATABASE if isinstance(handle.error, StoreError) else FAILED


def _is_question(asked: tuple[CallRecord, str] | None) -> bool:
    return asked is not None and asked[0].call.kind == "person"


def _tell_failure(handle: RunHandle) -> None:
    """Say why a run has no result. A bug in a factory or an agent keeps its traceback."""
    if handle.run.state is RunState.COMPLETED:
        return
    if handle.error is not None and type(handle.error).__module__ == "builtins":
        from headway_agents.secrets import scrubbed

        sys.stderr.write(clean(scrubbed("".join(format_exception(handle.error)))))
    complain(str(RunFailed(handle.run)))


def _tell_interrupted(watch: Watch) -> None:
    stopped = []
    for handle in list(watch.live.values()):
        watch.count(handle)
        if handle.is_local and handle.run.state not in ENDED_RUNS:
            stopped.append(handle.id)
        if handle.error is not None:
            _tell_failure(handle)
    if stopped:
        complain(f"interrupted {', '.join(stopped)}: `headway resume {stopped[0]}` goes on")


def asking() -> Person | None:
    """Return what asks the person at the terminal; None without a terminal."""
    return _read_line if sys.stdin.isatty() and sys.stderr.isatty() else None


async def _read_line(question: str) -> str:
    sys.stderr.write(f"{one_line(question)} ")
    sys.stderr.flush()
    line: str = await to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
    return line.rstrip("\n")
