"""Defines the numbers of the scheduling policy. Law of this file: data only.

They come from simulations on logs of real AutoGen teams: ``python -m benchmarks.policy`` measures
the effect of each.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..model.notices import NoticeKind


@dataclass(frozen=True, slots=True)
class Policy:
    """Decides which call goes first, and what is kept free for urgent ones.

    Tuples have one number for each class, interactive first.
    """

    promised_share: tuple[float, ...] = (0.0, 0.10, 0.10, 0.05, 0.05)
    """The share of every quota, from 0 to 1, that a class is promised while its calls wait. Their
    sum is below 1."""
    headroom: tuple[float, ...] = (0.0, 0.05, 0.10, 0.20, 0.30)
    """The share of a full bucket, from 0 to 1, that a class leaves to more urgent classes."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Shares of teams relative to each other; 1 for a team that is not named."""
    patience_seconds: float = 900.0
    """A call of a long run counts as having come later than it did, by this at most."""
    size_factor: float = 8.0
    """Seconds by which a call counts as later for each budget-second that its run still takes."""
    credit_seconds: float = 20.0
    """The most budget-seconds that a class can save up of its promised share."""
    flex_gives_up_seconds: float = 900.0
    """How long a call waits for a provider without capacity for flex until it goes standard."""
    flex_before_seconds: float = 1800.0
    """The time before its run's deadline from which on a call does not go by flex."""
    batch_before_seconds: float = 21_600.0
    """The time before its run's deadline from which on a call does not go by batch."""
    notifies: tuple[NoticeKind, ...] = ()
    """What is told to the world outside, of what happens; empty for nothing."""
    waiting: int | None = None
    """How many calls may wait or be in flight before new ones are refused; None: no limit."""
    waiting_bytes: int | None = None
    """How many bytes of text such calls may have brought together; None: no limit."""


STRICT = Policy(promised_share=(0.0,) * 5, headroom=(0.0,) * 5, patience_seconds=0.0)
"""Orders by class, then by arrival, and by nothing else, if all calls are of one team."""
