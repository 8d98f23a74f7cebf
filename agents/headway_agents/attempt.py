"""One attempt of a run: drives a fresh team, bound to its scope, to its end.

Law of this file: however an attempt ends, its scope is closed and its token cancelled. AutoGen goes
on buying calls for a team whose stream is merely left.
"""

import asyncio
import json
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
from pydantic_core import to_jsonable_python

from headway_scheduler.errors import CallerError, RunClosed
from headway_scheduler.model.runs import Task

from .autogen_private import QueueShutDown
from .containment import is_asked_for
from .journal.events import TeamEnded
from .journal.machine import run_closed
from .journal.outcomes import AttemptOutcome
from .scope import RunScope, current_scope
from .wrappers.people import answer_handoff
from .wrappers.wrapper import release

GRACE_SECONDS = 2.0
"""How long agents, and what was started for them, may take to end after their run did."""

Message = BaseAgentEvent | BaseChatMessage
TaskInput = str | BaseChatMessage | Sequence[BaseChatMessage]
"""What ``run(task=…)`` of AutoGen's teams and agents takes."""

_PERMITTED_TASKS = "a text, one of AutoGen's messages, or a list of them"


class Attempt:
    """Runs ``team`` once. Its clients must be bound to ``scope``.

    ``result`` is set when ``events`` has ended; it stays None if ``stopped`` says that the attempt
    was ended from inside.
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
        """The last error that went to an agent, as it was raised. Teams only pass on its text."""
        return self.scope.error

    @property
    def stopped(self) -> AttemptOutcome | None:
        """Why the attempt was ended from inside, if it was."""
        return self.scope.stopped

    async def events(
        self, task: TaskInput, history: Sequence[TaskInput] = ()
    ) -> AsyncGenerator[Message, None]:
        """Yield the team's messages as they come; ``result`` is set afterwards.

        The team gets the tasks of ``history`` first, whose messages are not yielded. Raises what
        the team raises, and RunClosed or the error of a call if a part of it was cut off.
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
                    # AutoGen takes a tool that was cut off for a team that has finished.
                    raise self.scope.error or run_closed(self.scope.run_id)
                self.result = self._latest
        finally:
            self.close()
            if self.scope.lazy_starts:
                with anyio.move_on_after(GRACE_SECONDS, shield=True):
                    await release(self.scope)

    def close(self) -> None:
        """Close the scope and cancel the token: calls leave the queue, nothing more is bought."""
        self.scope.close(interrupted=self.result is None)
        self._token.cancel()

    def _stop(self) -> None:
        """End the team after its scope was closed.

        Its calls raise RunClosed in the agents, and the team ends with that. The token cuts the
        runtime of the team off in the middle, so it is left for agents that do not end in time.
        """
        asyncio.get_running_loop().call_later(GRACE_SECONDS, self._token.cancel)

    async def _run(self, task: TaskInput) -> AsyncGenerator[Message, None]:
        """Give the team a task, then the words of a person whenever it hands off to one."""
        messages: list[Message] = []
        following: TaskInput | None = task
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

    async def _stream(self, task: TaskInput) -> AsyncGenerator[Message | TaskResult, None]:
        work = TeamWork(self._team, task, self._token)
        try:
            async for event in work.events():
                if self.scope.stopped is None:
                    yield event
        except BaseException as error:
            # Before anything is awaited: other agents of the team still run, and must not buy.
            self.scope.close(interrupted=True)
            if not isinstance(error, Exception):
                self._token.cancel()
            # AutoGen raises the end of its own tasks here: errors of agents that were told
            # RunClosed, even a CancelledError though nobody cancels this task.
            if self.scope.stopped is None or not _is_of_autogen(error):
                raise
        finally:
            await work.stop()


class TeamWork:
    """A team at work on one task. Take its events once, then stop it.

    The team works in an asyncio task of its own. A cancelled scope of anyio cancels its tasks again
    and again: AutoGen's clean-up would be cut off at its first await, and the team's runtime would
    go on, with nobody left who could stop it.
    """

    def __init__(self, team: Team | ChatAgent, task: TaskInput, token: CancellationToken) -> None:
        self._team = team
        self._token = token
        self._events: asyncio.Queue[Message | TaskResult | None] = asyncio.Queue()
        self._driver = asyncio.create_task(self._drive(task))
        self._driver.add_done_callback(self._end)

    async def events(self) -> AsyncGenerator[Message | TaskResult, None]:
        """Yield the messages, at last the result. Raises what the team raises."""
        while (event := await self._events.get()) is not None:
            yield event
        self._driver.result()

    async def stop(self) -> None:
        """Cancel what is left of the work, and wait for it, 2 s at most."""
        if not self._driver.done():
            self._token.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait([self._driver], timeout=GRACE_SECONDS)
            self._driver.cancel()  # its code ignores the token; AutoGen's runtime is given up

    def _end(self, driver: asyncio.Task[None]) -> None:
        if not driver.cancelled():
            driver.exception()  # whoever stops early does not ask for it, and asyncio would log it
        self._events.put_nowait(None)

    async def _drive(self, task: TaskInput) -> None:
        stream = self._team.run_stream(task=task, cancellation_token=self._token)
        async for event in stream:
            self._events.put_nowait(event)


