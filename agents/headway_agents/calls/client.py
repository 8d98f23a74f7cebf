"""The model client that waits its turn. Law of this file: an answer is durable before it is seen.

Theory of operation. A :class:`ScheduledClient` wraps any client of AutoGen. A request is taken down
and hashed before the first await. If its run has recorded the answer, that is given back. Else it
becomes a row, waits until its quotas admit it, goes out through the wrapped client, and is settled;
only then does the agent get the answer. Errors that waiting can mend send it back into the queue;
the others go to the agent as they came.

One client may be shared by all agents of all teams: binding gives each holder a handle, which
shares the wrapped client and adds its usage to the client that it was made from.
"""

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, Self

from autogen_core import CancellationToken, Component, ComponentModel
from autogen_core.models import (
    ChatCompletionClient,
    CreateResult,
    LLMMessage,
    ModelCapabilities,
    ModelInfo,
    RequestUsage,
)
from autogen_core.tools import Tool, ToolSchema
from pydantic import BaseModel

from headway_scheduler.model.calls import Call, Priority, Route
from headway_scheduler.providers import PROVIDERS, Provider

from ..autogen_private import create_arguments
from ..requests.codec import Request, ToolChoice, load_result, output_cap
from ..requests.prompts import Chains, estimated_tokens
from ..scope import MODEL, Place, RunScope, asking_agent, scope_of_context
from ..secrets import without_masked_keys
from .live_call import LiveCall, Price, Way, attached
from .send import answer, answer_stream
from .wrapped_client import context_tokens, prepare, provider_name

NO_ARGUMENTS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Model:
    """What a model is called in workflows, and the quotas that its calls draw on.

    ``idempotency_header`` takes the call's id, at every attempt the same, if the server knows one.
    ``price`` says what usage costs, in dollars; it is asked where a quota is of dollars, of this
    model (``counts_usd``) or of the run. ``provider`` says what is charged and what answers mean;
    None: as the client's class tells.
    """

    name: str
    quotas: tuple[str, ...]
    idempotency_header: str | None = None
    price: Price | None = None
    provider: Provider | None = None
    counts_usd: bool = False

    def headers(self, call_id: str) -> Mapping[str, str]:
        """What a request of this call carries beside its body."""
        return {self.idempotency_header: call_id} if self.idempotency_header else {}


@dataclass(frozen=True, slots=True)
class Option:
    """A model that may be asked, and whose rules hold there. ``rank`` as of a Route."""

    model: Model
    provider: Provider
    rank: int = 0


class ScheduledClientConfig(BaseModel):
    """The component form of a ScheduledClient: no run, no path, no key."""

    client: ComponentModel
    model: str
    quotas: list[str] = []
    idempotency_header: str | None = None
    provider: str | None = None
    priority: Literal["interactive", "high", "normal", "low", "background"] | None = None


