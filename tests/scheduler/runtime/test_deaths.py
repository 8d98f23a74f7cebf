"""What the death of a worker costs the runs that it executed."""

from collections.abc import Collection, Sequence

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway_scheduler.backends.memory.store import MemoryStore
from headway_scheduler.model.batch import Batch, Lesson
from headway_scheduler.model.calls import Call, CallRecord, Priority
from headway_scheduler.model.data import replace
from headway_scheduler.model.quotas import Quota
from headway_scheduler.model.runs import Run, Worker
from headway_scheduler.model.states import CallState, RunState
from headway_scheduler.runtime.deaths import (
    DEATHS_SECONDS,
    MOST_DEATHS,
    Death,
    after_death,
    lesson_of,
    recent_deaths,
)
from headway_scheduler.runtime.local import LocalScheduler

pytestmark = pytest.mark.anyio

NOW = 1_772_366_400.0
WORKER = Worker("w-1", 1, NOW)
ELSEWHERE = [Death(NOW - 1, ("other",))]
INTERRUPTED, FAILED = RunState.INTERRUPTED, RunState.FAILED


def executed(run_id: str, lives_lost: int) -> Run:
    run = Run(run_id, "w", "t", Priority.NORMAL, RunState.RUNNING, NOW, worker=WORKER.id)
    return replace(run, lives_lost=lives_lost, resumed_at=NOW)


def call_of(run_id: str, kind: str = "model") -> Call:
    return Call(f"{run_id}.0", run_id, "writer", "m", ("q",), Priority.NORMAL, 10, NOW, kind=kind)


def answered(run_id: str, at: float = NOW + 1) -> CallRecord:
    return CallRecord(call_of(run_id), 0, CallState.DONE, finished_at=at)


async def left(
    *runs: Run, calls: Collection[CallRecord] = (), deaths: Sequence[Death] = ()
) -> list[Run]:
    """How runs of one worker are once it has died."""
    store = MemoryStore()
    await store.commit(Batch(new=tuple(calls)))
    return (await after_death(store, runs, deaths, NOW))[0]


async def lost(*runs: Run, further: Sequence[str] = ()) -> list[tuple[RunState, int]]:
    found = await left(*runs, calls=[answered(run_id) for run_id in further])
    return [(run.state, run.lives_lost) for run in found]


async def test_a_run_that_loses_its_last_life_alone_is_quarantined() -> None:
    assert [await lost(executed("a", n)) for n in range(3)] == [
        [(INTERRUPTED, 1)],
        [(INTERRUPTED, 2)],
        [(FAILED, 3)],
    ]
    (run,) = await left(executed("a", 2))
    assert (run.worker, run.finished_at, run.is_quarantined) == (None, NOW, True)
    assert "`headway runs retry a`" in (run.error or "")


async def test_a_run_that_got_further_has_lost_one_life_only() -> None:
    assert await lost(executed("a", 2), further=("a",)) == [(INTERRUPTED, 1)]
    (run,) = await left(executed("a", 2), calls=[answered("a", NOW - 1)])
    assert run.is_quarantined  # the answer is older than this life


async def test_of_two_suspects_neither_is_blamed_and_what_is_beside_one_is_not() -> None:
    assert await lost(executed("a", 2), executed("b", 2)) == [(INTERRUPTED, 2)] * 2
    assert await lost(executed("a", 2), executed("b", 1)) == [(INTERRUPTED, 2)] * 2
    assert await lost(executed("a", 2), executed("b", 0)) == [(FAILED, 3), (INTERRUPTED, 1)]
    both = await lost(executed("a", 2), executed("b", 2), further=("b",))
    assert both == [(FAILED, 3), (INTERRUPTED, 1)]


async def test_a_run_that_was_claimed_and_not_executed_loses_no_life_and_is_no_suspect() -> None:
    waiting = [replace(executed("b", 2), state=state) for state in (RunState.QUEUED, INTERRUPTED)]
    assert await lost(*waiting) == [(RunState.QUEUED, 2), (INTERRUPTED, 2)]
    assert (await lost(executed("a", 2), *waiting))[0] == (FAILED, 3)


