"""Finds out the provider of a wrapped client, and how it is asked for usage.

Law of this file: it knows AutoGen's own classes; it uses every other through AutoGen's contract
alone.
"""

from typing import Any

from autogen_core.models import ChatCompletionClient, ModelFamily, ModelInfo

from headway_scheduler.providers import Failure

from ..autogen_private import (
    create_arguments,
    is_openai,
    listed_token_limit,
    sdk_of,
)
from ..requests.codec import Request

MOST_NOTED = 1_000
"""How many models and addresses that refused ``stream_options`` are kept at most."""
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
"""The provider of each class of AutoGen's clients, subclasses first."""

STREAM_OPTIONS = "stream_options"
"""The argument that has a stream tell its usage, in OpenAI's protocol."""
_UNKNOWN_PARAMETER = (400, 422)
"""What servers answer to a parameter that they do not know."""
_tell_no_usage: set[tuple[str | None, str]] = set()
"""Models and addresses that refused ``stream_options``: older API versions, strict proxies."""

NEW_MODEL = ModelInfo(
    vision=True,
    function_calling=True,
    json_output=True,
    structured_output=True,
    multiple_system_messages=True,
    family=ModelFamily.UNKNOWN,
)
"""For models that AutoGen does not list: newer than it, and newer models can do all of this."""


def provider_name(client: ChatCompletionClient) -> str:
    """Return the provider of a client, by its class; "other" if that does not tell."""
    return provider_of(type(client))


def provider_of(kind: type) -> str:
    """Return the provider of a class of clients; "other" if it does not tell."""
    classes = {each.__name__ for each in kind.__mro__}
    return next((name for each, name in _PROVIDERS.items() if each in classes), "other")


def stream_arguments(client: ChatCompletionClient, request: Request) -> dict[str, Any]:
    """Return the arguments that make a stream report its usage, unless the user chose already."""
    chosen = STREAM_OPTIONS in {**create_arguments(client), **(request.extra or {})}
    is_asked = is_openai(client) and not chosen and _server_of(client) not in _tell_no_usage
    return {"include_usage": True} if is_asked else {}


def left_out(client: ChatCompletionClient) -> dict[str, Any]:
    """Return the arguments that keep ``stream_options`` out of a request, if a client knows it.

    AutoGen's clients send null for None, and a server that does not know the field refuses both.
    """
    if not is_openai(client):
        return {}
    from openai import NOT_GIVEN  # the client has imported it

    return {STREAM_OPTIONS: NOT_GIVEN}


def refuses_usage(client: ChatCompletionClient, failure: Failure | None) -> bool:
    """Whether a server says that it takes no ``stream_options``; it is noted if so."""
    if failure is None or failure.status not in _UNKNOWN_PARAMETER:
        return False
    is_refused = STREAM_OPTIONS in failure.message
    if is_refused:
        if len(_tell_no_usage) >= MOST_NOTED:
            _tell_no_usage.clear()  # each is found out again by one request
        _tell_no_usage.add(_server_of(client))
    return is_refused


def takes_tiers(client: ChatCompletionClient) -> bool:
    """Whether a client takes the argument ``service_tier``, as AutoGen's for OpenAI do."""
    return is_openai(client)


def _server_of(client: ChatCompletionClient) -> tuple[str | None, str]:
    return create_arguments(client).get("model"), str(sdk_of(client).base_url)


def context_tokens(client: ChatCompletionClient) -> int:
    """Return the context window of a client's model, in tokens. Needs no network."""
    model = create_arguments(client).get("model") if is_openai(client) else None
    listed = None if model is None else listed_token_limit(model)
    return DEFAULT_CONTEXT_TOKENS if listed is None else listed
