"""Limits that a provider tells or shows, through Headway and over HTTP: what holds afterwards."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import anyio
import httpx
import pytest
from autogen_core.models import UserMessage

from headway import Headway
from headway.config import load
from headway_scheduler.core.views import Gauge
from headway_scheduler.model.quotas import Resource
from headway_scheduler.testing.provider import (
    HeaderStyle,
    Latency,
    Ledger,
    Limits,
    Settings,
    WindowKind,
    simulated_provider,
)

pytestmark = pytest.mark.anyio

Opened = AbstractAsyncContextManager[tuple[Headway, Ledger]]
Open = Callable[..., Opened]


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    monkeypatch.setenv("SIMULATED_KEY", "not-a-key")

    @asynccontextmanager
    async def open_one(
        limits: Limits, quota: str, provider: str = "openai"
    ) -> AsyncIterator[tuple[Headway, Ledger]]:
        async with simulated_provider(Settings(limits, Latency(0.02))) as simulated:
            file = tmp_path / "headway.toml"
            file.write_text(f"""
[database]
path = "headway.db"
[quotas.q]
{quota}
[models.m]
provider = "{provider}"
base_url = "{simulated.base_url}"
quotas = ["q"]
api_key_env = "SIMULATED_KEY"
""")
            async with Headway(load(file)) as headway:
                yield headway, simulated.ledger

    return open_one


async def ask(headway: Headway, times: int) -> None:
    client = headway.model("m", priority="interactive")
    async with anyio.create_task_group() as group:
        for _ in range(times):
            group.start_soon(client.create, [UserMessage(content="Go.", source="user")])


def gauges(headway: Headway) -> dict[Resource, Gauge]:
    found = headway.scheduler.statistics().gauges
    return {each.resource: each for each in found if each.quota == "q"}


@pytest.mark.parametrize("style", [HeaderStyle.LITELLM, HeaderStyle.NONE])
async def test_a_limit_on_calls_at_once_that_nobody_stated(
    opened: Open, style: HeaderStyle
) -> None:
    limits = Limits(concurrency=2, headers=style)
    quota = "requests_per_minute = 60000\nburst_seconds = 60"
    async with opened(limits, quota) as (headway, ledger):
        await ask(headway, asked := 12)
        # While this process is busy, an answer that it has not heard of makes room for a third.
        while gauges(headway)[Resource.CONCURRENCY].capacity > 2:
            await ask(headway, 6)
            asked += 6
        found = gauges(headway)
        assert found[Resource.CONCURRENCY].capacity == 2
        is_told = style is HeaderStyle.LITELLM
        assert found[Resource.CONCURRENCY].source == ("told" if is_told else "learned")
        rate = found[Resource.REQUESTS]
        assert (rate.per_second, rate.source) == (1000, "stated")
        assert all(gauge.paused_until is None for gauge in found.values())
        assert sum(entry.accepted for entry in ledger.entries) == asked
        before = len(ledger.entries)
        await ask(headway, 6)
        assert len(ledger.entries) == before + 6  # none was refused any more


async def test_what_remains_counts_although_the_answer_ends_at_once(opened: Open) -> None:
    """Head and end of an answer come together; the head is told while its call is in flight."""
    quota = "requests_per_minute = 600\nburst_seconds = 60"
    async with opened(Limits(600), quota) as (headway, ledger):
        began = anyio.current_time()
        await ask(headway, 1)
        body = {"model": "m", "messages": [{"role": "user", "content": "Another client."}]}
        address = headway.config.model("m").base_url
        async with httpx.AsyncClient() as other:
            for _ in range(200):
                await other.post(f"{address}/chat/completions", json=body)
        await ask(headway, 1)
        assert len(ledger.entries) == 202
        refilled = 10 * (anyio.current_time() - began)
        assert gauges(headway)[Resource.REQUESTS].available <= 600 - 202 + refilled + 10


async def test_azures_limit_is_one_of_a_short_window(opened: Open) -> None:
    limits = Limits(1200, window=WindowKind.SLIDING, window_seconds=1, headers=HeaderStyle.AZURE)
    async with opened(limits, "requests_per_minute = 1200", "azure") as (headway, ledger):
        await ask(headway, 30)
        gauge = gauges(headway)[Resource.REQUESTS]
        known = (gauge.source, gauge.counted, gauge.window_seconds, gauge.capacity)
        assert known == ("told", "sliding", 1.0, 20)
        assert sum(entry.accepted for entry in ledger.entries) == 30


@pytest.mark.parametrize("window", ["sliding", "fixed"])
async def test_a_window_that_is_stated_is_counted_as_one(opened: Open, window: str) -> None:
    limits = Limits(1200, window=WindowKind(window), window_seconds=1, headers=HeaderStyle.NONE)
    quota = f'requests_per_minute = 1200\nwindow = "{window}"\nwindow_seconds = 1'
    async with opened(limits, quota) as (headway, ledger):
        await ask(headway, 30)
        assert sum(entry.accepted for entry in ledger.entries) == 30
        gauge = gauges(headway)[Resource.REQUESTS]
        assert (gauge.source, gauge.counted, gauge.capacity) == ("stated", window, 20)
