"""Learns from answers what a quota really allows. Law of this file: pure; it never admits.

Theory of operation. Three sources, the better one first.

*Headers.* If a quota is a guess, the limits in headers replace it. If the user stated it, they
count only where they are lower: the user may leave a part to others on purpose. The capacity
follows from what remains and from when the limit is whole again. ``told.py`` says which headers are
believed. However low a limit is told, one request a minute goes, and as many tokens as the largest
call took that was answered in the last hour or two.

*Refusals.* All rates of a quota are scaled together, because a refusal does not say which of them
it is about. A refusal means that the provider's bucket is empty: so what the provider took between
two refusals is what it refills in that time, and until more comes back, if it tells when. If that
is less than 3 s, a refusal takes 15 % off instead, at most once per second. While calls wait for
such a limit and none is refused, the scale grows every 5 s: before the first refusal it doubles.
After it, it grows by 2 % and then by twice as much each time, and in search of a limit that nobody
told not before ten answers came, because each growth that is too much costs a refusal. Limits that
are stated, or that headers tell, are scaled down only by a second refusal within 60 s, by 15 % at
most, and never up above what was stated or told: another client may use the same key, but nobody
grants more. Refusals that come whatever the rate scale nothing down (``refused_share.py``).

*Overload, and too many at once* change how many calls may be in flight (``slots.py``). Rates stay.

*Windows.* A limit is a token bucket unless the user states another window, the headers have it in
their names, or the resets that they tell show one (``windows.py``). After a refusal that was not by
chance, whatever is not known is *paced*: the burst goes and the rate falls, so that no window of
any kind holds more than the limit: ``capacity + rate * (window + transit) <= limit``.

*Bursts.* A bucket of which nobody says how much piles up holds the refill of 1 s at first, because
a limit of 60 per minute may be enforced as 1 per second. It is paced until its capacity is told. A
burst that used more than half of it and was not refused doubles it; one that was refused halves it,
down to 0.125 s.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ...model.quotas import MINUTE_SECONDS, Limit, RateLimitHeader, Resource, Window
from .known import KnownLimits
from .refused_share import RefusedShare
from .told import (
    RISE_SECONDS,
    UNCONFIRMED_SECONDS,
    Claim,
    Told,
    agrees,
    differ,
    is_near,
    moved,
    told_by,
)
from .windows import LengthReadings, WindowReadings, moved_end, reading

STEP_SECONDS = 5.0
"""How long after one growth the next may follow."""
STEP_ANSWERS = 10
"""How many answers lie between two growths after the first refusal."""
CUT = 0.85
"""The factor of a refusal that measures nothing."""
SMALLEST = 0.001
"""The lowest scale: even a provider that refuses everything is asked now and then."""
BELOW_MEASURED = 0.97
"""The new scale, as a share of the measured one."""
GROSS = 0.7
"""If the measured scale is below this share of the scale, the measure is followed; else no more
than 15 % is cut: pauses, or a bucket so small that it was full in between, lose some as well."""
REST_SECONDS = 1.0
"""How long no further cut follows a cut: requests that left before it are still refused."""
ENOUGH_SECONDS = 3.0
"""How far apart two refusals must be for a measure between them."""
FIRST_GROWTH = 0.02
"""The first growth after a refusal, as a share of the scale; each further one is twice that."""
SHORTEST_SLOT_SECONDS = 0.125
CHANCE_SECONDS = 60.0
"""One refusal of stated limits may be chance; a second one within this time is not."""
EXACT_SHARE = 0.1
"""How exactly the beginning of a window must have been seen, as a share of its length."""
LARGEST_SECONDS = 3_600.0
"""For so long, and at most twice as long, the size of an answered call counts."""


@dataclass(slots=True)
class Learned:
    """Learns the limits of one quota. Times are epoch seconds."""

    known: KnownLimits
    """What is known of them."""
    is_by_chance: bool = False
    """Whether the last refusal was the first one for long, and changed no limit."""
    doubted: set[Resource] = field(default_factory=set[Resource])
    """What the last headers told a limit of that was not believed."""
    _claims: dict[Resource, Claim] = field(default_factory=dict[Resource, Claim])
    """Limits that were told and are not believed yet."""
    _confirmed_at: dict[Resource, float] = field(default_factory=dict[Resource, float])
    """When a limit was last told."""
    _left: dict[Resource, float] = field(default_factory=dict[Resource, float])
    """What remained, as it was last told."""
    _readings: dict[Resource, WindowReadings] = field(
        default_factory=dict[Resource, WindowReadings]
    )
    _lengths: dict[Resource, LengthReadings] = field(default_factory=dict[Resource, LengthReadings])
    _taken: dict[Resource, float] = field(default_factory=dict[Resource, float])
    """The amounts that answered calls took since the last refusal, by resource."""
    _largest: dict[Resource, float] = field(default_factory=dict[Resource, float])
    """The largest amounts that one answered call took, since ``_largest_since``."""
    _largest_since: float = 0.0
    _refused_at: float | None = None
    """When the last refusal came."""
    _refused_share: RefusedShare = field(default_factory=RefusedShare)
    _counted_from: float | None = None
    """From when on ``_taken`` is counted: from the end of the last refusal's pause."""
    _answers: int = 0
    """How many answers came since the scale last changed."""
    _stepped_at: float | None = None
    """When the scale last changed, or calls last did not wait."""
    _risen_at: float | None = None
    """When a limit that is not told any more last rose."""

    def record_headers(
        self,
        headers: Mapping[Resource, RateLimitHeader],
        now: float,
        sent_at: float | None = None,
        *,
        is_refused: bool = False,
    ) -> bool:
        """Record limits from headers, or from a refusal. Return whether that changed a limit.

        ``sent_at``: when their request left; None: just now. ``is_refused``: it was refused for its
        rate, which bears out a low limit.
        """
        sent_at = now if sent_at is None else sent_at
        self.doubted.clear()
        changed = False
        for stated in self.known.stated.limits:
            header = headers.get(stated.resource)
            if header is not None and stated.resource is not Resource.CONCURRENCY:
                changed |= self._record_header(stated, header, now, sent_at, is_refused=is_refused)
        slots = headers.get(Resource.CONCURRENCY)
        if slots is not None and slots.limit is not None:
            changed |= self.known.slots.record_told(slots.limit, now)
        return changed

    def _record_header(
        self,
        stated: Limit,
        header: RateLimitHeader,
        now: float,
        sent_at: float,
        *,
        is_refused: bool,
    ) -> bool:
        """Record what is told of one limit. Return whether that changed it."""
        changed, resource = False, stated.resource
        if header.window is Window.FIXED:
            readings = self._lengths.setdefault(resource, LengthReadings())
            readings.record(sent_at, now, header)
        old, kind = self.known.told.get(resource), self.known.windows.get(resource)
        if old is None or not _is_same(old, header, kind):  # seldom
            new = told_by(stated, header, old, is_guess=self.known.stated.is_guess)
            if new is None:
                return False
            if new.capacity is None and old is not None and old.limit == new.limit:
                new = old
            if old is None or differ(old, new):
                is_period = old is not None and not old.is_period_known and old.limit == new.limit
                if not is_period and not self._believes(stated, new, now, is_refused=is_refused):
                    return False
                self._take(resource, new)
                changed = True
        self._confirmed_at[resource] = now
        if header.window is Window.FIXED:
            changed |= self._know_length(resource)
        if header.reset_seconds is not None and (kind is None or kind is Window.FIXED):
            changed |= self._record_window(stated, header, now, sent_at)
        return changed

    def _know_length(self, resource: Resource) -> bool:
        """Take what was found out of how long a window is. Return whether that is new."""
        told, readings = self.known.told[resource], self._lengths.get(resource)
        seconds = None if readings is None else readings.seconds
        if told.is_period_known or seconds is None:
            return False
        self.known.told[resource] = replace(told, period_seconds=seconds, is_period_known=True)
        return True

    def end_of_window(self, resource: Resource, now: float) -> float | None:
        """Return when a window ends at the latest whose answers tell no end; None: not known.

        LiteLLM's refusals tell a whole window to wait, however little is left of it. Rests of
        tokens also rise when a request used less than it reserved, so they show no end. Neither
        does a beginning that was seen too roughly: another window may have begun since.
        """
        told, readings = self.known.told.get(resource), self._lengths.get(resource)
        if resource is not Resource.REQUESTS or told is None or not told.is_period_known:
            return None
        if readings is None or readings.began is None:
            return None
        earliest, latest = readings.began
        end = latest + told.period_seconds
        is_exact = latest - earliest <= EXACT_SHARE * told.period_seconds
        return end if is_exact and end > now else None

    def _take(self, resource: Resource, new: Told) -> None:
        """Have a told limit act. What was learned of the guesses is no word on what is told."""
        had_guesses = self.known.has_guesses
        self.known.told[resource] = new
        if had_guesses and not self.known.has_guesses:
            self.known.scale, self.known.growth = 1.0, FIRST_GROWTH

    def _believes(self, stated: Limit, new: Told, now: float, *, is_refused: bool) -> bool:
        """Whether a told limit acts now. If it does not, nothing that it tells is believed."""
        claim, holds = self._claims.pop(stated.resource, None), self._holds(stated)
        if is_near(new, holds):
            return True
        is_shown = is_refused and new.per_minute < holds
        if claim is None or moved(claim.told.per_minute, new.per_minute):
            claim = Claim(new, now, refusals=int(is_shown))
        else:
            claim.refusals += is_shown
            if agrees(claim, new, now):
                return True
        self._claims[stated.resource] = claim
        self.doubted.add(stated.resource)
        return False

    def _holds(self, stated: Limit) -> float:
        """Return the limit that holds, per minute or per day."""
        told = self.known.told.get(stated.resource)
        if told is not None:
            return told.per_minute
        if not stated.per_second:
            return stated.largest
        return stated.per_second * MINUTE_SECONDS * self.known.scale

    def _record_window(
        self, stated: Limit, header: RateLimitHeader, now: float, sent_at: float
    ) -> bool:
        """Find out how a limit is counted. Return whether that changed it."""
        resource, known = stated.resource, self.known.windows.get(stated.resource)
        told = self.known.told.get(resource)
        is_stated = stated.window is not None and stated.window is not Window.FIXED
        if is_stated or told is None or not stated.per_second:
            return False
        if known in (Window.BUCKET, Window.SLIDING) or header.window is Window.BUCKET:
            return False
        remaining, reset = header.remaining, header.reset_seconds
        if remaining is None or reset is None or header.window is Window.SLIDING:
            return False
        if remaining == self._left.get(resource):
            return False  # as at the last answer: nothing new
        self._left[resource] = remaining
        new = reading(sent_at, now, remaining, reset, told.limit / told.period_seconds)
        if known is not Window.FIXED:
            readings = self._readings.setdefault(resource, WindowReadings())
            readings.add(new)
            if (found := readings.kind()) is None:
                return False
            self.known.windows[resource], self.known.ends[resource] = found
            del self._readings[resource]
            return True
        end = moved_end(self.known.ends[resource], self.known.window_seconds(stated), new)
        if end is None:
            return False
        self.known.ends[resource] = end
        return True

    def record_refusal(
        self,
        admitted_at: float,
        now: float,
        pause_seconds: float = 0.0,
        *,
        is_after_burst: bool = True,
    ) -> bool:
        """Record that a call was refused for its rate. Return whether that changed a limit.

        ``pause_seconds``: when its budget comes back, if the provider told that.
        ``is_after_burst``: whether a full bucket had just been used up.
        """
        self.is_by_chance = False
        self._refused_share.record_refusal(now)
        if self._refused_at is not None and admitted_at <= self._refused_at + REST_SECONDS:
            return False  # sent before the last cut could show
        last, self._refused_at = self._refused_at, now
        measured = None
        if self._counted_from is not None and (last is not None or pause_seconds > ENOUGH_SECONDS):
            # What was taken has to suffice until more comes back.
            measured = self._measured(now + pause_seconds - self._counted_from)
        if last is None or measured is not None:  # else it is measured over more refusals
            self._taken.clear()
            self._counted_from = now + pause_seconds
        if self._refused_share.is_by_chance:
            return False
        is_chance = last is None or now - last > CHANCE_SECONDS
        if not self._has_rates or (is_chance and not self.known.has_guesses):
            self.is_by_chance = is_chance
            return False
        self.known.is_paced = True
        self.known.scale = max(SMALLEST, self._after_refusal(measured))
        self._stepped_at, self._answers, self.known.growth = now, 0, FIRST_GROWTH
        if is_after_burst:
            self.known.slot_seconds = max(SHORTEST_SLOT_SECONDS, self.known.slot_seconds / 2)
        return True

    def record_answer(
        self, amounts: Mapping[Resource, float], now: float, *, is_waited_for: bool
    ) -> bool:
        """Record that a call was answered that took ``amounts``. Return whether a limit changed.

        The scale grows only while calls wait for a rate of the quota: otherwise no refusal would
        show that it is too high.
        """
        self._count(amounts, now)
        self._answers += 1
        if self._refused_at is not None:
            self._refused_share.record_answer(now)
        is_risen = bool(self._confirmed_at) and self._rise(now)
        if self._stepped_at is None or not is_waited_for:
            self._stepped_at = now
            return is_risen
        if now - self._stepped_at < STEP_SECONDS or not self._may_grow:
            return is_risen
        is_search = self.known.has_guesses and self._refused_at is not None
        if is_search and self._answers < STEP_ANSWERS:
            return is_risen
        self._stepped_at, self._answers = now, 0
        self.known.scale *= 1 + self.known.growth
        self.known.growth = min(1.0, 2 * self.known.growth)
        if not self.known.has_guesses:
            self.known.scale = min(1.0, self.known.scale)
        return True

    def _count(self, amounts: Mapping[Resource, float], now: float) -> None:
        """Note what an answered call took."""
        if self._counted_from is None:
            self._counted_from = now
        largest = self.known.largest
        if now - self._largest_since > LARGEST_SECONDS:
            self._largest_since = now
            largest.clear()
            largest.update(self._largest)
            self._largest.clear()
        for resource, amount in amounts.items():
            self._taken[resource] = self._taken.get(resource, 0.0) + amount
            if amount > self._largest.get(resource, 0.0):
                self._largest[resource] = amount
                largest[resource] = max(amount, largest.get(resource, 0.0))

    def record_burst(self) -> bool:
        """Record a burst that was not refused. Return whether a bucket is larger for it."""
        if not (self.known.is_paced or any(each.learns_burst for each in self.known.stated.limits)):
            return False
        self.known.slot_seconds = min(MINUTE_SECONDS, 2 * self.known.slot_seconds)
        return True

    def _rise(self, now: float) -> bool:
        """Raise what was told long ago and lowered a limit. Return whether a limit rose."""
        late = [
            resource
            for resource, at in self._confirmed_at.items()
            if now - at > UNCONFIRMED_SECONDS and resource in self.known.told
        ]
        if not late or (self._risen_at is not None and now - self._risen_at < RISE_SECONDS):
            return False
        self._risen_at = now
        for stated in self.known.stated.limits:
            if stated.resource in late:
                told = self.known.told[stated.resource]
                told.limit *= 2
                told.capacity = None if told.capacity is None else 2 * told.capacity
                if told.per_minute >= stated.largest:
                    del self.known.told[stated.resource]
        return True

    def _after_refusal(self, measured: float | None) -> float:
        if measured is None:
            return self.known.scale * CUT
        below = self.known.scale * min(1.0, BELOW_MEASURED * measured / self.known.scale)
        if not self.known.has_guesses:  # it was right, or nearly so
            return max(below, self.known.scale * CUT)
        return below if measured < GROSS * self.known.scale else max(below, self.known.scale * CUT)

    def _measured(self, seconds: float) -> float | None:
        """Return the scale at which ``seconds`` refill what was taken in them; None if too short.

        Of several limits, the most used one decides: the refusal was about that one.
        """
        if seconds < ENOUGH_SECONDS:
            return None
        shares = (
            self._taken.get(limit.resource, 0.0) / (seconds * self.known.per_second(limit, 1.0))
            for limit in self.known.stated.limits
            if limit.per_second
        )
        return max(shares, default=0.0) or None

    @property
    def _has_rates(self) -> bool:
        return any(limit.per_second for limit in self.known.stated.limits)

    @property
    def _may_grow(self) -> bool:
        return self._has_rates and (self.known.scale < 1 or self.known.has_guesses)


def _is_same(old: Told, header: RateLimitHeader, kind: Window | None) -> bool:
    """Whether a header tells what is known. ``kind``: how the limit was found to be counted."""
    if kind is not None and kind is not Window.BUCKET:
        return header.limit == old.limit  # its reset tells of no bucket
    if header.limit != old.limit or header.window is not old.window:
        return False
    if header.window is not None and header.window is not Window.BUCKET:
        return header.period_seconds in (None, old.period_seconds)
    left, reset = header.remaining, header.reset_seconds
    if left is None or reset is None:
        return True
    capacity = min(old.limit, left + reset * old.limit / MINUTE_SECONDS)
    # What remains is rounded down: as ``is_same_capacity``, which is not asked for each answer.
    known = old.capacity
    return known is not None and 0.98 * known - 1 <= capacity <= 1.02 * known
