"""The events of all runs of a process: every reader gets them, and none keeps a run waiting."""

import gc
from typing import Any

import anyio
import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat
from tests.waiting import until

from headway import CallerError, Ended, Headway, Missed, Models, Started
from headway.runs import event_stream
from headway.runs.event_stream import EventStream
from headway.runs.events import Progress
from headway.testing import MODEL, simulated_headway

pytestmark = pytest.mark.anyio


def team(models: Models) -> RoundRobinGroupChat:
    agents: list[Any] = [AssistantAgent(name, models(MODEL)) for name in ("writer", "critic")]
    return RoundRobinGroupChat(agents, termination_condition=MaxMessageTermination(4))


async def rest(stream: EventStream) -> list[object]:
    return [event async for event in stream]


async def test_two_readers_get_all_that_each_run_shows_until_headway_closes() -> None:
    async with simulated_headway() as simulated:
        headway = Headway(simulated.config)
        headway.workflow("team")(team)
        async with headway:  # it follows
            readers = [headway.events() for _ in range(2)]
            handles = [await headway.start("team", task=f"{number}") for number in range(3)]
            for handle in handles:
                await handle.result()
        shown = [[e async for e in each.stream() if isinstance(e, Progress)] for each in handles]
        for reader in readers:
            got = await rest(reader)
            assert len(got) == sum(map(len, shown)) >= 3 * 8
            for handle, events in zip(handles, shown, strict=True):
                assert [e for e in got if getattr(e, "run_id", None) == handle.id] == events
                assert isinstance(events[0], Started)
                assert isinstance(events[-1], Ended)


async def test_it_is_read_while_runs_go_on() -> None:
    async with simulated_headway() as headway, anyio.create_task_group() as group:
        headway.workflow("team")(team)
        ended: list[str] = []

        async def watch() -> None:
            async for event in headway.events():
                if isinstance(event, Ended):
                    ended.append(event.run_id)

        group.start_soon(watch)
        await anyio.wait_all_tasks_blocked()
        for number in range(2):
            run = await headway.run("team", task=f"{number}")
            await until(lambda run=run: ended[-1:] == [run.run_id])
        group.cancel_scope.cancel()


async def test_a_slow_reader_loses_the_oldest_and_is_told_how_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_stream, "BUFFERED", 3)
    async with simulated_headway() as headway:
        headway.workflow("team")(team)
        stream = headway.events()
        handle = await headway.start("team", task="Why?")
        await handle.result()
        shown = [event async for event in handle.stream() if isinstance(event, Progress)]
        assert await anext(stream) == Missed(len(shown) - 3)
        assert [await anext(stream) for _ in range(3)] == shown[-3:]


async def test_a_stream_that_nobody_holds_is_forgotten() -> None:
    async with simulated_headway() as headway:
        streams = headway._opened.executor.streams
        stream = headway.events()
        assert list(streams) == [stream]
        del stream
        gc.collect()
        assert not streams


async def test_before_it_opens_there_is_nothing_to_hear() -> None:
    async with simulated_headway() as simulated:
        with pytest.raises(CallerError, match="not open"):
            Headway(simulated.config).events()
