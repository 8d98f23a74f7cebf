"""Tells a fixed window from a token bucket by the resets that answers tell. Law: pure, bounded.

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

from ...model.quotas import Window

READINGS = 3
"""How many readings decide."""
SAME_SECONDS = 1.0
"""Times that differ by no more than this are the same: some are told in whole seconds."""
OTHER_SECONDS = 2.0
"""Times that differ by more than this are not."""
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
    full_seconds: float
    """How long the bucket takes to fill, if it is one."""


def reading(
    sent_at: float, heard_at: float, remaining: float, reset_seconds: float, rate: float
) -> Reading:
    """Make a reading, of a limit with ``rate`` a second.

    A reset in whole seconds may have been rounded, up or down.
    """
    is_whole = reset_seconds.is_integer()
    earliest = sent_at + reset_seconds - is_whole
    latest = heard_at + reset_seconds + is_whole
    return Reading(sent_at, earliest, latest, reset_seconds + remaining / rate)


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
        if full <= SAME_SECONDS:
            return (Window.BUCKET, 0.0) if sent > OTHER_SECONDS else None
        took = max(each.latest_end - each.earliest_end for each in self.readings)
        earliest = max(each.earliest_end for each in self.readings)
        latest = min(each.latest_end for each in self.readings)
        if full <= OTHER_SECONDS or sent <= OTHER_SECONDS + 2 * took:
            return None
        if earliest <= latest:
            return Window.FIXED, latest
        # Its resets are those of no bucket: what was taken does not come back continuously.
        return (Window.SLIDING, 0.0) if len(self.readings) == MOST_READINGS else None


def _spread(times: list[float]) -> float:
    return max(times) - min(times)


def moved_end(end: float, seconds: float, told: Reading) -> float | None:
    """Return the end of a fixed window that a reading shows in the place of ``end``; None: none.

    A window may begin with the first request in it, so its end moves. Too late an end is safe, and
    so is one that is not known any better.
    """
    windows = round((told.latest_end - end) / seconds)
    expected = end + windows * seconds
    if told.earliest_end - SAME_SECONDS <= expected <= told.latest_end + SAME_SECONDS:
        return told.latest_end if told.latest_end < expected else None
    is_sharp = told.latest_end - told.earliest_end <= OTHER_SECONDS + SAME_SECONDS
    return told.latest_end if is_sharp or told.earliest_end > expected else None
