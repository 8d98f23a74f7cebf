"""Reads requests. Pure: bytes and headers in, an ``Asked`` out.

A chat completion has ``messages``, embeddings have ``input``: texts, or lists of token numbers.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Body = dict[str, Any]
Input = str | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as the provider counts it. Holds no key.

    ``who`` names the caller: the header ``x-headway-call``, else the body's ``user``. ``digest`` is
    the SHA-256 of its content. ``inputs`` are the texts or tokens to embed; None for a chat.
    """

    body: Body
    model: str
    who: str
    digest: str
    prompt_tokens: int
    inputs: tuple[Input, ...] | None = None

    @property
    def streamed(self) -> bool:
        """Whether the answer goes out in chunks."""
        return bool(self.body.get("stream"))

    @property
    def tier(self) -> str | None:
        """The service tier that is asked for; None if the request names none."""
        tier = self.body.get("service_tier")
        return tier if isinstance(tier, str) else None

    @property
    def output_cap(self) -> int | None:
        """The cap that the client sets on the tokens of the answer; None without a cap."""
        return output_cap(self.body)


def read_chat(raw: bytes, headers: Mapping[str, str]) -> Asked:
    """Read a request for a chat completion. Raises ValueError if it is malformed."""
    body = _body(raw)
    messages = body.get("messages")
    if not isinstance(messages, list) or not all(isinstance(part, dict) for part in messages):
        raise ValueError("'messages' must be an array of objects")
    prompt_tokens = estimate_tokens(messages)
    return Asked(
        body=body,
        model=body["model"],
        who=_who(body, headers),
        digest=digest(messages, body.get("tools")),
        prompt_tokens=prompt_tokens,
    )


def read_embeddings(raw: bytes, headers: Mapping[str, str]) -> Asked:
    """Read a request for embeddings. Raises ValueError if it is malformed."""
    body = _body(raw)
    given = body.get("input")
    several: list[Any] = given if isinstance(given, list) and not _is_tokens(given) else [given]
    if not several or not all(isinstance(one, str) or _is_tokens(one) for one in several):
        raise ValueError("'input' must be a string, an array of strings, or of tokens")
    inputs = tuple(one if isinstance(one, str) else tuple(one) for one in several)
    tokens = sum(math.ceil(len(one) / 4) if isinstance(one, str) else len(one) for one in inputs)
    return Asked(
        body=body,
        model=body["model"],
        who=_who(body, headers),
        digest=hashlib.sha256(json.dumps(["embeddings", inputs]).encode()).hexdigest(),
        prompt_tokens=tokens,
        inputs=inputs,
    )


def _is_tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(one) is int for one in value)


def _body(raw: bytes) -> Body:
    body = json.loads(raw)
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        raise ValueError("you must provide a model parameter")
    return body


def _who(body: Body, headers: Mapping[str, str]) -> str:
    return str(headers.get("x-headway-call") or body.get("user") or "")


def output_cap(body: Body) -> int | None:
    """Return ``max_completion_tokens``, or ``max_tokens``; None if there is no cap."""
    return body.get("max_completion_tokens") or body.get("max_tokens")


def estimate_tokens(messages: list[Body]) -> int:
    """Return the tokens of a prompt: a quarter of its characters, rounded up.

    Texts count, and the names and arguments of tool calls; images do not.
    """
    return math.ceil(sum(len(text) for message in messages for text in _texts(message)) / 4)


def _texts(message: Body) -> Iterator[str]:
    content = message.get("content") or ""
    if isinstance(content, str):
        yield content
    else:
        yield from (part.get("text") or "" for part in content)
    for call in message.get("tool_calls") or ():
        yield call["function"]["name"]
        yield call["function"]["arguments"]


def digest(messages: list[Body], tools: list[Body] | None) -> str:
    """Return the SHA-256 of messages and tools as canonical JSON, in hex.

    The model and the settings are left out, so a digest names a question, whoever answers it.
    """
    text = json.dumps([messages, tools or []], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
