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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Any, TypeVar

from ..model.calls import LARGEST_READ_COUNT, Usage
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


_TOTALS = (("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens"))


def usage(counts: Mapping[str, Any], odd: list[Odd], *, has_output: bool = True) -> Usage | None:
    """Read the totals of an answer: input and output, under OpenAI's or Anthropic's names.

    None if one of them is unknown, or if both are 0: clients report that where they do not know.
    Without output (``has_output`` False: embeddings, moderations) a missing output is 0.
    """
    totals: list[int | None] = []
    for name, other in _TOTALS:
        if (raw := counts.get(name)) is None and (raw := counts.get(other)) is not None:
            name = other
        is_plain = type(raw) is int and 0 <= raw <= LARGEST_READ_COUNT
        totals.append(raw if is_plain or raw is None else count(raw))
        if raw is not None and totals[-1] is None:
            odd.append(Odd(name))
        elif raw is None and totals[:-1] and not has_output:
            totals[-1] = 0
    given, made = totals
    if given is None or made is None or not (given or made):
        return None
    return Usage(given, made)


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
