"""Errors of one run's code fail that run, which says why; other runs of the process go on."""

import asyncio
import gc
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from io import StringIO
from typing import Any

import anyio
import anyio.to_thread
import pytest
from autogen_agentchat.agents import AssistantAgent, BaseChatAgent
from autogen_agentchat.base import Response, Team
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.messages import BaseChatMessage, StructuredMessage, TextMessage
from autogen_agentchat.teams import RoundRobinGroupChat, SelectorGroupChat
from autogen_core import CancellationToken, FunctionCall
from autogen_core.models import (
    CreateResult,
    FunctionExecutionResultMessage,
    LLMMessage,
    ModelFamily,
    ModelInfo,
    RequestUsage,
    UserMessage,
)
from autogen_ext.models.replay import ReplayChatCompletionClient
from pydantic import BaseModel
from tests.waiting import until

from headway import Headway, Models, RunFailed, RunState
from headway.testing import MODEL, simulated_headway
from headway_agents import containment
from headway_scheduler.errors import WorkflowExited
from headway_scheduler.testing.provider.replies import Reply, ToolCall

pytestmark = pytest.mark.anyio

INFO = ModelInfo(
    vision=False,
    function_calling=True,
    json_output=False,
    family=ModelFamily.UNKNOWN,
    structured_output=False,
)


class Strange(BaseException):
    """An error that no ``except Exception`` catches."""


RAISED = [
    SystemExit(2),
    KeyboardInterrupt(),
    Strange("odd"),
    asyncio.CancelledError("nobody asked"),
    RecursionError("deep"),
    MemoryError("full"),
    GeneratorExit("by itself"),
]
each_error = pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)


def reply(body: dict[str, Any]) -> Reply | None:
    """Call the tool that an agent has, once; then say what came of it."""
    tools = [tool["function"]["name"] for tool in body.get("tools") or ()]
    results = [each["content"] for each in body["messages"] if each["role"] == "tool"]
    if tools and not results:
        return Reply(tool_calls=(ToolCall(tools[0]),))
    return Reply(results[0]) if results else None


@pytest.fixture
async def headway() -> AsyncIterator[Headway]:
    async with simulated_headway(latency_seconds=0.05, reply=reply) as headway:

        @headway.workflow("bystander")
        def bystander(models: Models) -> Team:
            writer = AssistantAgent("writer", models(MODEL))
            return RoundRobinGroupChat([writer], termination_condition=MaxMessageTermination(6))

        yield headway


async def beside(headway: Headway, factory: Callable[..., Any]) -> tuple[str, RunFailed | None]:
    """Run ``factory`` beside an innocent run, which completes; return its text, or its error."""
    headway.workflow("guilty")(factory)
    with anyio.fail_after(60):
        bystander = await headway.start("bystander", task="x")
        guilty = await headway.start("guilty", task="x")
        text, failed = "", None
        try:
            text = (await guilty.result()).text
        except RunFailed as error:
            failed = error
        assert (await bystander.result()).calls == 5
        # The process goes on: another run begins and ends.
        assert (await headway.run("bystander", task="y")).calls == 5
    row = await headway.get_run(guilty.id)
    assert row.state is (RunState.FAILED if failed else RunState.COMPLETED)
    return text, failed


class Raising(BaseChatAgent):
    """An agent of a user's own."""

    def __init__(self, error: BaseException) -> None:
        super().__init__("raising", "raises")
        self._error = error

    @property
    def produced_message_types(self) -> list[type[BaseChatMessage]]:
        return [TextMessage]

    async def on_messages(self, messages: Any, cancellation_token: CancellationToken) -> Response:
        await asyncio.sleep(0.01)
        raise self._error

    async def on_reset(self, cancellation_token: CancellationToken) -> None:
        pass


def check(failed: RunFailed | None, error: BaseException) -> None:
    """The error that was raised is told, and where."""
    assert failed is not None
    assert type(error).__name__ in str(failed)
    assert str(error) in str(failed)


@each_error
async def test_a_tool_s_error_goes_to_the_model(headway: Headway, error: BaseException) -> None:
    async def tool() -> str:
        """Do it."""
        await asyncio.sleep(0)
        raise error

    def factory(models: Models) -> Team:
        writer = AssistantAgent("writer", models(MODEL), tools=[tool], reflect_on_tool_use=True)
        return RoundRobinGroupChat([writer], max_turns=1)

    text, failed = await beside(headway, factory)
    assert failed is None
    assert str(error) in text
    if not isinstance(error, Exception):
        assert type(error).__name__ in text


