"""A second Headway on the same database, here in the same process: it follows the first."""

import time
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import NoReturn

import anyio
import pytest
from anyio import to_thread
from autogen_agentchat.agents import AssistantAgent

from headway import Headway, api
from headway.config import ConfigError, load
from headway.testing import MODEL, QUOTA, SimulatedHeadway, simulated_headway
from headway_scheduler.errors import CallerError, RunNotFound, StoreBusy, StoreTakenOver
from headway_scheduler.states import RunState
from headway_scheduler.store import letters
from headway_scheduler.store.lock import Vigil
from headway_scheduler.store.reading import connect
from headway_scheduler.store.sqlite import SqliteStore

pytestmark = pytest.mark.anyio


@pytest.fixture
async def leader() -> AsyncIterator[SimulatedHeadway]:
    async with simulated_headway() as headway:

        @headway.workflow("agent")
        def agent(models: object) -> AssistantAgent:
            return AssistantAgent("writer", models(MODEL))  # type: ignore[operator]

        yield headway


def second(leader: Headway) -> Headway:
    headway = Headway(leader.config)
    headway.workflow("agent")(lambda models: AssistantAgent("writer", models(MODEL)))
    return headway


async def test_what_a_follower_submits_the_leader_executes(leader: SimulatedHeadway) -> None:
    async with second(leader) as follower, anyio.create_task_group() as group:
        assert (leader.is_leader, follower.is_leader) == (True, False)
        group.start_soon(lambda: leader.work(at_once=2, forever=True))
        runs = [await follower.enqueue("agent", task=f"{n}", key=f"{n % 2}") for n in range(4)]
        assert (runs[0].id, runs[1].id) == (runs[2].id, runs[3].id)
        while len(await follower.runs([RunState.COMPLETED])) < 2:  # noqa: ASYNC110 (rows)
            await anyio.sleep(0.01)
        leader.drain()
    assert len(leader.provider.ledger.paid) == 2


async def test_a_follower_steers_and_gets_the_leader_s_refusals(leader: SimulatedHeadway) -> None:
    async with second(leader) as follower:
        await follower.queue.pause("class:low")
        await follower.queue.set_limits(QUOTA, {"requests_per_minute": 60})
        assert [change.kind for change in await leader.queue.changes()] == ["limits", "gate"]
        run = await follower.enqueue("agent", task="x")
        assert (await follower.pause(run.id)).state is RunState.PAUSED
        assert (await follower.cancel(run.id)).state is RunState.CANCELLED
        for refused, error in (
            (follower.queue.set_limits(QUOTA, {"rpm": 1}), ConfigError),
            (follower.queue.bump("r-none", "low"), RunNotFound),
            (follower.queue.set_limits(QUOTA, {"requests_per_minute": Decimal(1)}), CallerError),
        ):
            with pytest.raises(error):
                await refused


async def test_a_follower_executes_nothing(leader: SimulatedHeadway) -> None:
    async with second(leader) as follower:
        for refused in (
            follower.submit("agent", task="x"),
            follower.work(at_once=1),
            follower.resume("r-none"),
            follower.prune(older_than_seconds=0),
        ):
            with pytest.raises(StoreBusy, match="`headway submit` queues a run beside it"):
                await refused
        with pytest.raises(StoreBusy):
            follower.model(MODEL)
        assert await follower.runs() == []
    with pytest.raises(CallerError, match="not open"):
        _ = follower.queue
    with pytest.raises(CallerError, match="not open"):
        await follower.enqueue("agent", task="x")


async def test_one_that_fails_to_lead_may_follow_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It opened the database, and then another program kept it locked for too long."""
    headway = Headway(load(environ={"HEADWAY_DATABASE": str(tmp_path / "headway.db")}))

    def locked(*_: object) -> NoReturn:
        raise StoreBusy("another program keeps it locked")

    with monkeypatch.context() as patch:
        patch.setattr(api, "attending", locked)
        with pytest.raises(StoreBusy):
            await headway._lead()
    assert not headway.is_leader
    async with headway:
        assert headway.is_leader


async def test_a_follower_waits_for_whoever_writes(
    leader: SimulatedHeadway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letters, "BUSY_SECONDS", 0.01)  # many attempts
    async with second(leader) as follower, anyio.create_task_group() as group:
        other = connect(leader.config.database, "mode=rw")
        other.execute("BEGIN IMMEDIATE")
        group.start_soon(follower.queue.pause)
        await anyio.sleep(0.2)
        other.execute("ROLLBACK")
        other.close()
    assert len(await leader.queue.changes()) == 1


async def test_a_leader_that_lost_its_place_leaves_its_block_with_that_error() -> None:
    with pytest.raises(StoreTakenOver, match="another process took over"):
        await lose()


async def lose() -> None:
    async with simulated_headway() as headway:
        freeze(headway)
        frozen = await to_thread.run_sync(until_frozen, headway.config.database)
        async with SqliteStore(headway.config.database, frozen=frozen):
            await anyio.sleep_forever()


def freeze(headway: Headway) -> None:
    """Stop the pulse of a leader of this process, as SIGSTOP would."""
    lock = headway._store._opened.lock
    lock._end.set()
    lock._pulse.join()


def until_frozen(database: Path) -> tuple[int, int] | None:
    vigil = Vigil(database)
    while not vigil.may_lead():
        time.sleep(0.05)
    return vigil.frozen


async def test_a_follower_whose_leader_left_leads_for_its_letters() -> None:
    async with simulated_headway() as headway:
        config = headway.config
        async with Headway(config) as follower:
            await headway.__aexit__(None, None, None)
            await follower.queue.pause("class:low")
            assert len(await follower.queue.changes()) == 1
            assert not follower.is_leader
        async with Headway(config, follow=False) as next_one:
            assert next_one.is_leader
        await headway.__aenter__()
