"""What the journaled wrappers share: access to what they wrap, its lazy start, steps of JSON data.

Law of this file: to AutoGen a wrapper looks like what it wraps, nothing is started that a replay
does not need, and all that was started is stopped.

Theory of operation. A factory that starts an MCP server or a container does so for every attempt,
and nobody stops it. What was not started when the team was bound is started before its first call
that the journal does not answer, and :func:`release` stops it when the attempt is over.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Any

from autogen_core.code_executor import CodeExecutor
from autogen_core.memory import Memory
from autogen_core.tools import Workbench
from pydantic import BaseModel

from ..autogen_private import is_idle
from ..scope import RunScope
from ..steps.effects import Effects, keyed
from ..steps.step import Step, by_person, perform

TOOL = "tool"
"""The kind of a step that calls a tool, or executes code."""


class Wrapper:
    """Stands for ``wrapped`` in one agent of one attempt. Names that it lacks are those of that.

    ``path`` is the agent's; ``effects`` declares by name what may be done again; ``number`` tells
    the workbenches of one agent apart.
    """

    def __init__(
        self,
        wrapped: Workbench | CodeExecutor | Memory,
        scope: RunScope,
        path: str,
        *,
        effects: Effects,
        number: int = 0,
    ) -> None:
        self.wrapped: Any = wrapped
        self._scope = scope
        self._path = path
        self._effects = effects
        self._number = number

    def __getattr__(self, name: str) -> Any:
        if name == "wrapped":  # copy and pickle ask before __init__ has run
            raise AttributeError(name)
        return getattr(self.wrapped, name)


class LazyWrapper(Wrapper):
    """A wrapper of what is started: at the first call that the journal does not answer."""

    def __init__(
        self,
        wrapped: Workbench | CodeExecutor,
        scope: RunScope,
        path: str,
        *,
        effects: Effects,
        number: int = 0,
    ) -> None:
        super().__init__(wrapped, scope, path, effects=effects, number=number)
        self._lazy_start = lazy_start(wrapped, scope)

    async def start(self) -> None:
        """Have it started before the first call that the journal does not answer."""
        self._lazy_start.want()

    async def stop(self) -> None:
        """Stop it, if Headway started it."""
        await self._lazy_start.stop()


class LazyStart:
    """Starts a workbench or code executor when it is first needed, once."""

    def __init__(self, wrapped: Workbench | CodeExecutor) -> None:
        self._wrapped = wrapped
        # Parallel calls of one agent arrive here together; only one may start it.
        self._lock = asyncio.Lock()
        self._is_wanted = False
        self._is_started = False
        # A server outlives the call that starts it: what it asks later is not that call's.
        self._context = copy_context()

    def want(self) -> None:
        """Have :meth:`start` start it, whatever it says of itself."""
        self._is_wanted = True

    async def start(self) -> None:
        """Start it, unless that was done, here or by whoever made it."""
        async with self._lock:
            if self._is_started or not (self._is_wanted or is_idle(self._wrapped)):
                return
            await asyncio.create_task(self._wrapped.start(), context=self._context)
            self._is_started = True

    async def stop(self) -> None:
        """Stop it, if it was started here."""
        self._is_wanted = False
        if self._is_started:
            self._is_started = False
            await self._wrapped.stop()


def lazy_start(wrapped: Workbench | CodeExecutor, scope: RunScope) -> LazyStart:
    """Return what starts ``wrapped`` in this attempt, the same for every agent that holds it."""
    known: dict[int, LazyStart] = scope.lazy_starts
    return known.setdefault(id(wrapped), LazyStart(wrapped))


async def release(scope: RunScope) -> None:
    """Stop what the attempt has started. Call it when the scope is closed."""
    started, scope.lazy_starts = scope.lazy_starts, {}
    for each in started.values():
        await each.stop()


async def data_of(
    scope: RunScope,
    step: Step,
    act: Callable[[], Awaitable[Any]],
    *,
    by_words: Callable[[str], Any],
) -> Any:
    """Perform a step whose answer is JSON data, or made of a person's words in its place."""

    async def act_with_key(key: str) -> str:
        with keyed(key):
            return json.dumps(await act())

    answer = await perform(scope, step, act_with_key)
    words = by_person(answer)
    return json.loads(answer) if words is None else by_words(words)


def canonical(value: Any) -> str:
    """Return arguments as JSON that is the same in every process."""
    return json.dumps(value, sort_keys=True, default=_plain)


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)
