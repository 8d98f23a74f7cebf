"""OpenAI's SDK on the scheduler. Law of this file: an answer is durable before the SDK has it.

Theory of operation. The SDK sends through an HTTP client, and that through a transport, which here
is ours. Each POST is a call, as a model client's is: it has a slot in the journal of the run that
asks; its recorded answer is given back, or else it waits for its quotas and is sent. A failure is
turned into the error that the SDK would raise: if waiting can mend it, the call is queued again,
else it is recorded and raised. Any other method (a list, a file to fetch) draws on no quota, and
passes.

A streamed answer goes to the SDK as it comes, but for its end: the chunk with the end mark is given
when all of it is recorded. Until the first chunk is here the call can be sent again unnoticed;
after that, a cut is an error of the call.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import anyio
import openai

from headway_scheduler.model.calls import Priority, ServiceLane
from headway_scheduler.providers import PROVIDERS, of_host
from headway_scheduler.providers.readings import Odd

from ..autogen_private import http_client, http_library, status_error
from ..calls.client import acquire
from ..calls.errors import AnswerRefused
from ..calls.exchange import Exchange, observe
from ..calls.live_call import LiveCall, attached, recorded
from ..calls.models import Candidate, Model
from ..scope import RunScope, asking_agent
from .payloads import (
    WITH_LANES,
    WITHOUT_OUTPUT,
    Answer,
    Events,
    in_lane,
    loads,
    read_request,
)

_http: Any = http_library()

SDK = "sdk"
"""The kind of a call that OpenAI's own SDK makes."""

DRAIN_SECONDS = 1.0
"""How long a stream is read on after its end mark."""

_EVENTS = "text/event-stream"
_OF_THE_WIRE = ("content-encoding", "content-length", "transfer-encoding")
"""Headers that describe the body as it came. It is passed on decoded."""


class Transport(_http.AsyncBaseTransport):  # type: ignore[misc]  # of whichever library it is
    """Sends requests through the HTTP client of ``sdk`` when they are admitted.

    ``scope`` returns the run that a request belongs to, at the time. ``lanes``: the same model by
    other lanes of its provider.
    """

    def __init__(
        self,
        sdk: openai.AsyncOpenAI,
        model: Model,
        scope: Callable[[], RunScope],
        *,
        priority: Priority | None = None,
        lanes: Sequence[Model] = (),
    ) -> None:
        self._sdk = sdk
        self._wrapped: Any = http_client(sdk)
        observe(self._wrapped)
        self._model = model
        provider = model.provider or of_host(sdk.base_url.host) or PROVIDERS["openai"]
        url = sdk.base_url
        origins = frozenset([(url.scheme, url.host, url.port)])
        self._candidates = [Candidate(each, provider, origins=origins) for each in (model, *lanes)]
        self._scope = scope
        self._priority = priority

    async def handle_async_request(self, request: Any) -> Any:
        """Return the response once it is recorded, or a stream once its first chunk is here.

        Raises CallTooLarge, BudgetExceeded, RunClosed, SchedulerClosed, StoreError, ProviderError
        for a recorded failure, or the SDK's own error if waiting cannot mend it.
        """
        if request.method != "POST":
            return await self._wrapped.send(request, stream=True)
        content_type, path = request.headers.get("content-type", ""), self._path(request)
        asked = read_request(path, content_type, await request.aread())
        scope = self._scope()
        slot = scope.open_slot(SDK, asking_agent(), asked.digest)
        async with AsyncExitStack() as stack:
            live = await stack.enter_async_context(attached(scope, slot, asked.digest))
            if (answered := await recorded(live)) is not None:
                answer = Answer.load(answered)
                headers = {"content-type": answer.content_type}
                return _http.Response(answer.status, headers=headers, content=answer.body)
            cap, tier = asked.output_cap, asked.tier
            candidates = self._candidates if path in WITH_LANES else self._candidates[:1]
            await acquire(live, candidates, self._priority, output_cap=cap, tier=tier)
            response, exchange = await self._answered(live, request)
            if isinstance(response, _Stream):
                return response.given_on(live, stack.pop_all())
            answer, odd = _answer(response, response.content), list[Odd]()
            served = exchange.served(odd, has_output=path not in WITHOUT_OUTPUT)
            await live.done(answer.dumped(), served, odd)
            return _given_on(response, content=response.content)

    async def _answered(self, live: LiveCall, request: Any) -> tuple[Any, Exchange]:
        while True:
            await live.record_sent()
            try:
                exchange = Exchange(live)
                sent = partial(self._sent, exchange, _in_lane(request, live.candidate.model.lane))
                return await live.wait(sent), exchange
            except Exception as error:
                await live.failed(error)

    async def _sent(self, exchange: Exchange, request: Any) -> Any:
        """Return the response, read to its end, or a stream whose first chunk is here."""
        send = partial(self._wrapped.send, request, stream=True)
        try:
            with _errors_of_the_sdk(request):
                response = await exchange.during(send)
                if response.is_success and _content_type(response).startswith(_EVENTS):
                    stream = _Stream(response, exchange)
                    await stream.advance()
                    return stream
                await response.aread()
        except BaseException:
            await exchange.close()
            raise
        exchange.stop()
        if response.is_success:
            if _content_type(response).startswith("application/json"):
                body = loads(response.content)  # raises for broken JSON, which is asked for again
                error = body.get("error") if isinstance(body, dict) else None
                if isinstance(error, dict) and not body.get("choices"):
                    # Gateways answer 200 with an error inside: it is no answer to be kept.
                    message = str(error.get("message") or "an error in the place of an answer")
                    raise openai.APIError(message, request, body=error)
            return response
        raise status_error(self._sdk, response)

    def _path(self, request: Any) -> str:
        return str(request.url.path.removeprefix(self._sdk.base_url.path))


