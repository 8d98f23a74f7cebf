"""A program without a view is told, in its log, what its calls wait for."""

from pathlib import Path

import anyio
import pytest
from autogen_agentchat.agents import AssistantAgent

from headway import Headway, Models
from headway.config import load
from headway.testing import MODEL
from headway.workers import long_waits
from headway_scheduler.testing.provider import Settings, simulated_provider

pytestmark = pytest.mark.anyio


def agent(models: Models) -> AssistantAgent:
    return AssistantAgent("writer", models(MODEL))


async def test_a_day_that_is_spent_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TEST_KEY", "not-a-key")
    monkeypatch.setattr(long_waits, "LOOK_SECONDS", 0.02)
    async with simulated_provider(Settings()) as provider:
        (tmp_path / "headway.toml").write_text(f"""
[database]
path = "headway.db"
[quotas.days]
requests_per_day = 1
[quotas.minutes]
requests_per_minute = 2
[models."{MODEL}"]
quotas = ["days"]
base_url = "{provider.base_url}"
api_key_env = "TEST_KEY"
[models.quick]
quotas = ["minutes"]
base_url = "{provider.base_url}"
api_key_env = "TEST_KEY"
""")
        async with Headway(load(tmp_path / "headway.toml")) as hw:
            hw.workflow("agent")(agent)
            hw.workflow("quick")(lambda models: AssistantAgent("writer", models("quick")))
            await hw.run("agent", task="Hello?")
            names = ("quick", "quick", "quick", "agent", "agent")
            runs = [await hw.start(name, task="Hello?") for name in names]
            with anyio.fail_after(30):
                while not caplog.records:  # noqa: ASYNC110 (what a thread of work writes)
                    await anyio.sleep(0.02)
            await anyio.sleep(0.2)
            for run in runs[1:]:
                await hw.cancel(run.id)
    (told,) = (record.getMessage() for record in caplog.records if "calls wait" in record.msg)
    assert told.endswith(" UTC: requests per day of quota 'days' (`headway queue list`)")
