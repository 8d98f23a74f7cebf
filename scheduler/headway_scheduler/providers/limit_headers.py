"""Reads rate limit headers that are known by their names, whoever the provider is said to be.

Law of this file: pure. An answer that has OpenAI's plain names, and is not LiteLLM's own, is not
read here.

LiteLLM's proxy names a scope (a key, a team, a user) in each header. It counts in fixed windows of
60 s, or of another length that only its refusals tell, and puts no reset into its answers. What its
deployments may have in a minute of the clock, all keys together, it tells in OpenAI's plain names,
unless these are those of the provider behind it, which it then repeats in names of its own. Other
hosts put the period into the name, or follow the IETF's draft of ``RateLimit-Policy``. OpenRouter
tells a limit with its refusals alone, without saying of what; the time of its reset says whether it
is of a minute or of a day.
"""

import re
from collections.abc import Mapping
from functools import partial

from ..model.quotas import (
    DAY_SECONDS,
    LARGEST_LIMIT,
    LONGEST_RESET_SECONDS,
    MINUTE_SECONDS,
    SHORTEST_PERIOD_SECONDS,
    RateLimitHeader,
    Resource,
    Window,
)
from .readings import (
    LITELLM,
    LITELLM_SLOTS,
    Odd,
    answered_at,
    duration_seconds,
    has_deployment_limits,
    rate_limits,
    seconds_until,
)

LONGEST_POLICY = 256
"""The most characters of a policy that are read."""

_RESOURCES = {
    "requests": Resource.REQUESTS,
    "tokens": Resource.TOKENS,
    LITELLM_SLOTS: Resource.CONCURRENCY,
}
_OF_DEPLOYMENTS = {
    resource: (f"x-ratelimit-limit-{word}", f"x-ratelimit-remaining-{word}", "")
    for word, resource in (("requests", Resource.REQUESTS), ("tokens", Resource.TOKENS))
}
_BY_PERIOD = {
    resource: (
        f"x-ratelimit-limit-{name}",
        f"x-ratelimit-remaining-{name}",
        f"x-ratelimit-reset-{name}",
    )
    for resource, name in (
        (Resource.REQUESTS, "requests-minute"),
        (Resource.TOKENS, "tokens-minute"),
        (Resource.REQUESTS_PER_DAY, "requests-day"),
        (Resource.TOKENS_PER_DAY, "tokens-day"),
    )
}
_REQ_MINUTE = {  # Mistral's
    Resource.REQUESTS: (
        "x-ratelimit-limit-req-minute",
        "x-ratelimit-remaining-req-minute",
        "x-ratelimit-reset-req-minute",
    )
}
_UNNAMED = {
    Resource.REQUESTS: ("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"),
}
_QUOTA = re.compile(r";\s{0,4}q=(\d{1,13})(?!\d)", re.ASCII)
_WINDOW = re.compile(r";\s{0,4}w=(\d{1,9})(?!\d)", re.ASCII)
_LEFT = re.compile(r";\s{0,4}r=(\d{1,13})(?!\d)", re.ASCII)
_RESET = re.compile(r";\s{0,4}t=(\d{1,9})(?!\d)", re.ASCII)
_UNIT = re.compile(r';\s{0,4}qu="([a-z-]{1,40})"')


def litellm_limits(
    headers: Mapping[str, str], odd: list[Odd] | None = None
) -> dict[Resource, RateLimitHeader]:
    """Read ``x-ratelimit-SCOPE-{limit,remaining}-…``, and the deployments'; the tightest counts."""
    scopes = {found[1] for name in headers if (found := LITELLM.fullmatch(name))}
    told: dict[Resource, RateLimitHeader] = {}
    for scope in sorted(scopes):
        names = {
            resource: (
                f"x-ratelimit-{scope}-limit-{word}",
                f"x-ratelimit-{scope}-remaining-{word}",
                "",
            )
            for word, resource in _RESOURCES.items()
        }
        for resource, header in rate_limits(headers, names, duration_seconds, odd).items():
            told[resource] = _tighter(told.get(resource), header)
    told = {resource: _in_window(resource, header) for resource, header in told.items()}
    if has_deployment_limits(headers):
        of_minute = rate_limits(headers, _OF_DEPLOYMENTS, duration_seconds, odd)
        for resource, header in of_minute.items():
            of_scope = told.get(resource)
            if of_scope is None or _is_lower(header, of_scope):
                told[resource] = _in_minute(header)
    return told


