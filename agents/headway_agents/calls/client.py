"""AutoGen's model client, scheduled. Law of this file: an answer is durable before it is seen.

Theory of operation. A :class:`ScheduledClient` wraps any client of AutoGen. It encodes and hashes a
request before the first await, because callers go on with their list of messages. If the run has
recorded the answer, it gives that back. Else the request becomes a row, waits until its quotas
admit it, goes out through the wrapped client, and is settled; only then does the agent get the
answer. Errors that waiting can mend send the call back into the queue (:meth:`LiveCall.failed`),
others go to the agent. An answer is recorded as JSON, and comes back equal.

All agents of all teams may share one client: binding gives each its own handle, which shares the
wrapped client and adds its usage to the client that it was made from.
"""

import copy
import json
import logging
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self

from autogen_core import CancellationToken, Component, ComponentModel, FunctionCall
from autogen_core.models import (
    ChatCompletionClient,
    CreateResult,
    LLMMessage,
    ModelCapabilities,
    ModelInfo,
    RequestUsage,
)
from autogen_core.tools import Tool, ToolSchema
from msgspec import structs
from pydantic import BaseModel

from headway_scheduler.errors import CallerError, ProviderError
from headway_scheduler.model.calls import (
    LARGEST_READ_COUNT,
    Call,
    Priority,
    Route,
    ServiceLane,
)
from headway_scheduler.model.states import CallState
from headway_scheduler.providers import PROVIDERS, Failure, of_host, readings
from headway_scheduler.providers.readings import Odd

from ..autogen_private import create_arguments
from ..journal.events import JournalSlot
from ..journal.machine import run_closed
from ..requests.codec import Request, ToolChoice
from ..requests.prompts import PromptEncoder, RequestDigest, estimated_tokens
from ..scope import RunScope, asking_agent, scope_of_context
from ..secrets import without_masked_keys
from .errors import AnswerRefused, error_inside, text_of
from .exchange import Exchange
from .live_call import NOTHING, LiveCall, attached, recorded
from .models import Candidate, Model
from .parts import prepare
from .wrapped_client import (
    STREAM_OPTIONS,
    context_tokens,
    left_out,
    provider_name,
    refuses_usage,
    stream_arguments,
)

_log = logging.getLogger("headway")

TIER = "service_tier"
"""The argument that asks for a lane, in OpenAI's protocol."""

MOST_BATCHES = 2
"""After how many attempts a call does not go by batch any more."""
MODEL = "model"
"""The kind of a call that a model client makes; steps have other kinds."""

NO_ARGUMENTS: Mapping[str, Any] = MappingProxyType({})

Stream = AsyncGenerator[str | CreateResult, None]


class ScheduledClientConfig(BaseModel):
    """The component form of a ScheduledClient: no run, no path, no key."""

    client: ComponentModel
    model: str
    quotas: list[str] = []
    idempotency_header: str | None = None
    provider: str | None = None
    priority: Literal["interactive", "high", "normal", "low", "background"] | None = None
    arguments: dict[str, Any] = {}


