"""A day of ten million calls: the database stays as large as what is kept, and nothing leaks.

    python -m benchmarks.day [--calls 10000000] [--keep 2000] [--folder DIR]

One scheduler on a real file, in a clock that makes the day pass as fast as the calls do. Runs of
fifty calls come and go, two hundred at once, each call with a prompt that goes on from the one
before; some are tried again, fail, or are cancelled. Whenever a thousand more have ended, all but
the last ``--keep`` ended runs are forgotten, as ``headway db prune`` does it, in the middle of the
work. Others read all the time, now and then for three seconds. Shown for every hour: the sizes of
the database and its log, open files, memory, and the longest commit, which is a prune. Compared
are the last hour and the third, when what is kept has come to its size; if the database has grown
by more than a fifth, the memory by more than a tenth, the files by any, or the log did not come
back to 64 MiB within an hour, the exit status is 1. (The log cannot begin anew while somebody reads
what was there before: at most it is what is written during the longest read, which a faster machine
makes more.)
"""

import argparse
import gc
import hashlib
import os
import random
import sqlite3
import sys
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from headway.runs.stopped import StoppedRuns
from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.model.batch import Batch
from headway_scheduler.model.calls import Call, Outcome, Priority, Usage
from headway_scheduler.model.data import replace
from headway_scheduler.model.prompts import ChainNode, Chunk, Prompt
from headway_scheduler.model.quotas import Quota
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import CallState, RunState
from headway_scheduler.runtime.local import LocalScheduler

DAY_SECONDS = 86_400.0
START = 1_800_000_000.0
CALLS_OF_RUN = 50
AT_ONCE = 200
LOG_BYTES = 64 << 20
"""What the log is cut to when it begins anew (``journal_size_limit``)."""

PRUNED_AT_ONCE = 1000
QUOTAS = [
    Quota.per_minute("org", requests=1e9, tokens=1e13, concurrency=100_000),
    Quota.per_minute("model", requests=1e9, tokens=1e13),
]
ANSWER = '{"content": "' + "An answer of ordinary length, told at some length. " * 6 + '"}'


@dataclass
class Timed:
    """The store, with a stopwatch on its commits."""

    store: SqliteStore
    longest: float = 0.0

    async def commit(self, batch: Batch) -> None:
        start = time.perf_counter()
        await SqliteStore.commit(self.store, batch)
        self.longest = max(self.longest, time.perf_counter() - start)


class Day:
    def __init__(self, scheduler: LocalScheduler, store: SqliteStore, calls: int) -> None:
        self.scheduler = scheduler
        self.store = store
        self.calls = calls
        self.done = 0
        self.begun = 0
        self.random = random.Random(1)

    async def work(self) -> None:
        """One run after the other, until the day is over."""
        while self.begun < self.calls:
            self.begun += CALLS_OF_RUN
            await self.run(f"r-{self.begun}")

    async def run(self, run_id: str) -> None:
        priority = self.random.choice(list(Priority))
        now = self.scheduler.now()
        run = Run(run_id, f"workflow {self.begun % 20}", "task", priority, RunState.RUNNING, now)
        self.scheduler.note_run(run)
        node: ChainNode | None = None
        for number in range(CALLS_OF_RUN):
            node = await self.call(run, number, node)
        ended = replace(run, state=RunState.COMPLETED, finished_at=self.scheduler.now())
        await self.scheduler.save_run(ended)

    async def call(self, run: Run, number: int, before: ChainNode | None) -> ChainNode:
        call_id = f"{run.id}.{number}"
        text = f"{call_id}: " + "What is said here was said by nobody before. " * 5
        chunk = Chunk(hashlib.blake2b(text.encode(), digest_size=16).digest(), text)
        parent = None if before is None else before.hash
        node = ChainNode(
            hashlib.blake2b((parent or b"") + chunk.hash, digest_size=16).digest(),
            parent,
            chunk.hash,
        )
        call = Call(
            call_id,
            run.id,
            f"agent {number % 3}",
            "model",
            ("org", "model"),
            run.priority,
            900,
            self.scheduler.now(),
            node.hash.hex(),
        )
        await self.scheduler.acquire(call, Prompt((chunk,), (node,)))
        chance = self.random.random()
        if chance < 0.01:
            self.scheduler.abandon(call_id, Outcome(CallState.CANCELLED))
        else:
            await self.scheduler.sent(call_id)
            if chance < 0.03:
                await self.scheduler.retry(call_id, Outcome(CallState.QUEUED, error="again"))
                await self.scheduler.sent(call_id)
            state = CallState.FAILED if chance > 0.99 else CallState.DONE
            outcome = Outcome(state, Usage(800, 100), ANSWER, arrival=number)
            await self.scheduler.settle(call_id, outcome)
        self.done += 1
        return node


