"""The sentences, the tables and the cleaning."""

from datetime import datetime

import pytest

from headway.cli.output import clean, one_line, shortened, table
from headway.cli.text import age, clock, duration, next_to_go, status_line, waits_for
from headway_scheduler.core.views import Blocker, Explanation, Statistics
from headway_scheduler.model.quotas import Resource
from headway_scheduler.model.states import CallState

NOW = datetime(2026, 3, 4, 17, 0, 0).timestamp()  # noqa: DTZ001 - what a clock on the wall shows
SHORT = Blocker("q", Resource.REQUESTS, 1, 0.44, NOW + 192)


@pytest.mark.parametrize(
    ("why", "sentence"),
    [
        (Explanation("c", CallState.SENT), "nothing: it is sent"),
        (Explanation("c", CallState.QUEUED), "nothing: it is next"),
        (Explanation("c", CallState.QUEUED, parked=True), "its run is interrupted"),
        (Explanation("c", CallState.QUEUED, not_before=NOW + 1), "sent again at 17:00:01"),
        (Explanation("c", CallState.QUEUED, behind="r-abc.3"), "behind r-abc.3"),
        (
            Explanation("c", CallState.QUEUED, blockers=(SHORT,), behind="r-abc.3"),
            "requests: needs 1, 0.4 free, 17:03:12 · behind r-abc.3",
        ),
        (
            Explanation("c", CallState.QUEUED, blockers=(Blocker("q", None, 0, 0, NOW + 192),)),
            "paused by the provider until 17:03:12",
        ),
        (
            Explanation(
                "c",
                CallState.QUEUED,
                blockers=(
                    Blocker("a", Resource.TOKENS, 11_849, 11_790, NOW + 86_400),
                    Blocker("b", Resource.CONCURRENCY, 1, 0, None),
                ),
            ),
            "a tokens: needs 11.9k, 11.7k free, 2026-03-05 17:00:00 · "
            "b concurrency: needs 1, 0 free, when a call in flight ends",
        ),
        (
            Explanation(
                "c",
                CallState.QUEUED,
                blockers=(Blocker("q", Resource.REQUESTS, 1, 2, NOW),),
            ),
            "requests: needs 1, 2 free for calls before it, 17:00:00",
        ),
    ],
)
def test_what_a_call_waits_for(why: Explanation, sentence: str) -> None:
    assert waits_for(why, NOW) == sentence


def test_the_next_call_is_the_one_that_goes_first_and_not_the_one_that_is_held() -> None:
    paused = Explanation("urgent", CallState.QUEUED, starts_at=NOW + 60)
    soon = Explanation("soon", CallState.QUEUED, starts_at=NOW + 2)
    slot = Blocker("q", Resource.CONCURRENCY, 1, 0, None)
    any_moment = Explanation("any moment", CallState.QUEUED, blockers=(slot,))
    held = Explanation("held", CallState.QUEUED, operator_hold="all paused")
    stopped = Blocker("q", None, 0, 0, None, stopped="bad key")
    locked = Explanation("locked", CallState.QUEUED, blockers=(stopped,))
    assert next_to_go([held, paused, soon], NOW) is soon
    assert next_to_go([locked, paused, any_moment], NOW) is any_moment
    assert next_to_go([locked, held], NOW) is locked
    assert next_to_go([], NOW) is None


def test_the_status_line() -> None:
    statistics = Statistics((1, 0, 0, 0, 1200), 3, 0, ())
    head = Explanation("r-a.0", CallState.QUEUED, blockers=(SHORT,))
    assert status_line(statistics, head, NOW) == (
        "waiting: 1 interactive, 1200 background | in flight: 3 | "
        "next r-a.0: requests: needs 1, 0.4 free, 17:03:12"
    )
    assert status_line(Statistics((0,) * 5, 0, 0, ()), None, NOW) == "waiting: none | in flight: 0"


def test_times() -> None:
    assert [age(NOW - s, NOW) for s in (-1, 59, 60, 7200, 180_000)] == [
        "0s ago",
        "59s ago",
        "1m ago",
        "2h ago",
        "2d ago",
    ]
    assert [duration(s) for s in (0.04, 59.94, 61, 7260)] == [
        "0.0 s",
        "59.9 s",
        "1 min 1 s",
        "2 h 1 min",
    ]
    assert clock(NOW, NOW) == "17:00:00"


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("a\r\nb\rc", "a\nb\\x0dc"),
        ("\x9b\x7f\x00", r"\x9b\x7f\x00"),
        ("\u202egnp\u2066", r"\u202egnp\u2066"),
        ("\ud800", r"\ud800"),
        ("Grüße 👩‍🚀\t日本", "Grüße 👩‍🚀\t日本"),
    ],
)
def test_control_characters_become_visible(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


def test_one_line_and_shortened() -> None:
    assert one_line("a\nb\tc") == r"a\nb c"
    assert shortened("abcdef", 4) == "abc…"
    assert shortened("abcd", 4) == "abcd"


def test_a_table_is_aligned() -> None:
    assert table(("A", "LONG"), [("xx", "y"), ("\x1b", "")]) == "A     LONG\nxx    y\n\\x1b"
