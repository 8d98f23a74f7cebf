"""What a client asked for. Pure: bytes and headers in, an ``Asked`` out."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """A chat completion request as the provider counts it. Holds no key."""

    body: Body
    model: str
    who: str
    digest: str
    prompt_tokens: int
    charged_tokens: int

    @property
    def streamed(self) -> bool:
        """Whether the answer goes out in chunks."""
        return bool(self.body.get("stream"))

    @property
    def output_cap(self) -> int | None:
        """The most tokens that the client wants back."""
        return output_cap(self.body)


def read(raw: bytes, headers: Mapping[str, str]) -> Asked:
    """Understand a request.

    Raises ValueError if it is no chat completion request.
    """
    body = json.loads(raw)
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        raise ValueError("you must provide a model parameter")
    messages = body.get("messages")
    if not isinstance(messages, list) or not all(isinstance(part, dict) for part in messages):
        raise ValueError("'messages' must be an array of objects")
    prompt_tokens = estimate_tokens(messages)
    return Asked(
        body=body,
        model=body["model"],
        who=str(headers.get("x-headway-call") or body.get("user") or ""),
        digest=digest(messages, body.get("tools")),
        prompt_tokens=prompt_tokens,
        charged_tokens=max(output_cap(body) or 0, prompt_tokens),
    )


def output_cap(body: Body) -> int | None:
    """``max_completion_tokens`` or its older name; None if there is no cap."""
    return body.get("max_completion_tokens") or body.get("max_tokens")


def estimate_tokens(messages: list[Body]) -> int:
    """Tokens of a prompt: a quarter of its characters, rounded up.

    Characters are those of texts, and of the names and arguments of tool calls; not of images.
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
    """SHA-256 of messages and tools as canonical JSON; model and settings do not count."""
    text = json.dumps([messages, tools or []], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
