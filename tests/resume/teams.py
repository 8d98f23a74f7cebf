"""Every kind of team of AutoGen, small, and a model whose answers depend on all that it hears.

So whatever a resumed team hears differently, or in another order, shows in the transcript.
"""

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from autogen_agentchat.agents import (
    AssistantAgent,
    BaseChatAgent,
    CodeExecutorAgent,
    SocietyOfMindAgent,
)
from autogen_agentchat.base import ChatAgent, Response, Team
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.messages import BaseChatMessage, MultiModalMessage, StructuredMessage
from autogen_agentchat.teams import (
    DiGraphBuilder,
    GraphFlow,
    MagenticOneGroupChat,
    RoundRobinGroupChat,
    SelectorGroupChat,
    Swarm,
)
from autogen_agentchat.tools import AgentTool, TeamTool
from autogen_core import CancellationToken, Image
from autogen_core.memory import ListMemory, MemoryContent
from autogen_core.model_context import BufferedChatCompletionContext
from autogen_core.tools import TextResultContent, ToolResult, ToolSchema, Workbench
from autogen_ext.code_executors.local import LocalCommandLineCodeExecutor
from PIL import Image as Pillow
from pydantic import BaseModel

from headway import pure, step
from headway_scheduler.testing.provider import Reply, ToolCall

Body = Mapping[str, Any]


@pure
def look_up(word: str) -> str:
    """Look a word up."""
    return f"{word} means {word[::-1]}"


def agent(name: str, models: Any, **more: Any) -> AssistantAgent:
    return AssistantAgent(name, models("sim"), system_message=f"You are {name}.", **more)


def until(count: int) -> MaxMessageTermination:
    return MaxMessageTermination(count)


def round_robin(models: Any) -> Team:
    writer = agent("writer", models, tools=[look_up], reflect_on_tool_use=True)
    return RoundRobinGroupChat([writer, agent("critic", models)], termination_condition=until(9))


def selector_by_model(models: Any) -> Team:
    members: list[ChatAgent] = [agent("writer", models, tools=[look_up]), agent("critic", models)]
    return SelectorGroupChat(members, models("sim"), termination_condition=until(6))


def selector_by_function(models: Any) -> Team:
    def choose(messages: Sequence[Any]) -> str | None:
        return "critic" if messages[-1].source == "writer" else "writer"

    members: list[ChatAgent] = [agent("writer", models, tools=[look_up]), agent("critic", models)]
    return SelectorGroupChat(
        members, models("sim"), selector_func=choose, termination_condition=until(7)
    )


def swarm(models: Any) -> Team:
    writer = agent("writer", models, handoffs=["critic"])
    critic = agent("critic", models, tools=[look_up], reflect_on_tool_use=True)
    members: list[ChatAgent] = [writer, critic]
    return Swarm(members, termination_condition=until(8))


def magentic(models: Any) -> Team:
    writer = agent("writer", models, tools=[look_up])
    return MagenticOneGroupChat([writer, agent("critic", models)], models("sim"))


BRANCHES = ("right", "left", "middle")


def graph_fan(models: Any) -> Team:
    names = ("first", "left", "middle", "right", "last")
    first, left, middle, right, last = nodes = [agent(name, models) for name in names]
    builder = DiGraphBuilder()
    for node in nodes:
        builder.add_node(node)
    for branch in (left, middle, right):
        builder.add_edge(first, branch)
        builder.add_edge(branch, last)
    return GraphFlow(list(nodes), builder.build())


def graph_loop(models: Any) -> Team:
    writer, critic, last = (agent(name, models) for name in ("writer", "critic", "last"))
    builder = DiGraphBuilder()
    builder.add_node(writer).add_node(critic).add_node(last)
    builder.add_edge(writer, critic)
    builder.add_edge(critic, writer, condition="again")
    builder.add_edge(critic, last, condition="enough")
    builder.set_entry_point(writer)
    return GraphFlow([writer, critic, last], builder.build(), max_turns=6)


def society(models: Any) -> Team:
    inner = RoundRobinGroupChat(
        [agent("writer", models, tools=[look_up]), agent("critic", models)],
        termination_condition=until(5),
    )
    mind = SocietyOfMindAgent("mind", inner, models("sim"))
    return RoundRobinGroupChat([mind, agent("last", models)], termination_condition=until(4))


def agent_tool(models: Any) -> Team:
    helper = AgentTool(agent("helper", models, tools=[look_up]))
    boss = agent("boss", models, tools=[helper], reflect_on_tool_use=True)
    return RoundRobinGroupChat([boss, agent("critic", models)], termination_condition=until(7))


def team_tool(models: Any) -> Team:
    inner = RoundRobinGroupChat(
        [agent("writer", models), agent("critic", models, tools=[look_up])],
        termination_condition=until(4),
    )
    boss = agent("boss", models, tools=[TeamTool(inner, "helper", "Helps.")])
    return RoundRobinGroupChat([boss, agent("critic", models)], termination_condition=until(6))


def nested(models: Any) -> Team:
    def inner(name: str) -> Team:
        members: list[ChatAgent | Team] = [agent("writer", models), agent("critic", models)]
        return RoundRobinGroupChat(members, name=name, termination_condition=until(6))

    return RoundRobinGroupChat([inner("one"), inner("two")], max_turns=2)


def streamed(models: Any) -> Team:
    writer = agent("writer", models, model_client_stream=True, tools=[look_up])
    critic = agent("critic", models, model_client_stream=True)
    return RoundRobinGroupChat([writer, critic], termination_condition=until(8))


