"""A run that asks without end is refused when the queue is full, and no other run is harmed."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from autogen_agentchat.agents import AssistantAgent, BaseChatAgent
from autogen_agentchat.base import Response
from autogen_agentchat.messages import BaseChatMessage, TextMessage
from autogen_core import CancellationToken
from autogen_core.models import ChatCompletionClient, UserMessage
from tests.waiting import until

from headway import Headway, QueueFull, RunFailed
from headway_scheduler.testing.provider import Latency, Settings, simulated_provider

pytestmark = pytest.mark.anyio

CONFIG = """
[database]
path = "headway.db"
[defaults]
waiting = 20
[quotas.q]
concurrency = 2
[models.sim]
quotas = ["q"]
base_url = "{url}"
"""


class Greedy(BaseChatAgent):
    """Asks 100 things at once."""

    produced_message_types = (TextMessage,)

    def __init__(self, client: ChatCompletionClient) -> None:
        super().__init__("greedy", "Asks.")
        self._client = client

    async def on_messages(
        self, messages: Sequence[BaseChatMessage], cancellation_token: CancellationToken
    ) -> Response:
        asked = [UserMessage(content=f"question {n}", source="user") for n in range(100)]
        await asyncio.gather(*(self._client.create([each]) for each in asked))
        raise AssertionError

    async def on_reset(self, cancellation_token: CancellationToken) -> None:
        pass


def opened(folder: Path) -> Headway:
    headway = Headway(folder / "headway.toml")

    @headway.workflow("greedy")
    def greedy(models: Any) -> Greedy:
        return Greedy(models("sim"))

    @headway.workflow("modest")
    def modest(models: Any) -> AssistantAgent:
        return AssistantAgent("writer", models("sim"))

    return headway


@pytest.mark.parametrize("follows", [False, True])
async def test_a_full_queue_refuses_whoever_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, follows: bool
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    async with simulated_provider(Settings(latency=Latency(0.05))) as provider:
        (tmp_path / "headway.toml").write_text(CONFIG.format(url=provider.base_url))
        async with opened(tmp_path) as leader, opened(tmp_path) as follower:
            before = await leader.start("modest", task="x")
            await until(lambda: provider.ledger.entries)  # its one call is not a new one
            run = await (follower if follows else leader).start("greedy", task="x")
            with pytest.raises(RunFailed, match=r"QueueFull: .* defaults.waiting") as caught:
                await run.result()
            assert isinstance(caught.value.__cause__, QueueFull)
            await before.result()
            await (await leader.start("modest", task="y")).result()
