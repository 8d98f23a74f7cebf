"""Defines the rows of history: attempts without an answer, waits, and how many waited. Data only.

Theory of operation. A wait is counted in one of 96 buckets, whose bounds grow by the fourth root of
2 from 0.01 s on. So a percentile costs a sum over few rows whatever the number of calls, and is off
by at most 9.1 % up to 46 h. Each wait is counted in its minute and in its hour by the same commit,
so nothing is ever folded. Times are epoch seconds.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate

from .calls import Priority
from .data import Data

MINUTE, HOUR = 60, 3_600
"""The spans that waits are counted in, in seconds."""

FIRST_SECONDS = 0.01
BUCKETS = 96
BUCKET_BOUNDS = tuple(FIRST_SECONDS * 2 ** (bucket / 4) for bucket in range(1, BUCKETS))
"""The wait in seconds from which on each bucket but the first one counts."""

LONGEST_ERROR = 300
"""How many characters of an attempt's error are kept."""

PREEMPTED = "preempted"
CUT_OFF = "cut off"


class Try(Data, frozen=True):
    """An attempt at a call that ended other than in an answer."""

    call_id: str
    """Its call."""
    run_id: str
    """The run of the call."""
    quota: str
    """The quota that it was refused by, else the first that its call draws on."""
    admitted_at: float
    """When it was admitted."""
    ended_at: float
    """When it was over."""
    news: str
    """How it ended: a ``ProviderEvent`` but *answered*; ``preempted``, when it made room for a more
    urgent call; ``cut off``, when nobody knows whether it was paid; else ``failed``."""
    pause_until: float | None = None
    """Until when the quota sends nothing for it; None: no pause."""
    error: str | None = None
    """The error in words, at most ``LONGEST_ERROR`` characters; None without one."""


class WaitCount(Data, frozen=True):
    """How many calls of a class and a team ended in a span and had waited about as long.

    Of counts with the same key, the store keeps the sum.
    """

    span: int
    """``MINUTE`` or ``HOUR``."""
    at: int
    """When the span began in which they ended."""
    priority: Priority
    """The class that they asked for."""
    team: str
    """The team whose share they drew on; empty for none."""
    bucket: int
    """About how long each of them stood queued, see ``BUCKET_BOUNDS``."""
    calls: int
    """How many."""


class Crowd(Data, frozen=True):
    """The most calls of a class that waited, and that were in flight, in one minute.

    They are counted at commits, at most once a second.
    """

    at: int
    """When the minute began."""
    priority: Priority
    """The class that the calls asked for."""
    waiting: int
    """The most that were queued, without parked ones."""
    in_flight: int
    """The most that were admitted and not settled."""


class Retention(Data, frozen=True):
    """How much history is kept: what is older may be deleted."""

    minutes_since: float
    """Waits by the minute before this time go."""
    hours_since: float
    """Waits by the hour before this time go."""
    crowds_since: float
    """Crowds of minutes before this time go."""
    tries_since: float
    """Tries that ended before this time go."""
    most_tries: int
    """Of the tries, at most so many stay, the last ones."""


class Ended(Data, frozen=True):
    """How many calls on the same quotas ended, and the tokens that their providers counted."""

    quotas: tuple[str, ...]
    """The names of the quotas that they draw on."""
    calls: int
    """How many calls."""
    input_tokens: int
    """Their input together."""
    output_tokens: int
    """Their output together."""


def wait_at(share: float, counts: Iterable[WaitCount]) -> float | None:
    """Return the seconds that a ``share`` of the counted calls waited at most; None of no calls.

    It is the middle of the first bucket up to which that share is counted.
    """
    calls = [0] * BUCKETS
    for count in counts:
        calls[count.bucket] += count.calls
    sums = list(accumulate(calls))
    if not sums[-1]:
        return None
    bucket = bisect_left(sums, share * sums[-1])
    return FIRST_SECONDS * math.exp2((bucket + 0.5) / 4)
