"""The leader takes messages of workers, and does not believe their clocks."""

from collections.abc import AsyncIterator, Sequence
from math import inf
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.odd import unchecked

from headway_scheduler.backends import open_backend
from headway_scheduler.backends.memory.store import MemoryStore
from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.model.batch import Batch
from headway_scheduler.model.calls import Call, CallRecord, Outcome, Priority, Usage
from headway_scheduler.model.data import replace
from headway_scheduler.model.formulas import LONGEST_STATED_SECONDS
from headway_scheduler.model.quotas import Observation, ProviderEvent, Quota
from headway_scheduler.model.runs import Run, Worker
from headway_scheduler.model.states import CallState, RunState
from headway_scheduler.protocol.codec import load_notification
from headway_scheduler.protocol.envelopes import MessageBatch
from headway_scheduler.protocol.messages import MarkSent, Message, Observe, SaveRun, Settle, Submit
from headway_scheduler.runtime.local import LocalScheduler
from headway_scheduler.runtime.workers import DEATHS_SECONDS, Evidence, after_death, evidence

pytestmark = pytest.mark.anyio

NOW = 1_772_366_400.0
YEAR = 365 * 86_400.0
LATEST = NOW + LONGEST_STATED_SECONDS
WORKER = Worker("w-1", 1, NOW)
QUOTA = Quota.per_minute("q", requests=600, tokens=100_000, concurrency=2)
WIDE = Quota.per_minute("q", requests=600, concurrency=50)
AGAIN = Outcome(CallState.QUEUED, error="503")


def call(submitted_at: float = NOW, quota: str = "q") -> Call:
    return Call("r.0", "r", "writer", "m", (quota,), Priority.NORMAL, 10, submitted_at)