def look(path: Path, over: threading.Event) -> None:
    """Read as others do: often and shortly, and now and then for three seconds."""
    turn = 0
    while not over.wait(0.05):
        turn += 1
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            db.execute("BEGIN")
            db.execute("SELECT count(*) FROM runs WHERE state = 'running'").fetchone()
            if turn % 200 == 0:
                over.wait(3)


@dataclass(frozen=True)
class Measured:
    """``log``: the least and the most that it was within an hour."""

    database: int
    log: tuple[int, int]
    files: int
    rss: int


class Clerk:
    """Prints a line for every hour, and keeps what is compared in the end."""

    def __init__(self, day: Day, path: Path, timed: Timed, keep: int) -> None:
        self.day, self.path, self.timed, self.keep = day, path, timed, keep
        self.hours: list[Measured] = []
        self.logs: list[int] = []
        self.pruning = 0.0
        self.began = time.perf_counter()
        self.at = (0, self.began)

    async def watch(self) -> None:
        """Wait for each hour; prune, then measure."""
        print(
            "hour   calls      calls/s  prune s  database MB      log MB  files  memory MB  "
            "longest commit ms",
            flush=True,
        )
        hour, pruned = 1, 0
        while self.day.done < self.day.calls:
            await anyio.sleep(0.1)
            self.logs.append(size(self.path, "-wal"))
            if self.day.done // CALLS_OF_RUN >= pruned + PRUNED_AT_ONCE:
                pruned = self.day.done // CALLS_OF_RUN
                await self.prune()
            if self.day.done >= hour * self.day.calls / 24:
                self.tell(hour)
                hour += 1

    async def prune(self) -> None:
        start = time.perf_counter()
        await StoppedRuns(self.day.scheduler, self.day.store).prune(float("inf"), keep=self.keep)
        self.pruning += time.perf_counter() - start

    def tell(self, hour: int) -> None:
        gc.collect()
        now, (calls, at) = time.perf_counter(), self.at
        rate = (self.day.done - calls) / (now - at)
        self.at = (self.day.done, now)
        log = min(self.logs), max(self.logs)
        measured = Measured(size(self.path), log, len(os.listdir("/proc/self/fd")), rss())
        self.hours.append(measured)
        print(
            f"{hour:4}  {self.day.done:10,}  {rate:8,.0f}  {self.pruning:7.1f}  "
            f"{measured.database / 1e6:11,.0f}  {log[0] / 1e6:4,.0f} to {log[1] / 1e6:3,.0f}  "
            f"{measured.files:5}  {measured.rss / 1e6:9,.0f}  {1000 * self.timed.longest:8,.0f}",
            flush=True,
        )
        self.timed.longest = self.pruning = 0.0
        self.logs.clear()

    def verdict(self) -> bool:
        third, last = self.hours[2], self.hours[-1]
        grown = last.database / third.database, last.rss / third.rss
        least, most = (max(hour.log[end] for hour in self.hours) for end in (0, 1))
        print(
            f"from the third hour to the last: database x {grown[0]:.2f} (1.2), memory x "
            f"{grown[1]:.2f} (1.1), files {third.files} and {last.files}; the log: {most / 1e6:.0f}"
            f" MB at most, and in each hour back to {least / 1e6:.0f} MB ({LOG_BYTES / 1e6:.0f})"
        )
        return (
            grown[0] <= 1.2 and grown[1] <= 1.1 and last.files <= third.files and least <= LOG_BYTES
        )


def size(path: Path, suffix: str = "") -> int:
    file = Path(f"{path}{suffix}")
    return file.stat().st_size if file.exists() else 0


def rss() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def lived(folder: Path, calls: int, keep: int) -> bool:
    path = folder / "headway.db"
    day: Day | None = None

    def clock() -> float:
        done = 0 if day is None else day.done
        return START + DAY_SECONDS * done / calls

    store = SqliteStore(path)
    timed = Timed(store)
    store.commit = timed.commit  # type: ignore[method-assign]
    over = threading.Event()
    reader = threading.Thread(target=look, args=(path, over))
    async with store, LocalScheduler(store, QUOTAS, clock=clock) as scheduler:
        day = Day(scheduler, store, calls)
        clerk = Clerk(day, path, timed, keep)
        reader.start()
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(clerk.watch)
                for _ in range(AT_ONCE):
                    group.start_soon(day.work)
        finally:
            over.set()
            reader.join()
        if len(clerk.hours) < 24:
            clerk.tell(24)
    return clerk.verdict()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=10_000_000)
    parser.add_argument("--keep", type=int, default=2000)
    parser.add_argument("--folder", type=Path, help="make the database here, and leave it")
    args = parser.parse_args()
    with TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        sys.exit(not anyio.run(lived, folder, args.calls, args.keep))


if __name__ == "__main__":
    main()
