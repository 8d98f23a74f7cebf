"""Every private name of AutoGen and of the SDKs below it that Headway touches.

No other module names one: ``tests/agents/test_autogen_private.py`` sees to that, and has a test
for each function here that fails when an upgrade moves the name. What AutoGen offers publicly is
imported where it is used.

A client whose class is not looked for here is used through AutoGen's public contract alone.
"""

import copy
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from autogen_agentchat.agents import AssistantAgent, CodeExecutorAgent, UserProxyAgent
from autogen_agentchat.agents._user_proxy_agent import cancellable_input
from autogen_agentchat.base import ChatAgent, Team
from autogen_core import FunctionCall
from autogen_core._component_config import WELL_KNOWN_PROVIDERS
from autogen_core.code_executor import CodeExecutor
from autogen_core.models import ChatCompletionClient, FunctionExecutionResult, ModelInfo
from autogen_core.tools import BaseTool, FunctionTool, StaticWorkbench, Workbench

if sys.version_info >= (3, 13):  # as AutoGen does
    from asyncio import QueueShutDown
else:
    from autogen_core._queue import QueueShutDown

if TYPE_CHECKING:
    from openai import AsyncOpenAI

__all__ = [
    "RESULT_PROCESSOR",
    "WELL_KNOWN_PROVIDERS",
    "QueueShutDown",
    "approval_of",
    "approve_with",
    "cancellable_input",
    "create_arguments",
    "exchange_tools",
    "function_of",
    "has_run",
    "http_client",
    "http_library",
    "input_of",
    "is_idle",
    "is_openai",
    "listed_model_info",
    "listed_token_limit",
    "never_repeat",
    "original_name",
    "participant_names",
    "read_with",
    "result_processor",
    "sdk_of",
    "status_error",
    "tools_of",
    "with_function",
    "with_sdk",
]

_NOWHERE = object()


# Model clients


def is_openai(client: ChatCompletionClient) -> bool:
    """Whether ``client`` is one of AutoGen's for OpenAI, Azure among them."""
    # Importing it takes most of a second; if nobody has, the client cannot be one.
    module = sys.modules.get("autogen_ext.models.openai")
    return module is not None and isinstance(client, module.BaseOpenAIChatCompletionClient)


def sdk_of(client: ChatCompletionClient) -> Any:
    """Return the SDK's client that one of AutoGen's for OpenAI or Anthropic sends through."""
    return vars(client)["_client"]


def with_sdk(client: ChatCompletionClient, sdk: Any) -> ChatCompletionClient:
    """Return a copy of one of AutoGen's clients for OpenAI that sends through ``sdk``."""
    twin = copy.copy(client)
    vars(twin)["_client"] = sdk
    return twin


def http_client(sdk: Any) -> Any:
    """Return the HTTP client (httpx's, or httpx2's) of OpenAI's or Anthropic's SDK."""
    return sdk._client


def http_library() -> Any:
    """Return the module of the HTTP library that OpenAI's SDK sends with.

    The SDK changed it once, and knows only the classes of the one that it imports.
    """
    import openai

    name = openai.DefaultAsyncHttpxClient.__mro__[1].__module__.partition(".")[0]
    return sys.modules[name]


def status_error(sdk: "AsyncOpenAI", response: Any) -> Exception:
    """Return what the SDK raises for an HTTP response that is no success."""
    return sdk._make_status_error_from_response(response)


def never_repeat(pipeline_client: Any) -> None:
    """Have a client of azure-core send each request once, and follow no redirect."""
    for policy in pipeline_client._pipeline._impl_policies:
        if hasattr(policy, "total_retries"):
            policy.total_retries = 0
        if hasattr(policy, "max_redirects"):
            policy.allow = False


def create_arguments(client: object) -> Mapping[str, Any]:
    """Return what a client adds to every request, as it is later too; empty if it shows nothing."""
    arguments = vars(client).get("_create_args")
    return arguments if isinstance(arguments, dict) else {}


def listed_model_info(model: str) -> ModelInfo | None:
    """Return what AutoGen's table says of a model of OpenAI; None if it does not list it."""
    from autogen_ext.models.openai._model_info import get_info

    try:
        return get_info(model)
    except ValueError:
        return None


