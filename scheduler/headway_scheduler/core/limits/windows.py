"""Tells windows from token buckets by what answers tell. Law of this file: pure, bounded.

Theory of operation. Of a token bucket the reset grows with what was used: ``reset + remaining /
rate`` is the same for all readings, whenever they were taken. Of a fixed window the reset is the
time to its end. A reading was taken at some time from the request to its answer, so it tells that
the end lies between ``sent + reset`` and ``heard + reset``; readings of one window agree on that. A
sliding window may tell when its last request leaves it, which is later with each request. So
readings that agree show a fixed window only if their requests were spread over more time than their
answers took. Eight readings that show neither are of a sliding window, or are taken for one.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from ...model.quotas import RateLimitHeader, Window

READINGS = 3
"""How many readings decide."""
EXACT = 0.05
"""By how many seconds times may differ that are the same."""
APART = 3.0
"""Resets that differ by so many times what rounding does show what they grow with."""
OTHER_SECONDS = 2.0
"""Times that differ by more than this are not the same, however they are rounded."""
APART_SECONDS = 1.0
"""How far apart the requests of two readings are, so that few readings span some time."""
MOST_READINGS = 8
"""How many readings are kept."""


class Reading(NamedTuple):
    """What one answer told of a limit. Times are epoch seconds."""

    sent_at: float
    earliest_end: float
    """The end of the window, if it is a fixed one, at the earliest."""
    latest_end: float
    reset_seconds: float
    full_seconds: float
    """How long the bucket takes to fill, if it is one."""
    rounding: float
    """By how much that may be wrong, in seconds: rests and some resets are whole numbers."""


def reading(
    sent_at: float, heard_at: float, remaining: float, reset_seconds: float, rate: float
) -> Reading:
    """Make a reading, of a limit with ``rate`` a second.

    A reset in whole seconds may have been rounded, up or down.
    """
    is_whole = reset_seconds.is_integer()
    earliest = sent_at + reset_seconds - is_whole
    latest = heard_at + reset_seconds + is_whole
    full = reset_seconds + remaining / rate
    return Reading(sent_at, earliest, latest, reset_seconds, full, 1 / rate + is_whole + EXACT)


@dataclass(slots=True)
class WindowReadings:
    """What answers told of one limit until its kind is known."""

    readings: deque[Reading] = field(default_factory=lambda: deque[Reading](maxlen=MOST_READINGS))

    def add(self, new: Reading) -> None:
        """Keep a reading, unless its request left just after that of the last one."""
        if not self.readings or new.sent_at - self.readings[-1].sent_at >= APART_SECONDS:
            self.readings.append(new)

    def kind(self) -> tuple[Window, float] | None:
        """Return what the readings show, and the end of a fixed window; None: nothing yet."""
        if len(self.readings) < READINGS:
            return None
        sent = _spread([each.sent_at for each in self.readings])
        full = _spread([each.full_seconds for each in self.readings])
        rounding = max(each.rounding for each in self.readings)
        if full <= rounding and _spread([each.reset_seconds for each in self.readings]) > (
            APART * rounding
        ):
            return Window.BUCKET, 0.0
        took = max(each.latest_end - each.earliest_end for each in self.readings)
        earliest = max(each.earliest_end for each in self.readings)
        latest = min(each.latest_end for each in self.readings)
        if full <= OTHER_SECONDS + 2 * rounding or sent <= OTHER_SECONDS + 2 * took:
            return None
        if earliest <= latest:
            return Window.FIXED, latest
        # Its resets are those of no bucket: what was taken does not come back continuously.
        return (Window.SLIDING, 0.0) if len(self.readings) == MOST_READINGS else None


DATE_SECONDS = 1.0
"""A date is cut to so many seconds."""
WORTH_MOVING = 0.25
"""By how many seconds the end of a minute is worth moving."""
LONGEST_AHEAD = 86_400.0
"""A clock that is said to be off by more is not believed."""


@dataclass(slots=True)
class ProviderClock:
    """Finds how far a provider's clock is ahead of ours, by the dates of its answers."""

    ahead: float = 0.0
    """In seconds, and at least so far: minutes by it end later than they would otherwise, which is
    safe. Below 0 for a clock that is behind."""

    def record(self, date: float, sent_at: float, heard_at: float) -> bool:
        """Take in a date. Return whether it shows something else than the dates before."""
        least, most = date - heard_at, date + DATE_SECONDS - sent_at
        is_known = least - WORTH_MOVING < self.ahead <= most
        if is_known or abs(least) > LONGEST_AHEAD:
            return False
        self.ahead = least
        return True


LENGTHS = (1.0, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 3_600.0)
"""Lengths that people give to windows, in seconds."""
ORDERED_SECONDS = 0.5
"""Requests that leave so far apart arrive in their order."""
RISE = 0.1
"""Of others, a rest that rises by this share of the limit is that of another window; at least by"""
RISEN = 3.0


@dataclass(slots=True)
class LengthReadings:
    """Finds how long a window is of which answers tell the rest, and no end.

    The rest only falls until the window ends. So between two answers of which the later one tells
    more, a window has ended and another one begun.
    """

    seconds: float | None = None
    """The length, once only one is possible."""
    began: tuple[float, float] | None = None
    """When the last window began that was seen to, at the earliest and at the latest; None: none
    was."""
    _last: tuple[float, float] | None = None
    """When the request of the last answer left, and the rest that it told."""

    def record(self, sent_at: float, heard_at: float, header: RateLimitHeader) -> None:
        """Take in what an answer told."""
        limit, remaining, last = header.limit, header.remaining, self._last
        if limit is None or remaining is None:
            return
        if last is not None and sent_at <= last[0]:
            return  # it may have been counted before that
        self._last = (sent_at, remaining)
        if last is None:
            self.began = (sent_at, heard_at) if remaining >= limit - 1 else None
        elif remaining > last[1] + (
            0.0 if sent_at - last[0] > ORDERED_SECONDS else max(RISEN, RISE * limit)
        ):
            if self.seconds is None and self.began is not None:
                least, most = last[0] - self.began[1], heard_at - self.began[0]
                possible = [each for each in LENGTHS if least <= each <= most]
                self.seconds = possible[0] if len(possible) == 1 else None
            self.began = (last[0], heard_at)


def _spread(times: list[float]) -> float:
    return max(times) - min(times)


def moved_end(end: float, seconds: float, told: Reading) -> float | None:
    """Return the end of a fixed window that a reading shows in the place of ``end``; None: none.

    A window may begin with the first request in it, so its end moves. The latest end is safe; a
    reading that leaves half of a window open says nothing.
    """
    if told.latest_end - told.earliest_end > seconds / 2:
        return None
    expected = end + round((told.latest_end - end) / seconds) * seconds
    return None if told.earliest_end <= expected <= told.latest_end else told.latest_end
