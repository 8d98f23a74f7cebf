"""The clients of AutoGen's that a model may be asked through, and the arguments that each takes.

Law of this file: nothing is imported to check a configuration. A test compares the tables with
AutoGen's own.
"""

from typing import NamedTuple

_SHARED = frozenset({"model_info", "temperature", "top_p", "default_headers", "timeout"})
_OF_OPENAI = _SHARED | {
    *("add_name_prefixes", "default_query", "extra_body", "frequency_penalty"),
    *("include_name_in_message", "logit_bias", "logprobs", "max_completion_tokens", "max_tokens"),
    *("metadata", "modalities", "n", "organization", "parallel_tool_calls", "prediction"),
    *("presence_penalty", "project", "prompt_cache_key", "reasoning_effort", "response_format"),
    *("safety_identifier", "seed", "service_tier", "stop", "store", "stream_options"),
    *("top_logprobs", "user", "verbosity", "web_search_options"),
}


class ClientKind(NamedTuple):
    """A client that has a short name: its class, its package, and how it is built."""

    path: str
    """The class, by its dotted name."""
    provider: str
    """Whose charges and errors hold, unless the address or the table tells otherwise."""
    package: str
    """What pip installs for it."""
    address: str
    """The argument that takes the address."""
    arguments: frozenset[str]
    """The arguments that ``[models.NAME.arguments]`` may set."""
    needs: tuple[str, ...] = ()
    """Those that it must set."""


OPENAI = "openai"
CLIENTS = {
    OPENAI: ClientKind(
        "autogen_ext.models.openai.OpenAIChatCompletionClient",
        *("openai", "headway-agents", "base_url", _OF_OPENAI),
    ),
    "azure": ClientKind(
        "autogen_ext.models.openai.AzureOpenAIChatCompletionClient",
        *("azure", "headway-agents", "azure_endpoint"),
        _OF_OPENAI | {"api_version", "azure_deployment"},
        ("api_version",),
    ),
    "anthropic": ClientKind(
        "autogen_ext.models.anthropic.AnthropicChatCompletionClient",
        *("anthropic", "headway-agents[anthropic]", "base_url"),
        _SHARED | {"max_tokens", "metadata", "stop_sequences", "thinking", "tool_choice", "top_k"},
    ),
    "ollama": ClientKind(
        "autogen_ext.models.ollama.OllamaChatCompletionClient",
        *("local", "headway-agents[ollama]", "host"),
        frozenset(
            {"model_info", "temperature", "top_p", "options", "keep_alive", "num_ctx", "think"}
            | {"num_predict", "repeat_penalty", "seed", "stop", "top_k", "frequency_penalty"}
            | {"presence_penalty"}
        ),
    ),
}
"""By the word for it in ``models.NAME.client``."""
_BY_PATH = {kind.path: word for word, kind in CLIENTS.items()}

OURS = frozenset(
    {"api_key", "azure_ad_token", "azure_endpoint", "base_url", "endpoint", "host", "http_client"}
    | {"max_retries", "messages", "model", "stream", "tools"}
)
"""Arguments that other settings, or Headway itself, give to every client."""


def kind_of(client: str) -> ClientKind | None:
    """Return the kind of a client by its word or its class; None for any other class."""
    return CLIENTS.get(_BY_PATH.get(client, client))