class ScheduledClient(ChatCompletionClient, Component[ScheduledClientConfig]):
    """Any AutoGen client, its calls scheduled.

    ``priority`` counts where it is more urgent than the run's: the run waits for every call.
    ``others`` are models that may be asked instead, each with its client: as good as this one
    (rank 0), or only while no better one answers.

    Without ``scope`` and ``path`` they are taken from the context at every request.
    """

    component_type = "model"
    component_config_schema = ScheduledClientConfig
    component_provider_override = "headway_agents.ScheduledClient"

    def __init__(
        self,
        inner: ChatCompletionClient,
        model: Model,
        scope: RunScope | None = None,
        path: str | None = None,
        priority: Priority | None = None,
        others: Sequence[tuple[ChatCompletionClient, Model, int]] = (),
    ) -> None:
        for each in (inner, *(client for client, _, _ in others)):
            prepare(each)
        self.inner = inner
        self.model = model
        self.scope = scope
        self.path = path
        self.priority = priority
        self._others = others
        self._inners = {other.name: client for client, other, _ in others} | {model.name: inner}
        self._options = [
            Option(each, each.provider or PROVIDERS[provider_name(client)], rank)
            for client, each, rank in ((inner, model, 0), *others)
        ]
        self._parent: ScheduledClient | None = None
        self._chains = Chains()
        self._actual = RequestUsage(0, 0)
        self._total = RequestUsage(0, 0)

    def bound(self, scope: RunScope, path: str | None = None) -> "ScheduledClient":
        """Return a handle for the holder at ``path``. Its usage counts here as well.

        Without a path the context says which agent asks.
        """
        handle = ScheduledClient(self.inner, self.model, scope, path, self.priority, self._others)
        handle._parent = self._parent or self
        return handle

    async def create(
        self,
        messages: Sequence[LLMMessage],
        *,
        tools: Sequence[Tool | ToolSchema] = (),
        tool_choice: ToolChoice = "auto",
        json_output: bool | type[BaseModel] | None = None,
        extra_create_args: Mapping[str, Any] = NO_ARGUMENTS,
        cancellation_token: CancellationToken | None = None,
    ) -> CreateResult:
        """Ask the model when it is this call's turn; the answer is recorded when this returns.

        Raises CallTooLarge, RunClosed, SchedulerClosed, StoreError, or what the wrapped client
        raised if waiting cannot mend it.
        """
        request = Request(list(messages), list(tools), tool_choice, json_output, extra_create_args)
        scope, place = self._place(request)
        async with attached(scope, place, cancellation_token) as live:
            if (recorded := await live.recorded()) is not None:
                result = load_result(recorded)
            else:
                await self._acquire(live, scope, request)
                asked = partial(self._asked, live)
                result = await answer(live, asked, request, cancellation_token)
        self._count(result)
        return result

    def create_stream(
        self,
        messages: Sequence[LLMMessage],
        *,
        tools: Sequence[Tool | ToolSchema] = (),
        tool_choice: ToolChoice = "auto",
        json_output: bool | type[BaseModel] | None = None,
        extra_create_args: Mapping[str, Any] = NO_ARGUMENTS,
        cancellation_token: CancellationToken | None = None,
    ) -> AsyncGenerator[str | CreateResult, None]:
        """Ask as :meth:`create` does, and yield the text as it comes; the recorded answer is last.

        A stream that is cut is asked for again, and then its chunks come again from the start:
        only the CreateResult is the answer. Closing the stream early abandons the call.
        """
        request = Request(list(messages), list(tools), tool_choice, json_output, extra_create_args)
        return self._stream(request, *self._place(request), cancellation_token)

    async def close(self) -> None:
        """Close the wrapped client; a handle leaves that to the client it was made from."""
        if self._parent is None:
            await self.inner.close()

    def actual_usage(self) -> RequestUsage:
        """Tokens paid through this client and its handles, answers from a cache left out."""
        return RequestUsage(self._actual.prompt_tokens, self._actual.completion_tokens)

    def total_usage(self) -> RequestUsage:
        """Tokens of all answers given through this client and its handles."""
        return RequestUsage(self._total.prompt_tokens, self._total.completion_tokens)

    def count_tokens(
        self, messages: Sequence[LLMMessage], *, tools: Sequence[Tool | ToolSchema] = ()
    ) -> int:
        """Estimate, offline and always the same: it decides what contexts cut off."""
        return estimated_tokens(Request(messages, tools))

    def remaining_tokens(
        self, messages: Sequence[LLMMessage], *, tools: Sequence[Tool | ToolSchema] = ()
    ) -> int:
        """What the model's context has left, 128,000 tokens in all if AutoGen does not list it."""
        return context_tokens(self.inner) - self.count_tokens(messages, tools=tools)

    @property
    def capabilities(self) -> ModelCapabilities:
        """The wrapped client's."""
        return self.inner.capabilities

    @property
    def model_info(self) -> ModelInfo:
        """The wrapped client's."""
        return self.inner.model_info

    def _to_config(self) -> ScheduledClientConfig:
        fields = {
            "client": self.inner.dump_component(),
            "model": self.model.name,
            "quotas": list(self.model.quotas),
            "idempotency_header": self.model.idempotency_header,
            "provider": None if self.model.provider is None else self.model.provider.name,
            "priority": None if self.priority is None else self.priority.label,
        }
        return ScheduledClientConfig.model_validate(fields)

    @classmethod
    def _from_config(cls, config: ScheduledClientConfig) -> Self:
        inner = ChatCompletionClient.load_component(without_masked_keys(config.client.model_dump()))
        priority = None if config.priority is None else Priority[config.priority.upper()]
        provider = None if config.provider is None else PROVIDERS[config.provider]
        model = Model(
            config.model, tuple(config.quotas), config.idempotency_header, provider=provider
        )
        return cls(inner, model, priority=priority)

    def _place(self, request: Request) -> tuple[RunScope, Place]:
        """Take the request down, before anything is awaited, and find its place."""
        scope = self.scope or scope_of_context(self.model.name)
        path = self.path or asking_agent()
        return scope, scope.place(MODEL, path, self._chains.take(request))

    async def _acquire(self, live: LiveCall, scope: RunScope, request: Request) -> None:
        cap = output_cap(request, create_arguments(self.inner))
        await acquire(live, scope, self._options, self.priority, cap)

    def _asked(self, live: LiveCall) -> tuple[ChatCompletionClient, Mapping[str, str]]:
        models = {option.model.name: option.model for option in self._options}
        # A row may be older than the configuration, and name a model that is no option any more.
        model = models.get(live.model, self.model)
        return self._inners[model.name], model.headers(live.place.id)

    async def _stream(
        self, request: Request, scope: RunScope, place: Place, token: CancellationToken | None
    ) -> AsyncGenerator[str | CreateResult, None]:
        async with attached(scope, place, token) as live:
            if (recorded := await live.recorded()) is not None:
                for item in _as_stream(load_result(recorded)):
                    if isinstance(item, CreateResult):
                        self._count(item)
                    yield item
                return
            await self._acquire(live, scope, request)
            chunks = answer_stream(live, partial(self._asked, live), request, token)
            async with aclosing(chunks) as stream:
                async for item in stream:
                    if isinstance(item, CreateResult):
                        self._count(item)
                    yield item

    def _count(self, result: CreateResult) -> None:
        _add(self._total, result.usage)
        if not result.cached:
            _add(self._actual, result.usage)
        if self._parent is not None:
            self._parent._count(result)


