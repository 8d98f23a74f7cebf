"""Several models for one, over real HTTP: deployments and fallbacks of a ScheduledClient."""

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest

from headway_agents import Model, RunScope, ScheduledClient
from headway_scheduler.backends.memory.store import MemoryStore
from headway_scheduler.model.calls import Priority
from headway_scheduler.model.quotas import Quota
from headway_scheduler.model.states import CallState
from headway_scheduler.runtime.local import LocalScheduler
from headway_scheduler.testing.provider import Fault, FaultKind, Latency

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("fast_pauses")]


class World:
    """Three providers, the faults of each, and a client that may ask them all."""

    def __init__(self) -> None:
        self.faults: dict[str, FaultKind] = {}
        self.providers: dict[str, Any] = {}
        self.client: ScheduledClient
        self.store = MemoryStore()

    def asked(self) -> dict[str, int]:
        return {name: len(each.ledger.paid) for name, each in self.providers.items()}


@pytest.fixture
async def world(serve: Any) -> AsyncIterator[World]:
    world = World()
    quotas = [Quota.per_minute(name, concurrency=2) for name in ("east", "west", "small")]
    async with AsyncExitStack() as stack:
        scheduler = await stack.enter_async_context(LocalScheduler(world.store, quotas))
        inners = {}
        for name in ("east", "west", "small"):

            def faults(number: int, _: Any, name: str = name) -> Fault | None:
                kind = world.faults.get(name)
                return None if kind is None else Fault(kind)

            serving = serve(faults=faults, latency=Latency(0.02))
            world.providers[name], inners[name] = await stack.enter_async_context(serving)
        others = [
            (inners["west"], Model("m-west", ("west",)), 0),
            (inners["small"], Model("m-small", ("small",)), 1),
        ]
        scope = RunScope(scheduler, "run", Priority.NORMAL)
        model = Model("m-east", ("east",))
        world.client = ScheduledClient(
            inners["east"], model, scope, path="w", priority=None, others=others
        )
        yield world


async def ask_all(world: World, question: Any, count: int) -> None:
    async with anyio.create_task_group() as group:
        for n in range(count):
            group.start_soon(world.client.create, question(str(n)))


async def test_deployments_share_the_calls(world: World, question: Any) -> None:
    await ask_all(world, question, 12)
    assert world.asked() == {"east": 6, "west": 6, "small": 0}


@pytest.mark.parametrize("kind", [FaultKind.SERVER_ERROR, FaultKind.UNAUTHORIZED])
async def test_what_one_does_not_answer_another_does(
    world: World, question: Any, kind: FaultKind, caplog: Any
) -> None:
    caplog.set_level(logging.INFO, "headway")
    world.faults["east"] = kind
    await ask_all(world, question, 12)
    assert world.asked() == {"east": 0, "west": 12, "small": 0}
    rows = await world.store.calls("run")
    assert {(row.state, row.call.model) for row in rows} == {(CallState.DONE, "m-west")}
    assert "goes to model 'm-west', not 'm-east'" in caplog.text


async def test_the_fallback_takes_over_while_both_are_down(world: World, question: Any) -> None:
    world.faults = {"east": FaultKind.SERVER_ERROR, "west": FaultKind.OVERLOADED}
    await ask_all(world, question, 12)
    assert world.asked() == {"east": 0, "west": 0, "small": 12}


async def test_streams_take_the_same_ways(world: World, question: Any) -> None:
    world.faults["east"] = FaultKind.CUT_STREAM
    items = [item async for item in world.client.create_stream(question())]
    assert items[-1].content
