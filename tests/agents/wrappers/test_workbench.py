"""Tools, code and MCP servers: once in a run, as AutoGen gives them, and what a cut-off leaves."""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from autogen_agentchat.agents import AssistantAgent, CodeExecutorAgent
from autogen_agentchat.base import ChatAgent, TaskResult, Team
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.messages import TextMessage
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_agentchat.tools import AgentTool, TeamTool
from autogen_core import CancellationToken, FunctionCall, Image
from autogen_core.code_executor import CodeBlock, CodeExecutor
from autogen_core.models import CreateResult, RequestUsage
from autogen_core.tools import (
    BaseStreamTool,
    FunctionTool,
    ImageResultContent,
    StaticStreamWorkbench,
    StaticWorkbench,
    TextResultContent,
    ToolOverride,
    ToolResult,
    ToolSchema,
    Workbench,
)
from autogen_ext.code_executors.local import LocalCommandLineCodeExecutor
from autogen_ext.models.replay import ReplayChatCompletionClient
from PIL import Image as Picture
from pydantic import BaseModel
from tests.waiting import until

from headway_agents import Attempt, Effect, Journal, NeedsInput, RunScope, bind, person_answer
from headway_agents.steps.effects import idempotency_key, idempotent, once, pure
from headway_agents.wrappers.wrapper import release
from headway_scheduler.backends.memory.store import MemoryStore
from headway_scheduler.errors import CallerError
from headway_scheduler.model.calls import CallRecord, Outcome, Priority
from headway_scheduler.model.states import CallState
from headway_scheduler.runtime.local import LocalScheduler

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:Using LocalCommandLineCodeExecutor:UserWarning"),
    pytest.mark.filterwarnings("ignore:No approval function set:UserWarning"),
]

Begin = Callable[..., Awaitable[Attempt]]
MODEL_INFO: Any = {
    "vision": True,
    "function_calling": True,
    "json_output": True,
    "structured_output": True,
    "family": "unknown",
}


@pytest.fixture
def begin(store: MemoryStore, scheduler: LocalScheduler, models: Any) -> Begin:
    """Begin an attempt at the run, with all that is recorded of it."""

    async def beginning(
        team: Team | ChatAgent, kinds: Mapping[str, Effect] | None = None, **journal: Any
    ) -> Attempt:
        rows = Journal(records=await store.calls("run"), **journal)
        scope = RunScope(scheduler, "run", Priority.NORMAL, journal=rows)
        bind(team, scope, models, effects=kinds)
        return Attempt(team, scope)

    return beginning


async def result_of(attempt: Attempt) -> TaskResult:
    messages = [message async for message in attempt.events("Go.")]
    assert messages
    await release(attempt.scope)
    assert attempt.stopped is None, attempt.stopped
    assert attempt.result is not None
    return attempt.result


async def stop_of(attempt: Attempt) -> Any:
    async for _ in attempt.events("Go."):
        pass
    await release(attempt.scope)
    assert attempt.result is None
    return attempt.stopped


async def cut_off(attempt: Attempt, acts: asyncio.Event) -> None:
    """End an attempt as a dying process would, while something acts."""

    async def run() -> None:
        async for _ in attempt.events("Go."):
            pass

    task = asyncio.create_task(run())
    await acts.wait()
    attempt.close()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()  # seen
    await release(attempt.scope)


async def noticed(acts: asyncio.Event, is_so: Callable[[], bool]) -> None:
    """Set ``acts`` when another process has done something."""
    await until(is_so)
    acts.set()


def tool_calls(*calls: tuple[str, dict[str, Any]]) -> CreateResult:
    return CreateResult(
        content=[
            FunctionCall(id=f"call_{n}", name=name, arguments=json.dumps(arguments))
            for n, (name, arguments) in enumerate(calls)
        ],
        finish_reason="function_calls",
        usage=RequestUsage(prompt_tokens=1, completion_tokens=1),
        cached=False,
    )


def client(*answers: str | CreateResult) -> ReplayChatCompletionClient:
    return ReplayChatCompletionClient(list(answers), model_info=MODEL_INFO)


def writer(*answers: str | CreateResult, **more: Any) -> AssistantAgent:
    return AssistantAgent("writer", client(*answers), **more)


def last(result: TaskResult) -> str:
    return result.messages[-1].to_text()


