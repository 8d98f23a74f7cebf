"""How much of the budget a run will still take. Law of this file: it predicts, it decides nothing.

Sizes are *budget-seconds*: for how long a call, or a run, takes the whole refill of its scarcest
limit. Short runs go first where their length can be told. Where the runs of a workflow differ too
much for that, a run counts as being in the middle of its life: what it has had is what it will
still take. (To take the mean of its kind, less what it has had, is worse than first come, first
served: the longest runs would come first in the end.)
"""

import json
from bisect import bisect_right, insort
from collections import deque
from collections.abc import KeysView
from itertools import accumulate
from math import log
from statistics import pstdev

KEPT = 64
ENOUGH = 8
LARGEST_SPREAD = 1.0
"""Standard deviation of the logarithm of the size, above which history tells nothing."""


class _History:
    """The sizes of the last runs of one workflow."""

    __slots__ = ("_sorted", "_sums", "is_telling", "recent")

    def __init__(self, recent: list[float]) -> None:
        self.recent = deque(recent, maxlen=KEPT)
        self._sorted = sorted(self.recent)
        self._judge()

    def add(self, size: float) -> None:
        if len(self.recent) == KEPT:
            self._sorted.remove(self.recent[0])
        self.recent.append(size)
        insort(self._sorted, size)
        self._judge()

    def _judge(self) -> None:
        logs = [log(size) for size in self._sorted]
        self.is_telling = len(logs) >= ENOUGH and pstdev(logs) <= LARGEST_SPREAD
        self._sums = [0.0, *accumulate(reversed(self._sorted))]

    def remaining(self, attained: float) -> float:
        """What longer runs still took after as much, on average; ``attained`` if none did."""
        longer = len(self._sorted) - bisect_right(self._sorted, attained)
        return self._sums[longer] / longer - attained if longer else attained


class Sizes:
    """What finished runs took, by workflow."""

    def __init__(self) -> None:
        self._histories: dict[str, _History] = {}
        self.known: KeysView[str] = self._histories.keys()
        """The workflows of which finished runs are known."""

    def learn(self, workflow: str, size: float) -> None:
        """Take in a run that finished after ``size`` budget-seconds."""
        if size > 0:
            self._histories.setdefault(workflow, _History([])).add(size)

    def remaining(self, workflow: str, attained: float) -> float:
        """Predict what a run takes yet, in budget-seconds, that has had ``attained``."""
        history = self._histories.get(workflow)
        if history is None or not history.is_telling:
            return attained
        return history.remaining(attained)

    def dump(self, workflow: str) -> str:
        """Write down what is known of a workflow. Raises KeyError if that is nothing."""
        return json.dumps([round(size, 6) for size in self._histories[workflow].recent])

    def load(self, workflow: str, text: str) -> None:
        """Go on from what was written down."""
        self._histories[workflow] = _History([float(size) for size in json.loads(text)])
