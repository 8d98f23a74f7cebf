"""How each provider's documented headers and errors are read: a table for each."""

import time
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway_scheduler.model.calls import Usage
from headway_scheduler.model.formulas import LONGEST_STATED_SECONDS
from headway_scheduler.model.quotas import RateLimitHeader, Resource, Window
from headway_scheduler.providers import PROVIDERS, ErrorClass, Failure, Verdict, of_host
from headway_scheduler.providers.base import SLOT_SECONDS
from headway_scheduler.providers.readings import (
    duration_seconds,
    retry_after_seconds,
    seconds_until,
)

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC).timestamp()
LATER = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "86400"}, 86_400.0),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after-ms": "-1", "retry-after": "9"}, 9.0),
        ({"retry-after": format_datetime(LATER, usegmt=True)}, 30.0),
        ({"retry-after": "Sun, 01 Mar 2026 13:00:30 +0100"}, 30.0),
        ({"retry-after": "Sun, 01 Mar 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": ""}, None),
    ],
)
def test_a_retry_time_is_read_in_each_of_its_forms(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert retry_after_seconds(headers, NOW) == seconds


@pytest.mark.parametrize("zone", ["", " -0000"])
def test_a_date_without_a_zone_is_utc_wherever_we_run(
    monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        headers = {"retry-after": f"Sun, 01 Mar 2026 12:00:30{zone}"}
        assert retry_after_seconds(headers, NOW) == 30.0
    finally:
        monkeypatch.undo()
        time.tzset()


@settings(deadline=None)
@given(st.text(max_size=40), st.text(max_size=40))
def test_no_header_however_garbled_raises_or_gives_a_negative_wait(ms: str, after: str) -> None:
    seconds = retry_after_seconds({"retry-after-ms": ms, "retry-after": after}, NOW)
    assert seconds is None or seconds >= 0


@settings(deadline=None)
@given(
    st.integers(-10, 40), st.integers(0, 99_999), st.integers(-10, 70), st.integers(-9_999, 9_999)
)
def test_no_date_however_wrong_raises(day: int, year: int, minute: int, zone: int) -> None:
    text = f"Sun, {day:02} Jan {year:04} 00:{minute:02}:00 {zone:+05}"
    seconds = retry_after_seconds({"retry-after": text}, NOW)
    assert seconds is None or seconds >= 0


Row = tuple[int | None, dict[str, str], Any, str, Verdict]

TRANSIENT = Verdict(ErrorClass.TRANSIENT, 1.0)
OVERLOADED = Verdict(ErrorClass.OVERLOADED, 1.0)
LIMITED = Verdict(ErrorClass.RATE_LIMITED, 1.0)
AT_ONCE = Verdict(ErrorClass.AT_ONCE, SLOT_SECONDS)
SPENT = Verdict(ErrorClass.SPENT, LONGEST_STATED_SECONDS)
FINAL = Verdict(ErrorClass.FINAL)
ACCOUNT = Verdict(ErrorClass.ACCOUNT)
AFTER_7 = {"retry-after": "7"}


def limited(seconds: float, **told: RateLimitHeader) -> Verdict:
    resources = {Resource[name]: header for name, header in told.items()}
    return Verdict(ErrorClass.RATE_LIMITED, seconds, told=resources)


def throttled(limit_type: str, number: int) -> str:
    return (
        f"Rate limit exceeded for api_key: 88dc. Limit type: {limit_type}. "
        f"Current limit: {number}, Remaining: 0. Limit resets at: 2026-03-01 12:01:00 UTC"
    )


def violation(quota_id: str, value: str, metric: str = "requests") -> list[dict[str, Any]]:
    failure = {
        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
        "violations": [{"quotaId": quota_id, "quotaValue": value, "quotaMetric": metric}],
    }
    return [error(code=429, status="RESOURCE_EXHAUSTED", details=[failure, RETRY_INFO])]


SLOTS = {"retry-after": "60", "rate_limit_type": "max_parallel_requests"}
WINDOW = {"retry-after": "10", "rate_limit_type": "requests"}
FREE_DAY = "GenerateRequestsPerDayPerProjectPerModel-FreeTier"
FREE_MINUTE = "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"
FREE_TOKENS = "GenerateContentInputTokensPerModelPerMinute-FreeTier"
FIXED_10_S = RateLimitHeader(60, period_seconds=10.0, window=Window.FIXED)


def error(message: str = "", **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, **fields}}


RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.07s"}
ERROR_INFO = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}


