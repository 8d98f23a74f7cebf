"""Binding changes some parts of a team, leaves others alone, and refuses a few."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from autogen_agentchat.agents import (
    AssistantAgent,
    BaseChatAgent,
)
from autogen_agentchat.base import ChatAgent, Response, Team
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.messages import BaseChatMessage, TextMessage
from autogen_agentchat.teams import (
    RoundRobinGroupChat,
    SelectorGroupChat,
)
from autogen_agentchat.tools import AgentTool
from autogen_core import CancellationToken
from autogen_core.models import ChatCompletionClient, UserMessage
from autogen_core.tools import FunctionTool, StaticWorkbench
from autogen_ext.code_executors.local import LocalCommandLineCodeExecutor
from autogen_ext.models.cache import ChatCompletionCache
from autogen_ext.tools.code_execution import PythonCodeExecutionTool

from headway_agents import Model, RunScope, ScheduledClient, bind
from headway_agents.wrappers.workbench import JournaledWorkbench
from headway_scheduler.errors import CallerError
from headway_scheduler.model.calls import Priority
from headway_scheduler.runtime.local import LocalScheduler

pytestmark = [
    pytest.mark.anyio,
    # AutoGen dumps openai's parsed answers into its log, which pydantic finds odd.
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning"),
    pytest.mark.filterwarnings("ignore:Using LocalCommandLineCodeExecutor:UserWarning"),
]


def agent(name: str, client: ChatCompletionClient, **more: Any) -> AssistantAgent:
    return AssistantAgent(name, client, system_message=f"You are {name}.", **more)


def messages(count: int) -> MaxMessageTermination:
    return MaxMessageTermination(count)


def round_robin(client: ChatCompletionClient) -> Team:
    return RoundRobinGroupChat(
        [agent("writer", client), agent("critic", client)], termination_condition=messages(3)
    )


def nested(client: ChatCompletionClient) -> Team:
    review = RoundRobinGroupChat(
        [agent("critic", client)], name="review", termination_condition=messages(3)
    )
    return RoundRobinGroupChat([agent("writer", client), review], termination_condition=messages(3))


async def test_one_client_shared_by_all_keeps_its_sum(
    scope: RunScope, serve: Any, records: Any, models: Any
) -> None:
    async with serve() as (_, inner):
        shared = models(inner)
        team = nested(shared)
        bind(team, scope, models)
        await team.run(task="Go.")
        total = sum(record.usage.input_tokens for record in await records())
        assert shared.total_usage().prompt_tokens == total > 0
        assert shared.path is None


async def test_two_teams_with_equal_names_are_told_apart(
    scheduler: LocalScheduler, serve: Any, records: Any, models: Any
) -> None:
    async with serve() as (provider, inner):
        shared = models(inner)

        async def run(number: int) -> None:
            team = round_robin(shared)
            bind(team, RunScope(scheduler, f"run-{number}", Priority.NORMAL), models)
            await team.run(task=f"Go, {number}.")

        await asyncio.gather(*(run(number) for number in range(8)))
        for number in range(8):
            mine = await records(f"run-{number}")
            assert [record.call.path for record in mine] == ["writer", "critic"]
        assert len(provider.ledger.paid) == 16
        assert not provider.ledger.duplicates()


async def test_nothing_else_changes(scope: RunScope, serve: Any, models: Any) -> None:
    async with serve() as (_, inner):
        team = nested(inner)
        assert isinstance(team, RoundRobinGroupChat)
        participants, writer = team._participants, team._participants[0]
        before = dict(vars(writer))
        bind(team, scope, models)
        assert team._participants is participants
        changed = {name for name, value in vars(writer).items() if before.get(name) is not value}
        # It has no tools.
        assert changed == {"_model_client", "on_messages_stream", "_process_model_result"}


class Judge(BaseChatAgent):
    """An agent of a user's own, with two clients where it likes to keep them."""

    def __init__(self, name: str, clients: list[ChatCompletionClient]) -> None:
        super().__init__(name, "Judges.")
        self.clients = clients
        self.by_name = {"first": clients[0]}

    @property
    def produced_message_types(self) -> Sequence[type[BaseChatMessage]]:
        return (TextMessage,)

    async def on_messages(
        self, messages: Sequence[BaseChatMessage], cancellation_token: CancellationToken
    ) -> Response:
        question = [UserMessage(content="so?", source="user")]
        for client in (*self.clients, *self.by_name.values()):
            await client.create(question)
        return Response(chat_message=TextMessage(content="so", source=self.name))

    async def on_reset(self, cancellation_token: CancellationToken) -> None:
        pass