def memory(models: Any) -> Team:
    kept = ListMemory(memory_contents=[MemoryContent(content="Be brief.", mime_type="text/plain")])
    writer = agent("writer", models, memory=[kept])
    return RoundRobinGroupChat([writer, agent("critic", models)], termination_condition=until(7))


def bounded(models: Any) -> Team:
    members: list[ChatAgent | Team] = [
        agent(name, models, model_context=BufferedChatCompletionContext(buffer_size=2))
        for name in ("writer", "critic")
    ]
    return RoundRobinGroupChat(members, termination_condition=until(7))


class Verdict(BaseModel):
    good: bool
    why: str


def structured(models: Any) -> Team:
    critic = agent("critic", models, output_content_type=Verdict)
    return RoundRobinGroupChat(
        [agent("writer", models), critic],
        termination_condition=until(5),
        custom_message_types=[StructuredMessage[Verdict]],
    )


class Camera(BaseChatAgent):
    """Sees something in a light that is a journaled input."""

    produced_message_types = (MultiModalMessage,)

    async def on_messages(
        self, messages: Sequence[BaseChatMessage], cancellation_token: CancellationToken
    ) -> Response:
        light = await step("light", lambda: 100)
        picture = Image(Pillow.new("RGB", (8, 8), (light, 0, 0)))
        content = [f"seen after {len(messages)} messages", picture]
        return Response(chat_message=MultiModalMessage(content=content, source=self.name))

    async def on_reset(self, cancellation_token: CancellationToken) -> None: ...


def images(models: Any) -> Team:
    camera = Camera("camera", "Takes pictures.")
    return RoundRobinGroupChat([camera, agent("critic", models)], termination_condition=until(7))


def coding(models: Any) -> Team:
    executor = pure(LocalCommandLineCodeExecutor(work_dir=tempfile.gettempdir()))
    coder = CodeExecutorAgent("coder", executor)
    return RoundRobinGroupChat([agent("writer", models), coder], termination_condition=until(7))


class Dictionary(Workbench):
    """A workbench that is no list of tools."""

    component_type = "workbench"

    async def list_tools(self) -> list[ToolSchema]:
        word = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}
        return [{"name": "look_up", "description": "Look up.", "parameters": word}]  # type: ignore[typeddict-item]

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        cancellation_token: CancellationToken | None = None,
        call_id: str | None = None,
    ) -> ToolResult:
        text = look_up(**(arguments or {}))
        return ToolResult(name=name, result=[TextResultContent(content=text)])

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def reset(self) -> None: ...
    async def save_state(self) -> Mapping[str, Any]:
        return {}

    async def load_state(self, state: Mapping[str, Any]) -> None: ...


def workbench(models: Any) -> Team:
    writer = agent("writer", models, workbench=pure(Dictionary()))
    return RoundRobinGroupChat([writer, agent("critic", models)], termination_condition=until(8))


TEAMS = (
    round_robin,
    selector_by_model,
    selector_by_function,
    swarm,
    magentic,
    graph_fan,
    graph_loop,
    society,
    agent_tool,
    team_tool,
    nested,
    streamed,
    memory,
    bounded,
    structured,
    images,
    coding,
    workbench,
)


def heard(body: Body) -> str:
    """All of a prompt, but for ids that AutoGen or the provider drew."""
    return json.dumps([_without_ids(message) for message in body["messages"]], sort_keys=True)


def reply(body: Body) -> str | Reply | None:
    """The model's reply, a function of the messages that it gets."""
    text = heard(body)
    mark = hashlib.sha256(text.encode()).hexdigest()[:8]
    if (body.get("response_format") or {}).get("type", "").startswith("json"):
        return None if "good" in str(body["response_format"]) else _ledger(text)
    if "select the next role" in text:
        return "critic" if int(mark, 16) % 2 else "writer"
    tools = [tool["function"]["name"] for tool in body.get("tools") or ()]
    is_fresh = body["messages"][-1]["role"] != "tool"
    if is_fresh and tools and text.count('"tool"') < 2:
        return Reply(tool_calls=tuple(_called(tools, mark)))
    if "You are critic." in text and text.count("again") < 1:
        return f"again {mark}"
    code = f"\n```sh\necho {mark}\n```" if "coder" in text or "You are writer." in text else ""
    return f"enough {mark}{code}"


def branch_before(body: Body) -> str | None:
    """The branch of ``graph_fan`` that ends before the one that asks; None for any other agent."""
    text = heard(body)
    in_order = pairwise(BRANCHES)
    return next((before for before, name in in_order if f"You are {name}." in text), None)


def _called(tools: Sequence[str], mark: str) -> list[ToolCall]:
    if "transfer_to_critic" in tools:
        return [ToolCall("transfer_to_critic")]
    if "helper" in tools:
        return [ToolCall("helper", {"task": mark})]
    return [ToolCall("look_up", {"word": word}) for word in (mark[:4], mark[4:])]


def _ledger(text: str) -> str:
    turns = text.count("enough") + text.count("again")
    answers: dict[str, Any] = {
        "is_request_satisfied": turns > 2,
        "is_in_loop": False,
        "is_progress_being_made": True,
        "next_speaker": "writer" if turns % 2 else "critic",
        "instruction_or_question": f"go on {turns}",
    }
    return json.dumps({key: {"reason": "so", "answer": value} for key, value in answers.items()})


def _without_ids(message: Body) -> Any:
    kept = {key: value for key, value in message.items() if key != "tool_call_id"}
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    return {**kept, "tool_calls": calls}
