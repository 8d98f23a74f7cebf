"""Runs that stop and go on: every way to stop one, every way to go on, in a Headway opened anew."""

import importlib
import inspect
import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import anyio
import openai
import pytest
from autogen_agentchat.agents import AssistantAgent, UserProxyAgent
from autogen_agentchat.base import Team
from autogen_agentchat.conditions import HandoffTermination, MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat, Swarm
from tests.waiting import until

from headway import (
    Headway,
    RunFailed,
    RunHandle,
    Started,
    idempotency_key,
    idempotent,
    now,
)
from headway import random as journaled_random
from headway.config import load
from headway.pricing.prices import Prices
from headway.runs.export import exported
from headway.runs.stopped import question_text
from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.errors import (
    CallerError,
    NothingToAnswer,
    RunNotResumable,
    WorkflowNotHere,
)
from headway_scheduler.model.calls import Call, CallRecord, Priority
from headway_scheduler.model.runs import Task
from headway_scheduler.model.states import CallState, RunState
from headway_scheduler.testing.provider import (
    Fault,
    FaultKind,
    Latency,
    Reply,
    Settings,
    SimulatedProvider,
    ToolCall,
    simulated_provider,
)

pytestmark = pytest.mark.anyio

IMPORTS = """
from typing import Any
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.base import Team
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat
MESSAGES = 7
"""
TIMES = ("created_at", "started_at", "resumed_at", "submitted_at", "admitted_at", "finished_at")
MESSAGES = 7  # six calls and the task


class World:
    """A provider, a database, and Headways that are opened on it one after the other."""

    def __init__(self, folder: Path, provider: SimulatedProvider) -> None:
        self.folder = folder
        self.provider = provider
        self.settings: list[Fault] = []

    @property
    def paid(self) -> int:
        return len(self.provider.ledger.paid)

    @asynccontextmanager
    async def opened(
        self, factory: Callable[..., Any] | None = None, name: str = "team"
    ) -> AsyncIterator[Headway]:
        headway = Headway(load(self.folder / "headway.toml", environ={}))
        if factory is not None:
            # Registered after opening: nothing is taken up by itself.
            async with headway:
                headway.workflow(name)(factory)
                yield headway
        else:
            async with headway:
                yield headway


def reply(body: Any) -> Reply | None:
    """Agents with a tool call it once."""
    tools = [tool["function"]["name"] for tool in body.get("tools") or ()]
    is_called = any(message["role"] == "tool" for message in body["messages"])
    return Reply(tool_calls=(ToolCall(tools[0]),)) if tools and not is_called else None


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    faults: list[Fault] = []
    settings = Settings(
        reply=reply,
        latency=Latency(0.02),
        faults=lambda *_: faults.pop() if faults else None,
    )
    async with simulated_provider(settings) as provider:
        (tmp_path / "headway.toml").write_text(
            f"""
[database]
path = "headway.db"
[quotas.roomy]
concurrency = 50
[models.sim]
quotas = ["roomy"]
base_url = "{provider.base_url}"
usd_per_million_input_tokens = 1000
usd_per_million_output_tokens = 1000
"""
        )
        world = World(tmp_path, provider)
        world.settings = faults
        yield world


def team(models: Any, *, names: tuple[str, ...] = ("writer", "critic"), **more: Any) -> Team:
    agents = [
        AssistantAgent(name, models("sim"), system_message=f"You are {name}.", **more)
        for name in names
    ]
    return RoundRobinGroupChat(agents, termination_condition=MaxMessageTermination(MESSAGES))


async def until_called(handle: RunHandle, calls: int) -> None:
    """Wait until so many calls of a run are there."""
    async for _ in handle.stream():
        if len(handle.calls) >= calls:
            return


async def interrupted(world: World, factory: Callable[..., Any] = team, calls: int = 4) -> str:
    """A run whose process ended while call number ``calls`` was on its way."""
    with suppress(InterruptedError):
        async with world.opened(factory) as headway:
            handle = await headway.start("team", task="Go.")
            await until_called(handle, calls)
            raise InterruptedError
    return handle.id


def said(handle: RunHandle) -> list[str]:
    assert handle.task_result is not None, (handle.run, handle.change)
    return [message.to_text() for message in handle.task_result.messages]


async def uncut(world: World, factory: Callable[..., Any] = team) -> list[str]:
    async with world.opened(factory) as headway:
        handle = await headway.start("team", task="Go.")
        await handle.result()
        return said(handle)


