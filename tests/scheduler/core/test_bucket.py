"""A bucket keeps the theorem of its module: it never believes more than the provider has."""

from dataclasses import dataclass
from math import floor

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from headway_scheduler.core.limits.bucket import CALM_SECONDS, TRANSIT_SECONDS, Bucket
from headway_scheduler.core.limits.reservation import Reservation
from headway_scheduler.model.quotas import BucketState, Limit, Resource

EPOCH = 1_772_366_400.0
LATER = EPOCH + 3_600.0


def bucket(capacity: float = 60.0, per_second: float = 1.0, now: float = EPOCH) -> Bucket:
    return Bucket("q", Limit(Resource.TOKENS, capacity, per_second, largest=600.0), now)


def slots(count: int) -> Bucket:
    return Bucket("q", Limit(Resource.CONCURRENCY, count, 0.0, largest=1), EPOCH)


def charged(mirror: Bucket, amount: float, now: float = EPOCH) -> Reservation:
    """Reserve ``amount`` and let the transit time go by."""
    reservation = mirror.reserve(amount, now)
    mirror.available(now + TRANSIT_SECONDS)
    assert reservation.charged
    return reservation


# Refill


def test_a_new_bucket_is_full() -> None:
    assert bucket(60).available(EPOCH) == 60


def test_it_refills_at_its_rate_up_to_its_capacity() -> None:
    mirror = bucket(60, 1)
    charged(mirror, 50)
    start = EPOCH + TRANSIT_SECONDS
    assert [mirror.available(start + s) for s in (0, 5, 50, 99)] == [10, 15, 60, 60]


def test_a_clock_that_goes_back_neither_refills_nor_takes_away() -> None:
    mirror = bucket(60, 1)
    charged(mirror, 50)
    before = mirror.available(EPOCH + 10)
    assert mirror.available(EPOCH - 1_000) == before
    assert mirror.available(EPOCH + 10) == before
    assert mirror.available(EPOCH + 11) == before + 1


# Reserve and charge


def test_a_reserved_amount_is_not_available() -> None:
    mirror = bucket(60)
    mirror.reserve(20, EPOCH)
    assert (mirror.fill, mirror.reserved, mirror.available(EPOCH)) == (60, 20, 40)


def test_after_the_transit_time_it_is_charged_and_only_then_refills() -> None:
    mirror = bucket(60, 1)
    mirror.reserve(20, EPOCH)
    assert mirror.available(EPOCH + TRANSIT_SECONDS) == 40
    assert (mirror.fill, mirror.reserved) == (40, 0)
    assert mirror.available(EPOCH + TRANSIT_SECONDS + 3) == 43


def test_amounts_in_transit_are_charged_each_at_its_own_time() -> None:
    mirror = bucket(600, 10)
    mirror.reserve(20, EPOCH)
    mirror.reserve(20, EPOCH + 0.25)
    assert mirror.available(EPOCH + 0.75) == 600 - 20 + 2.5 - 20


def test_a_small_bucket_waits_only_a_share_of_its_fill_time() -> None:
    mirror = bucket(capacity=1, per_second=1)
    mirror.reserve(1, EPOCH)
    mirror.available(EPOCH + 0.05)
    assert mirror.reserved == 0


def test_a_burst_is_remembered_until_its_answers_are_judged_though_another_one_follows() -> None:
    mirror = bucket(capacity=1, per_second=1)
    for n in range(5):
        mirror.settle(mirror.reserve(1, EPOCH + 2 * n), 1, EPOCH + 2 * n)
    assert mirror.burst_at == EPOCH


def test_a_transit_time_that_grew_for_a_refusal_shrinks_when_none_comes() -> None:
    mirror = bucket(60, 60)
    for seconds in (0.05, 0.1, 0.2, 0.4, 0.5, 0.5):
        reservation = mirror.reserve(1, EPOCH)
        assert reservation.charge_at == pytest.approx(EPOCH + seconds)
        mirror.settle(reservation, 0, EPOCH)
        mirror.available(EPOCH)
        mirror.widen_transit(EPOCH)
    mirror.available(EPOCH + CALM_SECONDS + 1)
    later = mirror.reserve(1, EPOCH + CALM_SECONDS + 1)
    assert later.charge_at == pytest.approx(EPOCH + CALM_SECONDS + 1.25)


