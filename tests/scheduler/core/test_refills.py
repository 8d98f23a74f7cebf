"""Windows are mirrored as what they are: none holds more than its limit, and little is lost."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import floor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway_scheduler.core.limits.bucket import TRANSIT_SECONDS, Bucket
from headway_scheduler.core.limits.refills import BLUR_SECONDS
from headway_scheduler.core.limits.reservation import Reservation
from headway_scheduler.model.calls import Call, Priority
from headway_scheduler.model.quotas import BucketState, Limit, Resource, Window

EPOCH = 1_772_366_400.0


def limit(window: Window, number: float, seconds: float, starts: float = EPOCH) -> Limit:
    kind, rate = Resource.TOKENS, number / seconds
    return Limit(kind, number, rate, float("inf"), starts, window, seconds)


def bucket(window: Window, number: float = 60, seconds: float = 60.0) -> Bucket:
    return Bucket("q", limit(window, number, seconds), EPOCH)


# By example


def test_of_a_sliding_window_an_amount_comes_back_when_its_length_has_passed() -> None:
    mirror = bucket(Window.SLIDING)
    mirror.reserve(20, EPOCH)
    mirror.reserve(30, EPOCH + 10)
    arrived = EPOCH + TRANSIT_SECONDS
    levels = [mirror.available(arrived + s) for s in (0, 30, 59.9, 60, 69.9, 70)]
    assert levels == [40 - 30, 10, 10, 30, 30, 60]


def test_it_names_the_time_when_enough_has_come_back() -> None:
    mirror = bucket(Window.SLIDING)
    for second in range(6):
        mirror.reserve(10, EPOCH + second)
    assert mirror.available(EPOCH + 6) == 0
    for amount, second in ((10, 0), (11, 1), (20, 1), (60, 5), (100, 5)):
        at = mirror.ready_at(amount, EPOCH + 6)
        assert at == pytest.approx(EPOCH + second + 60 + TRANSIT_SECONDS, abs=1e-5)
        assert not mirror.passes(amount, EPOCH + 6)


def test_what_was_not_used_comes_back_at_once_and_what_was_used_beside_it_later() -> None:
    mirror = bucket(Window.SLIDING)
    first, second = mirror.reserve(20, EPOCH), mirror.reserve(20, EPOCH)
    mirror.available(EPOCH + 1)
    mirror.settle(first, 5, EPOCH + 1)
    mirror.settle(second, 30, EPOCH + 1)
    assert mirror.available(EPOCH + 1) == 60 - 5 - 30
    assert mirror.available(EPOCH + 61) == 60
    late = mirror.reserve(60, EPOCH + 61)
    assert mirror.available(EPOCH + 122) == 60
    mirror.settle(late, 80, EPOCH + 122)  # its window is over
    assert mirror.available(EPOCH + 122) == 60 - 20
    assert mirror.available(EPOCH + 182) == 60


def test_of_a_fixed_window_all_comes_back_at_its_end_and_nothing_before() -> None:
    mirror = bucket(Window.FIXED)
    mirror.reserve(50, EPOCH + 20)
    levels = [mirror.available(EPOCH + s) for s in (30, 59.9, 60)]
    assert levels == [10, 10, 60]
    assert mirror.ready_at(60, EPOCH + 59) == pytest.approx(EPOCH + 60)


def test_what_is_sent_just_before_the_end_counts_in_both_windows() -> None:
    mirror = bucket(Window.FIXED)
    mirror.reserve(15, EPOCH + 60 - 2 * BLUR_SECONDS)
    mirror.reserve(20, EPOCH + 60 - 0.9 * BLUR_SECONDS)
    mirror.reserve(10, EPOCH + 60 - 0.9 * TRANSIT_SECONDS)
    assert mirror.available(EPOCH + 60) == 60 - 10 - 20
    assert mirror.available(EPOCH + 120) == 60


def test_a_call_above_the_limit_waits_for_an_empty_window() -> None:
    for window in (Window.SLIDING, Window.FIXED):
        mirror = bucket(window)
        mirror.reserve(1, EPOCH)
        assert not mirror.passes(100, EPOCH + 1)
        assert mirror.passes(100, EPOCH + 61)
        mirror.reserve(100, EPOCH + 61)
        assert mirror.available(EPOCH + 62) == -40
        assert mirror.available(EPOCH + 122) == 60


@pytest.mark.parametrize("window", [Window.SLIDING, Window.FIXED])
def test_a_lower_class_leaves_room_evenly_less_and_loses_nothing_for_it(window: Window) -> None:
    mirror, sent = bucket(window, 100, 10.0), 0
    one = Call("c", "r", "a", "m", ("q",), Priority.BACKGROUND, 1, EPOCH)
    now = EPOCH
    while now < EPOCH + 100:
        at = mirror.ready_at(1, now, 0.3)
        assert at is not None
        if at > now:
            kept = 30 * (1 - (now - EPOCH) / 7)
            assert mirror.available(now) >= kept - 2
            now = at
            continue
        mirror.take(one, now)
        sent += 1
    assert 0.93 * 1_000 < sent <= 1_000


def test_what_was_taken_of_a_window_stays_taken_when_its_limit_changes() -> None:
    for window in (Window.SLIDING, Window.FIXED):
        mirror = bucket(window)
        mirror.reserve(50, EPOCH)
        mirror.change(limit(window, 100, 60.0), EPOCH + 1)
        assert mirror.available(EPOCH + 1) == 50
        mirror.change(limit(window, 40, 60.0), EPOCH + 2)
        assert mirror.available(EPOCH + 2) == -10
        assert mirror.available(EPOCH + 61) == 40


def test_what_an_answer_showed_to_be_left_is_free_at_once_when_the_kind_changes() -> None:
    mirror = Bucket("q", Limit(Resource.TOKENS, 8, 8, 600), EPOCH)
    first = mirror.reserve(1, EPOCH)
    mirror.reserve(2, EPOCH)
    mirror.change(limit(Window.SLIDING, 60, 60.0), EPOCH + 0.01, first, 59)
    assert 55 < mirror.available(EPOCH + 0.01) <= 57
    other = Bucket("q", Limit(Resource.TOKENS, 8, 8, 600), EPOCH)
    other.reserve(8, EPOCH)
    other.change(limit(Window.SLIDING, 60, 60.0), EPOCH + 0.01)
    assert other.available(EPOCH + 0.01) <= 0.1  # nothing is known
    assert other.available(EPOCH + 61) == 60


@pytest.mark.parametrize("window", [Window.SLIDING, Window.FIXED])
def test_what_is_stored_of_a_window_comes_back_no_sooner(window: Window) -> None:
    mirror = bucket(window)
    mirror.reserve(50, EPOCH + 10)
    state = mirror.state(EPOCH + 15, None)
    again = bucket(window)
    again.restore(state, EPOCH + 15)
    for seconds in (15, 40, 59, 61, 71, 80):
        assert again.available(EPOCH + seconds) <= mirror.available(EPOCH + seconds)
    assert again.available(EPOCH + 80) == 60
    again.restore(BucketState("q", Resource.TOKENS, 60, EPOCH), EPOCH)


# Other clients of the key


def told(mirror: Bucket, remaining: float, at: float) -> None:
    """Ask a call of 1, whose answer tells what remained when it came."""
    reservation = mirror.reserve(1, at)
    mirror.correct(reservation, remaining, at + 0.9)
    mirror.settle(reservation, 1, at + 0.9)


def test_what_others_take_of_a_sliding_window_stays_taken() -> None:
    """They go on: in each window there is as much of theirs as answers last showed."""
    mirror = bucket(Window.SLIDING)
    told(mirror, 38, EPOCH)
    assert mirror.available(EPOCH + 1) == 39
    told(mirror, 37, EPOCH + 30)
    assert mirror.available(EPOCH + 31) == 38
    assert mirror.available(EPOCH + 62) == 39  # our first call has left the window, theirs have not


def test_headroom_is_a_share_of_what_others_leave() -> None:
    mirror = bucket(Window.SLIDING)
    told(mirror, 18, EPOCH)
    assert mirror.available(EPOCH + 1) == 19
    assert mirror.passes(19 - 0.3 * 20, EPOCH + 1, headroom=0.3)
    assert not mirror.passes(20 - 0.3 * 20, EPOCH + 1, headroom=0.3)
    assert mirror.need(60) == 20
    told(mirror, 0, EPOCH + 2)
    assert mirror.ready_at(1, EPOCH + 3, headroom=0.3) is not None


def test_what_others_take_shrinks_when_all_answers_of_a_while_show_more() -> None:
    mirror = bucket(Window.SLIDING)
    told(mirror, 38, EPOCH)
    told(mirror, 58, EPOCH + 2)  # it may have overtaken what left before it
    told(mirror, 37, EPOCH + 3)
    told(mirror, 57, EPOCH + 5)
    assert mirror.available(EPOCH + 6) == 36
    for second in range(61, 66):
        told(mirror, 59 - (second - 61), EPOCH + second)
    assert mirror.available(EPOCH + 66.5) == pytest.approx(60 - 5, abs=1)


def test_others_of_whom_no_answer_tells_any_more_are_let_go_by_halves() -> None:
    """They may leave us nothing, and without a request no answer says that they are gone."""
    mirror = bucket(Window.SLIDING)
    told(mirror, 0, EPOCH)
    assert mirror.available(EPOCH + 60.5) == pytest.approx(2)
    for minute, free in ((1, 31), (2, 45.5), (3, 52.75), (9, 60)):
        at = EPOCH + 60 * minute
        assert mirror.ready_at(free, at) == pytest.approx(at + 0.9)
        assert mirror.available(at + 0.9) == pytest.approx(free)


# The theorem, for windows


@dataclass
class Server:
    """A provider that counts in windows. It shares no code with ours."""

    number: float
    seconds: float
    is_sliding: bool
    taken: list[list[float]] = field(default_factory=list)  # time and amount

    def level(self, now: float) -> float:
        start = now - self.seconds
        if not self.is_sliding:
            start = now - (now - EPOCH) % self.seconds - 1e-9
        return self.number - sum(amount for at, amount in self.taken if at > start)

    def arrive(self, amount: float, now: float) -> list[float]:
        assert self.level(now) + 1e-6 >= min(amount, self.number), "the provider refused"
        self.taken.append([now, amount])
        return self.taken[-1]


@dataclass(frozen=True)
class Ask:
    """A call as hypothesis draws it: times in seconds, shares of the most that may be."""

    gap: float
    amount: float
    wait: float  #: until it is sent
    travel: float  #: share of the longest travel time
    answer: float  #: from arrival to the answer
    used: float  #: share of the amount, given back when the answer leaves
    tells: bool  #: whether the answer tells what remained when the request came


ASKS = st.lists(
    st.builds(
        Ask,
        gap=st.sampled_from([0.0, 0.1, 0.5, 3.0, 10.0]) | st.floats(0, 20),
        amount=st.sampled_from([0.02, 0.1, 0.5, 1.0, 1.5]),
        wait=st.sampled_from([0.0, 0.3]) | st.floats(0, 5),
        travel=st.sampled_from([0.0, 1.0]) | st.floats(0, 1),
        answer=st.sampled_from([0.0, 1.0]) | st.floats(0, 30),
        used=st.sampled_from([0.0, 0.5, 1.0]),
        tells=st.booleans(),
    ),
    max_size=14,
)


@settings(deadline=None)
@given(
    asks=ASKS,
    is_sliding=st.booleans(),
    seconds=st.sampled_from([1.0, 10.0, 60.0]),
    late=st.sampled_from([0.0, 1.0]) | st.floats(0, 1),
)
def test_no_window_holds_more_than_its_limit(
    asks: list[Ask], is_sliding: bool, seconds: float, late: float
) -> None:
    number = 100.0
    kind = Window.SLIDING if is_sliding else Window.FIXED
    late = 0.0 if is_sliding else late * min(BLUR_SECONDS, 0.5 * seconds)
    ours = Bucket("q", limit(kind, number, seconds, EPOCH + late), EPOCH)
    server = Server(number, seconds, is_sliding)
    longest = min(TRANSIT_SECONDS, 0.05 * seconds)
    agenda: list[tuple[float, int, Callable[[float], None]]] = []
    now, count = EPOCH, 0

    def plan(at: float, act: Callable[[float], None]) -> None:
        nonlocal count
        count += 1
        agenda.append((at, count, act))
        agenda.sort(key=lambda entry: entry[:2])

    def run_until(until: float) -> None:
        nonlocal now
        while agenda and agenda[0][0] <= until:
            at, _, act = agenda.pop(0)
            act(at)
        now = until

    def follow(ask: Ask, amount: float, reservation: Reservation) -> None:
        row: list[float] = []
        told = [0.0]

        def arrive(at: float) -> None:
            row.extend(server.arrive(amount, at))
            told[0] = max(0, floor(server.level(at)))

        def answer(at: float) -> None:
            entry = next(each for each in server.taken if each == row)
            entry[1] = amount * ask.used
            if ask.tells:
                before = ours.available(at)
                ours.correct(reservation, told[0], at)
                assert ours.available(at) >= before - 1e-6, "what was there was taken away"
            ours.settle(reservation, amount * ask.used, at)

        sent = now + ask.wait
        plan(sent, lambda at: ours.send(reservation, at))
        plan(sent + ask.travel * longest, arrive)
        plan(sent + ask.travel * longest + ask.answer, answer)

    for ask in asks:
        run_until(now + ask.gap)
        amount = ask.amount * number
        while (ready_at := ours.ready_at(amount, now)) != now:
            run_until(agenda[0][0] if ready_at is None else ready_at)
        follow(ask, amount, ours.reserve(amount, now, is_sent=False))
    run_until(now + 300)
    assert ours.reserved == pytest.approx(0, abs=1e-6)
    assert ours.available(now) == pytest.approx(number)


# Forecasts


def forecast(mirror: Bucket, now: float) -> float:
    """When a call that takes 1 and leaves 30 % may go, as it is told to people."""
    at = mirror.refilled_at(1, mirror.kept(1, 0.3), now, now)
    assert at is not None
    return at


@settings(max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 50), st.integers(1, 12)), min_size=1, max_size=30))
def test_the_forecast_of_a_sliding_window_is_kept(taken: list[tuple[float, int]]) -> None:
    mirror, now = bucket(Window.SLIDING), EPOCH + 55
    for after, amount in sorted(taken):
        if mirror.available(EPOCH + after) >= amount:
            mirror.reserve(amount, EPOCH + after)
    expected = now if mirror.passes(1, now, headroom=0.3) else forecast(mirror, now)
    while not mirror.passes(1, now, headroom=0.3):
        assert forecast(mirror, now) == pytest.approx(expected)
        now += 0.25
    assert expected <= now <= expected + 0.5


def test_a_process_that_reads_forecasts_the_same_as_long_as_nothing_happens() -> None:
    mirror = bucket(Window.SLIDING)
    mirror.reserve(55, EPOCH)
    stored = mirror.state(EPOCH + 2, None)

    def read(now: float) -> float:
        other = bucket(Window.SLIDING)
        other.restore(stored, now)
        return forecast(other, now)

    assert read(EPOCH + 5) == read(EPOCH + 30) > EPOCH + 30
