"""Cancelling at every stage, by every means: no slot is lost, and nothing more is bought.

The sweep cancels after k turns of the loop, for every k until the call is through: that is every
await there is, ours, the scheduler's and the store's.
"""

import asyncio
import gc
from collections.abc import AsyncGenerator, Callable
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from autogen_core import CancellationToken
from autogen_core.models import ChatCompletionClient, CreateResult, RequestUsage
from autogen_ext.models.replay import ReplayChatCompletionClient
from tests.waiting import until

from headway_agents import Model, RunScope, ScheduledClient
from headway_scheduler.backends.memory.store import MemoryStore
from headway_scheduler.errors import RunClosed
from headway_scheduler.model.calls import Priority
from headway_scheduler.model.quotas import Quota
from headway_scheduler.model.states import CallState
from headway_scheduler.runtime.local import LocalScheduler
from headway_scheduler.testing.provider import Fault, FaultKind, Latency

pytestmark = pytest.mark.anyio
NARROW = Model("m", ("narrow",))
ENDED = (asyncio.CancelledError, RunClosed)
Cancel = Callable[["asyncio.Task[Any]", CancellationToken, RunScope], object]
MEANS: dict[str, Cancel] = {
    "task": lambda task, token, scope: task.cancel(),
    "token": lambda task, token, scope: token.cancel(),
    "run": lambda task, token, scope: scope.close(),
}


class Pausing(ReplayChatCompletionClient):
    """Takes some turns of the loop for every answer and every chunk; fails first if told to."""

    faults = 0

    async def create(self, *arguments: Any, **more: Any) -> CreateResult:
        await self._pause()
        return await super().create(*arguments, **more)

    async def create_stream(
        self, *arguments: Any, **more: Any
    ) -> AsyncGenerator[str | CreateResult, None]:
        await self._pause()
        async for item in super().create_stream(*arguments, **more):
            yield item
            await self._pause()

    async def _pause(self) -> None:
        for _ in range(3):
            await checkpoint()
        if self.faults:
            self.faults -= 1
            raise ConnectionResetError


async def create(client: ChatCompletionClient, question: Any, token: CancellationToken) -> Any:
    return await client.create(question(), cancellation_token=token)


async def stream(client: ChatCompletionClient, question: Any, token: CancellationToken) -> Any:
    items = [i async for i in client.create_stream(question(), cancellation_token=token)]
    return items[-1]


@pytest.mark.usefixtures("fast_pauses")
@pytest.mark.parametrize("faults", [0, 1])
@pytest.mark.parametrize("ask", [create, stream])
@pytest.mark.parametrize("means", MEANS)
async def test_no_slot_is_lost_at_any_await(
    means: str, ask: Any, faults: int, question: Any, idle: Any
) -> None:
    finished, narrow = 0, Quota.per_minute("narrow", concurrency=1)
    for turns in range(10_000):  # a pause of 1 ms is as many turns as the machine is fast
        inner = Pausing(["one two three"])
        inner.faults = faults
        # A fresh one each time: faults without answers would make the quota pause.
        async with LocalScheduler(MemoryStore(), [narrow]) as scheduler:
            scope = RunScope(scheduler, f"run-{turns}", Priority.NORMAL)
            client = ScheduledClient(inner, NARROW, scope, path="w")
            token = CancellationToken()
            task = asyncio.ensure_future(ask(client, question, token))
            for _ in range(turns):
                await checkpoint()
            if task.done():
                finished += 1
            MEANS[means](task, token, scope)
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            assert isinstance(outcome, (CreateResult, *ENDED))
            await idle(scheduler)
        if finished == 3:
            break
    assert finished == 3


