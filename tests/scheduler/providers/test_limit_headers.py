"""What rate limit headers tell: a row for each source. A field that tells nothing is left out."""

from collections.abc import Mapping
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway_scheduler.model.quotas import (
    LARGEST_LIMIT,
    LONGEST_RESET_SECONDS,
    SHORTEST_PERIOD_SECONDS,
    RateLimitHeader,
    Resource,
    Window,
)
from headway_scheduler.providers import PROVIDERS

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC).timestamp()

MINUTE = {
    "x-ratelimit-limit-requests": "60",
    "x-ratelimit-remaining-requests": "59",
    "x-ratelimit-reset-requests": "1s",
    "x-ratelimit-limit-tokens": "150000",
    "x-ratelimit-remaining-tokens": "149984",
    "x-ratelimit-reset-tokens": "6ms",
}
OF_OPENAI = {
    Resource.REQUESTS: RateLimitHeader(60, 59, 1.0),
    Resource.TOKENS: RateLimitHeader(150_000, 149_984, 0.006),
}
UNPAID = {
    "x-ratelimit-limit-requests": "200",
    "x-ratelimit-remaining-requests": "199",
    "x-ratelimit-reset-requests": "7m12s",
}
OF_AZURE = {
    "x-ratelimit-limit-requests": "8",
    "x-ratelimit-remaining-requests": "7",
    "x-ratelimit-limit-tokens": "8000",
    "x-ratelimit-remaining-tokens": "-1",
}
AZURE_WINDOW = (10.0, Window.SLIDING)
OPENAI = {"openai-version": "2020-10-01", "openai-processing-ms": "812"}
LITELLM = {
    "x-litellm-version": "1.106.0",
    "x-ratelimit-api_key-limit-requests": "60",
    "x-ratelimit-api_key-remaining-requests": "41",
    "x-ratelimit-api_key-limit-tokens": "9000",
    "x-ratelimit-api_key-remaining-tokens": "8000",
    "x-ratelimit-api_key-limit-max_parallel_requests": "4",
    "x-ratelimit-api_key-remaining-max_parallel_requests": "0",
}
TEAM = {
    "x-ratelimit-team-limit-requests": "100",
    "x-ratelimit-team-remaining-requests": "3",
    "x-ratelimit-model_per_key-limit-tokens": "500",
    "x-ratelimit-model_per_key-remaining-tokens": "499",
}
OF_LITELLM = {
    Resource.REQUESTS: RateLimitHeader(60, 41, window=Window.FIXED),
    Resource.TOKENS: RateLimitHeader(9_000, 8_000, window=Window.FIXED),
    Resource.CONCURRENCY: RateLimitHeader(4),
}
DEPLOYMENT = {
    "x-litellm-version": "1.106.0",
    "x-ratelimit-limit-requests": "60",
    "x-ratelimit-remaining-requests": "41",
}
BEHIND = {f"llm_provider-{name}": value for name, value in MINUTE.items()}
OF_DEPLOYMENT = RateLimitHeader(60, 41, None, 60.0, Window.MINUTE)
OPENROUTER = {
    "x-ratelimit-limit": "20",
    "x-ratelimit-remaining": "0",
    "x-ratelimit-reset": str(int(1000 * (NOW + 30))),
}
CEREBRAS = {
    "x-ratelimit-limit-requests-day": "14400",
    "x-ratelimit-remaining-requests-day": "14399",
    "x-ratelimit-reset-requests-day": "33011.382867",
    "x-ratelimit-limit-tokens-minute": "60000",
    "x-ratelimit-remaining-tokens-minute": "59990",
    "x-ratelimit-reset-tokens-minute": "11.38",
}
MISTRAL = {
    "x-ratelimit-limit-req-minute": "60",
    "x-ratelimit-remaining-req-minute": "59",
    "x-ratelimit-limit-tokens-minute": "50000",
    "x-ratelimit-remaining-tokens-minute": "49000",
}
OF_ANTHROPIC = {
    f"anthropic-ratelimit-{kind}-{field}": value
    for kind, limit in (("requests", 50), ("input-tokens", 30_000), ("output-tokens", 8_000))
    for field, value in (
        ("limit", str(limit)),
        ("remaining", str(limit - 1)),
        ("reset", "2026-03-01T12:00:30Z"),
    )
}


