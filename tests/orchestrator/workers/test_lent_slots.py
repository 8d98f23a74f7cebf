"""A run whose calls wait until tomorrow lends its slot to one that is more urgent."""

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from autogen_agentchat.agents import AssistantAgent
from tests.orchestrator.workers.configured import KEY, written

from headway import Headway, Models, RunState
from headway.config import Config
from headway.workers import long_waits
from headway_scheduler.testing.provider import Settings, simulated_provider

pytestmark = pytest.mark.anyio


@pytest.fixture
async def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Config]:
    monkeypatch.setenv(KEY, "not-a-key")
    monkeypatch.setattr(long_waits, "LOOK_SECONDS", 0.02)
    async with simulated_provider(Settings()) as provider:
        limits = {"day": "requests_per_day = 1", "free": "requests_per_minute = 60000"}
        yield written(tmp_path, provider.base_url, **limits)


def opened(config: Config) -> Headway:
    headway = Headway(config)

    @headway.workflow("day")
    def day(models: Models) -> AssistantAgent:
        return AssistantAgent("writer", models("day"))

    @headway.workflow("free")
    def free(models: Models) -> AssistantAgent:
        return AssistantAgent("writer", models("free"))

    return headway


async def states(hw: Headway) -> dict[str, RunState]:
    """The state of each run by its task."""
    return {run.task: run.state for run in await hw.list_runs()}


@pytest.mark.parametrize("follows", [False, True])
async def test_urgent_runs_pass_those_that_wait_until_tomorrow(
    config: Config, follows: bool
) -> None:
    async with (
        opened(config) as leader,
        opened(config) as follower,
        anyio.create_task_group() as group,
    ):
        hw = follower if follows else leader
        group.start_soon(lambda: hw.work(slots=1, forever=True))
        await (await hw.submit("day", task="spends the day", priority="background")).result()

        async def is_running(task: str, priority: str) -> None:
            await hw.submit("day", task=task, priority=priority)
            with anyio.fail_after(60):
                while (await states(hw))[task] is not RunState.RUNNING:  # noqa: ASYNC110 (a row)
                    await anyio.sleep(0.01)

        await is_running("waits", "background")
        await hw.submit("day", task="is no more urgent", priority="background")
        urgent = await hw.submit("free", task="urgent", priority="normal")
        with anyio.fail_after(60):
            await urgent.result()
        await is_running("waits as well", "normal")
        await hw.submit("day", task="no more urgent either", priority="normal")
        urgent = await hw.submit("free", task="most urgent", priority="interactive")
        with anyio.fail_after(60):
            await urgent.result()
        assert await states(hw) == {
            "spends the day": RunState.COMPLETED,
            "waits": RunState.RUNNING,
            "is no more urgent": RunState.QUEUED,
            "urgent": RunState.COMPLETED,
            "waits as well": RunState.RUNNING,
            "no more urgent either": RunState.QUEUED,
            "most urgent": RunState.COMPLETED,
        }
        for run in await hw.list_runs([RunState.QUEUED, RunState.RUNNING]):
            await hw.cancel(run.id)
        hw.drain()
