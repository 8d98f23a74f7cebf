"""Makes the simulated model's answers, and their JSON bodies. Pure and deterministic."""

import json
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .request import Asked, Body
from .schemas import example
from .vectors import embeddings

_MOST_CHUNKS = 20
"""A streamed text has at most so many chunks: a long answer would become thousands of events."""
_SHORTEST_CHUNK = 4
"""Characters."""

# Verbs of one length and nouns of one length: every sentence has 50 characters, so 13 tokens, and
# no test counts other tokens because an agent was renamed.
_VERBS = (
    "call cite copy date drop edit fill hold join keep lead lift link list mark move "
    "name note open pair pick plot post read save show sign sort swap test trim turn"
)
_NOUNS = (
    "angle chart claim costs dates draft facts goals graph image index intro label limit lines "
    "links model names notes order pages parts point price proof quote range risks rules scale "
    "scope steps story table tasks terms tests texts theme title topic units views words"
)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that the model wants called. Raises TypeError for arguments that are JSON already."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.arguments, Mapping):
            raise TypeError(
                f"arguments of {self.name} must be a mapping of their names to values, as "
                f"{{'city': 'Bonn'}}, not a {type(self.arguments).__name__}"
            )


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model says.

    ``output_tokens`` defaults to a quarter of the characters, rounded up. ``cached_tokens`` are
    tokens of the prompt that the provider had in its cache. ``tier`` is the service tier that the
    answer names; without it, the one that was asked for.
    """

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    output_tokens: int | None = None
    cached_tokens: int = 0
    tier: str | None = None


ReplyFunction = Callable[[Body], "str | Reply | None"]
"""Gets the request body; None leaves the answer to the provider."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply to one request, with all that its bodies need. ``created``: epoch seconds."""

    index: int
    created: int
    asked: Asked
    reply: Reply
    completion_tokens: int
    finish_reason: str

    def completion(self) -> Body:
        """Return the body of an answer that is not streamed."""
        if self.asked.inputs is not None:
            return embeddings(self.asked)
        message: Body = {"role": "assistant", "content": self.reply.text or None}
        calls = [self._call(number) for number in range(len(self.reply.tool_calls))]
        if calls:
            message["tool_calls"] = calls
        choice = {"index": 0, "message": message, "logprobs": None}
        choice["finish_reason"] = self.finish_reason
        return self._envelope("chat.completion", [choice]) | {"usage": self.usage()}

    def chunks(self) -> Iterator[Body]:
        """Yield the bodies of a streamed answer, without the end mark."""
        yield self._chunk({"role": "assistant", "content": ""})
        for text in _chunks_of(self.reply.text):
            yield self._chunk({"content": text})
        for number in range(len(self.reply.tool_calls)):
            yield self._chunk({"tool_calls": [{"index": number, **self._call(number)}]})
        yield self._chunk({}, self.finish_reason)
        if (self.asked.body.get("stream_options") or {}).get("include_usage"):
            yield self._envelope("chat.completion.chunk", []) | {"usage": self.usage()}

    def usage(self) -> Body:
        """Return the ``usage`` of the answer."""
        prompt, completion = self.asked.prompt_tokens, self.completion_tokens
        usage: Body = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }
        if self.reply.cached_tokens:
            cached = min(prompt, self.reply.cached_tokens)
            usage["prompt_tokens_details"] = {"cached_tokens": cached}
        return usage

    def _envelope(self, kind: str, choices: list[Body]) -> Body:
        tier = self.asked.tier if self.reply.tier is None else self.reply.tier
        tier = "default" if tier == "auto" else tier
        return {
            "id": f"chatcmpl-{self.index}",
            "object": kind,
            "created": self.created,
            "model": self.asked.model,
            "choices": choices,
            **({} if tier is None else {"service_tier": tier}),
        }

    def _chunk(self, delta: Body, finish_reason: str | None = None) -> Body:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._envelope("chat.completion.chunk", [choice])

    def _call(self, number: int) -> Body:
        call = self.reply.tool_calls[number]
        function = {"name": call.name, "arguments": json.dumps(call.arguments)}
        # Made from the request, not from a counter: the same question gets the same answer.
        identity = f"call_{self.asked.digest[:12]}_{number}"
        return {"id": identity, "type": "function", "function": function}


def answer(asked: Asked, index: int, created: int, reply: ReplyFunction | None) -> Answer:
    """Answer with ``reply``, or as the provider does by default; cut at the output cap."""
    if asked.inputs is not None:
        return Answer(index, created, asked, Reply(), 0, "")
    scripted = None if reply is None else reply(asked.body)
    said = Reply(text=scripted) if isinstance(scripted, str) else scripted
    said = default_reply(asked) if said is None else said
    tokens, cap = _count(said), asked.output_cap
    if cap is None or tokens <= cap:
        reason = "tool_calls" if said.tool_calls else "stop"
        return Answer(index, created, asked, said, tokens, reason)
    return Answer(index, created, asked, replace(said, text=said.text[: 4 * cap]), cap, "length")


def default_reply(asked: Asked) -> Reply:
    """Call the required tool, or say the wanted JSON or a sentence, by the request alone."""
    tool = _required_tool(asked.body)
    if tool is not None:
        return Reply(tool_calls=(ToolCall(tool["name"], example(tool.get("parameters") or {})),))
    sentence = _sentence(f"{asked.model} {asked.digest}")
    form = asked.body.get("response_format") or {}
    if form.get("type") == "json_schema":
        return Reply(json.dumps(example(form["json_schema"].get("schema") or {})))
    if form.get("type") == "json_object":
        return Reply(json.dumps({"answer": sentence}))
    return Reply(sentence)


def _sentence(seed: str) -> str:
    """Return an editor's advice: always the same for one ``seed``, one of 2.4 billion."""
    choice = random.Random(seed)
    verbs, nouns = choice.sample(_VERBS.split(), 3), choice.sample(_NOUNS.split(), 3)
    pairs = zip(verbs, nouns, strict=True)
    one, two, three = (f"{verb} the {noun}" for verb, noun in pairs)
    return f"{one.capitalize()}, {two} and {three}."


def _required_tool(body: Body) -> Body | None:
    tools = [tool["function"] for tool in body.get("tools") or ()]
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        wanted = choice["function"]["name"]
        return next((tool for tool in tools if tool["name"] == wanted), None)
    return tools[0] if tools and choice == "required" else None


def _count(reply: Reply) -> int:
    if reply.output_tokens is not None:
        return reply.output_tokens
    calls = sum(len(call.name) + len(json.dumps(call.arguments)) for call in reply.tool_calls)
    return math.ceil((len(reply.text) + calls) / 4)


def _chunks_of(text: str) -> Iterator[str]:
    length = max(_SHORTEST_CHUNK, math.ceil(len(text) / _MOST_CHUNKS))
    return (text[start : start + length] for start in range(0, len(text), length))