async def test_an_interrupted_run_goes_on_and_pays_for_nothing_twice(world: World) -> None:
    expected = await uncut(world)
    before = world.paid
    run_id = await interrupted(world)
    async with world.opened(team) as headway:
        assert (await headway.get_run(run_id)).state is RunState.INTERRUPTED
        handle = await headway.resume(run_id[:6])
        result = await handle.result()
        assert said(handle) == expected
        assert result.calls == MESSAGES - 1
        receipt = await headway.receipt(run_id)
    assert receipt.replayed == 3
    assert receipt.paid == 3
    assert receipt.possibly_paid == (f"{run_id}.3",)
    assert receipt.seconds_saved >= 3 * 0.02
    assert receipt.usd_saved is not None
    assert receipt.usd_saved > 0
    assert MESSAGES - 1 <= world.paid - before <= MESSAGES
    assert "cut off, possibly paid: 1" in str(receipt)


@pytest.mark.parametrize("how", ["interrupt", "the end of the process"])
async def test_the_call_of_an_agent_without_a_team_that_is_cut_off_is_not_hidden(
    how: str, world: World
) -> None:
    def alone(models: Any) -> AssistantAgent:
        return AssistantAgent("writer", models("sim"))

    world.settings.append(Fault(FaultKind.HANG))
    with suppress(InterruptedError):
        async with world.opened(alone) as headway:
            handle = await headway.start("team", task="Go.")
            await until(lambda: world.provider.ledger.entries)
            if how == "interrupt":
                handle.interrupt()
                await handle.ended()
            raise InterruptedError
    async with world.opened(alone) as headway:
        (call,) = await headway.list_calls(handle.id)
        assert call.state is CallState.UNKNOWN
        await (await headway.resume(handle.id)).result()
        receipt = await headway.receipt(handle.id)
    assert receipt.possibly_paid == (f"{handle.id}.0",)


async def test_a_check_says_what_would_be_and_does_nothing(world: World) -> None:
    run_id = await interrupted(world)
    paid = world.paid
    async with world.opened(team) as headway:
        before = await headway.list_calls(run_id)
        check = await headway.check(run_id)
        assert (check.outcome, check.replayed) == ("asks", 3)
        assert check.next == f"critic (model, {run_id}.3, unknown)"
        assert await headway.list_calls(run_id) == before
        assert (await headway.get_run(run_id)).attempts == 1
    assert world.paid == paid


async def test_who_checks_a_run_does_not_become_a_part_of_it(world: World) -> None:
    run_id = await interrupted(world)
    async with world.opened(team) as headway:
        await headway.check(run_id)
        with pytest.raises(CallerError, match="belongs to no run"):
            await now()


async def test_runs_of_registered_workflows_are_taken_up_when_headway_opens(world: World) -> None:
    run_id = await interrupted(world)
    headway = Headway(load(world.folder / "headway.toml", environ={}))
    headway.workflow("team")(team)
    async with headway:
        pass
    async with world.opened() as headway:
        assert (await headway.get_run(run_id)).state is RunState.COMPLETED


async def test_the_key_of_an_interrupted_run_goes_on_with_it(world: World) -> None:
    with suppress(InterruptedError):
        async with world.opened(team) as headway:
            handle = await headway.start("team", task="Go.", key="w47")
            await until_called(handle, 3)
            raise InterruptedError
    async with world.opened(team) as headway:
        again = await headway.start("team", task="Go.", key="w47")
        assert again.id == handle.id
        assert (await again.result()).calls == MESSAGES - 1


async def test_a_paused_run_lets_its_call_come_back_and_goes_on_later(world: World) -> None:
    expected = await uncut(world)
    async with world.opened(team) as headway:
        handle = await headway.start("team", task="Go.")
        await until_called(handle, 2)
        run = await headway.pause(handle.id)
        assert run.state is RunState.PAUSED
        assert {r.state for r in await headway.list_calls(run.id)} == {CallState.DONE}
        resumed = await headway.resume(run.id)
        await resumed.result()
        assert said(resumed) == expected
        assert (await headway.receipt(run.id)).possibly_paid == ()


async def test_a_run_that_is_not_executed_can_be_paused_and_cancelled(world: World) -> None:
    run_id = await interrupted(world)
    async with world.opened(team) as headway:
        assert (await headway.pause(run_id)).state is RunState.PAUSED
        assert (await headway.cancel(run_id)).state is RunState.CANCELLED
        with pytest.raises(RunNotResumable, match="was cancelled"):
            await headway.resume(run_id)
        assert (await headway.cancel(run_id)).state is RunState.CANCELLED
        with pytest.raises(RunNotResumable):
            await headway.pause(run_id)
        assert headway.scheduler.queued() == []


