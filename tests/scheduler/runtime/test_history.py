"""History is written exactly once, in the commit of what it is about."""

from collections import Counter
from pathlib import Path
from random import Random

import anyio
import pytest
from tests.waiting import until

from headway_scheduler.backends.memory.backend import MemoryBackend
from headway_scheduler.backends.memory.store import MemoryStore
from headway_scheduler.backends.sqlite.backend import SqliteBackend
from headway_scheduler.errors import StoreFull
from headway_scheduler.model.batch import Batch
from headway_scheduler.model.calls import Call, Outcome, Priority
from headway_scheduler.model.history import HOUR, MINUTE
from headway_scheduler.model.quotas import Quota
from headway_scheduler.model.states import CallState
from headway_scheduler.ports import Backend
from headway_scheduler.runtime import pump
from headway_scheduler.runtime.local import LocalScheduler

pytestmark = pytest.mark.anyio

WIDE = Quota.per_minute("wide", requests=600_000)
DONE = Outcome(CallState.DONE, answer="{}")
FAILED = Outcome(CallState.FAILED, error="no")


class FullStore(MemoryStore):
    """A store whose disk is full at times, by a seeded dice."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self.random = random
        self.failures = 0

    async def commit(self, batch: Batch) -> None:
        await anyio.lowlevel.checkpoint()
        if self.random.random() < 0.2:
            self.failures += 1
            raise StoreFull("no room")
        await super().commit(batch)


async def one(scheduler: LocalScheduler, name: str, outcome: Outcome) -> None:
    call = Call(name, "run", "a", "m", ("wide",), Priority.LOW, 1, scheduler.now())
    try:
        await scheduler.acquire(call)
    except StoreFull:
        return
    try:
        await scheduler.settle(name, outcome)
    except StoreFull:
        return


@pytest.mark.parametrize("seed", range(5))
async def test_failed_commits_lose_no_end_and_count_none_twice(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump, "RETRY_COMMIT_SECONDS", 0.001)
    random = Random(seed)
    store = FullStore(random)
    async with LocalScheduler(store, [WIDE]) as scheduler:
        async with anyio.create_task_group() as group:
            for number in range(60):
                outcome = DONE if random.random() < 0.6 else FAILED
                group.start_soon(one, scheduler, f"c{number}", outcome)
                if number % 7 == 0:
                    await anyio.sleep(0.002)
        # The last ends may still be on their way.
        await until(lambda: not (scheduler.statistics().in_flight or scheduler.statistics().parked))
    assert store.failures
    ended = Counter(each.state for each in await store.calls() if each.admitted_at is not None)
    spans = Counter[int]()
    for (span, *_), calls in store.tables.history.waits.items():
        spans[span] += calls
    admitted = ended.total() - ended[CallState.QUEUED] - ended[CallState.UNKNOWN]
    assert spans == {MINUTE: admitted, HOUR: admitted}
    tried = Counter(each.news for each in store.tables.history.tries.values())
    assert tried["failed"] == ended[CallState.FAILED]
    assert tried["cut off"] == ended[CallState.UNKNOWN]


@pytest.fixture(params=["memory", "sqlite"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    is_memory = request.param == "memory"
    return MemoryBackend() if is_memory else SqliteBackend(tmp_path / "headway.db")


async def test_a_call_that_is_done_has_its_wait_on_disk(backend: Backend) -> None:
    history = backend.history()
    async with (
        await backend.leadership().campaign("w") as term,
        LocalScheduler(term.store, [WIDE]) as scheduler,
    ):
        call = Call("c", "run", "a", "m", ("wide",), Priority.LOW, 1, scheduler.now() - 5)
        await scheduler.acquire(call)
        assert list(await history.waits(MINUTE, 0)) == []
        await scheduler.settle("c", DONE)
        (count,) = await history.waits(MINUTE, 0)
        assert (count.priority, count.team, count.calls) == (Priority.LOW, "", 1)
