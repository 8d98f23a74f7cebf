"""One attempt of a run: a fresh team, bound to its scope, driven to its end.

Law of this file: however an attempt ends, its scope is closed and its token cancelled. A team that
is merely left goes on buying calls.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from autogen_agentchat.base import ChatAgent, TaskResult, Team
from autogen_agentchat.messages import BaseAgentEvent, BaseChatMessage, MessageFactory
from autogen_core import CancellationToken
from pydantic_core import from_json, to_json

from .identity import RunScope, current_scope


class Attempt:
    """Runs ``team`` once. Its clients must be bound to ``scope``."""

    def __init__(self, team: Team | ChatAgent, scope: RunScope) -> None:
        self._team = team
        self._scope = scope
        self._token = CancellationToken()
        self.result: TaskResult | None = None

    @property
    def error(self) -> Exception | None:
        """What a call of this run raised last, with its type; teams lose it."""
        return self._scope.error

    async def events(self, task: str) -> AsyncGenerator[BaseAgentEvent | BaseChatMessage, None]:
        """The team's messages as they come; afterwards ``result`` is there."""
        current_scope.set(self._scope)
        stream = self._team.run_stream(task=task, cancellation_token=self._token)
        try:
            async for event in stream:
                if isinstance(event, TaskResult):
                    self.result = event
                else:
                    yield event
        finally:
            self.close()
            await _ended(stream)

    def close(self) -> None:
        """Stop: nothing more is bought, queued calls leave the queue."""
        self._scope.close()
        self._token.cancel()


async def _ended(stream: AsyncGenerator[Any, None]) -> None:
    """Wait for AutoGen's runtime to stop; what its agents died of is not news by then.

    It raises their errors into us, even a CancelledError when nobody cancels this task.
    """
    try:
        await stream.aclose()
    except Exception:
        return
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise


def dump_result(result: TaskResult) -> str:
    """A result as JSON text: ``stop_reason``, and ``messages`` as AutoGen dumps them."""
    messages = [message.dump() for message in result.messages]
    return to_json({"stop_reason": result.stop_reason, "messages": messages}).decode()


def load_result(text: str) -> TaskResult:
    """A result from its text. Raises ValueError for message types unknown to AutoGen."""
    data: dict[str, Any] = from_json(text)
    factory = MessageFactory()
    messages = [factory.create(message) for message in data["messages"]]
    return TaskResult(messages=messages, stop_reason=data["stop_reason"])
