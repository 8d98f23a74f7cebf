"""What stands behind a stand-in. Law of this file: nothing is started that a replay does not need.

Theory of operation. A factory that starts an MCP server or a container does so for every attempt,
and nobody stops it. What was not started when the team was bound is started before its first
live call, and :func:`release` stops it when the attempt is over.
"""

import asyncio
from contextlib import suppress
from contextvars import copy_context
from functools import partial

from autogen_core import CancellationToken
from autogen_core.code_executor import CodeExecutor
from autogen_core.tools import Workbench

from ..autogen_private import is_idle
from ..scope import RunScope


class Behind:
    """A workbench or code executor that is started when it is first needed."""

    def __init__(self, inner: Workbench | CodeExecutor) -> None:
        self._inner = inner
        self._lock = asyncio.Lock()
        self._is_wanted = False
        self._is_started = False
        # A server outlives the call that starts it: what it asks later is not that call's.
        self._context = copy_context()

    def want(self) -> None:
        """Have it started before it is used, whatever it says of itself."""
        self._is_wanted = True

    async def begin(self) -> None:
        """Start it, if it has not been started."""
        async with self._lock:
            if self._is_started or not (self._is_wanted or is_idle(self._inner)):
                return
            await asyncio.create_task(self._inner.start(), context=self._context)
            self._is_started = True

    async def end(self) -> None:
        """Stop it, if it was started here."""
        self._is_wanted = False
        if self._is_started:
            self._is_started = False
            await self._inner.stop()


def behind(inner: Workbench | CodeExecutor, scope: RunScope) -> Behind:
    """Return the one starter of ``inner``, whoever holds it, in the attempt."""
    known: dict[int, Behind] = scope.behind
    return known.setdefault(id(inner), Behind(inner))


async def release(scope: RunScope) -> None:
    """Stop what the attempt's steps have started. Call it when the scope is closed."""
    started, scope.behind = scope.behind, {}
    for starter in started.values():
        await starter.end()


def linked(token: CancellationToken | None) -> CancellationToken:
    """Return a token that is cancelled with ``token``, and does no harm to it."""
    own = CancellationToken()
    if token is not None:
        token.add_callback(partial(_cancel, own))
    return own


def _cancel(token: CancellationToken) -> None:
    # McpWorkbench links a coroutine to it, which cannot be cancelled: an error inside `cancel`,
    # on which the other calls of the run would not be told.
    with suppress(AttributeError):
        token.cancel()
