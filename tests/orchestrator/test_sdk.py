"""``hw.openai``: what is asked through the SDK belongs to the run that asks, or to none."""

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

import anyio
import openai
import pytest
from autogen_agentchat.agents import AssistantAgent, BaseChatAgent
from autogen_agentchat.base import Response
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.messages import BaseChatMessage, TextMessage
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core import CancellationToken
from autogen_core.models import UserMessage

from headway import Headway, RunFailed
from headway.config import load
from headway_scheduler.errors import BudgetExceeded, CallerError
from headway_scheduler.model.calls import Priority
from headway_scheduler.model.states import CallState, RunState
from headway_scheduler.testing.provider import (
    Fault,
    FaultKind,
    Reply,
    Settings,
    SimulatedProvider,
    ToolCall,
    simulated_provider,
)

pytestmark = pytest.mark.anyio


@dataclass
class World:
    """A folder with a configuration, and a provider; requests in ``hangs`` get no answer."""

    folder: Path
    provider: SimulatedProvider
    hangs: set[int] = field(default_factory=set)
    begun: anyio.Event = field(default_factory=anyio.Event)

    def headway(self) -> Headway:
        return Headway(load(self.folder / "headway.toml", environ={}))

    def paid(self, model: str) -> int:
        return sum(entry.model == model for entry in self.provider.ledger.paid)


def reply(body: Any) -> Reply | None:
    """Agents with a tool call it once."""
    tools = [tool["function"]["name"] for tool in body.get("tools") or ()]
    is_called = any(message["role"] == "tool" for message in body["messages"])
    return Reply(tool_calls=(ToolCall(tools[0]),)) if tools and not is_called else None


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    hangs: set[int] = set()
    begun = anyio.Event()

    def faults(number: int, _: Any) -> Fault | None:
        if number not in hangs:
            return None
        begun.set()
        return Fault(FaultKind.HANG)

    async with simulated_provider(Settings(reply=reply, faults=faults)) as provider:
        prices = "usd_per_million_input_tokens = 1000\nusd_per_million_output_tokens = 1000"
        (tmp_path / "headway.toml").write_text(
            f"""
[database]
path = "headway.db"
[quotas.talk]
concurrency = 1
[quotas.vectors]
concurrency = 1
[models.sim]
quotas = ["talk"]
base_url = "{provider.base_url}"
{prices}
[models.embed]
quotas = ["vectors"]
base_url = "{provider.base_url}"
api_key_env = "OPENAI_API_KEY"
{prices}
"""
        )
        yield World(tmp_path, provider, hangs, begun)


async def embed(sdk: openai.AsyncOpenAI, text: str) -> list[float]:
    answer = await sdk.embeddings.create(model="embed", input=text)
    return answer.data[0].embedding


class Librarian(BaseChatAgent):
    """Finds three places by their embeddings, one after the other, without a step."""

    produced_message_types = (TextMessage,)

    def __init__(self, sdk: openai.AsyncOpenAI) -> None:
        super().__init__("librarian", "Finds the place of a book.")
        self._sdk = sdk

    async def on_messages(
        self, messages: Sequence[BaseChatMessage], cancellation_token: CancellationToken
    ) -> Response:
        sums = [sum(await embed(self._sdk, f"shelf {number}")) for number in range(3)]
        return Response(chat_message=TextMessage(content=repr(sums), source=self.name))

    async def on_reset(self, cancellation_token: CancellationToken) -> None:
        pass


def with_librarian(headway: Headway) -> Headway:
    def library(models: Any) -> Any:
        librarian = Librarian(headway.openai("embed"))
        return RoundRobinGroupChat([librarian], termination_condition=MaxMessageTermination(2))

    headway.workflow("library")(library)
    return headway


async def interrupted(world: World) -> str:
    """Cut a run off in its third embedding."""
    world.hangs.add(3)
    with suppress(InterruptedError):
        async with with_librarian(world.headway()) as headway:
            handle = await headway.start("library", task="Go.", priority="high")
            await world.begun.wait()
            raise InterruptedError
    return handle.id


async def test_a_resumed_run_pays_for_no_embedding_twice(world: World) -> None:
    run_id = await interrupted(world)
    assert world.paid("embed") == 2
    async with world.headway() as headway:
        with_librarian(headway)
        check = await headway.check(run_id)
        assert (check.outcome, check.replayed) == ("asks", 2)
        assert check.next == f"librarian (sdk, {run_id}.2, unknown)"
        handle = await headway.resume(run_id)
        result = await handle.result()
        calls = await headway.list_calls(run_id)
        receipt = await headway.receipt(run_id)
    assert world.paid("embed") == 3
    assert [call.call.kind for call in calls] == ["sdk"] * 3
    assert {call.call.priority for call in calls} == {Priority.HIGH}
    assert (result.calls, result.usage.output_tokens) == (3, 0)
    assert result.usage.input_tokens > 0
    assert (receipt.replayed, receipt.steps_replayed, receipt.paid) == (2, 0, 1)
    assert receipt.possibly_paid == (f"{run_id}.2",)
    assert receipt.usd_paid is not None
    assert receipt.usd_paid > 0


CHILD = """
import sys
from math import ceil

import anyio
from autogen_agentchat.agents import BaseChatAgent

from headway import Headway
sys.path.insert(0, {tests!r})
from test_sdk import with_librarian

async def main():
    hw = with_librarian(Headway())
    async with hw:
        run = await hw.start("library", task="Go.", key="one")
        print((await run.result()).text)

anyio.run(main)
"""