async def steps(records: Any) -> list[CallRecord]:
    return [record for record in await records("run") if record.call.kind == "tool"]


# Plain tools


async def test_a_recorded_call_is_not_made_again(begin: Begin, records: Any) -> None:
    made: list[str] = []

    def send(to: str, text: str) -> str:
        made.append(to)
        return f"sent {text!r} to {to}"

    ask = tool_calls(("send", {"to": "Ada", "text": "hi"}))
    first = await result_of(await begin(writer(ask, tools=[send])))
    (step,) = await steps(records)
    assert (step.call.kind, step.call.path, step.call.model) == ("tool", "writer", "send")
    assert step.state is CallState.DONE
    again = await begin(writer(tools=[send]))
    second = await result_of(again)
    assert made == ["Ada"]
    assert last(first) == last(second) == "sent 'hi' to Ada"
    assert again.scope.machine.replayed == 2


async def test_equal_calls_are_told_apart_and_different_ones_too(begin: Begin) -> None:
    count = 0

    async def roll(sides: int) -> str:
        nonlocal count
        count += 1
        return f"{count} of {sides}"

    ask = tool_calls(("roll", {"sides": 6}), ("roll", {"sides": 6}), ("roll", {"sides": 8}))
    texts = [
        last(await result_of(await begin(writer(*ask_, tools=[roll])))) for ask_ in ([ask], [])
    ]
    assert texts == ["1 of 6\n2 of 6\n3 of 8"] * 2


async def test_parallel_calls_begin_together(begin: Begin) -> None:
    both = asyncio.Barrier(2)

    async def meet(name: str) -> str:
        await asyncio.wait_for(both.wait(), 5)
        return name

    ask = tool_calls(("meet", {"name": "a"}), ("meet", {"name": "b"}))
    assert last(await result_of(await begin(writer(ask, tools=[meet])))) == "a\nb"


async def test_errors_are_answers_as_autogen_makes_them(begin: Begin) -> None:
    made = 0

    def fail(reason: str) -> str:
        nonlocal made
        made += 1
        raise ExceptionGroup("several", [ValueError(reason), KeyError("k")])

    asks = tool_calls(("fail", {"reason": "r"}), ("fail", {"wrong": 1}), ("none", {}))
    plain = await writer(asks, tools=[fail]).run(task="Go.")
    live = await result_of(await begin(writer(asks, tools=[fail])))
    replayed = await result_of(await begin(writer(tools=[fail])))
    results = [_executions(result) for result in (plain, live, replayed)]
    assert results[0] == results[1] == results[2]
    assert [is_error for _, is_error in results[0]] == [True, True, True]
    assert made == 2


def _executions(result: TaskResult) -> list[tuple[str, bool | None]]:
    (event,) = (m for m in result.messages if m.type == "ToolCallExecutionEvent")
    return [(item.content, item.is_error) for item in event.content]  # type: ignore[union-attr]


async def test_a_tool_is_cancelled_with_its_run(begin: Begin) -> None:
    acts, ended = asyncio.Event(), asyncio.Event()

    async def wait(cancellation_token: CancellationToken) -> str:
        acts.set()
        cancellation_token.add_callback(ended.set)
        await asyncio.Event().wait()
        return "never"

    attempt = await begin(writer(tool_calls(("wait", {})), tools=[wait]))
    await cut_off(attempt, acts)
    assert ended.is_set()


async def test_overridden_names_still_find_their_tool(begin: Begin, records: Any) -> None:
    tool = FunctionTool(lambda: "x", "gives x", name="plain")
    for answers in ([tool_calls(("fancy", {}))], []):
        bench = StaticWorkbench([tool], {"plain": ToolOverride(name="fancy")})
        assert last(await result_of(await begin(writer(*answers, workbench=bench)))) == "x"
    assert [step.call.model for step in await steps(records)] == ["plain"]


async def test_arguments_and_schemas_are_untouched(begin: Begin) -> None:
    def add(a: int, b: int = 2) -> int:
        return a + b

    agent = writer(tools=[add])
    (bench,) = agent._workbench
    before = await bench.list_tools()
    await begin(agent)
    (stand_in,) = agent._workbench
    assert isinstance(stand_in, StaticStreamWorkbench)
    assert await stand_in.list_tools() == before
    assert await stand_in.save_state() == await bench.save_state()


