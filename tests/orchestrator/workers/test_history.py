"""The leader prunes history, and has a minute written in which nobody asked for anything."""

from pathlib import Path

import anyio
import pytest
from tests.waiting import until

from headway.workers import history as pruning
from headway.workers.history import DAY, HistoryPruner, retention
from headway_scheduler.backends.memory.backend import MemoryBackend
from headway_scheduler.backends.sqlite.backend import SqliteBackend
from headway_scheduler.model.batch import Batch
from headway_scheduler.model.calls import Call, Priority
from headway_scheduler.model.history import HOUR, MINUTE, Try, WaitCount
from headway_scheduler.model.quotas import Quota
from headway_scheduler.ports import Backend
from headway_scheduler.runtime.local import LocalScheduler

pytestmark = pytest.mark.anyio

NOW = 1_772_366_400.0
CLOSED = Quota.per_minute("closed", concurrency=1)


@pytest.fixture(params=["memory", "sqlite"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    is_memory = request.param == "memory"
    return MemoryBackend() if is_memory else SqliteBackend(tmp_path / "headway.db")


async def test_all_that_is_too_old_goes_however_much_it_is(backend: Backend) -> None:
    """More than one commit deletes, and what is young stays."""
    many = 5_000
    old = [Try(f"{n}", "run", "", 1.0, NOW - 31 * DAY, "failed") for n in range(many)]
    young = Try("young", "run", "", 1.0, NOW, "failed")
    at = int(NOW - 4 * DAY) // HOUR * HOUR
    waits = [
        WaitCount(span, at, Priority.LOW, f"team {n}", 0, 1)
        for n in range(many)
        for span in (MINUTE, HOUR)
    ]
    async with await backend.leadership().campaign("w") as term:
        await term.store.commit(Batch(tries=(*old, young), waits=tuple(waits)))
        async with LocalScheduler(term.store, [], clock=lambda: NOW) as scheduler:
            await HistoryPruner(scheduler, backend.history()).prune()
    history = backend.history()
    assert list(await history.tries()) == [young]
    assert list(await history.waits(MINUTE, 0)) == []
    assert len(await history.waits(HOUR, 0)) == many
    assert not await history.has_outdated(retention(NOW))


async def test_no_more_tries_are_kept_than_the_limit(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "MOST_TRIES", 3)
    rows = tuple(Try(f"{n}", "run", "", 1.0, NOW, "failed") for n in range(5))
    async with await backend.leadership().campaign("w") as term:
        await term.store.commit(Batch(tries=rows))
        async with LocalScheduler(term.store, [], clock=lambda: NOW) as scheduler:
            await HistoryPruner(scheduler, backend.history()).prune()
    left = await backend.history().tries()
    assert [each.call_id for each in left] == ["4", "3", "2"]


async def test_a_minute_in_which_all_wait_and_nobody_asks_has_its_crowd(backend: Backend) -> None:
    now = NOW
    async with (
        await backend.leadership().campaign("w") as term,
        LocalScheduler(term.store, [CLOSED], clock=lambda: now) as scheduler,
        anyio.create_task_group() as group,
    ):
        for name in "abc":
            call = Call(name, "run", "a", "m", ("closed",), Priority.LOW, 1, NOW)
            group.start_soon(scheduler.acquire, call)
        await until(lambda: scheduler.statistics().waiting[Priority.LOW] == 2)
        pruner = HistoryPruner(scheduler, backend.history())
        now = NOW + 2
        await pruner.prune()
        assert list(await backend.history().crowds(0)) == []
        now = NOW + MINUTE
        await pruner.prune()
        (crowd,) = await backend.history().crowds(0)
        assert (crowd.waiting, crowd.in_flight) == (2, 1)
        group.cancel_scope.cancel()
