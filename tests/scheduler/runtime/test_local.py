"""The shell around the core: who is woken when, and what is on disk by then."""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from copy import deepcopy
from functools import partial
from pathlib import Path
from traceback import walk_tb
from typing import TypeVar

import anyio
import pytest
from tests.waiting import until

from headway_scheduler.backends.memory.store import MemoryStore
from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.errors import (
    CallTooLarge,
    HeadwayError,
    InternalError,
    KeyTaken,
    RowRefused,
    SchedulerClosed,
    StoreError,
    StoreFull,
    UnknownQuota,
)
from headway_scheduler.model.batch import Batch, Snapshot
from headway_scheduler.model.calls import Call, CallRecord, Outcome, Priority, Usage
from headway_scheduler.model.data import replace
from headway_scheduler.model.prompts import ChainNode, Chunk, Prompt
from headway_scheduler.model.quotas import Observation, Quota
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import CallState, RunState
from headway_scheduler.runtime import local as local_module
from headway_scheduler.runtime import pump as pump_module
from headway_scheduler.runtime.clock import Clock
from headway_scheduler.runtime.local import LocalScheduler

pytestmark = pytest.mark.anyio

T = TypeVar("T")

SLOT = Quota.per_minute("slot", concurrency=1)
WIDE = Quota.per_minute("wide", requests=600_000)
BOTH = (SLOT, WIDE)
DONE = Outcome(CallState.DONE, answer="{}")
AGAIN = Outcome(CallState.QUEUED, error="again")


def call(id: str, *quotas: str, priority: Priority = Priority.NORMAL) -> Call:
    return Call(id, "run", "agent", "model", quotas or ("slot",), priority, 1, 0.0)


def run(id: str) -> Run:
    return Run(id, "workflow", "task", Priority.NORMAL, RunState.QUEUED, 0.0)


