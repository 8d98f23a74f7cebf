"""The provider's faults one by one, clients that leave, and its end."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import openai
import pytest
from tests.waiting import until

from headway_scheduler.testing.provider import (
    Fault,
    FaultKind,
    Latency,
    Limits,
    Settings,
    SimulatedProvider,
    simulated_provider,
)

pytestmark = pytest.mark.anyio

HELLO: list[Any] = [{"role": "user", "content": "hello there"}]
HANG = Fault(FaultKind.HANG)


def plain_http() -> openai.DefaultAsyncHttpxClient:
    """Loading certificates would take most of a test's time."""
    return openai.DefaultAsyncHttpxClient(verify=False)


@asynccontextmanager
async def connected(
    settings: Settings | None = None,
) -> AsyncIterator[tuple[SimulatedProvider, openai.AsyncOpenAI]]:
    async with (
        simulated_provider(settings) as provider,
        plain_http() as http_client,
        openai.AsyncOpenAI(
            base_url=provider.base_url,
            api_key="k",
            max_retries=0,
            timeout=5,
            http_client=http_client,
        ) as client,
    ):
        yield provider, client


async def ask(client: openai.AsyncOpenAI, **changes: Any) -> Any:
    return await client.chat.completions.create(**{"model": "m", "messages": HELLO, **changes})


async def pieces(client: openai.AsyncOpenAI, **changes: Any) -> list[Any]:
    return [chunk async for chunk in await ask(client, stream=True, **changes)]


def failing(fault: Fault) -> Settings:
    return Settings(faults=lambda number, _: fault if number == 1 else None)


async def leave(provider: SimulatedProvider, client: openai.AsyncOpenAI, **changes: Any) -> None:
    """Ask, and go away once the provider has the request."""
    async with anyio.create_task_group() as group:
        group.start_soon(partial(ask, client, **changes))
        await until(lambda: len(provider.ledger) == 1)
        group.cancel_scope.cancel()
    await until(lambda: provider.ledger.entries[0].finished_at is not None)


def test_a_fault_header_is_read() -> None:
    assert Fault.parse("cut_stream; after_chunks=3").after_chunks == 3
    assert Fault.parse("rate_limit;retry_after_seconds=1.5").retry_after_seconds == 1.5
    assert Fault.parse("odd_usage; value=-5") == Fault(FaultKind.ODD_USAGE, value="-5")
    assert Fault.parse("drip; every_seconds=0.5").every_seconds == 0.5
    with pytest.raises(ValueError, match="no setting"):
        Fault.parse("hang; seconds=1")


@pytest.mark.parametrize(
    ("fault", "error", "code", "retry_after"),
    [
        (Fault(FaultKind.RATE_LIMIT, 2.5), openai.RateLimitError, "rate_limit_exceeded", "3"),
        (Fault(FaultKind.RATE_LIMIT), openai.RateLimitError, "rate_limit_exceeded", None),
        (
            Fault(FaultKind.INSUFFICIENT_QUOTA),
            openai.RateLimitError,
            "insufficient_quota",
            None,
        ),
        (Fault(FaultKind.SERVER_ERROR), openai.InternalServerError, None, None),
        (Fault(FaultKind.OVERLOADED), openai.InternalServerError, "server_is_overloaded", None),
        (Fault(FaultKind.UNAUTHORIZED), openai.AuthenticationError, "invalid_api_key", None),
    ],
)
async def test_a_fault_with_an_error_status(
    fault: Fault, error: type[openai.APIStatusError], code: str | None, retry_after: str | None
) -> None:
    async with connected(failing(fault)) as (provider, client):
        with pytest.raises(error) as caught:
            await ask(client)
        await ask(client)
    assert caught.value.code == code
    assert caught.value.response.headers.get("retry-after") == retry_after
    entry = provider.ledger.entries[0]
    assert (entry.status, entry.why) == (caught.value.status_code, fault.kind.value)
    assert entry.accepted == (entry.status >= 500)
    assert not entry.paid
    assert entry.finished_at is not None


@pytest.mark.parametrize("after_chunks", [0, 1, 3])
async def test_a_cut_stream_gives_its_chunks_and_is_paid(after_chunks: int) -> None:
    fault = Fault(FaultKind.CUT_STREAM, after_chunks=after_chunks)
    seen: list[object] = []

    async def listen() -> None:
        async for chunk in await ask(client, stream=True):
            seen.append(chunk)

    async with connected(failing(fault)) as (provider, client):
        with pytest.raises(openai.APIConnectionError):
            await listen()
        await ask(client)
    assert len(seen) == after_chunks
    assert [(entry.why, entry.paid) for entry in provider.ledger.entries] == [
        ("cut_stream", True),
        ("", True),
    ]
    assert list(provider.ledger.duplicates().values()) == [2]


