"""The clock steps by hours while calls wait, fly, are paused: budgets neither burst nor freeze.

A provider counts time that has really gone by: no stretch of it may see more requests than a full
bucket and its refill meanwhile. ``Machine`` has that time, and beside it a wall clock that the
tests set. A scheduler keeps its time by the first, restarts or not. Where it must go by the second
(the machine was started anew, or the scheduler was given such a clock), a step forward may fill the
bucket once, and a step back may cost the refill of that stretch, and no more.
"""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import TaskGroup

from headway_scheduler.backends.sqlite import boot_clock
from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.core.limits.breaker import FIRST_RETRIES
from headway_scheduler.core.limits.bucket import Bucket
from headway_scheduler.core.scheduler import Scheduler
from headway_scheduler.errors import SchedulerClosed
from headway_scheduler.model.batch import Batch, Snapshot
from headway_scheduler.model.calls import Call, Outcome, Priority, Usage
from headway_scheduler.model.formulas import backoff_seconds
from headway_scheduler.model.quotas import (
    BucketState,
    Limit,
    Observation,
    ProviderEvent,
    Quota,
    Resource,
)
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import CallState, RunState
from headway_scheduler.protocol.messages import Settle, Submit
from headway_scheduler.runtime.local import LocalScheduler

HOUR = 3600.0
NOON = 1_800_014_400.0
STEPS = [-5 * HOUR, 5 * HOUR]
NOT_BACK_AT_BOOT = [
    *((step, way) for step in STEPS for way in ("goes on", "restarts")),
    (5 * HOUR, "reboots"),
]
CAPACITY, PER_SECOND = 10, 1.0
QUOTA = Quota.per_minute("q", requests=60, concurrency=100, burst_seconds=10)
DONE = Outcome(CallState.DONE, Usage(1, 0), "x")
RUN = Run("r", "w", "task", Priority.NORMAL, RunState.RUNNING, NOON)