class FaultyStore(MemoryStore):
    """A memory store whose commits are kept, and can be held up or made to fail."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[Batch] = []
        self.tries = 0
        self.snapshots = 0
        self.error: Exception | None = None
        self.fails_once = False
        self.guilty: Callable[[Batch], Exception | None] = lambda batch: None
        self.snapshot_error: Exception | None = None
        self.gate = anyio.Event()
        self.gate.set()

    def hold(self) -> None:
        self.gate = anyio.Event()

    async def commit(self, batch: Batch) -> None:
        self.tries += 1
        await self.gate.wait()
        if self.error is not None:
            error = self.error
            if self.fails_once:
                self.error = None
            raise error
        if (refused := self.guilty(batch)) is not None:
            raise refused
        await super().commit(batch)
        self.batches.append(batch)

    async def snapshot(self) -> Snapshot:
        self.snapshots += 1
        if self.snapshot_error is not None:
            raise self.snapshot_error
        return await super().snapshot()

    async def state(self, id: str) -> CallState | None:
        return {record.call.id: record.state for record in await self.calls()}.get(id)


class Callers:
    """Callers, each in a task of its own, and how it went for them."""

    def __init__(self, scheduler: LocalScheduler, tasks: anyio.abc.TaskGroup) -> None:
        self.scheduler, self.tasks = scheduler, tasks
        self.granted: list[str] = []
        self.recorded: list[str] = []
        self.errors: dict[str, HeadwayError] = {}
        self.scopes: dict[str, anyio.CancelScope] = {}

    def acquire(self, *calls: Call) -> None:
        for each in calls:
            self.start(each.id, self.scheduler.acquire, each, self.granted)

    def settle(self, id: str, outcome: Outcome = DONE) -> None:
        self.start(id, lambda _: self.scheduler.settle(id, outcome), id, self.recorded)

    def retry(self, id: str) -> None:
        self.start(id, lambda _: self.scheduler.retry(id, AGAIN), id, self.granted)

    def start(
        self, id: str, ask: Callable[[T], Awaitable[None]], what: T, answered: list[str]
    ) -> None:
        self.scopes[id] = scope = anyio.CancelScope()

        async def wait() -> None:
            with scope:
                try:
                    await ask(what)
                    answered.append(id)
                except HeadwayError as error:
                    self.errors[id] = error

        self.tasks.start_soon(wait)


@asynccontextmanager
async def scheduling(
    store: MemoryStore | SqliteStore, *quotas: Quota, clock: Clock | None = None
) -> AsyncIterator[tuple[LocalScheduler, Callers]]:
    async with (
        LocalScheduler(store, quotas or BOTH, clock=clock) as scheduler,
        anyio.create_task_group() as tasks,
    ):
        try:
            yield scheduler, Callers(scheduler, tasks)
        finally:
            # A failed assertion must not leave the pump in a commit that never ends.
            if isinstance(store, FaultyStore):
                store.gate.set()
            tasks.cancel_scope.cancel()


rest = anyio.wait_all_tasks_blocked


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore()


@pytest.fixture
def quick_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump_module, "RETRY_COMMIT_SECONDS", 0.02)


# Commit first


async def test_a_granted_call_is_admitted_on_disk(store: FaultyStore) -> None:
    async with scheduling(store) as (scheduler, _):
        await scheduler.acquire(call("a"))
        assert await store.state("a") is CallState.ADMITTED


async def test_a_settled_call_is_done_on_disk_with_its_answer(store: FaultyStore) -> None:
    async with scheduling(store) as (scheduler, _):
        await scheduler.acquire(call("a"))
        await scheduler.settle("a", DONE)
        [record] = await store.calls()
        assert (record.state, record.answer) == (CallState.DONE, "{}")


async def test_nobody_is_woken_before_the_commit(store: FaultyStore) -> None:
    async with scheduling(store) as (_, callers):
        store.hold()
        callers.acquire(call("a"))
        await rest()
        assert (store.tries, callers.granted) == (1, [])
        store.gate.set()
        await rest()
        assert callers.granted == ["a"]


async def test_what_gathers_during_a_commit_is_one_batch(store: FaultyStore) -> None:
    async with scheduling(store) as (scheduler, callers):
        store.hold()
        callers.acquire(call("first", "wide"))
        await rest()
        callers.acquire(*(call(str(n), "wide") for n in range(100)))
        callers.tasks.start_soon(scheduler.save_run, run("r"))
        await rest()
        store.gate.set()
        await rest()
        assert len(callers.granted) == 101
        assert [(len(batch.new), len(batch.runs)) for batch in store.batches] == [(1, 0), (100, 1)]


async def test_sent_is_written_with_the_next_commit(store: FaultyStore) -> None:
    async with scheduling(store) as (scheduler, _):
        await scheduler.acquire(call("a"))
        await scheduler.sent("a")
        await scheduler.save_run(run("r"))
        assert await store.state("a") is CallState.SENT


async def test_a_view_is_told_of_every_commit_and_of_nothing_else(store: FaultyStore) -> None:
    seen: list[Batch] = []
    async with LocalScheduler(store, BOTH, on_change=seen.append) as scheduler:
        await scheduler.acquire(call("a"))
        scheduler.abandon("unknown call", DONE)
        await rest()
        await scheduler.settle("a", DONE)
    assert seen == store.batches


# Mistakes of callers


@pytest.mark.parametrize(
    ("wrong", "error"),
    [(call("x", "other"), UnknownQuota), (replace(call("x", "t"), tokens=99), CallTooLarge)],
)
async def test_a_refused_call_fails_alone(
    store: FaultyStore, wrong: Call, error: type[HeadwayError]
) -> None:
    tokens = Quota.per_minute("t", tokens=9)
    async with scheduling(store, WIDE, tokens) as (_, callers):
        callers.acquire(call("a", "wide"), wrong, call("b", "wide"))
        await rest()
        assert isinstance(callers.errors["x"], error)
        assert callers.granted == ["a", "b"]
        assert await store.state("x") is None


async def test_a_call_that_is_asked_for_twice_fails_alone_and_the_first_goes_on(
    store: FaultyStore,
) -> None:
    async with scheduling(store) as (scheduler, callers):
        callers.acquire(call("holder"), call("a"))
        await rest()
        with pytest.raises(InternalError):
            await scheduler.acquire(call("a"))
        with pytest.raises(InternalError):
            await scheduler.acquire(call("holder"))
        await scheduler.settle("holder", DONE)
        await rest()
        assert callers.granted == ["holder", "a"]


async def test_an_end_that_cannot_be_fails_alone(store: FaultyStore) -> None:
    async with scheduling(store) as (scheduler, callers):
        callers.acquire(call("holder"), call("a"))
        await rest()
        with pytest.raises(InternalError):
            await scheduler.settle("a", DONE)
        await scheduler.settle("holder", DONE)
        await rest()
        assert callers.granted == ["holder", "a"]


async def test_signals_of_an_unknown_quota_are_refused_before_anything_is_told(
    store: FaultyStore,
) -> None:
    async with scheduling(store) as (scheduler, _):
        await scheduler.acquire(call("a"))
        with pytest.raises(UnknownQuota):
            await scheduler.settle("a", DONE, {"other": Observation(pause_until=1.0)})
        assert await store.state("a") is CallState.ADMITTED
        await scheduler.settle("a", DONE)
        assert await store.state("a") is CallState.DONE


async def gathered(
    store: FaultyStore, scheduler: LocalScheduler, *tell: Callable[[], None]
) -> None:
    """Have the scheduler take everything that is told into one batch."""
    store.hold()
    scheduler.note_run(run("in the commit that is held up"))
    await rest()
    for each in tell:
        each()
    await rest()
    store.gate.set()
    await rest()


@pytest.mark.parametrize("others", [0, 1, 2, 30])
async def test_a_row_that_is_taken_fails_alone(store: FaultyStore, others: int) -> None:
    async with scheduling(store) as (scheduler, callers):
        await scheduler.acquire(call("taken", "wide"))
        await scheduler.settle("taken", DONE)
        await scheduler.acquire(call("flies", "wide"))
        names = [f"a{number}" for number in range(others)]
        crowd = [call(name, "wide") for name in names]
        await gathered(
            store,
            scheduler,
            lambda: callers.acquire(*crowd[: others // 2]),
            lambda: callers.acquire(call("taken", "wide")),
            lambda: callers.settle("flies"),
            lambda: callers.acquire(*crowd[others // 2 :]),
        )
        assert callers.granted == names
        assert callers.recorded == ["flies"]
        assert list(callers.errors) == ["taken"]
        assert isinstance(callers.errors["taken"], KeyTaken)
        assert await store.state("taken") is await store.state("flies") is CallState.DONE
        for name in names:
            await scheduler.settle(name, DONE)
        await same_as_disk(scheduler, store)
        assert scheduler.statistics().in_flight == 0


async def test_of_two_runs_with_one_key_the_second_fails_alone(store: FaultyStore) -> None:
    runs = [replace(run(name), key="k") for name in ("first", "second")]
    async with scheduling(store) as (scheduler, callers):
        tell = [
            partial(callers.start, each.id, scheduler.save_run, each, callers.recorded)
            for each in (*runs, run("other"))
        ]
        await gathered(store, scheduler, *tell)
        assert callers.recorded == ["first", "other"]
        assert isinstance(callers.errors["second"], KeyTaken)
        assert await store.run("second") is None


async def test_what_waits_and_flies_goes_on_when_a_row_is_refused(store: FaultyStore) -> None:
    async with scheduling(store) as (scheduler, callers):
        await scheduler.acquire(call("taken", "wide"))
        await scheduler.settle("taken", DONE)
        callers.acquire(call("holder"), call("low", priority=Priority.LOW), call("a"), call("b"))
        await rest()
        callers.scopes["b"].cancel()
        await gathered(
            store,
            scheduler,
            lambda: callers.retry("holder"),
            lambda: callers.acquire(call("taken")),
            lambda: callers.acquire(call("urgent", priority=Priority.HIGH)),
        )
        assert isinstance(callers.errors["taken"], KeyTaken)
        # What came before the row that is taken had its turn before what came after it.
        for turn, name in enumerate(("holder", "urgent", "a", "low")):
            assert len(callers.granted) == turn + 2
            await scheduler.settle(name, DONE)
            await rest()
        assert callers.granted == ["holder", "holder", "urgent", "a", "low"]
        assert await store.state("b") is CallState.CANCELLED
        await same_as_disk(scheduler, store)


async def test_when_a_refused_batch_meets_a_full_disk_everybody_is_told(
    store: FaultyStore, quick_retry: None
) -> None:
    async with scheduling(store) as (scheduler, callers):
        await scheduler.acquire(call("taken", "wide"))
        await scheduler.settle("taken", DONE)
        await scheduler.acquire(call("flies", "wide"))
        store.snapshot_error = StoreFull("no room")
        await gathered(
            store,
            scheduler,
            lambda: callers.acquire(call("taken", "wide"), call("a", "wide")),
            lambda: callers.settle("flies"),
        )
        assert {type(error) for error in callers.errors.values()} == {StoreFull}
        assert set(callers.errors) == {"taken", "a", "flies"}
        store.snapshot_error = None
        await until(lambda: scheduler._pump._retry_at is None)
        await rest()
        assert await store.state("flies") is CallState.DONE
        assert await store.state("a") is None


# Order


@pytest.mark.parametrize("crowd", [1_000, 10_000])
async def test_an_urgent_call_behind_a_crowd_is_the_very_next(
    store: FaultyStore, crowd: int
) -> None:
    async with scheduling(store) as (scheduler, callers):
        await scheduler.acquire(call("holder"))
        callers.acquire(*(call(str(n), priority=Priority.BACKGROUND) for n in range(crowd)))
        await rest()
        callers.acquire(call("urgent", priority=Priority.INTERACTIVE))
        await rest()
        assert scheduler.statistics().waiting == (1, 0, 0, 0, crowd)
        await scheduler.settle("holder", DONE)
        await rest()
        assert callers.granted == ["urgent"]


async def test_a_retry_goes_before_those_that_came_after_it(store: FaultyStore) -> None:
    async with scheduling(store) as (scheduler, callers):
        await scheduler.acquire(call("a"))
        callers.acquire(call("b"))
        await rest()
        callers.retry("a")
        await rest()
        assert callers.granted == ["a"]


async def test_a_pause_holds_back_its_quota_alone(store: FaultyStore) -> None:
    async with scheduling(store) as (scheduler, callers):
        await scheduler.acquire(call("a"))
        await scheduler.settle("a", DONE, {"slot": Observation(pause_until=scheduler.now() + 60)})
        callers.acquire(call("b"), call("c", "wide"))
        await rest()
        assert callers.granted == ["c"]


async def test_time_alone_lets_the_next_one_go(store: FaultyStore) -> None:
    quick = Quota.per_minute("quick", requests=1_200, burst_seconds=0.05)
    async with scheduling(store, quick) as (_, callers):
        callers.acquire(*(call(str(n), "quick") for n in range(3)))
        await until(lambda: callers.granted == ["0", "1", "2"])


# Cancelling


async def nothing_is_stuck(scheduler: LocalScheduler, store: FaultyStore, id: str) -> None:
    """The slot is free for another, and ``id`` is over on disk if it ever came there."""
    await scheduler.acquire(call("another"))
    assert await store.state(id) in (None, CallState.CANCELLED)
    assert scheduler.statistics().in_flight == 1


async def test_cancelled_before_the_pump_took_it(store: FaultyStore) -> None:
    async with scheduling(store) as (scheduler, callers):
        store.hold()
        callers.tasks.start_soon(scheduler.save_run, run("r"))
        await rest()
        callers.acquire(call("a"))
        await rest()
        callers.scopes["a"].cancel()
        await rest()
        store.gate.set()
        await nothing_is_stuck(scheduler, store, "a")


async def test_cancelled_during_the_commit_of_its_grant(store: FaultyStore) -> None:
    async with scheduling(store) as (scheduler, callers):
        store.hold()
        callers.acquire(call("a"))
        await rest()
        callers.scopes["a"].cancel()
        await rest()
        store.gate.set()
        await nothing_is_stuck(scheduler, store, "a")


async def test_cancelled_while_queued(store: FaultyStore) -> None:
    async with scheduling(store) as (scheduler, callers):
        await scheduler.acquire(call("holder"))
        callers.acquire(call("a"))
        await rest()
        callers.scopes["a"].cancel()
        await rest()
        await scheduler.settle("holder", DONE)
        await nothing_is_stuck(scheduler, store, "a")


async def test_cancelled_after_the_grant_before_the_caller_ran(store: FaultyStore) -> None:
    async with scheduling(store) as (scheduler, callers):
        wake = scheduler._pump._answer

        def wake_and_cancel(*args: object) -> None:
            wake(*args)  # type: ignore[arg-type]
            callers.scopes["a"].cancel()

        scheduler._pump._answer = wake_and_cancel  # type: ignore[method-assign, assignment]
        callers.acquire(call("a"))
        await rest()
        scheduler._pump._answer = wake  # type: ignore[method-assign]
        if "a" in callers.granted:
            await scheduler.settle("a", Outcome(CallState.CANCELLED, sent=False))
        await nothing_is_stuck(scheduler, store, "a")


async def test_cancelled_while_it_waits_for_its_retry(store: FaultyStore) -> None:
    async with scheduling(store) as (scheduler, callers):
        await scheduler.acquire(call("a"))
        later = replace(AGAIN, not_before=scheduler.now() + 60)
        callers.start("a", lambda _: scheduler.retry("a", later), None, callers.granted)
        await rest()
        callers.scopes["a"].cancel()
        await nothing_is_stuck(scheduler, store, "a")


async def test_a_cancelled_settlement_is_recorded_all_the_same(store: FaultyStore) -> None:
    async with scheduling(store) as (scheduler, callers):
        await scheduler.acquire(call("a"))
        store.hold()
        callers.settle("a")
        await rest()
        callers.scopes["a"].cancel()
        store.gate.set()
        await rest()
        assert await store.state("a") is CallState.DONE


# Failing commits


async def same_as_disk(scheduler: LocalScheduler, store: MemoryStore) -> None:
    """Every call that lives in memory is on disk in that state, and the other way round."""
    live = {r.call.id: r.state for r in (await store.snapshot()).calls}
    assert {
        key: entry.record.state for key, entry in scheduler._pump.core.state.live.items()
    } == live


async def test_a_call_that_cannot_be_written_is_not_queued(store: FaultyStore) -> None:
    async with scheduling(store) as (scheduler, callers):
        store.error = StoreFull("no room")
        callers.acquire(call("a"))
        await rest()
        assert isinstance(callers.errors["a"], StoreFull)
        store.error = None
        await scheduler.save_run(run("r"))
        await same_as_disk(scheduler, store)
        assert await store.state("a") is None


async def test_after_a_failed_commit_memory_is_as_a_fresh_scheduler_would_be(
    store: FaultyStore, quick_retry: None
) -> None:
    async with scheduling(store) as (scheduler, callers):
        await scheduler.acquire(call("w", "wide"))
        callers.acquire(call("holder"), call("b"), call("c", priority=Priority.HIGH))
        await rest()
        store.error = StoreFull("no room")
        callers.settle("holder")
        await rest()
        store.error = None
        await until(lambda: scheduler._pump._retry_at is None)
        fresh = LocalScheduler(store, BOTH)
        fresh._callers.waiting = scheduler._callers.waiting
        fresh._pump._sending = scheduler._pump._sending
        await fresh._pump._rebuild()
        await same_as_disk(scheduler, store)
        assert [r.call.id for r in scheduler.queued()] == [r.call.id for r in fresh.queued()]
        for ours, theirs in zip(
            scheduler.statistics().gauges, fresh.statistics().gauges, strict=True
        ):
            assert ours.available == pytest.approx(theirs.available)


async def test_those_who_wait_keep_their_place_through_a_failed_commit(
    store: FaultyStore, quick_retry: None
) -> None:
    async with scheduling(store) as (scheduler, callers):
        await scheduler.acquire(call("holder"))
        callers.acquire(call("low", priority=Priority.LOW), call("a"), call("b"))
        await rest()
        store.error = StoreFull("no room")
        callers.settle("holder")
        await rest()
        assert isinstance(callers.errors["holder"], StoreFull)
        store.error = None
        for name in ("a", "b", "low"):
            await until(partial(callers.granted.__contains__, name))
            await scheduler.settle(name, DONE)
        assert callers.granted == ["a", "b", "low"]


async def test_an_answer_that_could_not_be_recorded_is_recorded_with_the_next_commit(
    store: FaultyStore,
) -> None:
    async with scheduling(store) as (scheduler, callers):
        await scheduler.acquire(call("a"))
        store.error = StoreFull("no room")
        callers.settle("a")
        await rest()
        assert isinstance(callers.errors["a"], StoreFull)
        store.error = None
        await scheduler.save_run(run("r"))
        [record] = await store.calls()
        assert (record.state, record.answer) == (CallState.DONE, "{}")


async def test_it_is_recorded_even_if_nobody_asks(store: FaultyStore, quick_retry: None) -> None:
    async with scheduling(store) as (scheduler, callers):
        await scheduler.acquire(call("a"))
        store.error = StoreFull("no room")
        callers.settle("a")
        await rest()
        store.error = None
        await until(lambda: len(store.batches) == 2)
        assert await store.state("a") is CallState.DONE


async def test_a_retry_that_could_not_be_recorded_ends_as_failed(store: FaultyStore) -> None:
    async with scheduling(store) as (scheduler, callers):
        await scheduler.acquire(call("a"))
        store.error = StoreFull("no room")
        callers.retry("a")
        await rest()
        assert isinstance(callers.errors["a"], StoreFull)
        store.error = None
        await scheduler.save_run(run("r"))
        assert await store.state("a") is CallState.FAILED


async def test_what_was_refused_is_not_recorded_after_a_failed_commit(store: FaultyStore) -> None:
    async with scheduling(store) as (scheduler, callers):
        await scheduler.acquire(call("a"))
        store.error = StoreFull("no room")
        wrong = {"other": Observation(pause_until=1.0)}
        callers.start("a", lambda _: scheduler.settle("a", DONE, wrong), None, callers.recorded)
        callers.acquire(call("b", "wide"))
        await rest()
        assert isinstance(callers.errors["a"], UnknownQuota)
        store.error = None
        await scheduler.save_run(run("r"))
        assert await store.state("a") is CallState.ADMITTED


async def test_a_call_in_flight_stays_in_flight_through_a_failed_commit(
    store: FaultyStore,
) -> None:
    async with scheduling(store) as (scheduler, callers):
        await scheduler.acquire(call("a"))
        store.error = StoreFull("no room")
        callers.acquire(call("b"))
        await rest()
        store.error = None
        callers.acquire(call("c"))
        await rest()
        assert await store.state("a") is CallState.ADMITTED
        assert callers.granted == []
        await scheduler.settle("a", DONE)
        await rest()
        assert callers.granted == ["c"]


async def test_cancelled_during_a_commit_that_fails(store: FaultyStore) -> None:
    async with scheduling(store) as (scheduler, callers):
        await scheduler.acquire(call("holder"))
        callers.acquire(call("a"))
        await rest()
        store.hold()
        store.error = StoreFull("no room")
        callers.settle("holder")
        await rest()
        callers.scopes["a"].cancel()
        await rest()
        store.gate.set()
        await rest()
        store.error = None
        await nothing_is_stuck(scheduler, store, "a")


async def test_while_the_store_keeps_failing_it_is_not_hammered(store: FaultyStore) -> None:
    async with scheduling(store) as (scheduler, callers):
        await scheduler.acquire(call("a"))
        callers.acquire(call("b"))
        await rest()
        store.error = StoreFull("no room")
        before = store.tries
        callers.settle("a")
        await anyio.sleep(0.2)
        assert store.tries == before + 1
        store.error = None


async def test_a_snapshot_that_fails_is_tried_again_and_nothing_is_lost(
    store: FaultyStore, quick_retry: None
) -> None:
    async with scheduling(store) as (scheduler, callers):
        await scheduler.acquire(call("a"))
        callers.acquire(call("b"))
        await rest()
        store.error = store.snapshot_error = StoreFull("no room")
        callers.settle("a")
        await until(lambda: store.snapshots >= 3)
        assert callers.granted == []
        store.error = store.snapshot_error = None
        await until(lambda: callers.granted == ["b"])
        assert await store.state("a") is CallState.DONE


@pytest.mark.parametrize(
    ("raised", "seen"),
    [(ZeroDivisionError("a bug"), InternalError), (RowRefused("too large"), RowRefused)],
    ids=["bug", "row"],
)
@pytest.mark.parametrize("others", [0, 3, 40])
async def test_what_a_commit_fails_for_fails_alone(
    store: FaultyStore, raised: Exception, seen: type[Exception], others: int
) -> None:
    runs = [run("guilty"), *(run(f"r{number}") for number in range(others))]
    store.guilty = lambda batch: raised if any(r.id == "guilty" for r in batch.runs) else None
    async with scheduling(store) as (scheduler, callers):
        calls = [call(f"a{number}", "wide") for number in range(others)]
        tell = [
            partial(callers.start, each.id, scheduler.save_run, each, callers.recorded)
            for each in runs[1:] + runs[:1]
        ]
        await gathered(store, scheduler, lambda: callers.acquire(*calls), *tell)
        assert list(callers.errors) == ["guilty"]
        assert isinstance(callers.errors["guilty"], seen)
        assert str(raised) in str(callers.errors["guilty"])
        assert callers.recorded == [each.id for each in runs[1:]]
        assert callers.granted == [each.id for each in calls]
        for each in calls:
            await scheduler.settle(each.id, DONE)
        await same_as_disk(scheduler, store)
        assert await store.run("guilty") is None


async def test_an_end_that_cannot_be_recorded_is_a_failure_and_frees_its_place(
    store: FaultyStore,
) -> None:
    store.guilty = lambda batch: (
        RowRefused("too large") if any(r.answer == "huge" for r in batch.changed) else None
    )
    async with scheduling(store) as (scheduler, callers):
        callers.acquire(call("holder"), call("next"))
        await rest()
        with pytest.raises(RowRefused):
            await scheduler.settle("holder", replace(DONE, answer="huge"))
        await until(lambda: callers.granted == ["holder", "next"])
        assert await store.state("holder") is CallState.FAILED
        (row,) = [r for r in await store.calls() if r.call.id == "holder"]
        assert row.error == "its end could not be recorded: too large"
        await scheduler.settle("next", DONE)
        await same_as_disk(scheduler, store)


async def test_an_error_that_is_nobodys_is_reported_and_the_scheduler_goes_on(
    store: FaultyStore, caplog: pytest.LogCaptureFixture
) -> None:
    async with scheduling(store) as (scheduler, callers):
        callers.acquire(call("holder"), call("a"))
        await rest()
        store.error, store.fails_once = ZeroDivisionError("nobody's"), True
        scheduler.learn("writer", "m", 400, Usage(100, 10))
        await until(lambda: store.error is None)
        await scheduler.settle("holder", DONE)
        await until(lambda: callers.granted == ["holder", "a"])
        await scheduler.settle("a", DONE)
        assert not callers.errors
        assert "ZeroDivisionError: nobody's" in caplog.text


async def test_a_scheduler_whose_first_snapshot_fails_does_not_start(store: FaultyStore) -> None:
    store.snapshot_error = StoreFull("no room")
    with pytest.raises(StoreError):
        async with LocalScheduler(store, BOTH):
            pass


# Closing


async def test_closing_tells_those_who_wait(store: FaultyStore) -> None:
    async with anyio.create_task_group() as tasks:
        async with LocalScheduler(store, BOTH) as scheduler:
            callers = Callers(scheduler, tasks)
            callers.acquire(call("holder"), call("a"))
            await rest()
        await rest()
        assert isinstance(callers.errors["a"], SchedulerClosed)


async def test_closing_tells_those_who_wait_even_if_the_last_commit_breaks(
    store: FaultyStore, caplog: pytest.LogCaptureFixture
) -> None:
    async with anyio.create_task_group() as tasks:
        async with LocalScheduler(store, BOTH) as scheduler:
            callers = Callers(scheduler, tasks)
            callers.acquire(call("holder"), call("a"))
            await rest()
            store.error = ZeroDivisionError("a bug")
            scheduler.abandon("holder", DONE)
        await rest()
        assert isinstance(callers.errors["a"], SchedulerClosed)
        assert "ZeroDivisionError: a bug" in caplog.text


class Odd(StoreFull):
    """An error with more than its words."""

    def __init__(self, message: str, *, room: int) -> None:
        super().__init__(message)
        self.room = room


def lengths(errors: Iterable[BaseException]) -> set[int]:
    """How many frames the tracebacks of errors have."""
    return {sum(1 for _ in walk_tb(error.__traceback__)) for error in errors}


async def test_each_that_waits_when_it_closes_gets_an_error_of_its_own(
    store: FaultyStore,
) -> None:
    async with anyio.create_task_group() as tasks:
        async with LocalScheduler(store, BOTH) as scheduler:
            callers = Callers(scheduler, tasks)
            callers.acquire(call("holder"), *(call(f"{n}") for n in range(1000)))
            await rest()
        await rest()
        errors = callers.errors.values()
        assert len({id(error) for error in errors}) == 1000
        assert {str(error) for error in errors} == {
            "the scheduler was closed while this call waited"
        }
        assert len(lengths(errors)) == 1


async def test_each_whose_commit_fails_gets_an_error_of_its_own(store: FaultyStore) -> None:
    store.error, cause = Odd("no room", room=7), OSError(28, "disk full")
    store.error.__cause__ = cause
    async with scheduling(store) as (_, callers):
        callers.acquire(*(call(f"{n}") for n in range(1000)))
        await rest()
        errors = callers.errors.values()
        assert len({id(error) for error in errors}) == 1000
        assert {(type(error), str(error)) for error in errors} == {(Odd, "no room")}
        assert {getattr(error, "room", None) for error in errors} == {7}
        assert {error.__cause__ for error in errors} == {cause}
        assert len(lengths(errors)) == 1


async def test_each_that_a_bug_meets_gets_an_error_of_its_own(store: FaultyStore) -> None:
    store.error = ZeroDivisionError("a bug")
    async with scheduling(store) as (scheduler, callers):
        for number in range(3):
            each = run(f"{number}")
            callers.start(each.id, scheduler.save_run, each, callers.recorded)
        await until(lambda: len(callers.errors) == 3)
        store.error = None
    assert len({id(error) for error in callers.errors.values()}) == 3
    assert {type(error) for error in callers.errors.values()} == {InternalError}
    assert all("a bug" in str(error) for error in callers.errors.values())


async def test_closing_writes_what_was_told_before(store: FaultyStore) -> None:
    async with LocalScheduler(store, BOTH) as scheduler:
        await scheduler.acquire(call("a"))
        scheduler.abandon("a", Outcome(CallState.CANCELLED))
    assert await store.state("a") is CallState.CANCELLED


async def test_after_closing_nothing_more_can_be_asked(store: FaultyStore) -> None:
    async with LocalScheduler(store, BOTH) as scheduler:
        pass
    with pytest.raises(SchedulerClosed):
        await scheduler.acquire(call("a"))
    with pytest.raises(SchedulerClosed):
        await scheduler.save_run(run("r"))
    scheduler.abandon("a", DONE)


async def test_closing_waits_for_a_commit_only_so_long_and_says_what_is_not_recorded(
    store: FaultyStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(local_module, "CLOSING_SECONDS", 0.05)
    async with anyio.create_task_group() as tasks:
        with anyio.fail_after(30):  # it would wait for ever
            async with LocalScheduler(store, BOTH) as scheduler:
                callers = Callers(scheduler, tasks)
                await scheduler.acquire(call("a", "wide"))
                store.hold()
                callers.settle("a")
                await until(lambda: store.tries == 2)
                callers.acquire(call("b", "wide"))
                tasks.start_soon(keep, callers.errors, scheduler.save_run, run("r"))
                await rest()
            await until(lambda: len(callers.errors) == 3)
    assert {type(error) for error in callers.errors.values()} == {SchedulerClosed}
    assert "may not be recorded" in str(callers.errors["a"])
    assert "closed while this call waited" in str(callers.errors["b"])
    (record,) = [each for each in caplog.records if each.name == "headway"]
    assert record.getMessage() == "closed in a commit that may not stand: it was to record a"
    assert await store.state("b") is None


async def keep(
    errors: dict[str, HeadwayError], save: Callable[[Run], Awaitable[None]], run: Run
) -> None:
    try:
        await save(run)
    except HeadwayError as error:
        errors[run.id] = error


# Rest


async def test_with_nothing_to_do_it_neither_commits_nor_turns(store: FaultyStore) -> None:
    async with scheduling(store) as (scheduler, callers):
        callers.acquire(call("holder"), call("waits"))
        await rest()
        turns, turn, tries = 0, scheduler._pump.iterate, store.tries

        async def counted() -> None:
            nonlocal turns
            turns += 1
            await turn()

        scheduler._pump.iterate = counted  # type: ignore[method-assign]
        await anyio.sleep(0.2)
        assert (turns, store.tries) == (0, tries)


# Restart after a death


def remains(store: FaultyStore) -> MemoryStore:
    """The store that the next process finds if this one dies now."""
    return MemoryStore(deepcopy(store.tables))


CROWD = (
    call("low", priority=Priority.LOW),
    call("a"),
    call("b"),
    call("urgent", priority=Priority.HIGH),
)


async def live_until_death(store: MemoryStore | SqliteStore) -> AsyncIterator[LocalScheduler]:
    """A life with one call sent, one admitted and four queued, all at one time."""
    async with scheduling(store, clock=lambda: 0.0) as (scheduler, callers):
        await scheduler.acquire(call("sent", "wide"))
        await scheduler.sent("sent")
        await scheduler.acquire(call("admitted", "slot", "wide"))
        callers.acquire(*CROWD)
        await rest()
        await scheduler.save_run(run("r"))
        yield scheduler


async def check_after_death(store: MemoryStore | SqliteStore, before: LocalScheduler) -> None:
    async with LocalScheduler(store, BOTH, clock=lambda: 0.0) as scheduler:
        rows = {record.call.id: record for record in await store.calls()}
        assert rows["sent"].state is rows["admitted"].state is CallState.UNKNOWN
        assert [r.call.id for r in scheduler.queued()] == ["urgent", "a", "b", "low"]
        assert all(record.parked for record in scheduler.queued())
        was, now = (s.statistics().gauges[1].available for s in (before, scheduler))
        assert now == pytest.approx(was, abs=1e-3)
        assert scheduler.statistics().gauges[0].available == 1


async def test_after_a_death_what_flew_is_unknown_and_the_queue_is_as_it_was(
    store: FaultyStore,
) -> None:
    async for scheduler in live_until_death(store):
        await check_after_death(remains(store), scheduler)


async def test_so_it_is_in_a_file(tmp_path: Path) -> None:
    async with SqliteStore(tmp_path / "a.db") as store:
        async for scheduler in live_until_death(store):
            for file in tmp_path.glob("a.db*"):  # noqa: ASYNC240 - nothing else runs here
                shutil.copy(file, tmp_path / file.name.replace("a.db", "b.db"))
            async with SqliteStore(tmp_path / "b.db") as left:
                await check_after_death(left, scheduler)


async def test_a_second_death_changes_nothing_more(store: FaultyStore) -> None:
    async for _ in live_until_death(store):
        left = remains(store)
        async with LocalScheduler(left, BOTH):
            pass
        once: list[CallRecord] = list(await left.calls())
        async with LocalScheduler(left, BOTH):
            pass
        assert list(await left.calls()) == once


async def test_a_file_serves_a_life_from_submission_to_answer(tmp_path: Path) -> None:
    async with SqliteStore(tmp_path / "a.db") as store, scheduling(store) as (scheduler, callers):
        callers.acquire(call("a"), call("b"))
        await until(lambda: callers.granted == ["a"])
        await scheduler.settle("a", DONE)
        await until(lambda: callers.granted == ["a", "b"])
        rows = await store.calls()
        assert [row.state for row in rows] == [CallState.DONE, CallState.ADMITTED]


# Calls of earlier attempts, and people


async def left_behind(store: FaultyStore, state: CallState) -> CallRecord:
    """A call that an earlier process left in ``state``."""
    if state is CallState.QUEUED:
        await store.commit(Batch(new=(CallRecord(call("a"), 5),)))
    else:
        async with scheduling(store) as (scheduler, _):
            await scheduler.acquire(call("a"))
            if state is not CallState.ADMITTED:
                await scheduler.settle("a", Outcome(state, error="no"))
    async with LocalScheduler(store, BOTH):
        pass  # whatever was in flight is unknown from here on
    return (await store.calls())[-1]


@pytest.mark.parametrize(
    "state", [CallState.QUEUED, CallState.ADMITTED, CallState.FAILED, CallState.CANCELLED]
)
async def test_a_call_without_an_answer_goes_again_in_its_old_row(
    store: FaultyStore, state: CallState
) -> None:
    row = await left_behind(store, state)
    async with scheduling(store) as (scheduler, _):
        await scheduler.reacquire(row)
        assert await store.state("a") is CallState.ADMITTED
        await scheduler.settle("a", Outcome(CallState.DONE, answer="{}", arrival=3))
        found = [record for record in await store.calls() if record.call.id == "a"]
    assert [(record.seq, record.state, record.arrival) for record in found] == [
        (row.seq, CallState.DONE, 3)
    ]
    assert found[0].lost_attempts == (state is CallState.ADMITTED)
    assert found[0].attempts == (1 if state is CallState.QUEUED else 2)


async def test_a_call_with_an_answer_does_not_go_again(store: FaultyStore) -> None:
    async with scheduling(store) as (scheduler, _):
        await scheduler.acquire(call("a"))
        await scheduler.settle("a", DONE)
        (row,) = await store.calls()
        with pytest.raises(InternalError):
            await scheduler.reacquire(row)
        assert await store.state("a") is CallState.DONE


async def test_what_an_unknown_call_reserved_stays_spent_and_it_reserves_again() -> None:
    store, tokens = FaultyStore(), Quota.per_minute("tokens", tokens=100)
    asked = replace(call("a", "tokens"), tokens=40)
    async with LocalScheduler(store, [tokens], clock=lambda: 0.0) as scheduler:
        await scheduler.acquire(asked)
    async with LocalScheduler(store, [tokens], clock=lambda: 0.0) as scheduler:
        (row,) = await store.calls()
        await scheduler.reacquire(row)
        (gauge,) = scheduler.statistics().gauges
        assert gauge.available == 20


async def test_a_question_is_never_admitted_and_survives(store: FaultyStore) -> None:
    async with scheduling(store) as (scheduler, callers):
        await scheduler.ask(replace(call("a"), quotas=(), kind="person"))
        callers.acquire(call("b"))
        await rest()
        assert callers.granted == ["b"]
    async with scheduling(store) as (scheduler, _):
        row = (await store.calls(states={CallState.QUEUED}))[0]
        outcome = Outcome(CallState.DONE, answer="yes", arrival=0)
        await scheduler.decide(row, outcome)
        (row,) = await store.calls(states={CallState.DONE})
        assert (row.call.id, row.answer, row.arrival) == ("a", "yes", 0)
        with pytest.raises(InternalError):
            await scheduler.decide(row, outcome)


@pytest.mark.parametrize("state", [CallState.DONE, CallState.QUEUED, CallState.CANCELLED])
async def test_a_person_decides_what_became_of_an_unknown_call(
    store: FaultyStore, state: CallState
) -> None:
    row = await left_behind(store, CallState.ADMITTED)
    assert row.state is CallState.UNKNOWN
    async with scheduling(store) as (scheduler, _):
        await scheduler.decide(row, Outcome(state, answer="yes", arrival=0))
        assert await store.state("a") is state
        assert scheduler.statistics().parked == (state is CallState.QUEUED)
        if state is CallState.QUEUED:
            await scheduler.reacquire((await store.calls())[0])
            assert await store.state("a") is CallState.ADMITTED


async def test_a_prompt_is_on_disk_with_its_call(store: FaultyStore) -> None:
    prompt = Prompt((Chunk(b"p" * 16, "hello"),), (ChainNode(b"l" * 16, None, b"p" * 16),))
    async with scheduling(store) as (scheduler, _):
        await scheduler.acquire(call("a"), prompt)
        assert list(await store.prompt((b"l" * 16).hex()) or ()) == ["hello"]


async def test_a_prompt_and_its_call_are_one_commit_or_none(store: FaultyStore) -> None:
    prompt = Prompt((Chunk(b"p" * 16, "hello"),), (ChainNode(b"l" * 16, None, b"p" * 16),))
    async with scheduling(store) as (scheduler, callers):
        store.error = StoreFull("no room")
        for name, ask in (("a", scheduler.acquire), ("b", scheduler.ask)):
            callers.start(name, partial(ask, prompt=prompt), call(name), callers.granted)
            await rest()
            assert isinstance(callers.errors[name], StoreFull)
        assert await store.prompt((b"l" * 16).hex()) is None
        store.error = None
        await scheduler.ask(call("c"), prompt)
        [batch] = store.batches
        assert [record.call.id for record in batch.new] == ["c"]
        assert (batch.chunks, batch.nodes) == (prompt.chunks, prompt.nodes)
        assert list(await store.prompt((b"l" * 16).hex()) or ()) == ["hello"]


@pytest.mark.parametrize("state", [CallState.QUEUED, CallState.ADMITTED])
async def test_asking_again_that_could_not_be_written_can_be_tried_again(
    store: FaultyStore, state: CallState
) -> None:
    row = await left_behind(store, state)
    async with scheduling(store) as (scheduler, callers):
        store.error = StoreFull("no room")
        callers.start("a", scheduler.reacquire, row, callers.granted)
        await rest()
        assert isinstance(callers.errors["a"], StoreFull)
        store.error = None
        await scheduler.reacquire(row)
        assert await store.state("a") is CallState.ADMITTED


async def test_asking_again_right_after_a_failed_commit_takes_the_old_place(
    store: FaultyStore,
) -> None:
    """The core is built anew before it hears of it, and must not take the call for queued."""
    row = await left_behind(store, CallState.QUEUED)
    async with scheduling(store) as (scheduler, callers):
        store.hold()
        store.error, store.fails_once = StoreFull("no room"), True
        callers.acquire(call("other", "wide"))
        await rest()
        callers.start("a", scheduler.reacquire, row, callers.granted)
        await rest()
        store.gate.set()
        await until(lambda: callers.granted == ["a"])
        assert list(callers.errors) == ["other"]
        assert (await store.calls())[0].seq == row.seq


async def test_asking_again_that_is_cancelled_takes_the_call_out(store: FaultyStore) -> None:
    row = await left_behind(store, CallState.ADMITTED)
    async with scheduling(store) as (scheduler, callers):
        await scheduler.acquire(call("holder"))
        callers.start("a", scheduler.reacquire, row, callers.granted)
        await rest()
        assert await store.state("a") is CallState.QUEUED
        callers.scopes["a"].cancel()
        await rest()
        assert await store.state("a") is CallState.CANCELLED
        await scheduler.settle("holder", DONE)
        await rest()
        assert callers.granted == []


async def test_a_question_that_was_cancelled_is_not_written_twice(store: FaultyStore) -> None:
    async with scheduling(store) as (scheduler, _):
        await scheduler.ask(replace(call("a"), quotas=(), kind="person"))
        (row,) = await store.calls()
        await scheduler.decide(row, Outcome(CallState.CANCELLED, sent=False))
        assert await store.state("a") is CallState.CANCELLED
        assert scheduler.queued() == []


async def test_a_decision_that_could_not_be_written_is_none(store: FaultyStore) -> None:
    row = await left_behind(store, CallState.ADMITTED)
    async with scheduling(store) as (scheduler, _):
        store.error = StoreFull("no room")
        with pytest.raises(StoreFull):
            await scheduler.decide(row, Outcome(CallState.DONE, answer="yes", arrival=0))
        store.error = None
        assert await store.state("a") is CallState.UNKNOWN
        await scheduler.decide(row, Outcome(CallState.CANCELLED))
        assert await store.state("a") is CallState.CANCELLED


async def test_every_restart_over_a_call_in_flight_is_a_loss(store: FaultyStore) -> None:
    row = await left_behind(store, CallState.ADMITTED)
    for lost_attempts in (1, 2):
        assert (row.state, row.lost_attempts) == (CallState.UNKNOWN, lost_attempts)
        async with scheduling(store) as (scheduler, _):
            await scheduler.reacquire(row)
        async with LocalScheduler(store, BOTH):
            pass
        (row,) = await store.calls()
    assert (row.lost_attempts, row.attempts) == (3, 3)


async def test_an_ended_run_is_forgotten_with_its_calls(store: FaultyStore) -> None:
    async with scheduling(store) as (scheduler, _):
        await scheduler.save_run(replace(run("run"), state=RunState.FAILED))
        await scheduler.save_run(run("queued"))
        await scheduler.acquire(call("a"))
        await scheduler.settle("a", DONE)
        await scheduler.forget("run", "queued")
        assert [found.id for found in await store.runs()] == ["queued"]
        assert list(await store.calls()) == []
        store.error = StoreFull("no room")
        with pytest.raises(StoreFull):
            await scheduler.forget("queued")
        store.error = None
