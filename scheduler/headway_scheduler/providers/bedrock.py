"""Amazon Bedrock, and others that tell nothing.

Sources: Amazon's page on how tokens are counted against a quota. Input, what is written to the
cache and the output cap are taken when a request arrives; what was not used comes back at its end.
An error does not say which quota it is about, and no header tells anything.
"""

from dataclasses import replace

from ..model.calls import Usage
from .base import Failure, Provider, Verdict, characters_in_tokens

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
    """Input and cap taken, usage settled; errors are told by their names."""

    name = "bedrock"
    account_codes = frozenset({"unrecognizedclientexception", "expiredtokenexception"})

    def reserved_tokens(self, characters: int, cap: int | None, expected: Usage) -> int:
        """Input and output cap; without one, the most that models there give by default."""
        return max(1, characters_in_tokens(characters) + (cap or _DEFAULT_CAP_TOKENS))

    def judge(self, failure: Failure, attempt: int, now: float) -> Verdict:
        """Read the name of the exception; it goes before the status, which may be any 4xx."""
        status = next(map(_STATUS.get, failure.codes & _STATUS.keys()), failure.status)
        return super().judge(replace(failure, status=status), attempt, now)