class Nothing(BaseModel):
    pass


class Ticks(BaseStreamTool[Nothing, TextMessage, Any]):
    """A tool of a user's that says things before it is done."""

    def __init__(self) -> None:
        super().__init__(Nothing, str, "ticks", "Ticks.")
        self.made = 0

    async def run(self, args: Nothing, cancellation_token: CancellationToken) -> str:
        return "done"

    async def run_stream(  # type: ignore[override]
        self, args: Nothing, cancellation_token: CancellationToken
    ) -> AsyncGenerator[TextMessage | str, None]:
        self.made += 1
        yield TextMessage(content="tick", source="ticks")
        yield "done"


async def test_what_a_tool_streams_comes_again(begin: Begin) -> None:
    tool = Ticks()
    results = [
        await result_of(await begin(writer(*answers, tools=[tool])))
        for answers in ([tool_calls(("ticks", {}))], [])
    ]
    assert tool.made == 1
    for result in results:
        assert [m.to_text() for m in result.messages if m.source == "ticks"] == ["tick"]
        assert last(result) == "done"


# Tools that run agents


@pytest.mark.parametrize("kind", [AgentTool, TeamTool])
async def test_agents_as_tools_run_again_and_only_their_calls_are_journaled(
    kind: Any, begin: Begin, records: Any
) -> None:
    def team(inner: Sequence[str], outer: Sequence[CreateResult]) -> AssistantAgent:
        poet = AssistantAgent("poet", client(*inner), description="Writes.")
        limit = MaxMessageTermination(2)
        tool: Any = (
            AgentTool(poet)
            if kind is AgentTool
            else TeamTool(
                RoundRobinGroupChat([poet], termination_condition=limit), "poet", "Writes."
            )
        )
        return writer(*outer, tools=[tool])

    ask = tool_calls(("poet", {"task": "a verse"}))
    first = await result_of(await begin(team(["Roses"], [ask])))
    assert await steps(records) == []
    paths = [record.call.path for record in await records("run")]
    assert paths == ["writer", "writer/poet" if kind is AgentTool else "writer/poet/poet"]
    second = await result_of(await begin(team([], [])))
    assert last(first) == last(second)
    for result in (first, second):
        assert "Roses" in [m.to_text() for m in result.messages if m.source == "poet"]


# Cut off


def keyed_tool(acts: asyncio.Event, keys: list[str], is_sync: bool = False) -> Any:
    """A tool that hangs the first time, and takes down its key each time."""

    async def act(n: int) -> str:
        keys.append(idempotency_key())
        if not acts.is_set():
            acts.set()
            await asyncio.Event().wait()
        return f"done {n}"

    def act_sync(n: int) -> str:
        keys.append(idempotency_key())
        return f"done {n}"

    act_sync.__name__ = "act"
    return act_sync if is_sync else act


@pytest.mark.parametrize("declare", [pure, idempotent])
async def test_a_repeatable_tool_is_called_again_with_its_key(
    declare: Callable[[Any], Any], begin: Begin, records: Any
) -> None:
    acts, keys = asyncio.Event(), list[str]()
    tool = declare(keyed_tool(acts, keys))
    await cut_off(await begin(writer(tool_calls(("act", {"n": 1})), tools=[tool])), acts)
    (step,) = await steps(records)
    assert step.state is CallState.UNKNOWN
    assert step.lost_attempts == 1
    assert last(await result_of(await begin(writer(tools=[tool])))) == "done 1"
    assert keys == [step.call.id] * 2
    (step,) = await steps(records)
    assert step.state is CallState.DONE


@pytest.mark.parametrize("declared", [True, False])
async def test_a_tool_that_happens_once_waits_for_a_person(
    declared: bool, begin: Begin, records: Any, scheduler: LocalScheduler
) -> None:
    acts, keys = asyncio.Event(), list[str]()
    tool = keyed_tool(acts, keys)
    tool = once(tool) if declared else tool
    await cut_off(await begin(writer(tool_calls(("act", {"n": 1})), tools=[tool])), acts)
    (step,) = await steps(records)
    assert await stop_of(await begin(writer(tools=[tool]))) == NeedsInput(step.call.id)
    assert len(keys) == 1
    rows = await records("run")
    arrival = 1 + max(row.arrival for row in rows if row.arrival is not None)
    answer = Outcome(CallState.DONE, answer=person_answer("It was sent."), arrival=arrival)
    await scheduler.decide(step, answer)
    assert last(await result_of(await begin(writer(tools=[tool])))) == "It was sent."
    assert len(keys) == 1