async def test_a_run_that_waited_for_an_answer_is_spared_and_one_in_a_step_is_not() -> None:
    sent = CallRecord(call_of("a"), 0, CallState.SENT)
    (run,) = await left(executed("a", 2), calls=[sent])
    assert (run.state, run.lives_lost, run.lost_spared) == (INTERRUPTED, 2, 1)
    (run,) = await left(executed("a", 2), calls=[replace(sent, call=call_of("a", "tool"))])
    assert run.is_quarantined


async def deaths_of(run: Run, spared: list[bool]) -> list[int]:
    """Lives lost after each death; whether workers without the run died too."""
    lives = []
    for is_spared in spared:
        again = replace(run, state=RunState.RUNNING)
        (run,) = await left(again, deaths=ELSEWHERE if is_spared else ())
        lives.append(run.lives_lost)
        if run.is_quarantined:
            break
    return lives


async def test_a_run_that_is_spared_loses_a_life_the_third_time() -> None:
    assert await deaths_of(executed("a", 0), [True] * 9) == [1, 1, 2, 2, 2, 3]
    assert await deaths_of(executed("a", 0), [True, True, False, False]) == [1, 1, 2, 3]
    assert await deaths_of(executed("a", 2), [True, True, True]) == [2, 2, 3]


@given(st.lists(st.booleans(), min_size=7, max_size=7))
def test_whatever_it_does_it_takes_no_more_than_seven_workers_down(spared: list[bool]) -> None:
    lives = anyio.run(deaths_of, executed("a", 0), spared)
    assert lives[-1] == 3
    assert len(lives) >= 3


class Killer:
    """Kills workers; each time another leader finds it, which knows what is on disk alone."""

    def __init__(self) -> None:
        self.store, self.now = MemoryStore(), NOW

    async def kill(self, *executed: Run) -> list[int]:
        """Let a worker die with these runs; return the lives that each has lost then."""
        leader = LocalScheduler(
            MemoryStore(self.store.tables), [Quota("q", ())], clock=lambda: self.now
        )
        async with leader:
            await leader.workers.enlist(replace(WORKER, since=self.now))
            for run in executed:
                await leader.save_run(run)
            left = await leader.workers.drop(WORKER.id, died=True)
        lives = {run.id: run.lives_lost for run in left}
        return [lives[run.id] for run in executed]


async def test_a_run_is_spared_while_workers_without_it_die_too() -> None:
    """Somebody kills workers, most likely; all the same it takes down no more than six."""
    killer, run, lives = Killer(), executed("a", 0), [0]
    for _ in range(6):
        await killer.kill(executed("other", 0))
        lives += await killer.kill(run)
        found = await killer.store.run(run.id)
        assert found is not None
        run = replace(found, state=RunState.RUNNING, worker=WORKER.id)
    assert lives == [0, 1, 1, 2, 2, 2, 3]


async def test_a_run_is_not_spared_for_its_own_deaths_nor_for_those_of_another_suspect() -> None:
    killer, beside = Killer(), executed("beside", 0)
    assert await killer.kill(executed("a", 0), beside) == [1, 1]
    assert await killer.kill(executed("a", 1)) == [2]
    assert await killer.kill(replace(beside, lives_lost=1)) == [2]
    assert await killer.kill(executed("a", 2)) == [3]


async def test_a_death_speaks_for_other_runs_for_a_minute() -> None:
    killer = Killer()
    await killer.kill(executed("a", 0))
    killer.now += DEATHS_SECONDS - 1
    assert await killer.kill(executed("b", 1)) == [1]
    killer.now += 2
    assert await killer.kill(executed("c", 1)) == [2]


async def test_deaths_that_cannot_be_read_spare_nobody_and_few_are_kept() -> None:
    store, many = MemoryStore(), [Death(NOW, (f"r-{n}",)) for n in range(2 * MOST_DEATHS)]
    await store.commit(Batch(lessons=(lesson_of(many),)))
    assert await recent_deaths(store, NOW) == many[-MOST_DEATHS:]
    await store.commit(Batch(lessons=(Lesson("deaths", "workers", "[7"),)))
    assert await recent_deaths(store, NOW) == []
