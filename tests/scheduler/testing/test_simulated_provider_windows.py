"""The simulated provider counts in windows as it says: the law that other tests rely on."""

import pytest

from headway_scheduler.testing.provider.gate import Gate
from headway_scheduler.testing.provider.limits import HeaderStyle, Limits
from headway_scheduler.testing.provider.windows import FixedWindow, SlidingWindow, WindowKind


def gate(window: WindowKind, headers: HeaderStyle = HeaderStyle.NONE, offset: float = 0.0) -> Gate:
    limits = Limits(30, window=window, window_seconds=10, headers=headers)  # 5 in 10 s
    return Gate(limits, 0.0, offset)


def admitted(gate: Gate, times: list[float]) -> list[float]:
    return [at for at in times if gate.admit("m", 1, at) is None]


TIMES = [0.0, 1.0, 2.0, 8.0, 9.0, 9.5, 10.5, 11.5, 12.0, 13.0, 18.5, 20.5]


def test_no_sliding_window_has_more_than_its_limit() -> None:
    passed = admitted(gate(WindowKind.SLIDING), TIMES)
    assert passed == [0.0, 1.0, 2.0, 8.0, 9.0, 10.5, 11.5, 12.0, 18.5, 20.5]
    for at in passed:
        assert sum(at - 10 < each <= at for each in passed) <= 5


@pytest.mark.parametrize("kind", [WindowKind.FIXED, WindowKind.MINUTE])
def test_no_fixed_window_has_more_than_its_limit(kind: WindowKind) -> None:
    passed = admitted(gate(kind), TIMES)
    assert set(TIMES) - set(passed) == {9.5}


def test_a_fixed_window_begins_with_the_first_request_in_it() -> None:
    each = FixedWindow(2, 10.0).taken(1, 3.0).taken(1, 4.0)
    assert each.wait_seconds(1, 5.0) == 8.0
    assert each.remaining(12.9) == 0
    assert each.remaining(13.0) == 2
    assert each.taken(1, 20.0).reset_seconds(21.0) == 9.0


def test_a_minute_of_the_clock_begins_at_whole_minutes_of_it() -> None:
    each = FixedWindow(2, 60.0, True, clock_offset=50.0).taken(2, 3.0)
    assert each.wait_seconds(1, 4.0) == 6.0
    assert each.remaining(10.0) == 2


def test_a_sliding_window_forgets_each_request_in_its_turn() -> None:
    each = SlidingWindow(2, 10.0).taken(1, 0.0).taken(1, 4.0)
    assert each.wait_seconds(1, 5.0) == 5.0
    assert each.wait_seconds(2, 5.0) == 9.0
    assert [each.remaining(at) for at in (9.9, 10.0, 14.0)] == [0, 1, 2]
    assert each.reset_seconds(5.0) == 9.0


def test_headers_are_of_the_style_that_was_asked_for() -> None:
    each = gate(WindowKind.SLIDING, HeaderStyle.AZURE)
    assert each.headers(0.0) == {
        "x-ratelimit-limit-requests": "5",
        "x-ratelimit-remaining-requests": "5",
    }
    limits = Limits(
        30,
        concurrency=2,
        window=WindowKind.FIXED,
        window_seconds=10,
        headers=HeaderStyle.LITELLM,
    )
    proxy = Gate(limits, 0.0)
    assert proxy.admit("m", 1, 0.0) is None
    assert proxy.headers(0.0) == {
        "x-ratelimit-api_key-limit-requests": "5",
        "x-ratelimit-api_key-remaining-requests": "4",
        "x-ratelimit-api_key-limit-max_parallel_requests": "2",
        "x-ratelimit-api_key-remaining-max_parallel_requests": "1",
    }
    assert proxy.admit("m", 1, 0.0) is None
    refusal = proxy.admit("m", 1, 0.0)
    assert refusal is not None
    assert refusal.headers() == {"retry-after": "10", "rate_limit_type": "max_parallel_requests"}