class ScheduledClient(ChatCompletionClient, Component[ScheduledClientConfig]):
    """Schedules the calls of ``wrapped``, any client of AutoGen.

    ``scope`` and ``path`` say for which run and agent; without them every request takes them from
    the context. ``priority``: the class of its calls; None: their run's. ``arguments`` go with each
    of its requests, as ``extra_create_args`` does, which prevails.
    ``others``: clients and models that may be asked instead, each with its rank: 0 is as good as
    ``model``, higher ones are asked only while no better one answers.
    """

    component_type: ClassVar[str] = "model"
    component_config_schema = ScheduledClientConfig
    component_provider_override: ClassVar[str | None] = "headway_agents.ScheduledClient"

    def __init__(
        self,
        wrapped: ChatCompletionClient,
        model: Model,
        scope: RunScope | None = None,
        *,
        path: str | None = None,
        priority: Priority | None = None,
        arguments: Mapping[str, Any] = NO_ARGUMENTS,
        others: Sequence[tuple[ChatCompletionClient, Model, int]] = (),
    ) -> None:
        self.wrapped = wrapped
        self.model = model
        self.scope = scope
        self.path = path
        self.priority = priority
        self.arguments = arguments
        self._candidates = [_candidate(*each) for each in ((wrapped, model, 0), *others)]
        self._parent: ScheduledClient | None = None
        self._encoder: PromptEncoder | None = None
        self._actual = RequestUsage(0, 0)
        self._total = RequestUsage(0, 0)

    def bound(self, scope: RunScope, path: str | None = None) -> "ScheduledClient":
        """Return a handle for the agent at ``path``. Its usage counts here as well.

        Without a path the context says which agent asks.
        """
        handle = self.asking(self.priority, self.arguments)
        handle.scope, handle.path = scope, path
        return handle

    def asking(
        self, priority: Priority | None, arguments: Mapping[str, Any] = NO_ARGUMENTS
    ) -> "ScheduledClient":
        """Return a handle with another priority and arguments. Its usage counts here as well."""
        handle = copy.copy(self)  # what was found out of the wrapped clients is shared
        handle.priority, handle.arguments = priority, arguments
        handle._parent = self._parent or self
        handle._encoder = None
        handle._actual, handle._total = RequestUsage(0, 0), RequestUsage(0, 0)
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
        """Ask the model when the call is admitted. The answer is on disk when this returns.

        Raises CallTooLarge, BudgetExceeded, RunClosed, SchedulerClosed, StoreError, ProviderError
        for a recorded failure, or what the wrapped client raised if waiting cannot mend it.
        """
        extra = {**self.arguments, **extra_create_args}
        request = Request(list(messages), list(tools), tool_choice, json_output, extra)
        async with attached(*self._slot(request), token=cancellation_token) as live:
            if (answered := await recorded(live)) is not None:
                result = load_result(answered)
            else:
                await self._acquire(live, request)
                result = await answer(live, request, cancellation_token)
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
        """Ask as :meth:`create` does; yield the text as it comes, and last the recorded answer.

        A stream that is cut is asked for again, and its chunks come again from the start: only the
        CreateResult is the answer. Closing the stream early abandons the call. Raises as ``create``
        does, CallerError at once if it belongs to no run.
        """
        extra = {**self.arguments, **extra_create_args}
        request = Request(list(messages), list(tools), tool_choice, json_output, extra)
        scope, slot, digest = self._slot(request)
        return self._stream(request, scope, slot, digest=digest, token=cancellation_token)

    async def close(self) -> None:
        """Close the wrapped client. A handle leaves that to the client that it was made from."""
        if self._parent is None:
            await self.wrapped.close()

    def actual_usage(self) -> RequestUsage:
        """Return the tokens paid through this client and its handles, without cached answers."""
        return RequestUsage(self._actual.prompt_tokens, self._actual.completion_tokens)

    def total_usage(self) -> RequestUsage:
        """Return the tokens of all answers that this client and its handles gave."""
        return RequestUsage(self._total.prompt_tokens, self._total.completion_tokens)

    def count_tokens(
        self, messages: Sequence[LLMMessage], *, tools: Sequence[Tool | ToolSchema] = ()
    ) -> int:
        """Estimate the tokens of a prompt, offline.

        The same prompt always gives the same number: contexts trim by it, so hashes depend on it.
        """
        return estimated_tokens(Request(messages, tools))

    def remaining_tokens(
        self, messages: Sequence[LLMMessage], *, tools: Sequence[Tool | ToolSchema] = ()
    ) -> int:
        """Return how many tokens the model's context has left: of 128,000 if it is not listed."""
        return context_tokens(self.wrapped) - self.count_tokens(messages, tools=tools)

    @property
    def capabilities(self) -> ModelCapabilities:
        """The capabilities of the model, by the wrapped client (AutoGen's older form)."""
        return self.wrapped.capabilities

    @property
    def model_info(self) -> ModelInfo:
        """The capabilities of the model, by the wrapped client."""
        return self.wrapped.model_info

    def _to_config(self) -> ScheduledClientConfig:
        fields = {
            "client": self.wrapped.dump_component(),
            "model": self.model.name,
            "quotas": list(self.model.quotas),
            "idempotency_header": self.model.idempotency_header,
            "provider": None if self.model.provider is None else self.model.provider.name,
            "priority": None if self.priority is None else self.priority.label,
            "arguments": dict(self.arguments),
        }
        return ScheduledClientConfig.model_validate(fields)

    @classmethod
    def _from_config(cls, config: ScheduledClientConfig) -> Self:
        component = without_masked_keys(config.client.model_dump())
        wrapped = ChatCompletionClient.load_component(component)
        priority = None if config.priority is None else Priority[config.priority.upper()]
        provider = None if config.provider is None else PROVIDERS[config.provider]
        model = Model(
            config.model, tuple(config.quotas), config.idempotency_header, provider=provider
        )
        return cls(wrapped, model, priority=priority, arguments=config.arguments)

    def _slot(self, request: Request) -> tuple[RunScope, JournalSlot, RequestDigest]:
        """Encode a request, before anything is awaited, and open its slot in the journal.

        Raises CallerError if it names another model, whose limits and prices nobody looked up.
        """
        other = (request.extra or {}).get("model", self.model.name)
        if other != self.model.name:
            raise CallerError(
                f"a request for model {self.model.name!r} has the argument model={other!r}, which "
                f"would pass its limits: leave it out, and take a client of models({other!r})"
            )
        scope = (self.scope or scope_of_context(self.model.name)).for_next_call()
        self._encoder = self._encoder or PromptEncoder()
        digest = self._encoder.encode(request)
        return scope, scope.open_slot(MODEL, self.path or asking_agent(), digest), digest

    async def _stream(
        self,
        request: Request,
        scope: RunScope,
        slot: JournalSlot,
        *,
        digest: RequestDigest,
        token: CancellationToken | None,
    ) -> AsyncGenerator[str | CreateResult, None]:
        if scope.is_closed:
            # The run ended after create_stream() and before anybody read the stream.
            raise run_closed(scope.run_id)
        async with attached(scope, slot, digest, token=token) as live:
            if (answered := await recorded(live)) is not None:
                for item in _as_stream(load_result(answered)):
                    if isinstance(item, CreateResult):
                        self._count(item)
                    yield item
                return
            await self._acquire(live, request)
            is_by_batch = live.candidate.model.lane is ServiceLane.BATCH
            streamed = whole_answer if is_by_batch else answer_stream
            async with aclosing(streamed(live, request, token)) as stream:
                async for item in stream:
                    if isinstance(item, CreateResult):
                        self._count(item)
                    yield item

    async def _acquire(self, live: LiveCall, request: Request) -> None:
        stated = self._candidates[0].stated
        cap = output_cap(request, stated)
        tier = (request.extra or {}).get(TIER, stated.get(TIER))
        await acquire(live, self._candidates, self.priority, output_cap=cap, tier=tier)

    def _count(self, result: CreateResult) -> None:
        _add(self._total, result.usage)
        if not result.cached:
            _add(self._actual, result.usage)
        if self._parent is not None:
            self._parent._count(result)