# A workflow that changed


def other_prompt(models: Any) -> Team:
    return team(models, names=("writer", "reviewer"))


def look(at: str = "it") -> str:
    """Look."""
    return at


def other_tools(models: Any) -> Team:
    return team(models, tools=[look])


def one_less(models: Any) -> Team:
    return team(models, names=("writer",))


def one_more(models: Any) -> Team:
    return team(models, names=("editor", "writer", "critic"))


def shorter(models: Any) -> Team:
    members = [
        AssistantAgent(name, models("sim"), system_message=f"You are {name}.")
        for name in ("writer", "critic")
    ]
    return RoundRobinGroupChat(members, termination_condition=MaxMessageTermination(3))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (other_prompt, ["'reviewer'", "You are reviewer.", ".1"]),
        (other_tools, ["'writer'", "look", ".0"]),
        (one_less, ["'writer'", ".2"]),
        (one_more, ["'editor'", "You are editor.", ".0"]),
        (shorter, ["ended after 2 answers", "'writer'", ".2"]),
    ],
)
async def test_a_changed_workflow_halts_with_a_diff_and_changes_nothing(
    changed: Callable[..., Any], told: list[str], world: World
) -> None:
    run_id = await interrupted(world)
    async with world.opened(changed) as headway:
        before, row = await headway.list_calls(run_id), await headway.get_run(run_id)
        paid = world.paid
        check = await headway.check(run_id)
        assert check.outcome == "changed"
        handle = await headway.resume(run_id)
        with pytest.raises(RunFailed):
            await handle.result()
        assert handle.change == check.change
        assert handle.change is not None
        for text in told:
            assert text in handle.change
        assert await headway.list_calls(run_id) == before
        assert await headway.get_run(run_id) == row
        assert world.paid == paid


@pytest.mark.parametrize("choice", ["fork", "accept"])
async def test_a_person_may_go_on_with_a_changed_workflow(choice: Any, world: World) -> None:
    run_id = await interrupted(world)
    async with world.opened(other_prompt) as headway:
        handle = await headway.resume(run_id, on_change=choice)
        result = await handle.result()
        sources = [message.source for message in result.task_result.messages]
        assert sources == ["user", *["writer", "reviewer"] * 3]
        assert (handle.id == run_id) == (choice == "accept")
        assert (await headway.receipt(handle.id)).paid == MESSAGES - 2
        # What was accepted stays accepted.
        again = await headway.fork(handle.id, at="4") if choice == "accept" else None
        if again is not None:
            await again.result()
        if choice == "fork":
            assert (await headway.get_run(run_id)).state is RunState.INTERRUPTED


async def test_other_code_is_noticed_even_if_it_asks_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = world.folder / "moved_workflow.py"
    text = inspect.getsource(team).replace("def team(", "def moved(")
    module.write_text(f"{IMPORTS}\n{text}")
    monkeypatch.syspath_prepend(str(world.folder))
    run_id = await interrupted(world)
    async with world.opened(importlib.import_module("moved_workflow").moved) as headway:
        handle = await headway.resume(run_id)
        started = [event async for event in handle.stream() if isinstance(event, Started)]
        assert started[0].is_changed
        assert started[0].answers == 3


# Failures, copies, next tasks


async def test_a_failed_run_keeps_its_error_and_goes_on_from_there(world: World) -> None:
    expected = await uncut(world)
    before = world.paid
    async with world.opened(team) as headway:
        handle = await headway.start("team", task="Go.")
        await until_called(handle, 3)
        world.settings.append(Fault(FaultKind.UNAUTHORIZED))
        with pytest.raises(RunFailed, match="AuthenticationError") as failed:
            await handle.result()
        assert isinstance(failed.value.__cause__, openai.AuthenticationError)
        with pytest.raises(RunNotResumable, match="runs retry"):
            await headway.resume(handle.id)
        await headway.limits.resume("roomy")
        again = await headway.retry(handle.id)
        await again.result()
        assert said(again) == expected
    assert world.paid - before == MESSAGES - 1


