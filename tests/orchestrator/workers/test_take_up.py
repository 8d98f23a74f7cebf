"""Processes that open go on with what an earlier one left interrupted."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import anyio
import pytest
from autogen_agentchat.agents import AssistantAgent
from tests.orchestrator.workers.configured import KEY, written

from headway import Headway, Models, RunState
from headway.config import Config
from headway.workers import executor
from headway.workers.executor import Executor
from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.model.batch import Batch
from headway_scheduler.model.calls import Priority
from headway_scheduler.model.runs import Run
from headway_scheduler.testing.provider import (
    Latency,
    Settings,
    SimulatedProvider,
    simulated_provider,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def provider() -> AsyncIterator[SimulatedProvider]:
    async with simulated_provider(Settings(latency=Latency(base_seconds=0.2))) as provider:
        yield provider


@pytest.fixture
async def config(
    tmp_path: Path, provider: SimulatedProvider, monkeypatch: pytest.MonkeyPatch
) -> Config:
    """A database with 20 interrupted runs."""
    monkeypatch.setenv(KEY, "not-a-key")
    runs = [
        Run(f"r-{at:08}", "agent", "Hello?", Priority.NORMAL, RunState.INTERRUPTED, float(at))
        for at in range(20)
    ]
    async with SqliteStore(tmp_path / "headway.db") as store:
        await store.commit(Batch(runs=tuple(runs)))
    return written(tmp_path, provider.base_url, m="requests_per_minute = 60000")


def opened(config: Config) -> Headway:
    headway = Headway(config)

    @headway.workflow("agent")
    def agent(models: Models) -> AssistantAgent:
        return AssistantAgent("writer", models("m"))

    return headway


async def test_a_worker_that_opens_beside_the_leader_may_be_faster(
    config: Config, provider: SimulatedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leader has looked what is interrupted; then a worker with --forever gets some of it."""
    looked, take_up = anyio.Event(), Executor.take_up

    async def late(self: Executor, runs: Sequence[Run]) -> None:
        assert len(runs) == 20
        looked.set()
        await is_open.wait()
        while not any(run.state is RunState.COMPLETED for run in await worker.list_runs()):  # noqa: ASYNC110 (rows)
            await anyio.sleep(0.01)
        await take_up(self, runs)

    async def lead() -> None:
        async with opened(config):  # it is left once its runs have ended
            pass

    async def work() -> None:
        await looked.wait()
        async with worker:
            is_open.set()
            await worker.work(slots=4, forever=True)

    monkeypatch.setattr(Executor, "take_up", late)
    worker, is_open = opened(config), anyio.Event()
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(lead)
            group.start_soon(work)
            await is_open.wait()
            while any(run.state is not RunState.COMPLETED for run in await worker.list_runs()):  # noqa: ASYNC110 (rows)
                await anyio.sleep(0.01)
            worker.drain()
    assert len(provider.ledger.paid) == 20


async def test_many_are_gone_on_with_some_at_once(
    config: Config, provider: SimulatedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "AT_ONCE", 3)
    most = 0
    with anyio.fail_after(60):
        async with opened(config) as hw:
            while any(run.state is not RunState.COMPLETED for run in await hw.list_runs()):
                runs = await hw.list_runs([RunState.RUNNING])
                most = max(most, len(runs))
                await anyio.sleep(0.01)
    assert most == 3
    assert len(provider.ledger.paid) == 20


async def test_one_that_drains_leaves_the_rest(
    config: Config, provider: SimulatedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "AT_ONCE", 3)
    with anyio.fail_after(60):
        async with opened(config) as hw:
            hw.drain()
    assert len(provider.ledger.paid) == 3
