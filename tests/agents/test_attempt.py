import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Any

import anyio
import openai
import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.base import ChatAgent, Team
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core.models import ChatCompletionClient

from headway_agents import Attempt, RunScope, bind, dump_result, load_result
from headway_scheduler.testing.provider import Fault, FaultKind, Latency, Reply, ToolCall

pytestmark = pytest.mark.anyio


def team(client: ChatCompletionClient) -> Team:
    agents = [AssistantAgent("writer", client), AssistantAgent("critic", client)]
    return RoundRobinGroupChat(list(agents), termination_condition=MaxMessageTermination(5))


async def test_an_attempt_ends_with_a_result_that_can_be_kept(
    scope: RunScope, serve: Any, models: Any
) -> None:
    async with serve() as (provider, inner):
        made = team(inner)
        bind(made, scope, models)
        attempt = Attempt(made, scope)
        sources = [event.source async for event in attempt.events("Go.")]
        assert sources == ["user", "writer", "critic", "writer", "critic"]
        assert attempt.result is not None
        assert load_result(dump_result(attempt.result)) == attempt.result
        assert len(provider.ledger.paid) == 4


async def test_an_attempt_that_is_left_buys_nothing_more(
    scope: RunScope, serve: Any, models: Any, idle: Any
) -> None:
    async with serve(latency=Latency(base_seconds=0.02)) as (provider, inner):
        made = team(inner)
        bind(made, scope, models)
        events = Attempt(made, scope).events("Go.")
        async for event in events:
            if event.source == "writer":
                break
        await events.aclose()
        bought = len(provider.ledger)
        await asyncio.sleep(0.1)
        assert len(provider.ledger) == bought < 4
        await idle()


async def test_the_error_keeps_the_type_that_teams_lose(
    scope: RunScope, serve: Any, models: Any
) -> None:
    async with serve(faults=lambda *_: Fault(FaultKind.UNAUTHORIZED)) as (_, inner):
        made = team(inner)
        bind(made, scope, models)
        attempt = Attempt(made, scope)
        with pytest.raises(RuntimeError, match="AuthenticationError"):
            async for _ in attempt.events("Go."):
                pass
        assert isinstance(attempt.error, openai.AuthenticationError)


class Waiting(AssistantAgent):
    """An agent of a user that heeds no token."""

    wait: Any

    async def on_messages_stream(self, *_: Any) -> AsyncGenerator[Any, None]:
        yield await self.wait()


def alone(tool: Any, client: ChatCompletionClient) -> ChatAgent:
    return AssistantAgent("writer", client, tools=[tool])


def in_a_team(tool: Any, client: ChatCompletionClient) -> Team:
    return RoundRobinGroupChat([alone(tool, client)])


def in_an_inner_team(tool: Any, client: ChatCompletionClient) -> Team:
    return RoundRobinGroupChat([in_a_team(tool, client)])


def without_token(tool: Any, client: ChatCompletionClient) -> ChatAgent:
    agent = Waiting("writer", client)
    agent.wait = tool
    return agent


def without_token_in_an_inner_team(tool: Any, client: ChatCompletionClient) -> Team:
    return RoundRobinGroupChat([RoundRobinGroupChat([without_token(tool, client)])])


MADE = [alone, in_a_team, in_an_inner_team, without_token, without_token_in_an_inner_team]


@pytest.mark.parametrize("made", MADE)
async def test_an_attempt_that_is_cancelled_leaves_no_task(
    made: Any, scope: RunScope, serve: Any, models: Any, idle: Any, caplog: Any
) -> None:
    acts, ended = asyncio.Event(), asyncio.Event()

    async def wait() -> str:
        """Wait."""
        acts.set()
        try:
            await asyncio.sleep(600)
        finally:
            ended.set()
        return "never"

    async with serve(reply=lambda _: Reply(tool_calls=(ToolCall("wait"),))) as (_, inner):
        made = made(wait, inner)
        bind(made, scope, models)
        before = asyncio.all_tasks()

        async def attempt() -> None:
            async for _ in Attempt(made, scope).events("Go."):
                pass

        async with anyio.create_task_group() as group:
            group.start_soon(attempt)
            await acts.wait()
            group.cancel_scope.cancel()
        assert ended.is_set()
        await idle()
        assert [task.get_coro() for task in asyncio.all_tasks() - before] == []
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
