"""Learns how many calls a provider takes at once. Law of this file: pure; it never admits.

Theory of operation. After a 503 or 529 a quarter fewer calls go at once, then one more every 5 s,
up to the stated concurrency. A refusal that says that too many are in flight, or a limit on them
that answers tell, makes a limit where none was stated; if no number was told, it is one less than
were in flight. Such a limit grows by one when none was refused for a while, and waits twice as long
each time that this was too much.

*Nobody tells.* A provider that limits the calls in flight may answer as one that limits a rate. It
is found out by three refusals that name no time to wait: each time more calls were in flight than
when any call went that was answered in the last minute, though the rates before them differed
twofold.
"""

from collections import deque
from dataclasses import dataclass, field

CUT_OF_SLOTS = 0.75
"""The factor of an overload."""
STEP_SECONDS = 5.0
"""How long after an overload one more call goes at once."""
CALM_SECONDS = 60.0
"""How long no refusal for too many at once comes before a learned number grows, at first,"""
MOST_CALM_SECONDS = 3_600.0
"""and at most."""
REFUSALS = 3
"""How many refusals show a limit on calls at once that nobody told."""
RATES_DIFFER = 2.0
"""By which factor the rates before them differ at least."""
INFINITE = float("inf")


@dataclass(slots=True)
class Slots:
    """How many calls may be in flight. Times are epoch seconds."""

    stated: float | None
    """The stated concurrency, in calls; None without one."""
    at_once: float = INFINITE
    """What an overload left."""
    learned: float = INFINITE
    """What refusals or answers told."""
    is_told: bool = False
    """Whether the provider told that number itself."""
    calm_seconds: float = CALM_SECONDS
    may_grow: bool = False
    """Whether an answer may let one more go at once."""
    _since: float | None = None
    """When ``at_once`` last changed; None while it is not below what was stated."""
    _learned_at: float = 0.0
    _has_grown: bool = False
    _refused: deque[tuple[int, float]] = field(
        default_factory=lambda: deque[tuple[int, float]](maxlen=REFUSALS)
    )
    """Calls in flight at the last refusals, and the rates before them."""

    @property
    def limit(self) -> float | None:
        """How many go at once; None: no limit."""
        least = min(INFINITE if self.stated is None else self.stated, self.learned)
        if self.stated is not None and self.at_once < least:
            least = int(self.at_once)
        return None if least == INFINITE else least

    def record_overload(self, admitted_at: float, in_use: float, now: float) -> bool:
        """Record an overload with ``in_use`` calls in flight. Return whether the limit changed."""
        if self.stated is None or (self._since is not None and admitted_at <= self._since):
            return False  # sent before the last cut
        most = min(self.at_once, self.stated, max(1.0, in_use))
        self.at_once, self._since = max(1.0, CUT_OF_SLOTS * most), now
        self.may_grow = True
        return True

    def record_crowded(self, in_flight: int, told: float | None, now: float) -> bool:
        """Record that too many were in flight. Return whether the limit changed."""
        before = self.learned
        if told is not None:
            self.learned, self.is_told = max(1.0, told), True
        elif not self.is_told:
            if self._has_grown:  # by one too many
                self.calm_seconds = min(MOST_CALM_SECONDS, 2 * self.calm_seconds)
                self._has_grown = False
            self.learned = min(self.learned, max(1.0, in_flight - 1.0))
            self.may_grow = True
        self._learned_at = now
        return self.learned != before

    def record_told(self, limit: float, now: float) -> bool:
        """Record a limit that answers tell. Return whether that changed it."""
        return self.record_crowded(0, limit, now)

    def record_answer(self, in_flight: int, now: float) -> bool:
        """Record an answer with ``in_flight`` calls in flight. Return whether the limit changed."""
        if self._since is not None and self.stated is not None:
            return self._one_more(self.stated, now)
        if self.learned == INFINITE or self.is_told or in_flight < self.learned:
            return False
        if now - self._learned_at < self.calm_seconds:
            return False
        self.learned, self._learned_at, self._has_grown = self.learned + 1, now, True
        return True

    def _one_more(self, stated: float, now: float) -> bool:
        if self._since is None or now - self._since < STEP_SECONDS:
            return False
        self.at_once += 1
        self._since = now if self.at_once < stated else None
        return True

    def record_refusal(self, in_flight: int, rate: float, peak: int, now: float) -> bool:
        """Record a refusal that does not say of what. Return whether it shows a limit on slots.

        ``in_flight``: when the refused call went; ``peak``: the most when one went that was
        answered, lately. ``rate``: of answers before the refusal.
        """
        if self.limit is not None:
            return False
        self._refused.append((in_flight, rate))
        if len(self._refused) < REFUSALS:
            return False
        fewest = min(count for count, _ in self._refused)
        rates = [each for _, each in self._refused]
        if not 1 <= peak < fewest or max(rates) < RATES_DIFFER * min(rates):
            return False
        self.learned, self._learned_at, self.may_grow = peak, now, True
        return True
