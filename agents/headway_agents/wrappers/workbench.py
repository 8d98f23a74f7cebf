"""Tools as journaled steps. Law of this file: what AutoGen sees is what it saw before.

Theory of operation. An agent holds stand-ins for its workbenches. A call is a step around the call
of what stands behind, and its recorded answer is AutoGen's own result, error or not.

A call never raises: AssistantAgent then waits for ever for its other calls. One that cannot be
answered, because its run ends or nothing can be written, gives an error that is not recorded, and
the run is over: the next request says why.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from autogen_core import CancellationToken
from autogen_core.tools import (
    TextResultContent,
    ToolResult,
    ToolSchema,
    Workbench,
)
from pydantic import BaseModel

from headway_scheduler.errors import RunClosed

from ..scope import RunScope
from ..steps.effects import Kinds, again_of, keyed
from ..steps.lazy_start import linked
from ..steps.step import Again, Step, by_person, perform
from .wrapper import LazyWrapper

TOOL = "tool"


class JournaledWorkbench(LazyWrapper, Workbench):
    """A workbench, such as an MCP server's, whose listings and calls are steps.

    ``number`` tells the workbenches of one holder apart.
    """

    component_type = "workbench"

    def __init__(
        self, inner: Workbench, scope: RunScope, path: str, kinds: Kinds, number: int = 0
    ) -> None:
        super().__init__(inner, scope, path, kinds)
        self._number = number

    async def list_tools(self) -> list[ToolSchema]:
        """The tools as they were listed when the run first asked."""

        async def act() -> Any:
            await self._behind.begin()
            return await self.inner.list_tools()

        step = Step(TOOL, self._path, "list_tools", canonical(self._number), Again.PURE)
        listed: list[ToolSchema] = []
        with ending(self._scope):
            listed = await data_of(self._scope, step, act, lambda words: [])
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
            await self._behind.begin()
            token = linked(cancellation_token)
            try:
                result = await self.inner.call_tool(name, arguments, token, call_id)
            except Exception as error:
                result = failure(name, str(error))
            return result.model_dump(mode="json")

        with ending(self._scope):
            return ToolResult.model_validate(await self._called(name, name, arguments, act))
        return failure(name, ENDED)

    async def reset(self) -> None:
        """Reset what is behind it."""
        await self.inner.reset()

    async def save_state(self) -> Mapping[str, Any]:
        """The state of what is behind it."""
        state: Mapping[str, Any] = await self.inner.save_state()
        return state

    async def load_state(self, state: Mapping[str, Any]) -> None:
        """Give a state to what is behind it."""
        await self.inner.load_state(state)

    def _declared(self, name: str) -> Iterable[Any]:
        return (self.inner,)

    async def _called(
        self,
        asked: str,
        name: str,
        arguments: Mapping[str, Any] | None,
        act: Callable[[], Awaitable[Any]],
    ) -> Any:
        """Call the tool ``name``, which the agent knows as ``asked``; the result as data."""

        def by_words(words: str) -> Any:
            return ToolResult(name=asked, result=[TextResultContent(content=words)]).model_dump()

        again = again_of(name, self._kinds, *self._declared(name))
        step = Step(TOOL, self._path, name, canonical(arguments or {}), again)
        return await data_of(self._scope, step, act, by_words)


@contextmanager
def ending(scope: RunScope) -> Iterator[None]:
    """Swallow what keeps a call from its answer, and have the run end if it has not yet."""
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise  # else it was cancelled by the run's token
    except RunClosed:
        pass
    except Exception:
        scope.close(interrupted=True)


ENDED = "The run has ended."


def failure(name: str, words: str) -> ToolResult:
    """Return an error as the result of a tool."""
    return ToolResult(name=name, result=[TextResultContent(content=words)], is_error=True)


async def data_of(
    scope: RunScope,
    step: Step,
    act: Callable[[], Awaitable[Any]],
    by_words: Callable[[str], Any],
) -> Any:
    """Perform a step whose answer is JSON data, or made of a person's words in its place."""

    async def acting(key: str) -> str:
        with keyed(key):
            return json.dumps(await act())

    answer = await perform(scope, step, acting)
    words = by_person(answer)
    return json.loads(answer) if words is None else by_words(words)


def canonical(value: Any) -> str:
    """Return arguments as JSON that is the same in every process."""
    return json.dumps(value, sort_keys=True, default=_plain)


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)
