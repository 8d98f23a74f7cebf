"""What ``models(name, temperature=…)`` states goes with each request of that client alone."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core.models import UserMessage
from autogen_ext.models.openai import OpenAIChatCompletionClient

from headway import Models
from headway.testing import SimulatedHeadway, simulated_headway
from headway_scheduler.errors import CallerError

pytestmark = pytest.mark.anyio

ASKED = [UserMessage(content="Why?", source="user")]


class Bodies:
    """Keeps what each request said beside its messages."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def __call__(self, body: dict[str, Any]) -> None:
        self.seen.append(body)

    def of(self, name: str) -> list[Any]:
        return [body.get(name) for body in self.seen]


@asynccontextmanager
async def own(hw: SimulatedHeadway) -> AsyncIterator[OpenAIChatCompletionClient]:
    client = OpenAIChatCompletionClient(
        model="gpt-4.1-2025-04-14", api_key="x", base_url=hw.provider.base_url, temperature=0.9
    )
    try:
        yield client
    finally:
        await client.close()


async def test_each_client_of_a_team_has_its_own() -> None:
    bodies = Bodies()

    def team(models: Models) -> RoundRobinGroupChat:
        agents = [
            AssistantAgent("warm", models("sim", temperature=0.8, max_tokens=50)),
            AssistantAgent("cold", models("sim", priority="high", temperature=0.1)),
            AssistantAgent("plain", models("sim")),
            AssistantAgent("own", models(client, temperature=0.3)),
        ]
        return RoundRobinGroupChat(agents, max_turns=4)  # type: ignore[arg-type]

    async with simulated_headway(reply=bodies) as hw, own(hw) as client:
        hw.workflow("team")(team)
        result = await hw.run("team", task="Go.")
        assert bodies.of("temperature") == [0.8, 0.1, None, 0.3]
        assert bodies.of("max_tokens") == [50, None, None, None]
        calls = await hw.list_calls(result.run_id)
        # They are part of the request: a copy of the run finds the answers by them.
        copy = await hw.fork(result.run_id, at=calls[-1].call.id)
        await copy.result()
        assert bodies.of("temperature")[4:] == [0.3]


async def test_a_clients_own_are_told_and_a_calls_own_prevail() -> None:
    bodies = Bodies()
    async with simulated_headway(reply=bodies) as hw:
        client = hw.model("sim", temperature=0.8, top_p=0.5)
        await client.create(ASKED)
        await client.create(ASKED, extra_create_args={"temperature": 0.2})
        async for _ in client.create_stream(ASKED, extra_create_args={"top_p": 0.1}):
            pass
        await hw.model("sim").create(ASKED)
        async with own(hw) as theirs:
            await hw.model(theirs).create(ASKED)
    assert bodies.of("temperature") == [0.8, 0.2, 0.8, None, 0.9]
    assert bodies.of("top_p") == [0.5, 0.5, 0.1, None, None]


async def test_an_argument_that_the_client_does_not_take_fails_its_call_alone() -> None:
    async with simulated_headway() as hw:
        with pytest.raises(Exception, match="temprature"):
            await hw.model("sim", temprature=0.2).create(ASKED)
        assert (await hw.model("sim").create(ASKED)).content
        assert len(hw.provider.ledger.paid) == 1


async def test_no_argument_leads_to_another_model() -> None:
    async with simulated_headway() as hw:
        client = hw.model("sim")
        with pytest.raises(CallerError, match=r"model='gpt-5.4'.*models\('gpt-5.4'\)"):
            await client.create(ASKED, extra_create_args={"model": "gpt-5.4"})
        with pytest.raises(CallerError, match="pass its limits"):
            async for _ in client.create_stream(ASKED, extra_create_args={"model": "gpt-5.4"}):
                pass
        assert (await client.create(ASKED, extra_create_args={"model": "sim"})).content
        assert len(hw.provider.ledger.paid) == 1