def test_each_request_is_charged_at_its_own_time_and_not_behind_an_unsent_one() -> None:
    mirror = bucket(60, 1)
    first, second = (mirror.reserve(20, EPOCH, is_sent=False) for _ in range(2))
    mirror.send(second, EPOCH + 1)
    assert mirror.available(EPOCH + 11.5) == 60 - 20 - 20 + 10
    assert (first.charged, second.charged) == (False, True)


def test_a_call_above_the_capacity_waits_for_a_full_bucket() -> None:
    mirror = bucket(60, 1)
    reservation = mirror.reserve(1, EPOCH)
    assert not mirror.passes(100, EPOCH)
    mirror.settle(reservation, 0, EPOCH)
    assert mirror.passes(100, EPOCH)


def test_and_leaves_it_in_debt() -> None:
    mirror = bucket(60, 1)
    mirror.reserve(100, EPOCH)
    assert mirror.available(EPOCH) == -40
    assert not mirror.passes(1, EPOCH + TRANSIT_SECONDS + 40)
    assert mirror.passes(1, EPOCH + TRANSIT_SECONDS + 41)


# Settle


def test_settling_before_the_charge_charges_what_was_used() -> None:
    mirror = bucket(60)
    reservation = mirror.reserve(20, EPOCH)
    mirror.settle(reservation, 5, EPOCH)
    assert (mirror.fill, mirror.reserved) == (55, 0)


def test_settling_after_the_charge_gives_the_difference_back() -> None:
    mirror = bucket(60)
    reservation = charged(mirror, 20)
    mirror.settle(reservation, 5, EPOCH + TRANSIT_SECONDS)
    assert mirror.available(EPOCH + TRANSIT_SECONDS) == 55


def test_a_call_that_was_never_sent_gives_everything_back() -> None:
    mirror = bucket(60)
    mirror.settle(mirror.reserve(20, EPOCH), 0, EPOCH)
    assert mirror.available(EPOCH) == 60


def test_an_oversized_call_that_was_never_sent_takes_its_debt_along() -> None:
    mirror = bucket(60, 1)
    reservation = charged(mirror, 600)
    mirror.settle(reservation, 0, EPOCH + 10)
    assert mirror.available(EPOCH + 10) == 60


def test_more_used_than_reserved_is_taken_too() -> None:
    mirror = bucket(60)
    reservation = charged(mirror, 20)
    mirror.settle(reservation, 30, EPOCH + TRANSIT_SECONDS)
    assert mirror.available(EPOCH + TRANSIT_SECONDS) == 30


def test_a_late_return_does_not_bring_back_what_a_full_bucket_would_have_lost() -> None:
    mirror = bucket(60, 1)
    never_sent = charged(mirror, 20)
    assert mirror.available(EPOCH + 100) == 60
    charged(mirror, 60, EPOCH + 100)
    mirror.settle(never_sent, 0, EPOCH + 100 + TRANSIT_SECONDS)
    assert mirror.available(EPOCH + 100 + TRANSIT_SECONDS) == 0


def test_nor_does_it_once_the_limit_is_raised() -> None:
    mirror = bucket(60, 1)
    never_sent = charged(mirror, 20)
    assert mirror.available(EPOCH + 100) == 60
    mirror.change(Limit(Resource.TOKENS, 240, 1, largest=600), EPOCH + 100)
    mirror.settle(never_sent, 0, EPOCH + 100)
    assert mirror.available(EPOCH + 100) == 60


def test_what_came_between_a_cut_limit_and_its_return_is_lost_too() -> None:
    mirror = bucket(60, 1)
    never_sent = charged(mirror, 20)
    mirror.change(Limit(Resource.TOKENS, 30, 1, largest=600), EPOCH + 1)
    mirror.change(Limit(Resource.TOKENS, 60, 1, largest=600), EPOCH + 1)
    mirror.settle(never_sent, 0, EPOCH + 1)
    assert mirror.available(EPOCH + 1) == 30


