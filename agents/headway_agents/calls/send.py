"""Send an admitted call until it has an answer. Law of this file: only a recorded answer gets out.

Errors that waiting can mend lead back to the queue inside :meth:`LiveCall.failed`, and then the
loop comes round; every other error leaves through it.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial

from autogen_core import CancellationToken
from autogen_core.models import ChatCompletionClient, CreateResult

from headway_scheduler.errors import ProviderError

from ..requests.codec import Request, dump_result, usage_of
from .live_call import LiveCall
from .wrapped_client import Exchange, stream_arguments

Stream = AsyncGenerator[str | CreateResult, None]
Step = Callable[[], Awaitable[str | CreateResult | None]]
Asked = Callable[[], tuple[ChatCompletionClient, Mapping[str, str]]]
"""Tells which client the call goes to now, and the headers that its request carries."""


async def answer(
    live: LiveCall,
    asked: Asked,
    request: Request,
    token: CancellationToken | None,
) -> CreateResult:
    """Return the answer to ``request`` once it is recorded."""
    arguments = request.arguments()
    while True:
        inner, headers = asked()
        ask = partial(inner.create, request.messages, cancellation_token=token, **arguments)
        live.sent()
        try:
            exchange = Exchange(headers, live.told)
            result = await live.wait(partial(exchange.during, ask))
        except Exception as error:
            await live.failed(error)
        else:
            await live.done(dump_result(result), usage_of(result.usage))
            return result


async def answer_stream(
    live: LiveCall,
    asked: Asked,
    request: Request,
    token: CancellationToken | None,
) -> Stream:
    """Yield the chunks as they come, of every attempt, and then the answer once it is recorded."""
    while True:
        inner, headers = asked()
        arguments = request.arguments() | stream_arguments(inner, request)
        ask = partial(inner.create_stream, request.messages, cancellation_token=token, **arguments)
        live.sent()
        result: CreateResult | None = None
        try:
            async with _exchanged(ask(), Exchange(headers, live.told)) as step:
                # To its very end: clients keep their books after the last yield.
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


@asynccontextmanager
async def _exchanged(stream: Stream, exchange: Exchange) -> AsyncIterator[Step]:
    """Give out the function that takes the next item; at the end nothing goes on, there or here."""
    try:
        yield partial(exchange.during, lambda: anext(stream, None))
    finally:
        await stream.aclose()
        await exchange.close()