async def test_a_person_may_have_it_done_again(
    begin: Begin, records: Any, scheduler: LocalScheduler
) -> None:
    acts, keys = asyncio.Event(), list[str]()
    tool = keyed_tool(acts, keys)
    await cut_off(await begin(writer(tool_calls(("act", {"n": 1})), tools=[tool])), acts)
    (step,) = await steps(records)
    await scheduler.decide(step, Outcome(CallState.QUEUED))
    assert last(await result_of(await begin(writer(tools=[tool])))) == "done 1"
    assert keys == [step.call.id] * 2


async def test_the_configuration_declares_by_name(begin: Begin, records: Any) -> None:
    acts, keys = asyncio.Event(), list[str]()
    tool = once(keyed_tool(acts, keys))
    await cut_off(await begin(writer(tool_calls(("act", {"n": 1})), tools=[tool])), acts)
    attempt = await begin(writer(tools=[tool]), {"act": Effect.PURE})
    assert last(await result_of(attempt)) == "done 1"


@pytest.mark.parametrize("place", ["tool", "workbench"])
async def test_tools_and_workbenches_are_declared_as_functions_are(
    place: str, begin: Begin
) -> None:
    acts, keys = asyncio.Event(), list[str]()
    tool = FunctionTool(keyed_tool(acts, keys), "acts", name="act")
    bench = StaticStreamWorkbench([tool])
    pure(tool if place == "tool" else bench)
    ask = tool_calls(("act", {"n": 1}))
    await cut_off(await begin(writer(ask, workbench=bench)), acts)
    assert last(await result_of(await begin(writer(workbench=bench)))) == "done 1"


async def test_a_plain_function_knows_its_key(begin: Begin, records: Any) -> None:
    keys = list[str]()
    tool = keyed_tool(asyncio.Event(), keys, is_sync=True)
    await result_of(await begin(writer(tool_calls(("act", {"n": 1})), tools=[tool])))
    (step,) = await steps(records)
    assert keys == [step.call.id]


async def test_there_is_no_key_outside_of_a_tool() -> None:
    with pytest.raises(CallerError, match="only inside a tool"):
        idempotency_key()


async def test_what_cannot_be_marked_is_refused() -> None:
    with pytest.raises(CallerError, match="by its name in the configuration"):
        pure(len)

    class Sender:
        def send(self) -> None: ...

    assert pure(Sender().send) is not None


# Other workbenches


class Pictures(Workbench):
    """A workbench of a user's own."""

    component_type = "workbench"

    def __init__(self) -> None:
        self.log: list[str] = []

    async def list_tools(self) -> list[ToolSchema]:
        self.log.append("list")
        return [ToolSchema(name="draw", description="Draws.")]

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        cancellation_token: CancellationToken | None = None,
        call_id: str | None = None,
    ) -> ToolResult:
        self.log.append("call")
        red = Image.from_pil(Picture.new("RGB", (2, 2), "red"))
        parts = [TextResultContent(content="red"), ImageResultContent(content=red)]
        return ToolResult(name=name, result=parts, is_error=True)

    async def start(self) -> None:
        self.log.append("start")

    async def stop(self) -> None:
        self.log.append("stop")

    async def reset(self) -> None:
        self.log.append("reset")

    async def save_state(self) -> Mapping[str, Any]:
        return {"log": list(self.log)}

    async def load_state(self, state: Mapping[str, Any]) -> None:
        self.log = list(state["log"])


async def test_a_result_comes_back_equal_with_its_image(begin: Begin) -> None:
    found = []
    for answers in ([tool_calls(("draw", {}))], []):
        bench = Pictures()
        agent = writer(*answers, workbench=bench)
        attempt = await begin(agent)
        (stand_in,) = agent._workbench
        assert isinstance(stand_in, Workbench)
        await stand_in.start()
        result = await stand_in.call_tool("draw", {})
        await stand_in.stop()
        attempt.scope.close()
        found.append((result, bench.log))
    (live, log), (replayed, log_of_replay) = found
    assert live.model_dump() == replayed.model_dump()
    assert live.is_error
    image = live.result[1].content
    assert isinstance(image, Image)
    assert image.image.getpixel((0, 0)) == (255, 0, 0)
    assert log == ["start", "call", "stop"]
    assert log_of_replay == []