class _ClosedRuns(logging.Filter):
    """Drops the tracebacks that AutoGen logs of agents whose run was closed or cancelled."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, asyncio.CancelledError) and current_scope.get() is not None:
            return False  # what code of a run raises by itself was made a WorkflowExited
        while error is not None:
            if isinstance(error, RunClosed | QueueShutDown) or "GroupChatError" in str(error):
                return False
            error = error.__cause__ or error.__context__
        return True


logging.getLogger("autogen_core").addFilter(_ClosedRuns())


def _is_of_autogen(error: BaseException) -> bool:
    """Whether an error comes from AutoGen's tasks, and nobody cancels this task with it."""
    is_cancellation = isinstance(error, asyncio.CancelledError)
    return isinstance(error, Exception) or (is_cancellation and not is_asked_for(error))


def dump_task(given: object) -> Task:
    """Return a task as a run keeps it. Raises CallerError for what is no task.

    A resumed run gives its team the same messages again, with their ids and times.
    """
    if isinstance(given, str):
        return Task(given)
    messages = [given] if isinstance(given, BaseChatMessage) else given
    if not isinstance(messages, Sequence) or not messages:
        raise CallerError(f"task must be {_PERMITTED_TASKS}, not {_spoken(given)}")
    factory = MessageFactory()
    for each in messages:
        if not isinstance(each, BaseChatMessage):
            raise CallerError(f"task must be {_PERMITTED_TASKS}: it has {_spoken(each)}")
        if not factory.is_registered(type(each)):
            raise CallerError(
                f"task has a {type(each).__name__}, and a run that is resumed in another process "
                "could not make it again: give one of AutoGen's own messages, such as TextMessage"
            )
    text = "\n".join(each.to_text() for each in messages)
    return Task(text, json.dumps([each.dump() for each in messages]))


def load_task(task: Task) -> str | list[BaseChatMessage]:
    """Return a task as AutoGen takes it. Raises CallerError for messages that it cannot read."""
    if task.messages is None:
        return task.text
    factory = MessageFactory()
    try:
        return [_chat_message(factory.create(each)) for each in json.loads(task.messages)]
    except ValueError as error:
        raise CallerError(f"the task's messages cannot be read: {error}") from None


def _chat_message(message: Any) -> BaseChatMessage:
    if not isinstance(message, BaseChatMessage):
        raise ValueError(f"a {type(message).__name__} is no chat message")
    return message


def _spoken(value: object) -> str:
    return str(value) if value is None else f"a {type(value).__name__}"


def dump_result(result: TaskResult) -> str:
    """Return a result as JSON text: ``stop_reason``, and ``messages`` as AutoGen dumps them.

    The text is ASCII, so it holds halves of surrogate pairs, which models and tools do return.
    """
    messages = [_data(message) for message in result.messages]
    return json.dumps({"stop_reason": result.stop_reason, "messages": messages})


def load_result(text: str) -> TaskResult:
    """Return a result from its text. A message of an unknown type becomes its content."""
    data: dict[str, Any] = json.loads(text)
    messages = [_message(message) for message in data["messages"]]
    return TaskResult(messages=messages, stop_reason=data["stop_reason"])


def _data(message: Message) -> Any:
    try:
        return to_jsonable_python(message.dump())
    except ValueError:  # bytes that are no UTF-8, or objects without a JSON form
        return to_jsonable_python(message.model_dump(), bytes_mode="base64", serialize_unknown=True)


def _message(data: dict[str, Any]) -> Message:
    try:
        return MessageFactory().create(data)
    except ValueError:
        pass
    # A type of the workflow's own (StructuredMessage[Verdict]), whose module is not imported here.
    content = json.dumps(data.get("content"), separators=(",", ":"))
    return TextMessage(source=data["source"], content=content, metadata=data.get("metadata", {}))
