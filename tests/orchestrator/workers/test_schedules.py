"""Schedules in the process that leads: what it queues, once, whatever becomes of it meanwhile."""

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import anyio
import pytest
from autogen_agentchat.agents import AssistantAgent
from tests.orchestrator.workers.processes import World, world_in
from tests.waiting import until

from headway import CallerError, Headway, Models
from headway.config import Config, ConfigError, load
from headway.testing import MODEL, simulated_headway
from headway.workers import schedules
from headway.workers.schedules import ScheduleEnqueuer
from headway_scheduler.backends.memory.store import MemoryStore
from headway_scheduler.errors import StoreCorrupt, StoreFull
from headway_scheduler.model.batch import Batch
from headway_scheduler.model.calls import Priority
from headway_scheduler.model.data import replace
from headway_scheduler.model.runs import Run
from headway_scheduler.model.schedules import Overlap, Schedule
from headway_scheduler.model.states import RunState
from headway_scheduler.runtime.local import LocalScheduler
from headway_scheduler.runtime.retry import keep_serving

pytestmark = pytest.mark.anyio

NOON = 1_780_315_200.0  # 2026-06-01, 12:00 UTC
HOURLY = Schedule(
    "hourly",
    "0 * * * *",
    "UTC",
    Run("", "digest", "Today", Priority.LOW, RunState.QUEUED, 0.0, deadline=600.0, team="news"),
)


class Wall:
    """A clock on the wall: tests set it."""

    def __init__(self) -> None:
        self.now = NOON - 10

    def __call__(self) -> float:
        return self.now


class Leading:
    """A scheduler and its schedules, with a wall clock that is set."""

    def __init__(self, store: MemoryStore, scheduler: LocalScheduler, config: Config) -> None:
        self.wall = Wall()
        self.store = store
        self.scheduler = scheduler
        self.schedules = ScheduleEnqueuer(scheduler, store, config, self.wall)

    @property
    def runs(self) -> list[Run]:
        return sorted(self.store.tables.runs.values(), key=lambda run: run.key or "")

    async def at(self, now: float) -> list[str | None]:
        """Set the clock, look once, and return the keys of all runs so far."""
        self.wall.now = now
        await self.schedules._turn()
        return [run.key for run in self.runs]

    async def end(self, run: Run, state: RunState = RunState.COMPLETED) -> None:
        await self.scheduler.save_run(replace(run, state=state))


@asynccontextmanager
async def leading(folder: Path, *defined: Schedule) -> AsyncIterator[Leading]:
    store = MemoryStore()
    holder: list[Leading] = []

    def committed(batch: Batch) -> None:
        for each in holder:
            each.schedules.committed(batch)

    async with LocalScheduler(store, (), on_change=committed) as scheduler:
        config = load(environ={}, cwd=folder)
        holder.append(Leading(store, scheduler, config))
        await holder[0].schedules.define(defined, ())
        yield holder[0]


def keys(*hours: int) -> list[str]:
    return [f"schedule:hourly:2026-06-01T{hour}:00:00Z" for hour in hours]


async def test_the_run_is_as_it_is_defined_and_one_commit_with_its_time(tmp_path: Path) -> None:
    async with leading(tmp_path, HOURLY) as leader:
        assert await leader.at(NOON - 1) == []
        assert await leader.at(NOON) == keys(12)
        assert await leader.at(NOON + 1) == keys(12)
        (run,) = leader.runs
        given = (run.workflow, run.task, run.priority, run.team, run.state)
        assert given == ("digest", "Today", Priority.LOW, "news", RunState.QUEUED)
        assert run.deadline == run.created_at + 600
        state = leader.store.tables.schedules["hourly"]
        assert (state.last_at, state.last_run) == (NOON, run.id)
        assert state.next_at == NOON + 3600


async def test_the_run_before_counts_until_it_has_ended_for_good(tmp_path: Path) -> None:
    async with leading(tmp_path, HOURLY) as leader:
        await leader.at(NOON)
        (run,) = leader.runs
        for number, state in enumerate((RunState.RUNNING, RunState.WAITING, RunState.PAUSED)):
            await leader.end(run, state)
            assert await leader.at(NOON + 3600 * (number + 1)) == keys(12)
        assert leader.store.tables.schedules["hourly"].skipped == 3
        await leader.end(run, RunState.FAILED)
        assert await leader.at(NOON + 4 * 3600) == keys(12, 16)