async def test_a_workbench_of_one_s_own_is_listed_once(begin: Begin, records: Any) -> None:
    for answers, log in (([tool_calls(("draw", {}))], ["list", "list", "call"]), ([], [])):
        bench = Pictures()
        await result_of(await begin(writer(*answers, workbench=bench)))
        assert bench.log == log
    assert [step.call.model for step in await steps(records)] == ["list_tools"] * 2 + ["draw"]


async def test_state_and_reset_go_through(begin: Begin) -> None:
    bench = Pictures()
    agent = writer(workbench=[bench])
    await begin(agent)
    (stand_in,) = agent._workbench
    await stand_in.load_state({"log": ["x"]})
    await stand_in.reset()
    assert await stand_in.save_state() == {"log": ["x", "reset"]}
    assert stand_in.log is bench.log  # type: ignore[attr-defined]


class Broken(Pictures):
    """A workbench that raises."""

    component_provider_override = "tests.Broken"
    lists = True

    async def list_tools(self) -> list[ToolSchema]:
        if not self.lists:
            raise ConnectionError("no server")
        return await super().list_tools()

    async def call_tool(self, name: str, *_: Any, **__: Any) -> ToolResult:
        raise ValueError("no ink")


async def test_what_a_workbench_raises_is_an_answer(begin: Begin) -> None:
    for answers in ([tool_calls(("draw", {}))], []):
        result = await result_of(await begin(writer(*answers, workbench=Broken())))
        assert _executions(result) == [("no ink", True)]


async def test_a_run_whose_tools_cannot_be_listed_fails(begin: Begin) -> None:
    bench = Broken()
    bench.lists = False
    attempt = await begin(writer("hi", workbench=bench))
    with pytest.raises(Exception, match="has ended"):
        await result_of(attempt)
    assert isinstance(attempt.scope.error, ConnectionError)


# MCP

SERVER = """
import os, sys
from mcp.server.fastmcp import FastMCP, Context
from mcp.types import SamplingMessage, TextContent

log = open(sys.argv[1], "a")
print("start", file=log, flush=True)
server = FastMCP("s")

@server.tool()
def add(a: int, b: int) -> str:
    print("add", file=log, flush=True)
    return str(a + b)

@server.tool()
async def hang() -> str:
    print("hang", file=log, flush=True)
    if open(sys.argv[1]).read().count("hang") == 1:
        import anyio
        await anyio.sleep_forever()
    return "hung"

@server.tool()
async def consult(ctx: Context) -> str:
    message = SamplingMessage(role="user", content=TextContent(type="text", text="so?"))
    answer = await ctx.session.create_message(messages=[message], max_tokens=9)
    return "it says " + answer.content.text

server.run()
"""


@pytest.fixture
def mcp(tmp_path: Path) -> tuple[Callable[..., Any], Callable[[], list[str]]]:
    """A real server over stdio, and what it did."""
    pytest.importorskip("mcp")
    from autogen_ext.tools.mcp import McpWorkbench, StdioServerParams

    script, log = tmp_path / "server.py", tmp_path / "log"
    script.write_text(SERVER)
    log.touch()
    params = StdioServerParams(command=sys.executable, args=[str(script), str(log)])
    return lambda **more: McpWorkbench(params, **more), lambda: log.read_text().split()


async def test_an_mcp_server_is_not_started_for_a_replay(begin: Begin, mcp: Any) -> None:
    make, log = mcp
    ask = tool_calls(("add", {"a": 1, "b": 2}), ("add", {"a": 3, "b": 4}))
    first = await result_of(await begin(writer(ask, workbench=make())))
    assert log() == ["start", "add", "add"]
    second = await result_of(await begin(writer(workbench=make())))
    assert last(first) == last(second) == "3\n7"
    assert log() == ["start", "add", "add"]


