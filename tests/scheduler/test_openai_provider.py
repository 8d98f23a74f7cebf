import time
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway_scheduler.providers.openai import (
    Kind,
    Verdict,
    judge,
    reserved_tokens,
    retry_after_seconds,
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


@pytest.mark.parametrize(
    ("status", "code", "headers", "verdict"),
    [
        (429, None, {}, Verdict(Kind.RATE_LIMITED, 1.0)),
        (429, "rate_limit_exceeded", {"retry-after": "7"}, Verdict(Kind.RATE_LIMITED, 7.0)),
        (429, "slow_down", {}, Verdict(Kind.RATE_LIMITED, 1.0)),
        (429, "insufficient_quota", {}, Verdict(Kind.FINAL)),
        (429, "credit_balance_exhausted", {}, Verdict(Kind.FINAL)),
        (429, "insufficient_quota", {"retry-after": "7"}, Verdict(Kind.RATE_LIMITED, 7.0)),
        (401, "invalid_api_key", {}, Verdict(Kind.FINAL)),
        (401, "invalid_api_key", {"retry-after": "7"}, Verdict(Kind.FINAL)),
        (400, "context_length_exceeded", {}, Verdict(Kind.FINAL)),
        (403, None, {}, Verdict(Kind.FINAL)),
        (404, "model_not_found", {}, Verdict(Kind.FINAL)),
        (422, None, {}, Verdict(Kind.FINAL)),
        (408, None, {}, Verdict(Kind.TRANSIENT, 1.0)),
        (409, None, {}, Verdict(Kind.TRANSIENT, 1.0)),
        (500, None, {}, Verdict(Kind.TRANSIENT, 1.0)),
        (502, None, {}, Verdict(Kind.TRANSIENT, 1.0)),
        (503, "server_is_overloaded", {"retry-after-ms": "40"}, Verdict(Kind.TRANSIENT, 0.04)),
        (504, None, {}, Verdict(Kind.TRANSIENT, 1.0)),
        (520, None, {}, Verdict(Kind.TRANSIENT, 1.0)),
        (524, None, {}, Verdict(Kind.TRANSIENT, 1.0)),
        (529, None, {}, Verdict(Kind.TRANSIENT, 1.0)),
        (None, None, {}, Verdict(Kind.TRANSIENT, 1.0)),
    ],
)
def test_what_an_error_means(
    status: int | None, code: str | None, headers: dict[str, str], verdict: Verdict
) -> None:
    assert judge(status, headers, code, attempt=1, now=NOW) == verdict


@pytest.mark.parametrize(
    ("attempt", "seconds"), [(1, 1.0), (2, 2.0), (3, 4.0), (6, 32.0), (7, 60.0), (5_000, 60.0)]
)
def test_without_a_stated_time_the_wait_doubles_up_to_a_minute(
    attempt: int, seconds: float
) -> None:
    assert judge(429, {}, None, attempt, NOW).pause_seconds == seconds


@pytest.mark.parametrize("headers", [{"retry-after": "0"}, {"retry-after-ms": "0"}])
def test_a_stated_time_of_zero_is_no_leave_to_hammer(headers: dict[str, str]) -> None:
    assert judge(429, headers, None, 3, NOW) == Verdict(Kind.RATE_LIMITED, 4.0)


def test_a_stated_time_of_zero_does_not_make_a_final_error_transient() -> None:
    verdict = judge(429, {"retry-after": "0"}, "insufficient_quota", 1, NOW)
    assert verdict == Verdict(Kind.FINAL)


@pytest.mark.parametrize(
    ("characters", "cap", "tokens"),
    [(0, None, 1), (1, None, 1), (4_001, None, 1_001), (400, 50, 100), (400, 500, 500), (0, 0, 1)],
)
def test_the_larger_of_output_cap_and_estimate_is_reserved(
    characters: int, cap: int | None, tokens: int
) -> None:
    assert reserved_tokens(characters, cap) == tokens


def test_a_request_above_the_limit_is_final_though_it_is_a_429() -> None:
    message = "Request too large for gpt-4o on tokens per min (TPM): Limit 100, Requested 400."
    assert judge(429, {}, "rate_limit_exceeded", 1, NOW, message) == Verdict(Kind.FINAL)
