"""AutoGen's own clients, each wrapped, over real HTTP on loopback: what they say is what counts.

A server here answers with what it was given, in the form that the provider documents.
"""

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import anthropic
import anyio
import ollama
import openai
import pytest
from anyio.abc import SocketAttribute
from autogen_core.models import ChatCompletionClient, ModelInfo
from autogen_ext.models.anthropic import AnthropicChatCompletionClient
from autogen_ext.models.ollama import OllamaChatCompletionClient
from autogen_ext.models.openai import AzureOpenAIChatCompletionClient, OpenAIChatCompletionClient
from autogen_ext.models.replay import ReplayChatCompletionClient
from tests.waiting import until

from headway_agents import Model, RunScope, ScheduledClient
from headway_scheduler.backends.memory.store import MemoryStore
from headway_scheduler.errors import ProviderError
from headway_scheduler.model.calls import Priority, Usage
from headway_scheduler.model.quotas import Quota
from headway_scheduler.model.states import CallState
from headway_scheduler.providers import PROVIDERS
from headway_scheduler.runtime.local import LocalScheduler

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("fast_pauses")]

KEY = "not-a-key"
CAPABLE = ModelInfo(
    vision=False, function_calling=True, json_output=True, family="unknown", structured_output=False
)
GUESS = Quota(
    "q", Quota.per_minute("q", requests=600, tokens=60_000, concurrency=4).limits, is_guess=True
)