async def acquire(
    live: LiveCall,
    candidates: Sequence[Candidate],
    priority: Priority | None,
    *,
    output_cap: int | None,
    tier: Any = None,
) -> None:
    """Wait until the call may be sent to one of ``candidates``, of which the first was asked for.

    ``priority`` None: the run's. ``tier``: the service tier that the user has it ask for. A call
    that an earlier attempt was cut off in waits for a person, if the run is resumed so. Raises what
    :meth:`LiveCall.acquire` raises.
    """
    scope, slot = live.scope, live.slot
    if slot.was_cut_off and scope.journal.unknown_waits:
        await live.for_person()

    if priority is None:
        priority = scope.priority
    elif priority < scope.highest:
        priority = _lowered(scope, slot.path, priority)

    old, every = slot.record, candidates
    if len(candidates) > 1 or tier is not None:
        lane = scope.lane
        if lane is ServiceLane.BATCH and not _may_be_batched(slot):
            lane = ServiceLane.STANDARD
        candidates = _permitted(candidates, lane, tier)
        live.asks_for_flex = tier == ServiceLane.FLEX

    def estimated() -> tuple[Route, ...]:
        return tuple([_route(live, candidate, output_cap) for candidate in candidates])

    routes = estimated()
    first = routes[0]
    if first.usd:
        scope.scheduler.reestimates[slot.id] = slot.agent, estimated
    call = Call(
        id=slot.id,
        run_id=scope.run_id,
        path=slot.path,
        model=first.model,
        quotas=first.quotas,
        priority=priority,
        tokens=first.tokens,
        submitted_at=scope.scheduler.now(),
        request_hash=slot.request_hash,
        occurrence=slot.occurrence,
        kind=slot.kind,
        input_tokens=first.input_tokens,
        output_tokens=first.output_tokens,
        usd=first.usd,
        unbounded=first.unbounded,
        lane=first.lane,
    )
    if old is not None and old.state is CallState.BATCHED:
        await live.take_up(old, every, routes)
        return
    # A row of an earlier attempt has the prices and the lane of then: it gets the route of now.
    is_old = old is not None and bool(first.usd or old.call.lane is not first.lane)
    has_choice = len(routes) > 1 or is_old or tier is not None
    await live.acquire(call, candidates, routes if has_choice else ())


