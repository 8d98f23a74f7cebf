"""What must be known of the wrapped client. Law of this file: only the HTTP of two SDKs is touched.

OpenAI's and Anthropic's are made alike, on httpx.
Everything else is used through AutoGen's contract alone.
"""

from typing import Any

from autogen_core.models import ChatCompletionClient, ModelFamily, ModelInfo

from ..autogen_private import (
    create_arguments,
    is_openai,
    listed_model_info,
    listed_token_limit,
    sdk_of,
)
from ..requests.codec import Request

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


def provider_name(wrapped: ChatCompletionClient) -> str:
    """Return whose answers a client brings, by its class; "other" if that does not tell."""
    effects = {kind.__name__ for kind in type(wrapped).__mro__}
    return next((name for kind, name in _PROVIDERS.items() if kind in effects), "other")


def model_name(wrapped: ChatCompletionClient) -> str | None:
    """Return the provider's name of the model that a client asks for, if it shows one."""
    name = create_arguments(wrapped).get("model")
    return name if isinstance(name, str) else None


def disable_sdk_retries(client: ChatCompletionClient) -> Any:
    """Have a client of OpenAI or Anthropic not retry by itself, and return its SDK's client.

    The SDK's retries would spend budget that nobody admitted. Other clients are left as they are:
    None.
    """
    if not is_openai(client) and provider_name(client) != "anthropic":
        return None
    sdk = sdk_of(client)
    sdk.max_retries = 0
    return sdk


def stream_arguments(wrapped: ChatCompletionClient, request: Request) -> dict[str, Any]:
    """Return what makes a stream report its usage. A choice that the user made stands."""
    chosen = "stream_options" in create_arguments(wrapped) or "stream_options" in (
        request.extra or {}
    )
    return {"include_usage": True} if is_openai(wrapped) and not chosen else {}


def context_tokens(wrapped: ChatCompletionClient) -> int:
    """Return the context window of the wrapped client's model, without asking anybody."""
    model = model_name(wrapped) if is_openai(wrapped) else None
    listed = None if model is None else listed_token_limit(model)
    return DEFAULT_CONTEXT_TOKENS if listed is None else listed
