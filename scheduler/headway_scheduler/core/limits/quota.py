"""Keeps one quota: its buckets, its learned limits, its breaker.

Law of this file: it hands each part of an observation to the one object that it concerns.
"""

import json
import math
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import assert_never

from ...model.batch import Lesson
from ...model.data import replace
from ...model.quotas import Observation, ProviderEvent, Quota, RateLimitHeader, Resource, Window
from .breaker import Breaker
from .bucket import Bucket
from .known import KnownLimits
from .learning import STEP_SECONDS, Learned
from .reservation import Reservation
from .write_speed import WriteSpeed

LIMITS = "limits"
BREAKER = "breaker"
ODD = "odd"
"""The kinds of the lessons that are learned here."""

PEAK_SECONDS = 30.0
"""Answers of the last one to two such times are looked at."""
MOST_ANSWERS = 256
"""The times of so many answers are kept."""
NO_HEADERS: Mapping[Resource, RateLimitHeader] = MappingProxyType({})

MOST_ODD_FIELDS = 1_000
"""How many odd fields of one quota are told apart; further ones are not counted."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """The attempt at a call that an observation comes from."""

    call_id: str
    """The call."""
    admitted_at: float
    """When the attempt was admitted; epoch seconds."""
    sent_at: float | None = None
    """When its request left; epoch seconds. None: that is not known."""
    reservations: Mapping[Bucket, Reservation] = field(default_factory=dict[Bucket, Reservation])
    """Its reservations, by bucket; empty once the call has ended."""
    answered_from: float = math.inf
    """When its answer left at the earliest; epoch seconds. Infinite: just now."""
    beside: int = 0
    """How many calls of the quota were in flight when it was admitted, with itself."""


class QuotaState:
    """One quota. All times are epoch seconds and are told by the caller."""

    __slots__ = (
        "_answered_at",
        "_answers",
        "_peak",
        "_peak_before",
        "_peak_since",
        "_refused_at",
        "_write_speed",
        "breaker",
        "buckets",
        "in_flight",
        "is_local",
        "learned",
        "name",
        "odd",
        "unsaved",
        "waited_at",
    )

    def __init__(self, stated: Quota, now: float) -> None:
        self.name: str = stated.name
        self.is_local: bool = stated.is_local
        """See ``Quota.is_local``."""
        self.breaker: Breaker = Breaker()
        self.learned: Learned = Learned(KnownLimits(stated))
        self._write_speed = WriteSpeed()
        limits = self.learned.known.limits()
        self.buckets: tuple[Bucket, ...] = tuple(Bucket(self.name, limit, now) for limit in limits)
        self.in_flight: int = 0
        """How many calls that draw on it were admitted and have not ended."""
        self.waited_at: float | None = None
        """When an admission last found that a call waits for it to open."""
        self._answers = 0
        self._answered_at: deque[float] = deque(maxlen=MOST_ANSWERS)
        self._refused_at = now
        self._peak = self._peak_before = 0
        self._peak_since = now
        self.odd: Counter[str] = Counter()
        """How often each ``MODEL: FIELD`` of answers was out of range."""
        self.unsaved: set[str] = set()
        """Kinds of lessons that have changed since they were handed over."""

    def restate(self, stated: Quota, now: float) -> None:
        """Go on with other stated limits, and forget what was learned about the old ones."""
        self.learned, self.is_local = Learned(KnownLimits(stated)), stated.is_local
        self.unsaved.add(LIMITS)
        self._fit(now)

    def observe(
        self, signals: Observation, attempt: Attempt, now: float, asked_at: float | None = None
    ) -> bool:
        """Record what an attempt showed. Return whether limits changed or the quota reopened.

        ``asked_at``: when it was last tried to admit calls; what they waited for then, they do now.
        """
        if signals.odd:
            self._count_odd(signals.odd)
        if signals.event is ProviderEvent.REFUSED:
            signals = self._until_end_of_window(signals, now)
        is_waited_for = self._is_waited_for(asked_at, now)
        is_reopened = self._record_event(signals, attempt, now)
        is_changed = bool(signals.headers) and self.learned.record_headers(
            signals.headers,
            now,
            attempt.sent_at,
            is_refused=signals.event is ProviderEvent.REFUSED,
        )
        if signals.date is not None and any(b.limit.window is Window.MINUTE for b in self.buckets):
            clock, sent_at = self.learned.known.clock, attempt.sent_at or now
            is_changed |= clock.record(signals.date, sent_at, now)
        match signals.event:
            case ProviderEvent.ANSWERED:
                is_changed |= self._answered(attempt, now, is_waited_for=is_waited_for)
            case ProviderEvent.REFUSED:
                until = signals.pause_until if signals.is_pause_told else None
                is_changed |= self._refused(attempt, now, until, signals.about)
            case ProviderEvent.CROWDED:
                told = signals.headers.get(Resource.CONCURRENCY)
                limit = None if told is None else told.limit
                # Some may have been answered since it went: they were in flight as well.
                answered = sum(at > attempt.admitted_at for at in self._answered_at)
                at_once = self.in_flight + answered
                is_changed |= self.learned.known.slots.record_crowded(at_once, limit, now)
            case ProviderEvent.OVERLOADED:
                slots = self.learned.known.slots
                is_changed |= slots.record_overload(attempt.admitted_at, self._in_use, now)
            case (
                None
                | ProviderEvent.SPENT
                | ProviderEvent.FAILED
                | ProviderEvent.LOCKED_OUT
                | ProviderEvent.NO_CAPACITY
            ):
                pass
            case _:
                assert_never(signals.event)
        if is_changed:
            self.unsaved.add(LIMITS)
            self._fit(now, signals.headers, attempt)
        self._correct(signals.headers, attempt, now)
        return is_changed or is_reopened

    def _is_waited_for(self, asked_at: float | None, now: float) -> bool:
        """Whether calls wait for a rate, and neither a pause nor what remained holds them."""
        if asked_at is None or self.breaker.is_shut(now):
            return False
        for bucket in self.buckets:
            if bucket.waited_at == asked_at and bucket.limit.per_second:
                at = bucket.corrected_at
                if at is None or now - at > STEP_SECONDS:
                    return True
        return False

    def _answered(self, attempt: Attempt, now: float, *, is_waited_for: bool) -> bool:
        """Record an answer. Return whether that changed a limit."""
        learned = self.learned
        self._answers += 1
        self._answered_at.append(now)
        self._note_peak(attempt.beside, now)
        amounts = {b.limit.resource: each.amount for b, each in attempt.reservations.items()}
        is_changed = learned.record_answer(amounts, now, is_waited_for=is_waited_for)
        slots = learned.known.slots
        is_changed |= slots.may_grow and slots.record_answer(self.in_flight, now)
        for bucket in self.buckets:
            at = bucket.burst_at
            if at is not None and now - at > STEP_SECONDS:
                bucket.burst_at = None
                is_changed |= at > self._refused_at and learned.record_burst()
        return is_changed

    def _note_peak(self, beside: int, now: float) -> None:
        """Note beside how many others a call went that was answered, for a minute at most."""
        if now - self._peak_since > PEAK_SECONDS:
            is_fresh = now - self._peak_since < 2 * PEAK_SECONDS
            self._peak_before = self._peak if is_fresh else 0
            self._peak, self._peak_since = 0, now
        self._peak = max(self._peak, beside)

    def _refused(
        self, attempt: Attempt, now: float, until: float | None, about: Resource | None
    ) -> bool:
        """Record a refusal for the rate. Return whether that changed a limit.

        ``until``: when the provider told that its budget comes back; ``about``: of what.
        """
        rate = self._answers / max(1.0, now - self._refused_at)
        self._answers, self._refused_at = 0, now
        peak, slots = max(self._peak, self._peak_before), self.learned.known.slots
        # Nobody knows when a call in flight ends: who tells a time means a rate.
        if until is None and slots.record_refusal(attempt.beside, rate, peak, now):
            return True
        rates = [bucket for bucket in self.buckets if bucket.limit.per_second]
        if about is not None:
            refused = [bucket for bucket in rates if _counts(bucket.limit.resource, about)]
        else:
            refused = rates
        if any(bucket.is_taken_by_others(now) for bucket in refused):
            for bucket in refused:
                bucket.drain(now)
            return False
        is_cut = self.learned.record_refusal(
            attempt.admitted_at,
            now,
            0.0 if until is None else max(0.0, until - now),
            is_after_burst=any(bucket.burst_at is not None for bucket in self.buckets),
        )
        is_by_chance = self.learned.is_by_chance
        until = until if about is not None or len(rates) == 1 else None
        for bucket in rates:
            if bucket in refused and (is_cut or (is_by_chance and until is not None)):
                reservation = attempt.reservations.get(bucket)
                amount = 0.0 if reservation is None else reservation.amount
                bucket.drain(now, until, amount)
            if is_by_chance:
                bucket.widen_transit(now)
        return is_cut

    def _until_end_of_window(self, signals: Observation, now: float) -> Observation:
        """Return a refusal that pauses no longer than the window that it was about lasts."""
        if signals.about is None or signals.pause_until is None:
            return signals
        end = self.learned.end_of_window(signals.about, now)
        if end is None or end >= signals.pause_until:
            return signals
        for bucket in self.buckets:
            if bucket.limit.resource is signals.about:
                bucket.end_window(end)
        return replace(signals, pause_until=end)

    def charge_request(self, now: float) -> None:
        """Charge one request that nobody admitted."""
        for bucket in self.buckets:
            if bucket.limit.resource in (Resource.REQUESTS, Resource.REQUESTS_PER_DAY):
                bucket.settle(bucket.reserve(1, now), 1, now)

    def record_write_speed(self, seconds: float, output_tokens: int, now: float) -> bool:
        """Record how long a local server took. Return whether fewer calls go at once now."""
        if not (self.is_local and self._write_speed.add(seconds, output_tokens)):
            return False
        if self.learned.known.slots.record_overload(now, self._in_use, now):
            self.unsaved.add(LIMITS)
            self._fit(now)
        return True

    @property
    def _in_use(self) -> float:
        slots = (b.reserved for b in self.buckets if b.limit.resource is Resource.CONCURRENCY)
        return next(slots, 0.0)

    def try_again(self) -> None:
        """Let one call probe although the account was locked out."""
        self.breaker.try_again()
        self.unsaved.add(BREAKER)

    def take_lessons(self) -> Iterator[Lesson]:
        """Yield what was learned since the last time."""
        if LIMITS in self.unsaved:
            yield Lesson(LIMITS, self.name, self.learned.known.dump())
        if BREAKER in self.unsaved:
            yield Lesson(BREAKER, self.name, self.breaker.dump())
        if ODD in self.unsaved:
            yield Lesson(ODD, self.name, json.dumps(self.odd))
        self.unsaved.clear()

    def load(self, lesson: Lesson, now: float) -> None:
        """Go on from a stored lesson."""
        if lesson.kind == BREAKER:
            self.breaker.load(lesson.value)
        elif lesson.kind == ODD:
            self.odd = Counter(json.loads(lesson.value))
        else:
            self.learned.known.load(lesson.value)
            self._fit(now)

    def _record_event(self, signals: Observation, attempt: Attempt, now: float) -> bool:
        """Tell the breaker of the event. Return whether that lets more calls go."""
        if signals.pause_until is not None:
            self.breaker.pause(signals.pause_until)
        is_opened = is_reopened = False
        match signals.event:
            case ProviderEvent.ANSWERED | ProviderEvent.REFUSED | ProviderEvent.CROWDED:
                is_reopened = self.breaker.record_answer()
            case ProviderEvent.SPENT:
                self.breaker.rest()
                is_opened = True
            case ProviderEvent.OVERLOADED | ProviderEvent.FAILED:
                is_opened = self.breaker.record_failure(attempt.call_id, now)
            case ProviderEvent.NO_CAPACITY:
                is_opened = self.breaker.record_no_capacity(attempt.call_id, now)
            case ProviderEvent.LOCKED_OUT:
                self.breaker.stop(signals.error)
                is_opened = True
            case None:
                pass
            case _:
                assert_never(signals.event)
        if is_opened or is_reopened:
            self.unsaved.add(BREAKER)
        return is_reopened

    def _count_odd(self, fields: tuple[str, ...]) -> None:
        for each in fields:
            if each in self.odd or len(self.odd) < MOST_ODD_FIELDS:
                self.odd[each] += 1
        self.unsaved.add(ODD)

    def _fit(
        self,
        now: float,
        headers: Mapping[Resource, RateLimitHeader] = NO_HEADERS,
        attempt: Attempt | None = None,
    ) -> None:
        """Give the buckets the current limits. A bucket keeps its fill if its resource stays."""
        old = {bucket.limit.resource: bucket for bucket in self.buckets}
        limits = self.learned.known.limits()
        for limit in limits:
            bucket = old.get(limit.resource)
            if bucket is None or bucket.limit == limit:
                continue
            header = headers.get(limit.resource)
            remaining = None if header is None else header.remaining
            reservation = None if attempt is None else attempt.reservations.get(bucket)
            bucket.change(limit, now, reservation, remaining)
        if len(limits) != len(self.buckets) or any(each.resource not in old for each in limits):
            self.buckets = tuple(
                old.get(limit.resource) or Bucket(self.name, limit, now) for limit in limits
            )

    def _correct(
        self, headers: Mapping[Resource, RateLimitHeader], attempt: Attempt, now: float
    ) -> None:
        for bucket in self.buckets:
            header, reservation = (
                headers.get(bucket.limit.resource),
                attempt.reservations.get(bucket),
            )
            if header is None or header.remaining is None or reservation is None:
                continue
            if bucket.limit.resource not in self.learned.doubted:
                bucket.correct(reservation, header.remaining, now, attempt.answered_from)


def _counts(resource: Resource, about: Resource) -> bool:
    """Whether a limit on ``resource`` may be what a refusal was about: requests, or tokens."""
    return (resource is Resource.REQUESTS) == (about is Resource.REQUESTS)
