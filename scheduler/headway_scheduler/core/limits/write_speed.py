"""Finds out that a local server is overloaded, from how fast it writes. Law: pure arithmetic.

A local server sends no limits, but it is slow when it swaps or shares its card. A batch makes each
answer a little slower, as it should; 4 times slower than at its best means overload. The best is
forgotten by 0.5 % per answer, because the next model may be larger.
"""

from dataclasses import dataclass

ANSWERS = 12
"""How many answers the average covers; with fewer, it is not used."""
SLOW = 4.0
"""How many times slower than its best counts as overload."""
FORGOTTEN = 1.005
"""The factor by which the best grows with each answer."""


@dataclass(slots=True)
class WriteSpeed:
    """Measures how fast a local server writes."""

    seconds: float = 0.0
    """Average seconds for an output token."""
    best: float = float("inf")
    """The lowest average seen, slowly forgotten; seconds for an output token."""
    answers: int = 0
    """How many answers the average has, since it last began anew."""

    def add(self, seconds: float, output_tokens: int) -> bool:
        """Record an answer. Return whether the server is far slower than at its best.

        After it has returned True, the average begins anew.
        """
        each = seconds / max(1, output_tokens)
        self.answers += 1
        self.seconds += (each - self.seconds) / min(self.answers, ANSWERS)
        if self.answers < ANSWERS:
            return False
        self.best = min(self.best * FORGOTTEN, self.seconds)
        if self.seconds <= SLOW * self.best:
            return False
        self.answers, self.seconds = 0, 0.0
        return True
