"""Names that AutoGen and the SDKs do not promise: each test fails when an upgrade moves one."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from anthropic import AsyncAnthropic
from autogen_agentchat.agents import (
    ApprovalRequest,
    ApprovalResponse,
    AssistantAgent,
    CodeExecutorAgent,
    UserProxyAgent,
)
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.messages import TextMessage
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core import (
    CancellationToken,
    ComponentLoader,
    FunctionCall,
    SingleThreadedAgentRuntime,
)
from autogen_core.code_executor import CodeBlock
from autogen_core.models import ChatCompletionClient, CreateResult, RequestUsage, UserMessage
from autogen_core.tools import FunctionTool, StaticWorkbench, ToolOverride
from autogen_ext.code_executors.local import LocalCommandLineCodeExecutor
from autogen_ext.models.anthropic import AnthropicChatCompletionClient
from autogen_ext.models.openai import OpenAIChatCompletionClient
from autogen_ext.models.replay import ReplayChatCompletionClient
from autogen_ext.tools.mcp import McpWorkbench, StdioServerParams
from azure.core import AsyncPipelineClient
from azure.core.pipeline.policies import AsyncRetryPolicy

from headway_agents import autogen_private as private

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:Using LocalCommandLineCodeExecutor:UserWarning"),
    pytest.mark.filterwarnings("ignore:No approval function:UserWarning"),
]

PACKAGE = Path(private.__file__).parent
KEY = "not-a-key"
FOREIGN = ("autogen_", "openai", "anthropic", "httpx")


def gpt(**more: Any) -> OpenAIChatCompletionClient:
    return OpenAIChatCompletionClient(model="gpt-4", api_key=KEY, **more)


def claude() -> AnthropicChatCompletionClient:
    return AnthropicChatCompletionClient(model="claude-3-haiku-20240307", api_key=KEY)


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path, ast.parse(path.read_text())


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def names_of_ours(tree: ast.Module) -> Iterator[str]:
    """Private names that a module gives to something itself: attributes, functions, fields."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "handle"):
                yield node.attr
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Attribute):
            yield node.target.attr


