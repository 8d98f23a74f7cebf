"""Keeps what the code of a run raises inside that run. Law: no run ends the event loop.

Theory of operation. asyncio ends its loop, and with it every run of the process, when a task raises
SystemExit or KeyboardInterrupt: argparse does so in a tool that gets a wrong option. A stray
CancelledError looks like the end of the process to every task that awaits; it is stray if nobody
but the task itself asked for it.
So wherever code of a workflow is awaited, any error that is no ``Exception`` becomes a
:class:`WorkflowExited`. AutoGen runs agents in tasks of its own: the loop's task factory guards
those.

Ctrl-C still works: asyncio's runner answers it by cancelling the main task from outside.

Code that blocks the event loop cannot be interrupted, and all runs of the process wait for it. So
each step of these tasks is timed, and the log names the code that blocked.
"""

import asyncio
import inspect
import logging
import time
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import aclosing, suppress
from functools import partial
from typing import Any, Self, TypeVar, cast

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.base import ChatAgent, Response, Team
from autogen_agentchat.messages import BaseAgentEvent, BaseChatMessage
from autogen_core import CancellationToken, FunctionCall
from autogen_core.models import FunctionExecutionResult

from headway_scheduler.errors import CallerError, WorkflowExited

from .autogen_private import RESULT_PROCESSOR, ExecuteToolCall, ToolCallResult, result_processor
from .calls.errors import described, text_of
from .scope import acting_step, current_scope

BLOCKED_SECONDS = 2.0
"""Code of a run that keeps the event loop busy for so long is named in the log. By then a leader
has been replaced; imports and large teams take less, even on a busy machine."""

T = TypeVar("T")
Factory = Callable[[Any], Team | ChatAgent | Awaitable[Team | ChatAgent]]
"""Makes a fresh team for each attempt of a run. Its argument makes clients of models."""

_log = logging.getLogger("headway")


