"""How a limit that is not a token bucket gets back what was taken.

Law of this file: nothing comes back before the provider gives it back.

Theory of operation. A day or a fixed window gives all back at its end and nothing before. A request
that is still under way then counts in both: it stays reserved over the boundary, and so does what
was charged while the boundary may have passed already at the provider (``blur_seconds``). A sliding
window gives each amount back when its length has passed since the charge; our charge is never
earlier than the provider's, so neither is the return. What answers show of other clients of the key
stays taken, because those clients go on. A fixed window whose ends nobody told is mirrored as a
sliding one: no window of that length, wherever it starts, then holds more than the limit. If the
rests show when it ends, a refusal lets nothing go before, and all come back then.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import assert_never

from ...model.quotas import DAY_SECONDS, Limit, Window
from .reservation import Reservation

BLUR_SECONDS = 2.0
"""How much later than it is the end of a fixed window may be thought to be: answers travel, and
some resets are told in whole seconds."""


@dataclass(slots=True)
class WindowEnd:
    """Refills at the boundaries of a day or of fixed windows."""

    period_seconds: float
    starts: float
    """Any boundary; epoch seconds."""
    blur_seconds: float = 0.0
    """For how long before a boundary a charge counts in the next window, too."""
    recent: deque[tuple[float, float]] = field(default_factory=deque[tuple[float, float]])
    """Times and amounts of charges of the last ``blur_seconds``."""

    def after(self, now: float) -> float:
        """Return when the next window starts."""
        windows = math.floor((now - self.starts) / self.period_seconds) + 1
        return windows * self.period_seconds + self.starts

    def note(self, at: float, amount: float, _: Reservation | None = None) -> None:
        """Note that an amount was charged."""
        if self.blur_seconds:
            self.recent.append((at, amount))
            while self.recent[0][0] < at - self.blur_seconds:
                self.recent.popleft()

    def ready_at(self, _: float, now: float) -> float:
        """Return when what is missing is there again."""
        return self.after(now)

    def gain(self, now: float, until: float, capacity: float) -> float:
        """Return how much more there is ``until`` then, if all of it is missing."""
        return capacity if self.after(now) <= until else 0.0

    def came_back_since(self, _: float) -> float:
        """Return 0: no answer is compared over the end of a window."""
        return 0.0

    def carried(self, since: float, now: float) -> float | None:
        """Return what counts in the window of ``now``, too; None if it is that of ``since``."""
        boundary = self.after(since)
        if boundary > now:
            return None
        last = self.after(now) - self.period_seconds
        return sum(amount for at, amount in self.recent if at > last - self.blur_seconds)


@dataclass(eq=False, slots=True)
class _Taken:
    """An amount that comes back."""

    at: float
    amount: float


@dataclass(slots=True)
class Sliding:
    """Gives each amount back a window's length after its charge."""

    seconds: float
    taken: deque[_Taken] = field(default_factory=deque[_Taken])
    """What has not come back, the oldest first."""
    of: dict[Reservation, _Taken] = field(default_factory=dict[Reservation, _Taken])
    """The same of calls that have not ended."""
    returned: deque[tuple[float, float]] = field(default_factory=deque[tuple[float, float]])
    """What came back lately: when, and how much."""
    ends_at: float = 0.0
    """The last known end of the fixed window that is mirrored so; epoch seconds. 0: none is."""
    others: float = 0.0
    """What other clients of the key have in the window, as answers show."""
    _read_at: float = 0.0
    """When an answer last told what remains, or half of ``others`` was let go; epoch seconds."""
    _shown: float = -math.inf
    """How much less there is than the mirror has, by the answer that shows most of it."""
    _shown_since: float = 0.0
    """From when on answers are looked at for that; epoch seconds."""

    def end(self, at: float) -> None:
        """Have all that was, or will be, charged before ``at`` come back then at the latest."""
        self.ends_at = at
        for entry in self.taken:
            entry.at = min(entry.at, at - self.seconds)

    def note(self, at: float, amount: float, reservation: Reservation | None = None) -> None:
        """Note that an amount was charged."""
        if amount <= 0:
            return
        if at < self.ends_at:
            at = min(at, self.ends_at - self.seconds)
        last = self.taken[-1].at if self.taken else at
        entry = _Taken(max(at, last), amount)  # later is safe, and keeps them in order
        self.taken.append(entry)
        if reservation is not None:
            self.of[reservation] = entry

    @property
    def is_told(self) -> bool:
        """Whether answers tell what remains."""
        return self._read_at > 0

    def read(self, least: float, most: float, now: float) -> float:
        """Take in that an answer shows ``least`` to ``most`` less than the mirror has.

        Below 0: more. Return by how much the fill falls. What others took stays taken: their next
        requests come as those before leave the window. It shrinks when all answers of a while show
        more; one alone may be of a request that overtook those that left before it.
        """
        self._read_at = now
        if least > 0:
            self.others += least
            self._shown = -math.inf
            return least
        if self._shown == -math.inf:
            self._shown_since = now
        elif now - self._shown_since > BLUR_SECONDS:
            less = min(self.others, max(0.0, -self._shown))
            self.others -= less
            self._shown = -math.inf
            return -less
        self._shown = max(self._shown, most)
        return 0.0

    def give_back(self, reservation: Reservation, unused: float, now: float) -> float:
        """Correct the charge of a call that ended; return how much comes back now.

        ``unused`` below 0: that much more was used.
        """
        entry = self.of.pop(reservation, None)
        if entry is not None and entry.amount:
            entry.amount -= unused
            return unused
        self.note(now, -unused)
        return min(0.0, unused)

    def come_back(self, now: float) -> float:
        """Return what came back until ``now``."""
        total = 0.0
        while self.others and self._read_at + self.seconds <= now:
            # No answer tells any more, perhaps because nothing may go.
            self._read_at += self.seconds
            less = self.others if self.others < 1 else self.others / 2
            self.others -= less
            total += less
        while self.taken and self.taken[0].at + self.seconds <= now:
            entry = self.taken.popleft()
            total += entry.amount
            self.returned.append((entry.at + self.seconds, entry.amount))
            entry.amount = 0.0
        while self.returned and self.returned[0][0] < now - 2 * BLUR_SECONDS:
            self.returned.popleft()
        return total

    def came_back_since(self, at: float) -> float:
        """Return what came back after ``at``, if that is not long ago."""
        return sum(amount for when, amount in self.returned if when > at)

    def gain(self, _: float, until: float, __: float) -> float:
        """Return what will have come back ``until`` then."""
        total = 0.0
        for entry in self.taken:
            if entry.at + self.seconds > until:
                break
            total += entry.amount
        return total

    def ready_at(self, deficit: float, _: float) -> float | None:
        """Return when ``deficit`` has come back; None if so much was not charged."""
        for entry in self.taken:
            deficit -= entry.amount
            if deficit <= 0:
                return entry.at + self.seconds
        return self._read_at + self.seconds if self.others else None


Refill = WindowEnd | Sliding


def refill_of(limit: Limit) -> Refill | None:
    """Return how a limit refills; None if continuously, or never."""
    if limit.resource.is_daily:
        return WindowEnd(DAY_SECONDS, limit.day_starts)
    match limit.window:
        case None | Window.BUCKET:
            return None
        case Window.SLIDING:
            return Sliding(limit.window_seconds)
        case Window.FIXED | Window.MINUTE:
            return WindowEnd(limit.window_seconds, limit.day_starts, BLUR_SECONDS)
        case _:
            assert_never(limit.window)
