"""Reads every number and text of a provider's answer. Law: pure; a value in range, or None.

Theory of operation. An answer comes from outside, so its fields may hold anything. Each function
here takes a field and returns a value in its documented range, or None. None of them raises. Each
takes time in proportion to its input: texts longer than ``LONGEST_TEXT`` are not read, and no
pattern backtracks. :func:`read` also notes an *odd* field, which is there and has no value in its
range. So no caller checks again, and core and store never see a number out of range.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
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
# At most 9 digits before the point and 9 after it, then a unit: the next character always decides
# how the pattern goes on, so it never backtracks.
_AMOUNT = r"(\d{1,9}(?:\.\d{1,9})?)(ms|us|µs|[dhms])"
_AMOUNTS = re.compile(_AMOUNT, re.ASCII)
_DURATION = re.compile(f"(?:{_AMOUNT})+", re.ASCII)
_PRINTABLE = re.compile(r"[!-~](?:[ -~]*[!-~])?", re.ASCII)
_FIRST_EPOCH_SECONDS = 1e9
"""A number from here on is a date, in seconds since 1970: as a duration it would be 31 years."""
_FIRST_EPOCH_MILLISECONDS = 1e11
_UNTOLD = ("", "-1")
"""Texts that some servers send for a limit that they do not count. Such a field is not odd."""
LITELLM_SLOTS = "max_parallel_requests"
"""LiteLLM's word for calls in flight."""
LITELLM = re.compile(
    rf"x-ratelimit-([a-z0-9_]{{1,40}})-(limit|remaining)-(requests|tokens|{LITELLM_SLOTS})"
)
"""The names of its headers: the scope, and what they tell of what."""
NO_DAYS: Mapping[Resource, Resource] = MappingProxyType({})
_LONGER_THAN_A_MINUTE = 2.0
"""A reset so many times longer than a limit of a minute could need is of a limit of a day."""


@dataclass(frozen=True, slots=True)
class Odd:
    """A field of an answer that was there, with no value in its range."""

    field: str
    """Its name as the provider writes it, as in ``completion_tokens``. Never its value."""


def read(field: str, raw: Any, parse: Callable[[Any], T | None], odd: list[Odd]) -> T | None:
    """Return ``parse(raw)``; if that is None, add the field to ``odd``.

    None, an empty text and ``-1`` tell nothing: they are None, and not odd.
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
    value = number(raw) if type(raw) in (int, float, str) else None
    return None if value is None or not 0 <= value <= LARGEST_READ_COUNT else math.ceil(value)


def served(bodies: Sequence[Any], odd: list[Odd], *, has_output: bool = True) -> Served:
    """Read usage, tier and model from an answer.

    ``bodies``: the parsed body; of a stream, the events that tell any of these, in their order. A
    field of a later event replaces the same field of an earlier one. The names of the fields tell
    the provider, because a gateway may pass on the answers of any.
    """
    counts: dict[str, Any] = {}
    tier = model = None
    for body in bodies:
        for part in _holders(body):
            for name in ("usage", "usageMetadata"):
                if isinstance(stated := part.get(name), Mapping):
                    counts |= {key: value for key, value in stated.items() if value is not None}
            if "prompt_eval_count" in part or "eval_count" in part:
                counts |= {name: part[name] for name in _OLLAMA if name in part}
            tier = word(part.get("service_tier")) or tier
            model = served_model(part.get("model") or part.get("modelVersion")) or model
    tier = word(counts.get("service_tier")) or tier
    return Served(usage(counts, odd, has_output=has_output), tier, model)


MOST_MODALITIES = 20
"""How many modalities of a count are read at most. Gemini has five."""
_OLLAMA = ("prompt_eval_count", "eval_count")


def _holders(body: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of a body that may have usage, the one inside of an event first."""
    if isinstance(body, Mapping):
        inner = (body.get("response"), body.get("message"), body)
        yield from (each for each in inner if isinstance(each, Mapping))


@dataclass(frozen=True, slots=True)
class _Protocol:
    """The names of a provider's counts. A name inside of an object is written ``object.name``."""

    totals: tuple[str, str]
    """The names of the totals of input and of output."""
    beside_input: tuple[str, ...] = ()
    """Counts of input that the total of input leaves out."""
    beside_output: tuple[str, ...] = ()
    """Counts of output that the total of output leaves out."""
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """By the field of a Usage: the names that this part may have. The first one found counts."""
    names: tuple[str, ...] = field(init=False)
    """All of the names above, each once."""
    holders: frozenset[str] = field(init=False)
    """The names of objects that have counts inside."""

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
    # Both name their totals alike, but only Anthropic counts cached input beside them.
    return _RESPONSES if counts.keys().isdisjoint(_ANTHROPIC.beside_input) else _ANTHROPIC


