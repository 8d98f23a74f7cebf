"""Asks a server which models it has: what ``headway doctor --ping`` does.

Law of this file: one request, which costs nothing, follows no redirect, and is over in seconds.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import anyio

from headway_scheduler.providers import Failure

from ..autogen_private import http_library
from ..secrets import scrubbed
from .errors import text_of
from .exchange import MIB
from .first_contact import cause_of, endpoint_of, wrong_path

PING_SECONDS = 5.0
MOST_BYTES = 4 * MIB
"""How much of an answer is read."""
MOST_QUOTED = 200
"""How many bytes of an error are shown."""


async def ping(url: str, headers: Mapping[str, str], model: str, address: str) -> tuple[bool, str]:
    """Ask ``url`` for the list of models; return whether that is well, and what came, in words.

    ``address`` is the one that is configured, ``model`` the name that is looked for in the list.
    """
    http: Any = http_library()
    body = bytearray()
    try:
        with anyio.fail_after(PING_SECONDS):
            async with (
                http.AsyncClient(follow_redirects=False, timeout=PING_SECONDS) as client,
                client.stream("GET", url, headers=dict(headers)) as response,
            ):
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > MOST_BYTES:
                        return False, f"an answer above {MOST_BYTES // MIB} MiB"
    except TimeoutError:
        return False, f"no answer in {PING_SECONDS:g} s"
    except Exception as error:  # of whatever library: an address may be of any kind
        return False, f"no answer: {scrubbed(cause_of(error))}"
    return _judged(response.status_code, bytes(body), model, address)


def _judged(status: int, body: bytes, model: str, address: str) -> tuple[bool, str]:
    parsed = _parsed(body)
    if status in (401, 403):
        return False, f"answers {status}: it refuses the key"
    if (wrong := wrong_path(address, Failure(status, {}, parsed))) is not None:
        is_well = "/v1" in address and endpoint_of(address) is None
        return is_well, "answers, and lists no models" if is_well else text_of(wrong)
    if 300 <= status < 400:
        return False, f"answers {status}: it leads elsewhere, and no redirect is followed"
    if status >= 400:
        says = scrubbed(body[:MOST_QUOTED].decode("utf-8", "replace"))
        return status < 500, f"answers {status}: {says}" if says else f"answers {status}"
    listed = parsed.get("data", parsed.get("models")) if isinstance(parsed, dict) else None
    if not isinstance(listed, list):
        return False, "answers, and not as an API does: is that its address?"
    names = list(_names(listed))
    if not names:
        return True, "answers, and lists no models"
    is_there = any(name in (model, f"{model}:latest") for name in names)
    count = f"answers, and lists {len(names)} model{'' if len(names) == 1 else 's'}"
    return True, f"{count}, {model!r} among them" if is_there else f"{count}, not {model!r}"


def _names(listed: list[Any]) -> Iterator[str]:
    """Yield the models of a list: of OpenAI and Anthropic, or of Ollama."""
    for each in listed:
        name = (each.get("id") or each.get("name")) if isinstance(each, dict) else None
        if isinstance(name, str):
            yield name.removeprefix("models/")  # as Google writes them


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
