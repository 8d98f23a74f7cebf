"""A background call gives its slot to an urgent one, over real HTTP."""

import asyncio
from typing import Any

import anyio
import pytest
from tests.waiting import until

from headway_agents import Model, RunScope, ScheduledClient
from headway_agents.calls.live_call import Interruption, Preempted
from headway_scheduler.backends.memory.store import MemoryStore
from headway_scheduler.errors import RunClosed
from headway_scheduler.model.calls import Priority
from headway_scheduler.model.data import replace
from headway_scheduler.model.quotas import Quota
from headway_scheduler.model.states import CallState
from headway_scheduler.runtime.local import LocalScheduler
from headway_scheduler.testing.provider import Latency

pytestmark = pytest.mark.anyio


async def streamed(client: ScheduledClient, messages: Any) -> Any:
    return [item async for item in client.create_stream(messages)][-1]


@pytest.mark.parametrize("ask", [ScheduledClient.create, streamed])
async def test_the_urgent_call_goes_at_once_and_the_other_again(
    serve: Any, question: Any, ask: Any
) -> None:
    store = MemoryStore()
    gpu = replace(Quota.per_minute("gpu", concurrency=1), is_local=True)
    ended: list[str] = []
    async with (
        LocalScheduler(store, [gpu]) as scheduler,
        serve(latency=Latency(0.3)) as (provider, inner),
    ):

        async def run(name: str, priority: Priority) -> None:
            scope = RunScope(scheduler, name, priority)
            client = ScheduledClient(inner, Model("m", ("gpu",)), scope, path="w")
            assert (await ask(client, question(name))).content
            ended.append(name)

        async with anyio.create_task_group() as group:
            group.start_soon(run, "background", Priority.BACKGROUND)
            await until(lambda: len(provider.ledger) >= 1)
            group.start_soon(run, "urgent", Priority.INTERACTIVE)
        assert ended == ["urgent", "background"]
        rows = {row.call.run_id: row for row in await store.calls()}
        assert {row.state for row in rows.values()} == {CallState.DONE}
        assert (rows["background"].attempts, rows["urgent"].attempts) == (2, 1)
        (slots,) = scheduler.statistics().gauges
        assert slots.available == 1


async def test_one_that_made_room_can_still_be_cancelled(serve: Any, question: Any) -> None:
    store = MemoryStore()
    gpu = replace(Quota.per_minute("gpu", concurrency=1), is_local=True)
    async with (
        LocalScheduler(store, [gpu]) as scheduler,
        serve(latency=Latency(0.3)) as (provider, inner),
    ):

        def asked(name: str, priority: Priority) -> "asyncio.Task[Any]":
            scope = RunScope(scheduler, name, priority)
            client = ScheduledClient(inner, Model("m", ("gpu",)), scope, path="w")
            return asyncio.ensure_future(client.create(question(name)))

        background = asked("background", Priority.BACKGROUND)
        await until(lambda: len(provider.ledger) >= 1)
        urgent = asked("urgent", Priority.INTERACTIVE)
        await until(lambda: len(provider.ledger) >= 2)
        background.cancel()
        with pytest.raises(asyncio.CancelledError):
            await background
        assert (await urgent).content
        rows = {row.call.run_id: row.state for row in await store.calls()}
        assert rows == {"background": CallState.CANCELLED, "urgent": CallState.DONE}
        assert len(provider.ledger) == 2


async def test_one_that_is_cancelled_in_the_turn_in_which_it_makes_room_ends_for_that_reason() -> (
    None
):
    """Two cancellations of one wait would look as if somebody else cancelled its task."""
    interruption = Interruption()
    waiting = asyncio.ensure_future(interruption.wait(asyncio.Event().wait))
    await asyncio.sleep(0)
    interruption.interrupt(Preempted())
    interruption.cancel(RunClosed("over"))
    with pytest.raises(RunClosed, match="over"):
        await waiting
    assert not waiting.cancelling()