def test_two_late_returns_do_not_share_one_loss() -> None:
    mirror = bucket(10, 1)
    first, second = mirror.reserve(5, EPOCH), mirror.reserve(5, EPOCH)
    assert mirror.available(EPOCH + 6.5) == 6
    third = mirror.reserve(6, EPOCH + 6.5)
    mirror.settle(third, 6, EPOCH + 6.5)
    mirror.settle(first, 0, EPOCH + 6.5)
    mirror.settle(second, 0, EPOCH + 6.5)
    assert mirror.available(EPOCH + 6.5) == 4


def test_a_return_of_an_earlier_call_makes_room_for_no_more_than_it_gave() -> None:
    mirror = bucket(10, 1)
    first, second = mirror.reserve(5, EPOCH), mirror.reserve(5, EPOCH)
    mirror.settle(second, 0, EPOCH + 0.5)
    mirror.settle(first, 0, EPOCH + 0.5)
    assert mirror.available(EPOCH + 0.5) == 10


# Concurrency


def test_concurrency_is_held_until_the_end_however_long() -> None:
    mirror = slots(2)
    reservations = [mirror.reserve(1, EPOCH) for _ in range(2)]
    assert mirror.available(LATER) == 0
    mirror.settle(reservations[0], 1, LATER)
    assert mirror.available(LATER) == 1


def test_no_time_can_be_named_for_concurrency() -> None:
    mirror = slots(1)
    assert mirror.ready_at(1, EPOCH) == EPOCH
    mirror.reserve(1, EPOCH)
    assert mirror.ready_at(1, EPOCH) is None


# When to ask again


def test_what_passes_is_ready_now() -> None:
    assert bucket(60).ready_at(60, EPOCH) == EPOCH


@settings(deadline=None)
@given(
    capacity=st.floats(1, 1e7),
    fill_seconds=st.floats(0.1, 86_400),
    taken=st.lists(st.floats(0.01, 1.5), min_size=1, max_size=5),
    wanted=st.floats(0.001, 1.5),
    gap=st.floats(0, 1),
)
def test_at_the_named_time_it_passes_and_not_much_before(
    capacity: float, fill_seconds: float, taken: list[float], wanted: float, gap: float
) -> None:
    mirror, now = bucket(capacity, capacity / fill_seconds), EPOCH
    for share in taken:
        mirror.reserve(share * capacity, now)
        now += gap
    amount, asked = wanted * capacity, 0
    while not mirror.passes(amount, now):
        ready_at = mirror.ready_at(amount, now)
        assert ready_at is not None
        assert ready_at > now, "asking again at once would spin"
        if ready_at - now > 1e-3:
            assert not mirror.passes(amount, ready_at - 5e-4)
        now, asked = ready_at, asked + 1
    assert asked <= len(taken) + 1


# Store


def test_what_is_stored_counts_reservations_as_spent() -> None:
    mirror = bucket(60)
    mirror.reserve(20, EPOCH)
    state = mirror.state(EPOCH, None)
    assert (state.quota, state.resource, state.available) == ("q", Resource.TOKENS, 40)


def test_a_restored_bucket_has_what_was_stored_and_what_refilled_since() -> None:
    mirror = bucket(60, 1, now=LATER)
    mirror.restore(BucketState("q", Resource.TOKENS, 10, LATER - 5), LATER)
    assert mirror.available(LATER) == 15


def test_a_restored_debt_is_still_owed() -> None:
    mirror = bucket(60, 1, now=LATER)
    mirror.restore(BucketState("q", Resource.TOKENS, -40, LATER), LATER)
    assert mirror.available(LATER) == -40


def test_if_the_clock_went_back_nothing_has_refilled() -> None:
    mirror = bucket(60, 1)
    mirror.restore(BucketState("q", Resource.TOKENS, 10, LATER), EPOCH)
    assert mirror.available(EPOCH) == 10
    assert mirror.available(EPOCH + 5) == pytest.approx(15, abs=TRANSIT_SECONDS)


def test_a_stored_level_above_a_lowered_limit_is_cut_to_it() -> None:
    mirror = bucket(30)
    mirror.restore(BucketState("q", Resource.TOKENS, 60, EPOCH), EPOCH)
    assert mirror.available(EPOCH) == 30


