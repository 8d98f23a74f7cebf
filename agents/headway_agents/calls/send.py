"""Send an admitted call until it has an answer. Law of this file: only a recorded answer gets out.

An error that waiting can mend leads back to the queue inside :meth:`LiveCall.failed`, and then the
loop sends again; every other error is raised there. An answer is recorded as JSON, and comes back
equal.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from autogen_core import CancellationToken
from autogen_core.models import CreateResult, RequestUsage

from headway_scheduler.errors import ProviderError
from headway_scheduler.model.calls import Usage
from headway_scheduler.providers import readings
from headway_scheduler.providers.readings import Odd

from ..requests.codec import Request
from .exchange import Exchange
from .live_call import LiveCall
from .wrapped_client import stream_arguments

Stream = AsyncGenerator[str | CreateResult, None]


async def answer(live: LiveCall, request: Request, token: CancellationToken | None) -> CreateResult:
    """Return the answer to ``request`` once it is recorded."""
    arguments = _arguments(request)
    while True:
        client = live.candidate.client
        assert client is not None
        ask = partial(client.create, request.messages, cancellation_token=token, **arguments)
        await live.record_sent()
        exchange = Exchange(live)
        try:
            result = await live.wait(partial(exchange.whole, ask))
        except Exception as error:
            await live.failed(exchange.refusal or error)
        else:
            return await _recorded(live, result)


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
        exchange = Exchange(live)
        try:
            async with _exchanged(ask(), exchange) as step:
                # To its very end: AutoGen's clients do bookkeeping after the last yield.
                while (item := await live.wait(step)) is not None:
                    if isinstance(item, CreateResult):
                        result = item
                    else:
                        yield item
            if result is None:
                raise ProviderError("the stream ended without a result")
        except Exception as error:
            await live.failed(exchange.refusal or error)
        else:
            yield await _recorded(live, result)
            return


async def _recorded(live: LiveCall, result: CreateResult) -> CreateResult:
    """Record an answer, and return it as it is recorded."""
    odd: list[Odd] = []
    usage = usage_of(result.usage, odd)
    result = _with_counts(result)
    await live.done(dump_result(result), usage, odd)
    return result


def usage_of(usage: RequestUsage, odd: list[Odd] | None = None) -> Usage | None:
    """Return what the provider counted, if it did. Fields out of range are added to ``odd``."""
    return readings.usage(vars(usage), [] if odd is None else odd)


def _with_counts(result: CreateResult) -> CreateResult:
    """Return an answer whose counts are whole numbers; 0 for what is none.

    AutoGen's clients pass on what the provider wrote, such as NaN, that agents would then add up.
    """
    told = vars(result.usage)
    counts = {name: readings.count(value) or 0 for name, value in told.items()}
    if all(type(told[name]) is int and told[name] == count for name, count in counts.items()):
        return result
    return result.model_copy(update={"usage": RequestUsage(**counts)})


def dump_result(result: CreateResult) -> str:
    """Return an answer as JSON; :func:`load_result` gives back an equal one."""
    # Not pydantic's own JSON: it turns infinite logprobs into null and refuses lone surrogates.
    # Compact: it goes into a request to the leader, and a row, of each call.
    return json.dumps(result.model_dump(), separators=(",", ":"))


def load_result(text: str) -> CreateResult:
    """Return an answer from its JSON."""
    return CreateResult.model_validate(json.loads(text))


def model_answer(text: str) -> str:
    """Return a person's words as the JSON of a model's answer. It cost nothing."""
    usage = RequestUsage(0, 0)
    return dump_result(CreateResult(finish_reason="stop", content=text, usage=usage, cached=True))


def _arguments(request: Request) -> dict[str, Any]:
    """Return keyword arguments of AutoGen's ``create`` and ``create_stream``, less the token."""
    return {
        "tools": request.tools,
        "tool_choice": request.tool_choice,
        "json_output": request.json_output,
        "extra_create_args": request.extra or {},
    }


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
