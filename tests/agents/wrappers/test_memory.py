"""External memories: what they found, and what they told an agent, comes again in a replay."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_core import CancellationToken, Image
from autogen_core.memory import (
    ListMemory,
    Memory,
    MemoryContent,
    MemoryQueryResult,
    UpdateContextResult,
)
from autogen_core.model_context import ChatCompletionContext
from autogen_core.models import SystemMessage, UserMessage
from autogen_ext.models.replay import ReplayChatCompletionClient
from PIL import Image as Picture

from headway_agents import Attempt, Effect, Journal, NeedsInput, RunScope, bind, person_answer
from headway_agents.steps.effects import idempotent
from headway_agents.wrappers.memory import JournaledMemory
from headway_scheduler.backends.memory.store import MemoryStore
from headway_scheduler.model.calls import Outcome, Priority
from headway_scheduler.model.states import CallState
from headway_scheduler.runtime.local import LocalScheduler

pytestmark = pytest.mark.anyio

Begin = Callable[..., Awaitable[Attempt]]


class Diary(Memory):
    """A memory that says something else every time."""

    component_type = "memory"

    def __init__(self) -> None:
        self.log: list[str] = []
        self.hangs = asyncio.Event()
        self.is_hanging = False

    async def update_context(self, model_context: ChatCompletionContext) -> UpdateContextResult:
        before = await model_context.get_messages()
        found = await self.query(str(before[-1].content))
        await model_context.add_message(SystemMessage(content=f"note {len(self.log)}"))
        red = Image.from_pil(Picture.new("RGB", (2, 2), "red"))
        await model_context.add_message(UserMessage(content=["see", red], source="diary"))
        assert len(await model_context.get_messages()) == len(before) + 2
        return UpdateContextResult(memories=found)

    async def query(
        self,
        query: str | MemoryContent,
        cancellation_token: CancellationToken | None = None,
        **kwargs: Any,
    ) -> MemoryQueryResult:
        self.log.append(f"query {query}")
        blue = Image.from_pil(Picture.new("RGB", (1, 1), "blue"))
        contents: list[Any] = [f"found {len(self.log)}", b"\xff\x00", {"a": [1]}, blue]
        return MemoryQueryResult(
            results=[
                MemoryContent(content=content, mime_type="x/y", metadata={"n": 1})
                for content in contents
            ]
        )

    async def add(
        self, content: MemoryContent, cancellation_token: CancellationToken | None = None
    ) -> None:
        self.log.append(f"add {content.content!r}")
        if self.is_hanging:
            self.hangs.set()
            await asyncio.Event().wait()

    async def clear(self) -> None:
        self.log.append("clear")

    async def close(self) -> None:
        self.log.append("close")


@pytest.fixture
def begin(store: MemoryStore, scheduler: LocalScheduler, models: Any) -> Begin:
    async def beginning(agent: AssistantAgent, kinds: Any = None) -> Attempt:
        rows = Journal(records=await store.calls("run"))
        scope = RunScope(scheduler, "run", Priority.NORMAL, journal=rows)
        bind(agent, scope, models, effects=kinds)
        return Attempt(agent, scope)

    return beginning


def writer(memory: Memory, *answers: str) -> AssistantAgent:
    return AssistantAgent("writer", ReplayChatCompletionClient(list(answers)), memory=[memory])


def stand_in(agent: AssistantAgent) -> Memory:
    assert agent._memory is not None
    (memory,) = agent._memory
    return memory


async def test_an_agent_is_told_what_it_was_told(begin: Begin, records: Any) -> None:
    seen = []
    for answers, log in ((["Ahoy."], ["query Go."]), ([], [])):
        diary = Diary()
        agent = writer(diary, *answers)
        attempt = await begin(agent)
        messages = [message async for message in attempt.events("Go.")]
        assert attempt.result is not None
        assert diary.log == log
        context = await agent.model_context.get_messages()
        assert [message.type for message in context][1:3] == ["SystemMessage", "UserMessage"]
        image = context[2].content[1]
        assert isinstance(image, Image)
        assert image.image.getpixel((0, 0)) == (255, 0, 0)
        (event,) = (m for m in messages if m.type == "MemoryQueryEvent")
        seen.append(([m.model_dump() for m in context], [c.model_dump() for c in event.content]))  # type: ignore[union-attr]
    assert seen[0] == seen[1]
    rows = await records("run")
    assert [(row.call.kind, row.call.path, row.call.model) for row in rows] == [
        ("input", "writer", "Diary.update_context"),
        ("model", "writer", "m"),
    ]


async def test_contents_of_every_type_come_back(begin: Begin) -> None:
    found = []
    for log in (["query so"], []):
        diary = Diary()
        agent = writer(diary)
        attempt = await begin(agent)
        result = await stand_in(agent).query("so", limit=3)
        found.append([content.content for content in result.results])
        attempt.scope.close()
        assert diary.log == log
    live, replayed = found
    assert live[:3] == replayed[:3] == ["found 1", b"\xff\x00", {"a": [1]}]
    for contents in found:
        assert isinstance(contents[3], Image)
        assert contents[3].image.getpixel((0, 0)) == (0, 0, 255)


async def test_a_list_memory_runs_again(begin: Begin, records: Any) -> None:
    memory = ListMemory()
    await memory.add(MemoryContent(content="a", mime_type="text/plain"))
    agent = writer(memory, "Ahoy.")
    attempt = await begin(agent)
    assert stand_in(agent) is memory
    assert [m.type async for m in attempt.events("Go.")]
    assert [row.call.kind for row in await records("run")] == ["model"]


async def test_additions_happen_once(begin: Begin) -> None:
    note = MemoryContent(content=b"x", mime_type="x/y")
    for log in (["add b'x'", "clear", "close"], ["close"]):
        diary = Diary()
        agent = writer(diary)
        attempt = await begin(agent)
        memory = stand_in(agent)
        await memory.add(note)
        await memory.clear()
        await memory.close()
        attempt.scope.close()
        assert diary.log == log
        assert isinstance(memory, JournaledMemory)
        assert memory.log is diary.log


@pytest.mark.parametrize("kind", ["once", "marked", "configured"])
async def test_an_addition_that_was_cut_off(
    kind: str, begin: Begin, records: Any, scheduler: LocalScheduler
) -> None:
    note = MemoryContent(content="x", mime_type="text/plain")
    diary = Diary()
    diary.is_hanging = True
    agent = writer(diary)
    attempt = await begin(agent)
    task = asyncio.create_task(stand_in(agent).add(note))
    await diary.hangs.wait()
    attempt.close()
    await asyncio.wait([task])
    assert task.exception() is not None
    (row,) = await records("run")
    assert row.state is CallState.UNKNOWN
    diary.is_hanging = False
    if kind == "marked":
        idempotent(diary)
    agent = writer(diary)
    kinds = {"Diary.add": Effect.PURE} if kind == "configured" else None
    attempt = await begin(agent, kinds)
    if kind == "once":
        task = asyncio.create_task(stand_in(agent).add(note))
        await asyncio.wait([task])
        assert task.exception() is not None
        assert attempt.stopped == NeedsInput(row.call.id)
        given = Outcome(CallState.DONE, answer=person_answer("It was."), arrival=0)
        await scheduler.decide(row, given)
        agent = writer(diary)
        attempt = await begin(agent)
    await stand_in(agent).add(note)
    attempt.close()
    assert diary.log == ["add 'x'"] * (1 if kind == "once" else 2)
