"""What was spent, added up. Law of this file: an unknown price is unknown, never 0."""

from collections.abc import Iterable
from dataclasses import dataclass

from headway_scheduler.model.calls import Spent

from .prices import Prices

KEYS = ("model", "team", "workflow", "run", "day")


@dataclass(slots=True)
class Cost:
    """What the calls of one model, team, workflow, run or day took.

    ``usd`` is what is known, None if that is nothing; ``unpriced`` of the ``calls`` have no price,
    or no usage. Attempts
    that are ``possibly_paid`` are in neither: nobody knows what they took.
    """

    key: str
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float | None = 0.0
    unpriced: int = 0
    possibly_paid: int = 0

    def add(self, spent: Spent, usd: float | None) -> None:
        """Count calls in that are alike; ``usd`` is what one of them cost."""
        self.calls += spent.calls
        self.possibly_paid += spent.lost
        if spent.usage is not None:
            self.input_tokens += spent.calls * spent.usage.input_tokens
            self.output_tokens += spent.calls * spent.usage.output_tokens
        if usd is None:
            self.unpriced += spent.calls
            if self.unpriced == self.calls:
                self.usd = None
        else:
            self.usd = (self.usd or 0.0) + spent.calls * usd


def added_up(spent: Iterable[Spent], prices: Prices) -> list[Cost]:
    """One Cost for each key, in their order, and last the total, whose key is ``total``."""
    found: dict[str, Cost] = {}
    total = Cost("total")
    for each in spent:
        # Call by call: the list price of some models depends on the size of the prompt.
        usd = None if each.usage is None else prices.cost(each.model, each.usage)
        for cost in (found.setdefault(each.key, Cost(each.key)), total):
            cost.add(each, usd)
    return [*(found[key] for key in sorted(found)), total]
