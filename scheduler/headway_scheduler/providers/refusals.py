"""Reads what a refusal (429) is about. Law of this file: pure; texts are searched, never trusted.

A refusal may be about the pace, about the calls in flight, or about what there is for a day; and it
may tell the limit that its headers did not. OpenAI's ``code`` is the same for all of them.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..model.quotas import (
    LARGEST_LIMIT,
    MINUTE_SECONDS,
    RateLimitHeader,
    Resource,
    Window,
)
from .readings import LITELLM_SLOTS, answered_at, duration_seconds, number, word

LONGEST_LOOKED_AT = 2_000
"""How many characters of a refusal's text are searched."""
MOST_VIOLATIONS = 20
"""How many of Google's violations are read."""

_SLOTS = re.compile(
    rf"{LITELLM_SLOTS}|concurrent requests|concurrency limit|parallel requests", re.IGNORECASE
)
_DAY = re.compile(r"per[ _-]?day|\b[rt]pd\b|daily", re.IGNORECASE)
_LITELLM_LIMIT = re.compile(
    rf"limit type: (requests|tokens|{LITELLM_SLOTS})\. current limit: (\d{{1,12}})",
    re.IGNORECASE | re.ASCII,
)
_LITELLM_MINUTE = re.compile(
    r"model rate limit exceeded\. ([rt])pm limit=(\d{1,12})", re.IGNORECASE | re.ASCII
)
_OPENAI_LIMIT = re.compile(
    r"\bper (min|day)(?:ute)?(?: \([RT]P[MD]\))?[:.] Limit:? (\d{1,12})\b", re.IGNORECASE | re.ASCII
)
_OF_REQUESTS = re.compile(r"requests per min|\brpm\b", re.IGNORECASE)
_OF_TOKENS = re.compile(r"tokens per min|\btpm\b|token rate limit|too many tokens", re.IGNORECASE)
_GOOGLE_MINUTE = re.compile(r"per-?minute", re.IGNORECASE)


def is_about_slots(headers: Mapping[str, str], message: str) -> bool:
    """Whether too many calls are in flight, in LiteLLM's header or in any server's text."""
    kind = headers.get("rate_limit_type")
    if kind is not None:
        return kind == LITELLM_SLOTS
    return _SLOTS.search(message[:LONGEST_LOOKED_AT]) is not None


def refused_resource(
    headers: Mapping[str, str], types: frozenset[str], message: str
) -> Resource | None:
    """Return whether requests or tokens were too many, in OpenAI's type, LiteLLM's header, a text.

    None if nothing says so, or both do.
    """
    said = types | {headers.get("rate_limit_type", "")}
    text = message[:LONGEST_LOOKED_AT]
    found = {
        resource
        for resource, name, words in (
            (Resource.REQUESTS, "requests", _OF_REQUESTS),
            (Resource.TOKENS, "tokens", _OF_TOKENS),
        )
        if name in said or words.search(text)
    }
    return found.pop() if len(found) == 1 else None


def is_about_a_day(message: str, parts: Iterable[Mapping[str, Any]]) -> bool:
    """Whether it is a day's limit: in the text, or in the id of Google's quota."""
    ids = [quota_id for part in parts if (quota_id := word(part.get("quotaId"), 200)) is not None]
    if ids:
        return any(_DAY.search(each) for each in ids)
    return _DAY.search(message[:LONGEST_LOOKED_AT]) is not None


def litellm_refusal(headers: Mapping[str, str], message: str) -> dict[Resource, RateLimitHeader]:
    """Read LiteLLM's limit: a deployment's is of a minute of the clock, a key's of a window.

    The length of the window is its ``retry-after``.
    """
    minute = _LITELLM_MINUTE.search(message[:LONGEST_LOOKED_AT])
    if minute is not None and 1 <= (limit := float(minute[2])) <= LARGEST_LIMIT:
        resource = Resource.TOKENS if minute[1].lower() == "t" else Resource.REQUESTS
        return {resource: RateLimitHeader(limit, None, None, MINUTE_SECONDS, Window.MINUTE)}
    found = _LITELLM_LIMIT.search(message[:LONGEST_LOOKED_AT])
    if found is None or not 1 <= (limit := float(found[2])) <= LARGEST_LIMIT:
        return {}
    if found[1].lower() == LITELLM_SLOTS:
        return {Resource.CONCURRENCY: RateLimitHeader(limit)}
    resource = Resource.TOKENS if found[1].lower() == "tokens" else Resource.REQUESTS
    period = duration_seconds(headers.get("retry-after"))
    if period is None or period < 1:
        return {resource: RateLimitHeader(limit, window=Window.FIXED)}
    return {resource: RateLimitHeader(limit, period_seconds=period, window=Window.FIXED)}


def litellm_minute_seconds(headers: Mapping[str, str], message: str, now: float) -> float | None:
    """Return how much is left of the minute of the clock that LiteLLM counts for a deployment.

    None if the refusal is about something else. It tells a whole minute, in a header of another
    name (``llm_provider-retry-after``), whenever the next one begins.
    """
    if _LITELLM_MINUTE.search(message[:LONGEST_LOOKED_AT]) is None:
        return None
    return MINUTE_SECONDS - answered_at(headers, now) % MINUTE_SECONDS


def openai_refusal(types: frozenset[str], message: str) -> dict[Resource, RateLimitHeader]:
    """Read the limit in OpenAI's text: gateways pass it on, and not always the headers.

    ``types``: the error's, one of which says what the number counts; without it the text does.
    """
    found = _OPENAI_LIMIT.search(message[:LONGEST_LOOKED_AT])
    resource = refused_resource({}, types, "") or refused_resource({}, frozenset(), message)
    if found is None or resource is None or (limit := _limit(found[2])) is None:
        return {}
    if found[1].lower() == "day":
        is_tokens = resource is Resource.TOKENS
        resource = Resource.TOKENS_PER_DAY if is_tokens else Resource.REQUESTS_PER_DAY
    return {resource: RateLimitHeader(limit)}


def google_refusal(parts: Iterable[Mapping[str, Any]]) -> dict[Resource, RateLimitHeader]:
    """Read Google's ``QuotaFailure``: ``quotaId`` says of what and for how long, else nothing."""
    told: dict[Resource, RateLimitHeader] = {}
    violations = [part for part in parts if "quotaValue" in part]
    for violation in violations[:MOST_VIOLATIONS]:
        quota_id = word(violation.get("quotaId"), 200) or ""
        metric = word(violation.get("quotaMetric"), 200) or ""
        limit = _limit(violation["quotaValue"])
        is_daily = _DAY.search(quota_id) is not None
        if limit is None or not (is_daily or _GOOGLE_MINUTE.search(quota_id)):
            continue
        header = RateLimitHeader(limit)
        if "token" in (quota_id + metric).lower():
            names = (Resource.TOKENS_PER_DAY,) if is_daily else _INPUT
            told |= dict.fromkeys(names, header)
        else:
            told[Resource.REQUESTS_PER_DAY if is_daily else Resource.REQUESTS] = header
    return told


_INPUT = (Resource.TOKENS, Resource.INPUT_TOKENS)
"""Google counts input alone, so a quota of tokens means these."""


def _limit(raw: Any) -> float | None:
    limit = None if isinstance(raw, bool) else number(raw)
    return limit if limit is not None and 1 <= limit <= LARGEST_LIMIT else None
