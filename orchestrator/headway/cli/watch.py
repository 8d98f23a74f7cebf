"""Follows runs of this process to their ends. Law of this file: each end is told.

The first Ctrl-C drains: each run goes on until its calls in flight have come back, and is
interrupted. The second cancels the main task: the runs become *interrupted* on disk while Headway
closes, and only then the KeyboardInterrupt leaves the event loop. So the record of the runs is kept
outside of it.
"""

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
from anyio.abc import TaskGroup

from headway_scheduler.errors import CallerError, StoreError
from headway_scheduler.model.calls import CallRecord
from headway_scheduler.model.states import ENDED_RUNS, IN_FLIGHT, RunState

from ..api import Headway
from ..runs.events import Retrying, Started
from ..runs.handle import RunFailed, RunHandle
from ..runs.runner import Person
from . import output
from .interrupts import draining_first
from .output import clean, complain, say, say_json
from .parser import BAD_DATABASE, BAD_INPUT, CHANGED, FAILED, INTERRUPTED, WAITS
from .person import TerminalPerson
from .progress import progress_line
from .text import Totals, counted, next_to_go, status_line
from .views import View, new_view

MOST_LINES = 8
"""In how many lines of the queue the next call is looked for."""

COUNT_SECONDS = 5.0
"""How often it is counted how many runs are queued."""

_CHOICES = (
    "`headway resume {id} --on-change fork` goes on from there in a copy, "
    "`--on-change accept` here; or mend the workflow, and resume"
)
_ANSWERS = {
    True: '`headway runs answer {id} "WORDS"` goes on',
    False: "`headway runs answer {id} --done RESULT`, `--again` or `--abort` goes on",
}


class Watch:
    """Follows runs, shows them in one view, and counts their ends."""

    def __init__(self, view: View) -> None:
        self.live: dict[str, RunHandle] = {}
        self.last: RunHandle | None = None
        self.states: Counter[RunState] = Counter()
        self.totals: Totals = Totals(0, 0, 0, 0.0)
        self.status: int = 0
        self.is_draining: bool = False
        """Whether Ctrl-C was pressed: no more runs are begun."""
        self._view = view
        self.says_receipts: bool = False
        """Whether the receipt of a run that went on is printed when it has ended."""
        self.takes_runs: bool = False
        """Whether queued runs are taken until none is left: their number says how far that is."""
        self._since = time.monotonic()
        self._answers: dict[str, int] = {}
        self._queued, self._count_at = 0, 0.0
        self._person = TerminalPerson(view)
        self._asked_to_drain = anyio.Event()
        self._elsewhere: list[anyio.CancelScope] = []
        self._going = 0
        self._changed = anyio.Event()
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
            helpers.start_soon(self._drain_when_asked)
            async with anyio.create_task_group() as self._group:
                yield
            helpers.cancel_scope.cancel()

    async def room(self, most: int) -> None:
        """Wait until fewer than ``most`` of the runs that are followed go on."""
        while self._going >= most:
            await self._changed.wait()

    def refuse(self, error: CallerError) -> None:
        """Say why a run is not followed, and go on with the others."""
        complain(str(error))
        self.status = max(self.status, BAD_INPUT)

    def follow(self, handle: RunHandle) -> None:
        """Show a run from its first event to its end, inside of :meth:`beside`."""
        self.live[handle.id] = handle
        self._going += 1
        self._group.start_soon(self._follow, handle)
        if self.is_draining and handle.is_local:
            self._group.start_soon(handle.drain)

    def person(self) -> Person | None:
        """Return what asks the person at the terminal; None without a terminal."""
        return self._person if sys.stdin.isatty() and sys.stderr.isatty() else None

    def drain(self) -> bool:
        """Have the runs stop once their calls in flight have ended; return whether there are any.

        Runs of other processes are not followed any longer.
        """
        if not any(handle.is_local for handle in self.live.values()):
            return False
        self.is_draining = True
        self._asked_to_drain.set()
        self._tell()
        return True

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def _drain_when_asked(self) -> None:
        await self._asked_to_drain.wait()
        self._headway.drain()
        handles = [handle for handle in self.live.values() if handle.is_local]
        records = (record for handle in handles for record in handle.calls.values())
        in_flight = sum(record.state in IN_FLIGHT for record in records)
        self._person.end_line()
        waits = (
            f"{counted(in_flight, 'call')} in flight {'ends' if in_flight == 1 else 'end'} first"
        )
        complain(
            f"{waits if in_flight else 'nothing is in flight'}; Ctrl-C again stops at once", "info"
        )
        for handle in handles:
            self._group.start_soon(handle.drain)
        for scope in self._elsewhere:
            scope.cancel()

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
        with anyio.CancelScope() as scope:
            if not handle.is_local:
                self._elsewhere.append(scope)
            async for event in handle.stream():
                if isinstance(event, Started):
                    self._answers[handle.id] = event.answers
                if isinstance(event, Retrying):
                    self._retries, self._last_retry = self._retries + 1, event.reason
                self._view.show(handle.id, event)
        self._going -= 1
        self._tell()
        if scope.cancelled_caught:
            return
        if handle.run.state is not RunState.INTERRUPTED or handle.change is not None:
            self.count(handle)
            await self._tell_end(handle)
            if self.says_receipts and handle.run.attempts > 1:
                say(f"{handle.id}: {await self._headway.receipt(handle.id)}")

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
    shows_messages: bool = True,
) -> int:
    """Carry out ``work``, have ``end`` print the ends of its runs, and return the exit code."""
    see_workflows()
    with new_view(
        as_json=args.json, several_runs=several_runs, shows_messages=shows_messages
    ) as view:
        watch = Watch(view)

        async def interruptible() -> None:
            with draining_first(watch.drain):
                await work(args, watch)

        try:
            anyio.run(interruptible)
        except KeyboardInterrupt:
            watch.is_draining = True
        finally:
            _tell_interrupted(watch)
    if watch.is_draining:
        watch.status = INTERRUPTED
    end(args, watch)
    return watch.status


def see_workflows() -> None:
    """Let module:factory be found in the working directory: a script has its own folder there."""
    sys.path.insert(0, os.getcwd())


def say_result(watch: Watch, facts: dict[str, Any]) -> None:
    """Print the last line of ``--json``."""
    say_json({"event": "result", **facts, **watch.totals._asdict()}, indent=None)


def _status_line(headway: Headway) -> str:
    if not headway.is_leader:
        waiting = headway.waiting_calls or "none"
        return f"waiting: {waiting} of this process (`headway queue` shows for what)"
    scheduler = headway.scheduler
    now, reasons = scheduler.now(), scheduler.explain_first(MOST_LINES)
    head = next_to_go(list(reasons.values()), now)
    return status_line(scheduler.statistics(), head, now)


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

        output.teller("error", clean(scrubbed("".join(format_exception(handle.error)))))
    complain(str(RunFailed(handle.run)))


def _tell_interrupted(watch: Watch) -> None:
    stopped = []
    for handle in list(watch.live.values()):
        watch.count(handle)
        if handle.is_local and handle.run.state not in ENDED_RUNS:
            stopped.append(handle.id)
        if not handle.is_local:
            complain(f"{handle.id} goes on elsewhere: `headway runs logs {handle.id} -f`")
        if handle.error is not None:
            _tell_failure(handle)
    if stopped:
        one = f"`headway resume {stopped[0]}` goes on"
        several = "`headway resume --all` goes on, and so does `headway work --forever`"
        what = one if len(stopped) == 1 else several
        complain(f"interrupted {', '.join(stopped)}: {what}", "info")
