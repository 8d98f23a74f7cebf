"""Requests and answers of OpenAI's SDK, as data. Law of this file: headers are not kept.

It knows no HTTP library. A request is its path below the provider's address and its body. So the
journal holds no key, and a request stays the same when its server moves.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from headway_scheduler.model.calls import ServiceLane
from headway_scheduler.model.formulas import CHARACTERS_PER_TOKEN

from ..calls.client import TIER, choices_of
from ..requests.prompts import IMAGE_CHARACTERS, RequestDigest, bytes_of, text_digest
from ..secrets import without_keys

_CAPS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
WITH_LANES = frozenset({"chat/completions", "responses"})
"""Endpoints that take a service tier."""
WITHOUT_OUTPUT = frozenset({"embeddings", "moderations"})
"""Endpoints, by their paths, that count no output."""
_END_MARK = b"[DONE]"
_LAST_EVENTS = frozenset({"response.completed", "response.incomplete", "response.failed"})
"""The last events of the Responses API, whose streams have no end mark."""


@dataclass(frozen=True, slots=True)
class EncodedRequest:
    """A request's digest, the cap on the tokens of its answer and the tier, if it states them."""

    digest: RequestDigest
    output_cap: int | None
    tier: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A response as it is recorded and given back."""

    status: int
    content_type: str
    body: bytes

    def dumped(self) -> str:
        """Return the answer as JSON; :meth:`load` gives back an equal one."""
        data: dict[str, Any] = {"status": self.status, "content_type": self.content_type}
        try:
            data["text"] = self.body.decode()
        except UnicodeDecodeError:  # speech, an image
            data["base64"] = base64.b64encode(self.body).decode()
        return json.dumps(data, ensure_ascii=False)

    @classmethod
    def load(cls, text: str) -> "Answer":
        """Return an answer from its JSON."""
        data = json.loads(text)
        is_text = "text" in data
        body = data["text"].encode() if is_text else base64.b64decode(data["base64"])
        return cls(data["status"], data["content_type"], body)


def read_request(path: str, content_type: str, body: bytes) -> EncodedRequest:
    """Encode a request to ``path``, such as ``embeddings``."""
    data = _json(body)
    if not isinstance(data, dict):
        return EncodedRequest(
            replace(text_digest(f"{path}\n{_digest(content_type, body)}"), characters=0), None
        )
    # Line by line, so that a conversation that grows shares its chunks with what it was before.
    text = json.dumps(without_keys(data), sort_keys=True, indent=1, ensure_ascii=False)
    digest = text_digest(f"{path}\n{text}")
    digest = replace(digest, characters=_characters(data), most_tokens=_most_tokens(data))
    cap = 0 if path in WITHOUT_OUTPUT else _output_cap(data)
    return EncodedRequest(digest, cap, data.get(TIER))


def in_lane(body: bytes, lane: ServiceLane) -> bytes:
    """Return the body of a request, a JSON object, that asks for a lane."""
    return json.dumps({**json.loads(body), TIER: lane.value}).encode()


class Events:
    """Reads a stream of server-sent events as it comes: its end, an error in it."""

    def __init__(self) -> None:
        self.is_ended = False
        self.error: dict[str, Any] | None = None
        self._line: list[bytes] = []

    def feed(self, chunk: bytes) -> None:
        """Read the next bytes; an empty chunk is the end. Raises JSONDecodeError."""
        *lines, rest = (chunk or b"\n").split(b"\n")
        for line in lines:
            # Joined once, at its end: a long line may come in many pieces.
            name, _, data = b"".join((*self._line, line)).partition(b":")
            self._line.clear()
            if name == b"data":
                self._take(data.strip())
        if rest:
            self._line.append(rest)

    def _take(self, data: bytes) -> None:
        if data.startswith(_END_MARK):
            self.is_ended = True
            return
        event = loads(data or b"null")
        if not isinstance(event, dict):
            return
        self.is_ended = self.is_ended or event.get("type") in _LAST_EVENTS
        if event.get("error") or event.get("type") == "error":
            error = event.get("error") or event
            self.error = error if isinstance(error, dict) else {"message": str(error)}


def loads(body: bytes) -> Any:
    """Parse JSON. Raises JSONDecodeError, whatever the parser stumbles over.

    It has other errors for bytes that are no text, for too many digits and for too deep a nesting.
    """
    try:
        return json.loads(body)
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        raise json.JSONDecodeError(f"no JSON: {error}", "", 0) from None


def _json(body: bytes) -> Any:
    try:
        return loads(body)
    except ValueError:
        return None


def _digest(content_type: str, body: bytes) -> str:
    """Return what stands for a body that is no JSON: its hash, without the random boundary."""
    kind, _, boundary = content_type.partition("boundary=")
    boundary = boundary.partition(";")[0].strip('" ')
    fixed = body.replace(boundary.encode(), b"boundary") if boundary else body
    return f"{kind}{hashlib.sha256(fixed).hexdigest()}"


def _characters(value: Any) -> int:
    """Count what the provider gets: each text as whole tokens, each number as one token."""
    if isinstance(value, str):
        if value.startswith("data:"):
            return IMAGE_CHARACTERS
        return -(-len(value) // CHARACTERS_PER_TOKEN) * CHARACTERS_PER_TOKEN
    if isinstance(value, list):
        return sum(map(_characters, value))
    if isinstance(value, dict):
        return sum(map(len, value)) + sum(map(_characters, value.values()))
    return CHARACTERS_PER_TOKEN


def _most_tokens(value: Any) -> int:
    """Count the tokens that the provider can make of it: one for each byte of a text."""
    if isinstance(value, str):
        is_image = value.startswith("data:")
        return IMAGE_CHARACTERS // CHARACTERS_PER_TOKEN if is_image else bytes_of(value)
    if isinstance(value, list):
        return sum(map(_most_tokens, value))
    if isinstance(value, dict):
        return sum(map(bytes_of, value)) + sum(map(_most_tokens, value.values()))
    return CHARACTERS_PER_TOKEN


def _output_cap(data: Mapping[str, Any]) -> int | None:
    caps = (data.get(name) for name in _CAPS)
    cap = next((cap for cap in caps if isinstance(cap, int) and cap > 0), None)
    return cap and cap * choices_of(data)
