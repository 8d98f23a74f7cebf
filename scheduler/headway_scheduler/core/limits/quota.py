"""Keeps one quota: its buckets, its learned limits, its breaker.

Law of this file: it hands each part of an observation to the one object that it concerns.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ...model.batch import Lesson
from ...model.quotas import Observation, ProviderEvent, Quota, RateLimitHeader, Resource
from .breaker import Breaker
from .bucket import Bucket, Reservation
from .learning import Learned
from .write_speed import WriteSpeed

LIMITS = "limits"
BREAKER = "breaker"
ODD = "odd"
"""The kinds of the lessons that are learned here."""

MOST_ODD_FIELDS = 1_000
"""How many odd fields of one quota are told apart; further ones are not counted."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """The attempt at a call that an observation comes from."""

    call_id: str
    """The call."""
    admitted_at: float
    """When the attempt was admitted; epoch seconds."""
    reservations: Mapping[Bucket, Reservation] = field(default_factory=dict[Bucket, Reservation])
    """Its reservations, by bucket; empty once the call has ended."""
    answered_from: float = math.inf
    """When its answer left at the earliest; epoch seconds. Infinite: just now."""


class QuotaState:
    """One quota. All times are epoch seconds and are told by the caller."""

    __slots__ = (
        "_write_speed",
        "breaker",
        "buckets",
        "is_local",
        "learned",
        "name",
        "odd",
        "unsaved",
    )

    def __init__(self, stated: Quota, now: float) -> None:
        self.name: str = stated.name
        self.is_local: bool = stated.is_local
        """See ``Quota.is_local``."""
        self.breaker: Breaker = Breaker()
        self.learned: Learned = Learned(stated)
        self._write_speed = WriteSpeed()
        limits = self.learned.limits()
        self.buckets: tuple[Bucket, ...] = tuple(Bucket(self.name, limit, now) for limit in limits)
        self.odd: Counter[str] = Counter()
        """How often each ``MODEL: FIELD`` of answers was out of range."""
        self.unsaved: set[str] = set()
        """Kinds of lessons that have changed since they were handed over."""

    def restate(self, stated: Quota, now: float) -> None:
        """Go on with other stated limits, and forget what was learned about the old ones."""
        self.learned, self.is_local = Learned(stated), stated.is_local
        self.unsaved.add(LIMITS)
        self._fit(now)

    def observe(
        self, signals: Observation, attempt: Attempt, now: float, *, is_waited_for: bool
    ) -> bool:
        """Record what an attempt showed. Return whether limits changed or the quota reopened."""
        if signals.odd:
            self._count_odd(signals.odd)
        is_reopened = self._record_event(signals, attempt, now)
        is_changed = bool(signals.headers) and self.learned.record_headers(signals.headers)
        if signals.event is ProviderEvent.ANSWERED:
            amounts = {b.limit.resource: each.amount for b, each in attempt.reservations.items()}
            is_changed |= self.learned.record_answer(amounts, now, is_waited_for=is_waited_for)
        elif signals.event is ProviderEvent.REFUSED:
            is_changed |= self._refused(attempt, now)
        elif signals.event is ProviderEvent.OVERLOADED:
            is_changed |= self.learned.record_overload(attempt.admitted_at, self._in_use, now)
        if is_changed:
            self.unsaved.add(LIMITS)
            self._fit(now)
        self._correct(signals.headers, attempt, now)
        return is_changed or is_reopened

    def _refused(self, attempt: Attempt, now: float) -> bool:
        """Record a refusal for the rate. Return whether that changed a limit."""
        is_cut = self.learned.record_refusal(attempt.admitted_at, now)
        for bucket in self.buckets:
            if is_cut:
                bucket.drain(now)
            elif self.learned.is_by_chance:
                bucket.widen_transit(now)
        return is_cut

    def charge_request(self, now: float) -> None:
        """Charge one request that nobody admitted."""
        for bucket in self.buckets:
            if bucket.limit.resource in (Resource.REQUESTS, Resource.REQUESTS_PER_DAY):
                bucket.settle(bucket.reserve(1, now), 1, now)

    def record_write_speed(self, seconds: float, output_tokens: int, now: float) -> bool:
        """Record how long a local server took. Return whether fewer calls go at once now."""
        if not (self.is_local and self._write_speed.add(seconds, output_tokens)):
            return False
        if self.learned.record_overload(now, self._in_use, now):
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
            yield Lesson(LIMITS, self.name, self.learned.dump())
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
            self.learned.load(lesson.value)
            self._fit(now)

    def _record_event(self, signals: Observation, attempt: Attempt, now: float) -> bool:
        """Tell the breaker of the event. Return whether that lets more calls go."""
        if signals.pause_until is not None:
            self.breaker.pause(signals.pause_until)
        is_opened = is_reopened = False
        match signals.event:
            case ProviderEvent.ANSWERED | ProviderEvent.REFUSED:
                is_reopened = self.breaker.record_answer()
            case ProviderEvent.OVERLOADED | ProviderEvent.FAILED:
                is_opened = self.breaker.record_failure(attempt.call_id, now)
            case ProviderEvent.NO_CAPACITY:
                is_opened = self.breaker.record_no_capacity(attempt.call_id, now)
            case ProviderEvent.LOCKED_OUT:
                self.breaker.stop(signals.error)
                is_opened = True
        if is_opened or is_reopened:
            self.unsaved.add(BREAKER)
        return is_reopened

    def _count_odd(self, fields: tuple[str, ...]) -> None:
        for each in fields:
            if each in self.odd or len(self.odd) < MOST_ODD_FIELDS:
                self.odd[each] += 1
        self.unsaved.add(ODD)

    def _fit(self, now: float) -> None:
        """Give the buckets the current limits. A bucket keeps its fill if its resource stays."""
        old = {bucket.limit.resource: bucket for bucket in self.buckets}
        limits = self.learned.limits()
        for limit in limits:
            if limit.resource in old:
                old[limit.resource].change(limit, now)
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
            if header is not None and header.remaining is not None and reservation is not None:
                bucket.correct(reservation, header.remaining, now, attempt.answered_from)