def _may_be_batched(slot: JournalSlot) -> bool:
    """Whether a call of a run by batch may go so.

    Inside of a step it cannot end the attempt of its run, as one by batch does. Batches that do not
    answer a call may be paid all the same, so it is not in a third one.
    """
    attempts = 0 if slot.record is None else slot.record.attempts
    return not slot.is_unordered and attempts < MOST_BATCHES


def _permitted(candidates: Sequence[Candidate], lane: ServiceLane, tier: Any) -> list[Candidate]:
    """Return the candidates that a call may go to, by the lane of its run.

    If its user chose a tier, it goes by that one's lane alone, in whatever class it stands.
    """
    if tier is None:
        lanes = {ServiceLane.STANDARD, ServiceLane.PRIORITY, lane}
        return [each for each in candidates if each.model.lane in lanes]
    chosen = [each for each in candidates if each.model.lane == tier]
    if not chosen:
        return [each for each in candidates if each.model.lane is ServiceLane.STANDARD]
    return [replace(each, model=replace(each.model, classes=())) for each in chosen]


def _lowered(scope: RunScope, path: str, priority: Priority) -> Priority:
    """Return the class of a call that asks for ``priority``, which is more than it may."""
    if path not in scope.lowered:
        scope.lowered.add(path)
        _log.warning(
            "calls of %s in run %s are %s: they ask for %s, and that is the most urgent class that "
            "they may ask for (teams.NAME.highest, defaults.highest)",
            path,
            scope.run_id,
            scope.highest.label,
            priority.label,
        )
    return scope.highest


def output_cap(request: Request, defaults: Mapping[str, Any]) -> int | None:
    """Return the cap on the answer's tokens, the request's own or else the client's."""
    for arguments in (request.extra or {}, defaults):
        for name in ("max_completion_tokens", "max_tokens"):
            cap = arguments.get(name)
            if isinstance(cap, int) and cap > 0:  # llama.cpp takes -1 for no cap
                return cap * choices_of(arguments)
    return None


def choices_of(arguments: Mapping[str, Any]) -> int:
    """Return how many answers are asked for at once; each may be as long as the cap."""
    choices = arguments.get("n")
    return choices if isinstance(choices, int) and choices > 1 else 1


def _route(live: LiveCall, candidate: Candidate, output_cap: int | None) -> Route:
    model, scope, characters = candidate.model, live.scope, live.digest.characters
    expected = scope.scheduler.expected(live.slot.agent, model.name, characters, output_cap)
    usd, unbounded = 0.0, False
    if model.counts_usd or scope.counts_usd:
        usd, unbounded = _reserved_usd(live, candidate, output_cap)
    of_team = scope.money_quotas if model.lane is ServiceLane.BATCH else scope.quotas
    return Route(
        model.name,
        tuple(dict.fromkeys((*model.quotas, *of_team))),
        candidate.provider.reserved_tokens(characters, output_cap, expected),
        expected.input_tokens,
        expected.output_tokens,
        usd,
        candidate.rank,
        unbounded,
        model.lane,
        model.classes,
    )


