"""Headway is opened, used and closed in any task of one loop; elsewhere it says what is wrong."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.base import Team
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat
from tests.orchestrator.workers.test_remote_commands import freeze
from tests.waiting import until

from headway import CallerError, Headway, Models, RunFailed, RunState
from headway.testing import MODEL, SimulatedHeadway, simulated_headway
from headway_scheduler.backends import open_backend
from headway_scheduler.errors import StoreBusy, StoreTakenOver
from headway_scheduler.model.batch import Batch

pytestmark = pytest.mark.anyio


def team(models: Models) -> Team:
    writer = AssistantAgent("writer", models(MODEL))
    return RoundRobinGroupChat([writer], termination_condition=MaxMessageTermination(4))


@pytest.fixture
async def first() -> AsyncIterator[SimulatedHeadway]:
    async with simulated_headway(latency_seconds=0.02) as headway:
        headway.workflow("team")(team)
        yield headway


def config_of(folder: Path, first: SimulatedHeadway) -> Path:
    """A configuration of the same provider, and of a database of its own."""
    assert first.config.file is not None
    file = folder / "headway.toml"
    file.write_text(first.config.file.read_text())
    return file


@pytest.fixture
def closed(first: SimulatedHeadway, tmp_path: Path) -> Headway:
    headway = Headway(config_of(tmp_path, first))
    headway.workflow("team")(team)
    return headway


async def test_a_cell_that_ends_what_was_opened_may_be_run_again(closed: Headway) -> None:
    """Before the first opening, and after the last closing."""
    for _ in range(2):
        closed.drain()
        await closed.close()
        await closed.open()
        closed.drain()
        await closed.close()


async def test_opened_used_and_closed_in_different_tasks(closed: Headway) -> None:
    await asyncio.create_task(closed.open())
    handle = await asyncio.create_task(closed.start("team", task="x"))
    await asyncio.create_task(closed.close())  # it waits for the run
    assert (await handle.result()).calls == 3
    with pytest.raises(CallerError, match="not open"):
        await closed.list_runs()
    async with closed:  # and again
        assert len(await closed.list_runs()) == 1


async def test_a_run_that_closes_the_headway_that_executes_it_is_refused(closed: Headway) -> None:
    @closed.workflow("closing")
    async def closing(models: Models) -> Team:
        await closed.close()
        return team(models)

    with anyio.fail_after(20):
        async with closed:
            other = await closed.start("team", task="x")
            handle = await closed.start("closing", task="y")
            with pytest.raises(RunFailed, match=f"run {handle.id} cannot close the Headway"):
                await handle.result()
            assert (await other.result()).calls == 3
            assert (await closed.run("team", task="z")).calls == 3


async def test_entered_and_left_in_different_tasks(closed: Headway) -> None:
    await asyncio.create_task(closed.__aenter__())
    assert (await closed.run("team", task="x")).calls == 3
    await asyncio.create_task(closed.__aexit__(None, None, None))
    async with Headway(closed.config) as other:
        assert other.is_leader


async def test_an_error_of_the_block_interrupts_its_runs_and_leaves_as_it_came(
    closed: Headway,
) -> None:
    error = LookupError("mine")
    with pytest.raises(LookupError) as raised:  # noqa: PT012 - the block is what is tested
        async with closed:
            handle = await closed.start("team", task="x")
            await until(lambda: bool(handle.calls))  # AutoGen has begun
            raise error
    assert raised.value is error
    assert handle.run.state is RunState.INTERRUPTED


async def test_cancelling_the_wait_for_the_runs_interrupts_them(closed: Headway) -> None:
    await closed.open()
    await closed.queue.pause()
    handle = await closed.start("team", task="x")
    await until(lambda: bool(closed.waiting_calls))
    with anyio.move_on_after(0.2) as scope:
        await closed.close()
    assert scope.cancelled_caught
    assert handle.run.state is RunState.INTERRUPTED
    async with Headway(closed.config) as other:
        assert other.is_leader


@pytest.mark.parametrize("is_block", [True, False])
async def test_a_session_that_ends_by_itself_says_why_where_it_is_closed(
    closed: Headway, is_block: bool
) -> None:
    async def lose() -> None:
        """As if this process had been stopped until others led, and took its runs."""
        # Before others lead: from then on this process may see that at any time, and follow.
        leader = closed._opened.leader
        assert leader is not None
        assert leader.scheduler.presence is not None
        freeze(closed)
        leadership = open_backend(closed.config.database).leadership()
        vacancy = await leadership.vacant()
        worker = closed._opened.executor.worker.id
        async with await leadership.campaign("w-other", vacancy) as term:
            await term.store.commit(Batch(left=(worker,)))
            leader.scheduler.presence.contact_at -= 60  # type: ignore[misc]
            await until(lambda: closed._owner._task.done())  # type: ignore[union-attr]

    async def block() -> None:
        async with closed:
            await lose()

    async def apart() -> None:
        await asyncio.create_task(closed.open())
        await asyncio.gather(asyncio.create_task(lose()), return_exceptions=True)
        await asyncio.create_task(closed.close())

    with pytest.raises(StoreTakenOver, match="others took its runs"):
        await (block() if is_block else apart())
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


async def test_opening_that_fails_or_is_cancelled_leaves_nothing(
    closed: Headway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy() -> None:
        raise StoreBusy("in use")

    monkeypatch.setattr(closed._opener, "open", busy)
    with pytest.raises(StoreBusy, match="in use"):
        await closed.open()
    monkeypatch.setattr(closed._opener, "open", anyio.sleep_forever)
    with anyio.move_on_after(0.05) as scope:
        await closed.open()
    assert scope.cancelled_caught
    monkeypatch.undo()
    async with closed:
        with pytest.raises(CallerError, match="open already"):
            await closed.open()
        assert (await closed.run("team", task="x")).calls == 3


def in_thread(work: Callable[[], Any]) -> Any:
    """The error, or what it returns, of work in a thread of its own."""
    results: list[Any] = []

    def call() -> None:
        try:
            results.append(work())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return results[0]


async def test_another_loop_is_refused_with_words(first: SimulatedHeadway) -> None:
    for verb in (
        lambda: asyncio.run(first.start("team", task="x")),
        lambda: asyncio.run(first.list_runs()),
        lambda: asyncio.run(first.close()),
    ):
        error = await asyncio.to_thread(in_thread, verb)
        assert isinstance(error, CallerError)
        assert "another event loop" in str(error)
    assert await asyncio.to_thread(lambda: first.is_leader)
    future = asyncio.run_coroutine_threadsafe(
        first.run("team", task="x"), asyncio.get_running_loop()
    )
    assert (await asyncio.to_thread(future.result)).calls == 3


async def test_a_loop_that_is_not_asyncio_s_is_refused_with_words(closed: Headway) -> None:
    """As trio does, this thread drives the coroutine without a loop of asyncio."""
    error = await asyncio.to_thread(in_thread, lambda: closed.open().send(None))
    assert isinstance(error, CallerError)
    assert "asyncio" in str(error)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
async def test_a_forked_process_is_refused_with_words(closed: Headway) -> None:
    async with closed:
        reader, writer = os.pipe()
        if (child := os.fork()) == 0:
            try:
                _ = closed.is_leader
            except CallerError as error:
                os.write(writer, str(error).encode())
            finally:
                os._exit(0)
        os.close(writer)
        await asyncio.to_thread(os.waitpid, child, 0)
        with os.fdopen(reader) as said:
            assert "before this process was forked" in said.read()
        assert (await closed.run("team", task="x")).calls == 3
