"""One attempt is one exchange, however a client is wrapped, and whatever it sends with."""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

import anyio
import httpx
import openai
import pytest
from anyio.abc import SocketAttribute
from autogen_core.models import (
    ChatCompletionClient,
    CreateResult,
    ModelInfo,
    RequestUsage,
    UserMessage,
)
from autogen_ext.models.azure import AzureAIChatCompletionClient
from autogen_ext.models.cache import ChatCompletionCache
from azure.core.credentials import AzureKeyCredential
from azure.core.exceptions import HttpResponseError, ServiceRequestError, ServiceResponseError
from tests.agents.calls.test_stock_clients import CAPABLE, COMPLETION, RATE, Said, Server
from tests.agents.conftest import Serve

from headway_agents import Model, RunScope, ScheduledClient, around, senders, shown_name
from headway_agents.calls import live_call
from headway_agents.calls.errors import is_unsent, judged
from headway_scheduler.backends.memory.store import MemoryStore
from headway_scheduler.model.calls import Priority
from headway_scheduler.model.quotas import Quota, Resource
from headway_scheduler.model.states import CallState
from headway_scheduler.providers import OTHER, ErrorClass
from headway_scheduler.runtime.local import LocalScheduler
from headway_scheduler.testing.provider import Fault, FaultKind

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("fast_pauses")]
MODEL = Model("m", ("q",))
HELLO: Any = [{"role": "user", "content": "hi"}]


class Adapter(ChatCompletionClient):
    """As SKChatCompletionAdapter is built: a service in an attribute holds the SDK's client."""

    component_type = "model"

    def __init__(self, service: Any) -> None:
        self._service = service

    async def create(self, messages: Sequence[Any], **_: Any) -> CreateResult:
        text = await self._service.ask()
        return CreateResult(
            finish_reason="stop", content=text, usage=RequestUsage(1, 1), cached=False
        )

    async def _stream(self) -> AsyncGenerator[str | CreateResult, None]:
        yield await self.create([])

    def create_stream(self, *_: Any, **__: Any) -> AsyncGenerator[str | CreateResult, None]:
        return self._stream()

    async def close(self) -> None:
        await self._service.close()

    def actual_usage(self) -> RequestUsage:
        return RequestUsage(0, 0)

    total_usage = actual_usage

    def count_tokens(self, *_: Any, **__: Any) -> int:
        return 1

    remaining_tokens = count_tokens

    @property
    def capabilities(self) -> Any:
        return CAPABLE

    @property
    def model_info(self) -> ModelInfo:
        return CAPABLE


class Service:
    """Asks OpenAI's SDK, which repeats twice by itself, or as often as ``times`` says."""

    def __init__(self, base_url: str, times: int = 1) -> None:
        self.ai_model_id = "sim-1"
        self.sdks = {"chat": openai.AsyncOpenAI(api_key="not-a-key", base_url=base_url)}
        self._times = times

    async def ask(self) -> str:
        completions = self.sdks["chat"].chat.completions
        for left in reversed(range(self._times)):
            try:
                answer = await completions.create(model="sim-1", messages=HELLO)
                return str(answer.choices[0].message.content)
            except openai.APIStatusError:
                if not left:
                    raise
        raise AssertionError

    async def close(self) -> None:
        await self.sdks["chat"].close()


class Bare:
    """Asks by HTTP, with a client of httpx."""

    def __init__(self, base_url: str) -> None:
        self.model = "bare-1"
        self.http = httpx.AsyncClient(base_url=base_url)

    async def ask(self) -> str:
        body = {"model": "sim-1", "messages": HELLO}
        answer = await self.http.post("chat/completions", json=body)
        answer.raise_for_status()
        return str(answer.json()["choices"][0]["message"]["content"])

    async def close(self) -> None:
        await self.http.aclose()


def first(*faults: Fault) -> Any:
    return lambda number, _: faults[number - 1] if number <= len(faults) else None


LIMITED = Fault(FaultKind.RATE_LIMIT, retry_after_seconds=0.01)


@pytest.mark.parametrize("make", [Service, Bare])
async def test_what_sends_inside_of_a_client_repeats_nothing_and_is_seen(
    serve: Serve, scope: RunScope, records: Any, make: Any
) -> None:
    broken = Fault(FaultKind.SERVER_ERROR)
    async with serve(faults=first(LIMITED, broken)) as (provider, inner):
        await inner.close()
        adapter = Adapter(make(provider.base_url + "/"))
        client = ScheduledClient(adapter, MODEL, scope, path="w")
        assert (await client.create([UserMessage(content="hi", source="user")])).content
        (row,) = await records()
        assert (row.state, row.attempts) == (CallState.DONE, 3)
        assert len(provider.ledger) == 3
        assert row.usage is not None
        assert row.usage.output_tokens > 1  # what came over the wire, not what the client says
        await client.close()


async def test_a_client_shows_its_model_and_its_server_through_its_parts() -> None:
    adapter = Adapter(Service("http://127.0.0.1:9/v1/"))
    assert shown_name(adapter) == "sim-1"
    assert senders(adapter).address == "http://127.0.0.1:9/v1/"
    assert senders(adapter).origins == {("http", "127.0.0.1", 9)}
    bare = Adapter(Bare("https://llm.example.com/v1/"))
    assert (shown_name(bare), senders(bare).host) == ("bare-1", "llm.example.com")
    assert shown_name(Adapter(None)) == "Adapter"
    assert senders(Adapter(None)).address is None
    for each in (adapter, bare):
        await each.close()