@dataclass
class Said:
    """An answer of the server: JSON, or the lines of a stream."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    lines: list[str] | None = None
    content_type: str = "application/json"

    def text(self) -> bytes:
        return (json.dumps(self.body) if self.lines is None else "".join(self.lines)).encode()


class Server:
    """Answers requests one after the other with what it was told to say."""

    def __init__(self) -> None:
        self.says: list[Said] = []
        self.asked: list[str] = []
        self.url = ""

    async def serve(self, stream: Any) -> None:
        async with stream:
            data = b""
            while b"\r\n\r\n" not in data:
                data += await stream.receive()
            head, _, body = data.partition(b"\r\n\r\n")
            lines = head.decode().split("\r\n")
            lengths = [line.split(":")[1] for line in lines if line.lower().startswith("content-l")]
            while len(body) < int(lengths[0]):
                body += await stream.receive()
            self.asked.append(lines[0])
            said = self.says.pop(0)
            headers = {"content-type": said.content_type, "connection": "close", **said.headers}
            content = said.text()
            headers["content-length"] = str(len(content))
            top = [f"HTTP/1.1 {said.status} said", *(f"{k}: {v}" for k, v in headers.items())]
            await stream.send(("\r\n".join(top) + "\r\n\r\n").encode() + content)


@dataclass
class Stock:
    """A client of AutoGen's, and the forms of its provider's answers."""

    make: Callable[[str], ChatCompletionClient]
    answer: Said
    stream: Said
    busy: Said
    busy_in_stream: Said | None
    locked: Said
    error: type[Exception]
    limit: str | None = None
    remaining: str | None = None


def events(*data: dict[str, Any], named: bool) -> list[str]:
    return [
        (f"event: {each['type']}\n" if named else "") + f"data: {json.dumps(each)}\n\n"
        for each in data
    ]


COMPLETION = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "logprobs": None,
            "message": {"role": "assistant", "content": "Hello."},
        }
    ],
    "usage": {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15},
}


def chunk(delta: dict[str, Any], finish: str | None, usage: Any = None) -> dict[str, Any]:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}]
    shape = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return {**shape, "choices": [] if usage else choices, "usage": usage}


OPENAI_STREAM = Said(
    content_type="text/event-stream",
    lines=[
        *events(
            chunk({"role": "assistant", "content": "Hello."}, None),
            chunk({}, "stop"),
            chunk({}, None, COMPLETION["usage"]),
            named=False,
        ),
        "data: [DONE]\n\n",
    ],
)
RATE = {"error": {"message": "slow", "type": "requests", "code": "rate_limit_exceeded"}}
OPENAI_ERROR = Said(
    content_type="text/event-stream",
    lines=['data: {"error": {"message": "oops", "type": "server_error", "code": null}}\n\n'],
)


def as_openai(make: Callable[[str], ChatCompletionClient]) -> Stock:
    return Stock(
        make=make,
        answer=Said(body=COMPLETION),
        stream=OPENAI_STREAM,
        busy=Said(429, RATE, {"retry-after-ms": "10"}),
        busy_in_stream=OPENAI_ERROR,
        locked=Said(401, {"error": {"message": "no such key", "code": "invalid_api_key"}}),
        error=openai.AuthenticationError,
        limit="x-ratelimit-limit-requests",
        remaining="x-ratelimit-remaining-requests",
    )


MESSAGE = {
    "id": "m",
    "type": "message",
    "role": "assistant",
    "model": "claude",
    "content": [{"type": "text", "text": "Hello."}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 12, "output_tokens": 3},
}
BEGUN = {
    "type": "message_start",
    "message": {**MESSAGE, "content": [], "stop_reason": None},
}
ANTHROPIC_STREAM = events(
    BEGUN,
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "text_delta", "text": "Hello."},
    },
    {"type": "content_block_stop", "index": 0},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {"output_tokens": 3},
    },
    {"type": "message_stop"},
    named=True,
)
OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
NO_KEY = {
    "type": "error",
    "error": {"type": "authentication_error", "message": "bad x-api-key"},
}


def chatted(content: str, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content}
    return {"model": "m", "created_at": "2026-03-01T12:00:00Z", "message": message, **more}


ENDED = {"done": True, "done_reason": "stop", "prompt_eval_count": 12, "eval_count": 3}
STOCK = {
    "openai": as_openai(
        lambda url: OpenAIChatCompletionClient(
            model="m", api_key=KEY, base_url=f"{url}/v1", model_info=CAPABLE
        )
    ),
    "azure": as_openai(
        lambda url: AzureOpenAIChatCompletionClient(
            model="m",
            azure_deployment="deployed",
            azure_endpoint=url,
            api_version="2024-10-21",
            api_key=KEY,
            model_info=CAPABLE,
        )
    ),
    "anthropic": Stock(
        make=lambda url: AnthropicChatCompletionClient(
            model="claude", api_key=KEY, base_url=url, model_info=CAPABLE, max_tokens=100
        ),
        answer=Said(body=MESSAGE),
        stream=Said(content_type="text/event-stream", lines=ANTHROPIC_STREAM),
        busy=Said(529, OVERLOADED),
        busy_in_stream=Said(
            content_type="text/event-stream",
            lines=[*events(BEGUN, named=True), f"event: error\ndata: {json.dumps(OVERLOADED)}\n\n"],
        ),
        locked=Said(401, NO_KEY),
        error=anthropic.AuthenticationError,
        limit="anthropic-ratelimit-requests-limit",
        remaining="anthropic-ratelimit-requests-remaining",
    ),
    "local": Stock(
        make=lambda url: OllamaChatCompletionClient(model="m", host=url, model_info=CAPABLE),
        answer=Said(body=chatted("Hello.", **ENDED)),
        stream=Said(
            content_type="application/x-ndjson",
            lines=[
                json.dumps(each) + "\n"
                for each in (chatted("Hello.", done=False), chatted("", **ENDED))
            ],
        ),
        busy=Said(503, {"error": "server busy, please try again"}),
        busy_in_stream=None,
        locked=Said(404, {"error": "model 'm' not found"}),
        error=ollama.ResponseError,
    ),
}


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with anyio.create_task_group() as group:
        group.start_soon(listener.serve, server.serve)
        server.url = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
        yield server
        group.cancel_scope.cancel()
    await listener.aclose()


@dataclass
class Setup:
    """A wrapped client, and the scheduler and journal behind it."""

    client: ScheduledClient
    scheduler: LocalScheduler
    store: MemoryStore

    async def row(self) -> Any:
        (row,) = await self.store.calls()
        return row


@pytest.fixture(params=STOCK)
def stock(request: pytest.FixtureRequest) -> tuple[str, Stock]:
    return str(request.param), STOCK[request.param]


@pytest.fixture
async def setup(server: Server, stock: tuple[str, Stock]) -> AsyncIterator[Setup]:
    store = MemoryStore()
    async with LocalScheduler(store, [GUESS]) as scheduler:
        scope = RunScope(scheduler, "run", Priority.INTERACTIVE)
        client = ScheduledClient(stock[1].make(server.url), Model("m", ("q",)), scope, path="w")
        yield Setup(client, scheduler, store)
        await client.close()


async def streamed(client: ChatCompletionClient, messages: Any) -> Any:
    return [item async for item in client.create_stream(messages)][-1]


ASK = {"create": lambda client, messages: client.create(messages), "stream": streamed}


def saying(stock: Stock, how: str) -> Said:
    return stock.answer if how == "create" else stock.stream


@pytest.mark.parametrize("how", ASK)
async def test_it_says_what_the_bare_client_says_and_its_usage_is_recorded(
    setup: Setup, server: Server, stock: tuple[str, Stock], question: Any, how: str
) -> None:
    server.says = [saying(stock[1], how), saying(stock[1], how)]
    bare = await ASK[how](setup.client.wrapped, question())
    wrapped = await ASK[how](setup.client, question())
    assert wrapped.content == bare.content == "Hello."
    assert wrapped.finish_reason == bare.finish_reason
    row = await setup.row()
    assert (row.state, row.usage) == (CallState.DONE, Usage(12, 3))
    assert setup.client._candidates[0].provider.name == stock[0]


@pytest.mark.parametrize("how", ASK)
async def test_one_that_is_busy_is_asked_again_by_us_and_not_by_the_sdk(
    setup: Setup, server: Server, stock: tuple[str, Stock], question: Any, how: str
) -> None:
    server.says = [stock[1].busy, stock[1].busy, saying(stock[1], how)]
    assert (await ASK[how](setup.client, question())).content == "Hello."
    row = await setup.row()
    assert (row.state, row.attempts, len(server.asked)) == (CallState.DONE, 3, 3)


@pytest.mark.parametrize("stock", [n for n, s in STOCK.items() if s.busy_in_stream], indirect=True)
async def test_an_error_inside_a_stream_is_asked_again(
    setup: Setup, server: Server, stock: tuple[str, Stock], question: Any
) -> None:
    assert stock[1].busy_in_stream is not None
    server.says = [stock[1].busy_in_stream, stock[1].stream]
    assert (await streamed(setup.client, question())).content == "Hello."
    assert (await setup.row()).attempts == 2


@pytest.mark.parametrize("how", ASK)
async def test_what_no_wait_mends_keeps_its_type_and_the_providers_words(
    setup: Setup, server: Server, stock: tuple[str, Stock], question: Any, how: str
) -> None:
    server.says = [stock[1].locked]
    with pytest.raises(stock[1].error) as caught:
        await ASK[how](setup.client, question())
    words = {"openai": "no such key", "azure": "no such key", "anthropic": "bad x-api-key"}
    assert words.get(stock[0], "not found") in str(caught.value)
    row = await setup.row()
    assert (row.state, row.attempts) == (CallState.FAILED, 1)
    assert KEY not in (row.error or "")


@pytest.mark.parametrize("stock", [n for n, s in STOCK.items() if s.limit], indirect=True)
@pytest.mark.parametrize("how", ASK)
async def test_headers_tell_the_scheduler_of_limits(
    setup: Setup, server: Server, stock: tuple[str, Stock], question: Any, how: str
) -> None:
    said = saying(stock[1], how)
    assert stock[1].limit is not None
    assert stock[1].remaining is not None
    limit = "200" if stock[0] == "azure" else "1200"  # of 10 s, and of a minute
    told = {stock[1].limit: limit, stock[1].remaining: "3"}
    server.says = [Said(said.status, said.body, told, said.lines, said.content_type)]
    began = setup.scheduler.now()
    await ASK[how](setup.client, question())
    gauge = setup.scheduler.statistics().gauges[0]
    assert gauge.per_second == 20.0
    # What refilled meanwhile is counted on the way there and on the way back.
    refilled = 2 * gauge.per_second * (setup.scheduler.now() - began)
    assert gauge.available < 10 + refilled


@pytest.mark.parametrize("how", ASK)
async def test_an_answer_that_the_exchange_refuses_fails_the_call_with_its_words(
    setup: Setup, server: Server, stock: tuple[str, Stock], question: Any, how: str
) -> None:
    """The error has the exchange's words, and not those of the client's own error."""
    said = saying(stock[1], how)
    packed = Said(200, said.body, {"content-encoding": "br"}, said.lines, said.content_type)
    server.says = [packed, Said(307, "", {"location": f"{server.url}/other"})]
    with pytest.raises(ProviderError, match="answer in encoding 'br'"):
        await ASK[how](setup.client, question())
    with pytest.raises(ProviderError, match=f"redirects to {server.url}/other, and no redirect"):
        await ASK[how](setup.client, question())
    assert len(server.asked) == 2
    rows = await setup.store.calls()
    assert [(row.state, row.attempts) for row in rows] == [(CallState.FAILED, 1)] * 2


async def test_a_stream_that_is_closed_early_leaves_no_slot_taken(
    setup: Setup, server: Server, stock: tuple[str, Stock], question: Any
) -> None:
    server.says = [stock[1].stream]
    stream = setup.client.create_stream(question())
    await anext(stream)
    await stream.aclose()
    await until(lambda: not setup.scheduler.statistics().in_flight)
    (slots,) = [g for g in setup.scheduler.statistics().gauges if g.resource == "concurrency"]
    assert slots.available == slots.capacity


@pytest.mark.parametrize(
    ("model", "address", "stated", "provider"),
    [
        ("gemini-2.0-flash", {}, None, "gemini"),  # AutoGen sets Google's address itself
        ("gemini-2.0-flash", {"base_url": "http://127.0.0.1:9/v1"}, None, "openai"),
        ("gpt-4o", {"base_url": "https://ours.openai.azure.com/openai/v1"}, None, "azure"),
        ("gpt-4o", {}, None, "openai"),
        ("gpt-4o", {}, "other", "other"),
    ],
)
async def test_a_providers_own_address_goes_before_the_class_of_the_client(
    model: str, address: dict[str, Any], stated: str | None, provider: str
) -> None:
    asked = Model("m", ("q",), provider=None if stated is None else PROVIDERS[stated])
    client = OpenAIChatCompletionClient(
        model=model, api_key="no-key", model_info=CAPABLE, **address
    )
    scheduled = ScheduledClient(client, asked)
    assert [each.provider.name for each in scheduled._candidates] == [provider]
    await client.close()


async def test_the_replay_client_needs_no_provider(scope: RunScope, question: Any) -> None:
    client = ScheduledClient(
        ReplayChatCompletionClient(["a", "b"]), Model("m", ("q",)), scope, path="w"
    )
    assert (await client.create(question())).content == "a"
    assert (await streamed(client, question())).content == "b"
