"""How providers charge and what their answers mean. Law of this folder: pure, one file each."""

from .anthropic import Anthropic
from .azure import Azure
from .base import ErrorClass, Failure, Provider, Verdict
from .bedrock import Bedrock
from .gemini import Gemini
from .local import Local
from .openai import OpenAI

__all__ = ["OTHER", "PROVIDERS", "ErrorClass", "Failure", "Provider", "Verdict"]

OTHER = Provider()
PROVIDERS = {
    each.name: each
    for each in (OpenAI(), Azure(), Anthropic(), Gemini(), Bedrock(), Local(), OTHER)
}
"""Each provider by the name that it has in the configuration."""
