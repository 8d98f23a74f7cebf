"""Learns from answers what a quota really allows. Law of this file: pure; it never admits.

Theory of operation. Three sources, the better one first.

*Headers.* If a quota is a guess, the limits in headers replace it. If the user stated it, they
count only where they are lower: the user may leave a part to others on purpose. The capacity
follows from what remains and from when the limit is whole again.

*Refusals.* Limits without headers are scaled together, because a refusal does not say which of them
it is about. A refusal means that the provider's bucket is empty: so what the provider took between
two refusals is what it refills in that time. If the refusals are less than 3 s apart, a refusal
takes 15 % off instead, at most once per second. While calls wait and none is refused, the scale
grows every 5 s: by 2 % after a refusal, then by twice as much each time; before the first refusal
it doubles. Stated limits are scaled down only by a second refusal within 60 s, and never up above
what was stated.

*Overload.* After a 503 or 529 a quarter fewer calls go at once, then one more every 5 s, up to the
stated concurrency. Rates stay.

*Smoothing.* A guessed bucket holds the refill of 1 s at first, because a limit of 60 per minute may
be enforced as 1 per second. With each growth of the scale it doubles, up to 8 s; a refusal halves
it, down to 0.125 s.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from ...model.data import replace
from ...model.quotas import Limit, Quota, RateLimitHeader, Resource

STEP_SECONDS = 5.0
"""How long after one growth the next may follow."""
CUT = 0.85
"""The factor of a refusal that measures nothing."""
SMALLEST = 0.001
"""The lowest scale: even a provider that refuses everything is asked now and then."""
BELOW_MEASURED = 0.97
"""The new scale, as a share of the measured one."""
GROSS = 0.7
"""If the measured scale is below this share of the scale, the measure is followed; else no more
than 15 % is cut: pauses, or a bucket so small that it was full in between, lose some as well."""
CUT_OF_SLOTS = 0.75
"""The factor of an overload."""
REST_SECONDS = 1.0
"""How long no further cut follows a cut: requests that left before it are still refused."""
ENOUGH_SECONDS = 3.0
"""How far apart two refusals must be for a measure between them."""
FIRST_GROWTH = 0.02
"""The first growth after a refusal, as a share of the scale; each further one is twice that."""
FIRST_SLOT_SECONDS = 1.0
SHORTEST_SLOT_SECONDS = 0.125
LONGEST_SLOT_SECONDS = 8.0
CHANCE_SECONDS = 60.0
"""One refusal of stated limits may be chance; a second one within this time is not."""
WORTH_CHANGING = 0.02
"""A header changes a limit if it differs by more than this share."""


@dataclass(slots=True)
class _Header:
    """A limit as headers state it."""

    limit: float
    """Per minute; of a daily resource per day."""
    capacity: float | None = None
    """The capacity of a full bucket; None if the headers do not show it."""


@dataclass(slots=True)
class Learned:
    """Learns the limits of one quota. Times are epoch seconds."""

    stated: Quota
    """The limits that the user stated, or a guess."""
    headers: dict[Resource, _Header] = field(default_factory=dict[Resource, _Header])
    """Limits that headers told, by resource."""
    scale: float = 1.0
    """The factor on all rates without headers."""
    growth: float = 1.0
    """By which share of itself the scale grows next; 1 before the first refusal."""
    slot_seconds: float = FIRST_SLOT_SECONDS
    """For how many seconds of refill a guessed or scaled bucket has room."""
    is_by_chance: bool = False
    """Whether the last refusal was the first one for long, and changed no limit."""
    at_once: float = float("inf")
    """The concurrency that an overload left, in calls."""
    _at_once_since: float | None = None
    """When ``at_once`` last changed; None while it is not below what was stated."""
    _taken: dict[Resource, float] = field(default_factory=dict[Resource, float])
    """The amounts that answered calls took since the last refusal, by resource."""
    _refused_at: float | None = None
    """When the last refusal came."""
    _stepped_at: float | None = None
    """When the scale last changed, or calls last did not wait."""

    def limits(self) -> tuple[Limit, ...]:
        """Return the current limits."""
        return tuple(map(self._limit, self.stated.limits))

    def record_headers(self, headers: Mapping[Resource, RateLimitHeader]) -> bool:
        """Record limits from headers. Return whether that changed a limit."""
        changed = False
        for limit in self.stated.limits:
            stated = headers.get(limit.resource)
            if stated is None or stated.limit is None:
                continue
            header = _Header(stated.limit, _capacity(limit, stated))
            old = self.headers.get(limit.resource)
            if header.capacity is None and old is not None and old.limit == header.limit:
                continue
            if old is None or _differ(old, header):
                self.headers[limit.resource] = header
                changed = True
        return changed

    def record_refusal(self, admitted_at: float, now: float) -> bool:
        """Record that a call was refused for its rate. Return whether that changed a limit."""
        self.is_by_chance = False
        if self._refused_at is not None and admitted_at <= self._refused_at + REST_SECONDS:
            return False  # sent before the last cut could show
        last, self._refused_at = self._refused_at, now
        measured = None if last is None else self._measured(now - last)
        self._taken.clear()
        is_chance = last is None or now - last > CHANCE_SECONDS
        if not self._is_scaled or (is_chance and not self.stated.is_guess):
            self.is_by_chance = is_chance
            return False
        self.scale = max(SMALLEST, self._after_refusal(measured))
        self._stepped_at, self.growth = now, FIRST_GROWTH
        self.slot_seconds = max(SHORTEST_SLOT_SECONDS, self.slot_seconds / 2)
        return True

    def record_answer(
        self, amounts: Mapping[Resource, float], now: float, *, is_waited_for: bool
    ) -> bool:
        """Record that a call was answered that took ``amounts``. Return whether a limit changed.

        The scale grows only while calls wait: otherwise no refusal would show that it is too high.
        """
        grown = self._one_more_at_once(now)
        for resource, amount in amounts.items():
            self._taken[resource] = self._taken.get(resource, 0.0) + amount
        if self._stepped_at is None or not is_waited_for:
            self._stepped_at = now
            return grown
        if now - self._stepped_at < STEP_SECONDS or not self._may_grow:
            return grown
        self._stepped_at = now
        self.slot_seconds = min(LONGEST_SLOT_SECONDS, 2 * self.slot_seconds)
        self.scale *= 1 + self.growth
        self.growth = min(1.0, 2 * self.growth)
        if not self.stated.is_guess:
            self.scale = min(1.0, self.scale)
        return True

    def record_overload(self, admitted_at: float, in_use: float, now: float) -> bool:
        """Record an overload with ``in_use`` calls in flight. Return whether a limit changed."""
        since = self._at_once_since
        stated = self._stated_at_once
        if stated is None or (since is not None and admitted_at <= since):
            return False  # sent before the last cut
        self.at_once = max(1.0, CUT_OF_SLOTS * min(self.at_once, stated, max(1.0, in_use)))
        self._at_once_since = now
        return True

    def _one_more_at_once(self, now: float) -> bool:
        stated, since = self._stated_at_once, self._at_once_since
        if stated is None or since is None or now - since < STEP_SECONDS:
            return False
        self.at_once += 1
        self._at_once_since = now if self.at_once < stated else None
        return True

    @property
    def _stated_at_once(self) -> float | None:
        limits = self.stated.limits
        slots = (each.capacity for each in limits if each.resource is Resource.CONCURRENCY)
        return next(slots, None)

    def _after_refusal(self, measured: float | None) -> float:
        if measured is None:
            return self.scale * CUT
        below = self.scale * min(1.0, BELOW_MEASURED * measured / self.scale)
        return below if measured < GROSS * self.scale else max(below, self.scale * CUT)

    def _measured(self, seconds: float) -> float | None:
        """Return the scale at which ``seconds`` refill what was taken in them; None if too short.

        Of several limits, the most used one decides: the refusal was about that one.
        """
        if seconds < ENOUGH_SECONDS:
            return None
        shares = (
            self._taken.get(limit.resource, 0.0) / (seconds * limit.per_second)
            for limit in self.stated.limits
            if self._follows_scale(limit)
        )
        return max(shares, default=0.0) or None

    def dump(self) -> str:
        """Write down what was learned, with the stated limits that it belongs to."""
        known = {
            "stated": self._statement(),
            "headers": {name.value: asdict(header) for name, header in self.headers.items()},
            "scale": self.scale,
            "growth": self.growth,
            "slot_seconds": self.slot_seconds,
        }
        return json.dumps(known)

    def load(self, text: str) -> None:
        """Go on from what was written down, unless other limits are stated now."""
        known = json.loads(text)
        if known["stated"] == self._statement():
            headers = {
                Resource(name): _Header(**header) for name, header in known["headers"].items()
            }
            scale, growth = float(known["scale"]), float(known["growth"])
            self.slot_seconds = known["slot_seconds"]
            self.headers, self.scale, self.growth = headers, scale, growth

    def _statement(self) -> list[list[str | float | bool]]:
        limits = [[limit.resource.value, limit.largest] for limit in self.stated.limits]
        return [[self.stated.is_guess], *limits]

    @property
    def _is_scaled(self) -> bool:
        return any(self._follows_scale(limit) for limit in self.stated.limits)

    @property
    def _may_grow(self) -> bool:
        return self._is_scaled and (self.stated.is_guess or self.scale < 1)

    def _follows_scale(self, limit: Limit) -> bool:
        return limit.per_second > 0 and limit.resource not in self.headers

    def _limit(self, stated: Limit) -> Limit:
        header = self.headers.get(stated.resource)
        if header is not None:
            return self._from_header(stated, header)
        if stated.resource is Resource.CONCURRENCY:
            at_once = stated.capacity if self.at_once >= stated.capacity else int(self.at_once)
            return replace(stated, capacity=at_once)
        if not self._follows_scale(stated):
            return stated
        per_second = stated.per_second * self.scale
        smooth = max(1.0, per_second * self.slot_seconds)
        if self.stated.is_guess:
            # No call is too large for a guess: it waits for a full bucket and leaves it in debt.
            return Limit(stated.resource, smooth, per_second, float("inf"))
        capacity = stated.capacity if self.scale == 1 else min(stated.capacity, smooth)
        return replace(stated, capacity=capacity, per_second=per_second)

    def _from_header(self, stated: Limit, header: _Header) -> Limit:
        limit = header.limit if self.stated.is_guess else min(header.limit, stated.largest)
        share = limit / stated.largest
        capacity = header.capacity
        if capacity is None:
            capacity = stated.capacity * share
        elif not self.stated.is_guess:
            capacity = min(capacity, stated.capacity)
        return replace(
            stated,
            capacity=max(1.0, capacity),
            per_second=stated.per_second * share,
            largest=limit,
        )


def _capacity(limit: Limit, header: RateLimitHeader) -> float | None:
    """Return what a full bucket holds: what is left, and the refill until it is whole."""
    if header.limit is None or header.remaining is None or header.reset_seconds is None:
        return None
    if not limit.per_second:
        return header.limit
    # Of a window that starts anew at its end this would be too much, but never beyond a minute's.
    return min(header.limit, header.remaining + header.reset_seconds * header.limit / 60)


def _differ(old: _Header, new: _Header) -> bool:
    def moved(before: float | None, after: float | None) -> bool:
        if before is None or after is None:
            return before is not after
        return abs(after - before) > WORTH_CHANGING * before

    return moved(old.limit, new.limit) or moved(old.capacity, new.capacity)
