"""Fixtures of these tests: a scheduler in memory, a run, and a provider on loopback."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import pytest
from autogen_core.models import ChatCompletionClient, ModelInfo, UserMessage
from autogen_ext.models.openai import OpenAIChatCompletionClient

from headway_agents import Model, RunScope, ScheduledClient
from headway_scheduler.backends.memory.store import MemoryStore
from headway_scheduler.model.calls import CallRecord, Priority
from headway_scheduler.model.quotas import Quota
from headway_scheduler.runtime.local import LocalScheduler
from headway_scheduler.testing.provider import Settings, SimulatedProvider, simulated_provider

KEY = "sk-test-0123456789abcdef"
CAPABLE = ModelInfo(
    vision=True,
    function_calling=True,
    json_output=True,
    structured_output=True,
    multiple_system_messages=True,
    family="unknown",
)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def scheduler(store: MemoryStore) -> AsyncIterator[LocalScheduler]:
    quota = Quota.per_minute("q", requests=60_000, tokens=60_000_000, concurrency=100)
    narrow = Quota.per_minute("narrow", concurrency=1)
    async with LocalScheduler(store, [quota, narrow]) as scheduler:
        yield scheduler


@pytest.fixture
def scope(scheduler: LocalScheduler) -> RunScope:
    return RunScope(scheduler, "run", Priority.NORMAL)


@pytest.fixture
def models() -> Callable[[ChatCompletionClient], ScheduledClient]:
    return lambda inner: ScheduledClient(inner, Model("m", ("q",)))


@pytest.fixture
def question() -> Callable[[str], Sequence[UserMessage]]:
    return lambda text="hello": [UserMessage(content=text, source="user")]


Serve = Callable[
    ..., AbstractAsyncContextManager[tuple[SimulatedProvider, OpenAIChatCompletionClient]]
]


@pytest.fixture
def serve() -> Serve:
    """Run a provider with ``Settings(...)``, and make AutoGen's own client for it."""

    @asynccontextmanager
    async def serving(
        client: dict[str, Any] | None = None, **settings: Any
    ) -> AsyncIterator[tuple[SimulatedProvider, OpenAIChatCompletionClient]]:
        async with simulated_provider(Settings(**settings)) as provider:
            arguments: dict[str, Any] = {"model_info": CAPABLE, "api_key": KEY, **(client or {})}
            inner = OpenAIChatCompletionClient(
                model="sim-1", base_url=provider.base_url, **arguments
            )
            try:
                yield provider, inner
            finally:
                await inner.close()

    return serving


@pytest.fixture
def records(store: MemoryStore) -> Callable[..., Any]:
    async def read(run_id: str | None = None) -> Sequence[CallRecord]:
        return await store.calls(run_id)

    return read


@pytest.fixture
def idle(scheduler: LocalScheduler) -> Callable[..., Any]:
    """Wait until the scheduler has taken in what it was told, and show that nothing is held."""

    async def check(scheduler: LocalScheduler = scheduler) -> None:
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        statistics = scheduler.statistics()
        assert statistics.in_flight == 0
        assert sum(statistics.waiting) == 0
        slots = [gauge for gauge in statistics.gauges if gauge.resource == "concurrency"]
        assert all(gauge.available == gauge.capacity for gauge in slots)

    return check


@pytest.fixture
def fast_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headway_scheduler.core.limits.breaker.ASIDE_SECONDS", 0.001)
    monkeypatch.setattr("headway_scheduler.model.formulas.FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr("headway_scheduler.model.formulas.LONGEST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr("headway_scheduler.model.formulas.FIRST_SHORT_SECONDS", 0.01)
    monkeypatch.setattr("headway_scheduler.model.formulas.LONGEST_SHORT_SECONDS", 0.05)