async def test_a_buffered_run_goes_once_the_run_before_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the commit that ends it: no look is due for the next hour."""
    monkeypatch.setattr(schedules, "LOOK_SECONDS", 3600.0)
    one = replace(HOURLY, overlap=Overlap.BUFFER_ONE)
    async with leading(tmp_path, one) as leader, anyio.create_task_group() as group:
        await leader.at(NOON)
        (run,) = leader.runs
        assert await leader.at(NOON + 3600) == keys(12)
        group.start_soon(leader.schedules.serve)
        await anyio.wait_all_tasks_blocked()
        await leader.end(run, RunState.CANCELLED)
        await until(lambda: [each.key for each in leader.runs] == keys(12, 13))
        group.cancel_scope.cancel()


async def test_what_was_missed_is_caught_up_by_the_next_leader(tmp_path: Path) -> None:
    every = replace(HOURLY, overlap=Overlap.ALLOW_ALL, catchup_seconds=7200.0)
    async with leading(tmp_path, every) as leader:
        other = ScheduleEnqueuer(leader.scheduler, leader.store, load(environ={}, cwd=tmp_path))
        other._clock = leader.wall
        leader.schedules = other
        assert await leader.at(NOON + 3 * 3600 + 5) == keys(14, 15)


async def test_a_time_whose_key_is_taken_is_met_and_brings_no_second_run(tmp_path: Path) -> None:
    """As where a schedule is deleted and named again within a minute."""
    async with leading(tmp_path, HOURLY) as leader:
        assert await leader.at(NOON) == keys(12)
        await leader.end(leader.runs[0])
        leader.wall.now = NOON - 5
        await leader.schedules.define((), ("hourly",))
        await leader.schedules.define((HOURLY,), ())
        assert leader.store.tables.schedules["hourly"].next_at == NOON
        assert await leader.at(NOON) == keys(12)
        assert leader.store.tables.schedules["hourly"].next_at == NOON + 3600


async def test_a_clock_that_was_years_ahead_stops_nothing(tmp_path: Path) -> None:
    async with leading(tmp_path, HOURLY) as leader:
        assert len(await leader.at(NOON + 10 * 31_536_000)) == 1
        await leader.end(leader.runs[0])
        await leader.at(NOON - 5)
        assert leader.store.tables.schedules["hourly"].next_at == NOON
        assert keys(12)[0] in await leader.at(NOON)


async def test_a_commit_that_fails_is_made_up_for_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headway_scheduler.runtime.retry.RETRY_SECONDS", 0.01)
    failed: list[Batch] = []
    async with leading(tmp_path, HOURLY) as leader, anyio.create_task_group() as group:
        commit = leader.store.commit

        async def full(batch: Batch) -> None:
            if batch.schedules and len(failed) < 2:
                failed.append(batch)
                raise StoreFull("no room")
            await commit(batch)

        monkeypatch.setattr(leader.store, "commit", full)
        leader.wall.now = NOON
        group.start_soon(keep_serving, leader.schedules.serve)
        await until(lambda: leader.runs)
        group.cancel_scope.cancel()
        assert len(failed) == 2
        assert [run.key for run in leader.runs] == keys(12)
        assert leader.store.tables.schedules["hourly"].next_at == NOON + 3600


async def test_a_commit_that_stands_although_it_failed_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with leading(tmp_path, HOURLY) as leader:
        commit = leader.store.commit

        async def cut_off(batch: Batch) -> None:
            await commit(batch)
            raise StoreFull("no room for more")

        with monkeypatch.context() as patch:
            patch.setattr(leader.store, "commit", cut_off)
            with pytest.raises(StoreFull):
                await leader.schedules.hold("hourly", True)
        assert await leader.at(NOON) == []


@pytest.mark.parametrize("odd", [{"zone": "Mars/Olympus"}, {"cron": "bogus"}, {"next_at": -2e11}])
async def test_one_that_cannot_be_met_harms_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, odd: dict[str, Any]
) -> None:
    async with leading(tmp_path, HOURLY, replace(HOURLY, name="also")) as leader:
        row = leader.store.tables.schedules["also"]
        row = replace(row, next_at=odd.pop("next_at", row.next_at))
        row = replace(row, schedule=replace(row.schedule, **odd))
        leader.store.tables.schedules["also"] = row
        leader.schedules._states = None
        assert await leader.at(NOON) == keys(12)
        await leader.at(NOON + 1)
    assert [each.getMessage()[:27] for each in caplog.records] == ["schedule also is left out: "]


async def test_a_run_that_cannot_be_read_holds_no_schedule_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with leading(tmp_path, HOURLY, replace(HOURLY, name="also")) as leader:
        assert len(await leader.at(NOON)) == 2

        async def damaged(_: str) -> Run | None:
            raise StoreCorrupt("a run cannot be read")

        monkeypatch.setattr(leader.store, "run", damaged)
        assert len(await leader.at(NOON + 3600)) == 4
        # If it is the one of this time, it was queued.
        monkeypatch.setattr(leader.store, "run_with_key", damaged)
        assert len(await leader.at(NOON + 7200)) == 4
        assert leader.store.tables.schedules["also"].next_at == NOON + 3 * 3600


async def test_a_paused_one_queues_nothing_and_goes_on_with_what_comes(tmp_path: Path) -> None:
    async with leading(tmp_path, HOURLY) as leader:
        await leader.schedules.hold("hourly", True)
        assert await leader.at(NOON + 7200) == []
        await leader.schedules.hold("hourly", False)
        assert await leader.at(NOON + 7201) == []
        assert await leader.at(NOON + 3 * 3600) == keys(15)


async def test_there_is_a_most_of_schedules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedules, "MOST_SCHEDULES", 2)
    async with leading(tmp_path, HOURLY) as leader:
        others = [replace(HOURLY, name=name) for name in ("a", "b")]
        with pytest.raises(CallerError, match="remove some first"):
            await leader.schedules.define(others, ())
        await leader.schedules.define(others, ("hourly",))
        assert sorted(leader.store.tables.schedules) == ["a", "b"]


# From Python


def agent(models: Models) -> AssistantAgent:
    return AssistantAgent("writer", models(MODEL))


async def test_a_program_names_one_and_an_operator_acts_on_it() -> None:
    async with simulated_headway() as simulated:
        headway = Headway(simulated.config)
        headway.workflow("agent")(agent)
        headway.schedule(
            "nightly", cron="0 3 1 1 *", zone="Europe/Berlin", workflow="agent", task="Today",
            budget_usd=0.5, deadline_seconds=600, priority="background",
        )  # fmt: skip
        async with headway:
            (state,) = await headway.schedules.list()
            assert (state.name, state.schedule.zone) == ("nightly", "Europe/Berlin")
            assert state.schedule.run.priority is Priority.BACKGROUND
            await headway.schedules.pause("nightly")
            assert (await headway.schedules.list())[0].is_paused
            await headway.schedules.resume("nightly")
            run_id = await headway.schedules.run("nightly")
            run = await headway.get_run(run_id)
            assert (run.task, run.budget_usd, run.state) == ("Today", 0.5, RunState.QUEUED)
            await headway.cancel(run_id)
            await headway.schedules.remove("nightly")
            assert list(await headway.schedules.list()) == []
            for act in (headway.schedules.pause, headway.schedules.run, headway.schedules.remove):
                with pytest.raises(CallerError, match="no schedule 'nightly'; there are: none"):
                    await act("nightly")


async def test_a_process_that_follows_has_its_own_written_and_a_worker_takes_its_run() -> None:
    async with simulated_headway() as simulated:
        simulated.workflow("agent")(agent)
        follower = Headway(simulated.config)
        follower.workflow("agent")(agent)
        follower.schedule("nightly", cron="0 3 1 1 *", workflow="agent", task="Today")
        async with follower, anyio.create_task_group() as group:
            assert not follower.is_leader
            assert [each.name for each in await simulated.schedules.list()] == ["nightly"]
            run_id = await follower.schedules.run("nightly")

            async def work() -> None:
                await follower.work(slots=1)

            group.start_soon(work)
            assert (await (await simulated.handle(run_id)).result()).text


REFUSED = {
    "five fields": {"cron": "0 3 * *"},
    "time zone": {"zone": "Mars"},
    "overlap must be one of skip, buffer_one, allow_all, not 'queue'": {"overlap": "queue"},
    "catchup_window_seconds must be a finite number from 10": {"catchup_window_seconds": 1},
    "no workflow 'nobody'": {"workflow": "nobody"},
    "leave key out": {"key": "k"},
    "name must be a text": {"name": 3},
    "task must be": {"task": 3},
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_a_schedule_is_refused_where_it_is_named(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    headway = Headway()
    headway.workflow("agent")(agent)
    given = {"name": "n", "cron": "0 3 * * *", "workflow": "agent", "task": "t"} | REFUSED[words]
    with pytest.raises(CallerError, match=words):
        headway.schedule(given.pop("name"), **given)


async def test_one_is_named_before_the_block_and_not_under_a_name_of_the_file(
    tmp_path: Path,
) -> None:
    (tmp_path / "headway.toml").write_text(FILE)
    async with simulated_headway() as simulated:
        simulated.workflow("agent")(agent)
        with pytest.raises(CallerError, match="before Headway opens"):
            simulated.schedule("n", cron="0 3 * * *", workflow="agent", task="t")
        headway = Headway(load(tmp_path / "headway.toml", environ={}))
        with pytest.raises(CallerError, match=r"schedule 'nightly' is in .*headway.toml already"):
            headway.schedule("nightly", cron="0 3 * * *", workflow="agent", task="t")


# From the file

FILE = """
[schedules.nightly]
cron = "0 3 1 1 *"
zone = "Europe/Berlin"
workflow = "agent"
task = "Today"
overlap = "buffer_one"
catchup_window = "1d"
priority = "background"
parameters = { turns = 2 }
deadline = "2h"
"""


async def test_a_schedule_comes_and_goes_with_its_file_and_with_no_other(tmp_path: Path) -> None:
    file = tmp_path / "headway.toml"
    file.write_text(FILE)
    other = tmp_path / "other"
    other.mkdir()
    (other / "headway.toml").write_text('[database]\npath = "../.headway/headway.db"\n')
    async with Headway(file) as headway:
        (state,) = await headway.schedules.list()
        definition, run = state.schedule, state.schedule.run
        assert (definition.overlap, definition.catchup_seconds) == (Overlap.BUFFER_ONE, 86_400)
        assert (definition.source, run.workflow) == (str(file), "agent")
        assert (run.deadline, run.parameters) == (7200, '{"turns": 2}')
        with pytest.raises(CallerError, match="take it out there"):
            await headway.schedules.remove("nightly")
        await headway.schedules.pause("nightly")
    file.write_text(FILE.replace("Today", "Tomorrow"))
    async with Headway(file) as headway:
        (state,) = await headway.schedules.list()
        assert (state.schedule.run.task, state.is_paused) == ("Tomorrow", True)
    for elsewhere in (other / "headway.toml", changed(headway.config, schedules={}, file=None)):
        async with Headway(elsewhere) as headway:
            assert [each.name for each in await headway.schedules.list()] == ["nightly"]
    file.write_text("")
    async with Headway(file) as headway:
        assert list(await headway.schedules.list()) == []


async def test_a_component_file_that_is_gone_leaves_the_schedule_as_it_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, component = tmp_path / "headway.toml", tmp_path / "team.json"
    file.write_text(FILE.replace('"agent"', f'"{component}"'))
    component.write_text('{"provider": "a.B"}')
    async with Headway(file) as headway:
        before = list(await headway.schedules.list())
    component.unlink()
    async with Headway(file) as headway:
        assert list(await headway.schedules.list()) == before
    assert "schedule nightly of the file stays as it was" in caplog.text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('cron = "0 25 * * *"', r"headway.toml:3: schedules.nightly.cron must have five fields"),
        ('zone = "Berlin"', r"headway.toml:4: schedules.nightly.zone must be a time zone"),
        ('overlap = "queue"', r"overlap must be one of skip, buffer_one, allow_all"),
        ('catchup_window = "5s"', r"catchup_window must be at least 10 s"),
        ("parameters = 3", r"parameters must be a table"),
        ("", r"schedules.nightly must set cron"),
    ],
)
def test_a_bad_schedule_in_the_file_is_named_with_its_line(
    tmp_path: Path, line: str, words: str
) -> None:
    key = line.split(" = ")[0] or "cron"
    lines = [line if each.startswith(f"{key} = ") else each for each in FILE.split("\n")]
    (tmp_path / "headway.toml").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=words):
        load(environ={}, cwd=tmp_path)


# Killed around the commit that fires

SCHEDULED = """
[schedules.yearly]
cron = "0 3 1 1 *"
workflow = "agent"
task = "Today"
"""
KILLED = """
import os, signal, sys
import anyio
from headway import Headway
from headway_scheduler.backends.sqlite.store import SqliteStore

