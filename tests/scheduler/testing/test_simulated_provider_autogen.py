"""The provider as stock AutoGen teams see it, and as a process of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.messages import ToolCallSummaryMessage
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core.models import ModelFamily, ModelInfo
from autogen_ext.models.openai import OpenAIChatCompletionClient

import headway_scheduler
from headway_scheduler.testing.provider import (
    Ledger,
    Limits,
    Reply,
    Settings,
    ToolCall,
    simulated_provider,
)

pytestmark = pytest.mark.anyio


def stock_client(base_url: str) -> OpenAIChatCompletionClient:
    """A made-up model name: AutoGen warns if an answer names a known model without its date."""
    info = ModelInfo(
        vision=False,
        function_calling=True,
        json_output=True,
        structured_output=True,
        family=ModelFamily.UNKNOWN,
    )
    return OpenAIChatCompletionClient(
        model="simulated", model_info=info, base_url=base_url, api_key="k", max_retries=0
    )


async def test_a_stock_team_runs_and_every_turn_is_in_the_ledger() -> None:
    settings = Settings(limits=Limits(60, 60_000))
    async with simulated_provider(settings) as provider:
        client = stock_client(provider.base_url)
        agents: list[Any] = [
            AssistantAgent("writer", client),
            AssistantAgent("critic", client, model_client_stream=True),
        ]
        team = RoundRobinGroupChat(agents, termination_condition=MaxMessageTermination(5))
        result = await team.run(task="Write a line.")
        await client.close()
    assert [message.source for message in result.messages] == ["user", *["writer", "critic"] * 2]
    assert len(provider.ledger.paid) == 4
    assert provider.ledger.duplicates() == {}
    assert provider.ledger.excess(Limits(60, 60_000)) == (0, 0)


async def test_a_stock_agent_calls_the_tool_that_the_script_asks_for() -> None:
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    script = Settings(reply=lambda _: Reply(tool_calls=(ToolCall("add", {"a": 2, "b": 3}),)))
    async with simulated_provider(script) as provider:
        client = stock_client(provider.base_url)
        result = await AssistantAgent("adder", client, tools=[add]).run(task="2 + 3?")
        await client.close()
    last = result.messages[-1]
    assert isinstance(last, ToolCallSummaryMessage)
    assert last.content == "5"


@contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A provider in its own process, and its base URL."""
    root = str(Path(headway_scheduler.__file__).parents[1])
    command = [sys.executable, "-m", "headway_scheduler.testing.provider", *arguments]
    environment = {**os.environ, "PYTHONPATH": root}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


async def test_as_a_process_it_outlives_its_clients_and_writes_its_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with running("--requests-per-minute", "2", "--ledger", str(path)) as (process, base_url):
        for _ in range(2):
            async with openai.AsyncOpenAI(base_url=base_url, api_key="k", max_retries=0) as client:
                await client.chat.completions.create(
                    model="m", messages=[{"role": "user", "content": "hi"}]
                )
        written_while_it_runs = Ledger.read(path)
        async with openai.AsyncOpenAI(base_url=base_url, api_key="k", max_retries=0) as client:
            with pytest.raises(openai.RateLimitError):
                await client.chat.completions.create(
                    model="m", messages=[{"role": "user", "content": "hi"}]
                )
        async with openai.DefaultAsyncHttpxClient() as browser:
            served = (await browser.get(base_url.removesuffix("/v1") + "/ledger")).json()
        process.send_signal(signal.SIGTERM)
        _, complaints = process.communicate()
        assert (process.returncode, complaints) == (0, "")
    assert [entry.status for entry in written_while_it_runs.entries] == [200, 200]
    assert Ledger.read(path).as_json() == served
    assert [entry["why"] for entry in served["entries"]] == ["", "", "requests"]
