"""What processes on one database write to each other, as text and back. Law: no I/O, no decisions.

A worker writes *parcels* of messages to the one that leads; it gets *notices*. Errors travel as the
name of their class and their words, and are raised as if they had happened where they arrive.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from ..errors import CallerError, HeadwayError, InternalError, ProviderError, StoreError
from ..model.calls import Route
from ..model.runs import Order, Worker
from .messages import Message

WireError = tuple[str, str]
"""The name of an error's class, and its words."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """What a worker tells at once, in order. The first one of a worker says who it is (``joins``).

    ``seen``: the last notice that it has read.
    """

    worker: str
    messages: tuple[Message, ...] = ()
    seen: int = 0
    joins: Worker | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """A call that may be sent now, and the way that it goes."""

    call_id: str
    admitted_at: float
    attempts: int
    route: Route


@dataclass(frozen=True, slots=True)
class Refusal:
    """What became of a message that nobody took: its place in the parcel, and why."""

    number: int
    error: WireError


@dataclass(frozen=True, slots=True)
class Notice:
    """What a worker is told at once.

    ``told``: letters that are carried out, with what of each was refused. ``alone`` and
    ``stopped`` are all the quotas whose providers answer nobody, or nobody of this account.
    ``is_lost``: others took its runs, because it showed no life.
    """

    grants: tuple[Grant, ...] = ()
    told: tuple[tuple[int, tuple[Refusal, ...]], ...] = ()
    preempt: tuple[str, ...] = ()
    orders: tuple[Order, ...] = ()
    alone: tuple[str, ...] = ()
    stopped: tuple[str, ...] = ()
    is_lost: bool = False


T = TypeVar("T")

_encoder = msgspec.json.Encoder()
_parcels = msgspec.json.Decoder(Parcel)
_notices = msgspec.json.Decoder(Notice)


def dump(what: Parcel | Notice) -> str:
    """Write down a parcel or a notice. Lone surrogates of texts are escaped."""
    try:
        return _encoder.encode(what).decode()
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(what))


def is_parcel(text: str) -> bool:
    """Whether a letter is a parcel, and not another thing."""
    return text.startswith('{"worker"')


def load_parcel(text: str) -> Parcel:
    """Read a parcel. Raises InternalError for a text that is none."""
    return _load(_parcels, text)


def load_notice(text: str) -> Notice:
    """Read a notice. Raises InternalError for a text that is none."""
    return _load(_notices, text)


def _load(decoder: msgspec.json.Decoder[T], text: str) -> T:
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        raise InternalError(f"another version of Headway wrote it: {error}") from None
    except msgspec.DecodeError:
        # Lone surrogates, which are no JSON to everyone.
        return msgspec.convert(json.loads(text), decoder.type)


def error_text(error: Exception) -> WireError:
    """Write an error down."""
    return type(error).__name__, str(error)


def error_of(written: WireError) -> HeadwayError:
    """The error that was written down."""
    name, text = written
    # Looked for now: other packages have errors of their own.
    found = (kind for root in _WITH_WORDS for kind in _family(root) if kind.__name__ == name)
    return next(found, HeadwayError)(text)


_WITH_WORDS = (CallerError, StoreError, InternalError, ProviderError)
"""Errors that are made of nothing but their words, and all that are kinds of them."""


def _family(kind: type[HeadwayError]) -> Iterator[type[HeadwayError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _family(child)
