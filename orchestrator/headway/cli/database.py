"""Reading the database beside whoever writes it. Law of this file: nothing is written or locked.

A database that is not there yet is read as one with nothing in it.
"""

from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import groupby

from headway_scheduler.backends import empty_backend, open_backend
from headway_scheduler.core.inspection import queued
from headway_scheduler.core.policy import Policy
from headway_scheduler.core.scheduler import Scheduler
from headway_scheduler.errors import StoreMissing
from headway_scheduler.model.calls import CallRecord
from headway_scheduler.model.data import replace
from headway_scheduler.model.history import Try
from headway_scheduler.model.quotas import GUESSED, Quota
from headway_scheduler.model.runs import Run, Worker
from headway_scheduler.model.states import (
    ENDED_RUNS,
    IN_FLIGHT,
    UNDER_WAY,
    CallState,
    RunState,
)
from headway_scheduler.ports import Backend, Holder, Store
from headway_scheduler.runtime.deaths import after_death, recent_deaths, released

from ..config import Config
from .output import complain

OPEN_RUNS = frozenset(RunState) - ENDED_RUNS
MOST_TRIES = 100
"""How many attempts without an answer are read of a run."""


@dataclass(frozen=True, slots=True)
class Reader:
    """A database that is open for reading.

    ``holder`` leads, and ``workers`` live, as of just now.
    """

    backend: Backend
    store: Store
    holder: Holder | None
    workers: Sequence[Worker]
    now: float
    corrected: Mapping[str, Run]
    """Runs of dead workers, as the next leader will have them."""

    @property
    def is_held(self) -> bool:
        """Whether a process works on it."""
        return self.holder is not None

    def as_it_is(self, run: Run) -> Run:
        """Correct a row that says running when its process died: the next leader will, too."""
        return self.corrected.get(run.id, run)


@dataclass(frozen=True, slots=True)
class StoredQueue:
    """The queue as the database has it: enough to explain every wait without the live process."""

    scheduler: Scheduler
    calls: list[CallRecord]
    in_flight: int


@dataclass(frozen=True, slots=True)
class OneRun:
    """A run with its calls, and its attempts that brought no answer, the newest first."""

    run: Run
    calls: Sequence[CallRecord]
    tries: Sequence[Try]
    workers: Sequence[Worker]
    """The workers that live."""
    executed: Mapping[str, int]
    """How many runs each of them executes, by its id."""
    now: float
    question: str | None = None
    """What it asks a person, where that was looked for."""


async def read_run(reader: Reader, run: Run, question: str | None = None) -> OneRun:
    """Read what belongs to a run. Raises StoreError."""
    calls = await reader.store.calls(run.id)
    tries = await reader.backend.history().tries(run_id=run.id, limit=MOST_TRIES)
    executed = Counter(each.worker for each in await reader.store.assigned() if each.worker)
    now, workers = reader.now, reader.workers
    return OneRun(reader.as_it_is(run), calls, tries, workers, executed, now, question)


@asynccontextmanager
async def reading(config: Config, *, names: bool = True) -> AsyncIterator[Reader]:
    """Open the database to read. Raises StoreError.

    At its end it ``names``, on stderr, the rows that were left out because they cannot be read.
    """
    backend = open_backend(config.database)
    async with AsyncExitStack() as stack:
        try:
            store = await stack.enter_async_context(backend.reader())
        except StoreMissing:
            backend = empty_backend(backend.name)
            store = await stack.enter_async_context(backend.reader())
        listed = {worker.id: worker for worker in await store.workers()}
        alive = listed.keys() - await backend.workers().expired(frozenset(listed))
        holder, now = await backend.leadership().holder(), store.clock()
        corrected = {} if holder is not None else await _corrected(store, alive, now)
        workers = [worker for key, worker in listed.items() if key in alive]
        yield Reader(backend, store, holder, workers, now, corrected)
        for row in sorted(store.unreadable) if names else ():
            complain(f"{row}, and is left out: `headway db repair` sets it aside")


async def _corrected(store: Store, alive: Collection[str], now: float) -> dict[str, Run]:
    """Return what the next leader will make of the runs of workers that are dead."""
    left = [run for run in await store.assigned() if run.worker not in alive]
    lost, deaths = list[Run](), await recent_deaths(store, now)
    for _, runs in groupby(left, key=lambda run: run.worker):
        after, deaths = await after_death(store, list(runs), deaths, now)
        lost += after
    running = await store.runs({RunState.RUNNING})
    orphans = [released(run) for run in running if run.worker is None]
    return {run.id: run for run in (*orphans, *lost)}


async def load_queue(config: Config, reader: Reader) -> StoredQueue:
    """Build the scheduler as it stands on disk.

    Calls of runs that nobody drives any more are parked, as they are in the live process. Those of
    a run that has failed wait for nothing: it may be retried, and asks them again then.
    """
    snapshot = await reader.store.snapshot()
    runs = await reader.store.runs(OPEN_RUNS)
    stopped = {run.id for run in runs if run.state is RunState.INTERRUPTED}
    here = {run.id for run in runs}
    snapshot = replace(
        snapshot,
        calls=tuple(
            record
            for record in snapshot.calls
            if record.state is not CallState.QUEUED or record.call.run_id in here
        ),
    )
    in_flight = sum(record.state in IN_FLIGHT for record in snapshot.calls)
    # A quota that left the configuration limits nothing, but its calls are still there.
    names = {name for record in snapshot.calls for name in record.call.quotas}
    named = {name: Quota(name, ()) for name in names if not name.startswith(GUESSED)}
    policy = Policy(
        weights=config.weights,
        flex_gives_up_seconds=config.flex_gives_up,
        flex_before_seconds=config.flex_before,
        batch_before_seconds=config.batch_before,
    )
    scheduler = Scheduler({**named, **config.quotas}.values(), reader.now, policy)
    scheduler.restore(
        snapshot,
        reader.now,
        lambda record: reader.is_held and record.call.run_id not in stopped,
        runs=[run for run in runs if run.state in UNDER_WAY],
    )
    return StoredQueue(scheduler, queued(scheduler.state), in_flight)