@pytest.mark.parametrize(
    ("name", "headers", "told"),
    [
        ("openai", MINUTE, OF_OPENAI),
        (
            "openai",
            {**OPENAI, **UNPAID},
            {Resource.REQUESTS_PER_DAY: RateLimitHeader(200, 199, 432.0)},
        ),
        # other hosts mean a minute, whatever the reset looks like
        ("openai", UNPAID, {Resource.REQUESTS: RateLimitHeader(200, 199, 432.0)}),
        (
            "openai",
            {"x-ratelimit-remaining-tokens": "5"},
            {Resource.TOKENS: RateLimitHeader(None, 5)},
        ),
        ("openai", {"x-ratelimit-limit-tokens": "many"}, {}),
        ("openai", OF_ANTHROPIC, {}),
        ("openai", {}, {}),
        (
            "azure",
            MINUTE,
            {**OF_OPENAI, Resource.REQUESTS: RateLimitHeader(60, 59, 1.0, *AZURE_WINDOW)},
        ),
        (
            "azure",
            OF_AZURE,
            {
                Resource.REQUESTS: RateLimitHeader(8, 7, None, *AZURE_WINDOW),
                Resource.TOKENS: RateLimitHeader(8000),
            },
        ),
        (
            "azure",
            {"x-ratelimit-remaining-requests": "19"},
            {Resource.REQUESTS: RateLimitHeader(None, 19, None, *AZURE_WINDOW)},
        ),
        (
            "groq",
            {
                "x-ratelimit-limit-requests": "14400",
                "x-ratelimit-remaining-requests": "14370",
                "x-ratelimit-reset-requests": "2m59.56s",
                "x-ratelimit-limit-tokens": "18000",
                "x-ratelimit-remaining-tokens": "17997",
                "x-ratelimit-reset-tokens": "7.66s",
            },
            {
                Resource.REQUESTS_PER_DAY: RateLimitHeader(14_400, 14_370, 179.56),
                Resource.TOKENS: RateLimitHeader(18_000, 17_997, 7.66),
            },
        ),
        *((name, LITELLM, OF_LITELLM) for name in PROVIDERS),
        (
            "openai",
            {**LITELLM, **TEAM, **MINUTE},
            {
                Resource.REQUESTS: RateLimitHeader(60, 3, window=Window.FIXED),
                Resource.TOKENS: RateLimitHeader(500, 499, window=Window.FIXED),
                Resource.CONCURRENCY: RateLimitHeader(4),
            },
        ),
        ("openai", {"x-ratelimit-api_key-limit-requests": "none"}, {}),
        *((name, DEPLOYMENT, {Resource.REQUESTS: OF_DEPLOYMENT}) for name in PROVIDERS),
        (
            "openai",
            {**DEPLOYMENT, **TEAM},
            {
                Resource.REQUESTS: OF_DEPLOYMENT,
                Resource.TOKENS: RateLimitHeader(500, 499, window=Window.FIXED),
            },
        ),
        ("openai", {**DEPLOYMENT, **BEHIND, **MINUTE}, OF_OPENAI),
        ("other", {**DEPLOYMENT, **BEHIND, **MINUTE}, {}),
        (
            "openai",
            OPENROUTER,
            {Resource.REQUESTS: RateLimitHeader(20, 0, 30.0, 60.0, Window.FIXED)},
        ),
        (
            "openai",
            {**OPENROUTER, "x-ratelimit-reset": str(int(1000 * (NOW + 36_000)))},
            {Resource.REQUESTS_PER_DAY: RateLimitHeader(20, 0, 36_000.0)},
        ),
        ("openai", {"x-ratelimit-limit": "20"}, {}),
        (
            "openai",
            CEREBRAS,
            {
                Resource.REQUESTS_PER_DAY: RateLimitHeader(14_400, 14_399, 33_011.382867),
                Resource.TOKENS: RateLimitHeader(60_000, 59_990, 11.38),
            },
        ),
        (
            "openai",
            MISTRAL,
            {
                Resource.REQUESTS: RateLimitHeader(60, 59),
                Resource.TOKENS: RateLimitHeader(50_000, 49_000),
            },
        ),
        (
            "openai",
            {"ratelimit-policy": '"default";q=100;w=30', "ratelimit": '"default";r=50;t=12'},
            {Resource.REQUESTS: RateLimitHeader(100, 50, 12.0, 30.0, Window.SLIDING)},
        ),
        (
            "openai",
            {"ratelimit-policy": '"day";q=1000;w=86400, "burst";q=5;w=1'},
            {Resource.REQUESTS_PER_DAY: RateLimitHeader(1_000)},
        ),
        ("openai", {"ratelimit-policy": '"bytes";qu="content-bytes";q=9;w=60'}, {}),
        ("openai", {"ratelimit-policy": '"x";q=0;w=60'}, {}),
        ("openai", {"ratelimit-policy": '"x";q=99999999999999;w=60'}, {}),
        ("openai", {"ratelimit-policy": '"x";q=9;w=0'}, {}),
        ("openai", {"ratelimit-policy": "x" * 100_000}, {}),
        (
            "anthropic",
            OF_ANTHROPIC,
            {
                Resource.REQUESTS: RateLimitHeader(50, 49, 30.0, None, Window.BUCKET),
                Resource.INPUT_TOKENS: RateLimitHeader(30_000, 29_999, 30.0, None, Window.BUCKET),
                Resource.OUTPUT_TOKENS: RateLimitHeader(8_000, 7_999, 30.0, None, Window.BUCKET),
            },
        ),
        (
            "anthropic",
            {"anthropic-ratelimit-tokens-remaining": "77000"},
            {Resource.TOKENS: RateLimitHeader(None, 77_000, window=Window.BUCKET)},
        ),
        ("anthropic", MINUTE, {}),
        ("gemini", MINUTE, {}),
        ("bedrock", MINUTE, {}),
        ("local", MINUTE, {}),
        ("other", MINUTE, {}),
    ],
)
def test_what_headers_tell(
    name: str, headers: dict[str, str], told: dict[Resource, RateLimitHeader]
) -> None:
    assert PROVIDERS[name].rate_limits(headers, NOW) == told


