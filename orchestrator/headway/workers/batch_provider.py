"""What the batch lane asks of a provider: files and batches of OpenAI's protocol.

Law of this file: whatever comes back is checked here, and bounded in time and size. No redirect is
followed: a file holds the prompts of thousands of calls.
"""

import json
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple, TypeVar

import anyio
from openai import APIStatusError, AsyncOpenAI, DefaultAsyncHttpxClient

from headway_agents.calls.errors import judged
from headway_scheduler.providers import ErrorClass, Provider, readings

T = TypeVar("T")

ASK_SECONDS = 60.0
"""How long the provider may take to answer a question."""
FILE_SECONDS = 900.0
"""How long a file may take, to it or from it."""
MOST_FILE_BYTES = 1 << 30
"""How much of a file of answers is read: 100 KB for each call of the largest batch."""
MOST_LISTED = 1_000
"""How many of the provider's batches are looked through, newest first."""
_GONE = (404, 410)
_ODD = (ValueError, TypeError, AttributeError, KeyError, RecursionError)
"""What the SDK raises over an answer that has another form than it expects."""


class OddAnswer(Exception):
    """The provider answered, and not as its protocol has it."""


class Standing(NamedTuple):
    """How a batch stands at the provider."""

    status: str  #: in the provider's word
    files: tuple[str, ...]  #: the names of the files of answers and of errors that there are
    codes: frozenset[str]  #: of what is wrong with the batch as a whole
    words: str  #: the same in words; "" if nothing is


class BatchProvider:
    """The provider of one model. Methods raise OddAnswer, TimeoutError and what the SDK does."""

    def __init__(self, key: str, address: str | None, provider: Provider) -> None:
        self._provider = provider
        http = DefaultAsyncHttpxClient(follow_redirects=False)
        self._sdk = AsyncOpenAI(api_key=key, base_url=address, max_retries=0, http_client=http)

    async def close(self) -> None:
        """Close the connections."""
        await self._sdk.close()

    async def upload(self, name: str, data: bytes) -> str:
        """Hand over a file of requests, and return the provider's name for it."""
        file = (name, data)
        made = await _asked(
            lambda: self._sdk.files.create(file=file, purpose="batch"), FILE_SECONDS
        )
        return _name(made, "id")

    async def begin(self, file: str, endpoint: str, our_id: str) -> str:
        """Hand in a batch of an uploaded file, and return the provider's name for it."""
        path: Any = endpoint
        made = await _asked(
            lambda: self._sdk.batches.create(
                input_file_id=file,
                endpoint=path,
                completion_window="24h",
                metadata={"headway": our_id},
            )
        )
        return _name(made, "id")

    async def find(self, our_id: str) -> str | None:
        """Return the provider's name for a batch of ours; None if it lists none."""

        async def listed() -> str | None:
            seen = 0
            async for each in self._sdk.batches.list(limit=100):
                metadata = getattr(each, "metadata", None)
                if isinstance(metadata, Mapping) and metadata.get("headway") == our_id:
                    return _name(each, "id")
                seen += 1
                if seen == MOST_LISTED:
                    break
            return None

        return await _asked(listed)

    async def look(self, batch: str) -> Standing:
        """Ask how a batch stands."""
        found = await _asked(lambda: self._sdk.batches.retrieve(batch))
        errors = getattr(getattr(found, "errors", None), "data", None)
        errors = errors if isinstance(errors, list) else []
        codes = (readings.word(getattr(each, "code", None)) for each in errors)
        words = (getattr(each, "message", None) for each in errors)
        names = [name for name in ("output_file_id", "error_file_id") if getattr(found, name, None)]
        return Standing(
            _name(found, "status"),
            tuple(_name(found, name) for name in names),
            frozenset(code for code in codes if code is not None),
            "; ".join(text for text in words if isinstance(text, str)),
        )

    async def lines(self, file: str) -> list[dict[str, Any]]:
        """Return the objects of a file of answers, as far as it is read; of one that is gone, none.

        A line that is no object is left out.
        """
        try:
            data = await _asked(lambda: self._content(file), FILE_SECONDS)
        except APIStatusError as error:
            if error.status_code not in _GONE:
                raise
            return []
        return list(_objects(data))

    async def cancel(self, batch: str) -> None:
        """Cancel a batch."""
        await _asked(lambda: self._sdk.batches.cancel(batch))

    def shuts_out(self, error: Exception, *, may_have_it: bool) -> bool:
        """Whether the provider refuses the key or the account, as it would for a plain call.

        ``may_have_it``: it was asked about a batch that it may have. One that this key may not see
        is paid all the same, so a 403 is about the key then.
        """
        status = getattr(error, "status_code", None)
        if may_have_it and status == HTTPStatus.FORBIDDEN:
            return True
        return judged(error, self._provider, 1, now=time.time()).error_class is ErrorClass.ACCOUNT

    async def _content(self, file: str) -> bytes:
        data = bytearray()
        async with self._sdk.files.with_streaming_response.content(file) as response:
            async for part in response.iter_bytes():
                data += part
                if len(data) > MOST_FILE_BYTES:
                    break
        return bytes(data)


async def _asked(step: Callable[[], Awaitable[T]], seconds: float = ASK_SECONDS) -> T:
    """Ask, for ``seconds`` at most. Raises OddAnswer for an answer that the SDK cannot read."""
    try:
        with anyio.fail_after(seconds):
            return await step()
    except _ODD as error:
        raise OddAnswer(f"an answer that is none: {type(error).__name__}") from error


def _name(answer: object, field: str) -> str:
    """Return a name that an answer has to have."""
    name = readings.word(getattr(answer, field, None), readings.LONGEST_MODEL_NAME)
    if not name:
        raise OddAnswer(f"an answer without {field}: is this the address of an API with batches?")
    return name


def _objects(text: bytes) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            yield found