@pytest.mark.parametrize("after_chunks", [0, 1])
async def test_an_answer_that_is_not_streamed_is_cut_too(after_chunks: int) -> None:
    async with connected(failing(Fault(FaultKind.CUT_STREAM, after_chunks=after_chunks))) as (
        provider,
        client,
    ):
        with pytest.raises(openai.APIConnectionError):
            await ask(client)
    assert provider.ledger.entries[0].paid


@pytest.mark.parametrize("stream", [False, True])
async def test_a_malformed_answer_is_paid(stream: bool) -> None:
    async with connected(failing(Fault(FaultKind.MALFORMED))) as (provider, client):
        with pytest.raises(json.JSONDecodeError):
            await (pieces(client) if stream else ask(client))
    assert [(entry.status, entry.paid) for entry in provider.ledger.entries] == [(200, True)]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_hang_lasts_until_the_client_leaves(stream: bool) -> None:
    async with connected(failing(HANG)) as (provider, client):
        await leave(provider, client, stream=stream)
    entry = provider.ledger.entries[0]
    assert (entry.why, entry.accepted, entry.paid) == ("hang", True, False)


async def test_a_header_asks_for_a_fault_and_a_wrong_one_is_told() -> None:
    async with connected() as (provider, client):
        wish = {"x-simulate-fault": "rate_limit; retry_after_seconds=0.2"}
        with pytest.raises(openai.RateLimitError) as caught:
            await ask(client, extra_headers=wish)
        with pytest.raises(openai.BadRequestError):
            await ask(client, extra_headers={"x-simulate-fault": "nonsense"})
        with pytest.raises(openai.BadRequestError):
            await ask(client, extra_headers={"x-simulate-fault": "hang; for=3"})
    assert caught.value.response.headers["retry-after-ms"] == "200"
    assert "try again in 200ms" in caught.value.message
    assert [entry.status for entry in provider.ledger.entries] == [429, 400, 400]


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"model": "m"}', b'{"model": "m", "messages": 1}'])
async def test_what_is_no_request_is_refused_and_entered(body: bytes) -> None:
    async with simulated_provider() as provider, plain_http() as browser:
        answer = await browser.post(f"{provider.base_url}/chat/completions", content=body)
    assert answer.status_code == 400
    assert [entry.why for entry in provider.ledger.entries] == ["bad_request"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_has_paid(stream: bool) -> None:
    slow = Settings(latency=Latency(base_seconds=60))
    async with connected(slow) as (provider, client):
        await leave(provider, client, stream=stream)
    entry = provider.ledger.entries[0]
    assert (entry.why, entry.paid) == ("client_left", True)


async def test_a_place_is_taken_until_the_answer_is_complete() -> None:
    settings = Settings(limits=Limits(concurrency=1), faults=lambda n, _: HANG if n == 1 else None)
    async with connected(settings) as (provider, client), anyio.create_task_group() as group:
        group.start_soon(ask, client)
        await until(lambda: len(provider.ledger) == 1)
        with pytest.raises(openai.RateLimitError, match="concurrent"):
            await ask(client)
        group.cancel_scope.cancel()
    assert [entry.why for entry in provider.ledger.entries] == ["hang", "concurrency"]
    async with connected(Settings(limits=Limits(concurrency=1))) as (provider, client):
        for _ in range(5):
            await ask(client)
            await pieces(client)
    assert provider.ledger.most_at_once() == 1


async def test_it_ends_under_hanging_requests_and_leaves_no_task() -> None:
    before = asyncio.all_tasks()
    errors: list[Exception] = []

    async def hang(stream: bool) -> None:
        try:
            await pieces(client) if stream else await ask(client)
        except openai.APIConnectionError as error:
            errors.append(error)

    async with anyio.create_task_group() as group:
        async with simulated_provider(Settings(faults=lambda *_: HANG)) as provider:
            client = openai.AsyncOpenAI(
                base_url=provider.base_url, api_key="k", max_retries=0, http_client=plain_http()
            )
            for number in range(6):
                group.start_soon(hang, number % 2 == 0)
            await until(lambda: len(provider.ledger) == 6)
        assert all(entry.finished_at is not None for entry in provider.ledger.entries)
    await client.close()
    assert len(errors) == 6
    assert asyncio.all_tasks() == before


async def test_its_port_is_free_again_when_it_ended() -> None:
    async with simulated_provider() as first:
        port = int(first.base_url.split(":")[2].split("/")[0])
    async with simulated_provider(port=port) as second:
        assert second.base_url == first.base_url


async def test_a_second_provider_on_the_port_is_refused() -> None:
    async with simulated_provider() as provider:
        port = int(provider.base_url.split(":")[2].split("/")[0])
        with pytest.raises(OSError, match="in use"):
            async with simulated_provider(port=port):
                pass
