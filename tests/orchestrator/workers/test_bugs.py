"""A bug in what a leader does beside admitting ends no run, and the leader goes on."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from autogen_agentchat.agents import AssistantAgent
from tests.orchestrator.workers.configured import KEY, written

from headway import Headway, Models
from headway.config import Config
from headway.workers.assignment import RunAssigner
from headway.workers.leader import Leader
from headway.workers.request_server import RequestServer
from headway.workers.schedules import ScheduleEnqueuer
from headway_scheduler.testing.provider import Latency, Settings, simulated_provider

pytestmark = pytest.mark.anyio


def agent(models: Models) -> AssistantAgent:
    return AssistantAgent("writer", models("m"))


def break_once(monkeypatch: pytest.MonkeyPatch, kind: type, name: str) -> anyio.Event:
    """Have a method raise at its next call. Return what is set when it has."""
    method, raised = getattr(kind, name), anyio.Event()

    async def broken(*args: Any) -> Any:
        if not raised.is_set():
            raised.set()
            raise RuntimeError("a bug")
        return await method(*args)

    monkeypatch.setattr(kind, name, broken)
    return raised


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headway_scheduler.runtime.retry.RETRY_SECONDS", 0.01)
    monkeypatch.setattr("headway.workers.schedules.LOOK_SECONDS", 0.2)


@pytest.fixture
async def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Config]:
    monkeypatch.setenv(KEY, "not-a-key")
    async with simulated_provider(Settings(latency=Latency(base_seconds=0.5))) as provider:
        yield written(tmp_path, provider.base_url, m="requests_per_minute = 6000")


def bugs(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.exc_text or "" for record in caplog.records if record.exc_info]


@pytest.mark.parametrize(
    ("kind", "name"),
    [(RequestServer, "_read"), (RunAssigner, "_assign"), (ScheduleEnqueuer, "_turn")],
)
async def test_in_a_service_of_the_leader(
    kind: type,
    name: str,
    config: Config,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with anyio.fail_after(60):
        async with Headway(config) as hw, Headway(config) as follows:
            for each in (hw, follows):
                each.workflow("agent")(agent)
            runs = [
                await each.start("agent", task="Hello?") for each in (hw, follows) for _ in "ab"
            ]
            raised = break_once(monkeypatch, kind, name)
            runs.append(await follows.submit("agent", task="Hello?"))
            await follows.work(slots=2)
            await raised.wait()
            for run in runs:
                await run.result()
    (bug,) = bugs(caplog)
    assert "RuntimeError: a bug" in bug


async def test_in_the_start_of_one_that_stands_in(
    config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    leads = Headway(config)
    await leads.open()
    with anyio.fail_after(60):
        async with Headway(config) as follows:
            follows.workflow("agent")(agent)
            run = await follows.start("agent", task="Hello?")
            raised = break_once(monkeypatch, Leader, "__aenter__")
            await leads.close()
            await raised.wait()
            await run.result()
    (bug,) = bugs(caplog)
    assert "RuntimeError: a bug" in bug
