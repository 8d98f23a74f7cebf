"""A call that is sent again carries the key that it carried first, in the header that is named.

The provider enters ``x-headway-call`` of every request in its ledger, so that is the header here.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.base import Team
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat

from headway import Headway
from headway.config import load
from headway_scheduler.testing.provider import (
    Fault,
    FaultKind,
    Settings,
    SimulatedProvider,
    simulated_provider,
)

pytestmark = pytest.mark.anyio

FAULTS = {2: Fault(FaultKind.SERVER_ERROR), 4: Fault(FaultKind.HANG)}


def configured(folder: Path, provider: SimulatedProvider, more: str = "") -> Path:
    file = folder / "headway.toml"
    file.write_text(
        f"""
[database]
path = "headway.db"
[quotas.roomy]
concurrency = 50
[models.sim]
quotas = ["roomy"]
base_url = "{provider.base_url}"
{more}
"""
    )
    return file


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_call_that_is_sent_again_carries_the_same_key(
    is_streamed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def team(models: Any) -> Team:
        writer = AssistantAgent("writer", models("sim"), model_client_stream=is_streamed)
        return RoundRobinGroupChat([writer], termination_condition=MaxMessageTermination(5))

    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    monkeypatch.setattr("headway_scheduler.model.formulas.FIRST_PAUSE_SECONDS", 0.001)
    is_hanging = anyio.Event()

    def fault(number: int, _: Any) -> Fault | None:
        if number == max(FAULTS):
            is_hanging.set()
        return FAULTS.get(number)

    async with simulated_provider(Settings(faults=fault)) as provider:
        file = configured(tmp_path, provider, 'idempotency_header = "x-headway-call"')
        with suppress(InterruptedError):
            async with Headway(load(file, environ={})) as headway:
                headway.workflow("team")(team)
                handle = await headway.start("team", task="Go.")
                await is_hanging.wait()
                raise InterruptedError
        async with Headway(load(file, environ={})) as headway:
            headway.workflow("team")(team)
            await (await headway.resume(handle.id)).result()
        keys = [entry.who for entry in provider.ledger.entries]
    # Number 1 was refused once and sent again; 2 was cut off in flight and sent again.
    assert keys == [f"{handle.id}.{number}" for number in (0, 1, 1, 2, 2, 3)]


async def test_without_the_setting_no_key_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    async with simulated_provider() as provider:
        async with Headway(load(configured(tmp_path, provider), environ={})) as headway:
            headway.workflow("one")(lambda models: AssistantAgent("writer", models("sim")))
            await headway.run("one", task="Go.")
        assert [entry.who for entry in provider.ledger.entries] == [""]
