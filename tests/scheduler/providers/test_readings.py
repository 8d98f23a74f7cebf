"""Every foreign number and text is a value in its range, or nothing, and then said to be odd."""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway_scheduler.model.calls import LARGEST_READ_COUNT, Usage
from headway_scheduler.model.quotas import (
    LARGEST_LIMIT,
    LONGEST_RESET_SECONDS,
    RateLimitHeader,
    Resource,
)
from headway_scheduler.providers import PROVIDERS, Failure
from headway_scheduler.providers.base import MOST_PARTS
from headway_scheduler.providers.readings import (
    Odd,
    answered_at,
    count,
    duration_seconds,
    rate_limits,
    read,
    retry_after_seconds,
    seconds_until,
    served_model,
    usage,
    word,
)

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (0, 0),
        (7, 7),
        (12.0, 12),
        (1.5, 2),
        (2.0000001, 3),
        ("12", 12),
        (" 12 ", 12),
        ("1.5", 2),
        ("1e3", 1000),
        (LARGEST_READ_COUNT, LARGEST_READ_COUNT),
        (LARGEST_READ_COUNT + 1, None),
        (2**63, None),
        (10**30, None),
        (10**400, None),  # larger than any float
        (-1, None),
        (-1_000_000, None),
        (-0.5, None),
        (math.nan, None),
        (math.inf, None),
        ("NaN", None),
        ("many", None),
        ("", None),
        ("1" * 65, None),
        ("1_000", None),
        ("\u0661\u0662", None),
        (True, None),
        (None, None),
        ([1], None),
        ({"tokens": 1}, None),
    ],
)  # fmt: skip
def test_a_count_of_tokens(raw: Any, value: int | None) -> None:
    assert count(raw) == value
    assert type(count(raw)) in (int, type(None))


@pytest.mark.parametrize(
    ("counts", "read_as", "odd"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4}, Usage(3, 4), []),
        ({"input_tokens": 3, "output_tokens": 4}, Usage(3, 4), []),
        ({"prompt_tokens": 1.5, "completion_tokens": 2.5}, Usage(2, 3), []),
        ({"prompt_tokens": "10", "completion_tokens": "5"}, Usage(10, 5), []),
        ({"prompt_tokens": 3, "completion_tokens": 0}, Usage(3, 0), []),
        ({"prompt_tokens": 0, "completion_tokens": 0}, None, []),
        ({"prompt_tokens": 3}, None, []),
        ({"completion_tokens": 3}, None, []),
        ({"prompt_tokens": None, "completion_tokens": 4}, None, []),
        ({}, None, []),
        ({"prompt_tokens": math.nan, "completion_tokens": math.inf}, None,
         ["prompt_tokens", "completion_tokens"]),
        ({"prompt_tokens": 2**63, "completion_tokens": 5}, None, ["prompt_tokens"]),
        ({"prompt_tokens": -1, "completion_tokens": 5}, None, ["prompt_tokens"]),
        ({"input_tokens": 5, "output_tokens": "many"}, None, ["output_tokens"]),
    ],
)  # fmt: skip
def test_the_totals_of_an_answer(
    counts: dict[str, Any], read_as: Usage | None, odd: list[str]
) -> None:
    found: list[Odd] = []
    assert usage(counts, found) == read_as
    assert [each.field for each in found] == odd


def test_a_missing_output_is_none_only_where_the_endpoint_has_none() -> None:
    assert usage({"prompt_tokens": 3}, [], has_output=False) == Usage(3, 0)
    assert usage({"prompt_tokens": 3, "completion_tokens": "x"}, [], has_output=False) is None
    assert usage({"prompt_tokens": 0}, [], has_output=False) is None


NUMBERS: list[tuple[str, float | None, float | None]] = [
    ("500", 500, 500),
    ("0.5", None, 0.5),
    ("0", None, 0),
    ("1", 1, 1),
    ("1e12", LARGEST_LIMIT, LARGEST_LIMIT),
    ("1e13", None, None),
    ("1e300", None, None),
    ("1e-300", None, 1e-300),
    ("1e999", None, None),
    ("-1", None, None),
    ("nan", None, None),
    ("inf", None, None),
    ("soon", None, None),
    ("", None, None),
    ("9" * 65, None, None),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "as_limit", "as_remaining"), NUMBERS)
