"""Requests as chains of chunks. Law of this file: the same request gives the same chain, anywhere.

Theory of operation. A request is cut into *chunks*: first everything but its messages, then each
message, after its long texts as chunks of their own. A prompt is a chain of chunks: each *node*
hashes the node before it and one chunk, and the hash of the last node is that of the request. So a
prompt that grows adds only its new nodes, a text that several agents hear is stored once, and a
prompt that repeats the whole history in one text (SelectorGroupChat's) shares all but its end with
the one before.

Nothing in a chunk depends on the process, its hash seed, the time, or an id that somebody drew:
tool calls are numbered as they appear, and an image is the hash of its pixels. Which client is
asked, and how it is configured, is no part of it. The same walk counts characters, by which
providers charge at admission.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autogen_core import FunctionCall, Image
from autogen_core.models import (
    AssistantMessage,
    FunctionExecutionResult,
    FunctionExecutionResultMessage,
    LLMMessage,
)
from autogen_core.tools import Tool, ToolSchema
from pydantic import BaseModel

from headway_scheduler.model.formulas import CHARACTERS_PER_TOKEN
from headway_scheduler.model.prompts import ChainNode, Chunk, Prompt

from ..secrets import without_whole_keys
from .codec import Request

Part = str | Image | FunctionCall | FunctionExecutionResult

HASH_BYTES = 16
LONG_TEXT = 400
"""A text with more characters is a chunk of its own, for other agents may hear it too."""
CHUNK_CHARACTERS = 2000
"""A chunk of a long text ends at the first line break after so many characters."""
MESSAGE_CHARACTERS = 16
"""Characters that a message counts beside its text: about 4 tokens (OpenAI's cookbook)."""
IMAGE_CHARACTERS = 765 * CHARACTERS_PER_TOKEN
"""A square image in high detail (OpenAI's vision guide)."""


@dataclass(frozen=True, slots=True)
class RequestDigest:
    """The part of a request that the journal needs. ``chain``: its nodes and chunks, in order.

    ``characters`` is what it is charged for, ``most_tokens`` the most that it can come to: as many
    as its texts have bytes. Texts that leave it hold no keys: they are kept to be read and
    compared, never to be sent again.
    """

    request_hash: str
    characters: int
    chain: tuple[tuple[ChainNode, Chunk], ...]
    most_tokens: int = 0

    def chunks(self) -> list[str]:
        """Return the text of every chunk, as it is kept."""
        return [without_whole_keys(chunk.text) for _, chunk in self.chain]

    def missing(self, known: set[bytes]) -> Prompt:
        """Return what may not be on disk yet. All nodes before one that is ``known`` are known."""
        new: list[tuple[ChainNode, Chunk]] = []
        for node, chunk in reversed(self.chain):
            if node.hash in known:
                break
            new.append((node, chunk))
        new.reverse()
        # Keys are looked for in new chunks only: a prompt may repeat the whole history each time.
        chunks = (Chunk(chunk.hash, without_whole_keys(chunk.text)) for _, chunk in new)
        return Prompt(tuple(chunks), tuple(node for node, _ in new))


@dataclass(slots=True)
class _Body:
    """A message's chunks, and its nodes in the last request that held it."""

    message: LLMMessage
    content: object
    head: str
    ids: tuple[str, ...]
    texts: tuple[Chunk, ...]
    characters: int
    most_tokens: int
    before: bytes | None = None
    numbers: tuple[int, ...] = ()
    nodes: tuple[tuple[ChainNode, Chunk], ...] = field(default=())


class PromptEncoder:
    """Encodes the requests of one agent. Messages of its last request are not read again."""

    def __init__(self) -> None:
        self._bodies: dict[int, _Body] = {}

    def encode(self, request: Request) -> RequestDigest:
        """Return the digest of ``request``. Its messages may change as soon as this returns."""
        setting = _dumps(_setting(request))
        chain = list(_linked(None, [_chunk(setting)]))
        characters = sum(len(_dumps(_schema(tool))) for tool in request.tools)
        if isinstance(request.json_output, type):
            characters += len(_dumps(request.json_output))
        most_tokens = characters + MESSAGE_CHARACTERS  # escaped, so no text has more bytes
        numbers: dict[str, int] = {}
        bodies: dict[int, _Body] = {}
        for message in request.messages:
            body = bodies[id(message)] = self._body(message)
            chain += _nodes_of(body, chain[-1][0].hash, numbers)
            characters += body.characters
            most_tokens += body.most_tokens
        # Only what this request holds: a context forgets old messages, and so does this.
        self._bodies = bodies
        return RequestDigest(chain[-1][0].hash.hex(), characters, tuple(chain), most_tokens)

    def _body(self, message: LLMMessage) -> _Body:
        known = self._bodies.get(id(message))
        # A list of parts may have changed in place, so only a text is taken as it was.
        if (
            known is not None
            and known.content is message.content
            and isinstance(known.content, str)
        ):
            return known
        return _body(message)


def characters(request: Request) -> int:
    """Count what the provider gets: texts, names, tool schemas, and a flat rate for each image."""
    return PromptEncoder().encode(request).characters


def estimated_tokens(request: Request) -> int:
    """Estimate the tokens of a prompt. Needs no tables, and always gives the same number."""
    return math.ceil(characters(request) / CHARACTERS_PER_TOKEN)


def text_digest(text: str) -> RequestDigest:
    """Return the digest of a step's request, which is one text."""
    chain = tuple(_linked(None, _chunks(text)))
    return RequestDigest(chain[-1][0].hash.hex(), len(text), chain)


def _nodes_of(
    body: _Body, before: bytes, numbers: dict[str, int]
) -> tuple[tuple[ChainNode, Chunk], ...]:
    own = tuple(numbers.setdefault(call_id, len(numbers)) for call_id in body.ids)
    if body.before != before or body.numbers != own:
        head = f"{body.head} {list(own)}" if own else body.head
        # The head is last: a text that grows begins as it was, so those nodes stay the same.
        body.nodes = tuple(_linked(before, [*body.texts, _chunk(head)]))
        body.before, body.numbers = before, own
    return body.nodes


def _linked(parent: bytes | None, chunks: Sequence[Chunk]) -> Sequence[tuple[ChainNode, Chunk]]:
    linked = []
    for chunk in chunks:
        node = ChainNode(_hash((parent or b"") + chunk.hash), parent, chunk.hash)
        linked.append((node, chunk))
        parent = node.hash
    return linked


def _hash(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:HASH_BYTES]


def _chunk(text: str) -> Chunk:
    return Chunk(_hash(text.encode("utf-8", "surrogatepass")), text)


def _chunks(text: str) -> list[Chunk]:
    """Cut a text at line breaks. Each cut depends on the text before it alone."""
    chunks, start = [], 0
    while len(text) - start > CHUNK_CHARACTERS:
        end = text.find("\n", start + CHUNK_CHARACTERS) + 1
        if not end:
            break
        chunks.append(_chunk(text[start:end]))
        start = end
    chunks.append(_chunk(text[start:]))
    return chunks


def _body(message: LLMMessage) -> _Body:
    ids: list[str] = []
    long: list[Chunk] = []

    def kept(text: str) -> Any:
        if len(text) <= LONG_TEXT:
            return text
        long.extend(_chunks(text))
        return {"characters": len(text)}

    data: dict[str, Any] = {"type": message.type}
    if not isinstance(message, FunctionExecutionResultMessage):
        data["source"] = getattr(message, "source", None)
    if isinstance(message, AssistantMessage):
        data["thought"] = None if message.thought is None else kept(message.thought)
    content = message.content
    parts: list[Any] = [content] if isinstance(content, str) else list(content)
    data["content"] = [_part(part, ids, kept) for part in parts]
    if isinstance(content, str):
        (data["content"],) = data["content"]
    characters = _message_size(message, len, IMAGE_CHARACTERS)
    most_tokens = _message_size(message, bytes_of, IMAGE_CHARACTERS // CHARACTERS_PER_TOKEN)
    return _Body(message, content, _dumps(data), tuple(ids), tuple(long), characters, most_tokens)


def bytes_of(text: str) -> int:
    """Count the bytes of a text in UTF-8: no token is shorter than one."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _part(part: Part, ids: list[str], kept: Any) -> Any:
    if isinstance(part, str):
        return kept(part)
    if isinstance(part, Image):
        return {"image": _image_hash(part)}
    if isinstance(part, FunctionCall):
        ids.append(part.id)
        return {"call": part.name, "arguments": kept(part.arguments)}
    ids.append(part.call_id)
    # Some clients leave is_error out where others say False.
    return {"result": part.name, "content": kept(part.content), "is_error": bool(part.is_error)}


def _image_hash(image: Image) -> str:
    # Of the pixels: AutoGen's dump encodes a PNG, which is a hundred times slower.
    pixels = hashlib.sha256(image.image.tobytes())
    pixels.update(repr((image.image.size, image.image.mode)).encode())
    return pixels.hexdigest()


def _message_size(message: LLMMessage, size: Callable[[str], int], image: int) -> int:
    count = MESSAGE_CHARACTERS + size(getattr(message, "source", ""))
    if isinstance(message, AssistantMessage):
        count += size(message.thought or "")
    if isinstance(message.content, str):
        return count + size(message.content)
    return count + sum(_part_size(part, size, image) for part in message.content)


def _part_size(part: Part, size: Callable[[str], int], image: int) -> int:
    if isinstance(part, str):
        return size(part)
    if isinstance(part, Image):
        return image
    if isinstance(part, FunctionCall):
        return size(part.name) + size(part.arguments)
    return size(part.name) + size(part.content)


def _setting(request: Request) -> dict[str, Any]:
    choice = request.tool_choice
    return {
        "tools": [_schema(tool) for tool in request.tools],
        "tool_choice": choice if isinstance(choice, str) else {"name": choice.name},
        "json_output": request.json_output,
        "extra_create_args": request.extra or {},
    }


def _schema(tool: Tool | ToolSchema) -> ToolSchema:
    return tool.schema if isinstance(tool, Tool) else tool


def _dumps(data: Any) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), default=_plain)


def _plain(value: Any) -> Any:
    """Return a value that JSON lacks as one that is the same in every process."""
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