NAMES = st.sampled_from(
    sorted(
        {
            *LITELLM,
            *TEAM,
            *DEPLOYMENT,
            *BEHIND,
            *OPENROUTER,
            *CEREBRAS,
            *MISTRAL,
            *MINUTE,
            *OF_ANTHROPIC,
        }
        | {"ratelimit-policy", "ratelimit", "date"}
    )
)
VALUES = st.text(max_size=30) | st.from_regex(r'"x";q=\d{1,15};w=\d{1,11}', fullmatch=True)


@settings(deadline=None)
@given(st.sampled_from(sorted(PROVIDERS)), st.dictionaries(NAMES, VALUES | st.just("60")))
def test_no_headers_however_garbled_raise_or_tell_what_is_out_of_range(
    name: str, headers: Mapping[str, str]
) -> None:
    for told in PROVIDERS[name].rate_limits(headers, NOW).values():
        assert told.limit is None or 1 <= told.limit <= LARGEST_LIMIT
        assert told.remaining is None or 0 <= told.remaining <= LARGEST_LIMIT
        assert told.reset_seconds is None or 0 <= told.reset_seconds <= LONGEST_RESET_SECONDS
        period = told.period_seconds
        assert period is None or SHORTEST_PERIOD_SECONDS <= period <= LONGEST_RESET_SECONDS
