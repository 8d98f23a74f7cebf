"""Finds the parts of a client that send, whatever is wrapped around them, and readies them.

Law of this file: one attempt is one exchange. A client of AutoGen's, or of a user's, may hold what
sends several attributes deep. Whatever is found there has its own retries switched off, because
they would spend budget that nobody admitted, and gets the hooks of ``exchange.py``.
"""

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from types import FunctionType, MethodType, ModuleType
from typing import Any

from autogen_core.models import ChatCompletionClient

from ..autogen_private import (
    create_arguments,
    http_client,
    http_library,
    is_openai,
    never_repeat,
    sdk_of,
)
from .exchange import observe
from .models import Origin

DEPTH = 4
"""How many attributes deep a client is looked through."""
MOST_PARTS = 2_000
"""How many of its parts are looked at."""
_PLAIN = (str, bytes, int, float, complex, type(None), type, FunctionType, MethodType, ModuleType)
_log = logging.getLogger("headway")
_said: set[type] = set()
"""Classes of clients that show no model, of which this process has told."""


@dataclass(frozen=True, slots=True)
class Senders:
    """The parts of a client that send.

    ``origins``: the servers that they ask, empty if none shows; ``address`` and ``host`` are those
    of the first.
    """

    address: str | None = None
    origins: frozenset[Origin] = frozenset()
    host: str = ""


def prepare(client: ChatCompletionClient) -> Senders:
    """Switch the retries of every SDK in ``client`` off, and hook into its HTTP. Idempotent.

    Of a client that sends without httpx, only its results and its errors are known.
    """
    for part in _senders(client):
        if _is_sdk(part):
            part.max_retries = 0
        if _is_sdk(part) or _is_http(part):
            observe(http_client(part) if _is_sdk(part) else part)
        else:
            never_repeat(part)
    return senders(client)


def senders(client: ChatCompletionClient) -> Senders:
    """Return which servers a client asks, as far as it shows them. Changes nothing."""
    found = [url for part in _parts(client) if (url := _address(part)) is not None]
    urls = [url for url in found if url.host]
    if not urls:
        return Senders()
    origins = frozenset((url.scheme, url.host, url.port) for url in urls)
    return Senders(str(urls[0]), origins, urls[0].host)


def model_name(client: ChatCompletionClient) -> str | None:
    """Return the model that a client asks for, as its provider names it; None if it shows none."""
    for part in _parts(client):
        own = vars(part)
        for name in (create_arguments(part).get("model"), own.get("ai_model_id"), own.get("model")):
            if isinstance(name, str) and name:
                return name
    return None


def shown_name(client: ChatCompletionClient) -> str:
    """Return the model that a client asks for, else the name of its class, which is said once."""
    name, kind = model_name(client), type(client)
    if name is None and kind not in _said:
        _said.add(kind)
        _log.info("a %s shows no model: its calls are those of %r", kind.__name__, kind.__name__)
    return name or kind.__name__


def _senders(client: ChatCompletionClient) -> Iterator[Any]:
    return (part for part in _parts(client) if _sends(part))


def _sends(part: object) -> bool:
    return _is_sdk(part) or _is_http(part) or _is_of(part, "azure", "AsyncPipelineClient")


def _is_sdk(part: object) -> bool:
    return _is_of(part, "openai", "AsyncAPIClient") or _is_of(part, "anthropic", "AsyncAPIClient")


def _is_http(part: object) -> bool:
    return _is_of(part, "httpx", "AsyncClient") or _is_of(part, "httpx2", "AsyncClient")


def _is_of(part: object, library: str, name: str) -> bool:
    """Whether something is of a class of a library, which may not be installed."""
    return any(
        kind.__name__ == name and kind.__module__.partition(".")[0] == library
        for kind in type(part).__mro__
    )


def _address(part: object) -> Any:
    """Return the address that a part shows, an URL of httpx; None if it is none that sends."""
    if _is_sdk(part) or _is_http(part):
        return part.base_url  # type: ignore[attr-defined]  # each of them has one
    endpoint = vars(part).get("endpoint")  # of a client of Azure's, a text
    if not isinstance(endpoint, str) or not type(part).__module__.startswith("azure."):
        return None
    return http_library().URL(endpoint)


def _parts(client: ChatCompletionClient) -> Iterator[Any]:
    """Yield a client and what it holds, nearest first, down to what sends and no further."""
    if is_openai(client):  # by far the most frequent, and known by heart
        yield client
        yield sdk_of(client)
        return
    waiting: deque[tuple[Any, int]] = deque([(client, 0)])
    seen = {id(client)}
    while waiting:
        part, depth = waiting.popleft()
        yield part
        if depth == DEPTH or _is_sdk(part) or _is_http(part):
            continue
        for value in _held(part):
            if id(value) not in seen and len(seen) < MOST_PARTS and hasattr(value, "__dict__"):
                seen.add(id(value))
                waiting.append((value, depth + 1))


def _held(part: Any) -> Iterator[Any]:
    """Yield the attributes of a part, those in lists and tables too."""
    for value in list(vars(part).values()):
        if isinstance(value, dict):
            inner: Iterable[Any] = value.values()
        elif isinstance(value, list | tuple):
            inner = value
        else:
            inner = (value,)
        yield from (each for each in islice(inner, MOST_PARTS) if not isinstance(each, _PLAIN))
