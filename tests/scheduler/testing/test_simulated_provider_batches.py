"""Files and batches of the simulated provider, through OpenAI's own SDK."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest

from headway_scheduler.testing.provider import (
    Fault,
    FaultKind,
    Limits,
    Settings,
    SimulatedProvider,
    simulated_provider,
)

pytestmark = pytest.mark.anyio
ENDPOINT: Any = "/v1/chat/completions"


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[tuple[SimulatedProvider, openai.AsyncOpenAI]]:
    async with (
        simulated_provider(Settings(**settings)) as provider,
        openai.AsyncOpenAI(api_key="k", base_url=provider.base_url, max_retries=0) as sdk,
    ):
        yield provider, sdk


def line(name: str, text: str = "hello", url: str = ENDPOINT) -> str:
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    return json.dumps({"custom_id": name, "method": "POST", "url": url, "body": body})


async def begun(sdk: openai.AsyncOpenAI, *lines: str) -> Any:
    file = await sdk.files.create(file=("in.jsonl", "\n".join(lines).encode()), purpose="batch")
    return await sdk.batches.create(
        input_file_id=file.id,
        endpoint=ENDPOINT,
        completion_window="24h",
        metadata={"headway": "b-1"},
    )


async def lines_of(sdk: openai.AsyncOpenAI, file_id: str | None) -> dict[str, Any]:
    assert file_id is not None
    content = (await sdk.files.content(file_id)).content
    return {each["custom_id"]: each for each in map(json.loads, content.splitlines())}


def once(kind: FaultKind) -> Callable[..., Fault | None]:
    return lambda number, _: Fault(kind) if number == 1 else None


async def test_a_batch_is_answered_line_by_line_and_billed() -> None:
    limits = Limits(requests_per_minute=1, burst_seconds=60)
    async with serving(limits=limits) as (provider, sdk):
        batch = await begun(sdk, *(line(f"c{n}", f"question {n}") for n in range(3)))
        batch = await sdk.batches.retrieve(batch.id)
        assert (batch.status, batch.metadata) == ("completed", {"headway": "b-1"})
        answers = await lines_of(sdk, batch.output_file_id)
    assert set(answers) == {"c0", "c1", "c2"}
    for each in answers.values():
        assert each["response"]["status_code"] == 200
        assert each["response"]["body"]["usage"]["completion_tokens"] > 0
    assert [(entry.tier, entry.who) for entry in provider.ledger.paid] == [
        ("batch", "c0"),
        ("batch", "c1"),
        ("batch", "c2"),
    ]


async def test_it_takes_its_time_and_can_be_cancelled_until_then() -> None:
    async with serving(batch_seconds=600) as (provider, sdk):
        batch = await begun(sdk, line("c"))
        assert (await sdk.batches.retrieve(batch.id)).status == "in_progress"
        assert [each.id async for each in sdk.batches.list()] == [batch.id]
        assert (await sdk.batches.cancel(batch.id)).status == "cancelled"
        assert (await sdk.batches.retrieve(batch.id)).output_file_id is None
    assert provider.ledger.entries == ()


async def test_a_refused_request_has_its_line_among_the_errors() -> None:
    async with serving(faults=once(FaultKind.SERVER_ERROR)) as (provider, sdk):
        batch = await sdk.batches.retrieve((await begun(sdk, line("a"), line("b", "other"))).id)
        errors = await lines_of(sdk, batch.error_file_id)
        answers = await lines_of(sdk, batch.output_file_id)
    assert batch.status == "completed"
    assert errors["a"]["response"]["status_code"] == 500
    assert set(answers) == {"b"}
    assert len(provider.ledger.paid) == 1


async def test_a_request_that_hangs_expires() -> None:
    async with serving(faults=once(FaultKind.HANG)) as (_, sdk):
        batch = await sdk.batches.retrieve((await begun(sdk, line("a"), line("b", "other"))).id)
        errors = await lines_of(sdk, batch.error_file_id)
    assert batch.status == "expired"
    assert errors["a"]["response"] is None
    assert errors["a"]["error"]["code"] == "batch_expired"


async def test_what_cannot_be_a_batch_is_refused() -> None:
    async with serving() as (_, sdk):
        with pytest.raises(openai.BadRequestError, match="another endpoint"):
            await begun(sdk, line("a", url="/v1/embeddings"))
        with pytest.raises(openai.BadRequestError, match="no such file"):
            await sdk.batches.create(
                input_file_id="file-none", endpoint=ENDPOINT, completion_window="24h"
            )
        with pytest.raises(openai.NotFoundError):
            await sdk.batches.retrieve("batch_none")
        with pytest.raises(openai.NotFoundError):
            await sdk.files.content("file-none")