async def test_agents_of_one_s_own_are_bound_too(
    scope: RunScope, serve: Any, records: Any, models: Any
) -> None:
    async with serve() as (_, inner):
        mine = [inner, inner]
        team = RoundRobinGroupChat([Judge("judge", mine)], termination_condition=messages(2))
        bind(team, scope, models)
        await team.run(task="Go.")
        assert [record.call.path for record in await records()] == ["judge"] * 3
        assert mine == [inner, inner]


async def test_a_cache_is_kept_and_its_client_bound(
    scope: RunScope, serve: Any, records: Any, models: Any
) -> None:
    async with serve() as (provider, inner):
        cache = ChatCompletionCache(inner)
        writers = [agent("one", cache), agent("two", cache)]
        for writer in writers:
            bind(writer, scope, models)
            await writer.run(task="Go.")
        assert cache.client is inner
        assert [record.call.path for record in await records()] == ["one", "two"]
        again = agent("one", cache)
        bind(again, scope, models)
        await again.run(task="Go.")
        assert len(provider.ledger) == 2


class Office(BaseChatAgent):
    """An agent of a user's own that asks two teams of the same name, side by side."""

    def __init__(self, teams: list[Team]) -> None:
        super().__init__("office", "Decides.")
        self.teams = teams

    @property
    def produced_message_types(self) -> Sequence[type[BaseChatMessage]]:
        return (TextMessage,)

    async def on_messages(
        self, messages: Sequence[BaseChatMessage], cancellation_token: CancellationToken
    ) -> Response:
        await asyncio.gather(*(team.run(task="Go.") for team in self.teams))
        return Response(chat_message=TextMessage(content="so", source=self.name))

    async def on_reset(self, cancellation_token: CancellationToken) -> None:
        pass


def selector(client: ChatCompletionClient) -> Team:
    pair: list[ChatAgent | Team] = [agent("one", client), agent("two", client)]
    return SelectorGroupChat(pair, client, termination_condition=messages(2))


@pytest.mark.parametrize(
    ("team", "paths"),
    [
        (round_robin, {"writer", "critic", "writer~2", "critic~2"}),
        (selector, {"selector", "one", "two", "selector~2", "one~2", "two~2"}),
    ],
)
async def test_equal_names_in_two_teams_of_one_agent_are_numbered(
    team: Any, paths: set[str], scope: RunScope, serve: Any, models: Any
) -> None:
    async with serve() as (_, inner):
        office = Office([team(inner), team(inner)])
        bind(office, scope, models)
        found = set()
        for own in office.teams:
            holders = [*own._participants, own]  # type: ignore[attr-defined]
            found |= {h._model_client.path for h in holders if hasattr(h, "_model_client")}
        assert found == {f"office/{path}" for path in paths}


async def test_equal_names_in_teams_of_different_names_stay_as_they_are(
    scope: RunScope, serve: Any, models: Any
) -> None:
    async with serve() as (_, inner):
        teams: list[ChatAgent | Team] = [
            RoundRobinGroupChat([agent("critic", inner)], name=name) for name in ("red", "blue")
        ]
        bind(RoundRobinGroupChat(teams), scope, models)
        paths = [team._participants[0]._model_client.path for team in teams]  # type: ignore[union-attr]
        assert paths == ["red/critic", "blue/critic"]


