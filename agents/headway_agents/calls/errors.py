"""What an exception of a model client means. Law of this file: read, never import, the SDKs.

Every SDK has its own classes, but their HTTP errors look alike: ``status_code``, a ``response``
with ``headers``, a ``code`` or a ``body``; Amazon's has a dict. An adapter that raises its own
error ``from`` the SDK's is looked through. An error that is neither an answer of the provider nor
a broken connection, nor about JSON that is none, is a mistake of the request or the client, and
asking again would not mend it.
"""

from collections.abc import Iterable, Iterator, Mapping
from json import JSONDecodeError
from typing import Any

from headway_scheduler.model.calls import Usage
from headway_scheduler.providers import ErrorClass, Failure, Provider, Verdict

from ..secrets import scrubbed

LONGEST_ERROR_CHARACTERS = 2000

_BROKEN_CONNECTION = frozenset({"APIConnectionError", "TransportError", "ClientConnectionError"})
"""Of openai and anthropic; httpx and httpx2; aiohttp. Timeouts are among their subclasses."""


def judged(error: Exception, provider: Provider, attempt: int, now: float) -> Verdict:
    """Judge a failed attempt, the ``attempt``-th of its call from 1."""
    for cause in _causes(error):
        failure = _failure(cause)
        if failure.status is not None or failure.body is not None or _is_broken(cause):
            return provider.judge(failure, attempt, now)
    return Verdict(ErrorClass.FINAL)


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


def _is_broken(error: BaseException) -> bool:
    """Whether the answer did not come, or not whole."""
    names = {kind.__name__ for kind in type(error).__mro__}
    # openai raises its bare APIError for an error event inside a stream that had begun.
    is_stream_error = type(error).__name__ == "APIError"
    is_built_in = isinstance(error, ConnectionError | TimeoutError | JSONDecodeError)
    return is_built_in or is_stream_error or not names.isdisjoint(_BROKEN_CONNECTION)


def _failure(error: BaseException) -> Failure:
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):  # botocore
        metadata, body = response.get("ResponseMetadata", {}), response.get("Error")
        body = {str(name).lower(): value for name, value in (body or {}).items()}
        return Failure(metadata.get("HTTPStatusCode"), {}, body, str(error))
    status = getattr(error, "status_code", None)
    body = getattr(error, "body", None)
    if not isinstance(body, Mapping | list) and isinstance(getattr(error, "code", None), str):
        body = {"code": vars(error)["code"]}
    headers = {str(name).lower(): str(value) for name, value in _items(response)}
    is_json = isinstance(body, Mapping | list)
    return Failure(
        # Anthropic's SDK gives an error inside a stream the status of the stream, 200.
        status if isinstance(status, int) and status >= 400 else None,
        headers,
        body if is_json else None,
        str(error),
    )


def _items(response: Any) -> Iterable[tuple[Any, Any]]:
    return dict(getattr(response, "headers", None) or {}).items()
