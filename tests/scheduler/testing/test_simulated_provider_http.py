"""The provider over real HTTP: answers, faults one by one, limits, and its end."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from pydantic import BaseModel
from tests.sentences import SENTENCE

from headway_scheduler.testing.provider import (
    Latency,
    Limits,
    Reply,
    Settings,
    SimulatedProvider,
    ToolCall,
    simulated_provider,
)

pytestmark = pytest.mark.anyio

HELLO: list[Any] = [{"role": "user", "content": "hello there"}]
SECRET = "sk-secret"
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}


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
            api_key=SECRET,
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


async def test_an_answer_is_a_function_of_model_and_messages() -> None:
    async with connected() as (provider, client):
        first, second = await ask(client), await ask(client)
        other = await ask(client, messages=[{"role": "user", "content": "bye"}])
    text = first.choices[0].message.content
    assert text == second.choices[0].message.content
    assert text != other.choices[0].message.content
    assert first.choices[0].finish_reason == "stop"
    assert first.usage.prompt_tokens == 3  # 11 characters
    assert first.usage.completion_tokens == -(-len(text) // 4)
    assert [entry.status for entry in provider.ledger.entries] == [200] * 3
    assert list(provider.ledger.duplicates().values()) == [2]
    assert SECRET not in json.dumps(provider.ledger.as_json())


async def test_a_stream_says_the_same_and_ends_with_its_usage() -> None:
    async with connected() as (provider, client):
        whole = await ask(client)
        chunks = await pieces(client, stream_options={"include_usage": True})
        plain = await pieces(client)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert [chunk.usage for chunk in plain] == [None] * len(plain)
    assert [entry.streamed for entry in provider.ledger.entries] == [False, True, True]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "add"}}])
async def test_a_required_tool_is_called_with_arguments_that_fit(choice: Any) -> None:
    async with connected() as (_, client):
        answer = await ask(client, tools=[TOOL], tool_choice=choice)
        chunks = await pieces(client, tools=[TOOL], tool_choice=choice)
    call = answer.choices[0].message.tool_calls[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("add", {"a": 1})
    assert answer.choices[0].finish_reason == "tool_calls"
    streamed = next(c.choices[0].delta.tool_calls for c in chunks if c.choices[0].delta.tool_calls)
    assert (streamed[0].id, streamed[0].function.name) == (call.id, "add")
    assert streamed[0].function.arguments == call.function.arguments


async def test_a_tool_that_need_not_be_called_is_not() -> None:
    async with connected() as (_, client):
        answer = await ask(client, tools=[TOOL])
    assert answer.choices[0].message.tool_calls is None


async def test_a_script_says_text_tool_calls_and_tokens_or_leaves_it() -> None:
    script = iter(["hi", Reply(tool_calls=(ToolCall("add", {"a": 2}),), output_tokens=50), None])
    async with connected(Settings(reply=lambda _: next(script))) as (provider, client):
        text, call, default = [await ask(client) for _ in range(3)]
    assert text.choices[0].message.content == "hi"
    assert call.choices[0].message.tool_calls[0].function.arguments == '{"a": 2}'
    assert call.usage.completion_tokens == 50
    assert re.fullmatch(SENTENCE, default.choices[0].message.content)
    assert [entry.completion_tokens for entry in provider.ledger.entries][:2] == [1, 50]


async def test_every_prompt_has_its_own_sentence_and_the_same_one_again() -> None:
    async with connected() as (_, client):
        said = [
            (await ask(client, messages=[{"role": "user", "content": f"page {number % 50}"}]))
            for number in range(100)
        ]
    texts = [answer.choices[0].message.content for answer in said]
    assert len(set(texts)) == 50
    assert texts[:50] == texts[50:]
    assert all(re.fullmatch(SENTENCE, text) for text in texts)


async def test_an_answer_is_cut_at_its_cap_and_the_cap_is_charged() -> None:
    async with connected(Settings(reply=lambda _: "x" * 100)) as (provider, client):
        answer = await ask(client, max_tokens=5)
        await ask(client, max_completion_tokens=2)
        await ask(client)
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].message.content == "x" * 20
    assert [entry.charged_tokens for entry in provider.ledger.entries] == [5, 3, 3]
    assert [entry.completion_tokens for entry in provider.ledger.entries] == [5, 2, 25]


class Colour(BaseModel):
    name: str
    tags: list[str]
    parent: "Colour | None"


async def test_structured_output_fits_the_model() -> None:
    async with connected() as (_, client):
        parsed = await client.chat.completions.parse(
            model="m", messages=HELLO, response_format=Colour
        )
        loose = await ask(client, response_format={"type": "json_object"})
    assert isinstance(parsed.choices[0].message.parsed, Colour)
    assert isinstance(json.loads(loose.choices[0].message.content), dict)


async def test_models_and_ledger_are_served() -> None:
    settings = Settings(limits={"big": Limits(1), "*": Limits(9)})
    async with connected(settings) as (provider, client):
        await ask(client, user="ann")
        await ask(client, user="ann", extra_headers={"x-headway-call": "call-7"})
        assert [model.id async for model in client.models.list()] == ["big"]
        async with plain_http() as browser:
            served = (await browser.get(provider.ledger_url)).json()
    assert [entry["who"] for entry in served["entries"]] == ["ann", "call-7"]
    assert served == provider.ledger.as_json()


async def test_a_limit_answers_429_with_openais_body_and_headers() -> None:
    async with connected(Settings(limits=Limits(2, 1000))) as (provider, client):
        raw = await client.chat.completions.with_raw_response.create(model="m", messages=HELLO)
        await ask(client)
        with pytest.raises(openai.RateLimitError) as caught:
            await ask(client)
    assert raw.headers["x-ratelimit-remaining-requests"] == "1"
    assert raw.headers["x-ratelimit-limit-tokens"] == "1000"
    assert raw.headers["x-request-id"] == "req_1"
    assert caught.value.code == "rate_limit_exceeded"
    assert caught.value.type == "requests"
    headers = caught.value.response.headers
    assert 0 < int(headers["retry-after-ms"]) <= 30_000
    assert int(headers["retry-after"]) == -(-int(headers["retry-after-ms"]) // 1000)
    refused = provider.ledger.refused[0]
    assert (refused.why, refused.paid, refused.charged_tokens) == ("requests", False, 0)
    assert provider.ledger.excess(Limits(2, 1000)) == (0, 0)
    assert provider.ledger.excess(Limits(1, 1000)).requests > 0.9


async def test_an_answer_takes_its_latency() -> None:
    latency = Latency(0.01, seconds_per_input_token=0.01, seconds_per_output_token=0.002)
    async with connected(Settings(latency=latency, reply=lambda _: "x" * 40)) as (provider, client):
        await ask(client)
        await pieces(client)
    for entry in provider.ledger.entries:
        assert entry.finished_monotonic is not None
        assert entry.finished_monotonic - entry.received_monotonic >= 0.06 - 1e-3


def test_arguments_of_a_tool_call_that_are_json_already_are_refused() -> None:
    with pytest.raises(TypeError, match="arguments of charge must be a mapping"):
        ToolCall("charge", '{"cents": 500}')  # type: ignore[arg-type]
