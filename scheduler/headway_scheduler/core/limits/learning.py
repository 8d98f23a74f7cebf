"""What a quota really allows, learned from answers. Law of this file: pure; it never admits.

Theory of operation. Three sources, the better one first.

*Headers* that tell a limit are believed: of a quota that is a guess altogether, of one that its
user stated only where they tell less, for the user may have meant to leave a part to others. How
much may pile up follows from what remains and when it is whole again.

*Refusals.* Where no header tells, all rates of the quota are scaled together, for a refusal does
not say which one it was about. A refusal means that the provider's bucket is empty: so what it took
between two of them is just what it refills. Without so much to go by, a refusal takes 15 % off, not
more than once a second. While calls wait and none is refused, the scale grows: by a little at
first, then by twice as much each time, and twofold until the first refusal of all. Limits that were
stated are scaled down in the same way if they are refused again and again, and never above what
was stated.

*Overload.* A server that is overloaded (503, 529) is sent a quarter less at once, and then one more
every few seconds, up to what was stated. Its rates are left alone.

*Smoothing.* What may pile up of a guess is one second's worth at first, for a limit of 60 a minute
may be enforced as one a second. While calls wait it doubles with the rest, up to eight; a refusal
halves it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from ...model.quotas import Limit, Quota, RateLimitHeader, Resource

STEP_SECONDS = 5.0
CUT = 0.85
SMALLEST = 0.001
"""A provider that refuses everything is asked now and then all the same."""
BELOW_MEASURED = 0.97
GROSS = 0.7
"""If less than this share of the scale was taken, it is off, and all that was lost is not to blame
on pauses, or on a bucket so small that it was full in between."""
CUT_OF_SLOTS = 0.75
REST_SECONDS = 1.0
"""How long no further cut follows a cut: what was sent before is refused yet."""
ENOUGH_SECONDS = 3.0
"""How far apart two refusals must be for what was taken between them to tell something."""
FIRST_GROWTH = 0.02
FIRST_SLOT_SECONDS = 1.0
SHORTEST_SLOT_SECONDS = 0.125
LONGEST_SLOT_SECONDS = 8.0
CHANCE_SECONDS = 60.0
"""One refusal of limits that were stated may be chance; a second one so soon after it is not."""
WORTH_CHANGING = 0.02


@dataclass(slots=True)
class _Header:
    """What headers told: ``limit`` is for a minute or a day; ``capacity`` if it could be told."""

    limit: float
    capacity: float | None = None


@dataclass(slots=True)
class Learned:
    """Of one quota, ``stated`` by its user or guessed. Times are epoch seconds."""

    stated: Quota
    headers: dict[Resource, _Header] = field(default_factory=dict[Resource, _Header])
    scale: float = 1.0
    growth: float = 1.0
    slot_seconds: float = FIRST_SLOT_SECONDS
    at_once: float = float("inf")
    _at_once_since: float | None = None
    _taken: dict[Resource, float] = field(default_factory=dict[Resource, float])
    _refused_at: float | None = None
    _stepped_at: float | None = None

    def limits(self) -> tuple[Limit, ...]:
        """The limits that hold, as far as is known."""
        return tuple(map(self._limit, self.stated.limits))

    def record_headers(self, headers: Mapping[Resource, RateLimitHeader]) -> bool:
        """Take in what headers told. Return whether that changed a limit."""
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
        """Take in that a call was refused for its rate. Return whether that changed a limit."""
        if self._refused_at is not None and admitted_at <= self._refused_at + REST_SECONDS:
            return False  # sent before the last cut could show
        last, self._refused_at = self._refused_at, now
        measured = None if last is None else self._measured(now - last)
        self._taken.clear()
        is_chance = last is None or now - last > CHANCE_SECONDS
        if not self._is_scaled or (is_chance and not self.stated.is_guess):
            return False
        self.scale = max(SMALLEST, self._after_refusal(measured))
        self._stepped_at, self.growth = now, FIRST_GROWTH
        self.slot_seconds = max(SHORTEST_SLOT_SECONDS, self.slot_seconds / 2)
        return True

    def record_answer(
        self, amounts: Mapping[Resource, float], now: float, *, is_waited_for: bool
    ) -> bool:
        """Take in that a call got its ``amounts``. Return whether that changed a limit.

        The scale grows only while others wait: else nobody would see that it is too high.
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
        """Take in that there was too much at once. Return whether that changed a limit."""
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
        """The scale at which ``seconds`` refill what was taken in them; None if that is too short.

        Of several limits the one that we kept to is the one that was used most.
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
        """Write down what is known, and of which statement."""
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
            self.headers = {
                Resource(name): _Header(**header) for name, header in known["headers"].items()
            }
            self.scale, self.growth = known["scale"], known["growth"]
            self.slot_seconds = known["slot_seconds"]

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
    """What a full bucket holds: what is left, and what comes until it is whole."""
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