def test_a_limit_and_what_remains_of_it(
    raw: str, as_limit: float | None, as_remaining: float | None
) -> None:
    names = {Resource.TOKENS: ("limit", "remaining", "reset")}
    told = rate_limits({"limit": raw, "remaining": raw}, names, duration_seconds)
    assert told.get(Resource.TOKENS, RateLimitHeader()) == RateLimitHeader(as_limit, as_remaining)


@pytest.mark.parametrize(
    ("raw", "seconds"),
    [
        ("6m0s", 360.0),
        ("120ms", 0.12),
        ("15us", 15e-6),
        ("15µs", 15e-6),
        ("31d", LONGEST_RESET_SECONDS),
        ("2678400", LONGEST_RESET_SECONDS),
        ("31d1s", None),
        ("2678401", None),
        ("999999999.999999999ms", 999999.999999999),
        ("1234567890ms", None),  # ten digits
        ("1s1", None),
        ("s", None),
        ("1 s", None),
        ("1.s", None),
        ("1m" * 32, 1920.0),
        ("1m" * 33, None),  # 66 characters
        ("\u0661s", None),  # a digit of another script
    ],
)
def test_a_duration(raw: str, seconds: float | None) -> None:
    assert duration_seconds(raw) == pytest.approx(seconds)


DATE = "Sun, 01 Mar 2026 12:10:00 GMT"  # the clock of the server: ten minutes before ours


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "2026-03-01T12:00:30Z"}, 30.0),
        ({"retry-after": "1772366430"}, 30.0),
        ({"retry-after": "1772366430000"}, 30.0),
        ({"retry-after": "1772366400"}, 0.0),
        ({"retry-after": "Sun, 01 Mar 2026 12:10:30 GMT", "date": DATE}, 30.0),
        ({"retry-after": "2026-03-01T12:10:30Z", "date": DATE}, 30.0),
        ({"retry-after": "Sun, 01 Mar 2026 12:09:30 GMT", "date": DATE}, 0.0),
        ({"retry-after": "Sun, 01 Mar 2026 12:00:30 GMT", "date": "today"}, 30.0),
        ({"retry-after": "30", "date": DATE}, 30.0),
        ({"retry-after": "315360000"}, 315_360_000.0),
        ({"retry-after-ms": "1e300"}, 1e297),
        ({"retry-after": "1e300"}, 1e297 - NOW),
        ({"retry-after-ms": "NaN", "retry-after": "inf"}, None),
        ({"retry-after": "Fri, 31 Dec 99999999999999999999 23:59:59 +9999999999999"}, None),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 -9999"}, None),
        ({"retry-after": "7" * 100_000}, None),
        ({"retry-after": "1" + " " * 100_000}, None),
    ],
)
def test_a_pause_in_each_of_its_forms(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_seconds(headers, NOW) == pytest.approx(seconds)


def test_no_stated_pause_is_longer_than_a_quarter_of_an_hour() -> None:
    for raw in ("315360000", "1e300", "Fri, 31 Dec 9999 23:59:59 GMT", "9999-12-31T23:59:59Z"):
        for provider in PROVIDERS.values():
            verdict = provider.judge(Failure(503, {"retry-after": raw}), 1, NOW)
            assert verdict.pause_seconds == 900.0


def test_the_time_of_an_answer_is_its_server_s() -> None:
    assert answered_at({"date": DATE}, NOW) == NOW + 600
    assert answered_at({"date": "soon"}, NOW) == answered_at({}, NOW) == NOW
    assert seconds_until("2026-03-01T12:10:30Z", NOW + 600) == 30.0
    assert seconds_until("9999-12-31T23:59:59Z", NOW) is None


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        ("default", "default"),
        ("rate limit", "rate limit"),
        ("x" * 64, "x" * 64),
        ("x" * 65, None),
        (" default", None),
        ("a\x1b[2J", None),
        ("tier\n", None),
        ("Müll", None),
        ("a\ud800", None),
        ("", None),
        (7, None),
        (None, None),
    ],
)
def test_a_word(raw: Any, value: str | None) -> None:
    assert word(raw) == value


def test_the_name_of_a_model_may_be_longer() -> None:
    assert served_model("x" * 200) == "x" * 200
    assert served_model("x" * 201) is None


