"""Reads what ``headway top`` shows. Law of this file: it reads, and locks nothing."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from headway_scheduler.core.inspection import statistics
from headway_scheduler.core.views import Statistics
from headway_scheduler.errors import RunNotFound
from headway_scheduler.model.calls import CallRecord, Priority
from headway_scheduler.model.changes import HOLD
from headway_scheduler.model.history import MINUTE, Ended, wait_at
from headway_scheduler.model.quotas import ProviderEvent
from headway_scheduler.model.runs import Run, Worker
from headway_scheduler.model.states import CallState, RunState
from headway_scheduler.ports import History, UnreadableRow

from ...config import Config
from ...runs.stopped import is_by_batch, question_text
from ..database import OneRun, Reader, StoredQueue, load_queue, read_run, reading

AT_WORK = (RunState.RUNNING, RunState.WAITING, RunState.QUEUED)
REFUSALS = (ProviderEvent.REFUSED, ProviderEvent.CROWDED, ProviderEvent.SPENT)
"""The ends of attempts that are 429s."""
LAST_CALLS = 10_000
"""Rates are those of the last so many calls at most: who came before is not looked at."""
MOST_QUESTIONS = 20
"""How many questions to people are read."""
MOST_CHANGES = 1_000
"""How far back it is looked for when an operator's hold began."""
P95_MINUTES = 5
CROWD_MINUTES = 60


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A worker, how many runs it has, and how long ago it showed life, if that can be told."""

    worker: Worker
    runs: int
    silent_seconds: float | None
    leads: bool


@dataclass(frozen=True, slots=True)
class Question:
    """What a run waits for a person to answer or decide."""

    run: Run
    call: CallRecord
    text: str


@dataclass(frozen=True, slots=True)
class Hold:
    """What an operator holds back, and since when, if that can be told."""

    target: str
    state: str
    since: float | None


@dataclass(frozen=True, slots=True)
class Past:
    """The last minutes, as history has them."""

    refused: Mapping[str, int] = field(default_factory=dict)
    """How many attempts each quota refused in the last minute."""
    ended: Mapping[str, Ended] = field(default_factory=dict)
    """What ended in the last minute, by quota."""
    p95: Mapping[Priority, float] = field(default_factory=dict)
    """Of the calls that ended in the last 5 minutes: the seconds that 95 % waited at most."""
    crowds: Mapping[Priority, Sequence[int]] = field(default_factory=dict)
    """The most calls that waited in each of the last 60 whole minutes, the oldest first."""


@dataclass(frozen=True, slots=True)
class Dashboard:
    """The state of the system at one moment."""

    database: str
    leader: str | None
    """The process that leads, in words."""
    queue: StoredQueue
    statistics: Statistics
    runs: Sequence[Run]
    workers: Sequence[WorkerView]
    questions: Sequence[Question]
    holds: Sequence[Hold]
    past: Past
    now: float
    unreadable: Sequence[UnreadableRow]


async def look(config: Config) -> Dashboard:
    """Read everything once. Raises StoreError."""
    async with reading(config, names=False) as reader:
        queue = await load_queue(config, reader)
        runs = [reader.as_it_is(run) for run in await reader.store.runs(AT_WORK, urgent_first=True)]
        workers, questions = await _seen(reader), await _questions(reader, runs)
        holds = await _holds(reader, queue)
        past = await _past(reader.backend.history(), reader.now)
        return Dashboard(
            reader.backend.name,
            None if reader.holder is None else reader.holder.text,
            queue,
            statistics(queue.scheduler.state, reader.now),
            runs,
            workers,
            questions,
            holds,
            past,
            reader.now,
            sorted(reader.store.unreadable),
        )


async def look_at_run(config: Config, run_id: str) -> OneRun:
    """Read one run. Raises StoreError, and RunNotFound for one that is gone."""
    async with reading(config, names=False) as reader:
        run = await reader.store.run(run_id)
        if run is None:
            raise RunNotFound(f"no run {run_id!r} any more")
        asked = await _questions(reader, [run])
        return await read_run(reader, run, asked[0].text if asked else None)


async def _seen(reader: Reader) -> list[WorkerView]:
    leader = None if reader.holder is None else reader.holder.worker_id
    runs = Counter(run.worker for run in await reader.store.assigned())
    registry = reader.backend.workers()
    found = []
    for worker in await reader.store.workers():
        silent = await registry.silent_seconds(worker.id)
        found.append(WorkerView(worker, runs[worker.id], silent, worker.id == leader))
    return found


async def _questions(reader: Reader, runs: Sequence[Run]) -> list[Question]:
    asked = [run for run in runs if run.waits_for is not None]
    found = []
    for run in asked[:MOST_QUESTIONS]:
        # Not all calls of the run: they may be many, and this is read every second.
        waiting = await reader.store.calls(run.id, {CallState.QUEUED, CallState.UNKNOWN})
        record = next((each for each in waiting if each.call.id == run.waits_for), None)
        if record is not None and not is_by_batch(record):
            chunks = await reader.store.prompt(record.call.request_hash)
            text = "" if chunks is None else question_text(record, chunks)
            found.append(Question(run, record, text))
    return found


async def _holds(reader: Reader, queue: StoredQueue) -> list[Hold]:
    rules = queue.scheduler.state.operator_holds.rules
    if not rules:
        return []
    since: dict[str, float] = {}
    for change in await reader.store.changes(limit=MOST_CHANGES):
        if change.action == HOLD:
            since.setdefault(change.target, change.at)
    return [Hold(target, rule[0].value, since.get(target)) for target, rule in rules.items()]


async def _past(history: History, now: float) -> Past:
    minute = now - 60.0
    tries = await history.tries(since=minute)
    refused = Counter(each.quota for each in tries if each.news in REFUSALS)
    ended: dict[str, Ended] = {}
    for group in await history.ended(minute, most=LAST_CALLS):
        for name in group.quotas:
            old = ended.get(name, Ended((name,), 0, 0, 0))
            given, made = old.input_tokens + group.input_tokens, old.output_tokens
            ended[name] = Ended((name,), old.calls + group.calls, given, made + group.output_tokens)
    waits = await history.waits(MINUTE, now - P95_MINUTES * MINUTE)
    p95 = {each: wait_at(0.95, [x for x in waits if x.priority is each]) for each in Priority}
    first = int(now // MINUTE) - CROWD_MINUTES
    crowds = {each: [0] * CROWD_MINUTES for each in Priority}
    for crowd in await history.crowds(first * MINUTE):
        if 0 <= (place := crowd.at // MINUTE - first) < CROWD_MINUTES:
            crowds[crowd.priority][place] = crowd.waiting
    return Past(refused, ended, {k: v for k, v in p95.items() if v is not None}, crowds)
