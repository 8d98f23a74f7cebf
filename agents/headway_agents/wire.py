"""Requests and answers as text. Law of this file: the same request gives the same text, anywhere.

The canonical text of a request is JSON with sorted keys. Nothing in it depends on the process, the
hash seed, the time, or an id that somebody drew: tool calls are numbered by their appearance, and
an image is the hash of its pixels. Which client is asked, and how it is configured, is no part of
it. The same walk over the messages counts characters, which is what providers charge at admission.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from autogen_core import FunctionCall, Image
from autogen_core.models import (
    AssistantMessage,
    CreateResult,
    FunctionExecutionResult,
    FunctionExecutionResultMessage,
    LLMMessage,
    RequestUsage,
)
from autogen_core.tools import Tool, ToolSchema
from pydantic import BaseModel

from headway_scheduler.model import Usage
from headway_scheduler.providers.openai import CHARACTERS_PER_TOKEN

ToolChoice = Tool | Literal["auto", "required", "none"]
Part = str | Image | FunctionCall | FunctionExecutionResult

MESSAGE_CHARACTERS = 16
"""What a message costs beside its text: about 4 tokens, by OpenAI's cookbook on counting."""
IMAGE_CHARACTERS = 765 * CHARACTERS_PER_TOKEN
"""A square image in high detail, by OpenAI's vision guide."""


@dataclass(frozen=True, slots=True)
class Request:
    """What an agent asks, taken down before anything is awaited: callers go on with their list."""

    messages: Sequence[LLMMessage]
    tools: Sequence[Tool | ToolSchema] = ()
    tool_choice: ToolChoice = "auto"
    json_output: bool | type[BaseModel] | None = None
    extra: Mapping[str, Any] | None = None

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of AutoGen's ``create`` and ``create_stream``, less the token."""
        return {
            "tools": self.tools,
            "tool_choice": self.tool_choice,
            "json_output": self.json_output,
            "extra_create_args": self.extra or {},
        }


def canonical(request: Request) -> str:
    """Return the text that stands for ``request``, for its hash and for comparing."""
    numbers: dict[str, int] = {}
    choice = request.tool_choice
    return _dumps(
        {
            "messages": [_message(message, numbers) for message in request.messages],
            "tools": [_schema(tool) for tool in request.tools],
            "tool_choice": choice if isinstance(choice, str) else {"name": choice.name},
            "json_output": request.json_output,
            "extra_create_args": request.extra or {},
        }
    )


def request_hash(request: Request) -> str:
    """Return the SHA-256 of the canonical text, in hex."""
    return hashlib.sha256(canonical(request).encode()).hexdigest()


def characters(request: Request) -> int:
    """Count what the provider is sent: texts, names, tool schemas, and a flat rate per image."""
    total = sum(_message_characters(message) for message in request.messages)
    total += sum(len(_dumps(_schema(tool))) for tool in request.tools)
    if isinstance(request.json_output, type):
        total += len(_dumps(request.json_output))
    return total


def estimated_tokens(request: Request) -> int:
    """Estimate the prompt's tokens. Needs no tables, and says the same every time."""
    return math.ceil(characters(request) / CHARACTERS_PER_TOKEN)


def output_cap(request: Request, defaults: Mapping[str, Any]) -> int | None:
    """Return the most tokens that the answer may have; the request goes before the client."""
    for arguments in (request.extra or {}, defaults):
        for name in ("max_completion_tokens", "max_tokens"):
            if isinstance(cap := arguments.get(name), int):
                return cap
    return None


def usage_of(usage: RequestUsage) -> Usage | None:
    """Return what the provider counted; None for 0 and 0, which is how clients say "unknown"."""
    if not usage.prompt_tokens and not usage.completion_tokens:
        return None
    return Usage(usage.prompt_tokens, usage.completion_tokens)


def dump_result(result: CreateResult) -> str:
    """Return an answer as JSON; :func:`load_result` gives back an equal one."""
    # Not pydantic's own JSON: it turns infinite logprobs into null and refuses lone surrogates.
    return json.dumps(result.model_dump())


def load_result(text: str) -> CreateResult:
    """Return the answer that was dumped."""
    return CreateResult.model_validate(json.loads(text))


def _message(message: LLMMessage, numbers: dict[str, int]) -> dict[str, Any]:
    data: dict[str, Any] = {"type": message.type}
    if not isinstance(message, FunctionExecutionResultMessage):
        data["source"] = getattr(message, "source", None)
    if isinstance(message, AssistantMessage):
        data["thought"] = message.thought
    content = message.content
    is_text = isinstance(content, str)
    data["content"] = content if is_text else [_part(part, numbers) for part in content]
    return data


def _part(part: Part, numbers: dict[str, int]) -> Any:
    if isinstance(part, str):
        return part
    if isinstance(part, Image):
        return {"image": _image_hash(part)}
    if isinstance(part, FunctionCall):
        number = numbers.setdefault(part.id, len(numbers))
        return {"call": number, "name": part.name, "arguments": part.arguments}
    number = numbers.setdefault(part.call_id, len(numbers))
    # Some clients leave is_error out where others say False.
    is_error = bool(part.is_error)
    return {"call": number, "name": part.name, "content": part.content, "is_error": is_error}


def _image_hash(image: Image) -> str:
    # Pixels, not AutoGen's dump: that encodes a PNG, a hundred times slower.
    pixels = hashlib.sha256(image.image.tobytes())
    pixels.update(repr((image.image.size, image.image.mode)).encode())
    return pixels.hexdigest()


def _message_characters(message: LLMMessage) -> int:
    count = MESSAGE_CHARACTERS + len(getattr(message, "source", "")) + _thought_length(message)
    if isinstance(message.content, str):
        return count + len(message.content)
    return count + sum(_part_characters(part) for part in message.content)


def _thought_length(message: LLMMessage) -> int:
    return len(message.thought or "") if isinstance(message, AssistantMessage) else 0


def _part_characters(part: Part) -> int:
    if isinstance(part, str):
        return len(part)
    if isinstance(part, Image):
        return IMAGE_CHARACTERS
    if isinstance(part, FunctionCall):
        return len(part.name) + len(part.arguments)
    return len(part.name) + len(part.content)


def _schema(tool: Tool | ToolSchema) -> ToolSchema:
    return tool.schema if isinstance(tool, Tool) else tool


def _dumps(data: Any) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), default=_plain)


def _plain(value: Any) -> Any:
    """Put a value that JSON lacks into words that are the same in every process."""
    if isinstance(value, type) and issubclass(value, BaseModel):
        return value.model_json_schema()
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    if isinstance(value, tuple | Sequence):
        return list(value)
    # Its repr may hold an address.
    return f"<{type(value).__module__}.{type(value).__qualname__}>"