# status, headers, body, message, what it is to us after a first attempt
OF_ANY: list[Row] = [
    (429, {}, None, "", LIMITED),
    (429, AFTER_7, None, "", limited(7.0)),
    (429, {"retry-after": "86400"}, None, "", limited(LONGEST_STATED_SECONDS)),
    (401, {}, None, "", ACCOUNT),
    (401, AFTER_7, None, "", ACCOUNT),
    (400, {}, None, "", FINAL),
    (403, {}, None, "", FINAL),
    (404, {}, None, "", FINAL),
    (422, {}, None, "", FINAL),
    (408, {}, None, "", TRANSIENT),
    (409, {}, None, "", TRANSIENT),
    (500, {}, None, "", TRANSIENT),
    (502, {}, None, "", TRANSIENT),
    (504, {}, None, "", TRANSIENT),
    (520, {}, None, "", TRANSIENT),
    (524, {}, None, "", TRANSIENT),
    (503, {}, None, "", OVERLOADED),
    (503, {"retry-after-ms": "40"}, None, "", Verdict(ErrorClass.OVERLOADED, 0.04)),
    (529, {}, None, "", OVERLOADED),
    (None, {}, None, "connection refused", TRANSIENT),
    (None, {}, "no json", "", TRANSIENT),
    (425, {}, None, "", TRANSIENT),
    (402, {}, error(), "Insufficient Balance", ACCOUNT),
    (402, AFTER_7, error(), "", limited(7.0)),
    (402, {}, error(code="weight_exceeds_budget"), "", FINAL),
    (402, {}, error(metadata={"limit_source": "openrouter_in_flight_budget"}), "", LIMITED),
    (403, {}, error(metadata={"limit_source": "workspace"}), "", ACCOUNT),
    (403, {}, error(metadata={"limit_source": "endpoint"}), "", FINAL),
    (200, {}, None, "the client could not read it", FINAL),
    (429, {}, [error(code=429, details=[RETRY_INFO])], "", limited(34.07)),
    # inside of an answer, after HTTP 200, as gateways send it
    (None, {}, error(code=429), "", LIMITED),
    (None, {}, error(code="429"), "", LIMITED),
    (None, AFTER_7, error(code=429), "", limited(7.0)),
    (None, {}, error(code=401), "", ACCOUNT),
    (None, {}, error(code=402), "", ACCOUNT),
    (None, {}, error(code=400), "", FINAL),
    (None, {}, error(code=404, type="not_found"), "", FINAL),
    (None, {}, error(code=500), "", TRANSIENT),
    (None, {}, error(code=502), "", TRANSIENT),
    (None, {}, error(code="503"), "", OVERLOADED),
    (None, {}, error(status=529), "", OVERLOADED),
    (None, {}, {"type": "response.failed", "response": error(code=503)}, "", OVERLOADED),
    (None, {}, error(code=200), "", TRANSIENT),
    (None, {}, error(code=True), "", TRANSIENT),
    (None, {}, error(code="4e2"), "", FINAL),
    (None, {}, error(code=429.5), "", TRANSIENT),
    (None, {}, error(), "model runner has unexpectedly stopped", TRANSIENT),
    # LiteLLM's proxy, whoever the provider is said to be
    (
        429,
        SLOTS,
        error(type="throttling_error", code="429"),
        throttled("max_parallel_requests", 4),
        replace(AT_ONCE, told={Resource.CONCURRENCY: RateLimitHeader(4)}),
    ),
    (429, SLOTS, None, "", AT_ONCE),
    (429, {"retry-after": "1800"}, None, "Max parallel requests: max_parallel_requests", AT_ONCE),
    (
        429,
        WINDOW,
        error(type="throttling_error", code="429"),
        throttled("requests", 60),
        limited(10.0, REQUESTS=FIXED_10_S),
    ),
    (
        429,
        WINDOW,
        error(),
        "the key's max_parallel_requests are not what this is about",
        limited(10.0),
    ),
    (
        429,
        {"date": "Sun, 01 Mar 2026 12:00:48 GMT", "llm_provider-retry-after": "60"},
        error(type="throttling_error", code="429"),
        "litellm.RateLimitError: Model rate limit exceeded. RPM limit=60, current usage=61",
        limited(12.0, REQUESTS=RateLimitHeader(60, None, None, 60.0, Window.MINUTE)),
    ),
    (429, {}, error(), "Too many concurrent requests for m: Limit 4.", AT_ONCE),
    # OpenAI's text, which gateways pass on
    (
        429,
        {},
        error(type="tokens"),
        "Rate limit reached for m in organization o on tokens per min (TPM): Limit 30000, Used "
        "29000, Requested 1500. Please try again in 1s.",
        limited(1.0, TOKENS=RateLimitHeader(30_000)),
    ),
    (
        429,
        AFTER_7,
        None,
        "Rate limit reached for m on requests per min. Limit: 3 / min. Current: 4 / min.",
        limited(7.0, REQUESTS=RateLimitHeader(3)),
    ),
    (
        429,
        {},
        error(type="requests"),
        "Rate limit reached for m on requests per day (RPD): Limit 200, Used 200, Requested 1.",
        replace(SPENT, told={Resource.REQUESTS_PER_DAY: RateLimitHeader(200)}),
    ),
    (429, AFTER_7, None, "5 requests per min: Limit 0, Used 0", limited(7.0)),
    (429, AFTER_7, None, "on requests per min, tokens per min: Limit 7, Used 7", limited(7.0)),
    (429, {}, error(), "Too many tokens per day, please wait before trying again.", SPENT),
]
OPENAI: list[Row] = [
    (429, {}, error(type="requests", code="rate_limit_exceeded"), "", LIMITED),
    (429, {}, error(type="tokens", code="rate_limit_exceeded"), "", LIMITED),
    (429, {}, error(type="slow_down", code="slow_down"), "", LIMITED),
    (429, {}, error(code="rate_limit_exceeded"), "Request too large for gpt-4o", FINAL),
    (429, {}, error(type="insufficient_quota", code="insufficient_quota"), "", ACCOUNT),
    (429, AFTER_7, error(code="insufficient_quota"), "", limited(7.0)),
    (429, {"retry-after": "0"}, error(code="insufficient_quota"), "", ACCOUNT),
    (429, {}, error(code="credit_balance_exhausted"), "", ACCOUNT),
    (429, {}, error(code="billing_hard_limit_reached"), "", ACCOUNT),
    (429, {}, error(code="billing_not_active"), "", ACCOUNT),
    (401, {}, error(type="invalid_request_error", code="invalid_api_key"), "", ACCOUNT),
    (403, {}, error(code="unsupported_country_region_territory"), "", FINAL),
    (404, {}, error(code="model_not_found"), "", FINAL),
    (400, {}, error(code="context_length_exceeded"), "", FINAL),
    (400, {}, error(code="content_policy_violation"), "", FINAL),
    (500, {}, error(type="server_error", code=None), "", TRANSIENT),
    (503, {}, error(code="server_is_overloaded"), "", OVERLOADED),
    # inside a stream, after HTTP 200
    (None, {}, {"type": "server_error", "code": None}, "", TRANSIENT),
    (None, {}, {"code": "rate_limit_exceeded"}, "", LIMITED),
    (None, {}, {"code": "server_is_overloaded"}, "", OVERLOADED),
    (None, {}, {"code": "context_length_exceeded"}, "", FINAL),
    (None, {}, {"code": "content_filter"}, "", FINAL),
    (None, {}, {"code": "insufficient_quota"}, "", ACCOUNT),
    (400, {}, [error(code=400, status="INVALID_ARGUMENT", details=[ERROR_INFO])], "", ACCOUNT),
]
AZURE_ROWS: list[Row] = [
    (429, {"retry-after-ms": "1500", "retry-after": "2"}, error(code="429"), "", limited(1.5)),
    (429, {}, error(code="429"), "Rate limit is exceeded. Try again in 2 seconds.", limited(2.0)),
    (
        429,
        {},
        error(code="429"),
        "… exceeded token rate limit of your current OpenAI S0 pricing tier. "
        "Please retry after 86400 seconds.",
        limited(LONGEST_STATED_SECONDS),
    ),
    (401, {}, error(code="401"), "Access denied due to invalid subscription key", ACCOUNT),
    (
        400,
        {},
        error(code="content_filter", innererror={"code": "ResponsibleAIPolicyViolation"}),
        "",
        FINAL,
    ),
    (404, {}, error(code="DeploymentNotFound"), "", FINAL),
    (424, {}, error(code="424"), "", FINAL),
    (503, {}, error(code="ServiceUnavailable"), "", OVERLOADED),
]
ANTHROPIC_ROWS: list[Row] = [
    (429, AFTER_7, {"type": "error", **error(type="rate_limit_error")}, "", limited(7.0)),
    (529, {}, {"type": "error", **error(type="overloaded_error")}, "Overloaded", OVERLOADED),
    (500, {}, {"type": "error", **error(type="api_error")}, "", TRANSIENT),
    (504, {}, {"type": "error", **error(type="timeout_error")}, "", TRANSIENT),
    (401, {}, {"type": "error", **error(type="authentication_error")}, "", ACCOUNT),
    (402, {}, {"type": "error", **error(type="billing_error")}, "", ACCOUNT),
    (403, {}, {"type": "error", **error(type="permission_error")}, "", FINAL),
    (404, {}, {"type": "error", **error(type="not_found_error")}, "", FINAL),
    (413, {}, {"type": "error", **error(type="request_too_large")}, "", FINAL),
    (400, {}, error(type="invalid_request_error"), "prompt is too long", FINAL),
    (400, {}, error(type="invalid_request_error"), "Your credit balance is too low", ACCOUNT),
    (
        400,
        {},
        error(type="invalid_request_error"),
        "You have reached your specified API usage limits.",
        ACCOUNT,
    ),
    (429, {}, error(type="rate_limit_error"), "… your workspace's spend limit", ACCOUNT),
    # inside a stream, after HTTP 200
    (None, {}, {"type": "error", **error(type="overloaded_error")}, "", OVERLOADED),
    (None, {}, {"type": "error", **error(type="rate_limit_error")}, "", LIMITED),
    (None, {}, {"type": "error", **error(type="api_error")}, "", TRANSIENT),
    (None, {}, {"type": "error", **error(type="invalid_request_error")}, "", FINAL),
]
GEMINI_ROWS: list[Row] = [
    (429, {}, [error(code=429, status="RESOURCE_EXHAUSTED")], "", LIMITED),
    (
        429,
        {},
        [error(code=429, details=[{"@type": "…QuotaFailure"}, RETRY_INFO])],
        "",
        limited(34.07),
    ),
    (429, {}, error(code=429, details=[RETRY_INFO]), "", limited(34.07)),
    (429, {}, [error(code=429, details=[{"violations": [{"quotaValue": "0"}]}])], "", ACCOUNT),
    (429, {}, [error(code=429, details=[{"violations": [{"quotaValue": "10"}]}])], "", LIMITED),
    (
        429,
        {},
        violation(FREE_MINUTE, "15"),
        "",
        limited(34.07, REQUESTS=RateLimitHeader(15)),
    ),
    (
        429,
        {},
        violation(FREE_TOKENS, "250000", "…/generate_content_free_tier_input_token_count"),
        "",
        limited(34.07, TOKENS=RateLimitHeader(250_000), INPUT_TOKENS=RateLimitHeader(250_000)),
    ),
    (
        429,
        {},
        violation(FREE_DAY, "250"),
        "You exceeded your current quota",
        replace(SPENT, told={Resource.REQUESTS_PER_DAY: RateLimitHeader(250)}),
    ),
    (429, {}, violation(FREE_DAY, "0"), "", ACCOUNT),
    (429, {}, violation(FREE_MINUTE, "many"), "", limited(34.07)),
    (400, {}, [error(code=400, status="INVALID_ARGUMENT", details=[ERROR_INFO])], "", ACCOUNT),
    (400, {}, [error(code=400, status="INVALID_ARGUMENT")], "API key not valid.", ACCOUNT),
    (400, {}, [error(code=400, status="INVALID_ARGUMENT")], "", FINAL),
    (403, {}, [error(code=403, status="PERMISSION_DENIED")], "", FINAL),
    (500, {}, [error(code=500, status="INTERNAL")], "", TRANSIENT),
    (503, {}, [error(code=503, status="UNAVAILABLE")], "", OVERLOADED),
    (504, {}, [error(code=504, status="DEADLINE_EXCEEDED")], "", TRANSIENT),
]
BEDROCK_ROWS: list[Row] = [
    (429, {}, {"code": "ThrottlingException"}, "Too many tokens, please wait", LIMITED),
    (429, {}, {"code": "ThrottlingException"}, "Too many tokens per day, please wait", SPENT),
    (None, {}, {"code": "ThrottlingException"}, "Too many tokens, please wait", LIMITED),
    (None, {}, {"code": "ModelNotReadyException"}, "", LIMITED),
    (None, {}, {"code": "ServiceQuotaExceededException"}, "", LIMITED),
    (None, {}, {"code": "ServiceUnavailableException"}, "", OVERLOADED),
    (None, {}, {"code": "ModelTimeoutException"}, "", TRANSIENT),
    (None, {}, {"code": "ModelStreamErrorException"}, "", TRANSIENT),
    (None, {}, {"code": "ValidationException"}, "", FINAL),
    (403, {}, {"code": "UnrecognizedClientException"}, "", ACCOUNT),
    (403, {}, {"code": "ExpiredTokenException"}, "", ACCOUNT),
    (403, {}, {"code": "AccessDeniedException"}, "", FINAL),
]
GROQ_ROWS: list[Row] = [
    (
        429,
        {"retry-after": "2"},
        error(type="tokens", code="rate_limit_exceeded"),
        "Rate limit reached … on tokens per minute (TPM): Limit 6000. Please try again in 2s",
        limited(2.0, TOKENS=RateLimitHeader(6_000)),
    ),
    (
        429,
        {"retry-after": "1200"},
        error(type="requests", code="rate_limit_exceeded"),
        "Rate limit reached … on requests per day (RPD): Limit 1000, Used 1000, Requested 1.",
        replace(SPENT, told={Resource.REQUESTS_PER_DAY: RateLimitHeader(1_000)}),
    ),
    (429, {"x-ratelimit-remaining-requests": "0"}, error(), "", SPENT),
    (429, {"x-ratelimit-remaining-tokens": "0"}, error(), "", LIMITED),
]
RATES = (ErrorClass.RATE_LIMITED, ErrorClass.SPENT)
LOCAL_ROWS: list[Row] = [
    (503, {}, error(code=503, type="unavailable_error"), "Loading model", OVERLOADED),
    (503, {}, None, "server busy, please try again", OVERLOADED),
    (404, {}, None, "model 'x' not found", FINAL),
]
VERDICTS = {
    "openai": OF_ANY + OPENAI,
    "azure": OF_ANY + OPENAI + AZURE_ROWS,
    "anthropic": OF_ANY + ANTHROPIC_ROWS,
    "gemini": OF_ANY + GEMINI_ROWS,
    "bedrock": OF_ANY + BEDROCK_ROWS,
    "groq": OF_ANY + GROQ_ROWS,
    "local": [row for row in OF_ANY if row[-1].error_class not in RATES] + LOCAL_ROWS,
    "other": OF_ANY,
}


