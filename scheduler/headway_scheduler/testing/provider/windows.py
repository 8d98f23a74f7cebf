"""Limits that are counted in windows, not in buckets. Law of this file: pure; time is an argument.

Each has the methods of ``limits.Bucket``, and is frozen as that is. A cost above the limit passes
when nothing is counted.
"""

import math
from dataclasses import dataclass, replace
from enum import StrEnum

ROUNDING = 1e-6


class WindowKind(StrEnum):
    """How a provider counts requests and tokens."""

    BUCKET = "bucket"  # a token bucket: ``limits.Bucket``
    SLIDING = "sliding"  # what came in the last window
    FIXED = "fixed"  # what came since the window began, which the first request in it does
    MINUTE = "minute"  # what came in this minute of the clock


@dataclass(frozen=True, slots=True)
class SlidingWindow:
    """A limit on what came in the last ``seconds``."""

    capacity: float
    seconds: float
    counted: tuple[tuple[float, float], ...] = ()
    """When each amount came, and how much it was; the oldest first."""

    @property
    def per_minute(self) -> float:
        """The limit, per minute."""
        return self.capacity * 60 / self.seconds

    def refilled(self, now: float) -> "SlidingWindow":
        """Return the window as it is at ``now``."""
        first = 0
        while first < len(self.counted) and self.counted[first][0] + self.seconds <= now:
            first += 1
        return replace(self, counted=self.counted[first:]) if first else self

    def wait_seconds(self, cost: float, now: float) -> float:
        """Return the seconds until ``cost`` passes if nobody else draws; 0.0 if it passes now."""
        window = self.refilled(now)
        short = min(cost, self.capacity) - (self.capacity - window.taken_now)
        for at, amount in window.counted:
            if short <= ROUNDING:
                break
            short -= amount
            if short <= ROUNDING:
                return at + self.seconds - now
        return 0.0

    @property
    def taken_now(self) -> float:
        """What is counted."""
        return sum(amount for _, amount in self.counted)

    def taken(self, cost: float, now: float) -> "SlidingWindow":
        """Return the window after ``cost`` was taken."""
        window = self.refilled(now)
        return replace(window, counted=(*window.counted, (now, cost)))

    def spilled(self, now: float) -> "SlidingWindow":
        """Return the window after a refusal that is charged as a request: it is full then."""
        window = self.refilled(now)
        left = self.capacity - window.taken_now
        return window.taken(min(1.0, left), now) if left > 0 else window

    def remaining(self, now: float) -> int:
        """Return the whole requests or tokens that are left."""
        left = self.capacity - self.refilled(now).taken_now
        return max(0, math.floor(left + ROUNDING))

    def reset_seconds(self, now: float) -> float:
        """Return the seconds until nothing is counted any more."""
        counted = self.refilled(now).counted
        return counted[-1][0] + self.seconds - now if counted else 0.0


@dataclass(frozen=True, slots=True)
class FixedWindow:
    """A limit on what came in this window. ``is_of_clock``: windows start at whole minutes."""

    capacity: float
    seconds: float
    is_of_clock: bool = False
    clock_offset: float = 0.0
    """What to add to the caller's times, so that whole minutes of the clock are multiples of 60."""
    started_at: float | None = None
    count: float = 0.0

    @property
    def per_minute(self) -> float:
        """The limit, per minute."""
        return self.capacity * 60 / self.seconds

    def refilled(self, now: float) -> "FixedWindow":
        """Return the window as it is at ``now``."""
        if self.is_of_clock:
            start = now - (now + self.clock_offset) % self.seconds
            is_same = self.started_at is not None and abs(start - self.started_at) < ROUNDING
            return self if is_same else replace(self, started_at=start, count=0.0)
        if self.started_at is not None and now >= self.started_at + self.seconds:
            return replace(self, started_at=None, count=0.0)
        return self

    def wait_seconds(self, cost: float, now: float) -> float:
        """Return the seconds until ``cost`` passes if nobody else draws; 0.0 if it passes now."""
        window = self.refilled(now)
        short = min(cost, self.capacity) - (self.capacity - window.count)
        return 0.0 if short <= ROUNDING else window.reset_seconds(now)

    def taken(self, cost: float, now: float) -> "FixedWindow":
        """Return the window after ``cost`` was taken."""
        window = self.refilled(now)
        started = now if window.started_at is None else window.started_at
        return replace(window, started_at=started, count=window.count + cost)

    def spilled(self, now: float) -> "FixedWindow":
        """Return the window after a refusal that is charged as a request: it is full then."""
        window = self.refilled(now)
        return replace(window, count=max(window.count, min(self.capacity, window.count + 1)))

    def remaining(self, now: float) -> int:
        """Return the whole requests or tokens that are left."""
        return max(0, math.floor(self.capacity - self.refilled(now).count + ROUNDING))

    def reset_seconds(self, now: float) -> float:
        """Return the seconds until the window ends."""
        window = self.refilled(now)
        return 0.0 if window.started_at is None else window.started_at + self.seconds - now
