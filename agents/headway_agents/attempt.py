"""One attempt of a run: a fresh team, bound to its scope, driven to its end.

Law of this file: however an attempt ends, its scope is closed and its token cancelled. A team that
is merely left goes on buying calls.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import anyio
from autogen_agentchat.base import ChatAgent, TaskResult, Team
from autogen_agentchat.messages import (
    BaseAgentEvent,
    BaseChatMessage,
    HandoffMessage,
    MessageFactory,
    TextMessage,
)
from autogen_core import CancellationToken
from pydantic_core import from_json, to_json

from headway_scheduler.errors import RunClosed

from .autogen_private import QueueShutDown
from .journal.events import TeamEnded
from .journal.machine import run_closed
from .journal.outcomes import AttemptOutcome
from .scope import RunScope, current_scope
from .wrappers.people import answer_handoff
from .wrappers.wrapper import release

GRACE_SECONDS = 2.0
"""How long agents may take to end after their run did."""

Message = BaseAgentEvent | BaseChatMessage
Task = str | HandoffMessage


class Attempt:
    """Runs ``team`` once. Its clients must be bound to ``scope``.

    If ``scope.stopped`` is set when ``events`` ends, the attempt was ended from inside, and there
    is no result.
    """

    def __init__(self, team: Team | ChatAgent, scope: RunScope) -> None:
        self._team = team
        self.scope = scope
        self._token = CancellationToken()
        self.result: TaskResult | None = None
        self._latest: TaskResult | None = None
        scope.on_stop = self._stop

    @property
    def error(self) -> Exception | None:
        """What a call of this run raised last, with its type; teams lose it."""
        return self.scope.error

    @property
    def stopped(self) -> AttemptOutcome | None:
        """Why it was ended from inside, if it was."""
        return self.scope.stopped

    async def events(self, task: str, history: Sequence[str] = ()) -> AsyncGenerator[Message, None]:
        """The team's messages as they come; afterwards ``result`` is there.

        Tasks of the ``history`` are given to the team first; their messages are not shown again.
        """
        current_scope.set(self.scope)
        try:
            for earlier in history:
                async with aclosing(self._run(earlier)) as events:
                    async for _ in events:
                        pass
            async with aclosing(self._run(task)) as events:
                async for event in events:
                    yield event
            self.scope.tell(TeamEnded())
            if self.scope.stopped is None:
                if self.scope.machine.is_interrupted:
                    # A tool that is cut off ends its team as if it had nothing more to say.
                    raise self.scope.error or run_closed(self.scope.run_id)
                self.result = self._latest
        finally:
            self.close()
            with anyio.move_on_after(GRACE_SECONDS, shield=True):
                await release(self.scope)

    def close(self) -> None:
        """Stop: nothing more is bought, queued calls leave the queue."""
        self.scope.close(interrupted=self.result is None)
        self._token.cancel()

    def _stop(self) -> None:
        """Have an attempt whose scope was closed end: its agents get errors, and so does the team.

        The token cuts the team's runtime off in the middle: only for agents that do not end.
        """
        asyncio.get_running_loop().call_later(GRACE_SECONDS, self._token.cancel)

    async def _run(self, task: Task) -> AsyncGenerator[Message, None]:
        """Give the team a task, and the words of a person whenever it hands off to one."""
        messages: list[Message] = []
        following: Task | None = task
        while following is not None:
            result = None
            async with aclosing(self._stream(following)) as events:
                async for event in events:
                    if isinstance(event, TaskResult):
                        result = event
                    else:
                        yield event
            if result is None:
                return
            messages += result.messages
            following = None
            if result.messages and isinstance(result.messages[-1], HandoffMessage):
                following = await answer_handoff(self.scope, self._team, result)
            if following is None:
                self._latest = TaskResult(messages=messages, stop_reason=result.stop_reason)

    async def _stream(self, task: Task) -> AsyncGenerator[Message | TaskResult, None]:
        stream = self._team.run_stream(task=task, cancellation_token=self._token)
        try:
            async for event in stream:
                if self.scope.stopped is None:
                    yield event
        except BaseException as error:
            self.scope.close(interrupted=True)  # before anything is awaited
            if not isinstance(error, Exception):
                self._token.cancel()
            # Cancelling AutoGen's token raises a CancelledError here that nobody asked for.
            if self.scope.stopped is None or not _is_of_autogen(error):
                raise
        finally:
            # A cancelled task would cut AutoGen's clean-up off, and its runtime would go on.
            with anyio.move_on_after(GRACE_SECONDS, shield=True):
                await _ended(stream)


class _NoNews(logging.Filter):
    """Drops what AutoGen logs of agents that were ended with their run: tracebacks, several."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        while error is not None:
            if isinstance(error, RunClosed | QueueShutDown) or "GroupChatError" in str(error):
                return False
            error = error.__cause__ or error.__context__
        return True


logging.getLogger("autogen_core").addFilter(_NoNews())


async def _ended(stream: AsyncGenerator[Any, None]) -> None:
    """Wait for AutoGen's runtime to stop; what its agents died of is not news by then.

    It raises their errors into us, even a CancelledError when nobody cancels this task.
    """
    try:
        await stream.aclose()
    except Exception:
        return
    except asyncio.CancelledError as error:
        if not _is_of_autogen(error):
            raise


def _is_of_autogen(error: BaseException) -> bool:
    """Whether an error comes from the team, and does not cancel this task or its generator."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and not task.cancelling()
    return isinstance(error, Exception)


def dump_result(result: TaskResult) -> str:
    """A result as JSON text: ``stop_reason``, and ``messages`` as AutoGen dumps them."""
    messages = [message.dump() for message in result.messages]
    return to_json({"stop_reason": result.stop_reason, "messages": messages}).decode()


def load_result(text: str) -> TaskResult:
    """A result from its text. A message of a type that AutoGen lacks is its content, as text."""
    data: dict[str, Any] = from_json(text)
    messages = [_message(message) for message in data["messages"]]
    return TaskResult(messages=messages, stop_reason=data["stop_reason"])


def _message(data: dict[str, Any]) -> Message:
    try:
        return MessageFactory().create(data)
    except ValueError:
        pass
    # Of the workflow's own, such as StructuredMessage[Verdict]; nothing of it is imported here.
    content = to_json(data.get("content")).decode()
    return TextMessage(source=data["source"], content=content, metadata=data.get("metadata", {}))