def usage(counts: Mapping[str, Any], odd: list[Odd], *, has_output: bool = True) -> Usage | None:
    """Read the counts of an answer, whichever provider wrote them: two totals and their parts.

    Returns None if a total is unknown, or if both are 0, which clients report for unknown counts.
    If a part is odd, or the parts contradict the totals, the totals alone are returned. Without
    output (``has_output`` False: embeddings, moderations) a missing output is 0.
    """
    protocol, noted = _protocol_of(counts), len(odd)
    known = _known(counts, protocol, odd)
    input_tokens, output_tokens = (known.get(name) for name in protocol.totals)
    if output_tokens is None and not has_output and counts.get(protocol.totals[1]) is None:
        output_tokens = 0
    if input_tokens is None or output_tokens is None:
        return None
    for name in protocol.beside_input:
        input_tokens += known.get(name, 0)
    for name in protocol.beside_output:
        output_tokens += known.get(name, 0)
    if not 0 < max(input_tokens, output_tokens) <= LARGEST_READ_COUNT:
        return None
    parts = _parts(known, protocol)
    # xAI alone leaves reasoning out of its output. Its total of all tokens shows that.
    reasoning = parts.get("output_reasoning_tokens", 0)
    if reasoning and counts.get("total_tokens") == input_tokens + output_tokens + reasoning:
        output_tokens += reasoning
    if len(odd) == noted:
        try:
            return Usage(input_tokens, output_tokens, **parts)
        except ValueError:
            odd.append(Odd("usage"))
    return Usage(input_tokens, output_tokens, has_odd_parts=True)


def _known(counts: Mapping[str, Any], protocol: _Protocol, odd: list[Odd]) -> dict[str, int]:
    """Return the counts that are there and in range, by the names of the protocol."""
    flat = dict(counts)
    for name in protocol.holders:
        holder = counts.get(name)
        if isinstance(holder, Mapping):
            flat |= {f"{name}.{inner}": value for inner, value in holder.items()}
        elif isinstance(holder, list):  # Gemini's: one object for each modality
            for each in holder[:MOST_MODALITIES]:
                if isinstance(each, Mapping):
                    flat[f"{name}.{each.get('modality')}"] = each.get("tokenCount")
    known: dict[str, int] = {}
    for name in protocol.names:
        raw = flat.get(name)
        if type(raw) is int and 0 <= raw <= LARGEST_READ_COUNT:  # by far most often: saves a call
            known[name] = raw
        elif raw is not None and (value := read(name, raw, count, odd)) is not None:
            known[name] = value
    return known


def _parts(known: Mapping[str, int], protocol: _Protocol) -> dict[str, Any]:
    """Return the parts that are not 0, by the fields of a Usage."""
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
    """Read the headers of limits: the limit (1 to 10^12), the rest of it, the time until its reset.

    ``names``: for each resource the names of the three headers. ``reset`` reads the third. A
    resource without any of them is left out. Fields out of range are added to ``odd``.
    ``of_a_day``: the daily resource of each resource whose daily limit has the same header names;
    the reset is longer then than a minute's limit could need.
    """
    noted: list[Odd] = [] if odd is None else odd
    found = {}
    for resource, (limit, remaining, full) in names.items():
        header = RateLimitHeader(
            read(limit, headers.get(limit), _limit, noted),
            read(remaining, headers.get(remaining), _remaining, noted),
            read(full, headers.get(full), reset, noted),
        )
        if header == _NO_HEADER:
            continue
        if of_a_day and _is_of_a_day(header):
            resource = of_a_day[resource]
        found[resource] = header
    return found


def is_litellm(headers: Mapping[str, str]) -> bool:
    """Whether LiteLLM's proxy tells limits of its own."""
    if has_deployment_limits(headers):
        return True
    for name in headers:  # noqa: SIM110  # of each answer: no generator
        if name.startswith("x-ratelimit-") and LITELLM.fullmatch(name):
            return True
    return False


def has_deployment_limits(headers: Mapping[str, str]) -> bool:
    """Whether limits under OpenAI's plain names are those of LiteLLM's deployments.

    Those of a provider behind it are repeated in other names.
    """
    return "x-litellm-version" in headers and not (
        "llm_provider-x-ratelimit-limit-requests" in headers
        or "llm_provider-x-ratelimit-limit-tokens" in headers
    )


_NO_HEADER = RateLimitHeader(None, None, None)


def _limit(raw: str) -> float | None:
    value = number(raw)
    return value if value is not None and 1 <= value <= LARGEST_LIMIT else None


def _remaining(raw: str) -> float | None:
    value = number(raw)
    return value if value is not None and 0 <= value <= LARGEST_LIMIT else None