def _is_lower(one: RateLimitHeader, other: RateLimitHeader) -> bool:
    return one.limit is not None and other.limit is not None and one.limit < other.limit


def _tighter(one: RateLimitHeader | None, other: RateLimitHeader) -> RateLimitHeader:
    if one is None:
        return other
    limits = [each for each in (one.limit, other.limit) if each is not None]
    left = [each for each in (one.remaining, other.remaining) if each is not None]
    return RateLimitHeader(min(limits, default=None), min(left, default=None))


def _in_window(resource: Resource, header: RateLimitHeader) -> RateLimitHeader:
    if resource is Resource.CONCURRENCY:
        return RateLimitHeader(header.limit)
    left = header.remaining
    return RateLimitHeader(header.limit, left, window=Window.FIXED)


def _in_minute(header: RateLimitHeader) -> RateLimitHeader:
    limit, left = header.limit, header.remaining
    return RateLimitHeader(limit, left, None, MINUTE_SECONDS, Window.MINUTE)


def limits_of_other_hosts(
    headers: Mapping[str, str], now: float, odd: list[Odd] | None = None
) -> dict[Resource, RateLimitHeader]:
    """Read names that tell the period, the draft's headers, or OpenRouter's. Usually nothing."""
    if "ratelimit-policy" in headers:
        return _draft(headers)
    told = rate_limits(headers, _BY_PERIOD, duration_seconds, odd)
    if Resource.REQUESTS not in told:
        told |= rate_limits(headers, _REQ_MINUTE, duration_seconds, odd)
    if told:
        return told
    until_reset = partial(_until, now=answered_at(headers, now))
    found = rate_limits(headers, _UNNAMED, until_reset, odd)
    for header in found.values():
        return _by_reset(header)
    return {}


def _until(raw: str, now: float) -> float | None:
    """Read a date, else a duration."""
    seconds = seconds_until(raw, now)
    return duration_seconds(raw) if seconds is None else seconds


def _by_reset(header: RateLimitHeader) -> dict[Resource, RateLimitHeader]:
    if header.limit is None or header.reset_seconds is None:
        return {}
    if header.reset_seconds > MINUTE_SECONDS + 1:
        return {Resource.REQUESTS_PER_DAY: header}
    limit, left, reset = header.limit, header.remaining, header.reset_seconds
    minute = RateLimitHeader(limit, left, reset, MINUTE_SECONDS, Window.FIXED)
    return {Resource.REQUESTS: minute}


def _draft(headers: Mapping[str, str]) -> dict[Resource, RateLimitHeader]:
    """Read the first policy of ``RateLimit-Policy`` and what ``RateLimit`` says of it.

    Its items look like ``"default";q=100;w=60`` and ``"default";r=50;t=30``.
    """
    policy = headers["ratelimit-policy"][:LONGEST_POLICY].partition(",")[0]
    state = headers.get("ratelimit", "")[:LONGEST_POLICY].partition(",")[0]
    unit = _UNIT.search(policy)
    limit, period = _number(_QUOTA, policy), _number(_WINDOW, policy)
    is_known = unit is None or unit[1] in ("request", "requests")
    if not is_known or limit is None or period is None or not 1 <= limit <= LARGEST_LIMIT:
        return {}
    if not SHORTEST_PERIOD_SECONDS <= period <= LONGEST_RESET_SECONDS:
        return {}
    left, reset = _number(_LEFT, state), _number(_RESET, state)
    left = None if left is None else min(left, LARGEST_LIMIT)
    reset = None if reset is None else min(reset, LONGEST_RESET_SECONDS)
    if period >= DAY_SECONDS:
        return {Resource.REQUESTS_PER_DAY: RateLimitHeader(limit, left, reset)}
    return {Resource.REQUESTS: RateLimitHeader(limit, left, reset, period, Window.SLIDING)}


def _number(pattern: re.Pattern[str], text: str) -> float | None:
    found = pattern.search(text)
    return None if found is None else float(found[1])
