"""Tools and code as journaled steps. Law of this file: what AutoGen sees is what it saw before.

A tool that only runs agents (AgentTool, TeamTool) is no step: its agents keep what they heard, so
they run again, and their calls are journaled. Neither is a tool that holds a model client.
"""

import copy
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from autogen_core import CancellationToken
from autogen_core.code_executor import CodeBlock, CodeExecutor, CodeResult
from autogen_core.tools import (
    BaseTool,
    StaticWorkbench,
    TextResultContent,
    ToolResult,
    ToolSchema,
    Workbench,
)
from pydantic import BaseModel

from .identity import RunScope
from .kinds import again_of, current_key
from .steps import Again, Step, by_person, perform

TOOL = "tool"
Kinds = Mapping[str, Again]


class ToolFailed(Exception):
    """What a tool raised when it was called, as text: the model was told so, and is again."""


def journaled_tool(tool: BaseTool[Any, Any], scope: RunScope, path: str, kinds: Kinds) -> Any:
    """Return a copy of ``tool`` whose calls are steps; its results are text from then on."""
    again = again_of(tool.name, kinds, tool, getattr(tool, "_func", None))
    own = copy.copy(tool)

    async def run_json(
        args: Mapping[str, Any], cancellation_token: CancellationToken, call_id: str | None = None
    ) -> str:
        async def act() -> Any:
            try:
                result = await tool.run_json(args, cancellation_token, call_id=call_id)
                return {"text": tool.return_value_as_string(result)}
            except Exception as error:
                return {"error": _told(error)}

        request = _dumps(args)
        answer = await _step(scope, Step(TOOL, path, tool.name, request, again), act)
        if "error" in answer:
            raise ToolFailed(answer["error"])
        return str(answer["text"])

    # On the instance: it stays of its class, whatever that is.
    vars(own).update(run_json=run_json, return_value_as_string=str)
    return own


class JournaledWorkbench(Workbench):
    """A workbench, such as an MCP server's, whose listings and calls are steps."""

    component_type = "workbench"

    def __init__(self, inner: Workbench, scope: RunScope, path: str, kinds: Kinds) -> None:
        self.inner = inner
        self._scope = scope
        self._path = path
        self._kinds = kinds

    async def list_tools(self) -> list[ToolSchema]:
        """The tools as they were listed when the run first asked."""

        async def act() -> Any:
            return await self.inner.list_tools()

        step = Step(TOOL, self._path, "list_tools", "", Again.PURE)
        listed: list[ToolSchema] = await _step(self._scope, step, act)
        return listed

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        cancellation_token: CancellationToken | None = None,
        call_id: str | None = None,
    ) -> ToolResult:
        """Call a tool as a step."""

        async def act() -> Any:
            result = await self.inner.call_tool(name, arguments, cancellation_token, call_id)
            return result.model_dump(mode="json")

        again = again_of(name, self._kinds, self.inner)
        step = Step(TOOL, self._path, name, _dumps(arguments or {}), again)
        answer = await _step(self._scope, step, act)
        if "text" in answer:  # a person's
            return ToolResult(name=name, result=[TextResultContent(content=answer["text"])])
        return ToolResult.model_validate(answer)

    async def start(self) -> None:
        """Nothing: it is started when it is first needed, and not for a replay."""

    async def stop(self) -> None:
        """Stop what is behind it."""
        await self.inner.stop()

    async def reset(self) -> None:
        """Reset what is behind it."""
        await self.inner.reset()

    async def save_state(self) -> Mapping[str, Any]:
        """The state of what is behind it."""
        return await self.inner.save_state()

    async def load_state(self, state: Mapping[str, Any]) -> None:
        """Give a state to what is behind it."""
        await self.inner.load_state(state)


class JournaledExecutor(CodeExecutor):
    """A code executor whose executions are steps. Its state (Jupyter's) is not rebuilt."""

    def __init__(self, inner: CodeExecutor, scope: RunScope, path: str, kinds: Kinds) -> None:
        self.inner = inner
        self._scope = scope
        self._path = path
        self._again = again_of("execute_code", kinds, inner)

    async def execute_code_blocks(
        self, code_blocks: list[CodeBlock], cancellation_token: CancellationToken
    ) -> CodeResult:
        """Execute blocks as one step."""

        async def act() -> Any:
            result = await self.inner.execute_code_blocks(code_blocks, cancellation_token)
            return {"exit_code": result.exit_code, "output": result.output}

        request = _dumps([[block.language, block.code] for block in code_blocks])
        step = Step(TOOL, self._path, "execute_code", request, self._again)
        answer = await _step(self._scope, step, act)
        if "text" in answer:  # a person's
            return CodeResult(exit_code=0, output=answer["text"])
        return CodeResult(**answer)

    async def start(self) -> None:
        """Start what is behind it."""
        await self.inner.start()

    async def stop(self) -> None:
        """Stop what is behind it."""
        await self.inner.stop()

    async def restart(self) -> None:
        """Restart what is behind it."""
        await self.inner.restart()


def is_static(workbench: Workbench) -> bool:
    """Whether a workbench is a list of tools, which are journaled one by one."""
    return isinstance(workbench, StaticWorkbench)


async def _step(scope: RunScope, step: Step, act: Callable[[], Awaitable[Any]]) -> Any:
    """Perform a step whose answer is JSON data; a person's words are ``{"text": …}``."""

    async def keyed(key: str) -> str:
        token = current_key.set(key)
        try:
            return json.dumps(await act())
        finally:
            current_key.reset(token)

    answer = await perform(scope, step, keyed)
    words = by_person(answer)
    return json.loads(answer) if words is None else {"text": words}


def _told(error: Exception) -> str:
    """What AutoGen's workbenches tell the model of an error."""
    if isinstance(error, ExceptionGroup):
        return "\n".join(_told(inner) for inner in error.exceptions)
    return str(error)


def _dumps(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=_plain)


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)
