"""Conformance of history: one suite, run on every engine."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from headway_scheduler.backends.memory.backend import MemoryBackend
from headway_scheduler.backends.sqlite.backend import SqliteBackend
from headway_scheduler.model.batch import Batch
from headway_scheduler.model.calls import Call, CallRecord, Priority, Usage
from headway_scheduler.model.history import HOUR, MINUTE, Crowd, Ended, Retention, Try, WaitCount
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import CallState, RunState
from headway_scheduler.ports import Backend, History, Store

pytestmark = pytest.mark.anyio

KEEP_ALL = Retention(0, 0, 0, 0, 1_000_000)


@pytest.fixture(params=["memory", "sqlite"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    is_memory = request.param == "memory"
    return MemoryBackend() if is_memory else SqliteBackend(tmp_path / "headway.db")


@asynccontextmanager
async def led(backend: Backend) -> AsyncIterator[Store]:
    async with await backend.leadership().campaign("w") as term:
        yield term.store


@pytest.fixture
async def store(backend: Backend) -> AsyncIterator[Store]:
    async with led(backend) as store:
        yield store


@pytest.fixture
def history(backend: Backend) -> History:
    return backend.history()


def tried(call_id: str, ended_at: float, run_id: str = "run") -> Try:
    return Try(call_id, run_id, "openai", ended_at - 1, ended_at, "refused", ended_at + 9, "slow!")


def wait(at: int, bucket: int = 3, calls: int = 1, span: int = MINUTE) -> WaitCount:
    return WaitCount(span, at, Priority.LOW, "tëam", bucket, calls)


async def test_nothing_happened_yet(store: Store, history: History) -> None:
    assert list(await history.tries()) == []
    assert list(await history.waits(MINUTE, 0)) == []
    assert list(await history.crowds(0)) == []
    assert list(await history.ended(0, most=10)) == []
    assert not await history.has_outdated(KEEP_ALL)


async def test_tries_come_newest_first_by_time_by_run_and_limited(
    store: Store, history: History
) -> None:
    rows = [tried("a", 10), tried("b", 30, "other"), tried("c", 20), Try("d", "run", "", 1, 5, "x")]
    for row in rows:
        await store.commit(Batch(tries=(row,)))
    by_time = [rows[1], rows[2], rows[0], rows[3]]
    assert list(await history.tries()) == by_time
    assert list(await history.tries(limit=2)) == by_time[:2]
    assert list(await history.tries(since=20)) == by_time[:2]
    assert list(await history.tries(run_id="run")) == [rows[3], rows[2], rows[0]]
    assert list(await history.tries(run_id="run", since=20)) == [rows[2]]


async def test_waits_of_one_kind_are_added_up(store: Store, history: History) -> None:
    await store.commit(Batch(waits=(wait(60, calls=2), wait(60, bucket=4), wait(0, span=HOUR))))
    await store.commit(Batch(waits=(wait(60, calls=3), wait(120))))
    by_minute = [wait(60, calls=5), wait(60, bucket=4), wait(120)]
    assert list(await history.waits(MINUTE, 0)) == by_minute
    assert list(await history.waits(MINUTE, 61)) == [wait(120)]
    assert list(await history.waits(HOUR, 0)) == [wait(0, span=HOUR)]


async def test_of_two_leaders_in_a_minute_the_larger_counts_stay(
    store: Store, history: History
) -> None:
    await store.commit(Batch(crowds=(Crowd(60, Priority.LOW, 5, 1), Crowd(0, Priority.HIGH, 1, 1))))
    await store.commit(Batch(crowds=(Crowd(60, Priority.LOW, 2, 7),)))
    merged = Crowd(60, Priority.LOW, 5, 7)
    assert list(await history.crowds(0)) == [Crowd(0, Priority.HIGH, 1, 1), merged]
    assert list(await history.crowds(60)) == [merged]


OLD = Batch(
    tries=(tried("old", 100), tried("new", 200)),
    waits=(wait(60), wait(180), wait(0, span=HOUR), wait(HOUR, span=HOUR)),
    crowds=(Crowd(60, Priority.LOW, 1, 1), Crowd(180, Priority.LOW, 1, 1)),
)


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        (Retention(0, 0, 0, 0, 2), (2, 2, 2, 2)),
        (Retention(0, 0, 0, 150, 2), (1, 2, 2, 2)),
        (Retention(0, 0, 0, 0, 1), (1, 2, 2, 2)),
        (Retention(150, 0, 0, 0, 2), (2, 1, 2, 2)),
        (Retention(0, 150, 0, 0, 2), (2, 2, 1, 2)),
        (Retention(0, 0, 150, 0, 2), (2, 2, 2, 1)),
    ],
)
async def test_what_is_outdated_is_pruned_and_nothing_else(
    store: Store, history: History, keep: Retention, left: tuple[int, ...]
) -> None:
    await store.commit(OLD)
    assert await history.has_outdated(keep) == (sum(left) < 8)
    await store.commit(Batch(prune=(keep,)))
    tries, crowds = await history.tries(), await history.crowds(0)
    minutes, hours = await history.waits(MINUTE, 0), await history.waits(HOUR, 0)
    assert (len(tries), len(minutes), len(hours), len(crowds)) == left
    assert tries[0].call_id == "new"
    assert not await history.has_outdated(keep)


async def test_tries_go_with_their_run(store: Store, history: History) -> None:
    done = Run("run", "w", "t", Priority.LOW, RunState.COMPLETED, 1.0)
    await store.commit(Batch(runs=(done,), tries=(tried("a", 1), tried("b", 2, "other"))))
    await store.commit(Batch(forget=("run",)))
    assert [each.call_id for each in await history.tries()] == ["b"]


async def test_calls_that_ended_lately_are_counted_by_their_quotas(
    store: Store, history: History
) -> None:
    def ended(seq: int, quotas: tuple[str, ...], at: float | None) -> CallRecord:
        call = Call(f"{seq}", "run", "a", "m", quotas, Priority.LOW, 1, 1.0)
        usage = None if at is None else Usage(10 + seq, 2)
        return CallRecord(call, seq, CallState.DONE, finished_at=at, usage=usage, answer="{}")

    both = ("day", "openai")
    rows = (ended(0, both, 100), ended(1, both, 90), ended(2, ("x",), 99), ended(3, both, None))
    await store.commit(Batch(new=(*rows, ended(4, both, 101), ended(5, (), 100))))
    assert list(await history.ended(95, most=6)) == [Ended(both, 2, 24, 4), Ended(("x",), 1, 12, 2)]
    assert list(await history.ended(95, most=2)) == [Ended(both, 1, 14, 2)]


async def test_a_row_that_cannot_be_is_left_out(tmp_path: Path) -> None:
    import sqlite3
    from contextlib import closing

    backend = SqliteBackend(tmp_path / "headway.db")
    async with led(backend) as store:
        await store.commit(OLD)
    with closing(sqlite3.connect(tmp_path / "headway.db")) as db:
        db.execute("UPDATE waits SET bucket = 1000 WHERE span = 60 AND at = 60")
        db.execute("UPDATE crowds SET priority = 99 WHERE at = 60")
        db.execute("UPDATE tries SET ended_at = 9e999 WHERE call_id = 'old'")
        db.commit()
    history, maintenance = backend.history(), backend.maintenance()
    assert len(await history.waits(MINUTE, 0)) == 1
    assert len(await history.crowds(0)) == 1
    assert [each.call_id for each in await history.tries()] == ["new"]
    assert [row.split()[0] for row in await maintenance.problems()] == ["try", "wait", "crowd"]
    assert [row.kind for row in await maintenance.repair()] == ["try", "wait", "crowd"]
    assert await maintenance.problems() == []
