"""Lists of tools as journaled steps. Law of this file: agents run again, what they call does not.

A tool that runs agents (AgentTool, TeamTool, or one that holds an agent or a team) is no step: its
agents keep what they heard, so they run again, and what they ask is journaled.
"""

import copy
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextvars import copy_context
from functools import partial
from inspect import iscoroutinefunction
from typing import Any

from autogen_agentchat.base import ChatAgent, Team
from autogen_agentchat.messages import BaseAgentEvent, BaseChatMessage, MessageFactory
from autogen_core import CancellationToken
from autogen_core.tools import (
    BaseTool,
    FunctionTool,
    StaticStreamWorkbench,
    StaticWorkbench,
    ToolResult,
    ToolSchema,
    Workbench,
)
from pydantic import BaseModel

from ..autogen_private import (
    exchange_tools,
    function_of,
    original_name,
    tools_of,
    with_function,
)
from ..scope import RunScope
from ..steps.effects import Effects
from .workbench import ENDED, JournaledWorkbench, contained_result, ending, failure

_Message = BaseAgentEvent | BaseChatMessage
_messages = MessageFactory()


class JournaledTools(JournaledWorkbench, StaticWorkbench):
    """A list of tools whose calls are steps. Listing the tools is no step."""

    async def list_tools(self) -> list[ToolSchema]:
        """Return the tools, which do not change."""
        tools: list[ToolSchema] = await self.wrapped.list_tools()
        return tools

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        cancellation_token: CancellationToken | None = None,
        call_id: str | None = None,
    ) -> ToolResult:
        """Call a tool, as a step unless it runs agents."""
        tool = self._tool(name)

        async def act() -> Any:
            exchange_tools(self.wrapped, _knowing_its_key)
            work = self.wrapped.call_tool(name, arguments, cancellation_token, call_id)
            result = await contained_result(name, work)
            return result.model_dump(mode="json")

        with ending(self._scope):
            is_step = tool is not None and not runs_agents(tool)
            called = (
                self._called(name, tool.name, arguments, act=act) if tool and is_step else act()
            )
            return ToolResult.model_validate(await called)
        return failure(name, ENDED)

    def _tool(self, name: str) -> BaseTool[Any, Any] | None:
        own = original_name(self.wrapped, name)
        return next((tool for tool in tools_of(self.wrapped) if tool.name == own), None)

    def _declared(self, name: str) -> Iterable[Any]:
        tool = self._tool(name)
        function = function_of(tool)
        return (tool, function, getattr(function, "func", None), self.wrapped)


class JournaledStreamTools(JournaledTools, StaticStreamWorkbench):
    """Journals the workbench that AssistantAgent makes of its ``tools``, which streams."""

    async def call_tool_stream(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        cancellation_token: CancellationToken | None = None,
        call_id: str | None = None,
    ) -> AsyncGenerator[Any | ToolResult, None]:
        """Call a tool, as a step unless it runs agents: then their messages come as they are said.

        What any other tool streams is yielded when the tool is done, live as in a replay.
        """
        assert isinstance(self.wrapped, StaticStreamWorkbench)
        stream = partial(
            self.wrapped.call_tool_stream, name, arguments, cancellation_token, call_id
        )
        tool = next((tool for tool in tools_of(self.wrapped) if tool.name == name), None)
        is_over = True
        with ending(self._scope):
            said = (
                stream()
                if tool is None or runs_agents(tool)
                else self._said(name, arguments, stream)
            )
            async for item in said:
                yield item
            is_over = False
        if is_over:
            yield failure(name, ENDED)

    async def _said(
        self,
        name: str,
        arguments: Mapping[str, Any] | None,
        stream: Callable[[], AsyncGenerator[Any | ToolResult, None]],
    ) -> AsyncGenerator[Any | ToolResult, None]:
        async def act() -> Any:
            exchange_tools(self.wrapped, _knowing_its_key)
            items: list[Any] = []
            result = await contained_result(name, _gathered(stream(), items))
            messages = [item.dump() for item in items if isinstance(item, _Message)]
            return {**result.model_dump(mode="json"), **({"said": messages} if messages else {})}

        data = await self._called(name, name, arguments, act=act)
        for message in data.pop("said", ()):
            yield _messages.create(message)
        yield ToolResult.model_validate(data)


def journaled_workbench(
    workbench: Workbench, scope: RunScope, path: str, *, effects: Effects, number: int = 0
) -> Workbench:
    """Return a wrapper of ``workbench`` whose calls are steps."""
    if not isinstance(workbench, StaticWorkbench):
        return JournaledWorkbench(workbench, scope, path, effects=effects, number=number)
    is_stream = isinstance(workbench, StaticStreamWorkbench)
    kind = JournaledStreamTools if is_stream else JournaledTools
    return kind(workbench, scope, path, effects=effects, number=number)


async def _gathered(stream: AsyncGenerator[Any, None], items: list[Any]) -> ToolResult:
    """Add what a tool streams to ``items``, and return its result, which is the last."""
    items += [item async for item in stream]
    result: ToolResult = items.pop()
    return result


def runs_agents(tool: object) -> bool:
    """Whether a tool holds an agent or a team, which keep what they hear."""
    values = list(getattr(tool, "__dict__", {}).values())
    inside = [item for value in values if isinstance(value, list | tuple) for item in value]
    return any(isinstance(value, Team | ChatAgent) for value in (*values, *inside))


def _knowing_its_key(tool: BaseTool[Any, Any]) -> BaseTool[Any, Any]:
    """Return a tool whose plain function finds its key in the thread that AutoGen calls it in."""
    function = function_of(tool)
    if not isinstance(tool, FunctionTool) or function is None or iscoroutinefunction(function):
        return tool
    if "run" in vars(tool):
        return tool

    async def run(args: BaseModel, cancellation_token: CancellationToken) -> Any:
        called = copy.copy(tool)
        with_function(called, partial(copy_context().run, function))
        return await called.run(args, cancellation_token)

    own = copy.copy(tool)
    vars(own)["run"] = run
    return own
