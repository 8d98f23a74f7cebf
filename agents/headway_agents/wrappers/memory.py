"""Memories as journaled steps. Law of this file: what a run remembered, it remembers again.

A ListMemory is part of the team, and is filled again in a replay. Any other memory may hold
something else by then, so what it found, and what it added to an agent's context, is recorded.
"""

import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any

from autogen_core import CancellationToken, Image
from autogen_core.memory import ListMemory, Memory, MemoryContent, MemoryQueryResult
from autogen_core.memory import UpdateContextResult as Updated
from autogen_core.model_context import ChatCompletionContext
from autogen_core.models import LLMMessage
from pydantic import TypeAdapter

from ..steps.effects import Effect, effect_of, keyed
from ..steps.inputs import INPUT
from ..steps.step import Step, by_person, perform
from .wrapper import Wrapper

_MESSAGES: TypeAdapter[list[LLMMessage]] = TypeAdapter(list[LLMMessage])


class JournaledMemory(Wrapper, Memory):
    """A memory whose queries and changes are steps. Changes happen once, unless declared."""

    async def update_context(self, model_context: ChatCompletionContext) -> Updated:
        """Add to ``model_context`` what the memory adds, or added when the run first asked."""
        before = await model_context.get_messages()

        async def act() -> Any:
            draft = _ContextDraft(before)
            updated = await self.wrapped.update_context(draft)
            return {"found": _dump(updated.memories), "added": _MESSAGES.dump_python(draft.added)}

        asked = getattr(before[-1], "content", None) if before else None
        answer = await self._step("update_context", _text(asked), Effect.PURE, act=act)
        for message in _MESSAGES.validate_python(answer.get("added", [])):
            await model_context.add_message(message)
        return Updated(memories=_load(answer.get("found", [])))

    async def query(
        self,
        query: str | MemoryContent,
        cancellation_token: CancellationToken | None = None,
        **kwargs: Any,
    ) -> MemoryQueryResult:
        """Return what the memory finds, or found when the run first asked."""

        async def act() -> Any:
            return {"found": _dump(await self.wrapped.query(query, cancellation_token, **kwargs))}

        asked = _dumps([_asked(query), kwargs])
        answer = await self._step("query", asked, Effect.PURE, act=act)
        return _load(answer.get("found", []))

    async def add(
        self, content: MemoryContent, cancellation_token: CancellationToken | None = None
    ) -> None:
        """Add to the memory, once in a run."""

        async def act() -> Any:
            await self.wrapped.add(content, cancellation_token)

        effect = effect_of(self._name("add"), self._effects, self.wrapped)
        await self._step("add", _dumps(_dump_content(content)), effect, act=act)

    async def clear(self) -> None:
        """Clear the memory, once in a run."""
        effect = effect_of(self._name("clear"), self._effects, self.wrapped)
        await self._step("clear", "", effect, act=self.wrapped.clear)

    async def close(self) -> None:
        """Close what is wrapped."""
        await self.wrapped.close()

    def _name(self, method: str) -> str:
        return f"{type(self.wrapped).__name__}.{method}"

    async def _step(
        self, method: str, request: str, effect: Effect, *, act: Callable[[], Awaitable[Any]]
    ) -> dict[str, Any]:
        async def act_with_key(key: str) -> str:
            with keyed(key):
                return _dumps(await act())

        step = Step(INPUT, self._path, self._name(method), request, effect)
        answer = await perform(self._scope, step, act_with_key)
        # A person who answers for it only says that it is over.
        return {} if by_person(answer) is not None else json.loads(answer) or {}


class _ContextDraft(ChatCompletionContext):
    """Takes the place of a context while a memory acts, and keeps what the memory adds."""

    component_type = "chat_completion_context"

    def __init__(self, before: list[LLMMessage]) -> None:
        super().__init__()
        self._before = before
        self.added: list[LLMMessage] = []

    async def add_message(self, message: LLMMessage) -> None:
        self.added.append(message)

    async def get_messages(self) -> list[LLMMessage]:
        return [*self._before, *self.added]

    async def clear(self) -> None:
        self.added.clear()


def is_external(memory: Memory) -> bool:
    """Whether a memory may answer differently when it is asked again."""
    return type(memory) is not ListMemory


def _asked(query: str | MemoryContent) -> Any:
    return query if isinstance(query, str) else _dump_content(query)


def _text(content: Any) -> str:
    return content if isinstance(content, str) else ""


def _dump(found: MemoryQueryResult) -> list[Any]:
    return [_dump_content(content) for content in found.results]


def _load(found: list[Any]) -> MemoryQueryResult:
    return MemoryQueryResult(results=[_load_content(content) for content in found])


def _dump_content(content: MemoryContent) -> dict[str, Any]:
    """Return content as data. Pydantic's JSON would turn bytes into text, images into objects."""
    data = {**content.model_dump(exclude={"content"}), "type": "plain", "content": content.content}
    if isinstance(content.content, bytes):
        data |= {"type": "bytes", "content": base64.b64encode(content.content).decode()}
    elif isinstance(content.content, Image):
        data |= {"type": "image", "content": content.content.to_base64()}
    return data


def _load_content(data: dict[str, Any]) -> MemoryContent:
    fields = dict(data)
    kind, content = fields.pop("type"), fields.pop("content")
    if kind == "bytes":
        content = base64.b64decode(content)
    elif kind == "image":
        content = Image.from_base64(content)
    return MemoryContent(content=content, **fields)


def _dumps(value: Any) -> str:
    # Metadata may hold any object.
    return json.dumps(value, sort_keys=True, default=str)
