"""Queues the runs of schedules when their time comes. Only the leader does.

Law of this file: a run and the row that says that its time is met are one commit.
docs/adr/0006-schedules.md says what a kill on any line leaves.

Theory of operation. The rows are kept in memory, because nobody else writes them; after a commit
that failed they are read again. A turn meets what is due by the wall clock, which may be set: so it
is looked at again before long, whatever time comes next.
"""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf

import anyio

from headway_scheduler.core.schedules import defined, meet, resumed, run_key
from headway_scheduler.errors import (
    CallerError,
    KeyTaken,
    SchedulerClosed,
    StoreCorrupt,
    StoreError,
)
from headway_scheduler.model.batch import Batch
from headway_scheduler.model.data import replace
from headway_scheduler.model.runs import Run
from headway_scheduler.model.schedules import Schedule, ScheduleState
from headway_scheduler.model.states import ENDED_RUNS
from headway_scheduler.ports import Store
from headway_scheduler.protocol.messages import SaveRun
from headway_scheduler.runtime.local import LocalScheduler
from headway_scheduler.runtime.pending import answer_here

from ..config import Config
from ..runs.options import new_run_id, permitted

LOOK_SECONDS = 20.0
"""How long the wall clock may be out of sight: it may be set, and the machine may have slept."""

MOST_SCHEDULES = 1_000
"""The most schedules of one database: each may queue a run a minute."""

_log = logging.getLogger("headway")