when, commit = sys.argv[1], SqliteStore.commit

async def killed(self, batch):
    if not (batch.schedules and batch.runs):
        return await commit(self, batch)
    if when == "after":
        await commit(self, batch)
    os.kill(os.getpid(), signal.SIGKILL)

SqliteStore.commit = killed

async def main():
    async with Headway() as headway:
        await headway.work(slots=1, forever=True)

anyio.run(main)
"""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    with world_in(tmp_path) as world:
        file = tmp_path / "headway.toml"
        file.write_text(file.read_text() + SCHEDULED)
        world.headway("schedules", "resume", "yearly")
        with closing(sqlite3.connect(world.database)) as db:
            # The last new year that was missed.
            db.execute("UPDATE schedules SET next_at = next_at - 31536000")
            db.commit()
        yield world


def rows(world: World) -> list[tuple[str, float]]:
    """The keys of all runs, each with the next time of the schedule."""
    return world.rows("SELECT runs.key, next_at FROM runs, schedules ORDER BY runs.key")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_leader_that_is_killed_around_the_fire_neither_loses_nor_doubles_a_run(
    world: World, when: str
) -> None:
    ((due,),) = world.rows("SELECT next_at FROM schedules")
    victim = world.start("-c", KILLED, when)
    assert victim.wait() == -9
    ((next_at,),) = world.rows("SELECT next_at FROM schedules")
    assert (len(rows(world)), next_at > due) == ((1, True) if when == "after" else (0, False))
    workers = [world.start("work", "--forever") for _ in range(2)]
    ended = "SELECT 1 FROM runs WHERE state = 'completed'"
    world.until(lambda: world.rows(ended), *workers)
    ((key, next_at),) = rows(world)
    assert key.startswith("schedule:yearly:")
    assert next_at > due
    (facts,) = world.facts("schedules")
    assert (facts["last_state"], facts["last_at"]) == ("completed", due)
    assert len(world.ledger.paid) == 1


IDLE = """
import anyio
from headway import Headway

