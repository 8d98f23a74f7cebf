"""The provider's limits, as pure functions with explicit times."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway_scheduler.testing.provider import Limits
from headway_scheduler.testing.provider.gate import Gate, Gates
from headway_scheduler.testing.provider.limits import Bucket, format_duration, milliseconds

MODEL = "gpt-4o"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (0.0001, "1ms"),
        (0.12, "120ms"),
        (0.9995, "1s"),
        (1.5, "1.5s"),
        (8.64, "8.64s"),
        (20.0, "20s"),
        (59.9999, "1m0s"),
        (90.5, "1m30.5s"),
        (360.0, "6m0s"),
        (3600.0, "1h0m0s"),
        (90061.25, "25h1m1.25s"),
    ],
)
def test_a_duration_is_written_as_openai_writes_it(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_milliseconds_are_rounded_up_but_not_by_float_noise() -> None:
    assert milliseconds(0.1 + 0.2) == 300
    assert milliseconds(0.3001) == 301


@pytest.mark.parametrize(
    "wrong", [{"requests_per_minute": 0}, {"tokens_per_minute": -1}, {"burst_seconds": 0}]
)
def test_a_limit_must_be_above_zero(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Limits(**wrong)  # type: ignore[arg-type]


def test_a_full_bucket_holds_what_its_burst_says_and_at_least_one_request() -> None:
    assert Limits(60, 6000, burst_seconds=10).request_capacity == 10
    assert Limits(60, 6000, burst_seconds=10).token_capacity == 1000
    assert Limits(3, burst_seconds=1).request_capacity == 1


def test_a_bucket_refills_continuously_up_to_its_capacity() -> None:
    bucket = Bucket.full(60, 10, now=0).taken(10, 0)
    assert bucket.remaining(0) == 0
    assert bucket.remaining(2.5) == 2
    assert bucket.wait_seconds(4, 0) == 4
    assert bucket.wait_seconds(4, 4) == 0
    assert bucket.remaining(1000) == 10
    assert bucket.reset_seconds(4) == 6


def test_a_cost_above_the_capacity_waits_for_a_full_bucket_and_leaves_a_debt() -> None:
    bucket = Bucket.full(60, 10, now=0)
    assert bucket.taken(1, 0).wait_seconds(30, 0) == 1
    owing = bucket.taken(30, 0)
    assert owing.fill == -20
    assert owing.remaining(0) == 0
    assert owing.wait_seconds(1, 0) == 21


def test_a_refused_request_says_when_to_come_back_and_then_passes() -> None:
    gate = Gate(Limits(3), now=0)
    assert [gate.admit(MODEL, 1, 0) for _ in range(3)] == [None] * 3
    refusal = gate.admit(MODEL, 1, 0)
    assert refusal is not None
    assert refusal.body()["error"] == {
        "message": "Rate limit reached for gpt-4o on requests per min (RPM): Limit 3, Used 3, "
        "Requested 1. Please try again in 20s.",
        "type": "requests",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    assert refusal.headers() == {"retry-after": "20", "retry-after-ms": "20000"}
    assert gate.admit(MODEL, 1, 19.9) is not None
    assert gate.admit(MODEL, 1, 20) is None


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        (Limits(60, 600, burst_seconds=1), "requests"),  # 1 s for a request, 0 s for a token
        (Limits(600, 60, burst_seconds=0.1), "tokens"),  # 0.1 s for a request, 1 s for a token
    ],
)
def test_the_refusal_names_the_bucket_that_takes_longest(limits: Limits, why: str) -> None:
    gate = Gate(limits, now=0)
    assert gate.admit(MODEL, 1, 0) is None
    refusal = gate.admit(MODEL, 1, 0)
    assert refusal is not None
    assert (refusal.why, refusal.kind) == (why, why)
    assert refusal.headers() == {"retry-after": "1", "retry-after-ms": "1000"}


def test_a_token_refusal_is_worded_as_openai_words_it() -> None:
    gate = Gate(Limits(600, 600), now=0)
    assert gate.admit(MODEL, 500, 0) is None
    refusal = gate.admit(MODEL, 150, 0)
    assert refusal is not None
    assert refusal.message == (
        "Rate limit reached for gpt-4o on tokens per min (TPM): Limit 600, Used 500, "
        "Requested 150. Please try again in 5s."
    )


def test_a_request_above_the_limit_is_told_so_and_not_when_to_come_back() -> None:
    refusal = Gate(Limits(10, 1000), now=0).admit(MODEL, 1001, 0)
    assert refusal is not None
    assert refusal.message.startswith("Request too large for gpt-4o on tokens per min (TPM)")
    assert refusal.headers() == {}


def test_a_place_is_free_again_when_a_request_leaves() -> None:
    gate = Gate(Limits(concurrency=1), now=0)
    assert gate.admit(MODEL, 1, 0) is None
    refusal = gate.admit(MODEL, 1, 0)
    assert refusal is not None
    assert refusal.why == "concurrency"
    gate.leave()
    assert gate.admit(MODEL, 1, 0) is None


def test_refused_requests_count_only_where_the_limits_say_so() -> None:
    lenient, strict = (Gate(Limits(60, burst_seconds=1, refused_count=c), 0) for c in (False, True))
    for gate in (lenient, strict):
        assert gate.admit(MODEL, 1, 0) is None
        assert gate.admit(MODEL, 1, 0.9) is not None
    assert lenient.admit(MODEL, 1, 1.0) is None
    assert strict.admit(MODEL, 1, 1.0) is not None
    assert strict.admit(MODEL, 1, 2.0) is None


def test_models_share_one_limits_or_have_their_own() -> None:
    shared = Gates(Limits(1), now=0)
    assert shared.of("a", 0) is shared.of("b", 0)
    own = Gates({"a": Limits(1), "*": Limits(2)}, now=0)
    assert own.names() == ("a",)
    assert own.of("a", 0).headers(0)["x-ratelimit-limit-requests"] == "1"
    assert own.of("b", 0).headers(0)["x-ratelimit-limit-requests"] == "2"
    assert own.of("b", 0) is not own.of("c", 0)
    assert Gates({"a": Limits(1)}, now=0).of("b", 0).headers(0) == {}


def test_headers_tell_what_is_left_of_each_limit() -> None:
    gate = Gate(Limits(60, 6000), now=0)
    gate.admit(MODEL, 600, 0)
    assert gate.headers(0) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "5400",
        "x-ratelimit-reset-tokens": "6s",
    }


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(1, 600)), min_size=1, max_size=40))
def test_who_waits_as_told_is_let_in(steps: list[tuple[float, int]]) -> None:
    gate, second = Gate(Limits(30, 600, burst_seconds=10), now=0), 0.0
    for wait, tokens in steps:
        second += wait
        refusal = gate.admit(MODEL, tokens, second)
        if refusal is not None:
            assert refusal.retry_seconds is not None
            second += milliseconds(refusal.retry_seconds) / 1000
            assert gate.admit(MODEL, tokens, second) is None