class ScheduleEnqueuer:
    """Queues runs of schedules, for the leader, and carries out commands about schedules.

    ``clock``: the wall clock, in epoch seconds.
    """

    def __init__(
        self,
        scheduler: LocalScheduler,
        store: Store,
        config: Config,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._scheduler = scheduler
        self._store = store
        self._config = config
        self._clock = clock
        self._lock = anyio.Lock()
        """Held from a look at a row until what follows from it is written."""
        self._states: dict[str, ScheduleState] | None = None
        """The rows by name; None: they are to be read."""
        self._odd: dict[str, Schedule] = {}
        """Definitions that cannot be met, and were complained of, by name."""
        self.awaited: set[str] = set()
        """Runs whose end lets a buffered run go."""
        self._looked_at = inf
        """The time of the last turn; before the first one, as if the clock were set back since."""
        self._changed = anyio.Event()

    async def serve(self) -> None:
        """Meet the times of all schedules, until cancelled. Raises StoreError."""
        while True:
            changed = self._changed  # before the look: a change during it is not missed
            next_at = await self._turn()
            seconds = min(next_at - self._clock(), LOOK_SECONDS)
            with anyio.move_on_after(max(0.0, seconds)):
                await changed.wait()

    def committed(self, batch: Batch) -> None:
        """Look again once a run has ended for whose end another one waits. Called after commits."""
        if any(run.id in self.awaited and run.state in ENDED_RUNS for run in batch.runs):
            self._wake()

    async def define(self, schedules: Sequence[Schedule], removed: Sequence[str]) -> None:
        """Write definitions, and delete others. Raises CallerError, or StoreError."""
        async with self._lock:
            states, now = await self._read(), self._clock()
            new = [defined(each, states.get(each.name), now) for each in schedules]
            kept = states.keys() | {each.name for each in new}
            if len(kept - set(removed)) > MOST_SCHEDULES:
                raise CallerError(f"there are {MOST_SCHEDULES:,} schedules: remove some first")
            await self._write(Batch(schedules=tuple(new), unscheduled=tuple(removed)))

    async def hold(self, name: str, is_paused: bool) -> None:
        """Pause a schedule, or have it go on. Raises CallerError for none, or StoreError."""
        async with self._lock:
            state = await self._find(name)
            if is_paused:
                held = replace(state, is_paused=True)
            else:
                held = resumed(state, self._clock()) if state.is_paused else state
            await self._write(Batch(schedules=(held,)))

    async def fire(self, name: str, run_id: str) -> None:
        """Queue the run of a schedule now. Raises CallerError for none, or StoreError."""
        async with self._lock:
            state = await self._find(name)
            batch, runs = Batch(), list[Run]()
            if await self._store.run(run_id) is None:
                run = self._run(state.schedule, None, run_id)
                fired = replace(state, last_at=self._clock(), last_run=run.id, skipped=0)
                batch, runs = Batch(schedules=(fired,)), [run]
            await self._write(batch, runs)

    async def _turn(self) -> float:
        """Meet what is due; return the next time, in epoch seconds; infinity for none."""
        async with self._lock:
            now, before = self._clock(), self._looked_at
            for state in list((await self._read()).values()):
                is_due = state.next_at <= now or state.buffered_at is not None
                # A clock that was set back may have left a next time that is far away.
                if self._is_odd(state) or not (is_due or now < before):
                    continue
                try:
                    await self._meet(state, now)
                except (StoreError, SchedulerClosed):
                    raise
                except Exception as error:  # of a newer version, another machine's zones, no time
                    self._odd[state.name] = state.schedule
                    _log.error("schedule %s is left out: %s", state.name, error)
            self._looked_at = now
            states = (await self._read()).values()
            known = (each for each in states if not (each.is_paused or self._is_odd(each)))
            return min((each.next_at for each in known), default=inf)

    def _is_odd(self, state: ScheduleState) -> bool:
        return self._odd.get(state.name) == state.schedule

    async def _meet(self, state: ScheduleState, now: float) -> None:
        met, times = meet(state, now, is_open=await self._is_open(state.last_run))
        runs: list[Run] = []
        for at in times:
            key = run_key(state.schedule, at)
            if not await self._is_queued(key):
                run = self._run(state.schedule, key, new_run_id())
                met = replace(met, last_at=at, last_run=run.id)
                runs.append(run)
        if met == state:
            return
        if met.skipped > state.skipped:
            _log.info(
                "schedule %s: %d times in a row without a run; the last one was %s",
                *(state.name, met.skipped, met.last_run or "none"),
            )
        try:
            await self._write(Batch(schedules=(met,)), runs)
        except KeyTaken:
            self._wake()  # somebody used the key meanwhile: the next turn finds that run

    async def _is_open(self, run_id: str | None) -> bool:
        """Whether a run has not ended. One whose row cannot be read holds no schedule up."""
        with suppress(StoreCorrupt):
            run = None if run_id is None else await self._store.run(run_id)
            return run is not None and run.state not in ENDED_RUNS
        return False

    async def _is_queued(self, key: str) -> bool:
        """Whether a run has a key. One whose row cannot be read has it."""
        with suppress(StoreCorrupt):
            return await self._store.run_with_key(key) is not None
        return True

    def _run(self, schedule: Schedule, key: str | None, run_id: str) -> Run:
        """Return the run of a schedule, to be queued now."""
        now, given = self._scheduler.now(), schedule.run
        deadline = None if given.deadline is None else now + given.deadline
        run = replace(given, id=run_id, key=key, created_at=now, deadline=deadline)
        return permitted(run, self._config)

    async def _read(self) -> dict[str, ScheduleState]:
        if self._states is None:
            self._know({state.name: state for state in await self._store.schedules()})
        assert self._states is not None
        return self._states

    async def _find(self, name: str) -> ScheduleState:
        states = await self._read()
        if name not in states:
            known = ", ".join(states) or "none"
            raise CallerError(f"no schedule {name!r}; there are: {known}")
        return states[name]

    async def _write(self, batch: Batch, runs: Sequence[Run] = ()) -> None:
        """Write rows, runs and the answer to the command that is carried out, in one commit."""
        states, self._states = await self._read(), None
        # Whether a commit stands that was cut off, only the rows can tell: they are read again.
        await self._scheduler.write(batch.joined_with([answer_here()]), *map(SaveRun, runs))
        states = states | {state.name: state for state in batch.schedules}
        self._know({k: v for k, v in states.items() if k not in batch.unscheduled})
        self._wake()

    def _know(self, states: dict[str, ScheduleState]) -> None:
        self._states = states
        waiting = (each for each in states.values() if each.buffered_at is not None)
        self.awaited = {each.last_run for each in waiting if each.last_run is not None}

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
