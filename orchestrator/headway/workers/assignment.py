"""Gives runs that wait to workers with room. Law: a run is given to one worker at a time.

A run is given by a row that names the worker, in the commit that tells the worker. A *suspect*, of
which a worker died before, is given to a worker that executes nothing else but suspects that got
further since; the worker gets nothing else until this one got further, too. In its last life a
suspect is given to a worker that executes nothing. So whoever is blamed in the end was alone. But
what a worker executes may wait until midnight for dollars: then suspects get company, or all would
wait with it.

A run whose calls wait that long keeps its slot from runs that are no more urgent, and lends it to
one that is. So a worker has at most its slots of runs of one class.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf

import anyio

from headway_scheduler.model.batch import Batch
from headway_scheduler.model.calls import Priority
from headway_scheduler.model.data import replace
from headway_scheduler.model.runs import AD_HOC, Run, Worker
from headway_scheduler.model.states import CallState, RunState
from headway_scheduler.ports import Store
from headway_scheduler.protocol.commands import ExecuteRun, Order
from headway_scheduler.runtime.local import LocalScheduler

from ..runs.handle import RunHandle
from ..workflows import is_portable
from .leader_commands import LeaderCommands

WAITING = (RunState.QUEUED, RunState.INTERRUPTED)

ALONE_SECONDS = 10.0
"""How long a suspect that gets no further keeps other runs from its worker. A killed worker may
leave many suspects, most of them innocent, and each needs an idle worker."""

LAST_ALONE_SECONDS = 60.0
"""The same in its last life, when it is to be blamed."""

IDLE_SECONDS = 60.0
"""How long a suspect waits for a worker where it is alone."""


@dataclass(frozen=True, slots=True)
class LocalWorker:
    """The worker of the process that leads. Nothing between the two goes through requests."""

    worker: Worker
    """The worker, as it is registered."""

    handles: Mapping[str, RunHandle]
    """Handles of the runs that it executes, by run."""

    on_order: Callable[[Order], None]
    """Called with what the leader wants of it, after the commit."""

    on_change: Callable[[Batch], None]
    """Called with each batch that was committed, of runs or while it executes any."""


class RunAssigner:
    """Gives queued and interrupted runs to workers, for the leader.

    ``local_worker`` gets its orders directly, other workers in notifications.
    """

    def __init__(
        self,
        scheduler: LocalScheduler,
        store: Store,
        commands: LeaderCommands,
        local_worker: LocalWorker | None,
    ) -> None:
        self._scheduler = scheduler
        self._store = store
        self._commands = commands
        self._local_worker = local_worker
        self._adopted: set[tuple[str, str]] = set()
        self.alone_until: dict[str, float] = {}
        """Suspects that workers execute, and until when each is alone; inf: it got further."""
        self._idle_until: dict[str, float] = {}
        """Suspects that wait for an idle worker, and until when each does."""
        self._stalled: frozenset[str] = frozenset()
        self._changed = anyio.Event()

    async def assign_runs(self) -> None:
        """Give runs whenever runs or workers change, until cancelled. Raises StoreError."""
        while True:
            changed = self._changed  # before the look: a change during it is not missed
            await self._assign()
            if self._stalled:
                await self._lend()
            now, times = anyio.current_time(), (self.alone_until, self._idle_until)
            later = (at for until in times for at in until.values() if at > now)
            with anyio.move_on_at(min(later, default=inf)):
                await changed.wait()

    def is_cleared(self, batch: Batch) -> bool:
        """Whether a commit has the answer for which a suspect was alone. Called after each."""
        cleared = False
        for record in batch.changed:
            run_id = record.call.run_id
            if record.state is CallState.DONE and self.alone_until.get(run_id, inf) < inf:
                self.alone_until[run_id] = inf
                cleared = True
        return cleared

    def committed(self, batch: Batch) -> None:
        """Look again after a commit that freed a run, or changed who executes runs."""
        if batch.left:
            known = self._scheduler.workers.listed.keys() - set(batch.left)
            self._adopted = {each for each in self._adopted if each[0] in known}
        self._wake()

    def stalled(self, run_ids: frozenset[str]) -> None:
        """Take note of the runs whose calls wait for long: they lend their slots."""
        if run_ids != self._stalled:
            self._stalled = run_ids
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def _assign(self) -> None:
        async with self._commands.claim_lock:
            assigned = await self._assigned()
            busy = Counter(run.worker for run in assigned)
            # A run that waits for another one gives its slot back: the other one may need it.
            resting = self._scheduler.waiting_runs
            active = Counter(run.worker for run in assigned if run.id not in resting)
            workers = self._scheduler.workers.listed
            room = {key: max(0, worker.slots - active[key]) for key, worker in workers.items()}
            room |= dict.fromkeys(self._keep_alone(assigned), 0)
            # A killed worker leaves many suspects, and one after the other to its end would take
            # hours. Those that got further are not blamed for the death of the one beside them.
            unproven = (run for run in assigned if self.alone_until.get(run.id) != inf)
            company = Counter(run.worker for run in unproven)
            reserved: str | None = None
            now, until = anyio.current_time(), self._idle_until
            self._idle_until = {key: at for key, at in until.items() if at > now - IDLE_SECONDS}
            # Most often the first runs can be given. Any number may have to be passed over: runs
            # that are given, that no worker has the workflow of, or that were adopted once.
            limit = sum(room.values()) + busy.total()
            while any(room.values()):
                runs = await self._store.runs(WAITING, limit=limit, urgent_first=True)
                for run in runs:
                    if run.worker is not None or run.id in self._commands.handles:
                        continue
                    able = [key for key in room if room[key] and self._may_take(workers[key], run)]
                    if run.is_suspect and able:
                        others = busy if run.has_last_life else company
                        idle = [key for key in able if not others[key]]
                        if idle or now < self._idle_until.setdefault(run.id, now + IDLE_SECONDS):
                            if not idle and reserved is None:
                                # Nobody is idle. One worker gets nothing more, until it is.
                                reserved = min(able, key=others.__getitem__)
                                room[reserved] = 0
                            able = idle
                    if able:
                        worker = max(able, key=lambda key: room[key])
                        if run.is_suspect:  # before it is given: its answer may come at once
                            self._idle_until.pop(run.id, None)
                            self.alone_until[run.id] = now + alone_seconds(run)
                        await self.give(run, worker)
                        busy[worker] += 1
                        company[worker] += 1
                        room[worker] = 0 if run.is_suspect else room[worker] - 1
                if len(runs) < limit:
                    return
                limit *= 2

    async def _assigned(self) -> list[Run]:
        """Load the runs that take slots of workers. Raises StoreError."""
        # The run of calls outside of runs ends with its process: it would take a slot for good.
        return [run for run in await self._store.assigned() if run.workflow != AD_HOC]

    def _keep_alone(self, assigned: Sequence[Run]) -> list[str]:
        """Return the workers that get no more runs: they execute a suspect that got no further."""
        suspects = {run.id: run for run in assigned if run.worker and run.is_suspect}
        now, known = anyio.current_time(), self.alone_until
        self.alone_until = {
            key: known.get(key, now + alone_seconds(run)) for key, run in suspects.items()
        }
        for key, until in self.alone_until.items():
            if until <= now:
                self.alone_until[key] = inf
        alone = (suspects[key].worker for key, until in self.alone_until.items() if until < inf)
        return [worker for worker in alone if worker is not None]

    async def _lend(self) -> None:
        """Give runs to workers without room whose runs wait for long and are less urgent."""
        async with self._commands.claim_lock:
            assigned = await self._assigned()
            lent = self._lent(assigned)
            limit = len(assigned) + sum(map(len, lent.values()))
            while lent:
                runs = await self._store.runs(WAITING, limit=limit, urgent_first=True)
                for run in runs:
                    able = [key for key in lent if lent[key] and lent[key][0] > run.priority]
                    if not able:
                        return  # those that follow are no more urgent
                    if run.worker is not None or run.id in self._commands.handles or run.is_suspect:
                        continue
                    workers = self._scheduler.workers.listed
                    able = [key for key in able if self._may_take(workers[key], run)]
                    if able:
                        await self.give(run, able[0])
                        del lent[able[0]][0]
                if len(runs) < limit:
                    return
                limit *= 2

    def _lent(self, assigned: Sequence[Run]) -> dict[str, list[Priority]]:
        """Return the classes of the runs that lend their slots, by worker, least urgent first."""
        resting, alone = self._scheduler.waiting_runs, self._keep_alone(assigned)
        active = Counter(run.worker for run in assigned if run.id not in resting)
        lent = dict[str, list[Priority]]()
        for key, worker in self._scheduler.workers.listed.items():
            beyond = active[key] - worker.slots
            if worker.slots and beyond >= 0 and key not in alone:
                stalled = self._stalled.difference(resting)
                classes = (
                    run.priority for run in assigned if run.worker == key and run.id in stalled
                )
                # What it has beyond its slots took some of these: the least urgent lend first.
                lent[key] = sorted(classes, reverse=True)[beyond:]
        return {key: classes for key, classes in lent.items() if classes}

    def _may_take(self, worker: Worker, run: Run) -> bool:
        if not is_portable(run) and run.workflow not in worker.workflows:
            return False
        if run.state is RunState.QUEUED:
            return True
        # Once: an adopted run may stop where its workflow changed, and would stop there again.
        return worker.takes_interrupted and (worker.id, run.id) not in self._adopted

    async def give(self, run: Run, worker: str) -> None:
        """Have a worker execute a run that no worker executes. Raises StoreError."""
        taken = replace(run, worker=worker)
        order = ExecuteRun(taken)
        if self._local_worker is not None and worker == self._local_worker.worker.id:
            await self._scheduler.save_run(taken)
            self._local_worker.on_order(order)
        else:
            await self._scheduler.workers.order(worker, order, taken)
        if run.state is RunState.INTERRUPTED:
            self._adopted.add((worker, run.id))


def alone_seconds(run: Run) -> float:
    """Return how long a suspect that gets no further is kept alone."""
    return LAST_ALONE_SECONDS if run.has_last_life else ALONE_SECONDS
