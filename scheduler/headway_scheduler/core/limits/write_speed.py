"""How fast a server of one's own writes. Law of this file: pure arithmetic.

Such a server tells nothing, but it is slow when it is not well: it swaps, or shares its card. A
batch makes each answer a little slower, as it should; several times slower than at its best is
something else. The best is forgotten slowly, for the next model may be a larger one.
"""

from dataclasses import dataclass

ANSWERS = 12
"""How many answers the average looks back on, and how many are there before it is believed."""
SLOW = 4.0
FORGOTTEN = 1.005


@dataclass(slots=True)
class WriteSpeed:
    """Seconds for a token of output, on average, and at the best."""

    seconds: float = 0.0
    best: float = float("inf")
    answers: int = 0

    def add(self, seconds: float, output_tokens: int) -> bool:
        """Take in an answer. Return whether the server is far slower than at its best.

        It is said once; then the average begins anew.
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