class Leader:
    """A leader whose time stands still, and a worker that tells it something."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.scheduler = LocalScheduler(self.store, [QUOTA], clock=lambda: NOW)

    async def told(self, *messages: Message, age: float = inf) -> CallRecord:
        """The row of the call once the leader has taken what the worker tells."""
        batch = MessageBatch(WORKER.id, messages, joins=WORKER)
        await self.scheduler.workers.deliver(7, batch, age=age).wait()
        (row,) = await self.store.calls("r")
        return row


@pytest.fixture
async def leader() -> AsyncIterator[Leader]:
    leader = Leader()
    async with leader.store, leader.scheduler:
        yield leader


@pytest.mark.parametrize(
    ("told", "age", "stamped"),
    [
        (NOW - 5, inf, NOW - 5),
        (NOW - YEAR, inf, NOW - YEAR),
        (NOW + YEAR, inf, NOW),
        (NOW - 5, 10.0, NOW - 5),
        (NOW - YEAR, 10.0, NOW - 10),
        (NOW + YEAR, 10.0, NOW),
    ],
)
async def test_a_time_that_has_passed_is_between_the_request_and_now(
    leader: Leader, told: float, age: float, stamped: float
) -> None:
    assert (await leader.told(Submit(call(told)), age=age)).call.submitted_at == stamped
    assert (await leader.told(MarkSent("r.0", told), age=age)).sent_at == stamped


@pytest.mark.parametrize(
    ("told", "stamped"), [(NOW + 60, NOW + 60), (LATEST, LATEST), (NOW + YEAR, LATEST)]
)
async def test_a_call_goes_again_within_the_longest_time_that_a_provider_may_state(
    leader: Leader, told: float, stamped: float
) -> None:
    await leader.told(Submit(call()))
    row = await leader.told(Settle("r.0", replace(AGAIN, not_before=told)))
    assert (row.state, row.not_before) == (CallState.QUEUED, stamped)


@pytest.mark.parametrize("is_the_end", [False, True])
@pytest.mark.parametrize(
    ("told", "stamped"), [(NOW + 60, NOW + 60), (LATEST, LATEST), (NOW + YEAR, LATEST)]
)
async def test_a_quota_pauses_no_longer_than_a_provider_may_state(
    leader: Leader, told: float, stamped: float, is_the_end: bool
) -> None:
    signals = {"q": Observation(told, ProviderEvent.REFUSED)}
    await leader.told(Submit(call()))
    message = Settle("r.0", AGAIN, signals) if is_the_end else Observe("r.0", signals)
    await leader.told(message)
    assert leader.scheduler.statistics().gauges[0].paused_until == stamped


async def test_what_a_database_refuses_of_a_batch_is_refused_alone(tmp_path: Path) -> None:
    """The other messages of the batch stand, and the end of a call becomes a failure."""
    ends = Outcome(CallState.DONE, Usage(1, 1), "answer", arrival=0)
    odd = unchecked(Usage, input_tokens=2**63, output_tokens=1)
    calls = [replace(call(), id=f"r.{number}") for number in range(4)]
    async with (
        SqliteStore(tmp_path / "headway.db") as store,
        LocalScheduler(store, [WIDE]) as scheduler,
    ):
        deliver = scheduler.workers.deliver
        batch = MessageBatch(WORKER.id, tuple(map(Submit, calls)), joins=WORKER)
        await deliver(1, batch).wait()
        run = Run("r", "w", "t", Priority.LOW, RunState.RUNNING, 1.0)
        told = MessageBatch(
            WORKER.id,
            (
                Settle("r.0", ends),
                Submit(replace(calls[0], id="r.9", tokens=2**63)),
                Settle("r.1", replace(ends, usage=odd, arrival=1)),
                SaveRun(run),
                Settle("r.2", replace(ends, arrival=2)),
            ),
        )
        await deliver(2, told).wait()
        rows = {row.call.id: (row.state, row.answer) for row in await store.calls("r")}
        assert rows["r.0"] == rows["r.2"] == (CallState.DONE, "answer")
        assert rows["r.1"] == (CallState.FAILED, None)
        assert "r.9" not in rows
        assert await store.run("r") == run
        assert scheduler.statistics().in_flight == 1
        mailbox = open_backend(str(tmp_path / "headway.db")).mailbox()
        notifications = [
            load_notification(text) for _, text in await mailbox.notifications("w-1", 0)
        ]
        await mailbox.close()
        handled = [each for told in notifications for each in told.handled if each.request_id == 2]
        (refusal,) = handled[0].refusals
        assert (refusal.index, refusal.error.error) == (1, "RowRefused")


def lost(*runs: Run, further: tuple[str, ...] = ()) -> list[tuple[RunState, int]]:
    """How runs of one worker are once it has died."""
    return [(run.state, run.lives_lost) for run in after_death(runs, Evidence(further), NOW)]


def executed(run_id: str, lives_lost: int) -> Run:
    run = Run(run_id, "w", "t", Priority.NORMAL, RunState.RUNNING, NOW, worker=WORKER.id)
    return replace(run, lives_lost=lives_lost)


def test_a_run_that_loses_its_last_life_alone_is_quarantined() -> None:
    interrupted, failed = RunState.INTERRUPTED, RunState.FAILED
    assert [lost(executed("a", n)) for n in range(3)] == [
        [(interrupted, 1)],
        [(interrupted, 2)],
        [(failed, 3)],
    ]
    (run,) = after_death([executed("a", 2)], Evidence(), NOW)
    assert (run.worker, run.finished_at, run.is_quarantined) == (None, NOW, True)
    assert "`headway runs retry a`" in (run.error or "")


def test_a_run_that_got_further_has_lost_one_life_only() -> None:
    assert lost(executed("a", 2), further=("a",)) == [(RunState.INTERRUPTED, 1)]


def test_of_two_suspects_neither_is_blamed_and_what_is_beside_one_is_not() -> None:
    interrupted = RunState.INTERRUPTED
    assert lost(executed("a", 2), executed("b", 2)) == [(interrupted, 2)] * 2
    assert lost(executed("a", 2), executed("b", 1)) == [(interrupted, 2)] * 2
    assert lost(executed("a", 2), executed("b", 0)) == [(RunState.FAILED, 3), (interrupted, 1)]
    both = lost(executed("a", 2), executed("b", 2), further=("b",))
    assert both == [(RunState.FAILED, 3), (interrupted, 1)]


def test_a_run_that_was_claimed_and_not_executed_loses_no_life_and_is_no_suspect() -> None:
    waiting = [
        replace(executed("b", 2), state=state) for state in (RunState.QUEUED, RunState.INTERRUPTED)
    ]
    assert lost(*waiting) == [(RunState.QUEUED, 2), (RunState.INTERRUPTED, 2)]
    assert lost(executed("a", 2), *waiting)[0] == (RunState.FAILED, 3)


def deaths(run: Run, spared: list[bool]) -> list[int]:
    """Lives lost after each death; whether the run was spared."""
    lives = []
    for is_spared in spared:
        found = Evidence(spared=(run.id,) if is_spared else ())
        (run,) = after_death([replace(run, state=RunState.RUNNING)], found, NOW)
        lives.append(run.lives_lost)
        if run.is_quarantined:
            break
    return lives


def test_a_run_that_is_spared_loses_a_life_the_third_time() -> None:
    assert deaths(executed("a", 0), [True] * 9) == [1, 1, 2, 2, 2, 3]
    assert deaths(executed("a", 0), [True, True, False, False]) == [1, 1, 2, 3]
    assert deaths(executed("a", 2), [True, True, True]) == [2, 2, 3]


@given(st.lists(st.booleans(), min_size=7, max_size=7))
def test_whatever_it_does_it_takes_no_more_than_seven_workers_down(spared: list[bool]) -> None:
    lives = deaths(executed("a", 0), spared)
    assert lives[-1] == 3
    assert len(lives) >= 3


async def test_a_new_answer_since_the_run_was_resumed_is_how_it_got_further() -> None:
    store, run = MemoryStore(), replace(executed("r", 1), resumed_at=NOW)
    old = CallRecord(call(), 0, CallState.DONE, finished_at=NOW - 1)
    await store.commit(Batch(new=(old,)))
    assert await evidence(store, [run]) == Evidence(set(), set())
    await store.commit(Batch(changed=(replace(old, finished_at=NOW + 1),)))
    assert await evidence(store, [run]) == Evidence({"r"}, set())
    # A run that had not begun did nothing in this life.
    begun = replace(run, state=RunState.INTERRUPTED)
    assert await evidence(store, [begun]) == Evidence(set(), set())


async def test_a_call_that_lives_is_how_it_waited_and_a_step_is_none() -> None:
    store, run = MemoryStore(), replace(executed("r", 1), resumed_at=NOW)
    sent = CallRecord(call(), 0, CallState.SENT)
    step = replace(sent, seq=1, call=replace(call(), id="r.1", kind="tool"))
    await store.commit(Batch(new=(step,)))
    assert await evidence(store, [run]) == Evidence(set(), set())
    await store.commit(Batch(new=(sent,)))
    assert await evidence(store, [run]) == Evidence(set(), {"r"})


class Killer:
    """A leader whose clock the test sets, and the deaths of its workers."""

    def __init__(self) -> None:
        self.store, self.now = MemoryStore(), NOW
        self.scheduler = LocalScheduler(self.store, [QUOTA], clock=lambda: self.now)

    async def kill(self, *executed: Run) -> list[int]:
        """Let a worker die with these runs; return the lives that each has lost then."""
        worker = Worker("w-1", 1, self.now)
        await self.scheduler.workers.enlist(worker)
        for run in executed:
            await self.scheduler.save_run(replace(run, state=RunState.RUNNING, worker=worker.id))
        left = {run.id: run for run in await self.scheduler.workers.drop(worker.id, died=True)}
        return [left[run.id].lives_lost for run in executed]

    async def died_with(self, run_id: str, before: Sequence[Run] = ()) -> int:
        """How many workers die with a run alone until it is quarantined."""
        run = Run(run_id, "w", "t", Priority.NORMAL, RunState.QUEUED, NOW)
        for count in range(1, 10):
            await self.kill(*before)
            await self.kill(run)
            found = await self.store.run(run_id)
            assert found is not None
            if found.is_quarantined:
                return count
            run = found
        raise AssertionError("it is never quarantined")


async def test_a_run_is_spared_while_workers_without_it_die_too() -> None:
    """Somebody kills workers, most likely; all the same it takes down six."""
    killer = Killer()
    async with killer.store, killer.scheduler:
        assert await killer.died_with("r") == 6


async def test_a_run_is_not_spared_for_its_own_deaths_nor_for_those_of_another_suspect() -> None:
    killer, beside = Killer(), executed("beside", 0)
    async with killer.store, killer.scheduler:
        assert await killer.kill(executed("a", 0), beside) == [1, 1]
        assert await killer.kill(executed("a", 1)) == [2]
        assert await killer.kill(replace(beside, lives_lost=1)) == [2]
        assert await killer.kill(executed("a", 2)) == [3]


async def test_a_death_speaks_for_other_runs_for_a_minute() -> None:
    killer = Killer()
    async with killer.store, killer.scheduler:
        await killer.kill(executed("a", 0))
        killer.now += DEATHS_SECONDS - 1
        assert await killer.kill(executed("b", 1)) == [1]
        killer.now += 2
        assert await killer.kill(executed("c", 1)) == [2]
