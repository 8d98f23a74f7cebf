"""The time, chance and fetched data: told once, and told again in a replay."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from autogen_agentchat.agents import BaseChatAgent
from autogen_agentchat.base import Response, TaskResult
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.messages import BaseChatMessage, TextMessage
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core import CancellationToken

from headway_agents import Attempt, Effect, Journal, NeedsInput, RunScope, bind, person_answer
from headway_agents.steps.effects import idempotency_key
from headway_agents.steps.inputs import now, random, step
from headway_agents.steps.step import LONGEST_ANSWER
from headway_scheduler.backends.memory.store import MemoryStore
from headway_scheduler.errors import CallerError
from headway_scheduler.model.calls import Outcome, Priority
from headway_scheduler.model.states import CallState
from headway_scheduler.runtime.local import LocalScheduler

pytestmark = pytest.mark.anyio

Act = Callable[[], Awaitable[Any]]


class Actor(BaseChatAgent):
    """An agent of a user's own that does something and says what came of it."""

    def __init__(self, act: Act) -> None:
        super().__init__("actor", "Acts.")
        self.act = act

    @property
    def produced_message_types(self) -> Sequence[type[BaseChatMessage]]:
        return (TextMessage,)

    async def on_messages(
        self, messages: Sequence[BaseChatMessage], cancellation_token: CancellationToken
    ) -> Response:
        result = await self.act()
        return Response(chat_message=TextMessage(content=repr(result), source=self.name))

    async def on_reset(self, cancellation_token: CancellationToken) -> None:
        pass


@pytest.fixture
def begin(store: MemoryStore, scheduler: LocalScheduler, models: Any) -> Callable[..., Any]:
    async def beginning(act: Act) -> Attempt:
        rows = Journal(records=await store.calls("run"))
        scope = RunScope(scheduler, "run", Priority.NORMAL, journal=rows)
        team = RoundRobinGroupChat([Actor(act)], termination_condition=MaxMessageTermination(2))
        bind(team, scope, models)
        return Attempt(team, scope)

    return beginning


async def said(attempt: Attempt) -> Any:
    async for _ in attempt.events("Go."):
        pass
    result: TaskResult | None = attempt.result
    return None if result is None else result.messages[-1].to_text()


async def test_an_answer_that_is_too_long_is_an_error_of_its_step(
    begin: Callable[..., Any], store: MemoryStore
) -> None:
    async def told() -> str:
        try:
            return str(await step("read", lambda: "x" * LONGEST_ANSWER, effect=Effect.PURE))
        except CallerError as error:
            return str(error)

    attempt = await begin(told)
    said = [message async for message in attempt.events("Go.")]
    assert "Give a part of them" in said[-1].to_text()
    (record,) = await store.calls("run")
    assert record.state is CallState.FAILED
    assert len(record.error or "") < 300


async def test_time_and_chance_are_the_same_in_a_replay(begin: Any, records: Any) -> None:
    async def act() -> Any:
        return [await now(), await random(), await random()]

    first = await said(await begin(act))
    assert await said(await begin(act)) == first
    moment, *numbers = eval(first)
    assert moment > 1e9
    assert numbers[0] != numbers[1]
    rows = await records("run")
    assert [(row.call.kind, row.call.path, row.call.model) for row in rows] == [
        ("input", "actor", "now"),
        ("input", "actor", "random"),
        ("input", "actor", "random"),
    ]


async def test_a_function_is_called_once_for_its_arguments(begin: Any) -> None:
    calls: list[Any] = []

    def fetch(*args: Any) -> Any:
        calls.append(args)
        return {"args": args}

    async def fetch_async(*args: Any) -> Any:
        return fetch(*args)

    async def act() -> Any:
        return [
            await step("page", fetch, "a"),
            await step("page", fetch_async, "b", {"deep": [1]}),
            await step("other", fetch, "a"),
        ]

    first = await said(await begin(act))
    assert eval(first) == [{"args": ["a"]}, {"args": ["b", {"deep": [1]}]}, {"args": ["a"]}]
    assert await said(await begin(act)) == first
    assert len(calls) == 3


async def test_what_is_no_json_is_refused(begin: Any) -> None:
    async def act() -> Any:
        with pytest.raises(CallerError, match="called with"):
            await step("page", len, object())
        with pytest.raises(CallerError, match="result of step 'page'"):
            await step("page", object)
        return "refused"

    assert await said(await begin(act)) == "'refused'"


async def test_outside_of_a_run_it_is_refused() -> None:
    with pytest.raises(CallerError, match="step 'now' belongs to no run"):
        await now()


@pytest.mark.parametrize("effect", list(Effect))
async def test_a_step_that_was_cut_off(
    effect: Effect, begin: Any, records: Any, scheduler: LocalScheduler
) -> None:
    acts, keys = asyncio.Event(), list[str]()

    async def send(text: str) -> str:
        keys.append(idempotency_key())
        if not acts.is_set():
            acts.set()
            await asyncio.Event().wait()
        return f"sent {text}"

    async def act() -> Any:
        return await step("send", send, "hi", effect=effect)

    first = await begin(act)
    task = asyncio.create_task(said(first))
    await acts.wait()
    first.close()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()  # seen
    (row,) = await records("run")
    assert row.state is CallState.UNKNOWN
    second = await begin(act)
    if effect is not Effect.ONCE:
        assert await said(second) == "'sent hi'"
        assert keys == [row.call.id] * 2
        return
    assert await said(second) is None
    assert second.stopped == NeedsInput(row.call.id)
    given = Outcome(CallState.DONE, answer=person_answer("It went out."), arrival=0)
    await scheduler.decide(row, given)
    assert await said(await begin(act)) == "'It went out.'"
    assert len(keys) == 1