class _Stream(_http.AsyncByteStream):  # type: ignore[misc]  # of whichever library it is
    """A streamed answer on its way to the SDK."""

    def __init__(self, response: Any, exchange: Exchange) -> None:
        self._response = response
        self._exchange = exchange
        self._chunks = response.aiter_bytes()
        self._events = Events()
        self._body = bytearray()
        self._chunk = b""
        self._is_recorded = False
        self._live: LiveCall
        self._stack: AsyncExitStack

    async def advance(self) -> None:
        """Read the next chunk. Raises APIError for an error event and for a cut stream."""
        request = self._response.request
        with _errors_of_the_sdk(request):
            self._chunk = await anext(self._chunks, b"")
        self._events.feed(self._chunk)
        self._body += self._chunk
        if (error := self._events.error) is not None:
            message = str(error.get("message") or "an error occurred during streaming")
            raise openai.APIError(message, request, body=error)
        if not self._chunk and not self._events.is_ended:
            message = "The stream ended without its end mark."
            raise openai.APIConnectionError(message=message, request=request)

    def given_on(self, live: LiveCall, stack: AsyncExitStack) -> Any:
        """Return the response for the SDK. The call ends when ``stack`` is left."""
        self._live, self._stack = live, stack
        stack.push_async_callback(self._exchange.close)
        return _given_on(self._response, stream=self)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async with self._stack:
            while not self._events.is_ended:
                yield self._chunk
                try:
                    await self._live.wait(self.advance)
                except Exception as error:
                    await self._live.refused(error)
            # The SDK stops reading at the end mark, and iterates anew to drain what is left.
            if not self._is_recorded:
                self._is_recorded = True
                self._exchange.stop()
                answer = _answer(self._response, bytes(self._body))
                odd: list[Odd] = []
                await self._live.done(answer.dumped(), self._exchange.served(odd), odd)
                yield self._chunk
            async for chunk in self._rest():
                yield chunk

    async def _rest(self) -> AsyncIterator[bytes]:
        """Read the connection to its end, so that it can be used again.

        The answer is recorded: a server that goes on after it is not listened to for long.
        """
        deadline = anyio.current_time() + DRAIN_SECONDS
        while True:
            chunk = b""
            # No scope around a yield: the reader may stop there, and leave a scope of its own.
            with suppress(_http.TransportError, AnswerRefused), anyio.move_on_at(deadline):
                chunk = await anext(self._chunks, b"")
            if not chunk or anyio.current_time() >= deadline:
                return
            yield chunk

    async def aclose(self) -> None:
        """End the call. It is abandoned if its end mark has not come."""
        await self._stack.aclose()


@contextmanager
def _errors_of_the_sdk(request: Any) -> Iterator[None]:
    """Raise the SDK's errors for those of its HTTP library."""
    try:
        yield
    except _http.TimeoutException as error:
        raise openai.APITimeoutError(request) from error
    except _http.TransportError as error:
        raise openai.APIConnectionError(request=request) from error


def _in_lane(request: Any, lane: ServiceLane) -> Any:
    """Return the request as it asks for a lane."""
    if lane is ServiceLane.STANDARD:
        return request
    headers = [each for each in request.headers.multi_items() if each[0] != "content-length"]
    return _http.Request(
        request.method,
        request.url,
        headers=headers,
        content=in_lane(request.content, lane),
        extensions=request.extensions,
    )


def _answer(response: Any, body: bytes) -> Answer:
    return Answer(response.status_code, str(response.headers.get("content-type", "")), body)


def _content_type(response: Any) -> str:
    return str(response.headers.get("content-type", "")).lower()


def _given_on(response: Any, **body: Any) -> Any:
    headers = [
        (name, value) for name, value in response.headers.multi_items() if name not in _OF_THE_WIRE
    ]
    return _http.Response(response.status_code, headers=headers, **body)
