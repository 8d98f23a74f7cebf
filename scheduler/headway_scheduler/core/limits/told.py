"""Decides which limits that answers tell are believed. Law of this file: one answer locks nothing.

Theory of operation. A limit within four times of the one that holds acts at once. One that is
further off acts when three readings over 5 s or more agree on it, or two of answers that were
refused for it. A limit that lowered the stated one and is not told any more for 10 min rises again,
twofold a minute.
"""

from dataclasses import dataclass

from ...model.quotas import MINUTE_SECONDS, Limit, RateLimitHeader, Window

NEAR = 4.0
"""A limit that differs from the one that holds by no more than this factor acts at once."""
READINGS = 3
"""How many readings of any other must agree,"""
AGREED_SECONDS = 5.0
"""and over how many seconds at least."""
REFUSALS = 2
"""How many refusals that tell it must agree."""
WORTH_CHANGING = 0.02
"""A header changes a limit, or contradicts another one, if it differs by more than this share."""
UNCONFIRMED_SECONDS = 600.0
"""How long a limit is not told any more before it rises."""
RISE_SECONDS = 60.0
"""How long one doubling lasts."""
PERIODS = (1.0, 10.0, 60.0)
"""Windows in which providers count what they state per minute."""
NEAR_PERIOD = 0.1
"""How far off, as a share, a window may be to be taken for one of those."""


@dataclass(slots=True)
class Told:
    """A limit as answers tell it."""

    limit: float
    """In its period; of a daily resource per day."""
    capacity: float | None = None
    """The capacity of a full bucket; None if the headers do not show it."""
    period_seconds: float = MINUTE_SECONDS
    """The period."""
    window: Window | None = None
    """How it is counted; None: not told."""
    is_period_known: bool = True
    """Whether the period is told, or shown by the stated limit. Else it is only the usual one."""

    @property
    def per_minute(self) -> float:
        """The limit per minute; of a daily resource per day."""
        return self.limit * MINUTE_SECONDS / self.period_seconds


@dataclass(slots=True)
class Claim:
    """A limit that is too far off to be believed at once."""

    told: Told
    since: float
    """When it was first told; epoch seconds."""
    readings: int = 1
    refusals: int = 0
    """Those of them that were refusals."""


def told_by(
    stated: Limit, header: RateLimitHeader, before: Told | None, *, is_guess: bool
) -> Told | None:
    """Return what a header tells of a limit; None: it tells no limit."""
    limit = header.limit
    if limit is None:
        is_of_a_window = header.window is Window.SLIDING and not is_guess
        return _of_the_rest(stated, header.remaining, before) if is_of_a_window else None
    if not stated.per_second:
        return Told(limit, limit)
    period = header.period_seconds or MINUTE_SECONDS
    if header.window is not None and header.window is not Window.BUCKET:
        is_known = header.period_seconds is not None
        if not is_known and before is not None:
            period, is_known = before.period_seconds, before.is_period_known
        # A stated limit shows the window, unless the provider says it itself.
        is_said = header.period_seconds is not None and header.window is not Window.SLIDING
        shown = None if is_said or is_guess else _shown_period(stated, limit)
        return Told(limit, limit, shown or period, header.window, bool(shown) or is_known)
    return Told(limit, _capacity(header), period, header.window)


def _of_the_rest(stated: Limit, rest: float | None, before: Told | None) -> Told | None:
    """Return what is known of a stated limit of which only the rest is told, as Azure often does.

    A rest that is more than a shorter window holds shows how long it is. None: it is not known yet,
    for what the shortest one holds may be what is left of any.
    """
    if rest is None or (before is not None and rest < before.limit * (1 + NEAR_PERIOD)):
        return before
    a_second = stated.largest / MINUTE_SECONDS
    fits = (each for each in PERIODS if rest < a_second * each * (1 + NEAR_PERIOD))
    seconds = next(fits, PERIODS[0])
    if seconds == PERIODS[0]:
        return None
    return Told(a_second * seconds, a_second * seconds, seconds, Window.SLIDING)


def _shown_period(stated: Limit, limit: float) -> float | None:
    seconds = MINUTE_SECONDS * limit / stated.largest
    near = (each for each in PERIODS if abs(seconds - each) <= NEAR_PERIOD * each)
    return next(near, None)


def _capacity(header: RateLimitHeader) -> float | None:
    """Return what a full bucket holds: what is left, and the refill until it is whole."""
    limit, left, reset = header.limit, header.remaining, header.reset_seconds
    if limit is None or left is None or reset is None:
        return None
    # Of a window that starts anew at its end this would be too much, but never beyond a minute's.
    return min(limit, left + reset * limit / MINUTE_SECONDS)


def differ(old: Told, new: Told) -> bool:
    """Whether a limit differs by what is worth changing it."""
    if (old.window, old.is_period_known) != (new.window, new.is_period_known):
        return True
    if moved(old.period_seconds, new.period_seconds):
        return True
    if moved(old.limit, new.limit):
        return True
    if old.capacity is None or new.capacity is None:
        return old.capacity is not new.capacity
    return not is_same_capacity(old.capacity, new.capacity)


def is_same_capacity(old: float, new: float) -> bool:
    """Whether a capacity is worth no change. What remains is rounded down: it may be 1 too low."""
    slack = WORTH_CHANGING * old
    return old - 1 - slack <= new <= old + slack


def moved(before: float | None, after: float | None) -> bool:
    """Whether a number differs by what is worth changing it."""
    if before is None or after is None:
        return before is not after
    return abs(after - before) > WORTH_CHANGING * before


def is_near(told: Told, holds: float) -> bool:
    """Whether a limit is within ``NEAR`` times of the one that holds, per minute or per day."""
    return holds / NEAR <= told.per_minute <= holds * NEAR


def agrees(claim: Claim, told: Told, now: float) -> bool:
    """Count one more reading of a claim. Return whether that is enough."""
    claim.readings += 1
    claim.told = told
    is_shown = claim.refusals >= REFUSALS
    return is_shown or (claim.readings >= READINGS and now - claim.since >= AGREED_SECONDS)
