"""What must be known of the wrapped client. Law of this file: only OpenAI's client is touched.

Everything else is used through AutoGen's contract alone.
"""

import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any, TypeVar

from autogen_core.models import ChatCompletionClient, ModelFamily, ModelInfo

from .wire import Request

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
    from autogen_ext.models.openai._model_info import get_info

    try:
        info = get_info(model)
    except ValueError:
        info = _NEW_MODEL
    address: dict[str, Any] = {} if base_url is None else {"base_url": base_url}
    return OpenAIChatCompletionClient(model=model, api_key=key, model_info=info, **address)


def provider_name(inner: ChatCompletionClient) -> str:
    """Return whose answers a client brings, by its class; "other" if that does not tell."""
    kinds = {kind.__name__ for kind in type(inner).__mro__}
    return next((name for kind, name in _PROVIDERS.items() if kind in kinds), "other")


def model_name(inner: ChatCompletionClient) -> str | None:
    """Return the provider's name of the model that a client asks for, if it shows one."""
    name = defaults(inner).get("model")
    return name if isinstance(name, str) else None


_held: ContextVar[list[Any]] = ContextVar("headway_held_responses")
_headers: ContextVar[Mapping[str, str]] = ContextVar("headway_headers")


def prepare(inner: ChatCompletionClient) -> None:
    """Make OpenAI's client ready: no retries of its own, and what it sends and gets in our reach.

    The SDK's retries would spend budget that nobody admitted.
    """
    if _is_openai(inner):
        sdk = vars(inner)["_client"]
        sdk.max_retries = 0
        hooks = sdk._client.event_hooks
        for event, hook in (("request", _add_headers), ("response", _hold)):
            if hook not in hooks[event]:
                hooks[event].append(hook)


async def next_item(stream: AsyncGenerator[T, None], held: list[Any]) -> T | None:
    """Take the next item of a stream, None at its end; HTTP responses on the way go to ``held``.

    AutoGen drops the SDK's stream without closing it when it is cancelled between two chunks, and
    the SDK's stream is a cycle: until the garbage collector comes, the provider goes on writing.
    """
    token = _held.set(held)
    try:
        return await anext(stream, None)
    finally:
        _held.reset(token)


async def with_headers(headers: Mapping[str, str], step: Callable[[], Awaitable[T]]) -> T:
    """Await ``step()``; requests that it sends through OpenAI's client carry ``headers`` too.

    AutoGen's client refuses ``extra_headers`` as an argument.
    """
    token = _headers.set(headers)
    try:
        return await step()
    finally:
        _headers.reset(token)


async def _add_headers(request: Any) -> None:
    request.headers.update(_headers.get({}))


async def _hold(response: Any) -> None:
    if (held := _held.get(None)) is not None:
        held.append(response)


def defaults(inner: ChatCompletionClient) -> Mapping[str, Any]:
    """Return the create arguments that the client adds to every request, if it shows them."""
    arguments = getattr(inner, "_create_args", None)
    return arguments if isinstance(arguments, dict) else {}


def stream_arguments(inner: ChatCompletionClient, request: Request) -> dict[str, Any]:
    """Return what makes a stream report its usage. A choice that the user made stands."""
    chosen = "stream_options" in defaults(inner) or "stream_options" in (request.extra or {})
    return {"include_usage": True} if _is_openai(inner) and not chosen else {}


def context_tokens(inner: ChatCompletionClient) -> int:
    """Return the context window of the inner client's model, without asking anybody."""
    if not _is_openai(inner):
        return DEFAULT_CONTEXT_TOKENS
    try:
        tables = sys.modules["autogen_ext.models.openai._model_info"]
        return int(tables.get_token_limit(defaults(inner)["model"]))
    except (KeyError, AttributeError):
        return DEFAULT_CONTEXT_TOKENS


def _is_openai(inner: ChatCompletionClient) -> bool:
    # Importing it takes most of a second; if nobody has, the client cannot be one.
    module = sys.modules.get("autogen_ext.models.openai")
    return module is not None and isinstance(inner, module.BaseOpenAIChatCompletionClient)
