"""History is written exactly once, in the commit of what it is about."""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import anyio
import pytest
from anyio import to_thread
from tests.processes import WarmProcess
from tests.waiting import until

from headway_scheduler.backends.memory.backend import MemoryBackend
from headway_scheduler.backends.memory.store import MemoryStore
from headway_scheduler.backends.sqlite.backend import SqliteBackend
from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.errors import StoreFull
from headway_scheduler.model.batch import Batch
from headway_scheduler.model.calls import Call, Outcome, Priority
from headway_scheduler.model.history import HOUR, MINUTE
from headway_scheduler.model.quotas import Quota
from headway_scheduler.model.states import IN_FLIGHT, CallState
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
        self.commits = 0
        self.failures = 0

    async def commit(self, batch: Batch) -> None:
        await anyio.lowlevel.checkpoint()
        self.commits += 1
        # The second one always: on a busy machine there are few, for many messages each.
        if self.commits == 2 or self.random.random() < 0.2:
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
        # The last ends may still be on their way, and a commit that fails takes them back: so it is
        # the rows that say when all is over.
        rows = store.tables.calls.values
        await until(lambda: not any(each.state in IN_FLIGHT or each.parked for each in rows()))
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


CHILD = """
import sys, anyio
from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.model.calls import Call, Outcome, Priority
from headway_scheduler.model.quotas import Quota
from headway_scheduler.model.states import CallState
from headway_scheduler.runtime.local import LocalScheduler

WIDE = Quota.per_minute("wide", requests=600_000)

async def ask(scheduler, number):
    for turn in range(1_000_000):
        name = f"c{number}.{turn}"
        call = Call(name, "run", "a", "m", ("wide",), Priority.LOW, 1, scheduler.now())
        await scheduler.acquire(call)
        await scheduler.settle(name, Outcome(CallState.DONE, answer="{}"))
        if turn == 5:
            print("some", flush=True)

async def main():
    async with SqliteStore(sys.argv[1]) as store, LocalScheduler(store, [WIDE]) as scheduler:
        async with anyio.create_task_group() as group:
            for number in range(8):
                group.start_soon(ask, scheduler, number)

anyio.run(main)
"""


async def test_a_kill_leaves_as_many_waits_as_calls_that_ended(tmp_path: Path) -> None:
    path = tmp_path / "headway.db"
    command = [sys.executable, "-c", CHILD, str(path)]
    with WarmProcess(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert await to_thread.run_sync(process.stdout.readline) == "some\n"
        process.kill()
    history = SqliteBackend(path).history()
    async with SqliteStore(path, read_only=True) as store:
        done = len(await store.calls(states=[CallState.DONE]))
        in_flight = {each.call.id for each in await store.calls(states=IN_FLIGHT)}
        for span in (MINUTE, HOUR):
            assert sum(each.calls for each in await history.waits(span, 0)) == done > 0
    async with SqliteStore(path) as leader, LocalScheduler(leader, [WIDE]):
        cut_off = await history.tries()
        assert {each.call_id for each in cut_off} == in_flight
        assert {each.news for each in cut_off} <= {"cut off"}
        assert len(cut_off) == len(in_flight)


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
