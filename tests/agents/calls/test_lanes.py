"""Lanes of a provider over real HTTP: what is asked for, what a refusal for capacity does."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import openai
import pytest
from tests.waiting import until

from headway_agents import CallLimits, Model, RunScope, ScheduledClient
from headway_agents.openai_sdk.client import openai_sdk, scheduled
from headway_scheduler.backends.memory.store import MemoryStore
from headway_scheduler.core.policy import Policy
from headway_scheduler.model.calls import Priority, ServiceLane
from headway_scheduler.model.quotas import Quota
from headway_scheduler.model.states import CallState
from headway_scheduler.runtime.local import LocalScheduler
from headway_scheduler.testing.provider import Fault, FaultKind, SimulatedProvider

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("fast_pauses")]

MODEL = Model("m", ("org",))
FLEX = Model(
    "m",
    ("m/flex", "org"),
    limits=CallLimits(first_byte_timeout=900),
    lane=ServiceLane.FLEX,
    classes=(Priority.BACKGROUND,),
)
FAST = Model("m", ("org",), lane=ServiceLane.PRIORITY, classes=(Priority.INTERACTIVE,))


class Capacity:
    """How many requests by flex are refused before there is room."""

    def __init__(self, refusals: int = 0) -> None:
        self.refusals = refusals

    def __call__(self, number: int, body: Any) -> Fault | None:
        if body.get("service_tier") != "flex" or not self.refusals:
            return None
        self.refusals -= 1
        return Fault(FaultKind.NO_CAPACITY)


class World:
    """A provider, a scheduler with a lane, and clients of runs."""

    def __init__(self, provider: SimulatedProvider, inner: Any, scheduler: LocalScheduler) -> None:
        self.provider, self.inner, self.scheduler = provider, inner, scheduler

    def scope(self, priority: Priority, lane: ServiceLane = ServiceLane.FLEX) -> RunScope:
        scope = RunScope(self.scheduler, f"{priority.label}-{lane.value}", priority)
        scope.lane = lane
        return scope

    def client(self, priority: Priority = Priority.BACKGROUND, *lanes: Model) -> ScheduledClient:
        others = [(self.inner, lane, 0) for lane in lanes or (FLEX,)]
        return ScheduledClient(self.inner, MODEL, self.scope(priority), path="w", others=others)

    def tiers(self) -> list[tuple[str, int]]:
        return [(entry.tier, entry.status) for entry in self.provider.ledger.entries]


Opened = Callable[..., Any]


@pytest.fixture
def opened(serve: Any, store: MemoryStore) -> Opened:
    @asynccontextmanager
    async def opening(
        capacity: Capacity | None = None,
        *,
        gives_up: float = 900.0,
        client: dict[str, Any] | None = None,
    ) -> AsyncIterator[World]:
        quotas = [Quota.per_minute("org", requests=60_000), Quota("m/flex", ())]
        policy = Policy(flex_gives_up_seconds=gives_up)
        async with (
            serve(client, faults=capacity) as (provider, inner),
            LocalScheduler(store, quotas, policy=policy) as scheduler,
        ):
            yield World(provider, inner, scheduler)

    return opening


async def test_a_background_call_asks_for_flex(opened: Opened, records: Any, question: Any) -> None:
    async with opened() as world:
        await world.client().create(question())
        assert world.tiers() == [("flex", 200)]
    (record,) = await records()
    assert (record.call.lane, record.tier, record.state) == (
        ServiceLane.FLEX,
        "flex",
        CallState.DONE,
    )


async def test_streams_ask_for_it_too(opened: Opened, records: Any, question: Any) -> None:
    async with opened() as world:
        items = [item async for item in world.client().create_stream(question())]
        assert items[-1].content
        assert world.tiers() == [("flex", 200)]
    (record,) = await records()
    assert record.usage is not None
    assert record.tier == "flex"


async def test_nobody_else_does(opened: Opened, question: Any) -> None:
    async with opened() as world:
        await world.client(Priority.LOW).create(question())
        client = world.client()
        await client.bound(world.scope(Priority.BACKGROUND, ServiceLane.STANDARD)).create(
            question()
        )
        assert world.tiers() == [("", 200)] * 2


async def test_a_call_without_capacity_waits_and_goes_by_flex_all_the_same(
    opened: Opened, records: Any, question: Any
) -> None:
    async with opened(Capacity(3)) as world:
        await world.client().create(question())
        assert world.tiers() == [("flex", 429)] * 3 + [("flex", 200)]
    (record,) = await records()
    assert (record.attempts, record.lost_attempts, record.tier) == (1, 0, "flex")


async def test_a_call_that_has_waited_long_enough_goes_standard(
    opened: Opened, records: Any, question: Any
) -> None:
    async with opened(Capacity(10_000), gives_up=0.2) as world:
        await world.client().create(question())
        assert world.tiers()[-1] == ("", 200)
        assert set(world.tiers()[:-1]) == {("flex", 429)}
    (record,) = await records()
    assert (record.call.lane, record.call.quotas) == (ServiceLane.STANDARD, ("org",))
    assert (record.attempts, record.tier) == (1, None)


async def test_urgent_calls_go_while_the_lane_has_no_capacity(
    opened: Opened, question: Any
) -> None:
    capacity = Capacity(10_000)
    async with opened(capacity) as world, anyio.create_task_group() as group:
        client = world.client()
        for n in range(3):
            group.start_soon(client.create, question(str(n)))
        await until(lambda: len(world.tiers()) >= 3)
        await world.client(Priority.INTERACTIVE).create(question("urgent"))
        health = world.scheduler.provider_health()
        assert health.probing == ("m/flex",)
        capacity.refusals = 0


async def test_a_tier_that_the_user_chose_is_kept_and_its_lane_pauses(
    opened: Opened, records: Any, question: Any
) -> None:
    async with opened(Capacity(2), client={"service_tier": "flex"}) as world:
        await world.client(Priority.INTERACTIVE).create(question())
        assert world.tiers() == [("flex", 429)] * 2 + [("flex", 200)]
    (record,) = await records()
    assert (record.call.lane, record.attempts) == (ServiceLane.FLEX, 1)


async def test_a_tier_of_one_request_goes_before_that_of_the_client(
    opened: Opened, question: Any
) -> None:
    async with opened(client={"service_tier": "flex"}) as world:
        await world.client().create(question(), extra_create_args={"service_tier": "default"})
        assert world.tiers() == [("default", 200)]


async def test_flex_by_hand_without_a_lane_pauses_only_the_call(
    opened: Opened, records: Any, question: Any
) -> None:
    async with opened(Capacity(2), client={"service_tier": "flex"}) as world:
        scope = world.scope(Priority.NORMAL)
        client = ScheduledClient(world.inner, MODEL, scope, path="w")
        await client.create(question())
        assert world.tiers() == [("flex", 429)] * 2 + [("flex", 200)]
        assert world.scheduler.provider_health().probing == ()
    (record,) = await records()
    assert (record.call.lane, record.attempts) == (ServiceLane.STANDARD, 1)


async def test_the_same_refusal_of_another_request_pauses_its_quota(
    opened: Opened, question: Any, records: Any
) -> None:
    refused = iter([Fault(FaultKind.NO_CAPACITY)])
    async with opened(lambda number, body: next(refused, None)) as world:
        await world.client(Priority.NORMAL).create(question())
    (record,) = await records()
    assert record.attempts == 2


async def test_chosen_classes_go_by_priority(opened: Opened, question: Any, records: Any) -> None:
    async with opened() as world:
        await world.client(Priority.INTERACTIVE, FAST).create(question())
        await world.client(Priority.NORMAL, FAST).create(question())
        assert world.tiers() == [("priority", 200), ("", 200)]
    rows = await records()
    assert [row.call.lane for row in rows] == [ServiceLane.PRIORITY, ServiceLane.STANDARD]


async def test_requests_of_the_sdk_go_by_flex_and_embeddings_do_not(
    opened: Opened, records: Any
) -> None:
    async with opened(Capacity(1)) as world:
        scope = world.scope(Priority.BACKGROUND)
        async with openai_sdk("no-key", world.provider.base_url) as sdk:
            client = scheduled(sdk, MODEL, lambda: scope, lanes=[FLEX])
            answer = await ask(client)
            assert answer.service_tier == "flex"
            await client.embeddings.create(model="e", input="hello")
        assert world.tiers() == [("flex", 429), ("flex", 200), ("", 200)]
    rows = await records()
    assert [row.call.lane for row in rows] == [ServiceLane.FLEX, ServiceLane.STANDARD]


async def ask(client: openai.AsyncOpenAI) -> Any:
    return await client.chat.completions.create(
        model="c", messages=[{"role": "user", "content": "hello"}]
    )


async def test_flex_may_take_longer_than_the_sdk_waits_by_itself(
    opened: Opened, question: Any
) -> None:
    async with opened() as world:
        seen: list[Any] = []
        http = world.inner._client._client

        async def note(request: Any) -> None:
            seen.append(request.extensions["timeout"]["read"])

        client, urgent = world.client(), world.client(Priority.INTERACTIVE)
        http.event_hooks["request"].append(note)
        await client.create(question())
        await urgent.create(question())
    assert seen == [FLEX.limits.first_byte_timeout, 600]


async def test_a_read_timeout_that_somebody_chose_holds(opened: Opened, question: Any) -> None:
    async with opened(client={"timeout": 30}) as world:
        seen: list[Any] = []

        async def note(request: Any) -> None:
            seen.append(request.extensions["timeout"]["read"])

        client = world.client()
        world.inner._client._client.event_hooks["request"].append(note)
        await client.create(question())
    assert seen == [30]
