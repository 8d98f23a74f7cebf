"""Reads errors of local servers: vLLM, Ollama, llama.cpp.

Sources: their pages on parallel requests. Only the number of requests at once is limited; a full
server answers 503, or 429, or slowly. There is no account.
"""

from .base import ErrorClass, Failure, Provider, Verdict


class Local(Provider):
    """A local server: a refusal means that it has fewer slots than was thought."""

    name = "local"
    account_codes = frozenset()

    def judge(self, failure: Failure, attempt: int, now: float) -> Verdict:
        """Judge a 429 as a 503: overloaded."""
        verdict = super().judge(failure, attempt, now)
        if verdict.error_class is ErrorClass.RATE_LIMITED:
            return Verdict(ErrorClass.OVERLOADED, verdict.pause_seconds)
        return verdict
