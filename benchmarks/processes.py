"""Several processes on one database: an urgent call, throughput side by side, and doing nothing.

    python -m benchmarks.processes [urgent] [throughput] [idle] [takeover]

``urgent``: one process has 10,000 background calls queued; a fresh process, again and again, opens
the database and asks for one interactive call. Shown: how long from asking to the moment at which
the request may leave, and how many background calls were admitted in that time.
``throughput``: durable calls a second of one process with 1,000 callers, and of two with 500
each, the leader and a follower, in rounds that alternate.
``idle``: the share of a core of five ``headway work --forever`` that wait, and of those one by one.
``takeover``: how long after a SIGKILL, and after a SIGSTOP, of the one that leads another one does,
of three workers.
"""

import argparse
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio

from headway import Headway
from headway.config import load
from headway_scheduler.backends.sqlite import backend  # noqa: F401  # before it forks
from headway_scheduler.model.calls import Call, Outcome, Priority, Usage
from headway_scheduler.model.states import CallState

QUEUED = 10_000
FRESH = 200
ANSWER = '{"content": "' + "x" * 500 + '"}'
CONFIG = """
[database]
path = "headway.db"
[quotas.one]
requests_per_minute = {rpm}
burst_seconds = 1
[models.sim]
quotas = ["one"]
base_url = "http://127.0.0.1:9"
"""


def call(call_id: str, priority: Priority) -> Call:
    run_id = call_id.partition(".")[0]
    return Call(call_id, run_id, "writer", "sim", ("one",), priority, 900, time.time(), "hash")


async def one(headway: Headway, call_id: str, priority: Priority) -> None:
    """A call from its beginning to its end; the model is fake and instant."""
    asking = headway._opened.scheduler
    await asking.acquire(call(call_id, priority))
    await asking.sent(call_id)
    await asking.settle(call_id, Outcome(CallState.DONE, usage=Usage(800, 100), answer=ANSWER))