@pytest.mark.parametrize("ask", [create, stream])
@pytest.mark.parametrize("means", MEANS)
async def test_a_queued_call_leaves_the_queue(
    means: str, ask: Any, scope: RunScope, question: Any, idle: Any, records: Any
) -> None:
    inner = ReplayChatCompletionClient(["never"])
    async with holding_the_only_slot(scope.scheduler, question):
        token = CancellationToken()
        client = ScheduledClient(inner, NARROW, scope, path="w")
        task = asyncio.ensure_future(ask(client, question, token))
        await until(lambda: sum(scope.scheduler.statistics().waiting) == 1)
        MEANS[means](task, token, scope)
        await ended(task)
        await until(lambda: sum(scope.scheduler.statistics().waiting) == 0)
        (record,) = await records(scope.run_id)
        assert (record.state, record.attempts) == (CallState.CANCELLED, 0)
    await idle()
    assert inner.total_usage() == RequestUsage(0, 0)


@pytest.mark.parametrize("ask", [create, stream])
@pytest.mark.parametrize("means", MEANS)
async def test_a_request_in_flight_is_dropped(
    means: str, ask: Any, scope: RunScope, question: Any, serve: Any, records: Any
) -> None:
    async with serve(faults=lambda *_: Fault(FaultKind.HANG)) as (provider, inner):
        token = CancellationToken()
        client = ScheduledClient(inner, NARROW, scope, path="w")
        task = asyncio.ensure_future(ask(client, question, token))
        await until(lambda: len(provider.ledger) == 1)
        MEANS[means](task, token, scope)
        await ended(task)
        await until(lambda: provider.ledger.entries[0].finished_at is not None)
        await until(lambda: scope.scheduler.statistics().in_flight == 0)
        (record,) = await records()
        assert record.state is CallState.CANCELLED


@pytest.mark.parametrize("means", MEANS)
async def test_a_call_that_waits_for_its_retry_ends(
    means: str, scope: RunScope, question: Any, serve: Any, idle: Any
) -> None:
    async with serve(faults=lambda *_: Fault(FaultKind.SERVER_ERROR)) as (provider, inner):
        token = CancellationToken()
        client = ScheduledClient(inner, NARROW, scope, path="w")
        task = asyncio.ensure_future(create(client, question, token))
        await until(lambda: any(r.not_before for r in scope.scheduler.queued()))
        MEANS[means](task, token, scope)
        await ended(task)
        await idle()
        assert len(provider.ledger) == 1


@pytest.mark.parametrize("by", ["aclose", "dropping", "closing the run"])
async def test_a_stream_that_is_left_gives_its_slot_back(
    by: str, scope: RunScope, question: Any, serve: Any, records: Any
) -> None:
    latency = Latency(seconds_per_output_token=0.2)
    async with serve(latency=latency) as (provider, inner):
        client = ScheduledClient(inner, NARROW, scope, path="w")
        items = client.create_stream(question())
        await anext(items)
        assert scope.scheduler.statistics().in_flight == 1
        if by == "aclose":
            await items.aclose()
        elif by == "closing the run":
            scope.close()
        else:
            del items
            gc.collect()
        await until(lambda: scope.scheduler.statistics().in_flight == 0)
        (record,) = await records()
        assert record.state is CallState.CANCELLED
        if by == "closing the run":
            with pytest.raises(RunClosed):
                await anext(items)
        await until(lambda: provider.ledger.entries[0].finished_at is not None)
        assert provider.ledger.entries[0].why == "client_left"


@pytest.mark.parametrize("means", MEANS)
async def test_a_stream_is_dropped_in_the_middle(
    means: str, scope: RunScope, question: Any, serve: Any
) -> None:
    seen: list[object] = []

    async def read() -> None:
        async for item in client.create_stream(question(), cancellation_token=token):
            seen.append(item)

    async with serve(latency=Latency(seconds_per_output_token=0.1)) as (provider, inner):
        token = CancellationToken()
        client = ScheduledClient(inner, NARROW, scope, path="w")
        task = asyncio.ensure_future(read())
        await until(lambda: len(seen) == 2)
        MEANS[means](task, token, scope)
        await ended(task)
        await until(lambda: provider.ledger.entries[0].finished_at is not None)
        assert provider.ledger.entries[0].why == "client_left"
        await until(lambda: scope.scheduler.statistics().in_flight == 0)


