"""Requests, answers and notifications as text and back. Law: no I/O, no decisions.

A field that has its default is not written; it is filled in when the text is read.
"""

import json
from collections.abc import Iterator
from typing import NoReturn, TypeVar

import msgspec

from ..errors import CallerError, HeadwayError, InternalError, ProviderError, StoreError
from ..model.calls import LARGEST_COUNT
from ..model.quotas import (
    LARGEST_LIMIT,
    LONGEST_RESET_SECONDS,
    MOST_ODD_FIELDS,
    SHORTEST_PERIOD_SECONDS,
)
from .envelopes import Answer, MessageBatch, Notification, Refused, Request
from .messages import Observe, Settle

T = TypeVar("T")

_encoder = msgspec.json.Encoder()
# One decoder for both kinds of request: the tag tells them apart.
_requests: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)
_answers: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)
_notifications = msgspec.json.Decoder(Notification)


def dump(said: Request | Answer | Notification) -> str:
    """Write down what is said. Lone surrogates of texts are escaped.

    Raises CallerError for a value that JSON does not have, as in a command's settings.
    """
    try:
        try:
            return _encoder.encode(said).decode()
        except UnicodeEncodeError:
            return json.dumps(msgspec.to_builtins(said), allow_nan=False)
    except (TypeError, ValueError, OverflowError) as error:
        raise CallerError(f"what another process is told must be JSON: {error}") from None


def load_request(text: str) -> Request:
    """Read a request. Raises InternalError for a text that is none, or tells a number out of range.

    Whoever wrote it had ``providers/readings.py`` as its door; a process of another version is not
    believed.
    """
    request = _load(_requests, text)
    if isinstance(request, MessageBatch):
        for message in request.messages:
            if isinstance(message, Observe | Settle) and not _is_in_range(message):
                raise InternalError(f"another version of Headway wrote it: {message.call_id}: odd")
    return request


def _is_in_range(message: Observe | Settle) -> bool:
    """Whether what an attempt told of its quotas and took of them are amounts and times."""
    # An amount and its least and most; written so that NaN is out of range, too.
    amounts: list[tuple[float | None, float, float]] = []
    for signals in message.signals.values():
        if len(signals.odd) > MOST_ODD_FIELDS:
            return False
        amounts.append((signals.pause_until, -LARGEST_LIMIT, LARGEST_LIMIT))
        for told in signals.headers.values():
            amounts.append((told.limit, 1, LARGEST_LIMIT))
            amounts.append((told.remaining, 0, LARGEST_LIMIT))
            amounts.append((told.reset_seconds, 0, LONGEST_RESET_SECONDS))
            amounts.append((told.period_seconds, SHORTEST_PERIOD_SECONDS, LONGEST_RESET_SECONDS))
    if isinstance(message, Settle):
        outcome = message.outcome
        amounts.append((outcome.not_before, -LARGEST_LIMIT, LARGEST_LIMIT))
        amounts.append((outcome.used_tokens, 0, 2 * LARGEST_COUNT))
        given = 0 if outcome.usage is None else outcome.usage.input_tokens
        amounts.append((outcome.free_input_tokens, 0, given))
        amounts.append((outcome.usd, 0, LARGEST_LIMIT))
    for amount, least, most in amounts:
        if amount is not None and not least <= amount <= most:
            return False
    return True


def load_answer(text: str) -> Answer:
    """Read an answer. Raises InternalError for a text that is none."""
    return _load(_answers, text)


def load_notification(text: str) -> Notification:
    """Read a notification. Raises InternalError for a text that is none."""
    return _load(_notifications, text)


def _load(decoder: msgspec.json.Decoder[T], text: str) -> T:
    try:
        try:
            return decoder.decode(text)
        except msgspec.ValidationError:
            raise
        except (msgspec.DecodeError, UnicodeEncodeError):
            # Lone surrogates: msgspec does not take them for JSON.
            data = json.loads(text, parse_constant=_no_number)
            return msgspec.convert(data, decoder.type)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors, too
        raise InternalError(f"another version of Headway wrote it: {error}") from None


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")


def refused(error: Exception) -> Refused:
    """Write an error down."""
    return Refused(type(error).__name__, str(error))


def error_of(written: Refused) -> HeadwayError:
    """The error that was written down."""
    # Looked for now: other packages have errors of their own.
    kinds = (kind for root in _WITH_WORDS for kind in _family(root))
    found = (kind for kind in kinds if kind.__name__ == written.error)
    return next(found, HeadwayError)(written.text)


_WITH_WORDS = (CallerError, StoreError, InternalError, ProviderError)
"""Errors that are made of nothing but their words, and all that are kinds of them."""


def _family(kind: type[HeadwayError]) -> Iterator[type[HeadwayError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _family(child)
