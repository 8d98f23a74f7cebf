"""Reads every foreign number and text of an answer. Law: pure; a value in range, or None.

Theory of operation. An answer comes from outside, so any text or number in it may be anything. A
function here takes one and returns a value in its documented range, or None for whatever else it
was given: nothing raises, and each is linear in what it reads, because texts above
``LONGEST_TEXT`` are not looked at and no pattern here can backtrack over a longer one.
:func:`read` also notes which field was odd: there, but without a value. So no caller checks twice,
and core and store never see a number out of range.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import chain
from types import MappingProxyType
from typing import Any, TypeVar

from ..model.calls import LARGEST_READ_COUNT, Served, Usage
from ..model.quotas import (
    DAY_SECONDS,
    LARGEST_LIMIT,
    LONGEST_RESET_SECONDS,
    RateLimitHeader,
    Resource,
)

T = TypeVar("T")

LONGEST_TEXT = 64
"""The most characters of a number, a duration, a date or a code; a model's name has 200."""
LONGEST_MODEL_NAME = 200

_SECONDS = {"d": DAY_SECONDS, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}
# At most 9 digits before the point and 9 after it, and a unit after each amount: what may follow
# an amount is known from its next character, so there is nothing to go back to.
_AMOUNT = r"(\d{1,9}(?:\.\d{1,9})?)(ms|us|µs|[dhms])"
_AMOUNTS = re.compile(_AMOUNT, re.ASCII)
_DURATION = re.compile(f"(?:{_AMOUNT})+", re.ASCII)
_PRINTABLE = re.compile(r"[!-~](?:[ -~]*[!-~])?", re.ASCII)
_FIRST_EPOCH_SECONDS = 1e9
"""A number from here on is a date since 1970: as a duration it would be 31 years."""
_FIRST_EPOCH_MILLISECONDS = 1e11
_UNTOLD = ("", "-1")
"""What some servers send where a limit is not counted. It is no odd reading: it tells nothing."""
_NOTHING_TOLD = [None] * 3
NO_DAYS: Mapping[Resource, Resource] = MappingProxyType({})
_LONGER_THAN_A_MINUTE = 2.0
"""How many times longer than a minute's limit could take a reset is that of a day's limit."""


@dataclass(frozen=True, slots=True)
class Odd:
    """A field of an answer that was there, but held nothing in its range."""

    field: str
    """Its name as the provider writes it, as in ``completion_tokens``. Never its value."""


def read(field: str, raw: Any, parse: Callable[[Any], T | None], odd: list[Odd]) -> T | None:
    """Return what ``parse`` makes of ``raw``; if that is None, note that the field was odd.

    None, an empty text and ``-1`` tell nothing, and are not odd.
    """
    if raw is None or raw in _UNTOLD:
        return None
    value = parse(raw)
    if value is None:
        odd.append(Odd(field))
    return value


# Usage


def count(raw: Any) -> int | None:
    """Read a count of tokens: a finite number or the text of one, 0 to 10^9, rounded up."""
    value = _number(raw) if type(raw) in (int, float, str) else None
    return None if value is None or not 0 <= value <= LARGEST_READ_COUNT else math.ceil(value)


def served(bodies: Sequence[Any], odd: list[Odd], *, has_output: bool = True) -> Served:
    """Read what an answer tells of itself: usage, tier and model.

    ``bodies`` is the parsed body; of a stream, the events that tell any of it, the first one first.
    A later event goes before an earlier one, field by field. Providers are told apart by the names
    that they use, because a gateway may pass on any of them.
    """
    counts: dict[str, Any] = {}
    tier = model = None
    for body in bodies:
        for part in _holders(body):
            for name in ("usage", "usageMetadata"):
                if isinstance(told := part.get(name), Mapping):
                    counts |= {key: value for key, value in told.items() if value is not None}
            if "prompt_eval_count" in part or "eval_count" in part:
                counts |= {name: part[name] for name in _OLLAMA if name in part}
            tier = word(part.get("service_tier")) or tier
            model = served_model(part.get("model") or part.get("modelVersion")) or model
    tier = word(counts.get("service_tier")) or tier
    return Served(usage(counts, odd, has_output=has_output), tier, model)


MOST_MODALITIES = 20
"""How many modalities of a count are looked at. Gemini has five."""
_OLLAMA = ("prompt_eval_count", "eval_count")


