"""Durable calls per second of one process, beside bare aiosqlite in the same run.

    python -m benchmarks.throughput

Every call of ours is queued, admitted against three limits, and settled with its answer: two
durable writes. The bare contenders do one insert and one update for each call, synced likewise:
one by one (a commit per statement), and group-committed (one transaction for all callers that
wait). The model is fake and instant. Rounds alternate between the contenders; the ratio is taken
inside each round.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiosqlite
import anyio

from benchmarks.progress import Steps
from headway.cli.text import counted
from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.model.calls import Call, Outcome, Priority, Usage
from headway_scheduler.model.quotas import Quota
from headway_scheduler.model.states import CallState
from headway_scheduler.runtime.local import LocalScheduler

ANSWER = '{"content": "' + "x" * 500 + '"}'
QUOTA = Quota.per_minute("fast", requests=1e9, tokens=1e12, concurrency=100_000)
Contender = Callable[[Path, int, int], Awaitable[float]]

TABLE = """
CREATE TABLE calls (
    id TEXT PRIMARY KEY, run_id TEXT, path TEXT, model TEXT, priority INTEGER, tokens INTEGER,
    state TEXT, submitted_at REAL, finished_at REAL, answer TEXT
) STRICT
"""
INSERT = "INSERT INTO calls VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL)"
UPDATE = "UPDATE calls SET state = ?, finished_at = ?, answer = ? WHERE id = ?"


def row(call_id: str) -> tuple[object, ...]:
    return (call_id, "run", "writer", "model", 2, 900, "admitted", time.time())


def end(call_id: str) -> tuple[object, ...]:
    return ("done", time.time(), ANSWER, call_id)


async def measure(callers: int, each: int, one: Callable[[str], Awaitable[None]]) -> float:
    """Calls per second of ``callers`` tasks that make ``each`` calls one after the other."""

    async def caller(number: int) -> None:
        for turn in range(each):
            await one(f"r{number}.{turn}")

    start = time.perf_counter()
    async with anyio.create_task_group() as group:
        for number in range(callers):
            group.start_soon(caller, number)
    return callers * each / (time.perf_counter() - start)


async def headway(folder: Path, callers: int, each: int) -> float:
    async with (
        SqliteStore(folder / "headway.db") as store,
        LocalScheduler(store, [QUOTA]) as scheduler,
    ):

        async def one(call_id: str) -> None:
            now = scheduler.now()
            call = Call(
                call_id, "run", "writer", "model", ("fast",), Priority.NORMAL, 900, now, "hash"
            )
            await scheduler.acquire(call)
            await scheduler.sent(call_id)
            await scheduler.settle(
                call_id, Outcome(CallState.DONE, usage=Usage(800, 100), answer=ANSWER)
            )

        return await measure(callers, each, one)


async def connect(folder: Path) -> aiosqlite.Connection:
    database = await aiosqlite.connect(folder / "bare.db", isolation_level=None)
    await database.execute("PRAGMA journal_mode = WAL")
    await database.execute("PRAGMA synchronous = FULL")
    await database.execute(TABLE)
    return database


async def one_by_one(folder: Path, callers: int, each: int) -> float:
    database = await connect(folder)

    async def one(call_id: str) -> None:
        await database.execute(INSERT, row(call_id))
        await database.execute(UPDATE, end(call_id))

    try:
        return await measure(callers, each, one)
    finally:
        await database.close()


class GroupCommitter:
    """The least that group commit takes: lists of rows, one transaction, one event."""

    def __init__(self, database: aiosqlite.Connection) -> None:
        self._database = database
        self._inserts: list[tuple[object, ...]] = []
        self._updates: list[tuple[object, ...]] = []
        self._committed = anyio.Event()
        self._wake = anyio.Event()

    async def insert(self, values: tuple[object, ...]) -> None:
        self._inserts.append(values)
        self._wake.set()
        await self._committed.wait()

    async def update(self, values: tuple[object, ...]) -> None:
        self._updates.append(values)
        self._wake.set()
        await self._committed.wait()

    async def pump(self) -> None:
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            inserts, self._inserts = self._inserts, []
            updates, self._updates = self._updates, []
            committed, self._committed = self._committed, anyio.Event()
            await self._database.execute("BEGIN IMMEDIATE")
            await self._database.executemany(INSERT, inserts)
            await self._database.executemany(UPDATE, updates)
            await self._database.execute("COMMIT")
            committed.set()


async def group_committed(folder: Path, callers: int, each: int) -> float:
    database = await connect(folder)
    committer = GroupCommitter(database)

    async def one(call_id: str) -> None:
        await committer.insert(row(call_id))
        await committer.update(end(call_id))

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(committer.pump)
            rate = await measure(callers, each, one)
            group.cancel_scope.cancel()
        return rate
    finally:
        await database.close()


CONTENDERS: dict[str, Contender] = {
    "headway": headway,
    "bare, one by one": one_by_one,
    "bare, group-committed": group_committed,
}


async def round_of(callers: int, each: int) -> dict[str, float]:
    rates: dict[str, float] = {}
    for name, contender in CONTENDERS.items():
        with tempfile.TemporaryDirectory(dir=".") as folder:
            rates[name] = await contender(Path(folder), callers, each)
    return rates


async def main(rounds: int, calls: int) -> None:
    print(
        f"{rounds} rounds of {calls} calls; medians, and the median of the ratios of each round\n"
    )
    print("callers  contender               calls/s   ms per call of one caller   headway / it")
    for callers in (1, 100, 1000):
        steps = Steps(rounds, f"rounds with {counted(callers, 'caller')}")
        results = [await round_of(callers, max(1, calls // callers)) for _ in steps]
        for name in CONTENDERS:
            rate = statistics.median(result[name] for result in results)
            ratio = statistics.median(result["headway"] / result[name] for result in results)
            print(
                f"{callers:7}  {name:22}{rate:9.0f}   {1000 * callers / rate:24.2f}   {ratio:12.2f}"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=2000, help="calls of each contender and round")
    arguments = parser.parse_args()
    anyio.run(main, arguments.rounds, arguments.calls)