def lookup(word: str) -> str:
    """Look a word up."""
    return word


async def test_what_an_agent_asks_of_the_world_is_stood_in_for_and_once_only(
    scope: RunScope, scheduler: LocalScheduler, serve: Any, models: Any
) -> None:
    async with serve() as (_, inner):
        inside = agent("inside", inner, tools=[lookup])
        writer = agent("writer", inner, tools=[lookup, AgentTool(inside)])
        tools, handoffs = writer._tools, writer._handoff_tools
        for run in ("first", "second"):
            bind(writer, RunScope(scheduler, run, Priority.NORMAL), models)
            for holder in (writer, inside):
                (stand_in,) = holder._workbench
                assert isinstance(stand_in, JournaledWorkbench)
                assert not isinstance(stand_in.wrapped, JournaledWorkbench)
                assert stand_in._scope.run_id == run
            assert inside._model_client.path == "writer/inside"  # type: ignore[attr-defined]
        assert writer._tools is tools
        assert writer._handoff_tools is handoffs


async def test_what_a_tool_consists_of_is_left_alone(
    scope: RunScope, serve: Any, models: Any, tmp_path: Path
) -> None:
    async with serve() as (_, inner):
        executor = LocalCommandLineCodeExecutor(work_dir=tmp_path)
        tool = PythonCodeExecutionTool(executor)
        bind(agent("writer", inner, tools=[tool]), scope, models)
        assert tool._executor is executor


async def test_a_workbench_of_two_agents_is_asked_by_each(
    scope: RunScope, serve: Any, models: Any
) -> None:
    async with serve() as (_, inner):
        bench = StaticWorkbench([FunctionTool(lookup, "Looks up.")])
        pair = [agent(name, inner, workbench=bench) for name in ("one", "two")]
        bind(RoundRobinGroupChat([*pair]), scope, models)
        one, two = (holder._workbench[0] for holder in pair)
        assert isinstance(one, JournaledWorkbench)
        assert isinstance(two, JournaledWorkbench)
        assert one.wrapped is two.wrapped is bench
        assert one._lazy_start is two._lazy_start
        assert (one._path, two._path) == ("one", "two")


async def test_a_client_in_a_closure_falls_back_on_the_context(
    scope: RunScope, serve: Any, records: Any, models: Any
) -> None:
    from headway_agents import current_scope

    async with serve() as (_, inner):
        hidden = models(inner)

        async def choose(_: Any) -> str:
            await hidden.create([UserMessage(content="who?", source="user")])
            return "critic"

        pair: list[ChatAgent | Team] = [agent("writer", hidden), agent("critic", hidden)]
        team = SelectorGroupChat(
            pair, hidden, selector_func=choose, termination_condition=messages(2)
        )
        bind(team, scope, models)
        current_scope.set(scope)
        await team.run(task="Go.")
        paths = [record.call.path for record in await records("run")]
        assert paths == ["SelectorGroupChatManager", "critic"]


@pytest.mark.parametrize("thing", [None, 3, "team", object()])
async def test_what_is_no_team_is_refused(thing: Any, scope: RunScope, models: Any) -> None:
    with pytest.raises(CallerError, match="neither a Team nor a ChatAgent"):
        bind(thing, scope, models)


async def test_a_team_that_has_run_is_refused(scope: RunScope, serve: Any, models: Any) -> None:
    async with serve() as (_, inner):
        team = round_robin(inner)
        await team.run(task="Go.")
        with pytest.raises(CallerError, match="build a fresh team"):
            bind(team, scope, models)


async def test_binding_again_moves_the_handles_to_the_new_run(
    scheduler: LocalScheduler, serve: Any, records: Any, models: Any
) -> None:
    async with serve() as (_, inner):
        team = round_robin(ScheduledClient(inner, Model("m", ("q",))))
        for run in ("first", "second"):
            bind(team, RunScope(scheduler, run, Priority.NORMAL), models)
        await team.run(task="Go.")
        assert {record.call.run_id for record in await records()} == {"second"}