class Odd:
    """Raises whatever it is asked for, but for what it holds."""

    def __init__(self, **held: Any) -> None:
        vars(self).update(held)

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"no {name} here")


async def test_a_client_is_looked_through_whatever_it_holds() -> None:
    """A circle, an object that raises, 100,000 items, and what sends deeper than is looked."""
    bare = Bare("http://127.0.0.1:9/v1/")
    adapter = Adapter(Odd(items=[object()] * 100_000, more=[Odd()] * 100_000))
    vars(adapter._service)["itself"] = adapter
    assert shown_name(adapter) == "Adapter"
    deep = Adapter(Odd(a=Odd(a=Odd(a=Odd(a=bare)))))
    assert senders(deep).address is None
    assert senders(Adapter(Odd(a=Odd(a=bare)))).origins == {("http", "127.0.0.1", 9)}
    await bare.close()


async def test_a_client_that_repeats_all_the_same_is_charged_and_said_once(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    live_call._said.clear()
    store = MemoryStore()
    day = Quota.stated("day", {Resource.REQUESTS_PER_DAY: 100})
    broken = Fault(FaultKind.SERVER_ERROR)
    async with (
        LocalScheduler(store, [day]) as scheduler,
        serve(faults=first(broken, broken)) as (provider, inner),
    ):
        await inner.close()
        scope = RunScope(scheduler, "run", Priority.NORMAL)
        adapter = Adapter(Service(provider.base_url, times=5))
        client = ScheduledClient(adapter, Model("m", ("day",)), scope, path="w")
        with caplog.at_level(logging.WARNING, "headway"):
            await client.create([UserMessage(content="hi", source="user")])
        (row,) = await store.calls()
        assert (row.state, row.attempts, len(provider.ledger)) == (CallState.DONE, 1, 3)
        (gauge,) = scheduler.statistics().gauges
        assert gauge.available == 97
        told = [each.getMessage() for each in caplog.records]
        assert [each for each in told if "more than one request in one attempt" in each] == [
            "model 'm': its client (Adapter) sends more than one request in one attempt: each is "
            "charged, and none waits for its turn: switch its own retries off"
        ]
        await client.close()


async def test_a_refusal_that_a_client_takes_for_itself_pauses_the_quota(
    serve: Serve, scope: RunScope, scheduler: LocalScheduler
) -> None:
    slow = Fault(FaultKind.RATE_LIMIT, retry_after_seconds=60)
    async with serve(faults=first(slow)) as (provider, inner):
        await inner.close()
        client = ScheduledClient(Adapter(Service(provider.base_url, 2)), MODEL, scope, path="w")
        await client.create([UserMessage(content="hi", source="user")])
        pauses = [g.paused_until for g in scheduler.statistics().gauges if g.quota == "q"]
        assert all(until is not None and until > scheduler.now() + 30 for until in pauses)
        await client.close()


async def test_a_hit_of_a_cache_is_no_call(serve: Serve, scope: RunScope, records: Any) -> None:
    async with serve() as (provider, inner):
        client = around(
            ChatCompletionCache(inner), lambda c: ScheduledClient(c, MODEL, scope, path="w")
        )
        messages = [UserMessage(content="hi", source="user")]
        assert not (await client.create(messages)).cached
        assert (await client.create(messages)).cached
        items = [item async for item in client.create_stream(messages)]
        assert items[-1].cached  # type: ignore[union-attr]
        (row,) = await records()
        assert (row.state, len(provider.ledger)) == (CallState.DONE, 1)


# A client that sends without httpx


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


def azure_ai(url: str) -> AzureAIChatCompletionClient:
    return AzureAIChatCompletionClient(
        model="m", endpoint=url, credential=AzureKeyCredential("not-a-key"), model_info=CAPABLE
    )


async def test_azures_inference_client_repeats_nothing_and_names_its_server(
    server: Server, scope: RunScope, records: Any
) -> None:
    inner = azure_ai(server.url)
    assert senders(inner).address == server.url
    assert shown_name(inner) == "m"
    client = ScheduledClient(inner, MODEL, scope, path="w")
    server.says = [
        Said(429, RATE, {"retry-after-ms": "10"}),
        Said(503, {"error": {"message": "busy"}}),
        Said(body=COMPLETION),
    ]
    result = await client.create([UserMessage(content="hi", source="user")])
    assert (result.content, result.usage) == ("Hello.", RequestUsage(12, 3))
    (row,) = await records()
    assert (row.state, row.attempts, len(server.asked)) == (CallState.DONE, 3, 3)
    await client.close()


async def test_azures_inference_client_follows_no_redirect(
    server: Server, scope: RunScope, records: Any
) -> None:
    client = ScheduledClient(azure_ai(server.url), MODEL, scope, path="w")
    server.says = [Said(307, {}, {"location": f"{server.url}/other"})]
    with pytest.raises(HttpResponseError):
        await client.create([UserMessage(content="hi", source="user")])
    (row,) = await records()
    assert (row.state, len(server.asked)) == (CallState.FAILED, 1)
    await client.close()


@pytest.mark.parametrize(
    ("error", "unsent"), [(ServiceRequestError("no"), True), (ServiceResponseError("no"), False)]
)
def test_a_connection_that_azures_client_loses_is_waited_for(
    error: Exception, unsent: bool
) -> None:
    assert judged(error, OTHER, 1, now=0.0).error_class is ErrorClass.TRANSIENT
    assert is_unsent(error) is unsent