def listed_token_limit(model: str) -> int | None:
    """Return the context window that AutoGen lists for a model of OpenAI; None if it lists none.

    Needs no network. Call it only where :func:`is_openai` is true: it imports AutoGen's client.
    """
    from autogen_ext.models.openai._model_info import get_token_limit

    try:
        return get_token_limit(model)
    except KeyError:
        return None


# Agents and teams


def has_run(team: Team) -> bool:
    """Whether a team was started, or was given a state: its manager holds the old clients then."""
    return bool(getattr(team, "_initialized", False))


def participant_names(team: Team | ChatAgent) -> Sequence[str]:
    """Return the names of a team's participants; none for an agent."""
    names: Sequence[str] = getattr(team, "_participant_names", ())
    return names


def input_of(agent: UserProxyAgent) -> tuple[Callable[..., Any], bool]:
    """Return what an agent reads a person's words with, and whether that is a coroutine."""
    return agent.input_func, agent._is_async


def read_with(agent: UserProxyAgent, function: Callable[..., Any]) -> None:
    """Have the agent await ``function`` for a person's words. It decides this at construction."""
    agent.input_func = function
    agent._is_async = True


def approval_of(agent: CodeExecutorAgent) -> Callable[..., Any] | None:
    """Return what the agent asks before it executes code; None if nobody is asked."""
    return agent._approval_func


def approve_with(agent: CodeExecutorAgent, function: Callable[..., Any]) -> None:
    """Have the agent await ``function`` before it executes code."""
    agent._approval_func = function
    agent._approval_func_is_async = True


ToolCallResult = tuple[FunctionCall, FunctionExecutionResult]
"""The result of a tool call, as AssistantAgent makes it."""

ExecuteToolCall = Callable[..., Awaitable[ToolCallResult]]
"""Executes one tool call; ``tool_call`` is one of its keyword arguments."""


RESULT_PROCESSOR = "_process_model_result"
"""The attribute by which AssistantAgent goes on with an answer of a model."""


@lru_cache
def result_processor(
    kind: type[AssistantAgent], guard: Callable[[ExecuteToolCall], ExecuteToolCall]
) -> Callable[..., Any]:
    """Return what an agent of ``kind`` may have as its ``RESULT_PROCESSOR``.

    It executes tool calls by what ``guard`` makes of the kind's own way to do so.
    """
    # Methods of the class call one another, so it takes another class. No agent is of it: to
    # everybody else the class of an agent is what it was.
    execute = staticmethod(guard(kind._execute_tool_call))
    guarded: Any = type(kind.__name__, (kind,), {"_execute_tool_call": execute})
    processor: Callable[..., Any] = guarded._process_model_result
    return processor


# Tools


def tools_of(workbench: StaticWorkbench) -> list[BaseTool[Any, Any]]:
    """Return the tools of a static workbench."""
    return workbench._tools


def exchange_tools(
    workbench: StaticWorkbench, change: Callable[[BaseTool[Any, Any]], BaseTool[Any, Any]]
) -> None:
    """Put what ``change`` makes of each tool of a static workbench in its place."""
    workbench._tools = [change(tool) for tool in workbench._tools]


def original_name(workbench: StaticWorkbench, name: str) -> str:
    """Return a tool's own name. Agents may know it by the name of an override."""
    return workbench._override_name_to_original.get(name, name)


def function_of(tool: object) -> Callable[..., Any] | None:
    """Return the function that a tool calls (FunctionTool's); None if it shows none."""
    function: Callable[..., Any] | None = getattr(tool, "_func", None)
    return function


def with_function(tool: FunctionTool, function: Callable[..., Any]) -> None:
    """Have a FunctionTool call ``function``, which takes and gives the same."""
    tool._func = function


def is_idle(part: Workbench | CodeExecutor) -> bool:
    """Whether a part that says so (McpWorkbench, AutoGen's executors) is not started."""
    states = [getattr(part, name, _NOWHERE) for name in ("_actor", "_running", "_started")]
    known = [state for state in states if state is not _NOWHERE]
    return bool(known) and not any(known)
