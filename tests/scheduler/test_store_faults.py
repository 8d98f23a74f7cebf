"""A fault at every store call of a service's life: no promise is broken, and nothing sticks.

A service does everything that a batch can hold. It is run once without faults, to count the
statements that it has executed on its database; then once for each of them, with a fault there.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread

from headway_scheduler.errors import HeadwayError, StoreError
from headway_scheduler.inbox import Message
from headway_scheduler.model import (
    Answer,
    Call,
    Link,
    Outcome,
    Piece,
    Priority,
    Prompt,
    Quota,
    Resource,
    Run,
    Usage,
    Worker,
)
from headway_scheduler.service import Service
from headway_scheduler.states import LIVE_CALLS, CallState, RunState
from headway_scheduler.store import SqliteStore, opening
from headway_scheduler.wire import Parcel, dump, load_notice, load_parcel

pytestmark = pytest.mark.anyio

LIMITS = {Resource.REQUESTS: 1000, Resource.TOKENS: 100_000, Resource.CONCURRENCY: 4}
QUOTA = Quota.stated("q", LIMITS)
WIDER = Quota.stated("q", {**LIMITS, Resource.REQUESTS: 2000})
NOW = 1_800_000_000.0
LOST = "w-lost"


@dataclass
class Faults:
    """Counts statements of the connection that writes, and fails those of ``failing``."""

    error: sqlite3.OperationalError | None = None
    failing: range = range(0)
    seen: list[str] = field(default_factory=list)

    def at(self, statement: str) -> None:
        number = len(self.seen)
        self.seen.append(statement)
        if number in self.failing:
            if self.error is None:
                os.kill(os.getpid(), signal.SIGKILL)
            else:
                raise self.error


class Failing:
    """A connection whose statements may fail."""

    def __init__(self, db: sqlite3.Connection, faults: Faults) -> None:
        self._db = db
        self._faults = faults

    def execute(self, statement: str, *values: Any) -> Any:
        if statement != "ROLLBACK":
            self._faults.at(statement)
        return self._db.execute(statement, *values)

    def executemany(self, statement: str, rows: Any) -> Any:
        self._faults.at(statement)
        return self._db.executemany(statement, rows)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)


@contextmanager
def failing_writer(faults: Faults) -> Iterator[None]:
    """Have what opens next for writing meet ``faults`` once it is open."""
    real = opening.open_writer

    def opened(*args: Any) -> Any:
        writer = real(*args)
        object.__setattr__(writer, "connection", Failing(writer.connection, faults))
        return writer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("headway_scheduler.store.sqlite.open_writer", opened)
        patch.setattr("headway_scheduler.service.RETRY_COMMIT_SECONDS", 0.001)
        yield


def error(code: int, words: str) -> sqlite3.OperationalError:
    """What SQLite raises."""
    raised = sqlite3.OperationalError(words)
    raised.sqlite_errorcode, raised.sqlite_errorname = code, words
    return raised


FAULTS = {
    "locked": error(sqlite3.SQLITE_BUSY, "database is locked"),
    "full": error(sqlite3.SQLITE_FULL, "database or disk is full"),
    "I/O error": error(sqlite3.SQLITE_IOERR, "disk I/O error"),
}


# What is done


def call(call_id: str, quotas: tuple[str, ...] = ("q",)) -> Call:
    return Call(call_id, "r-1", "writer", "model", quotas, Priority.NORMAL, 100, NOW, "ab" * 16)


def prompt(text: str) -> Prompt:
    piece = Piece(text.encode().ljust(16), text)
    return Prompt((piece,), (Link(bytes.fromhex("ab" * 16), None, piece.hash),))


def run(run_id: str, state: RunState, worker: str | None = None) -> Run:
    return Run(run_id, "w", "task", Priority.NORMAL, state, NOW, worker=worker)


DONE = Outcome(CallState.DONE, Usage(80, 10), "answer", arrival=0)


class World:
    """One service on one database, and what became of each thing that it was asked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[str, str | None] = {}

    async def do(self, name: str, step: Callable[[], Awaitable[object]]) -> None:
        try:
            with anyio.fail_after(10):
                await step()
            self.done[name] = None
        except HeadwayError as raised:
            self.done[name] = f"{type(raised).__name__}: {raised}"

    async def live(self) -> None:
        async with SqliteStore(self.path) as store, Service(store, [QUOTA]) as service:
            self.service = service
            for name, step in self.steps().items():
                await self.do(name, step)
            assert service.statistics().in_flight == 0
            # Whatever was not written yet is written with what comes next.
            self.done["last"] = "not yet"
            while self.done["last"] is not None:
                await self.do("last", partial(service.save_run, run("r-last", RunState.QUEUED)))
            self.gauges = [(g.resource, g.capacity) for g in service.statistics().gauges]

    def steps(self) -> dict[str, Callable[[], Awaitable[object]]]:
        service = self.service
        return {
            "run": partial(service.save_run, run("r-1", RunState.RUNNING)),
            "answered": self.answered,
            "retried": self.retried,
            "abandoned": self.abandoned,
            "question": self.question,
            "amended": self.amended,
            "bumped": self.bumped,
            "limits": partial(service.set_limits, "q", WIDER),
            "weight": partial(service.set_weight, "team", 2.0),
            "gate": partial(service.set_gate, "class:low", "paused"),
            "resumed": partial(service.resume_quota, "q"),
            "learned": self.learned,
            "letter": partial(service.answer, Answer(1, "done")),
            "worker": self.worker,
            "lost": partial(service.lose, LOST),
            "forgotten": self.forgotten,
        }

    async def answered(self) -> None:
        await self.service.acquire(call("r-1.0"), prompt("asked"))
        self.service.sent("r-1.0")
        await self.service.settle("r-1.0", DONE)

    async def retried(self) -> None:
        await self.service.acquire(call("r-1.1"))
        await self.service.retry("r-1.1", Outcome(CallState.QUEUED, error="again"))
        await self.service.settle("r-1.1", Outcome(CallState.FAILED, error="no"))

    async def abandoned(self) -> None:
        await self.service.acquire(call("r-1.2"))
        self.service.abandon("r-1.2", Outcome(CallState.CANCELLED))

    async def question(self) -> None:
        await self.service.ask(call("r-1.3", ()))
        (asked,) = [r for r in self.service.queued() if r.call.id == "r-1.3"]
        await self.service.decide(asked, Outcome(CallState.DONE, answer="words", arrival=1))

    async def amended(self) -> None:
        async with SqliteStore(self.path, read_only=True) as store:
            rows = [r for r in await store.calls("r-1") if r.state is CallState.DONE]
        await self.service.amend(*rows)

    async def bumped(self) -> None:
        await self.service.ask(call("r-1.4", ()))
        await self.service.bump("r-1.4", Priority.HIGH)

    async def learned(self) -> None:
        self.service.learn("writer", "model", 400, Usage(100, 10))
        await self.service.save_run(run("r-1", RunState.COMPLETED))

    async def worker(self) -> None:
        """What another process tells: who it is, a run and a call, which is granted by mail."""
        messages = (
            Message(run=run("r-w", RunState.RUNNING, LOST)),
            Message(submit=Call("r-w.0", "r-w", "a", "model", ("q",), Priority.LOW, 10, NOW)),
        )
        parcel = Parcel(LOST, messages, joins=Worker(LOST, 1, NOW))
        try:
            await self.service.deliver(7, load_parcel(dump(parcel))).wait()
        except StoreError:  # the letter is still there, and whoever leads takes it again
            await self.service.deliver(7, load_parcel(dump(parcel))).wait()
        assert table(self.path, "SELECT id FROM workers") == [(LOST,)]
        (notice,) = table(self.path, "SELECT text FROM outbox WHERE worker = 'w-lost'")[-1]
        assert [grant.call_id for grant in load_notice(notice).grants] == ["r-w.0"]

    async def forgotten(self) -> None:
        await self.service.save_run(run("r-gone", RunState.COMPLETED))
        await self.service.forget("r-gone")