async def test_an_mcp_call_that_was_cut_off(
    begin: Begin, mcp: Any, records: Any, scheduler: LocalScheduler
) -> None:
    make, log = mcp
    acts = asyncio.Event()

    task = asyncio.create_task(noticed(acts, lambda: "hang" in log()))
    await cut_off(await begin(writer(tool_calls(("hang", {})), workbench=make())), acts)
    await task
    lost = (await steps(records))[-1]
    assert lost.state is CallState.UNKNOWN
    assert await stop_of(await begin(writer(workbench=make()))) == NeedsInput(lost.call.id)
    assert log() == ["start", "hang"]
    result = await result_of(await begin(writer(workbench=pure(make()))))
    assert last(result) == "hung"


async def test_what_an_mcp_server_asks_a_model_is_a_call_of_the_run(
    begin: Begin, mcp: Any, records: Any
) -> None:
    make, _ = mcp
    bench = make(model_client=client("yes"))
    first = await result_of(await begin(writer(tool_calls(("consult", {})), workbench=bench)))
    paths = [r.call.path for r in await records("run") if r.call.kind == "model"]
    assert paths == ["writer", "writer/#sampling"]
    second = await result_of(await begin(writer(workbench=make(model_client=client()))))
    assert last(first) == last(second) == "it says yes"


# Code


def coder(*, executor: CodeExecutor, **more: Any) -> RoundRobinGroupChat:
    author = AssistantAgent("author", client(*more.pop("answers", ())))
    runner = CodeExecutorAgent("runner", executor, **more)
    return RoundRobinGroupChat([author, runner], termination_condition=MaxMessageTermination(3))


async def test_code_is_executed_once(begin: Begin, records: Any, tmp_path: Path) -> None:
    script = f"```sh\necho run >> {tmp_path}/log\necho ran\n```"
    texts = []
    for answers in ([script], []):
        executor = LocalCommandLineCodeExecutor(work_dir=tmp_path / "work")
        team = coder(executor=executor, answers=answers)
        attempt = await begin(team)
        assert isinstance(team._participants[1]._code_executor, CodeExecutor)  # type: ignore[union-attr]
        texts.append(last(await result_of(attempt)))
        assert not executor._started
    assert texts == ["ran\n"] * 2
    assert (tmp_path / "log").read_text() == "run\n"
    (step,) = await steps(records)
    assert (step.call.path, step.call.model) == ("runner", "execute_code")


async def test_an_executor_is_started_for_what_is_not_replayed(
    begin: Begin, tmp_path: Path
) -> None:
    class Watched(LocalCommandLineCodeExecutor):
        component_provider_override = "tests.Watched"
        starts = 0

        async def start(self) -> None:
            Watched.starts += 1
            await super().start()

    for answers in (["```sh\necho ran\n```"], []):
        await result_of(await begin(coder(executor=Watched(work_dir=tmp_path), answers=answers)))
        assert Watched.starts == 1


async def test_code_that_was_cut_off_waits_for_a_person(
    begin: Begin, records: Any, scheduler: LocalScheduler, tmp_path: Path
) -> None:
    acts = asyncio.Event()
    log = tmp_path / "log"
    # More than fits in a pipe and asyncio's buffer: when the log is there, the executor reads.
    script = f"```sh\nhead -c 300000 /dev/zero\necho run >> {log}\nexec sleep 30\n```"

    def team(*answers: str) -> RoundRobinGroupChat:
        executor = LocalCommandLineCodeExecutor(work_dir=tmp_path / "work")
        return coder(executor=executor, answers=answers)

    task = asyncio.create_task(noticed(acts, log.exists))
    await cut_off(await begin(team(script)), acts)
    await task
    (step,) = await steps(records)
    assert await stop_of(await begin(team())) == NeedsInput(step.call.id)
    await scheduler.decide(step, Outcome(CallState.DONE, answer=person_answer("42"), arrival=1))
    assert last(await result_of(await begin(team()))) == "42"
    assert log.read_text() == "run\n"


async def test_an_executor_takes_blocks_as_before(begin: Begin, tmp_path: Path) -> None:
    team = coder(executor=LocalCommandLineCodeExecutor(work_dir=tmp_path))
    attempt = await begin(team)
    executor: CodeExecutor = team._participants[1]._code_executor  # type: ignore[union-attr]
    blocks = [CodeBlock(code="exit 3", language="sh")]
    result = await executor.execute_code_blocks(blocks, CancellationToken())
    assert result.exit_code == 3
    attempt.scope.close()
    await release(attempt.scope)