def _is_of_a_day(header: RateLimitHeader) -> bool:
    limit, remaining, reset_seconds = header.limit, header.remaining, header.reset_seconds
    if limit is None or remaining is None or reset_seconds is None:
        return False
    missing_share = max(0.0, 1 - remaining / limit)
    return reset_seconds > _LONGER_THAN_A_MINUTE * (1 + 60 * missing_share)


def duration_seconds(raw: str | None) -> float | None:
    """Read ``6m0s``, ``120ms``, ``1d2h``, or a number of seconds: 0 to 31 days."""
    text = raw.strip() if raw and len(raw) <= LONGEST_TEXT else ""
    seconds = number(text) if text[-1:].isdigit() else None
    if seconds is None and _DURATION.fullmatch(text):
        seconds = 0.0
        for amount, unit in _AMOUNTS.findall(text):
            seconds += float(amount) * _SECONDS[unit]
    return seconds if seconds is not None and 0 <= seconds <= LONGEST_RESET_SECONDS else None


def seconds_until(raw: str | None, now: float) -> float | None:
    """Read seconds until a date: 0 if it has passed, at most 31 days.

    The date is RFC 3339, HTTP's, or a number of seconds or milliseconds since 1970. ``now`` is the
    answer's own time (:func:`answered_at`), so a wrong clock on either side does no harm.
    """
    at = _date(_short(raw))
    seconds = None if at is None else max(0.0, at - now)
    return seconds if seconds is not None and seconds <= LONGEST_RESET_SECONDS else None


def answered_at(headers: Mapping[str, str], now: float) -> float:
    """Return the time of an answer by its server's clock; without a ``Date`` header, ``now``."""
    at = date(headers)
    return now if at is None else at


def date(headers: Mapping[str, str]) -> float | None:
    """Return the time of an answer by its server's clock, in whole seconds; None: not told."""
    return _date(_short(headers.get("date")))


def retry_after_seconds(
    headers: Mapping[str, str], now: float, odd: list[Odd] | None = None
) -> float | None:
    """Read ``retry-after-ms``, else ``retry-after`` as seconds or as a date; None without both.

    Never negative; 0 for a time that has passed. The caller limits the length of the pause.
    """
    noted: list[Odd] = [] if odd is None else odd
    milliseconds = read("retry-after-ms", headers.get("retry-after-ms"), _pause_number, noted)
    if milliseconds is not None:
        return milliseconds / 1000
    at = answered_at(headers, now)
    return read("retry-after", headers.get("retry-after"), lambda raw: _pause(raw, at), noted)


def _pause_number(raw: str) -> float | None:
    value = number(raw)
    return value if value is not None and value >= 0 else None


def _pause(raw: str, now: float) -> float | None:
    value = _pause_number(raw)
    if value is not None and value < _FIRST_EPOCH_SECONDS:
        return value
    at = _date(_short(raw))
    return None if at is None else max(0.0, at - now)


# Words


def status(raw: Any) -> int | None:
    """Read the number of an HTTP error, 400 to 599, from a number or the text of one."""
    value = None if isinstance(raw, bool) else number(raw)
    return int(value) if value is not None and 400 <= value <= 599 and value % 1 == 0 else None


def word(raw: Any, longest: int = LONGEST_TEXT) -> str | None:
    """Read a code, a tier or a name: printable ASCII, at most ``longest`` characters."""
    is_word = isinstance(raw, str) and len(raw) <= longest and _PRINTABLE.fullmatch(raw)
    return raw if is_word else None


def served_model(raw: Any) -> str | None:
    """Read the name of the model that answered: at most 200 characters."""
    return word(raw, LONGEST_MODEL_NAME)


def _short(raw: object) -> str:
    """Return ``raw`` without spaces around it, if it is a text of bounded length; else ""."""
    return raw.strip() if isinstance(raw, str) and len(raw) <= LONGEST_TEXT else ""


def number(raw: object) -> float | None:
    """Read a finite number, or the ASCII text of one: Python reads digits of all scripts."""
    if isinstance(raw, str) and (len(raw) > LONGEST_TEXT or not raw.isascii() or "_" in raw):
        return None
    try:
        value = float(raw)  # type: ignore[arg-type]
    except (ValueError, TypeError, OverflowError):
        return None
    return value if math.isfinite(value) else None


@lru_cache(maxsize=64)
def _date(text: str) -> float | None:
    """Return the seconds since 1970 of a date in any of its forms; one without a zone is UTC."""
    if (value := number(text)) is not None:
        if value >= _FIRST_EPOCH_MILLISECONDS:
            return value / 1000
        return value if value >= _FIRST_EPOCH_SECONDS else None
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            at = parse(text)
            return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
        except (ValueError, TypeError, IndexError, AttributeError, ArithmeticError):
            continue  # the parsers raise any of these for a text that is no date
    return None