async def test_an_error_in_a_termination_fails_the_run_and_retry_goes_on(world: World) -> None:
    is_broken = [True]

    class Broken(MaxMessageTermination):
        async def __call__(self, messages: Any) -> Any:
            if is_broken and any(message.source == "critic" for message in messages):
                raise ZeroDivisionError("in the termination")
            return await super().__call__(messages)

    def broken(models: Any) -> Team:
        members = [AssistantAgent(name, models("sim")) for name in ("writer", "critic")]
        return RoundRobinGroupChat(members, termination_condition=Broken(MESSAGES))

    async with world.opened(broken) as headway:
        handle = await headway.start("team", task="Go.")
        with pytest.raises(RunFailed, match="ZeroDivisionError: in the termination"):
            await handle.result()
        is_broken.clear()
        result = await (await headway.retry(handle.id)).result()
        assert result.calls == MESSAGES - 1
        assert (await headway.receipt(handle.id)).replayed == 2


async def test_a_fork_asks_one_call_anew_and_what_was_before_is_free(world: World) -> None:
    expected = await uncut(world)
    before = world.paid
    async with world.opened(team) as headway:
        (run,) = await headway.list_runs()
        fork = await headway.fork(run.id, at="4")
        await fork.result()
        assert said(fork) == expected
        assert fork.run.parent == run.id
        assert world.paid - before == 2
        other = await headway.fork(fork.id, at=f"{run.id}.2", task="Go elsewhere.")
        await other.result()
        assert said(other)[:3] == ["Go elsewhere.", *expected[1:3]]
        assert said(other)[3:] != expected[3:]
        assert world.paid - before == 2 + 4
        with pytest.raises(CallerError, match="no answered call '99'"):
            await headway.fork(run.id, at="99")


async def test_a_completed_run_continues_with_another_task(world: World) -> None:
    await uncut(world)
    before = world.paid
    async with world.opened(team) as headway:
        (run,) = await headway.list_runs()
        second = await headway.continue_run(run.id, "And now?")
        await second.result()
        assert said(second)[0] == "And now?"
        third = await headway.continue_run(second.id, "And then?")
        await third.result()
        assert third.run.history == (Task("Go."), Task("And now?"))
    assert world.paid - before == 2 * (MESSAGES - 1)


# People


def with_person(models: Any) -> Team:
    members = [AssistantAgent("writer", models("sim")), UserProxyAgent("boss")]
    return RoundRobinGroupChat(members, termination_condition=MaxMessageTermination(4))


async def test_a_run_waits_for_a_person_without_a_process(world: World) -> None:
    async with world.opened(with_person) as headway:
        handle = await headway.start("team", task="Go.")
        with pytest.raises(RunFailed, match="waiting"):
            await handle.result()
    async with world.opened(with_person) as headway:
        run = await headway.get_run(handle.id)
        assert run.state is RunState.WAITING
        with pytest.raises(RunNotResumable, match="waits for a person"):
            await headway.resume(run.id)
        asked = await headway.question(run.id)
        assert asked is not None
        assert asked[1] == "Enter your response: "
        with pytest.raises(CallerError, match="give the words"):
            await headway.answer(run.id, again=True)
    with closing(sqlite3.connect(world.folder / "headway.db")) as database:  # two days pass
        for table, times in (("runs", TIMES[:3]), ("calls", TIMES[3:]), ("buckets", ("as_of",))):
            changes = ", ".join(f"{name} = {name} - 172800" for name in times)
            database.execute(f"UPDATE {table} SET {changes}")
        database.commit()
    async with world.opened(with_person) as headway:  # the machine was restarted between
        assert (await headway.answer(run.id, "Well done.")).state is RunState.QUEUED
        with pytest.raises(NothingToAnswer):
            await headway.answer(run.id, "Twice.")
    async with world.opened(with_person) as headway:
        handle = await headway.resume(run.id)
        await handle.result()
        assert "Well done." in said(handle)
    assert world.paid == 2


async def test_a_person_who_is_there_is_asked_at_once(world: World) -> None:
    async def person(question: str) -> str:
        return f"to {question!r}: yes"

    async with world.opened(with_person) as headway:
        headway.ask(person)
        handle = await headway.start("team", task="Go.")
        await handle.result()
        assert "to 'Enter your response: ': yes" in said(handle)


async def test_a_handoff_to_a_person_is_answered_and_goes_on(world: World) -> None:
    def handing_off(models: Any) -> Team:
        writer = AssistantAgent("writer", models("sim"), handoffs=["user"])
        ending = HandoffTermination("user") | MaxMessageTermination(8)
        return Swarm([writer], termination_condition=ending)

    async with world.opened(handing_off) as headway:
        handle = await headway.start("team", task="Go.")
        await handle.ended()
        assert handle.run.state is RunState.WAITING
        await headway.answer(handle.id, "Take the left one.")
        handle = await headway.resume(handle.id)
        await handle.ended()
        assert "Take the left one." in said(handle)


