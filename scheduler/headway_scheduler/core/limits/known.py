"""What is known of a quota's limits, and the limits that follow from it.

Law of this file: pure; it learns nothing. ``learning.py`` does.

A limit that is told goes before one that is stated, where it is lower or the stated one is a guess.
How much piles up is stated, told, or not known. Of what is not known, a bucket holds the refill of
``slot_seconds`` and is *paced*: its rate is so low that no window of any kind holds more than the
limit, ``capacity + rate * (window + transit) <= limit``.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, assert_never

from ...model.data import replace
from ...model.quotas import MINUTE_SECONDS, Limit, Quota, Resource, Window
from .slots import Slots
from .told import Told
from .windows import ProviderClock

FIRST_SLOT_SECONDS = 1.0
PACED_TRANSIT_SECONDS = 0.5
"""How much longer than its window a limit is taken to be while it is paced."""
UNLIMITED = float("inf")


@dataclass(slots=True)
class KnownLimits:
    """The limits of one quota: stated, told and learned. Times are epoch seconds."""

    stated: Quota
    """The limits that the user stated, or a guess."""
    told: dict[Resource, Told] = field(default_factory=dict[Resource, Told])
    """Limits that answers told, by resource."""
    scale: float = 1.0
    """The factor on all rates; above 1 only on those that nobody told."""
    growth: float = 1.0
    """By which share of itself the scale grows next; 1 before the first refusal."""
    slot_seconds: float = FIRST_SLOT_SECONDS
    """For how many seconds of refill a bucket has room whose burst is not known."""
    is_paced: bool = False
    """Whether a refusal showed that limits are counted in another way than was thought."""
    windows: dict[Resource, Window] = field(default_factory=dict[Resource, Window])
    """How limits are counted, as the resets of answers showed."""
    ends: dict[Resource, float] = field(default_factory=dict[Resource, float])
    """Of fixed windows: when one of them ends."""
    clock: ProviderClock = field(default_factory=ProviderClock)
    """The provider's clock, at whose full minutes some windows end."""
    largest: dict[Resource, float] = field(default_factory=dict[Resource, float])
    """The largest amounts that one answered call took lately, by resource."""
    slots: Slots = field(init=False)
    """How many calls may be in flight."""

    def __post_init__(self) -> None:
        limits = self.stated.limits
        slots = (each.capacity for each in limits if each.resource is Resource.CONCURRENCY)
        self.slots = Slots(next(slots, None))

    def limits(self) -> tuple[Limit, ...]:
        """Return the current limits: those that are stated, and slots that were learned."""
        limits = tuple(map(self._limit, self.stated.limits))
        at_once = self.slots.limit
        if self.slots.stated is None and at_once is not None:
            limits += (Limit(Resource.CONCURRENCY, at_once, 0.0, 1),)
        return limits

    @property
    def has_guesses(self) -> bool:
        """Whether a rate is nobody's word: it may be too low, and one refusal shows it too high."""
        return self.stated.is_guess and any(
            limit.per_second and limit.resource not in self.told for limit in self.stated.limits
        )

    def source(self, resource: Resource) -> str:
        """Say from what a limit is known: ``stated``, ``told``, ``learned`` or ``guess``."""
        if resource is Resource.CONCURRENCY:
            if self.slots.limit == self.slots.stated:
                return "stated"
            return "told" if self.slots.is_told else "learned"
        if resource in self.told and (self.stated.is_guess or self._adds(resource)):
            return "told"
        if self.scale == 1:
            return "guess" if self.stated.is_guess else "stated"
        return "learned"

    def _adds(self, resource: Resource) -> bool:
        """Whether what is told is less than what is stated, or says how it is counted."""
        told = self.told[resource]
        return any(
            told.per_minute < each.largest or (told.window is not None and each.window is None)
            for each in self.stated.limits
            if each.resource is resource
        )

    def dump(self) -> str:
        """Write down what was learned, with the stated limits that it belongs to."""
        known = {
            "stated": self._statement(),
            "headers": {name.value: asdict(told) for name, told in self.told.items()},
            "scale": self.scale,
            "growth": self.growth,
            "slot_seconds": self.slot_seconds,
            "is_paced": self.is_paced,
            "windows": self.windows,
            "ends": self.ends,
        }
        if self.slots.learned < UNLIMITED:
            known["slots"] = [self.slots.learned, self.slots.is_told]
        return json.dumps(known)

    def load(self, text: str) -> None:
        """Go on from what was written down, unless other limits are stated now.

        Raises ValueError, KeyError or TypeError for what no version wrote, and changes nothing.
        """
        known = json.loads(text)
        if known["stated"] != self._statement():
            return
        told = {Resource(name): _told(fields) for name, fields in known["headers"].items()}
        scale, growth = float(known["scale"]), float(known["growth"])
        slot_seconds = float(known["slot_seconds"])
        windows = {Resource(name): Window(kind) for name, kind in known.get("windows", {}).items()}
        ends = {Resource(name): float(at) for name, at in known.get("ends", {}).items()}
        slots = known.get("slots")
        if slots is not None:
            self.slots.learned, self.slots.is_told = max(1.0, float(slots[0])), bool(slots[1])
        self.told, self.scale, self.growth, self.slot_seconds = told, scale, growth, slot_seconds
        self.windows, self.ends = windows, ends
        self.is_paced = bool(known.get("is_paced", False))

    def _statement(self) -> list[list[str | float | bool]]:
        limits = [[limit.resource.value, limit.largest] for limit in self.stated.limits]
        return [[self.stated.is_guess], *limits]

    def _limit(self, stated: Limit) -> Limit:
        if stated.resource is Resource.CONCURRENCY:
            at_once = self.slots.limit
            return stated if at_once is None else replace(stated, capacity=at_once)
        largest = UNLIMITED if self.stated.is_guess else stated.largest
        told = self.told.get(stated.resource)
        if not stated.per_second:
            if told is None:
                return stated
            a_day = told.limit if self.stated.is_guess else min(told.limit, stated.largest)
            return replace(stated, capacity=max(1.0, a_day), largest=largest)
        per_second = self.per_second(stated, self.scale)
        limit = replace(stated, per_second=per_second, largest=largest)
        kind = self.window(stated)
        seconds = self.window_seconds(stated)
        match kind:
            case None | Window.BUCKET:
                return self._bucket(limit, stated, told, seconds)
            case Window.SLIDING | Window.FIXED | Window.MINUTE:
                is_minute = kind is Window.MINUTE
                end = -self.clock.ahead if is_minute else self.ends.get(stated.resource)
                if kind is Window.FIXED and (end is None or self.is_contradicted(stated.resource)):
                    kind = Window.SLIDING  # no window of that length has more then
                capacity = max(1.0, per_second * seconds)
                return replace(
                    limit,
                    capacity=capacity,
                    window=kind,
                    window_seconds=seconds,
                    day_starts=end or 0.0,
                    learns_burst=False,
                )
            case _:
                assert_never(kind)

    def window(self, stated: Limit) -> Window | None:
        """Return the kind of the windows in which a limit is counted; None if it is not known."""
        told = self.told.get(stated.resource)
        kind = stated.window or self.windows.get(stated.resource)
        if kind is None and told is not None and told.is_period_known:
            return told.window  # else a refusal tells the period
        return kind

    def is_contradicted(self, resource: Resource) -> bool:
        """Whether answers show a token bucket where a fixed window is stated."""
        return self.windows.get(resource) is Window.BUCKET and any(
            stated.window is Window.FIXED
            for stated in self.stated.limits
            if stated.resource is resource
        )

    def window_seconds(self, stated: Limit) -> float:
        """Return the length of the windows in which a limit is counted."""
        told = self.told.get(stated.resource)
        if stated.window is not None or told is None:
            return stated.window_seconds
        return told.period_seconds

    def per_second(self, stated: Limit, scale: float) -> float:
        """Return the rate that holds: what is told or stated, scaled, and never next to nothing."""
        told, is_guess = self.told.get(stated.resource), self.stated.is_guess
        rate = stated.per_second
        if told is not None:
            told_rate = told.limit / told.period_seconds
            rate = told_rate if is_guess else min(told_rate, rate)
            scale = 1.0 if self.has_guesses else min(1.0, scale)
        rate *= scale
        least = 1.0
        if stated.resource is not Resource.REQUESTS:
            least = self.largest.get(stated.resource, 0.0)
        least /= MINUTE_SECONDS
        if rate >= least:
            return rate
        return max(rate, least if is_guess else min(least, stated.per_second))

    def _bucket(self, limit: Limit, stated: Limit, told: Told | None, seconds: float) -> Limit:
        """Return a limit as a token bucket: with what is known to pile up, or else paced."""
        per_second = limit.per_second
        is_guess, is_unknown = self.stated.is_guess, stated.learns_burst
        # One that holds less than a call would stand full, and lose its refill, before each.
        least = max(1.0, self.largest.get(stated.resource, 0.0))
        smooth = max(least, per_second * self.slot_seconds)
        if told is not None and told.capacity is not None:
            capacity = told.capacity * (1.0 if self.has_guesses else min(1.0, self.scale))
            if not (is_guess or is_unknown):
                capacity = min(capacity, stated.capacity)
            is_unknown = False
        elif told is not None and not is_unknown:
            capacity = stated.capacity * per_second / stated.per_second
        elif is_guess or is_unknown:
            capacity, is_unknown = smooth, is_unknown and not is_guess
        else:
            capacity = stated.capacity
        if self.is_paced and stated.window is None and not (is_guess and told is None):
            capacity, is_unknown = min(capacity, smooth), True
        if is_unknown:
            per_second = self._paced(limit, capacity, seconds)
        return replace(limit, capacity=max(1.0, capacity), per_second=per_second)

    def _paced(self, limit: Limit, capacity: float, seconds: float) -> float:
        """Return the rate at which no window holds more than its limit, one second's burst too."""
        most = limit.per_second * seconds
        burst = min(capacity, max(1.0, limit.per_second * FIRST_SLOT_SECONDS))
        # Requests are whole: less than one more than the limit is not more.
        spare = 1.0 if limit.resource is Resource.REQUESTS else 0.0
        paced = (most + spare - burst) / (seconds + PACED_TRANSIT_SECONDS)
        return min(limit.per_second, max(paced, limit.per_second / 2))


def _told(fields: Mapping[str, Any]) -> Told:
    window = fields.get("window")
    told = Told(**{**fields, "window": None if window is None else Window(window)})
    if not (told.limit > 0 and told.period_seconds > 0):
        raise ValueError("no limit")
    return told