def test_what_was_in_transit_when_stored_starts_to_refill_no_sooner_than_before() -> None:
    mirror = bucket(60, 1)
    mirror.reserve(20, EPOCH)
    again = bucket(60, 1)
    again.restore(mirror.state(EPOCH, None), EPOCH)
    times = [EPOCH + s for s in (0.0, 0.25, 0.5, 1.0)]
    assert [again.available(t) for t in times] == [mirror.available(t) for t in times]


def test_a_call_in_flight_over_a_restart_is_not_charged_twice() -> None:
    mirror = bucket(60, 1)
    mirror.restore(BucketState("q", Resource.TOKENS, 40, EPOCH), EPOCH)
    reservation = mirror.adopt(20)
    assert mirror.available(EPOCH) == 40
    mirror.settle(reservation, 20, EPOCH)
    assert mirror.available(EPOCH) == 40


def test_a_slot_in_use_over_a_restart_is_taken_again() -> None:
    mirror = slots(2)
    mirror.restore(BucketState("q", Resource.CONCURRENCY, 1, EPOCH), EPOCH)
    reservation = mirror.adopt(1)
    assert mirror.available(EPOCH) == 1
    mirror.settle(reservation, 1, EPOCH)
    assert mirror.available(EPOCH) == 2


# The theorem


class Provider:
    """A token bucket as a provider keeps it. Shares no code with ours."""

    def __init__(self, capacity: float, rate: float) -> None:
        self.capacity, self.rate = capacity, rate
        self.tokens, self.at = capacity, EPOCH

    def at_time(self, now: float) -> float:
        self.tokens = min(self.capacity, self.tokens + (now - self.at) * self.rate)
        self.at = now
        return self.tokens

    def arrive(self, amount: float, now: float) -> bool:
        enough = self.at_time(now) + 1e-6 * self.capacity >= min(amount, self.capacity)
        self.tokens -= amount
        return enough

    def give_back(self, amount: float, now: float) -> None:
        self.tokens = min(self.capacity, self.at_time(now) + amount)


@dataclass(frozen=True)
class Request:
    """A call as hypothesis draws it: amounts as shares of the capacity, times in seconds."""

    gap: float
    amount: float
    wait: float  #: from its admission until it is sent
    travel: float  #: share of the longest travel time
    answer: float  #: from arrival to the provider's own settlement
    notice: float  #: from there until we settle
    used: float  #: share of the amount
    lost: bool  #: never sent: the provider does not see it
    back: float  #: share of the longest travel time until we hear of what remained
    tells: str  #: what the answer says remained: "arrival", "answer", or nothing


REQUESTS = st.lists(
    st.builds(
        Request,
        gap=st.sampled_from([0.0, 0.1, 0.5, 2.0, 5.0]) | st.floats(0, 20),
        amount=st.sampled_from([0.1, 0.5, 1.0, 1.5]) | st.floats(0.01, 3),
        wait=st.sampled_from([0.0, 0.3, 5.0]) | st.floats(0, 10),
        travel=st.sampled_from([0.0, 1.0]) | st.floats(0, 1),
        answer=st.sampled_from([0.0, 1.0]) | st.floats(0, 30),
        notice=st.sampled_from([0.0, 1.0]) | st.floats(0, 30),
        used=st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1),
        lost=st.booleans(),
        back=st.sampled_from([0.0, 1.0]) | st.floats(0, 1),
        tells=st.sampled_from(["arrival", "answer", ""]),
    ),
    max_size=12,
)


