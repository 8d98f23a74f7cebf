"""Finds refusals that come whatever the rate. Law of this file: pure, bounded; it changes no limit.

Theory of operation. Below a limit on a rate nothing is refused, and above it the share that is
refused falls with the rate. So a share that stays while the rate falls is not about the rate: the
provider refuses by chance, or for somebody else's load, and slower requests would change nothing.
It is compared over two halves of the last requests that were answered or refused. If more than a
third of them are refused, it is taken for a limit all the same: each of them costs a pause.
"""

from collections import deque
from dataclasses import dataclass, field

HALF = 25
"""How many requests are compared with as many before them."""
SLOWER = 0.6
"""By which factor the rate has fallen at least,"""
STAYED = 0.75
"""and by which the share at most, if it is not about the rate."""
FEWEST, MOST = 3, HALF // 3
"""How many of each half are refused at least, and at most."""
TOO_MANY = HALF // 2
"""More of a half, or none before the last of it, are about the rate again."""


@dataclass(slots=True)
class RefusedShare:
    """The last requests, and whether the rate had to do with refusals among them."""

    is_by_chance: bool = False
    """Whether refusals come whatever the rate; as of the last one."""
    _last: deque[tuple[float, bool]] = field(
        default_factory=lambda: deque[tuple[float, bool]](maxlen=2 * HALF)
    )
    """When they ended, and whether they were refused."""

    def record_answer(self, now: float) -> None:
        """Record a request that was not refused."""
        self._last.append((now, False))

    def record_refusal(self, now: float) -> None:
        """Record a request that was refused."""
        self._last.append((now, True))
        if len(self._last) < 2 * HALF:
            return
        last = list(self._last)
        before = sum(is_refused for _, is_refused in last[:HALF])
        since = sum(is_refused for _, is_refused in last[HALF:])
        if not 1 < since <= TOO_MANY:
            self.is_by_chance = False
        elif FEWEST <= before <= MOST and max(FEWEST, STAYED * before) <= since <= MOST:
            middle = last[HALF][0]
            self.is_by_chance |= middle - last[0][0] <= SLOWER * (now - middle)
