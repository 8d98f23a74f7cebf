"""Calls that go by batch: their requests are made and not sent, their answers come from the disk.

Law of this file: nothing reaches the network.

Theory of operation. Only the SDK below a client of AutoGen knows the body of a request, and only
the client knows what an answer means. So both work as ever, on a copy of the client whose HTTP
transport is ours: it keeps the request, or gives a recorded response.
"""

import json
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, Never

import openai
from autogen_core.models import ChatCompletionClient

from headway_scheduler.errors import ProviderError
from headway_scheduler.model.batches import BatchedRequest

from ..autogen_private import http_library, sdk_of, with_sdk
from .exchange import Exchange, observe
from .live_call import LiveCall

_http: Any = http_library()

Ask = Callable[[ChatCompletionClient], Any]
"""Asks a client, with all arguments of a request."""


class _Body(_http.AsyncByteStream):  # type: ignore[misc]  # of whichever library it is
    """A body that is here already."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._data


class _Transport(_http.AsyncBaseTransport):  # type: ignore[misc]  # of whichever library it is
    """Keeps the request, and answers it with ``answer`` if there is one."""

    def __init__(self, answer: str | None = None) -> None:
        self.request: Any = None
        self._answer = answer

    async def handle_async_request(self, request: Any) -> Any:
        """Return the recorded response. Raises ProviderError without one: nothing is sent."""
        self.request = request
        if self._answer is None:
            raise ProviderError("the request goes by batch")
        line = json.loads(self._answer)
        body = json.dumps(line.get("body")).encode()
        headers = {"content-type": "application/json"}
        status = line.get("status_code")
        status = status if type(status) is int and 200 <= status <= 599 else 500
        return _http.Response(status, headers=headers, stream=_Body(body), request=request)


def answering(live: LiveCall) -> ChatCompletionClient:
    """Return a copy of the call's client that gets the answer of its batch."""
    return _twin(live, _Transport(live.batch_answer))


async def enter(live: LiveCall, ask: Ask) -> Never:
    """Make the request of an admitted call, keep it for a batch, and end the attempt of its run.

    Raises what the client raises over the request, which is recorded then.
    """
    transport, exchange = _Transport(), Exchange(live)
    try:
        # In an exchange, or it would be taken for a request past the scheduler.
        await live.wait(partial(exchange.during, lambda: ask(_twin(live, transport))))
    except Exception as error:
        if transport.request is None:
            await live.refused(error)
    finally:
        exchange.stop()
    request = transport.request
    model, client = live.candidate.model, live.candidate.client
    assert client is not None
    below = request.url.path.removeprefix(sdk_of(client).base_url.path.rstrip("/"))
    prefix = "" if live.candidate.provider.name == "azure" else "/v1"
    body = request.content.decode()
    now = live.scope.scheduler.now()
    await live.enter_batch(BatchedRequest(live.slot.id, model.name, prefix + below, body, now))


def _twin(live: LiveCall, transport: _Transport) -> ChatCompletionClient:
    client = live.candidate.client
    assert client is not None
    http_client = openai.DefaultAsyncHttpxClient(transport=transport)
    sdk = sdk_of(client).copy(http_client=http_client, max_retries=0)
    observe(http_client)
    return with_sdk(client, sdk)