def table(path: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


def facts(path: Path) -> dict[str, Any]:
    """What the database says of each step, as far as the step alone decides it."""
    calls = dict(table(path, "SELECT id, state FROM calls"))
    runs = dict(table(path, "SELECT id, state FROM runs"))
    changes = [kind for (kind,) in table(path, "SELECT kind FROM changes")]
    return {
        "answered": (calls.get("r-1.0"), table(path, "SELECT count(*) FROM pieces")),
        "retried": calls.get("r-1.1"),
        "abandoned": calls.get("r-1.2"),
        "question": calls.get("r-1.3"),
        "bumped": table(path, "SELECT priority FROM calls WHERE id = 'r-1.4'"),
        "limits": changes.count("limits"),
        "weight": changes.count("weight"),
        "gate": changes.count("gate"),
        "resumed": changes.count("resume"),
        "learned": runs.get("r-1"),
        "worker": calls.get("r-w.0"),
        "lost": (table(path, "SELECT count(*) FROM workers"), runs.get("r-w")),
        "forgotten": runs.get("r-gone"),
        "last": runs.get("r-last"),
    }


async def reopened(path: Path) -> None:
    """Whatever happened: it opens, nothing is in flight, all slots are free, all pages are well."""
    async with SqliteStore(path) as store, Service(store, [QUOTA]) as service:
        statistics = service.statistics()
        assert statistics.in_flight == 0
        for gauge in statistics.gauges:
            assert gauge.available <= gauge.capacity
            if gauge.resource is Resource.CONCURRENCY:
                assert gauge.available == gauge.capacity
        await service.acquire(call("r-after.0"))
        await service.settle("r-after.0", DONE)
    assert table(path, "PRAGMA integrity_check") == [("ok",)]
    assert dict(table(path, "SELECT id, state FROM calls"))["r-after.0"] == "done"


async def lived(path: Path, faults: Faults) -> World:
    world = World(path)
    with failing_writer(faults):
        await world.live()
    return world


EXPECTED = {
    "answered": ("done", [(1,)]),
    "retried": "failed",
    "abandoned": "cancelled",
    "question": "done",
    "bumped": [(1,)],
    "limits": 1,
    "weight": 1,
    "gate": 1,
    "resumed": 1,
    "learned": "completed",
    "worker": "unknown",
    "lost": ([(0,)], "interrupted"),
    "forgotten": None,
    "last": "queued",
}


async def check(world: World, faults: Faults) -> None:
    """What was done is on disk; what was not is told by its file, and has left nothing alive."""
    found = facts(world.path)
    for name, problem in world.done.items():
        if problem is not None:
            assert problem.startswith("Store"), problem
            assert str(world.path) in problem
        elif name in EXPECTED and (name != "lost" or world.done["worker"] is None):
            assert found[name] == EXPECTED[name], (name, faults.failing)
    for name in ("answered", "retried", "abandoned"):
        assert str(found[name]) not in LIVE_CALLS
    await reopened(world.path)


@pytest.fixture(scope="module")
def statements(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The statements of a life without faults."""
    faults = Faults()
    path = tmp_path_factory.mktemp("whole") / "headway.db"
    world = anyio.run(lived, path, faults)
    assert set(world.done.values()) == {None}
    assert facts(path) == EXPECTED
    return faults.seen


def places(statements: list[str], what: str) -> list[int]:
    """Where a life reaches the beginning, the end, or the first row of each store call."""
    first = "BEGIN IMMEDIATE"
    if what != "row":
        return [n for n, each in enumerate(statements) if each == what]
    return [n + 2 for n, each in enumerate(statements[:-2]) if each == first]


@pytest.mark.parametrize("where", ["BEGIN IMMEDIATE", "row", "COMMIT"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_at_any_store_call_costs_only_what_it_refused(
    tmp_path: Path, statements: list[str], fault: str, where: str
) -> None:
    chosen = places(statements, where)
    assert len(chosen) > 20
    refused = 0
    for n in chosen:
        faults = Faults(FAULTS[fault], range(n, n + 1))
        world = await lived(tmp_path / f"{n}.db", faults)
        await check(world, faults)
        refused += sum(problem is not None for problem in world.done.values())
    # Those that nobody waited for were written with the next commit.
    assert 0 < refused <= len(chosen), refused


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_that_lasts_is_outlived(
    tmp_path: Path, statements: list[str], fault: str
) -> None:
    """Nothing can be written for a while, at any time: whoever asks is told, and later it goes."""
    for n in range(0, len(statements) - 12, 6):
        faults = Faults(FAULTS[fault], range(n, n + 9))
        await check(await lived(tmp_path / f"{n}.db", faults), faults)


# A life in a process of its own, that is killed at a statement and says before what was done.
CHILD = """
import anyio, json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_store_faults as tests

class Told(tests.World):
    async def do(self, name, step):
        await super().do(name, step)
        print(json.dumps([name, self.done[name]]), flush=True)

world = Told(Path(sys.argv[2]))
n = int(sys.argv[3])
with tests.failing_writer(tests.Faults(None, range(n, n + 1))):
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


@pytest.mark.parametrize("where", ["row", "COMMIT"])
async def test_a_kill_at_a_store_call_loses_nothing_that_was_done(
    tmp_path: Path, statements: list[str], where: str
) -> None:
    for n in places(statements, where)[1::4]:
        path = tmp_path / f"{n}.db"
        world = await to_thread.run_sync(killed, path, n)
        found = facts(path)
        for name, problem in world.done.items():
            assert problem is None
            # Nobody waits for what is abandoned: it may die with the process, and is unknown then.
            if name in EXPECTED and name != "abandoned" and "lost" not in name:
                assert found[name] == EXPECTED[name] or name in ("worker", "learned"), (name, n)
        await reopened(path)
