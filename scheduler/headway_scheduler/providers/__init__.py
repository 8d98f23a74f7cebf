"""Knows how each provider charges and what its answers mean. Law: pure, one file each."""

from .anthropic import Anthropic
from .azure import Azure
from .base import ErrorClass, Failure, Provider, Verdict
from .bedrock import Bedrock
from .gemini import Gemini
from .groq import Groq
from .local import Local
from .openai import OpenAI

__all__ = ["OTHER", "PROVIDERS", "ErrorClass", "Failure", "Provider", "Verdict", "of_host"]

OTHER = Provider()
"""The cautious default, for a provider about which nothing is known."""
PROVIDERS = {
    each.name: each
    for each in (OpenAI(), Azure(), Anthropic(), Gemini(), Bedrock(), Groq(), Local(), OTHER)
}
"""Each provider by the name that it has in the configuration."""

_HOSTS = {
    "api.openai.com": "openai",
    "api.anthropic.com": "anthropic",
    "api.groq.com": "groq",
    "generativelanguage.googleapis.com": "gemini",
    "aiplatform.googleapis.com": "gemini",
}
_SUFFIXES = {
    ".openai.azure.com": "azure",
    ".cognitiveservices.azure.com": "azure",
    ".services.ai.azure.com": "azure",
    "-aiplatform.googleapis.com": "gemini",
}


def of_host(host: str) -> Provider | None:
    """Return the provider whose own servers have this host name; None if it is nobody's."""
    name = host.lower().rstrip(".")
    found = _HOSTS.get(name)
    if found is None:
        found = next((each for suffix, each in _SUFFIXES.items() if name.endswith(suffix)), None)
    if found is None and name.startswith("bedrock") and name.endswith(".amazonaws.com"):
        found = "bedrock"
    return None if found is None else PROVIDERS[found]