@pytest.mark.parametrize(
    ("name", "row"), [(name, row) for name, rows in VERDICTS.items() for row in rows], ids=repr
)
def test_what_an_error_means(name: str, row: Row) -> None:
    *failure, verdict = row
    assert replace(PROVIDERS[name].judge(Failure(*failure), 1, NOW), said="") == verdict


@pytest.mark.parametrize(
    ("headers", "body", "message", "about"),
    [
        ({}, error(type="tokens", code="rate_limit_exceeded"), "", Resource.TOKENS),
        ({}, error(type="requests", code="rate_limit_exceeded"), "", Resource.REQUESTS),
        (WINDOW, error(), "", Resource.REQUESTS),
        ({}, error(), "Rate limit reached for m on tokens per min (TPM)", Resource.TOKENS),
        ({}, error(), "… exceeded token rate limit of your current …", Resource.TOKENS),
        ({}, error(), "This request would exceed 50 requests per minute", Resource.REQUESTS),
        ({}, error(type="requests"), "on tokens per min", None),
        ({}, error(), "slow down", None),
    ],
)
def test_what_a_refusal_is_about(
    headers: dict[str, str], body: Any, message: str, about: Resource | None
) -> None:
    for provider in (PROVIDERS["openai"], PROVIDERS["other"]):
        assert provider.judge(Failure(429, headers, body, message), 1, NOW).about is about


