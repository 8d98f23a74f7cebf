"""A fault at every store call of a scheduler's life: no promise is broken, and nothing sticks.

A scheduler does everything that a batch can hold. It is run once without faults, to count the
statements that it has executed on its database, by its writer, its readers, its inbox and while it
opens; then once for each of them, with a fault there. Faults are made up, so that there is one for
each statement; or real, where SQLite can be brought to fail by itself: another connection has the
lock, the database may not grow, the log may not.
"""

import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio import to_thread
from anyio.abc import TaskGroup

from headway_scheduler.backends.sqlite import reads
from headway_scheduler.backends.sqlite.mailbox import SqliteMailbox
from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.errors import HeadwayError, SchedulerClosed, StoreError
from headway_scheduler.model.batch import Answer
from headway_scheduler.model.calls import Call, CallRecord, Outcome, Priority, Usage
from headway_scheduler.model.changes import HoldState
from headway_scheduler.model.prompts import NO_PROMPT, ChainNode, Chunk, Prompt
from headway_scheduler.model.quotas import Quota, Resource
from headway_scheduler.model.runs import Run, Worker
from headway_scheduler.model.states import IN_FLIGHT, LIVE_CALLS, CallState, RunState
from headway_scheduler.protocol.codec import dump, load_notification, load_request
from headway_scheduler.protocol.envelopes import MessageBatch
from headway_scheduler.protocol.messages import SaveRun, Submit
from headway_scheduler.runtime.local import LocalScheduler
from headway_scheduler.runtime.pending import answering

pytestmark = pytest.mark.anyio

LIMITS = {Resource.REQUESTS: 1000, Resource.TOKENS: 100_000, Resource.CONCURRENCY: 4}
QUOTA = Quota.stated("q", LIMITS)
WIDER = Quota.stated("q", {**LIMITS, Resource.REQUESTS: 2000})
NARROW = Quota.stated("narrow", {Resource.CONCURRENCY: 1})
NOW = 1_800_000_000.0
LOST = "w-lost"
LONG = "long " * 5_000
"""Longer than two pages: the database must grow for it."""

Fault = Callable[[sqlite3.Connection], AbstractContextManager[None]]
"""What befalls a connection while it executes one statement."""


@dataclass
class Faults:
    """Counts the statements of all connections; ``fault`` befalls those of ``failing``."""

    fault: Fault | None = None
    failing: range = range(0)
    seen: list[str] = field(default_factory=list)

    @contextmanager
    def around(self, db: sqlite3.Connection, statement: str) -> Iterator[None]:
        number = len(self.seen)
        self.seen.append(statement)
        if number in self.failing and self.fault is not None:
            with self.fault(db):
                yield
        else:
            yield


class Failing:
    """A connection whose statements may fail."""

    def __init__(self, db: sqlite3.Connection, faults: Faults) -> None:
        self._db = db
        self._faults = faults

    def execute(self, statement: str, *values: Any) -> Any:
        if statement == "ROLLBACK":
            return self._db.execute(statement)
        with self._faults.around(self._db, statement):
            return self._db.execute(statement, *values)

    def executemany(self, statement: str, rows: Any) -> Any:
        with self._faults.around(self._db, statement):
            return self._db.executemany(statement, rows)

    def executescript(self, script: str) -> Any:
        """Syncs are most of what a life takes; what they are good for ``test_power_loss`` shows."""
        with self._faults.around(self._db, script):
            return self._db.executescript(script.replace("synchronous = FULL", "synchronous = OFF"))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)


@contextmanager
def meeting(faults: Faults) -> Iterator[None]:
    """Have every connection that opens meet ``faults``."""
    real = reads.connect

    def connect(*args: Any) -> Any:
        return Failing(real(*args), faults)

    with pytest.MonkeyPatch.context() as patch:
        for module in ("opening", "reads", "mailbox"):
            patch.setattr(f"headway_scheduler.backends.sqlite.{module}.connect", connect)
        patch.setattr("headway_scheduler.runtime.pump.RETRY_COMMIT_SECONDS", 0.001)
        yield