# Tools


def with_tool(tool: Callable[..., Any]) -> Callable[..., Any]:
    def made(models: Any) -> Team:
        writer = AssistantAgent("writer", models("sim"), tools=[tool], reflect_on_tool_use=True)
        return RoundRobinGroupChat([writer], termination_condition=MaxMessageTermination(5))

    return made


async def cut_in_tool(world: World, factory: Callable[..., Any], begun: anyio.Event) -> str:
    with suppress(InterruptedError):
        async with world.opened(factory) as headway:
            handle = await headway.start("team", task="Go.")
            await begun.wait()
            raise InterruptedError
    return handle.id


class Slow:
    """A tool that never ends the first time."""

    def __init__(self) -> None:
        self.begun = anyio.Event()
        self.keys: list[str] = []

    async def pay(self) -> str:
        """Pay."""
        self.keys.append(idempotency_key())
        if not self.begun.is_set():
            self.begun.set()
            await anyio.sleep_forever()
        return "paid"


@pytest.mark.parametrize("answer", [{"words": "was paid"}, {"again": True}, {"abort": True}])
async def test_a_tool_that_may_run_once_waits_for_a_person(
    answer: dict[str, Any], world: World
) -> None:
    slow = Slow()
    factory = with_tool(slow.pay)
    run_id = await cut_in_tool(world, factory, slow.begun)
    async with world.opened(factory) as headway:
        handle = await headway.resume(run_id)
        await handle.ended()
        assert handle.run.state is RunState.WAITING
        assert handle.run.waits_for == f"{run_id}.1"
        assert len(slow.keys) == 1
        run = await headway.answer(run_id, **answer)
        if "abort" in answer:
            assert run.state is RunState.CANCELLED
            return
        handle = await headway.resume(run_id)
        await handle.result()
        results = [text for text in said(handle) if "paid" in text]
        assert results
        assert len(slow.keys) == (2 if "again" in answer else 1)
        assert ("was paid" in str(said(handle))) == ("words" in answer)


async def test_an_idempotent_tool_is_called_again_with_the_same_key(world: World) -> None:
    slow = Slow()

    @idempotent
    async def pay() -> str:
        """Pay."""
        return await slow.pay()

    factory = with_tool(pay)
    run_id = await cut_in_tool(world, factory, slow.begun)
    async with world.opened(factory) as headway:
        handle = await headway.resume(run_id)
        await handle.result()
        assert slow.keys == [f"{run_id}.1"] * 2


async def test_time_and_chance_are_what_they_were(world: World) -> None:
    drawn: list[tuple[float, float]] = []

    async def draw() -> str:
        """Draw."""
        return "drawn"

    async def factory(models: Any) -> Team:
        drawn.append((await now(), await journaled_random()))
        return team(models)

    run_id = await interrupted(world, factory)
    async with world.opened(factory) as headway:
        await (await headway.resume(run_id)).result()
    assert len(drawn) == 2
    assert drawn[0] == drawn[1]


# Calls in flight, limits of a run, export


async def test_a_call_cut_off_in_flight_may_wait_for_a_person(world: World) -> None:
    run_id = await interrupted(world)
    async with world.opened(team) as headway:
        paid = world.paid
        handle = await headway.resume(run_id, unknown="wait")
        await handle.ended()
        assert handle.run.state is RunState.WAITING
        assert world.paid == paid
        asked = await headway.question(run_id)
        assert asked is not None
        assert "You are critic." in asked[1]
        await headway.answer(run_id, "What it would have said.")
        handle = await headway.resume(run_id, unknown="wait")
        await handle.result()
        assert said(handle)[4] == "What it would have said."


async def test_a_run_ends_at_its_budget_and_retry_goes_on_with_more(world: World) -> None:
    async with world.opened(team) as headway:
        handle = await headway.start("team", task="Go.", budget_usd=0.12)
        with pytest.raises(RunFailed, match=r"BudgetExceeded.*may spend \$0.1200"):
            await handle.result()
        spent = (await headway.receipt(handle.id)).usd_paid
        assert spent is not None
        assert 0 < spent <= 0.12
        again = await headway.retry(handle.id, budget_usd=10)
        assert (await again.result()).calls == MESSAGES - 1


