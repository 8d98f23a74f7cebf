"""When runs of schedules are queued: over clock changes, after a stop, beside the run before."""

from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway_scheduler.core.schedules import (
    MOST_CAUGHT_UP,
    check_cron,
    defined,
    meet,
    missed,
    next_time,
    resumed,
    run_key,
    zone_of,
)
from headway_scheduler.errors import CallerError
from headway_scheduler.model.calls import Priority
from headway_scheduler.model.data import replace
from headway_scheduler.model.runs import Run
from headway_scheduler.model.schedules import Overlap, Schedule, ScheduleState
from headway_scheduler.model.states import RunState

RUN = Run("", "digest", "Today", Priority.NORMAL, RunState.QUEUED, 0.0)
BERLIN = ZoneInfo("Europe/Berlin")
DAY = 86_400.0


def at(text: str, zone: ZoneInfo = BERLIN, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp()


def spoken(moment: float, zone: ZoneInfo = BERLIN) -> str:
    return datetime.fromtimestamp(moment, zone).isoformat()


def schedule(cron: str, zone: str = "Europe/Berlin", **changes: object) -> Schedule:
    return replace(Schedule("nightly", cron, zone, RUN), **changes)


def times(cron: str, after: float, count: int) -> list[str]:
    found: list[float] = []
    for _ in range(count):
        found.append(next_time(schedule(cron), found[-1] if found else after))
    return [spoken(each) for each in found]


# Clock changes: in 2026 Berlin's clocks go from 02:00 to 03:00 on 29 March, and from 03:00 to 02:00
# on 25 October.


def test_a_time_that_spring_skips_comes_right_after_and_the_next_day_as_ever() -> None:
    assert times("30 2 * * *", at("2026-03-28T12:00"), 2) == [
        "2026-03-29T03:00:00+02:00",
        "2026-03-30T02:30:00+02:00",
    ]


def test_two_times_that_spring_skips_come_as_one() -> None:
    assert times("0,30 2 * * *", at("2026-03-28T12:00"), 2) == [
        "2026-03-29T03:00:00+02:00",
        "2026-03-30T02:00:00+02:00",
    ]


def test_a_time_that_autumn_has_twice_comes_once() -> None:
    assert times("30 2 * * *", at("2026-10-24T12:00"), 2) == [
        "2026-10-25T02:30:00+02:00",
        "2026-10-26T02:30:00+01:00",
    ]


@pytest.mark.parametrize("minute", ["00", "10", "29", "30", "45"])
def test_looked_at_in_the_second_of_two_hours_it_is_over(minute: str) -> None:
    second = at(f"2026-10-25T02:{minute}", fold=1)
    assert times("30 2 * * *", second, 1) == ["2026-10-26T02:30:00+01:00"]
    assert missed(schedule("30 2 * * *"), at("2026-10-25T00:00"), second) == [
        at("2026-10-25T02:30")
    ]


def test_a_quarter_of_an_hour_stays_one_in_both() -> None:
    for day in ("2026-03-29", "2026-10-25"):
        begin, end = at(f"{day}T00:00"), at(f"{day}T06:00")
        found = [begin, *missed(schedule("*/15 * * * *"), begin + 1, end)]
        assert {b - a for a, b in pairwise(found)} == {900.0}
        assert found[-1] == end


@given(
    st.sampled_from(["30 2 * * *", "0 0 * * *", "15 3 * * SUN", "59 1,2,3 * * *", "0 3 29 3 *"]),
    st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Tehran"]),
    st.integers(0, 20 * 365),
    st.integers(0, 86_399),
)
def test_a_day_of_fixed_hours_has_each_once_whatever_the_clocks_do(
    cron: str, zone: str, day: int, second: int
) -> None:
    """However a stretch of time is cut into looks, the same times are met."""
    daily = schedule(cron, zone)
    begin = day * DAY + 1_000_000_000.0
    end = begin + 3 * DAY
    whole = missed(daily, begin, end)
    cut = begin + second * 3
    assert missed(daily, begin, cut) + missed(daily, cut + 1, end) == whole
    assert len(set(whole)) == len(whole)
    for each in whole:
        assert next_time(daily, each - 1) == each


def test_the_zone_decides() -> None:
    noon = at("2026-06-01T12:00")
    assert next_time(schedule("0 3 * * *", "UTC"), noon) == at("2026-06-02T05:00")
    assert next_time(schedule("0 3 * * *", "America/New_York"), noon) == at("2026-06-02T09:00")


# What is permitted


@pytest.mark.parametrize(
    ("cron", "why"),
    [
        ("", "wrong number of fields"),
        ("@daily", "wrong number of fields"),
        ("0 3 * *", "wrong number of fields"),
        ("0 0 3 * * *", "wrong number of fields"),
        ("61 3 * * *", "bad minute"),
        ("0 25 * * *", "bad hour"),
        ("0 3 32 * *", "bad day-of-month"),
        ("0 3 * 13 *", "bad month"),
        ("0 3 * * 8", "bad day-of-week"),
        ("0 3 31 2 *", "bad day-of-month"),
        ("x 3 * * *", "bad minute"),
        ("5-1 3 * * *", "bad minute"),
    ],
)
def test_a_bad_expression_is_the_callers_mistake(cron: str, why: str) -> None:
    with pytest.raises(CallerError, match=r"cron must have five fields, minute hour day-of-month"):
        check_cron(cron)
    with pytest.raises(CallerError, match=why):
        next_time(schedule(cron), 0.0)


@given(st.text("*/-,#LW0123456789 MONJAN@?", max_size=30))
def test_any_text_is_an_expression_or_a_callers_mistake(cron: str) -> None:
    try:
        check_cron(cron)
    except CallerError:
        return
    assert next_time(schedule(cron), 1e9) > 1e9


@pytest.mark.parametrize(
    "name", ["Mars/Olympus", "", "../etc/passwd", "/etc/localtime", "\0", "Europe"]
)
def test_a_bad_zone_is_the_callers_mistake(name: str) -> None:
    with pytest.raises(CallerError, match=r"zone must be a time zone, as in 'Europe/Berlin'"):
        zone_of(name)


# Meeting times

NOON = at("2026-06-01T12:00", ZoneInfo("UTC"))


def hourly(overlap: Overlap, **changes: object) -> ScheduleState:
    state = ScheduleState(schedule("0 * * * *", "UTC", overlap=overlap), NOON)
    return replace(state, **changes)


def hours(*counts: int) -> tuple[float, ...]:
    return tuple(NOON + 3600 * count for count in counts)


def test_before_its_time_nothing_changes() -> None:
    state = hourly(Overlap.SKIP)
    assert meet(state, NOON - 0.001, is_open=False) == (state, ())


@pytest.mark.parametrize("overlap", Overlap)
def test_a_time_is_met_once(overlap: Overlap) -> None:
    met, queued = meet(hourly(overlap), NOON, is_open=False)
    assert queued == hours(0)
    assert met.next_at == NOON + 3600
    assert meet(met, NOON + 3599, is_open=overlap is Overlap.SKIP) == (met, ())


def test_while_the_run_before_is_open_skip_queues_nothing() -> None:
    met, queued = meet(hourly(Overlap.SKIP), NOON + 7200, is_open=True)
    assert queued == ()
    assert (met.next_at, met.skipped, met.buffered_at) == (NOON + 3 * 3600, 3, None)
    met, queued = meet(met, NOON + 3 * 3600, is_open=False)
    assert queued == hours(3)
    assert met.skipped == 0


def test_buffer_one_keeps_the_first_until_the_run_before_has_ended() -> None:
    met, queued = meet(hourly(Overlap.BUFFER_ONE), NOON, is_open=True)
    assert (queued, met.buffered_at) == ((), NOON)
    met, queued = meet(met, NOON + 3600, is_open=True)
    assert (queued, met.buffered_at, met.skipped) == ((), NOON, 1)
    met, queued = meet(met, NOON + 3700, is_open=False)
    assert (queued, met.buffered_at, met.skipped) == (hours(0), None, 0)
    assert met.next_at == NOON + 7200


def test_what_was_buffered_goes_first_and_the_next_one_is_buffered_then() -> None:
    met, queued = meet(hourly(Overlap.BUFFER_ONE, buffered_at=NOON - 3600), NOON, is_open=False)
    assert (queued, met.buffered_at) == (hours(-1), NOON)


def test_allow_all_asks_for_nothing() -> None:
    _, queued = meet(hourly(Overlap.ALLOW_ALL), NOON + 7200, is_open=True)
    assert queued == hours(0, 1, 2)


@pytest.mark.parametrize(
    ("overlap", "queued", "buffered", "skipped"),
    [
        (Overlap.SKIP, hours(0), None, 4),
        (Overlap.BUFFER_ONE, hours(0), NOON + 3600, 3),
        (Overlap.ALLOW_ALL, hours(0, 1, 2, 3, 4), None, 0),
    ],
)
def test_missed_times_are_caught_up_by_the_policy(
    overlap: Overlap, queued: tuple[float, ...], buffered: float | None, skipped: int
) -> None:
    met, found = meet(hourly(overlap), NOON + 4 * 3600 + 5, is_open=False)
    assert (found, met.buffered_at, met.skipped) == (queued, buffered, skipped)
    assert met.next_at == NOON + 5 * 3600


def test_what_is_older_than_the_window_is_left_out() -> None:
    state = hourly(Overlap.ALLOW_ALL)
    state = replace(state, schedule=replace(state.schedule, catchup_seconds=7200.0))
    met, queued = meet(state, NOON + 4 * 3600 + 5, is_open=False)
    assert queued == hours(3, 4)
    assert met.next_at == NOON + 5 * 3600


def test_of_a_year_of_minutes_the_last_ones_are_caught_up() -> None:
    state = ScheduleState(schedule("* * * * *", overlap=Overlap.ALLOW_ALL), NOON)
    now = NOON + 365 * DAY
    met, queued = meet(state, now, is_open=False)
    assert MOST_CAUGHT_UP / 2 - 1 <= len(queued) <= MOST_CAUGHT_UP
    assert queued[-1] == now
    assert {b - a for a, b in pairwise(queued)} == {60.0}
    assert met.next_at == now + 60


def test_a_paused_schedule_meets_nothing_and_catches_nothing_up() -> None:
    paused = hourly(Overlap.ALLOW_ALL, is_paused=True, buffered_at=NOON - 3600)
    assert meet(paused, NOON + 7200, is_open=False) == (paused, ())
    state = resumed(paused, NOON + 7260)
    assert (state.is_paused, state.buffered_at, state.next_at) == (False, None, NOON + 3 * 3600)


def test_a_next_time_that_a_wrong_clock_left_is_moved_back() -> None:
    met, queued = meet(hourly(Overlap.SKIP, next_at=NOON + 10 * 365 * DAY), NOON + 1, is_open=False)
    assert (met.next_at, queued) == (NOON + 3600, ())


# Definitions


def test_a_new_definition_keeps_what_became_of_it() -> None:
    state = hourly(Overlap.SKIP, last_run="r-1", last_at=NOON - 3600, skipped=2, is_paused=True)
    other = replace(state.schedule, run=replace(RUN, task="Tomorrow"))
    assert defined(other, state, NOON + 5) == replace(state, schedule=other)


@pytest.mark.parametrize("change", [{"cron": "30 * * * *"}, {"zone": "Asia/Kolkata"}])
def test_another_expression_or_zone_begins_anew(change: dict[str, str]) -> None:
    state = hourly(Overlap.SKIP)
    other = replace(state.schedule, **change)
    assert defined(other, state, NOON + 5).next_at == NOON + 1800


def test_a_schedule_begins_after_it_is_defined() -> None:
    assert defined(schedule("0 * * * *", "UTC"), None, NOON).next_at == NOON + 3600


def test_a_key_names_the_schedule_and_the_time_in_utc() -> None:
    first, second = at("2026-10-25T02:30"), at("2026-10-25T02:30", fold=1)
    daily = schedule("30 2 * * *")
    assert run_key(daily, first) == "schedule:nightly:2026-10-25T00:30:00Z"
    assert run_key(daily, second) == "schedule:nightly:2026-10-25T01:30:00Z"
    assert datetime.fromtimestamp(first, UTC).hour == 0
