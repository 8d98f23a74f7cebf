"""Requests, answers and notifications as text and back. Law: no I/O, no decisions."""

import json
from collections.abc import Iterator
from typing import NoReturn, TypeVar

import msgspec

from ..errors import CallerError, HeadwayError, InternalError, ProviderError, StoreError
from .envelopes import Answer, Notification, Refused, Request

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
            return json.dumps(msgspec.to_builtins(said))
    except (TypeError, ValueError, OverflowError) as error:
        raise CallerError(f"what another process is told must be JSON: {error}") from None


def load_request(text: str) -> Request:
    """Read a request. Raises InternalError for a text that is none."""
    return _load(_requests, text)


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
    except ValueError as error:  # msgspec's errors are of this kind, too
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
