"""The numbers of the scheduling policy. Law of this file: data only.

They were found by simulation on logs of real AutoGen teams: ``python -m benchmarks.policy`` shows
what each of them is good for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Policy:
    """Who goes first, and what is kept for whom. Tuples have one number for each class.

    ``promised_share``: the share of every quota that a class is promised while it has calls
    waiting; their sum is below 1. ``headroom``: the share of a full bucket that a class leaves to
    more urgent ones. ``weights``: shares of teams beside each other; 1 for those not named.
    ``patience_seconds``: how much later than it came a call of a long run counts as having come;
    runs of ``patience_seconds / size_factor`` budget-seconds and more reach that.
    ``credit_seconds``: how much a class can save up of what it was promised.
    """

    promised_share: tuple[float, ...] = (0.0, 0.10, 0.10, 0.05, 0.05)
    headroom: tuple[float, ...] = (0.0, 0.05, 0.10, 0.20, 0.30)
    weights: Mapping[str, float] = field(default_factory=dict)
    patience_seconds: float = 900.0
    size_factor: float = 8.0
    credit_seconds: float = 20.0


STRICT = Policy(promised_share=(0.0,) * 5, headroom=(0.0,) * 5, patience_seconds=0.0)
"""Class, then arrival, and nothing else, if all calls are of one team."""