class Machine:
    """``elapsed`` is the time that has really gone by; ``error`` is that of its wall clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.elapsed = self.error = self.booted_at = 0.0
        monkeypatch.setattr(time, "time", lambda: NOON + self.elapsed + self.error)
        monkeypatch.setattr(time, "clock_gettime", lambda which: self.elapsed - self.booted_at)
        monkeypatch.setattr(boot_clock, "boot_id", lambda: f"boot at {self.booted_at}")

    def reboot(self) -> None:
        self.elapsed += 1
        self.booted_at = self.elapsed


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


class Life:
    """A scheduler in one process after another, and when each call was granted in real time."""

    def __init__(self, path: Path, machine: Machine, quota: Quota) -> None:
        self.path, self.machine, self.quota = path, machine, quota
        self.grants: list[float] = []
        self.asked = 0
        self.is_settling = True
        self.way, self.is_filled = "", False
        self.clock: Callable[[], float] | None = None
        self.scheduler: LocalScheduler
        self.tasks: TaskGroup

    @asynccontextmanager
    async def process(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks, SqliteStore(self.path) as store:
            clock = self.clock or store.clock
            self.tasks = tasks
            async with LocalScheduler(
                store, [self.quota], clock=clock, on_change=self.note
            ) as scheduler:
                self.scheduler = scheduler
                yield

    def note(self, batch: Batch) -> None:
        for record in (*batch.new, *batch.changed):
            if record.state is CallState.ADMITTED:
                self.grants.append(self.machine.elapsed)

    async def ask(self, count: int) -> None:
        """Each is answered as soon as it is granted, unless told otherwise."""
        for _ in range(count):
            self.tasks.start_soon(self.go, f"r.{self.asked}")
            self.asked += 1
        await self.turn()

    async def go(self, call_id: str) -> None:
        call = Call(call_id, "r", "a", "m", ("q",), Priority.INTERACTIVE, 1, self.scheduler.now())
        with suppress(SchedulerClosed):
            await self.scheduler.acquire(call)
            await self.scheduler.sent(call_id)
            if self.is_settling:
                await self.scheduler.settle(call_id, DONE)

    async def retry(self, call_id: str, again: Outcome) -> None:
        with suppress(SchedulerClosed):
            await self.scheduler.retry(call_id, again)

    async def resume(self, call_id: str) -> None:
        (row,) = [r for r in self.scheduler.queued() if r.call.id == call_id]
        self.tasks.start_soon(self.scheduler.reacquire, row)

    async def turn(self) -> None:
        """Let the scheduler look at its clock."""
        await anyio.lowlevel.checkpoint()
        await self.scheduler.save_run(RUN)
        for gauge in self.scheduler.statistics().gauges:
            assert gauge.available <= gauge.capacity

    async def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            self.machine.elapsed += 1
            await self.turn()

    async def tell(self, call_id: str, signals: Observation) -> None:
        await self.scheduler.settle(call_id, DONE, {"q": signals})


Situation = Callable[[Life], AsyncIterator[None]]
"""Comes to where the clock steps, and when it is asked again, to its end."""


async def lived(life: Life, situation: Situation, step: float, way: str) -> None:
    goes_by_the_wall = way == "reboots" or life.clock is not None
    life.way, life.is_filled = way, goes_by_the_wall and step > 0
    parts = aiter(situation(life))
    async with life.process():
        await anext(parts)
        life.machine.error += step
        if way == "goes on":
            assert await ends(parts)
    if way == "reboots":
        life.machine.reboot()
    if way != "goes on":
        async with life.process():
            assert await ends(parts)


async def ends(parts: AsyncIterator[None]) -> bool:
    return [part async for part in parts] == []


def most_too_many(grants: list[float]) -> float:
    """By how many calls the fullest stretch of time exceeds what the provider allows."""
    return max(
        last - first + 1 - CAPACITY - PER_SECOND * (grants[last] - grants[first])
        for first in range(len(grants))
        for last in range(first, len(grants))
    )


@pytest.fixture(params=STEPS, ids=["back", "forward"])
def step(request: pytest.FixtureRequest) -> float:
    hours: float = request.param
    return hours


@pytest.fixture(params=["goes on", "restarts", "reboots"])
def way(request: pytest.FixtureRequest) -> str:
    words: str = request.param
    return words


# A scheduler, and a wall clock that is set


async def waiting(life: Life) -> AsyncIterator[None]:
    """The bucket is empty, and more calls wait than it holds."""
    await life.ask(25)
    assert len(life.grants) == CAPACITY
    await life.pass_time(3)
    yield
    if life.way != "goes on":
        await life.ask(25 - len(life.grants))
    await life.pass_time(1 + 25 - len(life.grants))
    assert len(life.grants) == 25
    assert most_too_many(life.grants) <= CAPACITY * life.is_filled


@pytest.mark.anyio
async def test_calls_that_wait_go_one_by_one_as_before(
    tmp_path: Path, machine: Machine, step: float, way: str
) -> None:
    await lived(Life(tmp_path / "headway.db", machine, QUOTA), waiting, step, way)


async def flying(life: Life) -> AsyncIterator[None]:
    """Some calls are in flight when it steps, and end after that."""
    life.is_settling = False
    await life.ask(4)
    yield
    if life.way == "goes on":
        for number in range(4):
            await life.scheduler.settle(f"r.{number}", DONE)
    slots = [g for g in life.scheduler.statistics().gauges if g.resource is Resource.CONCURRENCY]
    assert [gauge.available for gauge in slots] == [gauge.capacity for gauge in slots]
    life.is_settling = True
    await life.ask(20)
    await life.pass_time(15)
    assert len(life.grants) == 24
    assert most_too_many(life.grants) <= 4 * life.is_filled


@pytest.mark.anyio
async def test_calls_in_flight_give_back_their_slots_and_nothing_else(
    tmp_path: Path, machine: Machine, step: float, way: str
) -> None:
    await lived(Life(tmp_path / "headway.db", machine, QUOTA), flying, step, way)


async def never_sent(life: Life) -> AsyncIterator[None]:
    """All that is in flight comes back in the end, and not more than that."""
    life.is_settling = False
    await life.ask(CAPACITY)
    yield
    for number in range(CAPACITY):
        outcome = Outcome(CallState.CANCELLED, sent=False)
        await life.scheduler.settle(f"r.{number}", outcome)
    life.grants.clear()
    life.is_settling = True
    await life.ask(15)
    assert len(life.grants) == CAPACITY
    await life.pass_time(6)
    assert len(life.grants) == 15


@pytest.mark.anyio
async def test_what_was_never_sent_comes_back_once(
    tmp_path: Path, machine: Machine, step: float
) -> None:
    await lived(Life(tmp_path / "headway.db", machine, QUOTA), never_sent, step, "goes on")


async def delayed(life: Life) -> AsyncIterator[None]:
    """A call is to be tried again in twenty seconds."""
    await begin_delay(life)
    yield
    await life.pass_time(19)
    assert len(life.grants) == 1
    await life.pass_time(1)
    assert len(life.grants) == 2


@pytest.mark.anyio
async def test_a_call_that_is_delayed_goes_after_the_time_that_it_was_told(
    tmp_path: Path, machine: Machine, step: float
) -> None:
    await lived(Life(tmp_path / "headway.db", machine, QUOTA), delayed, step, "goes on")


async def parked(life: Life) -> AsyncIterator[None]:
    """A delayed call is queued again by its run, which goes on in another process."""
    await begin_delay(life)
    yield
    await life.resume("r.0")
    await life.turn()
    assert len(life.grants) == 2


async def begin_delay(life: Life) -> None:
    life.is_settling = False
    await life.ask(1)
    again = Outcome(CallState.QUEUED, error="500", not_before=life.scheduler.now() + 20)
    life.tasks.start_soon(life.retry, "r.0", again)
    await life.turn()


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["restarts", "reboots"])
async def test_a_delayed_call_that_is_queued_again_waits_no_more(
    tmp_path: Path, machine: Machine, step: float, way: str
) -> None:
    await lived(Life(tmp_path / "headway.db", machine, QUOTA), parked, step, way)


async def paused(life: Life) -> AsyncIterator[None]:
    """The provider wants to be left alone for twenty seconds."""
    life.is_settling = False
    await life.ask(1)
    await life.tell("r.0", Observation(pause_until=life.scheduler.now() + 20))
    life.is_settling = True
    yield
    await life.ask(1)
    await life.pass_time(18)
    assert len(life.grants) == 1 + life.is_filled
    await life.pass_time(2)
    assert len(life.grants) == 2


@pytest.mark.anyio
@pytest.mark.parametrize(("step", "way"), NOT_BACK_AT_BOOT)
async def test_a_pause_lasts_as_long_as_it_was_told_to(
    tmp_path: Path, machine: Machine, step: float, way: str
) -> None:
    await lived(Life(tmp_path / "headway.db", machine, QUOTA), paused, step, way)


async def broken(life: Life) -> AsyncIterator[None]:
    """The provider failed too often, and is asked by one call after a pause."""
    life.is_settling = False
    faults = int(FIRST_RETRIES) + 1
    await life.ask(faults)
    for number in range(faults):
        await life.tell(f"r.{number}", Observation(event=ProviderEvent.FAILED))
    life.grants.clear()
    yield
    await life.ask(3)
    assert len(life.grants) == life.is_filled
    await life.pass_time(int(backoff_seconds(1)) + 1)
    assert len(life.grants) == 1


@pytest.mark.anyio
@pytest.mark.parametrize(("step", "way"), NOT_BACK_AT_BOOT)
async def test_a_breaker_lets_one_call_try_after_its_pause(
    tmp_path: Path, machine: Machine, step: float, way: str
) -> None:
    await lived(Life(tmp_path / "headway.db", machine, QUOTA), broken, step, way)


DAILY = Quota.stated("q", {Resource.REQUESTS_PER_DAY: 6})


async def half_a_day(life: Life) -> AsyncIterator[None]:
    """Half of what the day allows is used."""
    await life.ask(3)
    assert len(life.grants) == 3
    yield
    await life.ask(10)
    await life.pass_time(5)
    assert len(life.grants) == 6
    life.machine.elapsed += 24 * HOUR
    await life.turn()
    assert len(life.grants) == 12


@pytest.mark.anyio
async def test_of_a_daily_quota_the_other_half_goes_today_and_all_of_it_tomorrow(
    tmp_path: Path, machine: Machine, step: float, way: str
) -> None:
    await lived(Life(tmp_path / "headway.db", machine, DAILY), half_a_day, step, way)


async def past_midnight(life: Life) -> AsyncIterator[None]:
    """It steps over the end of a day, or of the day before."""
    await life.ask(3)
    yield
    life.machine.elapsed += 60
    await life.ask(20)
    await life.turn()
    assert 6 <= len(life.grants) <= 6 + 3 * life.is_filled
    for day in range(1, 4):
        life.machine.elapsed += 24 * HOUR
        await life.turn()
        assert len(life.grants) <= 6 + 3 * life.is_filled + 6 * day
    assert len(life.grants) >= 20


@pytest.mark.anyio
@pytest.mark.parametrize("hours", [-13, 13])
async def test_a_step_over_midnight_gives_a_day_at_most_once_more(
    tmp_path: Path, machine: Machine, hours: int, way: str
) -> None:
    life = Life(tmp_path / "headway.db", machine, DAILY)
    await lived(life, past_midnight, hours * HOUR, way)


# A scheduler whose own clock steps: forward at any time, back only while it is not there


WALL = [(5 * HOUR, "goes on"), (5 * HOUR, "restarts"), (-5 * HOUR, "restarts")]


@pytest.mark.anyio
@pytest.mark.parametrize(("step", "way"), WALL)
@pytest.mark.parametrize("situation", [waiting, flying])
async def test_a_clock_that_steps_itself_fills_a_bucket_once_or_costs_a_moment(
    tmp_path: Path, machine: Machine, situation: Situation, step: float, way: str
) -> None:
    life = Life(tmp_path / "headway.db", machine, QUOTA)
    life.clock = lambda: time.time()
    await lived(life, situation, step, way)


@pytest.mark.anyio
@pytest.mark.parametrize(("step", "way"), WALL)
async def test_a_clock_that_steps_itself_within_a_day_gives_no_more_of_it(
    tmp_path: Path, machine: Machine, step: float, way: str
) -> None:
    life = Life(tmp_path / "headway.db", machine, DAILY)
    life.clock = lambda: time.time()
    await lived(life, half_a_day, step, way)


# The core, which is told the time


TICK_SECONDS = 0.25


class Told:
    """A core with more to do than it may, told a time that steps; ``elapsed`` does not."""

    def __init__(self) -> None:
        self.now, self.elapsed = NOON, 0.0
        self.grants: list[float] = []
        self.begin(())

    def begin(self, buckets: tuple[BucketState, ...]) -> None:
        self.core = Scheduler([QUOTA], self.now)
        self.core.restore(Snapshot(buckets), self.now, lambda record: False)
        for number in range(200):
            call = Call(f"{number}", "r", "a", "m", ("q",), Priority.INTERACTIVE, 1, self.now)
            self.core.handle(Submit(call), self.now)

    def step(self, seconds: float, *, restarts: bool) -> None:
        buckets = self.core.take_batch(self.now).buckets
        self.now += seconds
        if restarts:
            self.begin(buckets)

    def go_on(self, seconds: float) -> int:
        """Say how many were granted; they are answered at once."""
        before = len(self.grants)
        for _ in range(round(seconds / TICK_SECONDS)):
            for record in self.core.admit(self.now):
                self.grants.append(self.elapsed)
                self.core.handle(Settle(record.call.id, DONE), self.now)
            self.elapsed += TICK_SECONDS
            self.now += TICK_SECONDS
        return len(self.grants) - before


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("hours", [1, 5, 30])
def test_a_step_forward_gives_at_most_one_full_bucket(hours: int, *, restarts: bool) -> None:
    told = Told()
    assert told.go_on(10) >= CAPACITY + 8
    told.step(hours * HOUR, restarts=restarts)
    assert told.go_on(0.25) == CAPACITY
    assert told.go_on(20) >= 19
    assert most_too_many(told.grants) <= CAPACITY + TICK_SECONDS


@pytest.mark.parametrize("hours", [1, 5, 30])
def test_after_a_step_back_a_core_that_begins_goes_on_at_its_rate(hours: int) -> None:
    told = Told()
    told.go_on(10)
    told.step(-hours * HOUR, restarts=True)
    assert told.go_on(2) >= 1
    assert told.go_on(20) >= 19
    assert most_too_many(told.grants) <= TICK_SECONDS


def test_a_step_back_that_is_taken_back_gives_nothing_twice() -> None:
    told = Told()
    told.go_on(5)
    for hours in (-5, 5, -3, 3):
        told.step(hours * HOUR, restarts=False)
        told.go_on(5)
    assert told.go_on(20) >= 19
    assert most_too_many(told.grants) <= TICK_SECONDS


@pytest.mark.parametrize("seed", range(5))
def test_any_steps_neither_burst_nor_freeze(seed: int) -> None:
    random, told, forward = Random(seed), Told(), 0
    told.go_on(15)
    for _ in range(8):
        hours = random.choice([-30, -5, -1, 1, 5, 30])
        told.step(hours * HOUR, restarts=hours < 0 or random.random() < 0.5)
        forward += hours > 0
        assert told.go_on(random.randint(10, 20)) >= 8
    assert most_too_many(told.grants) <= forward * CAPACITY + TICK_SECONDS


# A bucket


@pytest.mark.parametrize("hours", [-5, 5])
def test_what_comes_back_after_a_step_is_never_more_than_was_held(hours: int) -> None:
    limit = Limit(Resource.TOKENS, 100, 1.0, 100)
    bucket = Bucket("q", limit, NOON)
    reservations = [bucket.reserve(40, NOON), bucket.reserve(40, NOON + 1)]
    now = NOON + 2 + hours * HOUR
    before = bucket.available(now)
    for reservation in reservations:
        bucket.settle(reservation, 10, now)
        assert bucket.reserved >= 0
        assert bucket.available(now) <= min(limit.capacity, before + 60)