async def cancel_itself() -> None:
    """Cancel the task that this is executed in, as a library with a mistake does."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel("by itself")
    await asyncio.sleep(0.01)
    raise ValueError("it went on")  # Python 3.13 takes the cancellation back


class Cancelling(Raising):
    """An agent that cancels its own task."""

    async def on_messages(self, messages: Any, cancellation_token: CancellationToken) -> Response:
        await cancel_itself()
        raise self._error


async def cancelling_factory(models: Models) -> Team:
    await cancel_itself()
    raise AssertionError


CANCELLING: dict[str, Callable[..., Any]] = {
    "factory": cancelling_factory,
    "agent": lambda models: Cancelling(ValueError()),
    "agent in a team": lambda models: RoundRobinGroupChat([Cancelling(ValueError())]),
}


@pytest.mark.parametrize("what", CANCELLING)
async def test_code_that_cancels_its_own_task_ends_its_run_alone(
    headway: Headway, what: str
) -> None:
    _, failed = await beside(headway, CANCELLING[what])
    assert failed is not None
    assert "by itself" in str(failed) or "it went on" in str(failed)


async def test_a_tool_that_cancels_its_own_task_is_told_to_the_model(headway: Headway) -> None:
    async def tool() -> str:
        """Do it."""
        await cancel_itself()
        return "done"

    def factory(models: Models) -> Team:
        writer = AssistantAgent("writer", models(MODEL), tools=[tool], reflect_on_tool_use=True)
        return RoundRobinGroupChat([writer], max_turns=1)

    text, failed = await beside(headway, factory)
    assert failed is None
    assert "by itself" in text or "it went on" in text


DEEP = "[" * 20_000 + "]" * 20_000


class Calls(ReplayChatCompletionClient):
    """Answers with tool calls, then with what came of the last one."""

    def __init__(self, *calls: FunctionCall) -> None:
        usage = RequestUsage(1, 1)
        asked = CreateResult(
            finish_reason="function_calls", content=list(calls), usage=usage, cached=False
        )
        super().__init__([asked], model_info=INFO)
        self.answers = 0

    async def create(self, messages: Sequence[LLMMessage], **arguments: Any) -> CreateResult:
        self.answers += 1
        if isinstance(last := messages[-1], FunctionExecutionResultMessage):
            said = " | ".join(result.content for result in last.content)
            usage = RequestUsage(1, 1)
            return CreateResult(finish_reason="stop", content=said, usage=usage, cached=False)
        return await super().create(messages, **arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [("9" * 5_000, "ValueError"), (DEEP, "RecursionError"), ("[" * 300 + "]" * 300, "valid dict")],
    ids=["digits", "too deep", "deep"],
)
async def test_arguments_that_nobody_can_read_are_told_to_the_model(
    headway: Headway, arguments: str, said: str
) -> None:
    done = []

    async def tool() -> str:
        """Do it."""
        await asyncio.sleep(0.05)
        done.append(1)
        return "done"

    client = Calls(FunctionCall("1", arguments, "tool"), FunctionCall("2", "{}", "tool"))

    def factory(models: Models) -> Team:
        writer = AssistantAgent("writer", client, tools=[tool], reflect_on_tool_use=True)
        return RoundRobinGroupChat([writer], max_turns=1)

    text, failed = await beside(headway, factory)
    assert failed is None
    assert said in text
    assert text.endswith(" | done")
    assert (client.answers, done) == (2, [1])


async def test_a_handoff_with_odd_arguments_is_told_to_the_model(headway: Headway) -> None:
    client = Calls(FunctionCall("1", "[1]", "transfer_to_other"))

    def factory(models: Models) -> Team:
        writer = AssistantAgent("writer", client, handoffs=["other"], reflect_on_tool_use=True)
        return RoundRobinGroupChat([writer], max_turns=1)

    text, failed = await beside(headway, factory)
    assert failed is None
    assert "ValidationError" in text


async def test_a_tool_call_with_an_id_that_is_no_text_is_no_answer(headway: Headway) -> None:
    odd: Any = 5
    client = Calls(FunctionCall(odd, "{}", "tool"))

    async def tool() -> str:
        """Do it."""
        return "done"

    def factory(models: Models) -> Team:
        writer = AssistantAgent("writer", client, tools=[tool], reflect_on_tool_use=True)
        return RoundRobinGroupChat([writer], max_turns=1)

    _, failed = await beside(headway, factory)
    assert "id of a tool call" in str(failed)


async def test_a_tool_s_error_whose_text_cannot_be_made_is_told_to_the_model(
    headway: Headway,
) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise LookupError("no text")

    async def tool() -> str:
        """Do it."""
        raise ExceptionGroup("several", [Mute()])

    def factory(models: Models) -> Team:
        writer = AssistantAgent("writer", models(MODEL), tools=[tool], reflect_on_tool_use=True)
        return RoundRobinGroupChat([writer], max_turns=1)

    text, failed = await beside(headway, factory)
    assert failed is None
    assert text == "no text"


@each_error
async def test_an_agent_s_error_ends_its_run(headway: Headway, error: BaseException) -> None:
    _, failed = await beside(headway, lambda models: Raising(error))
    check(failed, error)


@each_error
async def test_an_agent_s_error_in_a_team_ends_its_run(
    headway: Headway, error: BaseException
) -> None:
    _, failed = await beside(headway, lambda models: RoundRobinGroupChat([Raising(error)]))
    check(failed, error)


@each_error
async def test_a_factory_s_error_ends_its_run(headway: Headway, error: BaseException) -> None:
    async def factory(models: Models) -> Team:
        raise error

    _, failed = await beside(headway, factory)
    check(failed, error)
    assert failed is not None
    if not isinstance(error, Exception):
        assert isinstance(failed.__cause__, WorkflowExited)
        assert failed.__cause__.__cause__ is error
        assert "test_containment.py" in str(failed)


@each_error
async def test_a_selector_s_error_ends_its_run(headway: Headway, error: BaseException) -> None:
    def select(messages: Any) -> str:
        raise error

    def factory(models: Models) -> Team:
        client = models(MODEL)
        agents = [AssistantAgent(name, client) for name in ("one", "two")]
        return SelectorGroupChat(list(agents), client, selector_func=select, max_turns=2)

    _, failed = await beside(headway, factory)
    check(failed, error)


class Odd(BaseModel):
    data: bytes
    at: datetime
    number: float


class Saying(Raising):
    """Says a message."""

    def __init__(self, message: BaseChatMessage) -> None:
        super().__init__(RuntimeError())
        self._message = message

    async def on_messages(self, messages: Any, cancellation_token: CancellationToken) -> Response:
        return Response(chat_message=self._message)


class Unwritable(TextMessage):
    """A message that cannot be written."""

    def model_dump(self, **options: Any) -> Any:
        raise LookupError("no such field")


async def test_a_result_keeps_what_has_no_json_form(headway: Headway) -> None:
    half = TextMessage(content="half an emoji \ud83d", source="raising")
    text, _ = await beside(headway, lambda models: Saying(half))
    assert text == half.content
    runs = await headway.list_runs([RunState.COMPLETED])
    run_id = next(run.id for run in runs if run.workflow == "guilty")
    assert (await (await headway.handle(run_id)).result()).text == half.content


async def test_a_result_keeps_bytes_that_are_no_text(headway: Headway) -> None:
    odd = Odd(data=b"\xff\xfe", at=datetime(2026, 1, 1, tzinfo=UTC), number=float("nan"))
    message = StructuredMessage[Odd](content=odd, source="raising")
    with pytest.raises(ValueError, match="utf-8"):  # AutoGen's own: such a message has no text
        await beside(headway, lambda models: Saying(message))
    runs = await headway.list_runs([RunState.COMPLETED])
    assert sum(run.workflow == "guilty" and run.result is not None for run in runs) == 1


async def test_a_result_that_cannot_be_written_fails_its_run(headway: Headway) -> None:
    message = Unwritable(content="x", source="raising")
    _, failed = await beside(headway, lambda models: Saying(message))
    check(failed, LookupError("no such field"))


async def test_an_error_whose_text_cannot_be_made_is_told_all_the_same(headway: Headway) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError("no text")

    def factory(models: Models) -> Team:
        raise Mute

    _, failed = await beside(headway, factory)
    assert "Mute: its text raised ValueError" in str(failed)


async def test_what_is_no_exception_and_has_no_text_is_told_all_the_same(headway: Headway) -> None:
    class Silent(BaseException):
        def __str__(self) -> str:
            raise ValueError("no text")

    _, failed = await beside(headway, lambda models: Raising(Silent()))
    assert "Silent: its text raised ValueError" in str(failed)


async def test_an_error_with_half_a_character_is_told(headway: Headway) -> None:
    _, failed = await beside(headway, lambda models: Raising(ValueError("half \ud83d")))
    assert "\\ud83d" in str(failed)


async def test_a_task_of_a_run_says_where_it_waits(headway: Headway) -> None:
    said = ""

    class Waiting(Raising):
        async def on_messages(self, messages: Any, token: CancellationToken) -> Response:
            nonlocal said
            task = asyncio.create_task(asyncio.sleep(60))
            await asyncio.sleep(0)
            written = StringIO()
            task.print_stack(file=written)
            said = repr(task) + written.getvalue()
            task.cancel()
            return Response(chat_message=TextMessage(content="x", source=self.name))

    await beside(headway, lambda models: Waiting(ValueError()))
    assert "coro=<sleep() running at" in said
    assert "No stack" not in said


@pytest.mark.filterwarnings("error")
async def test_a_task_that_is_cancelled_before_it_starts_leaves_no_warning(
    headway: Headway,
) -> None:
    def factory(models: Models) -> Team:
        asyncio.get_running_loop().create_task(asyncio.sleep(1)).cancel()
        return RoundRobinGroupChat([AssistantAgent("writer", models(MODEL))], max_turns=1)

    text, _ = await beside(headway, factory)
    gc.collect()
    assert text


@pytest.mark.parametrize("who", ["tool", "lone agent's tool", "factory", "agent"])
async def test_what_blocks_the_event_loop_is_named_in_the_log(
    headway: Headway, who: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(containment, "BLOCKED_SECONDS", 0.3)

    async def tool() -> str:
        """Do it."""
        await asyncio.sleep(0.01)
        time.sleep(0.4)  # noqa: ASYNC251
        return "done"

    class Blocking(Raising):
        async def on_messages(
            self, messages: Any, cancellation_token: CancellationToken
        ) -> Response:
            time.sleep(0.4)  # noqa: ASYNC251
            return Response(chat_message=TextMessage(content="x", source=self.name))

    def factory(models: Models) -> Any:
        if who == "factory":
            time.sleep(0.4)
        writer = AssistantAgent("writer", models(MODEL), tools=[tool] if "tool" in who else None)
        if who == "lone agent's tool":
            return writer
        agents = [Blocking(ValueError()) if who == "agent" else writer]
        return RoundRobinGroupChat(list(agents), max_turns=1)

    _, failed = await beside(headway, factory)
    assert failed is None
    name = {"agent": "agent 'raising'", "factory": "the factory"}.get(who, "tool 'tool'")
    (run,) = [run for run in await headway.list_runs() if run.workflow == "guilty"]
    said = [each for each in caplog.messages if "blocked the event loop" in each]
    assert [each for each in said if each.startswith(name) and f"of run {run.id} " in each]


def with_tool(tool: Callable[[], Awaitable[str]]) -> Callable[[Models], Team]:
    """A factory of a team whose only agent has one tool, and says what came of it."""

    def factory(models: Models) -> Team:
        writer = AssistantAgent("writer", models(MODEL), tools=[tool], reflect_on_tool_use=True)
        return RoundRobinGroupChat([writer], max_turns=1)

    return factory


@pytest.mark.parametrize("error", [RuntimeError("no field"), SystemExit(3)], ids=repr)
async def test_a_filter_of_log_lines_that_raises_stops_no_scheduler(
    headway: Headway, error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    class Raises(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            raise error

    handler = logging.StreamHandler()
    handler.addFilter(Raises())
    loggers = [logging.getLogger(name) for name in ("headway", "aiosqlite")]
    before = [logger.level for logger in loggers]

    async def tool() -> str:
        """Do it."""
        for logger in loggers:
            logger.setLevel(logging.DEBUG)
            logger.addHandler(handler)
        return "done"

    try:
        text, failed = await beside(headway, with_tool(tool))
        logging.getLogger("headway").warning("said")
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
            logger.removeHandler(handler)
    assert failed is None
    assert text == "done"
    assert "--- Logging error ---" in capsys.readouterr().err


async def test_a_tool_cannot_stop_the_event_loop(headway: Headway) -> None:
    async def tool() -> str:
        """Do it."""
        asyncio.get_running_loop().stop()
        return "stopped"

    text, failed = await beside(headway, with_tool(tool))
    assert failed is None
    assert "cannot stop the event loop" in text


async def test_a_sync_tool_that_asks_a_model_in_a_loop_of_its_own_is_told_so(
    headway: Headway,
) -> None:
    def factory(models: Models) -> Team:
        client = models(MODEL)

        def tool() -> str:
            """Do it."""
            asked = [UserMessage(content="x", source="user")]
            return str(asyncio.run(client.create(asked)).content)

        writer = AssistantAgent("writer", client, tools=[tool], reflect_on_tool_use=True)
        return RoundRobinGroupChat([writer], max_turns=1)

    text, failed = await beside(headway, factory)
    assert failed is None
    assert "executed in another event loop, or thread: make the code" in text


async def test_a_tool_that_takes_all_threads_of_anyio_holds_up_no_other_run(
    headway: Headway,
) -> None:
    end = threading.Event()

    async def tool() -> str:
        """Do it."""
        async with anyio.create_task_group() as group:
            for _ in range(100):
                group.start_soon(anyio.to_thread.run_sync, end.wait)
        return "done"

    headway.workflow("guilty")(with_tool(tool))
    limiter = anyio.to_thread.current_default_thread_limiter()
    guilty = await headway.start("guilty", task="x")
    try:
        await until(lambda: not limiter.available_tokens)
        assert (await headway.run("bystander", task="x")).calls == 5
    finally:
        end.set()
    assert (await guilty.result()).text == "done"
