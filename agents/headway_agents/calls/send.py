"""Send an admitted call until it has an answer. Law of this file: only a recorded answer gets out.

An error that waiting can mend leads back to the queue inside :meth:`LiveCall.failed`, and then the
loop sends again; every other error is raised there.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

from autogen_core import CancellationToken
from autogen_core.models import CreateResult

from headway_scheduler.errors import ProviderError

from ..autogen_private import http_client
from ..requests.codec import Request, dump_result, usage_of
from .live_call import LiveCall
from .models import Model
from .wrapped_client import stream_arguments

T = TypeVar("T")
Stream = AsyncGenerator[str | CreateResult, None]


async def answer(live: LiveCall, request: Request, token: CancellationToken | None) -> CreateResult:
    """Return the answer to ``request`` once it is recorded."""
    arguments = _arguments(request)
    while True:
        client = live.candidate.client
        assert client is not None
        ask = partial(client.create, request.messages, cancellation_token=token, **arguments)
        exchange = Exchange(live)
        await live.record_sent()
        try:
            result = await live.wait(partial(exchange.during, ask))
        except Exception as error:
            await live.failed(error)
        else:
            await live.done(dump_result(result), usage_of(result.usage))
            return result


async def answer_stream(
    live: LiveCall, request: Request, token: CancellationToken | None
) -> Stream:
    """Yield the chunks as they come, of every attempt, and then the answer once it is recorded."""
    while True:
        client = live.candidate.client
        assert client is not None
        arguments = _arguments(request) | stream_arguments(client, request)
        ask = partial(client.create_stream, request.messages, cancellation_token=token, **arguments)
        await live.record_sent()
        result: CreateResult | None = None
        try:
            async with _exchanged(ask(), Exchange(live)) as step:
                # To its very end: AutoGen's clients do bookkeeping after the last yield.
                while (item := await live.wait(step)) is not None:
                    if isinstance(item, CreateResult):
                        result = item
                    else:
                        yield item
            if result is None:
                raise ProviderError("the stream ended without a result")
        except Exception as error:
            await live.failed(error)
        else:
            await live.done(dump_result(result), usage_of(result.usage))
            yield result
            return


def _arguments(request: Request) -> dict[str, Any]:
    """Return keyword arguments of AutoGen's ``create`` and ``create_stream``, less the token."""
    return {
        "tools": request.tools,
        "tool_choice": request.tool_choice,
        "json_output": request.json_output,
        "extra_create_args": request.extra or {},
    }


def idempotency_headers(model: Model, call_id: str) -> Mapping[str, str]:
    """Return the header that carries a call's id, if the server of its model knows one."""
    return {model.idempotency_header: call_id} if model.idempotency_header else {}


class Exchange:
    """The HTTP of one attempt: adds headers to its requests, and reads the heads of its answers.

    AutoGen's clients take no ``extra_headers`` and return no headers, so this goes through hooks of
    the SDK's HTTP client, and a context variable tells them whose request it is. A client that is
    cancelled between two chunks drops the SDK's stream without closing it, and the stream is a
    reference cycle: the provider would go on writing until the garbage collector runs. So the
    exchange closes it.
    """

    def __init__(self, live: LiveCall) -> None:
        self._live = live
        self._responses: list[Any] = []

    async def during(self, step: Callable[[], Awaitable[T]]) -> T:
        """Await ``step()``, with its HTTP requests seen as those of this attempt."""
        token = _exchange.set(self)
        try:
            return await step()
        finally:
            _exchange.reset(token)

    async def close(self) -> None:
        """Close every response that is open."""
        for response in self._responses:
            await response.aclose()

    def add_headers(self, request: Any) -> None:
        """Add to an HTTP request that leaves."""
        request.headers.update(idempotency_headers(self._live.candidate.model, self._live.slot.id))

    def take_head(self, response: Any) -> None:
        """Take in the head of an HTTP response; its body has not been read."""
        self._responses.append(response)
        self._live.record_head(response.status_code, dict(response.headers))


_exchange: ContextVar[Exchange] = ContextVar("headway_exchange")


def observe(sdk: Any) -> None:
    """Install the hooks through which exchanges see what an SDK sends and gets. Idempotent."""
    hooks = http_client(sdk).event_hooks
    for event, hook in (("request", _on_request), ("response", _on_response)):
        if hook not in hooks[event]:
            hooks[event].append(hook)


async def _on_request(request: Any) -> None:
    if (exchange := _exchange.get(None)) is not None:
        exchange.add_headers(request)


async def _on_response(response: Any) -> None:
    if (exchange := _exchange.get(None)) is not None:
        exchange.take_head(response)


@asynccontextmanager
async def _exchanged(
    stream: Stream, exchange: Exchange
) -> AsyncIterator[Callable[[], Awaitable[str | CreateResult | None]]]:
    """Give a function that takes the next item of ``stream``, and end the stream afterwards."""
    try:
        yield partial(exchange.during, lambda: anext(stream, None))
    finally:
        await stream.aclose()
        await exchange.close()