async def test_kill_9_in_an_embedding_costs_only_that_one(world: World) -> None:
    world.hangs.add(3)
    child = [sys.executable, "-c", CHILD.format(tests=str(Path(__file__).parent))]
    async with await anyio.open_process(child, cwd=world.folder) as process:
        await world.begun.wait()
        process.kill()  # SIGKILL
    assert world.paid("embed") == 2
    finished = await anyio.run_process(child, cwd=world.folder)
    assert finished.stdout.startswith(b"[")
    assert world.paid("embed") == 3
    assert not world.provider.ledger.duplicates()


async def test_a_tool_s_calls_are_its_own_and_come_back_with_it(world: World) -> None:
    found: list[list[float]] = []

    def workflow(headway: Headway) -> Any:
        async def look_up() -> str:
            """Look it up."""
            found.append(await embed(headway.openai("embed"), "tides"))
            return "found"

        return lambda models: AssistantAgent(
            "clerk", models("sim"), tools=[look_up], reflect_on_tool_use=True
        )

    world.hangs.add(3)  # the model again, after its tool
    with suppress(InterruptedError):
        async with world.headway() as headway:
            headway.workflow("clerk")(workflow(headway))
            handle = await headway.start("clerk", task="Go.")
            await world.begun.wait()
            raise InterruptedError
    async with world.headway() as headway:
        headway.workflow("clerk")(workflow(headway))
        await (await headway.resume(handle.id)).result()
        calls = await headway.list_calls(handle.id)
    assert len(found) == world.paid("embed") == 1
    assert [(call.call.kind, call.call.model) for call in calls] == [
        ("model", "sim"),
        ("tool", "look_up"),
        ("sdk", "embed"),
        ("model", "sim"),
    ]
    assert calls[2].call.path.endswith(f"#{calls[1].call.id}")


async def test_chat_and_embeddings_do_not_wait_for_each_other(world: World) -> None:
    """Each quota has one slot: that of embeddings is taken for good, and chat goes on."""
    world.hangs.add(1)
    hello = [UserMessage(content="hello", source="user")]
    async with world.headway() as headway:
        sdk = headway.openai("embed")
        async with anyio.create_task_group() as group:
            group.start_soon(embed, sdk, "one")
            await world.begun.wait()
            group.start_soon(embed, sdk, "two")
            assert (await headway.model("sim").create(hello)).content
            assert world.paid("sim") == 1
            assert len(world.provider.ledger) == 2
            statistics = headway.scheduler.statistics()
            assert (statistics.in_flight, sum(statistics.waiting)) == (1, 1)
            group.cancel_scope.cancel()


async def test_outside_of_a_run_calls_are_those_of_the_ad_hoc_run(world: World) -> None:
    async with world.headway() as headway:
        sdk = headway.openai("embed", priority="low")
        await embed(sdk, "one")
        await headway.model("sim").create([UserMessage(content="hello", source="user")])
        await sdk.close()  # the user's own: others stay open
        await embed(headway.openai("embed"), "two")
        (run,) = await headway.list_runs()
        calls = await headway.list_calls(run.id)
    assert run.workflow == "(ad hoc)"
    assert [(call.call.kind, call.call.quotas, call.state) for call in calls] == [
        ("sdk", ("vectors",), CallState.DONE),
        ("model", ("talk",), CallState.DONE),
        ("sdk", ("vectors",), CallState.DONE),
    ]
    assert calls[0].call.priority is Priority.LOW


async def test_after_a_run_and_a_check_who_asks_is_outside_again(world: World) -> None:
    run_id = await interrupted(world)
    async with world.headway() as headway:
        with_librarian(headway)
        await headway.check(run_id)
        await (await headway.resume(run_id)).result()
        await embed(headway.openai("embed"), "shelf 0")
        assert len(await headway.list_calls(run_id)) == 3
    assert world.paid("embed") == 4


async def test_embeddings_count_on_the_run_s_budget(world: World) -> None:
    async with world.headway() as headway:
        with_librarian(headway)
        free = await headway.start("library", task="Go.")
        await free.result()
        first, second, third = (await headway.list_calls(free.id))[:3]
        assert first.usage is not None
        assert second.usage is not None
        assert third.usage is not None
        # Of the third it reserves a quarter more than the answers of the first run tell.
        tokens = first.usage.total + second.usage.total + ceil(1.25 * third.usage.total)
        budget_usd = (tokens - 1) * 0.001
        with pytest.raises(RunFailed) as caught:
            await headway.run("library", task="Go.", budget_usd=budget_usd)
    assert isinstance(caught.value.__cause__, BudgetExceeded)
    assert world.paid("embed") == 3 + 2


async def test_a_person_decides_but_does_not_answer_in_the_provider_s_place(world: World) -> None:
    run_id = await interrupted(world)
    async with world.headway() as headway:
        with_librarian(headway)
        handle = await headway.resume(run_id, unknown="wait")
        await handle.ended()
        assert handle.run.state is RunState.WAITING
        question = await headway.question(run_id)
        assert question is not None
        assert "What came of it? embeddings\n" in question[1]
        assert "shelf 2" in question[1]
        with pytest.raises(CallerError, match="takes no words"):
            await headway.answer(run_id, "0.5")
        await headway.answer(run_id, again=True)
        await (await headway.resume(run_id)).result()
    assert world.paid("embed") == 3


async def test_it_needs_an_open_headway_and_a_key(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    headway = world.headway()
    with pytest.raises(CallerError, match="not open"):
        headway.openai("embed")
    monkeypatch.delenv("OPENAI_API_KEY")
    async with headway:
        with pytest.raises(CallerError, match="OPENAI_API_KEY"):
            headway.openai("embed")
