"""Servers of one's own: vLLM, Ollama, llama.cpp.

Sources: their pages on parallel requests. What is limited is how many requests run at once; a
server that is too full answers 503, or 429, or slowly. There is no account.
"""

from .base import ErrorClass, Failure, Provider, Verdict


class Local(Provider):
    """Slots are all that counts: a refusal says that there are fewer than was thought."""

    name = "local"
    account_codes = frozenset()

    def judge(self, failure: Failure, attempt: int, now: float) -> Verdict:
        """A 429 means what a 503 does."""
        verdict = super().judge(failure, attempt, now)
        if verdict.error_class is ErrorClass.RATE_LIMITED:
            return Verdict(ErrorClass.OVERLOADED, verdict.pause_seconds)
        return verdict