async def main():
    async with Headway():
        print("open", flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


@pytest.mark.timeout(120)
def test_a_process_that_only_names_schedules_leads_when_nobody_does(world: World) -> None:
    leader = world.worker()
    world.until(lambda: rows(world), leader)
    idle = world.start("-c", IDLE)
    assert idle.stdout is not None
    assert idle.stdout.readline() == "open\n"
    leader.kill()
    leader.wait()
    world.until(lambda: world.leader() == idle.pid, idle)


def test_the_command_line(world: World) -> None:
    assert "yearly is paused" in world.headway("schedules", "pause", "yearly")
    assert "paused" in world.headway("schedules")
    run_id = world.headway("schedules", "run", "yearly").strip()
    assert world.state(run_id) == "queued"
    assert f"{run_id} queued" in world.headway("schedules", "list")
    assert "goes on" in world.headway("schedules", "resume", "yearly")
    assert "no schedule 'x'" in world.headway("schedules", "pause", "x", status=2)
    assert "take it out there" in world.headway("schedules", "remove", "yearly", status=2)
    file = world.folder / "headway.toml"
    file.write_text(file.read_text().replace(SCHEDULED, ""))
    assert "yearly" in world.headway("schedules")
    world.headway("queue", "resume")
    assert "no schedule" in world.headway("schedules")
