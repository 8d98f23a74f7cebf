"""What must be known of the wrapped client. Law of this file: only the HTTP of two SDKs is touched.

OpenAI's and Anthropic's are made alike, on httpx.
Everything else is used through AutoGen's contract alone.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

from autogen_core.models import ChatCompletionClient, ModelFamily, ModelInfo

from ..autogen_private import (
    create_arguments,
    http_client,
    is_openai,
    listed_model_info,
    listed_token_limit,
    sdk_of,
)
from ..requests.codec import Request

T = TypeVar("T")
DEFAULT_CONTEXT_TOKENS = 128_000
"""The context window of a model that AutoGen's tables do not list."""


_PROVIDERS = {
    "AzureOpenAIChatCompletionClient": "azure",
    "BaseOpenAIChatCompletionClient": "openai",
    "AnthropicBedrockChatCompletionClient": "bedrock",
    "BaseAnthropicChatCompletionClient": "anthropic",
    "BaseOllamaChatCompletionClient": "local",
    "LlamaCppChatCompletionClient": "local",
}
"""Classes of AutoGen's clients, the most special one first."""

_NEW_MODEL = ModelInfo(
    vision=True,
    function_calling=True,
    json_output=True,
    structured_output=True,
    multiple_system_messages=True,
    family=ModelFamily.UNKNOWN,
)
"""Models that AutoGen does not list are newer than it, and newer models can do all of this."""


def openai_client(model: str, key: str, base_url: str | None) -> ChatCompletionClient:
    """Make a client for OpenAI, or for the server at ``base_url`` that speaks its protocol."""
    from autogen_ext.models.openai import OpenAIChatCompletionClient

    info = listed_model_info(model) or _NEW_MODEL
    address: dict[str, Any] = {} if base_url is None else {"base_url": base_url}
    return OpenAIChatCompletionClient(model=model, api_key=key, model_info=info, **address)


def provider_name(inner: ChatCompletionClient) -> str:
    """Return whose answers a client brings, by its class; "other" if that does not tell."""
    kinds = {kind.__name__ for kind in type(inner).__mro__}
    return next((name for kind, name in _PROVIDERS.items() if kind in kinds), "other")


def model_name(inner: ChatCompletionClient) -> str | None:
    """Return the provider's name of the model that a client asks for, if it shows one."""
    name = create_arguments(inner).get("model")
    return name if isinstance(name, str) else None


RateLimitHeader = Callable[[int, Mapping[str, str]], None]
"""Takes the status of an HTTP answer, and its headers with lower-case names."""


@dataclass(slots=True)
class Exchange:
    """What one attempt adds to the HTTP requests of its client, and gets to see of the answers.

    AutoGen's clients refuse ``extra_headers`` as an argument and return no headers. They drop the
    SDK's stream without closing it when they are cancelled between two chunks, and it is a cycle:
    until the garbage collector comes, the provider goes on writing. So it is closed from here.
    """

    headers: Mapping[str, str]
    told: RateLimitHeader
    responses: list[Any] = field(default_factory=list[Any])

    async def during(self, step: Callable[[], Awaitable[T]]) -> T:
        """Await ``step()``."""
        token = _exchange.set(self)
        try:
            return await step()
        finally:
            _exchange.reset(token)

    async def close(self) -> None:
        """Let nothing of it go on."""
        for response in self.responses:
            await response.aclose()


_exchange: ContextVar[Exchange] = ContextVar("headway_exchange")


def prepare(inner: ChatCompletionClient) -> None:
    """Make a client ready: no retries of its own, and what it sends and gets in our reach.

    The SDK's retries would spend budget that nobody admitted.
    """
    if is_openai(inner) or provider_name(inner) == "anthropic":
        sdk = sdk_of(inner)
        sdk.max_retries = 0
        hooks = http_client(sdk).event_hooks
        for event, hook in (("request", _add_headers), ("response", _tell)):
            if hook not in hooks[event]:
                hooks[event].append(hook)


async def _add_headers(request: Any) -> None:
    if (exchange := _exchange.get(None)) is not None:
        request.headers.update(exchange.headers)


async def _tell(response: Any) -> None:
    if (exchange := _exchange.get(None)) is not None:
        exchange.responses.append(response)
        exchange.told(response.status_code, dict(response.headers))


def stream_arguments(inner: ChatCompletionClient, request: Request) -> dict[str, Any]:
    """Return what makes a stream report its usage. A choice that the user made stands."""
    chosen = "stream_options" in create_arguments(inner) or "stream_options" in (
        request.extra or {}
    )
    return {"include_usage": True} if is_openai(inner) and not chosen else {}


def context_tokens(inner: ChatCompletionClient) -> int:
    """Return the context window of the inner client's model, without asking anybody."""
    model = model_name(inner) if is_openai(inner) else None
    listed = None if model is None else listed_token_limit(model)
    return DEFAULT_CONTEXT_TOKENS if listed is None else listed