def is_asked_for(error: BaseException) -> bool:
    """Whether an error ends this task because somebody cancels it, or closes its generator."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0
    return isinstance(error, GeneratorExit)


def contained(error: BaseException) -> Exception:
    """Return an error that ends nothing but the run: itself, or a WorkflowExited in its place."""
    if isinstance(error, Exception):
        return error
    # The last frame raised; the first ones are Headway's and AutoGen's.
    where = traceback.extract_tb(error.__traceback__)[-1:]
    place = "".join(f", raised in {each.filename}:{each.lineno} ({each.name})" for each in where)
    exited = WorkflowExited(f"{type(error).__name__}: {text_of(error)}{place}")
    exited.__cause__ = error
    return exited


def contain_agent(agent: ChatAgent) -> None:
    """Contain the errors of ``agent``, in a team or alone.

    AutoGen catches each ``Exception`` of an agent. After any other error its team waits for ever.
    """
    stream = agent.on_messages_stream

    async def contained_stream(
        messages: Sequence[BaseChatMessage], cancellation_token: CancellationToken
    ) -> AsyncGenerator[BaseAgentEvent | BaseChatMessage | Response, None]:
        # AutoGen's own agents hand the token on. Others may await something that knows none, and
        # the team's runtime could not stop before they end.
        if (task := asyncio.current_task()) is not None:
            cancellation_token.link_future(task)
        try:
            async with aclosing(stream(messages, cancellation_token)) as events:
                name = f"agent {agent.name!r}"
                with suppress(StopAsyncIteration):
                    while True:
                        yield await _Guarded(anext(events), name)
        except Exception:
            raise
        except BaseException as error:
            if is_asked_for(error) or cancellation_token.is_cancelled():
                raise
            raise contained(error) from error

    vars(agent)["on_messages_stream"] = contained_stream


def contain_tool_calls(agent: AssistantAgent) -> None:
    """Turn each error of a tool call of ``agent`` into a result that its model reads.

    Without that, the agent waits for ever for a tool call that raised: AutoGen handles arguments
    that are no JSON, but no other wrong ones, such as a number of 5,000 digits, or a list for a
    handoff.
    """
    vars(agent)[RESULT_PROCESSOR] = result_processor(type(agent), _contained_tool_calls)


def _contained_tool_calls(execute: ExecuteToolCall) -> ExecuteToolCall:
    async def contained_call(*, tool_call: FunctionCall, **more: Any) -> ToolCallResult:
        try:
            return await contain(execute(tool_call=tool_call, **more))
        except Exception as error:
            return tool_call, FunctionExecutionResult(
                content=f"Error: {described(error)}",
                call_id=tool_call.id,
                is_error=True,
                name=tool_call.name,
            )

    return contained_call


class LoopTime:
    """Warns in the log if this block keeps the event loop busy for 2 s or more.

    The warning names the step that acts, else ``what``.
    """

    __slots__ = ("_began", "_what")
    named_at = 0.0

    def __init__(self, what: str = "") -> None:
        self._what = what

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        now = time.monotonic()
        # Blocks are nested. The innermost names the code best, and leaves first.
        if now - self._began < BLOCKED_SECONDS or LoopTime.named_at > self._began:
            return
        LoopTime.named_at = now
        scope = current_scope.get()
        _log.warning(
            "%s of run %s blocked the event loop for %.1f s, and all runs of this process waited: "
            "make it async, or put what blocks into asyncio.to_thread",
            acting_step() or self._what or "the team",
            "-" if scope is None else scope.run_id,
            now - self._began,
        )


async def contain(work: Awaitable[T]) -> T:
    """Await code of a workflow. Raises WorkflowExited for an error that is no Exception."""
    try:
        return await (_Guarded(work) if isinstance(work, Coroutine) else work)
    except Exception:
        raise
    except BaseException as error:
        if is_asked_for(error):
            raise
        raise contained(error) from error


async def build(factory: Factory, models: Any) -> Team | ChatAgent:
    """Call a factory, sync or async, with ``models``, and check what it returns.

    Raises CallerError if that is no team or agent, and whatever the factory raises.
    """
    function = getattr(factory, "func", factory)  # of a partial
    name = getattr(function, "__qualname__", repr(function))
    with LoopTime(f"the factory {name!r}"):
        team = factory(models)
    if inspect.isawaitable(team):
        team = await contain(team)
    return checked_team(team, f"the factory {name!r}")


def checked_team(made: object, what: str) -> Team | ChatAgent:
    """Check that ``what``, a factory or a file, gave a team or an agent. Raises CallerError."""
    if not isinstance(made, Team | ChatAgent):
        raise CallerError(
            f"{what} gives a {type(made).__name__}, which is neither a Team nor a ChatAgent"
        )
    return made


def contain_tasks() -> None:
    """Guard, from here on, each task of this loop that code of a run starts, and ``stop``."""
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()
    if not isinstance(before, _ContainingFactory):
        loop.set_task_factory(cast(Any, _ContainingFactory(before)))
    if "stop" not in vars(loop):
        vars(loop)["stop"] = partial(_stop, loop.stop)


def _stop(stop: Callable[[], None]) -> None:
    if current_scope.get() is not None:
        raise RuntimeError("code of a run cannot stop the event loop: other runs use it")
    stop()


class _ContainingFactory:
    """A task factory that guards tasks of runs, and else does as ``make``, or as asyncio."""

    def __init__(self, make: Callable[..., asyncio.Future[Any]] | None) -> None:
        self._make = make

    def __call__(
        self, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Future[Any]:
        if current_scope.get() is not None:
            coro = _Guarded(coro)
        if self._make is None:
            return asyncio.Task(coro, loop=loop, **options)
        return self._make(loop, coro, **options)


def _take_back(task: asyncio.Task[Any], asked: int) -> None:
    """Take back the cancellations of a task that one step of it added.

    No other task acts during a step, so the step cancelled its own task. If that counted as asked
    for, the CancelledError would leave the run and end all others with it.
    """
    while task.cancelling() > asked:
        task.uncancel()


_EXITS = (SystemExit, KeyboardInterrupt)


class _Guarded(Coroutine[Any, Any, Any]):
    """A coroutine that lets out neither SystemExit, KeyboardInterrupt nor its own cancellation.

    It is no ``async def`` around the guarded coroutine: if a task were cancelled before its first
    step, the inner coroutine would never start, and Python warns of those.
    """

    def __init__(self, coro: Any, what: str = "") -> None:
        self._coro = coro
        self._what = what

    def __getattr__(self, name: str) -> Any:
        # asyncio and debuggers read the coroutine's name, frame and awaited object here.
        return getattr(self._coro, name)

    def __await__(self) -> Generator[Any, Any, Any]:
        return cast(Generator[Any, Any, Any], self)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        # Who closes a coroutine throws GeneratorExit in. Here the code raises it by itself.
        return self._step((*_EXITS, GeneratorExit), self._coro.send, value)

    def throw(self, *raised: Any) -> Any:
        return self._step(_EXITS, self._coro.throw, *raised)

    def _step(
        self, exits: tuple[type[BaseException], ...], step: Callable[..., Any], *given: Any
    ) -> Any:
        """Take one step, timed; contain ``exits`` and a cancellation of the task by itself."""
        task = asyncio.current_task()
        asked = 0 if task is None else task.cancelling()
        with LoopTime(self._what):
            try:
                return step(*given)
            except exits as error:
                raise contained(error) from error
            finally:
                if task is not None and task.cancelling() > asked:
                    _take_back(task, asked)

    def close(self) -> None:
        self._coro.close()
