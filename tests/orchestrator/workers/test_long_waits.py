"""A program without a view is told, in its log, what its calls wait for."""

from contextlib import suppress
from pathlib import Path

import anyio
import pytest
from autogen_agentchat.agents import AssistantAgent
from tests.orchestrator.workers.configured import KEY, written

from headway import Headway, Models
from headway.workers import long_waits
from headway_scheduler.errors import RunNotResumable
from headway_scheduler.testing.provider import Settings, simulated_provider

pytestmark = pytest.mark.anyio


def agent(models: Models) -> AssistantAgent:
    return AssistantAgent("writer", models("day"))


async def test_a_day_that_is_spent_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(KEY, "not-a-key")
    monkeypatch.setattr(long_waits, "LOOK_SECONDS", 0.02)
    async with simulated_provider(Settings()) as provider:
        limits = {"day": "requests_per_day = 1", "minute": "requests_per_minute = 2"}
        async with Headway(written(tmp_path, provider.base_url, **limits)) as hw:
            hw.workflow("agent")(agent)
            hw.workflow("quick")(lambda models: AssistantAgent("writer", models("minute")))
            await hw.run("agent", task="Hello?")
            names = ("quick", "quick", "quick", "agent", "agent")
            runs = [await hw.start(name, task="Hello?") for name in names]
            with anyio.fail_after(30):
                while not caplog.records:  # noqa: ASYNC110 (what a thread of work writes)
                    await anyio.sleep(0.02)
            await anyio.sleep(0.2)
            for run in runs[1:]:
                with suppress(RunNotResumable):  # a short wait may be over by now
                    await hw.cancel(run.id)
    (told,) = (record.getMessage() for record in caplog.records if "calls wait" in record.msg)
    assert told.endswith(" UTC: requests per day of quota 'day' (`headway queue list`)")