def test_what_is_there_without_a_value_is_odd_and_what_tells_nothing_is_not() -> None:
    odd: list[Odd] = []
    assert read("reset", "5s", duration_seconds, odd) == 5
    assert read("reset", None, duration_seconds, odd) is None
    assert read("reset", "", duration_seconds, odd) is None
    assert read("reset", "-1", duration_seconds, odd) is None  # as Azure writes what it counts not
    assert odd == []
    assert read("reset", "1e300", duration_seconds, odd) is None
    assert odd == [Odd("reset")]


HEADERS = {
    "openai": {
        "x-ratelimit-limit-requests": "1e300",
        "x-ratelimit-remaining-requests": "nan",
        "x-ratelimit-reset-tokens": "1" * 60_000 + "x",
        "x-ratelimit-limit-tokens": "100",
    },
    "anthropic": {
        "anthropic-ratelimit-requests-limit": "1e-300",
        "anthropic-ratelimit-tokens-reset": "Fri, 31 Dec 99999999999999999999 23:59:59 GMT",
        "anthropic-ratelimit-tokens-limit": "100",
    },
}


@pytest.mark.parametrize("name", HEADERS)
def test_an_odd_header_is_not_told_and_named_and_the_others_are_told(name: str) -> None:
    odd: list[Odd] = []
    told = PROVIDERS[name].rate_limits(HEADERS[name], NOW, odd)
    assert {str(each): header.limit for each, header in told.items()} == {"tokens": 100}
    assert {each.field for each in odd} == {
        field for field, raw in HEADERS[name].items() if raw != "100"
    }


LONG = 1_000_000
LINEAR: dict[str, Callable[[], object]] = {
    "digits": lambda: duration_seconds("1" * LONG + "x"),
    "amounts": lambda: duration_seconds("1m" * LONG + "x"),
    "fractions": lambda: duration_seconds("1.1" * LONG + "x"),
    "spaces": lambda: retry_after_seconds({"retry-after": " " * LONG + "x"}, NOW),
    "a date": lambda: seconds_until("Sun, " * LONG, NOW),
    "a word": lambda: word("a " * LONG),
    "a count": lambda: count("1" * LONG),
    "azure's text": lambda: PROVIDERS["azure"].judge(
        Failure(429, {}, None, "retry after " + "1" * LONG), 1, NOW
    ),
    "lists in lists": lambda: PROVIDERS["gemini"].judge(
        Failure(429, {}, {"error": {"details": [[{}] * 300] * 300}}), 1, NOW
    ),
    "details in details": lambda: PROVIDERS["gemini"].judge(
        Failure(429, {}, {"error": {"details": [{"details": [{}] * 300}] * 300}}), 1, NOW
    ),
}


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.timeout(20)  # what backtracks over a million characters takes hours
def test_what_is_long_or_nests_is_read_in_linear_time(name: str) -> None:
    LINEAR[name]()


def test_the_parts_of_an_error_are_counted_out() -> None:
    wide = Failure(429, {}, {"error": {"details": [{"code": f"c{n}"} for n in range(10**5)]}})
    assert len(list(wide.parts())) <= MOST_PARTS
    assert "c0" in wide.codes
    deep: Any = {"code": "innermost"}
    for _ in range(10**5):
        deep = {"error": deep}
    assert len(list(Failure(429, {}, deep).parts())) <= MOST_PARTS


@given(st.text(max_size=80) | st.floats() | st.integers() | st.none() | st.booleans())
def test_no_value_whatever_it_is_raises_or_leaves_its_range(raw: Any) -> None:
    tokens = count(raw)
    assert tokens is None or 0 <= tokens <= LARGEST_READ_COUNT
    usage({"prompt_tokens": raw, "completion_tokens": raw}, [])
    word(raw)
    if isinstance(raw, str):
        for seconds in (duration_seconds(raw), seconds_until(raw, NOW)):
            assert seconds is None or 0 <= seconds <= LONGEST_RESET_SECONDS
        pause = retry_after_seconds({"retry-after": raw, "date": raw}, NOW)
        assert pause is None or pause >= 0
        for provider in PROVIDERS.values():
            for headers in HEADERS.values():
                provider.rate_limits(dict.fromkeys(headers, raw), NOW, [])