def test_every_provider_has_its_table() -> None:
    assert VERDICTS.keys() == PROVIDERS.keys()


def test_a_429_of_a_server_of_ones_own_says_that_it_has_fewer_slots() -> None:
    assert PROVIDERS["local"].judge(Failure(429), 1, NOW) == OVERLOADED


@pytest.mark.parametrize(
    ("attempt", "seconds"), [(1, 1.0), (2, 2.0), (3, 4.0), (6, 32.0), (7, 60.0), (5_000, 60.0)]
)
def test_without_a_stated_time_the_wait_doubles_up_to_a_minute(
    attempt: int, seconds: float
) -> None:
    assert PROVIDERS["other"].judge(Failure(429), attempt, NOW) == limited(seconds)


@pytest.mark.parametrize("headers", [{"retry-after": "0"}, {"retry-after-ms": "0"}])
def test_a_stated_time_of_zero_is_no_leave_to_hammer(headers: dict[str, str]) -> None:
    assert PROVIDERS["openai"].judge(Failure(429, headers), 3, NOW) == limited(4.0)


@settings(deadline=None)
@given(
    st.sampled_from(sorted(PROVIDERS)),
    st.none() | st.integers(-1, 999),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["error", "code", "type", "details", "retryDelay", "message"]),
                inner,
            )
        ),
    ),
)
def test_no_body_however_garbled_raises(name: str, status: int | None, body: Any) -> None:
    verdict = PROVIDERS[name].judge(Failure(status, {}, body, str(body)), 1, NOW)
    assert verdict.pause_seconds >= 0


