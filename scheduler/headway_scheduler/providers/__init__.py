"""Knows how each provider charges and what its answers mean. Law: pure, one file each."""

from .anthropic import Anthropic
from .azure import Azure
from .base import ErrorClass, Failure, Provider, Verdict
from .bedrock import Bedrock
from .gemini import Gemini
from .local import Local
from .openai import OpenAI

__all__ = ["OTHER", "PROVIDERS", "ErrorClass", "Failure", "Provider", "Verdict"]

OTHER = Provider()
"""The cautious default, for a provider about which nothing is known."""
PROVIDERS = {
    each.name: each
    for each in (OpenAI(), Azure(), Anthropic(), Gemini(), Bedrock(), Local(), OTHER)
}
"""Each provider by the name that it has in the configuration."""