async def acquire(
    live: LiveCall,
    scope: RunScope,
    options: Sequence[Option],
    priority: Priority | None,
    output_cap: int | None,
) -> None:
    """Wait until a call to one of the models may be sent, or for a person if one must decide.

    The first of ``options`` was asked for. Raises what :meth:`LiveCall.acquire` does.
    """
    place = live.place
    if place.record is not None and scope.must_decide(place.record):
        await live.for_person()
    routes = [_route(option, scope, place, output_cap) for option in options]
    first = routes[0]
    call = Call(
        id=place.id,
        run_id=scope.run_id,
        path=place.path,
        model=first.model,
        quotas=first.quotas,
        priority=scope.priority if priority is None else priority,
        tokens=first.tokens,
        submitted_at=scope.service.now(),
        request_hash=place.taken.request_hash,
        occurrence=place.occurrence,
        kind=place.kind,
        input_tokens=first.input_tokens,
        output_tokens=first.output_tokens,
        usd=first.usd,
    )
    ways = {each.model.name: Way(each.provider, _price(each.model, scope)) for each in options}
    await live.acquire(call, ways, tuple(routes) if len(routes) > 1 else ())


def _route(option: Option, scope: RunScope, place: Place, output_cap: int | None) -> Route:
    model, characters = option.model, place.taken.characters
    expected = scope.service.expected(place.agent, model.name, characters, output_cap)
    price = _price(model, scope)
    return Route(
        model.name,
        tuple(dict.fromkeys((*model.quotas, *scope.quotas))),
        option.provider.reserved_tokens(characters, output_cap, expected),
        expected.input_tokens,
        expected.output_tokens,
        0.0 if price is None else price(expected),
        option.rank,
    )


def _price(model: Model, scope: RunScope) -> Price | None:
    return model.price if model.counts_usd or scope.counts_usd else None


def _as_stream(result: CreateResult) -> Iterator[str | CreateResult]:
    """A recorded answer comes in one chunk."""
    if isinstance(result.content, str) and result.content:
        yield result.content
    yield result


def _add(total: RequestUsage, usage: RequestUsage) -> None:
    total.prompt_tokens += usage.prompt_tokens
    total.completion_tokens += usage.completion_tokens
