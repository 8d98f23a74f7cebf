"""``kill -9`` of the whole process, against a provider that lives on in a process of its own."""

import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.processes import WarmProcess
from tests.scheduler.backends.writers import is_stopped

from headway import Headway
from headway.config import load
from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.model.calls import CallRecord
from headway_scheduler.model.states import IN_FLIGHT, CallState, RunState
from headway_scheduler.testing.provider import Ledger, Limits
from headway_scheduler.testing.provider.ledger import worst_excess

pytestmark = pytest.mark.anyio

LIMITS = Limits(requests_per_minute=240, burst_seconds=10)
FLOOD = 80
"""Twice what the limits allow at once. All of them wait before the first one goes: on a busy
machine they are asked for slower than the limits let them go, and none would wait."""

AGAIN = 16

WORKFLOWS = """
from autogen_agentchat.agents import AssistantAgent

def agent(models):
    return AssistantAgent("writer", models("sim"))
"""
CHILD = f"""
import sys, anyio
from headway import Headway
sys.path.insert(0, ".")

async def main():
    async with Headway() as headway:
        await headway.queue.pause()
        for number in range({FLOOD}):
            await headway.start("agent", task=f"task {{number}}", priority="background")
        while len(headway.scheduler.queued()) < {FLOOD}:
            await anyio.sleep(0.01)
        await headway.queue.resume()

anyio.run(main)
"""


@dataclass
class World:
    """A folder with a configuration, and a provider in another process."""

    folder: Path
    ledger_path: Path

    @property
    def database(self) -> Path:
        return self.folder / "headway.db"

    def ledger(self) -> Ledger:
        return Ledger.read(self.ledger_path)

    async def rows(self) -> list[CallRecord]:
        async with SqliteStore(self.database, read_only=True) as store:
            return list(await store.calls())


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    ledger = tmp_path / "ledger.jsonl"
    limits = ["--requests-per-minute", str(LIMITS.requests_per_minute)]
    limits += ["--burst-seconds", str(LIMITS.burst_seconds), "--base-seconds", "0.4"]
    command = [sys.executable, "-m", "headway_scheduler.testing.provider", "--ledger", str(ledger)]
    with WarmProcess([*command, *limits], stdout=subprocess.PIPE, text=True) as provider:
        assert provider.stdout is not None
        (tmp_path / "headway.toml").write_text(
            f"""
[database]
path = "headway.db"
[defaults]
model = "sim"
[quotas.small]
requests_per_minute = {LIMITS.requests_per_minute}
burst_seconds = {LIMITS.burst_seconds}
[models.sim]
base_url = "{provider.stdout.readline().strip()}"
quotas = ["small"]
[workflows]
agent = "flood_workflows:agent"
"""
        )
        (tmp_path / "flood_workflows.py").write_text(WORKFLOWS)
        monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
        monkeypatch.syspath_prepend(str(tmp_path))
        try:
            yield World(tmp_path, ledger)
        finally:
            provider.send_signal(signal.SIGTERM)


def flood_and_kill(world: World) -> None:
    """Kill a process with ``kill -9`` once some calls are done, in flight and queued.

    It is stopped when it is looked at, so that this is what it dies with.
    """
    with WarmProcess([sys.executable, "-c", CHILD], cwd=world.folder, text=True) as child:
        try:
            while not is_in_the_middle(world.database):
                child.send_signal(signal.SIGCONT)
                time.sleep(0.05)
                child.send_signal(signal.SIGSTOP)
                while not is_stopped(child):
                    assert child.poll() is None, "the flood ended before it was killed"
        finally:
            child.kill()  # SIGKILL


def is_in_the_middle(database: Path) -> bool:
    try:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as db:
            rows = db.execute("SELECT state, count(*) FROM calls GROUP BY state").fetchall()
        db.close()
    except sqlite3.OperationalError:
        return False  # not made yet
    counts = dict(rows)
    return counts.get("done", 0) >= 5 and counts.get("queued", 0) >= 5 and len(counts) >= 3


def queued(rows: list[CallRecord]) -> list[str]:
    return [row.call.id for row in rows if row.state is CallState.QUEUED]


async def test_after_a_kill_nothing_is_lost_and_nothing_bursts(world: World) -> None:
    flood_and_kill(world)
    before = await world.rows()
    in_flight = {row.call.id for row in before if row.state in IN_FLIGHT}
    assert in_flight
    async with Headway(load(world.folder / "headway.toml")) as headway:
        after = {row.call.id: row for row in await world.rows()}
        assert {key for key, row in after.items() if row.state is CallState.UNKNOWN} == in_flight
        assert [row.call.id for row in headway.scheduler.queued()] == queued(before)
        done = [row for row in before if row.state is CallState.DONE]
        assert all(after[row.call.id].answer == row.answer for row in done)
        runs = await headway.list_runs([RunState.INTERRUPTED])
        assert {row.call.run_id for row in before} - {row.call.run_id for row in done} <= {
            run.id for run in runs
        }
        # At once as much as the limits ever allow: what the dead process took must still count.
        handles = [await headway.start("agent", task=f"again {n}") for n in range(AGAIN)]
        for handle in handles:
            await handle.result()
    await check_the_ledger(world, after)


async def check_the_ledger(world: World, after: dict[str, CallRecord]) -> None:
    # Of both processes, by our own admissions: the provider's gate would hide a burst of ours.
    admitted = sorted(row.admitted_at for row in await world.rows() if row.admitted_at is not None)
    assert len(admitted) > LIMITS.request_capacity
    charges = [(at, 1.0) for at in admitted]
    assert worst_excess(charges, LIMITS.request_capacity, 240 / 60) == 0
    # Everything that was paid is a row: done, or listed as possibly paid.
    paid = len(world.ledger().paid) - AGAIN
    done = sum(row.state is CallState.DONE for row in after.values())
    unknown = sum(row.state is CallState.UNKNOWN for row in after.values())
    assert done <= paid <= done + unknown


async def test_buckets_go_on_where_they_were(world: World) -> None:
    flood_and_kill(world)
    async with SqliteStore(world.database, read_only=True) as store:
        (stored,) = (await store.snapshot()).buckets
    async with Headway(load(world.folder / "headway.toml")) as headway:
        now = headway.scheduler.now()
        (gauge,) = headway.scheduler.statistics().gauges
        refilled = stored.available + (now - stored.as_of) * gauge.per_second
        assert gauge.available <= min(gauge.capacity, refilled + gauge.per_second)
        assert gauge.available >= min(gauge.capacity, refilled) - 1
