"""What an exception of a model client means. Law of this file: read, never import, the SDKs.

Every SDK has its own classes, but their HTTP errors look alike: ``status_code``, a ``response``
with ``headers``, a ``code`` or a ``body``. An adapter that raises its own error ``from`` the SDK's
is looked through. An error that is neither an answer of the provider nor a broken connection is a
mistake of the request or the client, and asking again would not mend it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from headway_scheduler.model import Usage
from headway_scheduler.providers.openai import Kind, Verdict, judge

from .keys import scrubbed

LONGEST_ERROR_CHARACTERS = 2000

_BROKEN_CONNECTION = frozenset({"APIConnectionError", "TransportError", "ClientConnectionError"})
"""Of openai and anthropic; httpx and httpx2; aiohttp. Timeouts are among their subclasses."""
_REFUSED_MID_STREAM = frozenset({"rate_limit_exceeded", "rate_limit_error"})


def judged(error: Exception, attempt: int, now: float) -> Verdict:
    """Judge a failed attempt, the ``attempt``-th of its call from 1."""
    for cause in _causes(error):
        code = _code(cause)
        status = 429 if code in _REFUSED_MID_STREAM else getattr(cause, "status_code", None)
        if isinstance(status, int) or _is_broken_connection(cause):
            return judge(status, _headers(cause), code, attempt, now, str(cause))
    return Verdict(Kind.FINAL)


def told(error: Exception) -> str:
    """Return ``Type: message`` for the journal, without keys and not endless."""
    return scrubbed(f"{type(error).__name__}: {error}")[:LONGEST_ERROR_CHARACTERS]


def paid_usage(error: Exception) -> Usage | None:
    """Return what an answer cost that the client refused, such as one cut off at its length."""
    usage = getattr(getattr(error, "completion", None), "usage", None)
    if usage is None:
        return None
    return Usage(usage.prompt_tokens, usage.completion_tokens)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _is_broken_connection(error: BaseException) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    # openai raises its bare APIError for an error event inside a stream that had begun.
    is_stream_error = type(error).__name__ == "APIError"
    is_connection = isinstance(error, ConnectionError | TimeoutError)
    return is_connection or is_stream_error or not names.isdisjoint(_BROKEN_CONNECTION)


def _headers(error: BaseException) -> Mapping[str, str]:
    headers = getattr(getattr(error, "response", None), "headers", None)
    return {str(name).lower(): str(value) for name, value in dict(headers or {}).items()}


def _code(error: BaseException) -> str | None:
    body: Any = getattr(error, "body", None)
    fields = body if isinstance(body, dict) else {}
    inner = fields.get("error")
    inner = inner if isinstance(inner, dict) else {}
    codes = (getattr(error, "code", None), fields.get("code"), inner.get("code"))
    kinds = (fields.get("type"), inner.get("type"))
    return next((code for code in (*codes, *kinds) if isinstance(code, str)), None)
