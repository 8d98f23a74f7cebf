import asyncio
from typing import Any

import openai
import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.base import Team
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core.models import ChatCompletionClient

from headway_agents import Attempt, RunScope, bind, dump_result, load_result
from headway_scheduler.testing.provider import Fault, FaultKind, Latency

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