async def test_a_run_ends_at_its_deadline_and_retry_goes_on_with_more_time(world: World) -> None:
    async with world.opened(team) as headway:
        handle = await headway.start("team", task="Go.", deadline_seconds=0.01)
        with pytest.raises(RunFailed, match="DeadlineExceeded"):
            await handle.result()
        again = await headway.retry(handle.id, deadline_seconds=60)
        assert (await again.result()).calls == MESSAGES - 1


async def test_parameters_reach_the_factory_at_every_attempt(world: World) -> None:
    def named(models: Any, *, first: str) -> Team:
        return team(models, names=(first, "critic"))

    async with world.opened(named) as headway:
        handle = await headway.start("team", task="Go.", parameters={"first": "poet"})
        await until_called(handle, 3)
        await headway.pause(handle.id)
        resumed = await headway.resume(handle.id)
        result = await resumed.result()
        assert result.task_result.messages[1].source == "poet"
        with pytest.raises(CallerError, match="JSON values"):
            await headway.start("team", task="x", parameters={"a": object()})


async def test_an_export_has_every_text_once(world: World) -> None:
    await uncut(world)
    async with (
        world.opened() as headway,
        SqliteStore(headway.config.database, read_only=True) as store,
    ):
        (run,) = await headway.list_runs()
        data = await exported(store, run, Prices(headway.config).usd_of)
    assert len(data.records) == len(data.prompts) == MESSAGES - 1
    assert len(set(data.chunks)) == len(data.chunks)
    last = "".join(data.chunks[index] for index in data.prompts[-1])
    for record in data.records[:-1]:
        assert record.answer is not None
        assert json.loads(record.answer)["content"] in last
    assert all(cost is not None and cost > 0 for cost in data.costs)


async def test_old_runs_are_deleted_but_not_what_copies_begin_with(world: World) -> None:
    await uncut(world)
    async with world.opened(team) as headway:
        (first,) = await headway.list_runs()
        fork = await headway.fork(first.id, at="4")
        await fork.result()
        other = await headway.start("team", task="Something else.")
        await other.result()
        ends = [first.finished_at or 0, fork.run.finished_at or 0]
        assert await headway.prune(older_than_seconds=3600) == []
        # The copy is younger than the limit, so its parent stays.
        age = headway.scheduler.now() - sum(ends) / 2
        assert await headway.prune(older_than_seconds=age) == []
        assert sorted(await headway.prune(older_than_seconds=0)) == sorted(
            [first.id, fork.id, other.id]
        )
        assert await headway.list_runs() == []
    with closing(sqlite3.connect(world.folder / "headway.db")) as database:
        for table in ("calls", "links", "pieces"):
            assert database.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


async def test_texts_that_other_runs_hold_stay(world: World) -> None:
    await uncut(world)
    async with world.opened(team) as headway:
        (first,) = await headway.list_runs()
        await headway.scheduler.forget("r-nobody")
        again = await headway.start("team", task="Go.")
        await again.result()
        hashes = [record.call.request_hash for record in await headway.list_calls(again.id)]
        before = [await headway._opened.store.prompt(request_hash) for request_hash in hashes]
        await headway.scheduler.forget(first.id)
        after = [await headway._opened.store.prompt(request_hash) for request_hash in hashes]
        assert before == after
        assert all(before)


async def test_runs_whose_workflow_another_program_registers_are_left_as_they_are(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    begun = anyio.Event()

    async def slow() -> str:
        """Never end the first time."""
        if not begun.is_set():
            begun.set()
            await anyio.sleep_forever()
        return "done"

    factory = with_tool(idempotent(slow))
    run_id = await cut_in_tool(world, factory, begun)
    async with world.opened() as other:
        assert await other.resume_all() == []
        assert f"run {run_id}: no workflow 'team' is registered in this process" in caplog.text
        for refused in (
            lambda: other.resume(run_id),
            lambda: other.fork(run_id, at="0"),
        ):
            with pytest.raises(WorkflowNotHere, match="'team'"):
                await refused()
        assert [run.state for run in await other.list_runs()] == [RunState.INTERRUPTED]
    async with world.opened(factory) as headway:
        (handle,) = await headway.resume_all()
        assert (await handle.result()).text


def test_a_person_is_asked_in_words_what_came_of_a_tool() -> None:
    call = Call("r.0", "r", "a", "charge", (), Priority.NORMAL, 0, 0.0, kind="tool")
    text = json.dumps(["charge", '{"invoice": 7}'])
    assert question_text(CallRecord(call, 0, CallState.UNKNOWN), [text]) == (
        'charge was cut off, and may have happened. What came of charge({"invoice": 7})?'
    )