# Resets


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("120ms", 0.12),
        ("7.66s", 7.66),
        ("1m30.5s", 90.5),
        ("1h0m0s", 3_600.0),
        ("1d2h", 93_600.0),
        ("34.074824224s", 34.074824224),
        ("0s", 0.0),
        ("17", 17.0),
        ("soon", None),
        ("6m soon", None),
        ("-1", None),
        ("nan", None),
        ("", None),
        (None, None),
    ],
)
def test_a_reset_is_read_in_each_of_its_forms(text: str | None, seconds: float | None) -> None:
    assert duration_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-03-01T12:00:30Z", 30.0),
        ("2026-03-01T12:00:30+00:00", 30.0),
        ("2026-03-01T13:00:30+01:00", 30.0),
        ("2026-03-01T12:00:30", 30.0),
        ("2026-03-01T12:00:00.500Z", 0.5),
        ("2026-03-01T11:00:00Z", 0.0),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_a_reset_at_a_date_is_read(text: str | None, seconds: float | None) -> None:
    assert seconds_until(text, NOW) == seconds


# Charges


@pytest.mark.parametrize(
    ("name", "characters", "cap", "tokens"),
    [
        ("openai", 0, None, 1),
        ("openai", 1, None, 1),
        ("openai", 4_001, None, 1_001),
        ("openai", 400, 50, 100),
        ("openai", 400, 500, 500),
        ("openai", 0, 0, 1),
        ("azure", 400, 500, 600),
        ("azure", 400, None, 130),
        ("anthropic", 400, 500, 120),
        ("gemini", 400, 500, 90),
        ("bedrock", 400, 500, 600),
        ("bedrock", 400, None, 4_196),
        ("groq", 400, 500, 120),
        ("local", 400, 500, 120),
        ("other", 400, 500, 120),
    ],
)
def test_what_is_charged_when_a_request_arrives(
    name: str, characters: int, cap: int | None, tokens: int
) -> None:
    assert PROVIDERS[name].reserved_tokens(characters, cap, Usage(90, 30)) == tokens


