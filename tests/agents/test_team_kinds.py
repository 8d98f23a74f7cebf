"""Every kind of team of AutoGen finishes through our clients, and every call says who asked."""

import json
import tempfile
from typing import Any

import pytest
from autogen_agentchat.agents import (
    AssistantAgent,
    CodeExecutorAgent,
    MessageFilterAgent,
    MessageFilterConfig,
    PerSourceFilter,
    SocietyOfMindAgent,
)
from autogen_agentchat.base import ChatAgent, Team
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.messages import StructuredMessage
from autogen_agentchat.teams import (
    DiGraphBuilder,
    GraphFlow,
    MagenticOneGroupChat,
    RoundRobinGroupChat,
    SelectorGroupChat,
    Swarm,
)
from autogen_agentchat.tools import AgentTool, TeamTool
from autogen_core.model_context import TokenLimitedChatCompletionContext
from autogen_core.models import ChatCompletionClient
from autogen_ext.code_executors.local import LocalCommandLineCodeExecutor
from pydantic import BaseModel

from headway_agents import RunScope, bind
from headway_scheduler.testing.provider import Reply, ToolCall

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


def said(body: Any) -> str:
    """The prompt as one text."""
    return json.dumps(body["messages"])


def calling(name: str, tool: str, arguments: Any = None) -> Any:
    """A model that lets the agent ``name`` call ``tool`` once."""

    def reply(body: Any) -> Reply | None:
        mine = f"You are {name}." in said(body)
        called = any(message["role"] == "tool" for message in body["messages"])
        if mine and not called:
            return Reply(tool_calls=(ToolCall(tool, arguments or {}),))
        return None

    return reply


def round_robin(client: ChatCompletionClient) -> Team:
    return RoundRobinGroupChat(
        [agent("writer", client), agent("critic", client)], termination_condition=messages(3)
    )


def selector(client: ChatCompletionClient) -> Team:
    return SelectorGroupChat(
        [agent("writer", client), agent("critic", client)],
        client,
        termination_condition=messages(2),
    )


def swarm(client: ChatCompletionClient) -> Team:
    team: list[ChatAgent] = [agent("writer", client, handoffs=["critic"]), agent("critic", client)]
    return Swarm(team, termination_condition=messages(5))


def magentic(client: ChatCompletionClient) -> Team:
    return MagenticOneGroupChat([agent("writer", client)], client)


def graph(client: ChatCompletionClient) -> Team:
    writer, critic = agent("writer", client), agent("critic", client)
    builder = DiGraphBuilder()
    builder.add_node(writer).add_node(critic)
    builder.add_edge(writer, critic)
    return GraphFlow([writer, critic], builder.build())


def nested(client: ChatCompletionClient) -> Team:
    review = RoundRobinGroupChat(
        [agent("critic", client)], name="review", termination_condition=messages(3)
    )
    return RoundRobinGroupChat([agent("writer", client), review], termination_condition=messages(3))


def nested_selector(client: ChatCompletionClient) -> Team:
    review = SelectorGroupChat(
        [agent("writer", client), agent("critic", client)],
        client,
        name="review",
        termination_condition=messages(2),
    )
    return RoundRobinGroupChat([review], termination_condition=messages(2))


def society(client: ChatCompletionClient) -> Team:
    inner = RoundRobinGroupChat([agent("writer", client)], termination_condition=messages(2))
    mind = SocietyOfMindAgent("mind", inner, client)
    return RoundRobinGroupChat([mind], termination_condition=messages(2))


def filtered(client: ChatCompletionClient) -> Team:
    settings = MessageFilterConfig(per_source=[PerSourceFilter(source="user")])
    wrapped = MessageFilterAgent("filter", agent("writer", client), settings)
    return RoundRobinGroupChat([wrapped], termination_condition=messages(2))


def coding(client: ChatCompletionClient) -> Team:
    coder = CodeExecutorAgent(
        "coder",
        LocalCommandLineCodeExecutor(work_dir=tempfile.gettempdir()),
        model_client=client,
        approval_func=lambda _: pytest.fail("no code was written"),
    )
    return RoundRobinGroupChat([coder], termination_condition=messages(2))


def with_agent_tool(client: ChatCompletionClient) -> ChatAgent:
    return agent("boss", client, tools=[AgentTool(agent("helper", client))], max_tool_iterations=2)


