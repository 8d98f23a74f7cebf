"""Reads Amazon Bedrock's charges and errors.

Sources: Amazon's page on how tokens are counted against a quota. Input, tokens
written to the cache and the output cap are charged when a request arrives; the unused part comes
back at its end. Errors do not say which quota they are about, and no header tells a limit.
"""

from dataclasses import replace

from ..model.calls import Usage
from .base import Failure, Provider, Verdict
from .openai import characters_in_tokens

_STATUS = {
    "throttlingexception": 429,
    "servicequotaexceededexception": 429,
    "modelnotreadyexception": 429,
    "serviceunavailableexception": 503,
    "modelstreamerrorexception": 500,
    "internalserverexception": 500,
    "modeltimeoutexception": 504,
    "validationexception": 400,
}
_DEFAULT_CAP_TOKENS = 4096


class Bedrock(Provider):
    """Bedrock: input and cap charged, settled on usage; errors are known by their names."""

    name = "bedrock"
    caches_are_free = True
    account_codes = frozenset({"unrecognizedclientexception", "expiredtokenexception"})

    def reserved_tokens(self, characters: int, cap: int | None, expected: Usage) -> int:
        """Return input and output cap; without a cap, the largest default of models there."""
        return max(1, characters_in_tokens(characters) + (cap or _DEFAULT_CAP_TOKENS))

    def judge(self, failure: Failure, attempt: int, now: float) -> Verdict:
        """Judge by the exception's name before the status, which may be any 4xx."""
        status = next(map(_STATUS.get, failure.codes & _STATUS.keys()), failure.status)
        return super().judge(replace(failure, status=status), attempt, now)