@pytest.mark.parametrize(
    ("name", "tokens", "cached"),
    [
        ("openai", None, None),
        ("azure", None, None),
        ("anthropic", 15, 11),
        ("gemini", 10, 10),
        ("bedrock", 15, 11),
        ("groq", 15, 11),
        ("local", 15, 15),
        ("other", 15, 15),
    ],
)
def test_what_is_charged_when_the_answer_is_there(
    name: str, tokens: int | None, cached: int | None
) -> None:
    assert PROVIDERS[name].settled_tokens(Usage(10, 5)) == tokens
    assert PROVIDERS[name].settled_tokens(Usage(10, 5, cache_read_tokens=4)) == cached


@pytest.mark.parametrize("name", PROVIDERS)
def test_what_a_server_that_works_said_is_kept_without_digits(name: str) -> None:
    def said(status: int | None, body: Any, message: str = "") -> str:
        return PROVIDERS[name].judge(Failure(status, {}, body, message), 1, NOW).said

    first = said(500, error(code="bad_tool"), "request 123 at 10:00: no such tool")
    assert first == said(500, error(code="bad_tool"), "request 7 at 11:59: no such tool")
    assert first != said(500, error(code="bad_tool"), "out of memory")
    assert said(None, error(code=500), "x")
    for proxied in (502, 504, 520, 529, 503, 429, 400):
        assert said(proxied, error(code="x"), "x") == ""
    assert said(500, None, "<html>") == said(None, None, "connection refused") == ""


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("api.openai.com", "openai"),
        ("API.OpenAI.com.", "openai"),
        ("ours.openai.azure.com", "azure"),
        ("api.anthropic.com", "anthropic"),
        ("generativelanguage.googleapis.com", "gemini"),
        ("europe-west4-aiplatform.googleapis.com", "gemini"),
        ("bedrock-runtime.us-east-1.amazonaws.com", "bedrock"),
        ("api.openai.com.evil.example", None),
        ("openai.azure.com.example", None),
        ("api.groq.com", "groq"),
        ("127.0.0.1", None),
        ("openrouter.ai", None),
        ("", None),
    ],
)
def test_a_providers_own_host_tells_it(host: str, name: str | None) -> None:
    found = of_host(host)
    assert (found and found.name) == name