def forked(act: Callable[[], Any]) -> int:
    """Have a child process do something; everything is imported already."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            act()
            status = 0
        finally:
            os._exit(status)
    return pid


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():  # noqa: ASYNC110 -- other processes have no event
        await anyio.sleep(0.01)


def touch(path: Path) -> None:
    path.touch()


def count_of(folder: Path, kind: str) -> int:
    return len(list(folder.glob(f"*.{kind}")))


# An urgent call


async def crowd(folder: Path, ready: Path) -> None:
    async with (
        Headway(load(folder / "headway.toml")) as headway,
        anyio.create_task_group() as group,
    ):
        for number in range(QUEUED):
            group.start_soon(one, headway, f"r-crowd.{number}", Priority.BACKGROUND)
        await until(lambda: sum(headway.scheduler.statistics().waiting) > QUEUED * 0.9)
        touch(ready)
        await anyio.sleep_forever()


async def fresh(folder: Path, number: int, report: Path) -> None:
    opened = time.perf_counter()
    async with Headway(load(folder / "headway.toml")) as headway:
        urgent = call(f"r-fresh{number}.0", Priority.INTERACTIVE)
        asked = time.perf_counter()
        await headway._opened.scheduler.acquire(urgent)
        sent = time.perf_counter()
        await headway._opened.scheduler.sent(urgent.id)
        await headway._opened.scheduler.settle(urgent.id, Outcome(CallState.DONE, answer=ANSWER))
    with report.open("a") as file:
        file.write(f"{asked - opened} {sent - asked}\n")


def urgent() -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        # A hundred a second: the queue lasts, and what is kept free for urgent calls suffices.
        (folder / "headway.toml").write_text(CONFIG.format(rpm=6000))
        ready, report = folder / "ready", folder / "report"
        leader = forked(lambda: anyio.run(crowd, folder, ready))
        while not ready.exists():
            time.sleep(0.05)
        for number in range(FRESH):
            child = forked(lambda number=number: anyio.run(fresh, folder, number, report))
            os.waitpid(child, 0)
        waiting = anyio.run(left, folder)
        os.kill(leader, signal.SIGKILL)
        os.waitpid(leader, 0)
        rows = [tuple(map(float, line.split())) for line in report.read_text().splitlines()]
        between = anyio.run(admitted_between, folder)
    opening, asking = ([1000 * row[n] for row in rows] for n in (0, 1))
    print(f"urgent: {len(rows)} fresh processes, {waiting:,} calls still queued at the end")
    print(f"  opening the database: {quantiles(opening)}")
    print(f"  asking until it may leave: {quantiles(asking)} (aim 10 and 25)")
    print(
        f"  background calls admitted meanwhile: median {statistics.median(between)}, "
        f"most {max(between)}"
    )


async def left(folder: Path) -> int:
    from headway_scheduler.backends.sqlite.store import SqliteStore

    async with SqliteStore(folder / "headway.db", read_only=True) as store:
        return len(await store.calls(None, {CallState.QUEUED}))


async def admitted_between(folder: Path) -> list[int]:
    from headway_scheduler.backends.sqlite.store import SqliteStore

    async with SqliteStore(folder / "headway.db", read_only=True) as store:
        rows = await store.calls()
    times = [r.admitted_at for r in rows if r.call.run_id == "r-crowd" and r.admitted_at]
    spans = [
        (r.call.submitted_at, r.admitted_at)
        for r in rows
        if r.call.run_id != "r-crowd" and r.admitted_at
    ]
    return [sum(start < at < end for at in times) for start, end in spans]


def quantiles(milliseconds: list[float]) -> str:
    ordered = sorted(milliseconds)
    p50, p99 = statistics.median(ordered), ordered[int(0.99 * (len(ordered) - 1))]
    return f"p50 {p50:.1f} ms, p99 {p99:.1f} ms"


# Throughput


async def callers(folder: Path, name: str, count: int, each: int, report: Path) -> None:
    async with Headway(load(folder / "headway.toml")) as headway:
        touch(folder / f"{name}.open")
        await until((folder / "go").exists)

        async def caller(number: int) -> None:
            for turn in range(each):
                await one(headway, f"r-{name}{number}.{turn}", Priority.NORMAL)

        start = time.perf_counter()
        async with anyio.create_task_group() as group:
            for number in range(count):
                group.start_soon(caller, number)
        with report.open("a") as file:
            file.write(f"{start} {time.perf_counter()} {count * each}\n")
        touch(folder / f"{name}.done")
        await until(lambda: count_of(folder, "done") == count_of(folder, "open"))


def calls_per_second(names: list[str], count: int, each: int) -> float:
    with TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "headway.toml").write_text(CONFIG.format(rpm=10**9))
        report = folder / "report"
        children = []
        for name in names:
            children.append(
                forked(lambda name=name: anyio.run(callers, folder, name, count, each, report))
            )
            while not (folder / f"{name}.open").exists():
                time.sleep(0.01)
        (folder / "go").touch()
        for child in children:
            os.waitpid(child, 0)
        rows = [tuple(map(float, line.split())) for line in report.read_text().splitlines()]
    start, end = min(row[0] for row in rows), max(row[1] for row in rows)
    return sum(row[2] for row in rows) / (end - start)


def throughput() -> None:
    ratios = []
    for number in range(3):
        alone = calls_per_second(["a"], 1000, 20)
        both = calls_per_second(["a", "b"], 500, 20)
        ratios.append(both / alone)
        print(
            f"throughput, round {number}: one process {alone:,.0f}, two {both:,.0f} calls a second"
        )
    print(f"  two : one = {statistics.median(ratios):.2f} (bar 0.5)")


# Nothing to do


def idle() -> None:
    with TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "headway.toml").write_text(CONFIG.format(rpm=60))
        workers = []
        for _ in range(5):
            workers.append(worker(folder))
            time.sleep(2.5)
        time.sleep(3)
        before, start = [cpu_seconds(each.pid) for each in workers], time.monotonic()
        time.sleep(30)
        spent = [cpu_seconds(w.pid) - b for w, b in zip(workers, before, strict=True)]
        seconds = time.monotonic() - start
        for each in workers:
            each.terminate()
        for each in workers:
            each.wait()
    shares = ", ".join(f"{100 * each / seconds:.2f}" for each in spent)
    print(f"idle: five workers take {100 * sum(spent) / seconds:.2f} % of a core (bar 2)")
    print(f"  each: {shares}; the first one leads")


# Whoever leads is gone


def takeover() -> None:
    with TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "headway.toml").write_text(CONFIG.format(rpm=60))
        workers = [worker(folder) for _ in range(3)]
        time.sleep(4)
        killed = [1000 * until_led(folder, workers, signal.SIGKILL) for _ in range(20)]
        frozen = [until_led(folder, workers, signal.SIGSTOP) for _ in range(5)]
        for each in workers:
            each.kill()
            each.wait()
    print(f"takeover after SIGKILL: {quantiles(killed)}, most {max(killed):.0f} ms (bar 100)")
    print(f"  after SIGSTOP: median {statistics.median(frozen):.2f} s, most {max(frozen):.2f} (2)")


def worker(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "headway", "work", "--forever"]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=folder, stdout=quiet, stderr=quiet)


def until_led(folder: Path, workers: list[subprocess.Popen[bytes]], end: signal.Signals) -> float:
    """End whoever leads, and say how many seconds it took until another epoch began."""
    pid = int((folder / "headway.db.lock").read_text())
    leader = next(each for each in workers if each.pid == pid)
    with closing(sqlite3.connect(folder / "headway.db")) as db:

        def epoch() -> int:
            return int(db.execute("SELECT epoch FROM leadership").fetchone()[0])

        before, start = epoch(), time.perf_counter()
        leader.send_signal(end)
        while epoch() == before:
            time.sleep(0.001)
        seconds = time.perf_counter() - start
    leader.kill()
    leader.wait()
    workers.remove(leader)
    workers.append(worker(folder))
    time.sleep(3)
    return seconds


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parts = {"urgent": urgent, "throughput": throughput, "idle": idle, "takeover": takeover}
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", choices=[*parts, []], default=[])
    for name in parser.parse_args().parts or parts:
        parts[name]()


if __name__ == "__main__":
    main()
