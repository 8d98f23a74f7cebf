"""Time as processes have it: it goes on, whatever becomes of the wall clock."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from tests.waiting import until

from headway_scheduler.backends.sqlite import boot_clock
from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.model.calls import Call, Outcome, Priority, Usage
from headway_scheduler.model.quotas import Quota, Resource
from headway_scheduler.model.states import CallState
from headway_scheduler.runtime.clock import system_clock
from headway_scheduler.runtime.local import LocalScheduler

HOUR = 3600.0
START = 1_800_000_000.0


class Machine:
    """Its wall clock may be set; what has really gone by since it was started goes on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gone_by = 50_000.0
        self.error = 0.0
        self.boot = "first"
        monkeypatch.setattr(time, "time", lambda: START + self.gone_by + self.error)
        monkeypatch.setattr(time, "clock_gettime", lambda which: self.gone_by)
        monkeypatch.setattr(boot_clock, "boot_id", lambda: self.boot)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_it_starts_at_the_wall_time_and_goes_on_by_itself(machine: Machine) -> None:
    clock = system_clock()
    assert clock() == time.time()
    machine.gone_by += 2.5
    machine.error = -HOUR
    assert clock() == START + 50_002.5


def test_it_never_goes_back() -> None:
    clock = system_clock()
    times = [clock() for _ in range(1_000)]
    assert times == sorted(times)


def test_this_machine_s_boot_has_a_name_and_its_clock_runs() -> None:
    assert boot_clock.boot_id() == boot_clock.boot_id()
    assert abs(system_clock()() - time.time()) < HOUR


@pytest.mark.anyio
@pytest.mark.parametrize("step", [-5 * HOUR, 5 * HOUR])
async def test_all_processes_on_a_database_have_the_same_time_until_the_next_boot(
    tmp_path: Path, machine: Machine, step: float
) -> None:
    async with SqliteStore(tmp_path / "headway.db") as first:
        before = first.clock()
        machine.error = step
        async with SqliteStore(tmp_path / "headway.db", read_only=True) as follower:
            assert follower.clock() == first.clock() == before
    machine.gone_by += 7
    async with SqliteStore(tmp_path / "headway.db") as second:
        assert second.clock() == before + 7
    machine.boot, machine.gone_by = "second", 3.0
    async with SqliteStore(tmp_path / "headway.db", read_only=True) as early:
        assert early.clock() == time.time()
    async with SqliteStore(tmp_path / "headway.db") as third:
        assert third.clock() == time.time()


async def spend(scheduler: LocalScheduler, name: str) -> int:
    """Ask for calls as long as they are granted at once, and say how many were."""
    for number in range(20):
        call_id = f"{name}.{number}"
        call = Call(call_id, name, "a", "m", ("q",), Priority.INTERACTIVE, 1, scheduler.now())
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(cancel_once_queued, scheduler, call_id, scope)
                await scheduler.acquire(call)
                tasks.cancel_scope.cancel()
        if scope.cancelled_caught:
            return number
        await scheduler.sent(call_id)
        await scheduler.settle(call_id, Outcome(CallState.DONE, Usage(1, 0), "x"))
    return 20


async def cancel_once_queued(
    scheduler: LocalScheduler, call_id: str, scope: anyio.CancelScope
) -> None:
    """Cancel when the core has looked at a call and left it in its queue."""
    await until(lambda: any(r.call.id == call_id for r in scheduler.queued()))
    scope.cancel()


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[LocalScheduler]:
    quota = Quota.per_minute("q", requests=60, burst_seconds=10)
    async with (
        SqliteStore(path) as store,
        LocalScheduler(store, [quota], clock=store.clock) as scheduler,
    ):
        yield scheduler


@pytest.mark.anyio
@pytest.mark.parametrize("step", [-5 * HOUR, 5 * HOUR])
@pytest.mark.parametrize("restarts", [False, True])
async def test_a_step_by_hours_neither_fills_a_budget_nor_freezes_it(
    tmp_path: Path, machine: Machine, step: float, restarts: bool
) -> None:
    path = tmp_path / "headway.db"
    async with opened(path) as scheduler:
        assert await spend(scheduler, "full") == 10
        machine.error = step
        machine.gone_by += 5
        if not restarts:
            assert 4 <= await spend(scheduler, "stepped") <= 5
    if restarts:
        async with opened(path) as scheduler:
            assert 4 <= await spend(scheduler, "stepped") <= 5
    machine.gone_by += HOUR  # asleep, say
    async with opened(path) as scheduler:
        assert await spend(scheduler, "rested") == 10


@pytest.mark.anyio
async def test_a_daily_budget_is_full_again_when_its_day_begins_after_a_long_sleep(
    tmp_path: Path, machine: Machine
) -> None:
    quota = Quota.stated("q", {Resource.REQUESTS_PER_DAY: 3})
    async with (
        SqliteStore(tmp_path / "headway.db") as store,
        LocalScheduler(store, [quota], clock=store.clock) as scheduler,
    ):
        assert await spend(scheduler, "today") == 3
        machine.gone_by += HOUR
        assert await spend(scheduler, "later") == 0
        machine.gone_by += 24 * HOUR
        assert await spend(scheduler, "tomorrow") == 3