def _reserved_usd(
    live: LiveCall, candidate: Candidate, output_cap: int | None
) -> tuple[float, bool]:
    """Return the dollars to reserve for a call, and whether it may cost more than that.

    Raises CallerError where dollars are limited and the model has no known price.
    """
    model, scope, digest = candidate.model, live.scope, live.digest
    if model.price is None:
        raise CallerError(
            f"run {scope.run_id} counts dollars, and no price is known for model {model.name!r}: "
            f'state its prices in [models."{model.name}"]'
        )
    most, is_bound = scope.scheduler.most(
        live.slot.agent, model.name, digest.characters, digest.most_tokens, output_cap
    )
    usd = max(model.price(most), 0.0 if model.write_price is None else model.write_price(most))
    return usd, not is_bound and usd > 0


def _candidate(client: ChatCompletionClient, model: Model, rank: int) -> Candidate:
    """Switch a client's own retries off, hook into its HTTP, and return it with its provider."""
    prepared = prepare(client)
    provider = model.provider or of_host(prepared.host) or PROVIDERS[provider_name(client)]
    stated = create_arguments(client)
    return Candidate(model, provider, client, rank, prepared.origins, stated)


def _as_stream(result: CreateResult) -> Iterator[str | CreateResult]:
    """Yield a recorded answer as a stream: its text is one chunk."""
    if isinstance(result.content, str) and result.content:
        yield result.content
    yield result


def _add(total: RequestUsage, usage: RequestUsage) -> None:
    total.prompt_tokens += usage.prompt_tokens
    total.completion_tokens += usage.completion_tokens


# Sending: only a recorded answer gets out


async def answer(live: LiveCall, request: Request, token: CancellationToken | None) -> CreateResult:
    """Return the answer to ``request`` once it is recorded."""
    while True:
        client = live.candidate.client
        assert client is not None
        arguments, lane = _arguments(live.candidate, request), live.candidate.model.lane
        asked = arguments if lane in _UNTOLD else _in_lane(arguments, lane)
        if lane is ServiceLane.BATCH:
            client = await _by_batch(live, request, token)
        else:
            await live.record_sent()
        ask = partial(client.create, request.messages, cancellation_token=token, **asked)
        exchange = Exchange(live)
        try:
            try:
                result = await live.wait(partial(exchange.during, ask))
            finally:
                exchange.stop()
            if not isinstance(result.content, str):
                _check_calls(result.content)
        except Exception as error:
            await _failed(live, exchange, error, exchange.failure(text_of(error)))
        else:
            return await _recorded(live, result, exchange)


async def whole_answer(live: LiveCall, request: Request, token: CancellationToken | None) -> Stream:
    """Yield the answer to ``request`` in one piece once it is recorded: a batch has no chunks."""
    for item in _as_stream(await answer(live, request, token)):
        yield item


async def answer_stream(
    live: LiveCall, request: Request, token: CancellationToken | None
) -> Stream:
    """Yield the chunks as they come, of every attempt, and then the answer once it is recorded."""
    while True:
        client = live.candidate.client
        assert client is not None
        arguments = _arguments(live.candidate, request)
        if (lane := live.candidate.model.lane) not in _UNTOLD:
            arguments = _in_lane(arguments, lane)
        arguments |= stream_arguments(client, request)
        ask = partial(client.create_stream, request.messages, cancellation_token=token, **arguments)
        await live.record_sent()
        result: CreateResult | None = None
        exchange = Exchange(live)
        try:
            async with _exchanged(ask(), exchange) as step:
                # To its very end: AutoGen's clients do bookkeeping after the last yield.
                while (item := await live.wait(step)) is not None:
                    if isinstance(item, CreateResult):
                        result = item
                    else:
                        yield item
            if result is None or exchange.is_cut:
                raise ProviderError("the stream ended without its end")
            if not isinstance(result.content, str):
                _check_calls(result.content)
        except Exception as error:
            failure = exchange.failure(text_of(error))
            if "include_usage" in arguments and refuses_usage(client, failure):
                await live.again(error)
            else:
                await _failed(live, exchange, error, failure)
        else:
            yield await _recorded(live, result, exchange)
            return


async def _failed(
    live: LiveCall, exchange: Exchange, error: Exception, failure: Failure | None
) -> None:
    """Have an attempt judged by what came over the wire. A whole answer was paid for."""
    is_whole = failure is not None and failure.status == HTTPStatus.OK
    served = exchange.served([]) if is_whole else NOTHING
    if failure is not None and failure.status is None and failure.body and not exchange.has_lines:
        # The client looked for an answer and stumbled: its error has none of the provider's words.
        inside = error_inside(live.candidate.model.name, failure)
        inside.__cause__, error = error, inside
    await live.failed(exchange.refusal or error, failure, served)