async def test_a_connection_is_not_lost_with_the_call(
    scheduler: LocalScheduler, question: Any, serve: Any
) -> None:
    """The pool of the shared client is as large after many drops as after one."""
    hang = {"on": True}
    fault = Fault(FaultKind.HANG)
    async with serve(faults=lambda *_: fault if hang["on"] else None) as (provider, inner):
        client = ScheduledClient(inner, Model("m", ("q",)))
        for number in range(20):
            scope = RunScope(scheduler, f"run-{number}", Priority.NORMAL)
            task = asyncio.ensure_future(client.bound(scope, "w").create(question()))
            await until(lambda n=number: len(provider.ledger) == n + 1)
            scope.close()
            await ended(task)
        hang["on"] = False
        scope = RunScope(scheduler, "last", Priority.NORMAL)
        assert (await client.bound(scope, "w").create(question())).content
        pool = inner._client._client._transport._pool
        assert len(pool.connections) == 1


async def test_an_answer_that_is_being_recorded_stays_recorded(
    scope: RunScope, question: Any, records: Any, idle: Any
) -> None:
    """Cancelled while it is settled: the agent is gone, but what was paid is in the journal."""

    class Leaving(ReplayChatCompletionClient):
        async def create(self, *arguments: Any, **more: Any) -> CreateResult:
            result = await super().create(*arguments, **more)
            asyncio.get_running_loop().call_soon(task.cancel)
            return result

    client = ScheduledClient(Leaving(["paid"]), NARROW, scope, path="w")
    task = asyncio.ensure_future(client.create(question()))
    await ended(task)
    assert task.cancelled()
    await idle()
    (record,) = await records()
    assert record.state is CallState.DONE
    assert "paid" in record.answer


async def test_who_cancels_the_task_goes_before_the_end_of_the_run(
    scope: RunScope, question: Any
) -> None:
    async with holding_the_only_slot(scope.scheduler, question):
        client = ScheduledClient(ReplayChatCompletionClient([]), NARROW, scope, path="w")
        task = asyncio.ensure_future(client.create(question()))
        await until(lambda: sum(scope.scheduler.statistics().waiting) == 1)
        scope.close()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_closing_does_not_hide_why_a_run_failed(scope: RunScope, question: Any) -> None:
    async with holding_the_only_slot(scope.scheduler, question):
        task = asyncio.ensure_future(
            ScheduledClient(ReplayChatCompletionClient([]), NARROW, scope, path="w").create(
                question()
            )
        )
        await until(lambda: sum(scope.scheduler.statistics().waiting) == 1)
        broken = ScheduledClient(
            ReplayChatCompletionClient([]), Model("m", ("q",)), scope, path="x"
        )
        with pytest.raises(ValueError, match="No more mock") as caught:
            await broken.create(question())
        scope.close()
        await ended(task)
        assert scope.error is caught.value


async def test_a_token_that_was_cancelled_before_asks_nothing(
    scope: RunScope, question: Any, records: Any
) -> None:
    token = CancellationToken()
    token.cancel()
    inner = ReplayChatCompletionClient(["never"])
    client = ScheduledClient(inner, NARROW, scope, path="w")
    with pytest.raises(asyncio.CancelledError):
        await client.create(question(), cancellation_token=token)
    assert not await records()


async def test_an_outer_timeout_is_still_a_timeout(scope: RunScope, question: Any) -> None:
    async with holding_the_only_slot(scope.scheduler, question):
        client = ScheduledClient(ReplayChatCompletionClient(["never"]), NARROW, scope, path="w")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await client.create(question())
        with anyio.move_on_after(0.02) as waiting:
            await client.create(question())
        assert waiting.cancelled_caught


class holding_the_only_slot:
    """Another run's call that is in flight on the quota with one slot."""

    def __init__(self, scheduler: LocalScheduler, question: Any) -> None:
        inner = ReplayChatCompletionClient(["a b c"])
        scope = RunScope(scheduler, "other", Priority.NORMAL)
        self._items = ScheduledClient(inner, NARROW, scope, path="w").create_stream(question())

    async def __aenter__(self) -> None:
        await anext(self._items)

    async def __aexit__(self, *_: object) -> None:
        await self._items.aclose()


async def ended(task: "asyncio.Task[Any]") -> None:
    with pytest.raises(ENDED):
        await task