def _holders(body: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of a body that may tell usage: of an event, what it is about first."""
    if isinstance(body, Mapping):
        inner = (body.get("response"), body.get("message"), body)
        yield from (each for each in inner if isinstance(each, Mapping))


@dataclass(frozen=True, slots=True)
class _Protocol:
    """The names under which a provider tells its counts; a name inside an object has a dot."""

    totals: tuple[str, str]
    """Of input and of output."""
    beside_input: tuple[str, ...] = ()
    """Counts of input that its total does not hold."""
    beside_output: tuple[str, ...] = ()
    """Counts of output that its total does not hold."""
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """By the field of a Usage: the names that it may have."""
    names: tuple[str, ...] = field(init=False)
    """All of these names."""
    holders: frozenset[str] = field(init=False)
    """Names of the objects that counts lie in."""

    def __post_init__(self) -> None:
        parts = chain.from_iterable(self.parts.values())
        names = tuple(
            dict.fromkeys([*self.totals, *self.beside_input, *self.beside_output, *parts])
        )
        holders = frozenset(name.partition(".")[0] for name in names if "." in name)
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "holders", holders)


_ANTHROPIC = _Protocol(
    ("input_tokens", "output_tokens"),
    beside_input=("cache_read_input_tokens", "cache_creation_input_tokens"),
    parts={
        "cache_read_tokens": ("cache_read_input_tokens",),
        "cache_write_tokens": ("cache_creation_input_tokens",),
        "cache_write_1h_tokens": ("cache_creation.ephemeral_1h_input_tokens",),
        "output_reasoning_tokens": ("output_tokens_details.thinking_tokens",),
    },
)
_RESPONSES = _Protocol(
    ("input_tokens", "output_tokens"),
    parts={
        "cache_read_tokens": ("input_tokens_details.cached_tokens",),
        "cache_write_tokens": ("input_tokens_details.cache_write_tokens",),
        "output_reasoning_tokens": ("output_tokens_details.reasoning_tokens",),
        "input_audio_tokens": ("input_tokens_details.audio_tokens",),
        "output_audio_tokens": ("output_tokens_details.audio_tokens",),
        "input_image_tokens": ("input_tokens_details.image_tokens",),
        "output_image_tokens": ("output_tokens_details.image_tokens",),
    },
)
_CHAT = _Protocol(
    ("prompt_tokens", "completion_tokens"),
    parts={
        # DeepSeek's own name, and those that gateways pass on from Anthropic.
        "cache_read_tokens": (
            *("prompt_tokens_details.cached_tokens", "prompt_cache_hit_tokens"),
            *("cached_tokens", "cache_read_input_tokens"),
        ),
        "cache_write_tokens": (
            *("prompt_tokens_details.cache_write_tokens", "cache_creation_input_tokens"),
        ),
        "output_reasoning_tokens": ("completion_tokens_details.reasoning_tokens",),
        "input_audio_tokens": ("prompt_tokens_details.audio_tokens",),
        "output_audio_tokens": ("completion_tokens_details.audio_tokens",),
        "input_image_tokens": ("prompt_tokens_details.image_tokens",),
        "output_image_tokens": ("completion_tokens_details.image_tokens",),
    },
)
_GEMINI = _Protocol(
    ("promptTokenCount", "candidatesTokenCount"),
    beside_input=("toolUsePromptTokenCount",),
    beside_output=("thoughtsTokenCount",),
    parts={
        "cache_read_tokens": ("cachedContentTokenCount",),
        "output_reasoning_tokens": ("thoughtsTokenCount",),
        "input_audio_tokens": ("promptTokensDetails.AUDIO",),
        "output_audio_tokens": ("candidatesTokensDetails.AUDIO",),
        "input_image_tokens": ("promptTokensDetails.IMAGE",),
        "output_image_tokens": ("candidatesTokensDetails.IMAGE",),
    },
)
_BEDROCK = _Protocol(
    ("inputTokens", "outputTokens"),
    beside_input=("cacheReadInputTokens", "cacheWriteInputTokens"),
    parts={
        "cache_read_tokens": ("cacheReadInputTokens",),
        "cache_write_tokens": ("cacheWriteInputTokens",),
    },
)
_OLLAMA_OWN = _Protocol(_OLLAMA)


def _protocol_of(counts: Mapping[str, Any]) -> _Protocol:
    for protocol in (_CHAT, _GEMINI, _BEDROCK, _OLLAMA_OWN):
        if not counts.keys().isdisjoint(protocol.totals):
            return protocol
    # Both have the same totals. Only Anthropic's leave cached input out.
    return _RESPONSES if counts.keys().isdisjoint(_ANTHROPIC.beside_input) else _ANTHROPIC


def usage(counts: Mapping[str, Any], odd: list[Odd], *, has_output: bool = True) -> Usage | None:
    """Read the counts of an answer, whichever provider wrote them: totals, and what lies in them.

    None if a total is unknown, or if both are 0: clients report that where they do not know. Parts
    that cannot be are left out, and the totals kept. Without output (``has_output`` False:
    embeddings, moderations) a missing output is 0.
    """
    protocol, noted = _protocol_of(counts), len(odd)
    known = _known(counts, protocol, odd)
    given, made = (known.get(name) for name in protocol.totals)
    if made is None and not has_output and counts.get(protocol.totals[1]) is None:
        made = 0
    if given is None or made is None:
        return None
    for name in protocol.beside_input:
        given += known.get(name, 0)
    for name in protocol.beside_output:
        made += known.get(name, 0)
    if not 0 < max(given, made) <= LARGEST_READ_COUNT:
        return None
    parts = _parts(known, protocol)
    # xAI alone leaves reasoning out of its output; the sum of all tells.
    reasoning = parts.get("output_reasoning_tokens", 0)
    if reasoning and counts.get("total_tokens") == given + made + reasoning:
        made += reasoning
    if len(odd) == noted:
        try:
            return Usage(given, made, **parts)
        except ValueError:
            odd.append(Odd("usage"))
    return Usage(given, made, has_odd_parts=True)


def _known(counts: Mapping[str, Any], protocol: _Protocol, odd: list[Odd]) -> dict[str, int]:
    """Return every count that is told, by its name."""
    told = dict(counts)
    for name in protocol.holders:
        holder = counts.get(name)
        if isinstance(holder, Mapping):
            told |= {f"{name}.{inner}": value for inner, value in holder.items()}
        elif isinstance(holder, list):  # Gemini's: one object for each modality
            for each in holder[:MOST_MODALITIES]:
                if isinstance(each, Mapping):
                    told[f"{name}.{each.get('modality')}"] = each.get("tokenCount")
    known: dict[str, int] = {}
    for name in protocol.names:
        raw = told.get(name)
        if type(raw) is int and 0 <= raw <= LARGEST_READ_COUNT:
            known[name] = raw
        elif raw is not None and (value := read(name, raw, count, odd)) is not None:
            known[name] = value
    return known


def _parts(known: Mapping[str, int], protocol: _Protocol) -> dict[str, Any]:
    """Return the parts that are not 0; of several names the first one counts."""
    parts: dict[str, Any] = {}
    for part, names in protocol.parts.items():
        for name in names:
            if known.get(name):
                parts.setdefault(part, known[name])
    return parts


# Headers


def rate_limits(
    headers: Mapping[str, str],
    names: Mapping[Resource, tuple[str, str, str]],
    reset: Callable[[str], float | None],
    odd: list[Odd] | None = None,
    of_a_day: Mapping[Resource, Resource] = NO_DAYS,
) -> dict[Resource, RateLimitHeader]:
    """Read the headers of limits: each limit (1 to 10^12), what remains of it, when it is full.

    ``names`` are those of the three headers of each resource, ``reset`` reads the third. A resource
    of which they tell nothing is left out. Fields out of range are added to ``odd``. ``of_a_day``:
    resources whose limit of a day has the same names; its reset is longer than a minute's may be.
    """
    found = {}
    for resource, (limit, remaining, full) in names.items():
        told: list[float | None] = []
        for name, least in ((limit, 1), (remaining, 0), (full, None)):
            raw, value = headers.get(name), None
            if raw is not None and raw not in _UNTOLD:
                value = _number(raw) if least is not None else reset(raw)
                if value is None or (least is not None and not least <= value <= LARGEST_LIMIT):
                    value = None
                    if odd is not None:
                        odd.append(Odd(name))
            told.append(value)
        if told == _NOTHING_TOLD:
            continue
        if of_a_day and None not in told and _is_of_a_day(*told):  # type: ignore[arg-type]
            resource = of_a_day[resource]
        found[resource] = RateLimitHeader(*told)
    return found


def _is_of_a_day(limit: float, remaining: float, reset_seconds: float) -> bool:
    missing_share = max(0.0, 1 - remaining / limit)
    return reset_seconds > _LONGER_THAN_A_MINUTE * (1 + 60 * missing_share)


def duration_seconds(raw: str | None) -> float | None:
    """Read ``6m0s``, ``120ms``, ``1d2h``, or a number of seconds: 0 to 31 days."""
    text = raw.strip() if raw and len(raw) <= LONGEST_TEXT else ""
    seconds = _number(text) if text[-1:].isdigit() else None
    if seconds is None and _DURATION.fullmatch(text):
        seconds = 0.0
        for amount, unit in _AMOUNTS.findall(text):
            seconds += float(amount) * _SECONDS[unit]
    return seconds if seconds is not None and 0 <= seconds <= LONGEST_RESET_SECONDS else None


def seconds_until(raw: str | None, now: float) -> float | None:
    """Read seconds until a date: 0 if it has passed, at most 31 days.

    The date is RFC 3339, HTTP's, or a number of seconds or milliseconds since 1970. ``now`` is the
    answer's own time (:func:`answered_at`), so a clock that is wrong on one side does no harm.
    """
    at = _date(_short(raw))
    seconds = None if at is None else max(0.0, at - now)
    return seconds if seconds is not None and seconds <= LONGEST_RESET_SECONDS else None


def answered_at(headers: Mapping[str, str], now: float) -> float:
    """Return when an answer was given by the clock of its server; without ``Date``, by ours."""
    at = _date(_short(headers.get("date")))
    return now if at is None else at


def retry_after_seconds(
    headers: Mapping[str, str], now: float, odd: list[Odd] | None = None
) -> float | None:
    """Read ``retry-after-ms``, then ``retry-after`` as seconds or as a date; None without any.

    Never negative; 0 for a time that has gone by. The longest pause is for the caller to cut.
    """
    noted: list[Odd] = [] if odd is None else odd
    milliseconds = read("retry-after-ms", headers.get("retry-after-ms"), _pause_number, noted)
    if milliseconds is not None:
        return milliseconds / 1000
    at = answered_at(headers, now)
    return read("retry-after", headers.get("retry-after"), lambda raw: _pause(raw, at), noted)


def _pause_number(raw: str) -> float | None:
    value = _number(raw)
    return value if value is not None and value >= 0 else None


def _pause(raw: str, now: float) -> float | None:
    value = _pause_number(raw)
    if value is not None and value < _FIRST_EPOCH_SECONDS:
        return value
    at = _date(_short(raw))
    return None if at is None else max(0.0, at - now)


# Words


def word(raw: Any, longest: int = LONGEST_TEXT) -> str | None:
    """Read a code, a tier or a name: printable ASCII, at most ``longest`` characters."""
    is_word = isinstance(raw, str) and len(raw) <= longest and _PRINTABLE.fullmatch(raw)
    return raw if is_word else None


def served_model(raw: Any) -> str | None:
    """Read the name of the model that answered: at most 200 characters."""
    return word(raw, LONGEST_MODEL_NAME)


def _short(raw: object) -> str:
    """Return a text that is worth a look, else an empty one."""
    return raw.strip() if isinstance(raw, str) and len(raw) <= LONGEST_TEXT else ""


def _number(raw: object) -> float | None:
    """Read a finite number. A text of one is ASCII: other scripts have digits, too."""
    if isinstance(raw, str) and (len(raw) > LONGEST_TEXT or not raw.isascii() or "_" in raw):
        return None
    try:
        value = float(raw)  # type: ignore[arg-type]
    except (ValueError, TypeError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def _date(text: str) -> float | None:
    """Return the seconds since 1970 of a date in any of its forms; of no zone, in UTC."""
    if (value := _number(text)) is not None:
        if value >= _FIRST_EPOCH_MILLISECONDS:
            return value / 1000
        return value if value >= _FIRST_EPOCH_SECONDS else None
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            date = parse(text)
            return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
        except (ValueError, TypeError, IndexError, AttributeError, ArithmeticError):
            continue  # whatever the parser stumbles over, it is no date
    return None
