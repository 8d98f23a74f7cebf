"""Tools as journaled steps. Law of this file: what AutoGen sees is what it saw before.

Theory of operation. An agent holds wrappers of its workbenches. A call is a step around the call of
what is wrapped, and its recorded answer is AutoGen's own result, error or not.

A call never raises: AssistantAgent would wait for ever for its other calls. One that cannot be
answered, because its run ends or nothing can be written, gives an error that is not recorded, and
the run is over: the next request says why.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from autogen_core import CancellationToken
from autogen_core.tools import (
    TextResultContent,
    ToolResult,
    ToolSchema,
    Workbench,
)

from headway_scheduler.errors import RunClosed

from ..calls.errors import text_of
from ..containment import contain, is_asked_for
from ..scope import RunScope
from ..steps.effects import Effect, effect_of
from ..steps.step import Step
from .wrapper import TOOL, LazyWrapper, canonical, data_of


class JournaledWorkbench(LazyWrapper, Workbench):
    """A workbench, such as an MCP server's, whose listings and calls are steps."""

    component_type = "workbench"

    async def list_tools(self) -> list[ToolSchema]:
        """Return the tools as they were listed when the run first asked."""

        async def act() -> Any:
            await self._lazy_start.start()
            return await self.wrapped.list_tools()

        step = Step(TOOL, self._path, "list_tools", canonical(self._number), Effect.PURE)
        listed: list[ToolSchema] = []
        with ending(self._scope):
            listed = await data_of(self._scope, step, act, by_words=lambda words: [])
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
            await self._lazy_start.start()
            token = linked(cancellation_token)
            work = self.wrapped.call_tool(name, arguments, token, call_id)
            return (await contained_result(name, work)).model_dump(mode="json")

        with ending(self._scope):
            return ToolResult.model_validate(await self._called(name, name, arguments, act=act))
        return failure(name, ENDED)

    async def reset(self) -> None:
        """Reset what is wrapped."""
        await self.wrapped.reset()

    async def save_state(self) -> Mapping[str, Any]:
        """Return the state of what is wrapped."""
        state: Mapping[str, Any] = await self.wrapped.save_state()
        return state

    async def load_state(self, state: Mapping[str, Any]) -> None:
        """Give a state to what is wrapped."""
        await self.wrapped.load_state(state)

    def _declared(self, name: str) -> Iterable[Any]:
        """Return what may say how a tool is declared, the most special first."""
        return (self.wrapped,)

    async def _called(
        self,
        asked: str,
        name: str,
        arguments: Mapping[str, Any] | None,
        *,
        act: Callable[[], Awaitable[Any]],
    ) -> Any:
        """Call the tool ``name``, which the agent knows as ``asked``; return the result as data."""

        def by_words(words: str) -> Any:
            return ToolResult(name=asked, result=[TextResultContent(content=words)]).model_dump()

        effect = effect_of(name, self._effects, *self._declared(name))
        step = Step(TOOL, self._path, name, canonical(arguments or {}), effect)
        return await data_of(self._scope, step, act, by_words=by_words)


@contextmanager
def ending(scope: RunScope) -> Iterator[None]:
    """Swallow what keeps a call from its answer, and end the run if it has not ended."""
    try:
        yield
    except asyncio.CancelledError as error:
        if is_asked_for(error):
            raise  # this task is cancelled; else the run's token cancelled the call alone
    except RunClosed:
        pass
    except Exception as error:
        scope.error = error
        scope.close(interrupted=True)


async def contained_result(name: str, work: Awaitable[ToolResult]) -> ToolResult:
    """Return the result of a tool: an error, if it raised, or if AutoGen did over its error."""
    try:
        return await contain(work)
    except Exception as error:
        return failure(name, text_of(error))


ENDED = "The run has ended."


def failure(name: str, words: str) -> ToolResult:
    """Return an error as the result of a tool."""
    return ToolResult(name=name, result=[TextResultContent(content=words)], is_error=True)


def linked(token: CancellationToken | None) -> CancellationToken:
    """Return a token that is cancelled with ``token``, and does no harm to it."""
    own = CancellationToken()
    if token is not None:
        token.add_callback(partial(_cancel, own))
    return own


def _cancel(token: CancellationToken) -> None:
    # McpWorkbench links a coroutine to its token, which has no `cancel`: that error would end the
    # run's own `cancel`, and the other calls of the run would not be told.
    with suppress(AttributeError):
        token.cancel()