# What befalls


def raising(code: int, words: str) -> Fault:
    """An error as SQLite raises it, put in by hand."""

    @contextmanager
    def fault(db: sqlite3.Connection) -> Iterator[None]:
        raised = sqlite3.OperationalError(words)
        raised.sqlite_errorcode, raised.sqlite_errorname = code, words
        raise raised
        yield

    return fault


MADE_UP = {
    "locked": raising(sqlite3.SQLITE_BUSY, "database is locked"),
    "full": raising(sqlite3.SQLITE_FULL, "database or disk is full"),
    "I/O error": raising(sqlite3.SQLITE_IOERR, "disk I/O error"),
}


def file_of(db: sqlite3.Connection) -> Path:
    (row,) = db.execute("PRAGMA database_list").fetchall()
    return Path(row[2])


@contextmanager
def locked(db: sqlite3.Connection) -> Iterator[None]:
    """Another program writes, and does not come to an end."""
    db.execute("PRAGMA busy_timeout = 0").fetchall()
    with closing(sqlite3.connect(file_of(db), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def full(db: sqlite3.Connection) -> Iterator[None]:
    """The database may have no page more."""
    ((pages,),) = db.execute("PRAGMA page_count").fetchall()
    db.execute(f"PRAGMA max_page_count = {pages}").fetchall()
    try:
        yield
    finally:
        db.execute(f"PRAGMA max_page_count = {2**30}").fetchall()


@contextmanager
def torn(db: sqlite3.Connection) -> Iterator[None]:
    """The system writes a part of what is to be appended to the log, and then refuses."""
    size = Path(f"{file_of(db)}-wal").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def kill(db: sqlite3.Connection) -> Iterator[None]:
    os.kill(os.getpid(), signal.SIGKILL)
    yield


# What is done


def call(call_id: str, quotas: tuple[str, ...] = ("q",)) -> Call:
    return Call(call_id, "r-1", "writer", "model", quotas, Priority.NORMAL, 100, NOW, "ab" * 16)


def prompt(text: str) -> Prompt:
    chunk = Chunk(text.encode().ljust(16)[:16], text)
    return Prompt((chunk,), (ChainNode(bytes.fromhex("ab" * 16), None, chunk.hash),))


def run(run_id: str, state: RunState, worker: str | None = None) -> Run:
    return Run(run_id, "w", "task", Priority.NORMAL, state, NOW, worker=worker)


DONE = Outcome(CallState.DONE, Usage(80, 10), LONG, arrival=0)
FAILED = Outcome(CallState.FAILED, error="no")
LEFT = ("r-1.6", "r-1.7", "r-1.8")


class World:
    """A scheduler on a database, and the outcome of each step that it was asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[str, str | None] = {}
        self.refusals: list[str] = []
        self.flying: set[str] = set()
        self.parked: list[str] = []
        self.epochs: list[int] = []

    async def do(self, name: str, step: Callable[[], Awaitable[object]]) -> None:
        try:
            with anyio.fail_after(30):
                await step()
            self.done[name] = None
        except HeadwayError as raised:
            self.done[name] = problem = f"{type(raised).__name__}: {raised}"
            self.refusals.append(problem)

    async def until_done(self, name: str, step: Callable[[], Awaitable[object]]) -> None:
        """Ask until it is not refused: no fault lasts."""
        for _ in range(40):
            await self.do(name, step)
            if self.done[name] is None or self.is_taken_over:
                return
        raise AssertionError(f"{name}: {self.done[name]}")

    @property
    def is_taken_over(self) -> bool:
        return any(problem.startswith("StoreTakenOver") for problem in self.refusals)

    async def live(self) -> None:
        async with anyio.create_task_group() as tasks:
            await self.until_done("opened", partial(self.life, tasks))

    async def life(self, tasks: TaskGroup) -> None:
        async with (
            SqliteStore(self.path) as store,
            self.opened(store) as scheduler,
        ):
            self.scheduler = scheduler
            for name, step in self.steps().items():
                await self.do(name, step)
            # Before the others ask: it reads, and two threads take turns in no certain order.
            await self.until_done("lost", partial(scheduler.workers.drop, LOST))
            for call_id in LEFT:
                tasks.start_soon(self.do, call_id, partial(self.left, call_id))
            await anyio.lowlevel.checkpoint()
            # Whatever was not written yet is written with what comes next.
            await self.until_done(
                "last", partial(scheduler.save_run, run("r-last", RunState.QUEUED))
            )
            await anyio.lowlevel.checkpoint()  # whoever was granted with it goes on too
            if not self.is_taken_over:
                self.check_in_flight()

    def opened(self, store: SqliteStore) -> LocalScheduler:
        self.epochs.append(store.epoch)
        return LocalScheduler(store, [QUOTA, NARROW])

    def check_in_flight(self) -> None:
        """Memory and disk agree on what may have been sent."""
        rows = states(self.path)
        assert {call_id for call_id, state in rows.items() if state in IN_FLIGHT} == self.flying
        assert self.scheduler.statistics().in_flight == len(self.flying)
        for call_id in self.flying:
            explanation = self.scheduler.explain(call_id)
            assert explanation is not None
            assert explanation.state in IN_FLIGHT

    def steps(self) -> dict[str, Callable[[], Awaitable[object]]]:
        scheduler = self.scheduler
        return {
            "run": partial(scheduler.save_run, run("r-1", RunState.RUNNING)),
            "answered": self.answered,
            "retried": self.retried,
            "abandoned": self.abandoned,
            "reacquired": self.reacquired,
            "question": self.question,
            "amended": self.amended,
            "bumped": self.bumped,
            "limits": partial(scheduler.set_limits, "q", WIDER),
            "weight": partial(scheduler.set_weight, "team", 2.0),
            "hold": partial(scheduler.set_hold, "class:low", HoldState.PAUSED),
            "resumed": partial(scheduler.resume_quota, "q"),
            "noted": self.noted,
            "learned": self.learned,
            "requests": self.requests,
            "worker": self.worker,
            "forgotten": self.forgotten,
        }

    async def granted(self, asked: Call, prompt: Prompt = NO_PROMPT) -> None:
        """A granted call is on disk as admitted; a refused call is not on disk."""
        try:
            await self.scheduler.acquire(asked, prompt)
        except StoreError:
            assert asked.id not in states(self.path)
            raise
        assert states(self.path)[asked.id] == "admitted"

    async def answered(self) -> None:
        await self.granted(call("r-1.0"), prompt(LONG))
        await self.scheduler.sent("r-1.0")
        await self.scheduler.settle("r-1.0", DONE)

    async def retried(self) -> None:
        await self.granted(call("r-1.1"))
        await self.scheduler.retry("r-1.1", Outcome(CallState.QUEUED, error="again"))
        assert states(self.path)["r-1.1"] == "admitted"
        await self.scheduler.settle("r-1.1", FAILED)

    async def abandoned(self) -> None:
        await self.granted(call("r-1.2"))
        self.scheduler.abandon("r-1.2", Outcome(CallState.CANCELLED))

    async def reacquired(self) -> None:
        await self.granted(call("r-1.5"))
        await self.scheduler.settle("r-1.5", FAILED)
        (row,) = await self.rows(CallState.FAILED, "r-1.5")
        await self.scheduler.reacquire(row)
        assert states(self.path)["r-1.5"] == "admitted"
        await self.scheduler.settle("r-1.5", DONE)

    async def question(self) -> None:
        await self.scheduler.ask(call("r-1.3", ()))
        (asked,) = [r for r in self.scheduler.queued() if r.call.id == "r-1.3"]
        await self.scheduler.decide(asked, Outcome(CallState.DONE, answer="words", arrival=1))

    async def amended(self) -> None:
        rows = await self.rows(CallState.DONE)
        for row in rows:
            row.answer = f"{row.answer}, amended"
        await self.scheduler.amend(*rows)

    async def rows(self, state: CallState, call_id: str | None = None) -> list[CallRecord]:
        async with SqliteStore(self.path, read_only=True) as store:
            rows = await store.calls("r-1", [state])
        return [row for row in rows if call_id in (None, row.call.id)]

    async def bumped(self) -> None:
        await self.scheduler.ask(call("r-1.4", ()))
        await self.scheduler.bump("r-1.4", Priority.HIGH)

    async def noted(self) -> None:
        self.scheduler.note_run(run("r-noted", RunState.QUEUED))
        await self.scheduler.save_run(run("r-next", RunState.QUEUED))

    async def learned(self) -> None:
        self.scheduler.learn("writer", "model", 400, Usage(100, 10))
        await self.scheduler.save_run(run("r-1", RunState.COMPLETED))

    async def requests(self) -> None:
        """Another process asks for two things: one is done, one is refused."""
        mailbox = SqliteMailbox(self.path, self.epochs[-1])
        try:
            for event in ("do this", "do that"):
                await mailbox.post("sender", event)
            first, second = await mailbox.waiting(())
            with answering(lambda change: Answer(first.id, "done")):
                await self.scheduler.set_hold("model:other", HoldState.DRAINED)
            await self.scheduler.answer(Answer(second.id, "no"))
            assert [await mailbox.answer(each.id) for each in (first, second)] == ["done", "no"]
        finally:
            await mailbox.close()

    async def worker(self) -> None:
        """Another process joins, and sends a run and a call, which a notification grants."""
        messages = (
            SaveRun(run("r-w", RunState.RUNNING, LOST)),
            Submit(Call("r-w.0", "r-w", "a", "model", ("q",), Priority.NORMAL, 10, NOW)),
        )
        batch = load_request(dump(MessageBatch(LOST, messages, joins=Worker(LOST, 1, NOW))))
        assert isinstance(batch, MessageBatch)
        try:
            await self.scheduler.workers.deliver(7, batch).wait()
        except StoreError:  # the request is still there, and whoever leads takes it again
            await self.scheduler.workers.deliver(7, batch).wait()
        assert table(self.path, "SELECT id FROM workers") == [(LOST,)]
        (notice,) = table(self.path, "SELECT text FROM outbox WHERE worker = 'w-lost'")[-1]
        assert [grant.call_id for grant in load_notification(notice).grants] == ["r-w.0"]

    async def forgotten(self) -> None:
        await self.scheduler.save_run(run("r-gone", RunState.COMPLETED))
        await self.scheduler.forget("r-gone")

    async def left(self, call_id: str) -> None:
        """There is room for one of them; the others wait until the scheduler is closed."""
        try:
            await self.scheduler.acquire(call(call_id, ("narrow",)))
            self.flying.add(call_id)
        except SchedulerClosed:
            self.parked.append(call_id)


def table(path: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


def states(path: Path) -> dict[str, str]:
    """Of every call."""
    return dict(table(path, "SELECT id, state FROM calls ORDER BY seq"))


def facts(path: Path) -> dict[str, Any]:
    """The rows of each step, as far as the step alone decides them."""
    calls = states(path)
    runs = dict(table(path, "SELECT id, state FROM runs"))
    changes = table(path, "SELECT kind, target FROM changes")
    amended = "SELECT count(*) FROM calls WHERE answer LIKE '%, amended'"
    return {
        "answered": (calls.get("r-1.0"), table(path, "SELECT count(*) FROM pieces")),
        "retried": calls.get("r-1.1"),
        "abandoned": calls.get("r-1.2"),
        "reacquired": calls.get("r-1.5"),
        "question": calls.get("r-1.3"),
        "amended": table(path, amended) == [(list(calls.values()).count("done"),)],
        "bumped": table(path, "SELECT priority FROM calls WHERE id = 'r-1.4'"),
        "limits": changes.count(("limits", "q")),
        "weight": changes.count(("weight", "team")),
        "hold": changes.count(("gate", "class:low")),
        "resumed": changes.count(("resume", "q")),
        "noted": runs.get("r-noted"),
        "learned": (runs.get("r-1"), table(path, "SELECT count(*) > 0 FROM lessons")),
        "requests": (
            table(path, "SELECT event, answer FROM inbox ORDER BY id"),
            changes.count(("gate", "model:other")),
        ),
        "worker": calls.get("r-w.0"),
        "lost": (table(path, "SELECT count(*) FROM workers"), runs.get("r-w")),
        "forgotten": runs.get("r-gone"),
        "last": runs.get("r-last"),
    }


EXPECTED = {
    "answered": ("done", [(1,)]),
    "retried": "failed",
    "abandoned": "cancelled",
    "reacquired": "done",
    "question": "done",
    "amended": True,
    "bumped": [(1,)],
    "limits": 1,
    "weight": 1,
    "hold": 1,
    "resumed": 1,
    "noted": "queued",
    "learned": ("completed", [(1,)]),
    "requests": ([("do this", "done"), ("do that", "no")], 1),
    "worker": "unknown",
    "lost": ([(0,)], "interrupted"),
    "forgotten": None,
    "last": "queued",
}


def check_buckets(path: Path) -> None:
    """None is fuller than it can be."""
    quota = WIDER if facts(path)["limits"] else QUOTA
    capacity = {
        (q.name, each.resource): each.capacity for q in (quota, NARROW) for each in q.limits
    }
    for name, limited, available in table(path, "SELECT quota, resource, available FROM buckets"):
        assert available <= capacity[name, Resource(limited)]


async def reopened(path: Path) -> None:
    """Open the database after a fault. Each call that was alive is unknown, parked, or a worker's.

    All slots but those of a worker are free, and all pages are sound.
    """
    before = states(path)
    queued = table(path, "SELECT id, seq FROM calls WHERE state = 'queued' ORDER BY seq")
    owned = {
        call_id
        for call_id, state in table(
            path, "SELECT id, state FROM calls WHERE worker IN (SELECT id FROM workers)"
        )
        if state in IN_FLIGHT
    }
    with meeting(Faults()):
        await gone_on(path, before, queued, owned)
    assert table(path, "PRAGMA integrity_check") == [("ok",)]
    assert states(path)["r-after.0"] == "done"


async def gone_on(
    path: Path, before: dict[str, str], queued: list[tuple[Any, ...]], owned: set[str]
) -> None:
    async with SqliteStore(path) as store, LocalScheduler(store, [QUOTA, NARROW]) as scheduler:
        after = states(path)
        for call_id, state in before.items():
            is_known = state not in IN_FLIGHT or call_id in owned
            assert after[call_id] == (state if is_known else "unknown")
        waiting = sorted(scheduler.queued(), key=lambda record: record.seq)
        assert [(record.call.id, record.seq) for record in waiting] == queued
        assert all(record.parked for record in waiting)
        statistics = scheduler.statistics()
        assert statistics.in_flight == len(owned)
        for gauge in statistics.gauges:
            assert gauge.available <= gauge.capacity
            if gauge.resource is Resource.CONCURRENCY:
                taken = len(owned) if gauge.quota == "q" else 0
                assert gauge.available == gauge.capacity - taken
        await scheduler.acquire(call("r-after.0"))
        await scheduler.settle("r-after.0", DONE)


async def lived(path: Path, faults: Faults) -> World:
    world = World(path)
    with meeting(faults):
        await world.live()
    return world


async def check(world: World, faults: Faults) -> None:
    """Steps that were done are on disk. The others raised a StoreError, and left nothing alive."""
    found = facts(world.path)
    for refusal in world.refusals:
        assert refusal.startswith("Store"), refusal
        assert f"{world.path}: " in refusal
    for name, problem in world.done.items():
        if problem is None and name in EXPECTED and (name != "lost" or not world.done["worker"]):
            assert found[name] == EXPECTED[name], (name, faults.failing)
    for name in ("answered", "retried", "abandoned", "reacquired"):
        assert str(found[name]) not in LIVE_CALLS
    requests, holds = found["requests"]
    assert holds == (("do this", "done") in requests), "carried out with its answer, or not at all"
    rows = states(world.path)
    assert {rows[call_id] for call_id in world.parked} <= {"queued"}
    assert {call_id for call_id, state in rows.items() if state in IN_FLIGHT} == world.flying
    assert world.epochs == list(range(1, len(world.epochs) + 1)), "what was not opened led"
    assert table(world.path, "SELECT epoch FROM leadership") == [(world.epochs[-1],)]
    check_buckets(world.path)
    await reopened(world.path)


@pytest.fixture(scope="module")
def statements(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The statements of a life without faults: in every life the same."""
    folder = tmp_path_factory.mktemp("whole")
    lives = [Faults() for _ in range(2)]
    for number, faults in enumerate(lives):
        path = folder / f"{number}.db"
        world = anyio.run(lived, path, faults)
        assert world.refusals == []
        assert facts(path) == EXPECTED
        assert len(world.flying) == 1
        assert len(world.parked) == 2
    assert lives[0].seen == lives[1].seen
    return faults.seen


def numbers(statements: list[str], what: str) -> list[int]:
    return [n for n, each in enumerate(statements) if each == what]


def transactions(statements: list[str]) -> list[range]:
    """From each beginning to its end."""
    begins, ends = (numbers(statements, each) for each in ("BEGIN IMMEDIATE", "COMMIT"))
    return [range(first, last + 1) for first, last in zip(begins, ends, strict=True)]


@pytest.mark.parametrize("first", range(6))
async def test_a_fault_at_any_statement_costs_only_what_it_refused(
    tmp_path: Path, statements: list[str], first: int
) -> None:
    """Every statement meets one of the faults, and each of them meets every third."""
    chosen = range(first, len(statements), 6)
    assert len(chosen) > 20
    refused = 0
    for n in chosen:
        fault = list(MADE_UP.values())[n // 6 % 3]
        faults = Faults(fault, range(n, n + 1))
        world = await lived(tmp_path / f"{n}.db", faults)
        await check(world, faults)
        refused += bool(world.refusals)
    # Those that nobody waited for were written with the next commit.
    assert len(chosen) / 2 < refused <= len(chosen), refused


REAL: dict[str, tuple[Fault, Callable[[range], range], str]] = {
    "locked": (locked, lambda each: each[:1], "StoreBusy"),
    "full": (full, lambda each: each[1:-1], "StoreFull"),
    "torn": (torn, lambda each: each[-1:], "StoreError"),
}


@pytest.mark.parametrize("name", REAL)
async def test_a_fault_of_sqlite_itself_costs_only_what_it_refused(
    tmp_path: Path, statements: list[str], name: str
) -> None:
    fault, part, told = REAL[name]
    refused = 0
    for each in transactions(statements):
        faults = Faults(fault, part(each))
        world = await lived(tmp_path / f"{each.start}.db", faults)
        await check(world, faults)
        assert {problem.partition(":")[0] for problem in world.refusals} <= {told}
        refused += bool(world.refusals)
    # Few of them need a page more.
    assert refused >= (2 if fault is full else len(transactions(statements)) / 2)


@pytest.mark.parametrize("fault", MADE_UP)
async def test_a_fault_that_lasts_is_outlived(
    tmp_path: Path, statements: list[str], fault: str
) -> None:
    """For a while every store call fails: callers get errors, and afterwards all steps work."""
    for n in range(0, len(statements), 31):
        faults = Faults(MADE_UP[fault], range(n, n + 14))
        await check(await lived(tmp_path / f"{n}.db", faults), faults)


async def refusal(path: Path, faults: Faults) -> str | None:
    """The error of a database that cannot be opened; None if it can."""
    with meeting(faults):
        try:
            async with SqliteStore(path):
                return None
        except StoreError as error:
            return str(error)


def names(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


async def test_what_cannot_be_opened_is_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "headway.db"
    assert await refusal(path, Faults()) is None
    dumped = dumped_of(path)
    faults, n = Faults(MADE_UP["I/O error"], range(1)), 0
    while (problem := await refusal(path, faults)) is not None:
        assert problem.startswith(f"{path}: ")
        assert names(tmp_path) == ["headway.db"]
        assert dumped_of(path) == dumped
        n += 1
        faults = Faults(MADE_UP["I/O error"], range(n, n + 1))
    assert len(faults.seen) == n > 10


async def test_what_could_not_be_made_leaves_nothing_half_made(tmp_path: Path) -> None:
    n, problem = 0, "yes"
    while problem:
        path = tmp_path / f"{n}" / "headway.db"
        faults = Faults(MADE_UP["I/O error"], range(n, n + 1))
        problem = await refusal(path, faults) or ""
        assert not problem or problem.startswith(f"{path}: ")
        assert not path.parent.exists() or names(path.parent) == ["headway.db"]
        assert await refusal(path, Faults()) is None
        n += 1
    assert n > 20


def dumped_of(path: Path) -> list[str]:
    """All tables, but for the requests: whoever posts them does not lead."""
    with closing(sqlite3.connect(path)) as db:
        return [row for row in db.iterdump() if "inbox" not in row]


async def test_after_another_process_took_over_nothing_is_written(
    tmp_path: Path, statements: list[str]
) -> None:
    first_run = next(n for n, each in enumerate(statements) if each.startswith("INSERT INTO runs"))
    left: list[str] = []

    @contextmanager
    def taken_over(db: sqlite3.Connection) -> Iterator[None]:
        with closing(sqlite3.connect(file_of(db))) as other, other:
            other.execute("UPDATE leadership SET epoch = epoch + 1")
        left[:] = dumped_of(file_of(db))
        yield

    for n in [n for n in numbers(statements, "BEGIN IMMEDIATE") if n > first_run][::2]:
        world = await lived(tmp_path / f"{n}.db", Faults(taken_over, range(n, n + 1)))
        assert world.is_taken_over
        assert all(problem.startswith("StoreTakenOver") for problem in world.refusals)
        assert dumped_of(world.path) == left
        await reopened(world.path)


# A life in a process of its own, that is killed at a statement and says before what was done.
CHILD = """
import anyio, json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_store_faults as tests

class RateLimitHeader(tests.World):
    async def do(self, name, step):
        await super().do(name, step)
        print(json.dumps([name, self.done[name]]), flush=True)

world = RateLimitHeader(Path(sys.argv[2]))
n = int(sys.argv[3])
with tests.meeting(tests.Faults(tests.kill, range(n, n + 1))):
    anyio.run(world.live)
"""


def killed(path: Path, n: int) -> World:
    command = [sys.executable, "-W", "ignore", "-c", CHILD, str(Path(__file__).parent), str(path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    child = subprocess.run(
        [*command, str(n)], capture_output=True, text=True, check=False, env=environment
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    world = World(path)
    world.done = dict(json.loads(line) for line in child.stdout.splitlines())
    return world


@pytest.mark.parametrize("where", [0, 2, -1])
async def test_a_kill_in_a_transaction_loses_nothing_that_was_done(
    tmp_path: Path, statements: list[str], where: int
) -> None:
    for n in [each[where] for each in transactions(statements)][1::6]:
        path = tmp_path / f"{n}.db"
        world = await to_thread.run_sync(killed, path, n)
        found = facts(path)
        for name, problem in world.done.items():
            assert problem is None
            # Nobody waits for what is abandoned: it may die with the process, and is unknown then.
            if name == "worker":
                assert found[name] in ("admitted", "unknown")
            elif name in EXPECTED and name != "abandoned":
                assert found[name] == EXPECTED[name], (name, n)
        check_buckets(path)
        await reopened(path)