class Race:
    """Our bucket and the provider's, told the same story each at its own times."""

    def __init__(self, capacity: float, rate: float, restart_after: int | None) -> None:
        self.ours, self.provider = bucket(capacity, rate), Provider(capacity, rate)
        self.longest_travel = min(TRANSIT_SECONDS, 0.05 * capacity / rate)
        self.restart_after = restart_after
        self.agenda: list[tuple[float, int, str, Request, Reservation | None]] = []
        self.reservations: dict[int, Reservation] = {}
        self.told: dict[int, float] = {}
        self.now, self.count = EPOCH, 0

    def admit(self, request: Request) -> None:
        """Send ``request`` as soon as our bucket lets it pass, and note what will follow."""
        self.run_until(self.now + request.gap)
        amount = request.amount * self.ours.limit.capacity
        while (ready_at := self.ours.ready_at(amount, self.now)) != self.now:
            if ready_at is None:  # only the end or the sending of an earlier one can tell
                assert self.agenda
                ready_at = self.agenda[0][0]
            self.run_until(ready_at)
        self.reservations[self.count] = self.ours.reserve(amount, self.now, is_sent=False)
        # What is stored counts as sent: the process that dies sends nothing later.
        sent = self.now + (request.wait if self.restart_after is None else 0.0)
        arrival = sent + request.travel * self.longest_travel
        answer = arrival + request.answer
        if not request.lost:
            self.plan(sent, "send", request)
            self.plan(arrival, "arrive", request)
            self.plan(answer, "answer", request)
        if request.tells and not request.lost and self.restart_after is None:
            back = min(request.notice, request.back * self.longest_travel)
            self.plan(answer + back, "hear", request)
        self.plan(answer + request.notice, "settle", request)
        self.count += 1
        if self.count == self.restart_after:
            self.restart()

    def plan(self, at: float, what: str, request: Request) -> None:
        order = ("send", "arrive", "answer", "hear", "settle").index(what)
        self.agenda.append((at, self.count * 5 + order, what, request, None))
        self.agenda.sort(key=lambda entry: entry[:2])

    def run_until(self, now: float) -> None:
        while self.agenda and self.agenda[0][0] <= now:
            at, number, what, request, _ = self.agenda.pop(0)
            self.compare(at)
            self.happen(what, request, number // 5, at)
            self.compare(at)
        self.compare(now)
        self.now = now

    def happen(self, what: str, request: Request, number: int, at: float) -> None:
        reservation = self.reservations[number]
        used = 0.0 if request.lost else request.used * reservation.amount
        if what == "send":
            self.ours.send(reservation, at)
        elif what == "arrive":
            assert self.provider.arrive(reservation.amount, at), "the provider refused"
            self.told[number] = floor(self.provider.tokens)
        elif what == "answer":
            self.provider.give_back(reservation.amount - used, at)
            if request.tells == "answer":
                self.told[number] = floor(self.provider.tokens)
        elif what == "hear":
            self.hear(reservation, self.told[number], at)
        else:
            self.ours.settle(reservation, used, at)

    def hear(self, reservation: Reservation, remaining: float, at: float) -> None:
        """No refill is lost: our bucket has no more than the provider's, so no answer lowers it."""
        before = self.ours.available(at)
        self.ours.correct(reservation, remaining, at)
        slack = 1e-6 * self.provider.capacity
        assert self.ours.available(at) >= before - slack, "what was there was taken away"

    def compare(self, at: float) -> None:
        slack = 1e-6 * self.provider.capacity
        assert self.ours.available(at) <= self.provider.at_time(at) + slack

    def restart(self) -> None:
        """Go on from what would be stored now; our process still owns what is in flight."""
        state, limit = self.ours.state(self.now, None), self.ours.limit
        self.ours = Bucket("q", limit, self.now)
        self.ours.restore(state, self.now)
        due = {number // 5 for _, number, what, _, _ in self.agenda if what == "settle"}
        for index in due:
            self.reservations[index] = self.ours.adopt(self.reservations[index].amount)


@settings(deadline=None)
@given(
    requests=REQUESTS,
    capacity=st.sampled_from([1.0, 10.0, 60_000.0]),
    fill_seconds=st.sampled_from([1.0, 10.0, 60.0]),
    restart_after=st.none() | st.integers(1, 6),
)
def test_what_we_call_available_is_never_more_than_the_provider_has(
    requests: list[Request], capacity: float, fill_seconds: float, restart_after: int | None
) -> None:
    race = Race(capacity, capacity / fill_seconds, restart_after)
    for request in requests:
        race.admit(request)
    race.run_until(race.now + 200)
    assert race.ours.reserved == pytest.approx(0, abs=1e-9 * capacity)
    event(f"{len(requests)} requests")


def test_under_load_nothing_is_lost_to_the_mirror_but_the_transit_time() -> None:
    mirror, now = bucket(60, 1), EPOCH
    admitted = []
    while now < EPOCH + 600:
        ready_at = mirror.ready_at(1, now)
        assert ready_at is not None
        if ready_at > now:
            now = ready_at
            continue
        mirror.reserve(1, now)
        admitted.append(now)
    assert len(admitted) >= 60 + 600 - 1 - TRANSIT_SECONDS
