"""People are asked once: through a terminal, by the user's own function, or after the process."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from autogen_agentchat.agents import (
    ApprovalRequest,
    ApprovalResponse,
    AssistantAgent,
    CodeExecutorAgent,
    UserProxyAgent,
)
from autogen_agentchat.base import ChatAgent, TaskResult, Team
from autogen_agentchat.conditions import HandoffTermination, MaxMessageTermination
from autogen_agentchat.messages import BaseChatMessage, HandoffMessage, TextMessage
from autogen_agentchat.teams import RoundRobinGroupChat, Swarm
from autogen_core import CancellationToken, FunctionCall
from autogen_core.models import CreateResult, RequestUsage
from autogen_ext.code_executors.local import LocalCommandLineCodeExecutor
from autogen_ext.models.replay import ReplayChatCompletionClient

from headway_agents import Attempt, Journal, NeedsInput, RunScope, bind, person_answer
from headway_agents.wrappers.people import answer_handoff
from headway_scheduler.backends.memory.store import MemoryStore
from headway_scheduler.errors import RunClosed
from headway_scheduler.model.calls import Outcome, Priority
from headway_scheduler.model.states import CallState
from headway_scheduler.runtime.local import LocalScheduler

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:Using LocalCommandLineCodeExecutor:UserWarning"),
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
    async def beginning(team: Team | ChatAgent) -> Attempt:
        rows = Journal(records=await store.calls("run"))
        scope = RunScope(scheduler, "run", Priority.NORMAL, journal=rows)
        bind(team, scope, models)
        return Attempt(team, scope)

    return beginning


@pytest.fixture
def answer(store: MemoryStore, scheduler: LocalScheduler) -> Callable[[str], Awaitable[None]]:
    """Answer the open question of the run, as another process would."""

    async def answering(words: str) -> None:
        rows = await store.calls("run")
        (row,) = (row for row in rows if row.state is CallState.QUEUED)
        arrival = 1 + max((r.arrival for r in rows if r.arrival is not None), default=-1)
        given = Outcome(CallState.DONE, answer=person_answer(words), arrival=arrival)
        await scheduler.decide(row, given)

    return answering


async def run(attempt: Attempt) -> TaskResult | None:
    try:
        async for _ in attempt.events("Go."):
            pass
    except RunClosed:
        assert attempt.stopped is not None  # while the question of a handoff was open
    return attempt.result


def texts(result: TaskResult | None) -> list[str]:
    assert result is not None
    return [m.to_text() for m in result.messages if isinstance(m, BaseChatMessage)]


def client(*answers: str | CreateResult) -> ReplayChatCompletionClient:
    return ReplayChatCompletionClient(list(answers), model_info=MODEL_INFO)


def hand_off(target: str) -> CreateResult:
    return CreateResult(
        content=[FunctionCall(id="call_0", name=f"transfer_to_{target}", arguments="{}")],
        finish_reason="function_calls",
        usage=RequestUsage(prompt_tokens=1, completion_tokens=1),
        cached=False,
    )


def chat(user: UserProxyAgent, *answers: str, count: int = 4) -> Team:
    writer = AssistantAgent("writer", client(*answers))
    return RoundRobinGroupChat([writer, user], termination_condition=MaxMessageTermination(count))


# UserProxyAgent


@pytest.mark.parametrize("asked", [None, input])
async def test_a_run_waits_for_a_person_and_goes_on_with_the_answer(
    asked: Any, begin: Begin, answer: Any, records: Any, store: MemoryStore
) -> None:
    first = await begin(chat(UserProxyAgent("user", input_func=asked), "Which sea?"))
    assert await run(first) is None
    (row,) = (row for row in await records("run") if row.call.kind == "person")
    assert first.stopped == NeedsInput(row.call.id)
    assert row.call.path == "user"
    prompt = await store.prompt(row.call.request_hash)
    assert prompt is not None
    assert "Enter your response" in "".join(prompt)
    await answer("The Baltic.")
    second = await begin(chat(UserProxyAgent("user", input_func=asked), "A verse."))
    assert texts(await run(second)) == ["Go.", "Which sea?", "The Baltic.", "A verse."]
    third = await begin(chat(UserProxyAgent("user", input_func=asked)))
    assert texts(await run(third)) == ["Go.", "Which sea?", "The Baltic.", "A verse."]


async def test_whoever_is_there_is_asked(begin: Begin) -> None:
    attempt = await begin(chat(UserProxyAgent("user"), "Which sea?", count=3))
    prompts = []

    async def terminal(prompt: str) -> str:
        prompts.append(prompt)
        return "The Baltic."

    attempt.scope.person = terminal
    assert texts(await run(attempt)) == ["Go.", "Which sea?", "The Baltic."]
    assert prompts == ["Enter your response: "]
    replayed = await begin(chat(UserProxyAgent("user"), count=3))
    assert texts(await run(replayed)) == ["Go.", "Which sea?", "The Baltic."]


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_function_of_the_user_s_own_answers_once(is_async: bool, begin: Begin) -> None:
    prompts = []

    def reply(prompt: str) -> str:
        prompts.append(prompt)
        return "Mine."

    async def reply_async(prompt: str, token: CancellationToken | None) -> str:
        return reply(prompt)

    for answers in (["Which sea?"], []):
        user = UserProxyAgent("user", input_func=reply_async if is_async else reply)
        attempt = await begin(chat(user, *answers, count=3))
        assert texts(await run(attempt))[-1] == "Mine."
    assert len(prompts) == 1


async def test_a_function_that_was_cut_off_asks_again(begin: Begin, records: Any) -> None:
    asked, count = asyncio.Event(), 0

    async def reply(prompt: str, token: CancellationToken | None) -> str:
        nonlocal count
        count += 1
        if not asked.is_set():
            asked.set()
            await asyncio.Event().wait()
        return "Mine."

    first = await begin(chat(UserProxyAgent("user", input_func=reply), "So?", count=3))
    task = asyncio.create_task(run(first))
    await asked.wait()
    first.close()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()  # seen
    (row,) = (row for row in await records("run") if row.call.kind == "person")
    assert row.state is CallState.UNKNOWN
    second = await begin(chat(UserProxyAgent("user", input_func=reply), count=3))
    assert texts(await run(second))[-1] == "Mine."
    assert count == 2


async def test_binding_again_asks_the_same_function(begin: Begin) -> None:
    user = UserProxyAgent("user", input_func=lambda prompt: "Mine.")
    team = chat(user, "So?", count=3)
    await begin(team)
    assert texts(await run(await begin(team)))[-1] == "Mine."


# Approval of code


@pytest.mark.parametrize("is_async", [True, False])
async def test_code_is_approved_once(is_async: bool, begin: Begin, tmp_path: Path) -> None:
    asked = []

    def approve(request: ApprovalRequest) -> ApprovalResponse:
        asked.append(request.code)
        return ApprovalResponse(approved="rm" not in request.code, reason="no rm")

    async def approve_async(request: ApprovalRequest) -> ApprovalResponse:
        return approve(request)

    for answers in (["```sh\nrm x\n```"], []):
        executor = LocalCommandLineCodeExecutor(work_dir=tmp_path)
        function = approve_async if is_async else approve
        runner = CodeExecutorAgent("runner", executor, approval_func=function)
        author = AssistantAgent("author", client(*answers))
        limit = MaxMessageTermination(3)
        attempt = await begin(RoundRobinGroupChat([author, runner], termination_condition=limit))
        assert "not approved. Reason: no rm" in texts(await run(attempt))[-1]
    assert len(asked) == 1


# Handoffs


def swarm(*answers: str | CreateResult) -> Team:
    clerk = AssistantAgent("clerk", client(*answers), handoffs=["user"])
    return Swarm([clerk], termination_condition=HandoffTermination("user") | _limit())


def _limit() -> MaxMessageTermination:
    return MaxMessageTermination(12)


async def test_a_handoff_to_a_person_waits_and_goes_on(
    begin: Begin, answer: Any, records: Any
) -> None:
    for _ in range(2):
        first = await begin(swarm(hand_off("user")))
        assert await run(first) is None
        rows = await records("run")
        assert [row.call.kind for row in rows] == ["model", "person"]
        assert first.stopped == NeedsInput(rows[1].call.id)
    await answer("Flight 9.")
    team = swarm(hand_off("user"))
    second = await begin(team)
    assert await run(second) is None
    assert isinstance(second.stopped, NeedsInput)
    rows = await records("run")
    assert [row.call.kind for row in rows] == ["model", "person"] * 2


async def test_the_answer_to_a_handoff_is_the_next_task(scope: RunScope, models: Any) -> None:
    team = swarm(hand_off("user"))
    bind(team, scope, models)
    result = await team.run(task="Go.")

    async def terminal(prompt: str) -> str:
        assert prompt.startswith("Transferred to user")
        return "Flight 9."

    scope.person = terminal
    message = await answer_handoff(scope, team, result)
    assert message is not None
    assert (message.source, message.target, message.content) == ("user", "clerk", "Flight 9.")


async def test_an_agent_by_itself_may_hand_off_too(scope: RunScope, models: Any) -> None:
    clerk = AssistantAgent("clerk", client(hand_off("user"), "Thanks."), handoffs=["user"])
    bind(clerk, scope, models)

    async def terminal(prompt: str) -> str:
        return "Flight 9."

    scope.person = terminal
    message = await answer_handoff(scope, clerk, await clerk.run(task="Go."))
    assert message is not None
    assert (await clerk.run(task=message)).messages[-1].to_text() == "Thanks."


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (TextMessage(source="clerk", content="done"), None),
        (HandoffMessage(source="user", target="clerk", content="x"), None),
        (HandoffMessage(source="clerk", target="", content="x"), None),
        (HandoffMessage(source="clerk", target="user", content="x"), "Maximum number of messages"),
    ],
)
async def test_other_ends_are_no_questions(
    message: Any, reason: str | None, scope: RunScope
) -> None:
    result = TaskResult(messages=[message], stop_reason=reason)
    assert await answer_handoff(scope, swarm(), result) is None
    assert await answer_handoff(scope, swarm(), TaskResult(messages=[])) is None