async def _recorded(live: LiveCall, result: CreateResult, exchange: Exchange) -> CreateResult:
    """Record an answer, and return it as it is recorded."""
    odd: list[Odd] = []
    told = vars(result.usage)
    is_plain = set(map(type, told.values())) == {int}
    if not is_plain or min(told.values()) < 0 or max(told.values()) > LARGEST_READ_COUNT:
        # AutoGen's clients pass on what the provider wrote, such as NaN, that agents add up then.
        counts = {name: readings.count(value) or 0 for name, value in told.items()}
        result = result.model_copy(update={"usage": RequestUsage(**counts)})
    # What came over the wire goes before what the client makes of it: that has two counts alone.
    served = exchange.served(odd)
    if served.usage is None and not odd:
        served = structs.replace(served, usage=readings.usage(told, odd))
    await live.done(dump_result(result), served, odd)
    return result


def _check_calls(calls: Sequence[FunctionCall]) -> None:
    """Raise AnswerRefused unless ids, names and arguments are texts, as AutoGen declares them.

    Its clients pass on what the provider wrote. Such an answer could not be read back.
    """
    for call in calls:
        for name, value in vars(call).items():
            if not isinstance(value, str):
                raise AnswerRefused(f"the {name} of a tool call is no text: {value!r:.100}")


def dump_result(result: CreateResult) -> str:
    """Return an answer as JSON; :func:`load_result` gives back an equal one."""
    # Not pydantic's own JSON: it turns infinite logprobs into null and refuses lone surrogates.
    # Compact: it goes into a request to the leader, and a row, of each call.
    return json.dumps(result.model_dump(), separators=(",", ":"))


def load_result(text: str) -> CreateResult:
    """Return an answer from its JSON."""
    return CreateResult.model_validate(json.loads(text))


def model_answer(text: str) -> str:
    """Return a person's words as the JSON of a model's answer. It cost nothing."""
    usage = RequestUsage(0, 0)
    return dump_result(CreateResult(finish_reason="stop", content=text, usage=usage, cached=True))


def _arguments(candidate: Candidate, request: Request) -> dict[str, Any]:
    """Return keyword arguments of AutoGen's ``create`` and ``create_stream``, less the token."""
    extra = request.extra or {}
    if {**candidate.stated, **extra}.get(STREAM_OPTIONS, "") is None:
        assert candidate.client is not None
        extra = {**extra, **left_out(candidate.client)}
    return {
        "tools": request.tools,
        "tool_choice": request.tool_choice,
        "json_output": request.json_output,
        "extra_create_args": extra,
    }


_UNTOLD = (ServiceLane.STANDARD, ServiceLane.BATCH)
"""Lanes that no argument of a request asks for."""


async def _by_batch(
    live: LiveCall, request: Request, token: CancellationToken | None
) -> ChatCompletionClient:
    """Return a client that gets the answer of the call's batch; without one the attempt ends."""
    from . import batched  # few calls go so, and it imports OpenAI's SDK

    if live.batch_answer is None:
        arguments = _arguments(live.candidate, request)
        await batched.enter(
            live,
            lambda twin: twin.create(request.messages, cancellation_token=token, **arguments),
        )
    twin = batched.answering(live)
    live.batch_answer = None  # if it goes again by batch, it is for another answer
    return twin


def _in_lane(arguments: dict[str, Any], lane: ServiceLane) -> dict[str, Any]:
    """Return the arguments of a request that asks for a lane."""
    extra = {**arguments["extra_create_args"], TIER: lane.value}
    return {**arguments, "extra_create_args": extra}


@asynccontextmanager
async def _exchanged(
    stream: Stream, exchange: Exchange
) -> AsyncIterator[Callable[[], Awaitable[str | CreateResult | None]]]:
    """Give a function that takes the next item of ``stream``, and end the stream afterwards."""
    try:
        yield partial(exchange.during, lambda: anext(stream, None))
    finally:
        await stream.aclose()
        await exchange.close()
