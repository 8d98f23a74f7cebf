"""Predicts how much of the budget a run still takes. Law of this file: it decides nothing.

Sizes are *budget-seconds*: for how long a call, or a run, takes the whole refill of its scarcest
limit. Short runs go first where history tells their length. Where the runs of a workflow differ too
much for that, a run counts as being in the middle of its life: it takes as much again as it has
had. (The mean of its workflow, less what it has had, would be worse than first come, first served:
in the end the longest runs would come first.)
"""

import json
from bisect import bisect_right, insort
from collections import deque
from collections.abc import KeysView
from itertools import accumulate
from math import log
from statistics import pstdev

KEPT = 64
"""How many sizes of a workflow's last runs are kept."""
ENOUGH = 8
"""From how many sizes on history is used."""
LARGEST_SPREAD = 1.0
"""Standard deviation of the sizes' natural logarithms above which history is not used."""


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
        """Return the mean of what longer runs still took from there; ``attained`` if none was."""
        longer = len(self._sorted) - bisect_right(self._sorted, attained)
        return self._sums[longer] / longer - attained if longer else attained


class Sizes:
    """Learns what finished runs took, by workflow."""

    def __init__(self) -> None:
        self._histories: dict[str, _History] = {}
        self.known: KeysView[str] = self._histories.keys()
        """The workflows that have finished runs."""

    def learn(self, workflow: str, size: float) -> None:
        """Take in a run that finished after ``size`` budget-seconds."""
        if size > 0:
            self._histories.setdefault(workflow, _History([])).add(size)

    def remaining(self, workflow: str, attained: float) -> float:
        """Predict the budget-seconds that a run still takes after it has had ``attained``."""
        history = self._histories.get(workflow)
        if history is None or not history.is_telling:
            return attained
        return history.remaining(attained)

    def dump(self, workflow: str) -> str:
        """Write down what is known of a workflow. Raises KeyError if nothing is."""
        return json.dumps([round(size, 6) for size in self._histories[workflow].recent])

    def load(self, workflow: str, text: str) -> None:
        """Go on from what was written down."""
        self._histories[workflow] = _History([float(size) for size in json.loads(text)])