def with_team_tool(client: ChatCompletionClient) -> ChatAgent:
    team = RoundRobinGroupChat([agent("writer", client)], termination_condition=messages(2))
    tool = TeamTool(team, "helpers", "Helps.")
    return agent("boss", client, tools=[tool], max_tool_iterations=2)


def with_context(client: ChatCompletionClient) -> ChatAgent:
    context = TokenLimitedChatCompletionContext(client, token_limit=10_000)
    return agent("writer", client, model_context=context)


def choosing(body: Any) -> str | Reply | None:
    return "critic" if "select the next role" in said(body) else None


def led() -> Any:
    """Magentic's ledger: the writer speaks once, then it is done."""
    ledgers: list[int] = []

    def reply(body: Any) -> str | None:
        if not (body.get("response_format") or {}).get("type", "").startswith("json"):
            return None
        ledgers.append(1)
        answers: dict[str, Any] = {
            "is_request_satisfied": len(ledgers) > 1,
            "is_in_loop": False,
            "is_progress_being_made": True,
            "next_speaker": "writer",
            "instruction_or_question": "write",
        }
        return json.dumps({k: {"reason": "so", "answer": v} for k, v in answers.items()})

    return reply


CASES: list[Any] = [
    (round_robin, None, ["writer", "critic"]),
    (selector, choosing, ["selector", "critic"]),
    (swarm, calling("writer", "transfer_to_critic"), ["writer", "critic"]),
    (magentic, led, ["orchestrator"] * 3 + ["writer"] + ["orchestrator"] * 2),
    (graph, None, ["writer", "critic"]),
    (nested, None, ["writer", "review/critic"]),
    (nested_selector, choosing, ["review/selector", "review/critic"]),
    (society, None, ["mind/writer", "mind"]),
    (filtered, None, ["filter/writer"]),
    (coding, None, ["coder"]),
    (with_agent_tool, calling("boss", "helper", {"task": "x"}), ["boss", "boss/helper", "boss"]),
    (with_team_tool, calling("boss", "helpers", {"task": "x"}), ["boss", "boss/helpers/writer"]),
    (with_context, None, ["writer"]),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0].__name__)
async def test_every_team_finishes_through_our_clients(
    case: Any, scope: RunScope, serve: Any, records: Any, models: Any
) -> None:
    make, reply, paths = case
    reply = reply() if reply is led else reply
    async with serve(reply=reply) as (provider, inner):
        team = make(inner)
        bind(team, scope, models)
        result = await team.run(task="Go.")
        calls = [record for record in await records("run") if record.call.kind == "model"]
        assert [record.call.path for record in calls][: len(paths)] == paths
        assert {record.call.path for record in calls} == set(paths)
        assert len(calls) == len(provider.ledger.paid)
        assert {str(record.state) for record in calls} == {"done"}
        assert result.messages


async def test_an_agent_streams_with_usage(
    scope: RunScope, serve: Any, records: Any, models: Any
) -> None:
    async with serve() as (_, inner):
        writer = agent("writer", inner, model_client_stream=True)
        bind(writer, scope, models)
        result = await writer.run(task="Go.")
        usage = result.messages[-1].models_usage
        assert usage is not None
        assert usage.prompt_tokens > 0
        (record,) = await records()
        assert record.usage.input_tokens == usage.prompt_tokens


async def test_tools_are_offered_and_called(
    scope: RunScope, serve: Any, records: Any, models: Any
) -> None:
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    reply = calling("writer", "add", {"a": 2, "b": 3})
    async with serve(reply=reply) as (_, inner):
        writer = agent("writer", inner, tools=[add], reflect_on_tool_use=True)
        bind(writer, scope, models)
        result = await writer.run(task="What is 2 + 3?")
        executed = [m for m in result.messages if m.type == "ToolCallExecutionEvent"]
        assert [part.content for part in executed[0].content] == ["5"]
        assert [record.call.kind for record in await records()] == ["model", "tool", "model"]


class Verdict(BaseModel):
    good: bool
    why: str


async def test_structured_output_comes_back_typed(scope: RunScope, serve: Any, models: Any) -> None:
    async with serve() as (_, inner):
        critic = agent("critic", inner, output_content_type=Verdict)
        bind(critic, scope, models)
        last = (await critic.run(task="Good?")).messages[-1]
        assert isinstance(last, StructuredMessage)
        assert isinstance(last.content, Verdict)