def names_used(tree: ast.Module) -> Iterator[str]:
    """Private names of attributes, also where they are asked for as text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            yield node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in ("getattr", "setattr", "hasattr"):
                words = (each.value for each in node.args if isinstance(each, ast.Constant))
                yield from (word for word in words if is_private(str(word)))
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            yield from filter(is_private, [str(node.slice.value)])


def test_no_other_module_names_what_is_private_to_others() -> None:
    own = {name for _, tree in trees() for name in names_of_ours(tree)}
    for path, tree in trees():
        if path == PACKAGE / "autogen_private.py":
            continue
        assert not set(names_used(tree)) - own, path
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(FOREIGN):
                parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
                assert not any(map(is_private, parts)), path


async def test_an_openai_client_is_known_and_shows_its_sdk() -> None:
    client = gpt(temperature=0.5)
    assert private.is_openai(client)
    assert not private.is_openai(ReplayChatCompletionClient([]))
    assert isinstance(private.sdk_of(client), openai.AsyncOpenAI)
    assert private.create_arguments(client)["model"] == "gpt-4"
    assert private.create_arguments(client)["temperature"] == 0.5
    assert private.create_arguments(ReplayChatCompletionClient([])) == {}
    await client.close()


async def test_an_anthropic_client_shows_its_sdk() -> None:
    client = claude()
    assert isinstance(private.sdk_of(client), AsyncAnthropic)
    assert private.create_arguments(client)["model"] == "claude-3-haiku-20240307"
    await client.close()


@pytest.mark.parametrize("make", [gpt, claude])
async def test_the_sdk_s_retries_and_hooks_are_in_reach(make: Any) -> None:
    client: ChatCompletionClient = make()
    sdk = private.sdk_of(client)
    assert isinstance(sdk, openai.AsyncOpenAI | anthropic.AsyncAnthropic)
    assert sdk.max_retries > 0
    assert set(private.http_client(sdk).event_hooks) == {"request", "response"}
    await client.close()


async def test_a_request_runs_through_the_hooks() -> None:
    """No server answers on the port, but the hook gets the request."""
    client = gpt(base_url="http://127.0.0.1:9/v1", max_retries=0)
    heard: list[str] = []

    async def hear(request: Any) -> None:
        heard.append(request.method)

    private.http_client(private.sdk_of(client)).event_hooks["request"].append(hear)
    with pytest.raises(openai.APIConnectionError):
        await client.create([UserMessage(content="hello", source="user")])
    assert heard == ["POST"]
    await client.close()


async def test_the_http_library_is_the_one_that_the_sdk_sends_with() -> None:
    library = private.http_library()
    async with openai.AsyncOpenAI(api_key=KEY) as sdk:
        assert isinstance(private.http_client(sdk), library.AsyncClient)
    names = ("AsyncBaseTransport", "AsyncByteStream", "Response", "TimeoutException")
    assert all(hasattr(library, name) for name in (*names, "TransportError"))


async def test_a_response_that_is_no_success_becomes_the_sdk_s_error() -> None:
    library = private.http_library()
    request = library.Request("POST", "http://127.0.0.1:9/v1/embeddings")
    response = library.Response(429, request=request, json={"error": {"code": "busy"}})
    async with openai.AsyncOpenAI(api_key=KEY) as sdk:
        error = private.status_error(sdk, response)
    assert isinstance(error, openai.RateLimitError)
    assert error.code == "busy"


def test_the_tables_of_models_are_in_reach() -> None:
    info = private.listed_model_info("gpt-4")
    assert info is not None
    assert info["function_calling"] is True
    assert private.listed_model_info("sim-1") is None
    assert private.listed_token_limit("gpt-4") == 8192
    assert private.listed_token_limit("sim-1") is None


def test_a_short_name_of_a_provider_is_one_of_autogen_s() -> None:
    assert private.WELL_KNOWN_PROVIDERS
    for name, provider in private.WELL_KNOWN_PROVIDERS.items():
        assert "." not in name
        assert ":" not in provider
        module, _, attribute = provider.rpartition(".")
        assert module
        assert attribute
    config = {"provider": "OpenAIChatCompletionClient", "config": {"model": "x", "api_key": KEY}}
    config["config"]["model_info"] = dict(private.listed_model_info("gpt-4") or {})  # type: ignore[index]
    assert isinstance(ComponentLoader.load_component(config, object), OpenAIChatCompletionClient)


async def test_a_queue_that_is_shut_down_raises_the_error_that_is_kept_out_of_logs() -> None:
    queue = SingleThreadedAgentRuntime()._message_queue
    queue.shutdown(immediate=True)
    with pytest.raises(private.QueueShutDown):
        await queue.get()


def team() -> RoundRobinGroupChat:
    members = [AssistantAgent(name, ReplayChatCompletionClient(["hi"])) for name in ("a", "b")]
    return RoundRobinGroupChat(members, termination_condition=MaxMessageTermination(2))


async def test_a_team_says_whether_it_has_run_and_who_takes_part() -> None:
    asked = team()
    assert private.participant_names(asked) == ["a", "b"]
    assert not private.has_run(asked)
    await asked.run(task="go")
    assert private.has_run(asked)
    loaded = team()
    await loaded.load_state(await asked.save_state())
    assert private.has_run(loaded)


def test_an_agent_is_no_team() -> None:
    agent = AssistantAgent("a", ReplayChatCompletionClient([]))
    assert private.participant_names(agent) == ()


async def test_an_assistant_calls_tools_through_what_it_is_given() -> None:
    asked = []

    def guard(execute: private.ExecuteToolCall) -> private.ExecuteToolCall:
        async def guarded(*, tool_call: FunctionCall, **more: Any) -> private.ToolCallResult:
            asked.append(tool_call)
            return await execute(tool_call=tool_call, **more)

        return guarded

    call = FunctionCall("1", '{"word": "hm"}', "shout")
    usage = RequestUsage(1, 1)
    answer = CreateResult(finish_reason="function_calls", content=[call], usage=usage, cached=False)
    client = ReplayChatCompletionClient([answer], model_info=gpt().model_info)
    agent = AssistantAgent("a", client, tools=[shout])
    assert hasattr(agent, private.RESULT_PROCESSOR)
    setattr(agent, private.RESULT_PROCESSOR, private.result_processor(type(agent), guard))
    result = await agent.run(task="go")
    assert result.messages[-1].to_text() == "hm!"
    assert asked == [call]
    assert type(agent) is AssistantAgent


async def test_a_user_proxy_reads_with_what_it_is_given() -> None:
    async def read(prompt: str, token: CancellationToken | None = None) -> str:
        return "yes"

    def own(prompt: str) -> str:
        return "no"

    assert private.input_of(UserProxyAgent("user"))[0] is private.cancellable_input
    agent = UserProxyAgent("user", input_func=own)
    assert private.input_of(agent) == (own, False)
    private.read_with(agent, read)
    assert private.input_of(agent) == (read, True)
    question = TextMessage(content="well?", source="other")
    answer = await agent.on_messages([question], CancellationToken())
    assert answer.chat_message.to_text() == "yes"


async def test_a_code_executor_agent_asks_whom_it_is_given(tmp_path: Path) -> None:
    def own(request: ApprovalRequest) -> ApprovalResponse:
        return ApprovalResponse(approved=True, reason="")

    async def refuse(request: ApprovalRequest) -> ApprovalResponse:
        return ApprovalResponse(approved=False, reason="not today")

    executor = LocalCommandLineCodeExecutor(work_dir=tmp_path)
    assert private.approval_of(CodeExecutorAgent("coder", executor)) is None
    agent = CodeExecutorAgent("coder", executor, approval_func=own)
    assert private.approval_of(agent) is own
    private.approve_with(agent, refuse)
    code = [CodeBlock(code="echo hi", language="sh")]
    result = await agent.execute_code_block(code, CancellationToken())
    assert "not today" in result.output


def look(word: str) -> str:
    """Look."""
    return word


def shout(word: str) -> str:
    """Shout."""
    return f"{word}!"


async def test_a_static_workbench_shows_its_tools_and_takes_others() -> None:
    tool = FunctionTool(look, "Look.")
    bench = StaticWorkbench([tool], {"look": ToolOverride(name="see")})
    assert private.tools_of(bench) == [tool]
    assert private.original_name(bench, "see") == "look"
    assert private.original_name(bench, "look") == "look"
    private.exchange_tools(bench, lambda tool: FunctionTool(shout, "Look.", name=tool.name))
    result = await bench.call_tool("see", {"word": "hm"})
    assert result.to_text() == "hm!"


async def test_a_function_tool_calls_the_function_that_it_is_given() -> None:
    tool = FunctionTool(look, "Look.")
    assert private.function_of(tool) is look
    assert private.function_of(object()) is None
    private.with_function(tool, shout)
    assert await tool.run_json({"word": "hm"}, CancellationToken()) == "hm!"


async def test_what_can_be_started_says_whether_it_is(tmp_path: Path) -> None:
    executor = LocalCommandLineCodeExecutor(work_dir=tmp_path)
    assert private.is_idle(executor)
    await executor.start()
    assert not private.is_idle(executor)
    await executor.stop()
    assert private.is_idle(executor)
    assert private.is_idle(McpWorkbench(StdioServerParams(command="true")))
    assert not private.is_idle(StaticWorkbench([]))


async def test_a_client_of_azures_can_be_told_to_repeat_nothing() -> None:
    sends: Any = AsyncPipelineClient("http://127.0.0.1:9", policies=[AsyncRetryPolicy()])
    (policy,) = sends._pipeline._impl_policies[:1]
    assert policy.total_retries > 0
    private.never_repeat(sends)
    assert policy.total_retries == 0
    await sends.close()
