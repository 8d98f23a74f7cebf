"""Adds up the costs of calls. Law of this file: an unknown price is unknown, never 0."""

from collections.abc import Iterable
from dataclasses import dataclass

from headway_scheduler.errors import CallerError
from headway_scheduler.model.calls import SPENT_BY, CallRecord, Spent
from headway_scheduler.ports import Store

from .. import arguments
from .prices import Prices


@dataclass(slots=True)
class Cost:
    """The calls of one model, team, workflow, run or day, and what they cost."""

    key: str
    """The name of the model, team or workflow, the run's id or the day; ``total`` for the sum."""

    calls: int = 0
    """Calls that were answered, or billed without an answer."""

    input_tokens: int = 0
    """Tokens that providers counted in requests."""

    cached_tokens: int = 0
    """How many of the input tokens providers had in their caches."""

    output_tokens: int = 0
    """Tokens that providers counted in answers."""

    usd: float | None = 0.0
    """Dollars of all calls with a known price; None if there are calls and none has one."""

    unpriced: int = 0
    """How many of the calls have no known price, or no usage: ``usd`` leaves them out."""

    saved_usd: float = 0.0
    """How many dollars less cached input cost, by the prices of today's list."""

    at_most: int = 0
    """How many of the priced calls cost at most what is counted here: the parts of their tokens
    contradict the totals."""

    possibly_paid: int = 0
    """Attempts that were cut off in flight: their cost is unknown, and in no other field."""

    def add(self, spent: Spent, usd: float | None, saved_usd: float) -> None:
        """Count a group of equal calls. ``usd`` and ``saved_usd`` are of one of them."""
        self.calls += spent.calls
        self.possibly_paid += spent.lost
        if spent.usage is not None:
            self.input_tokens += spent.calls * spent.usage.input_tokens
            self.cached_tokens += spent.calls * spent.usage.cache_read_tokens
            self.output_tokens += spent.calls * spent.usage.output_tokens
        if usd is None:
            self.unpriced += spent.calls
            if self.unpriced == self.calls:
                self.usd = None
        else:
            self.usd = (self.usd or 0.0) + spent.calls * usd
            self.saved_usd += spent.calls * saved_usd
            self.at_most += spent.calls * (spent.usage is not None and spent.usage.has_odd_parts)


async def costs_by(
    by: str, since_seconds: float | None, store: Store, prices: Prices
) -> list[Cost]:
    """Add up the costs of calls, by one of ``SPENT_BY``. Raises CallerError for another key.

    ``since_seconds``: only calls that came no longer ago than that.
    """
    if arguments.text("by", by) not in SPENT_BY:
        raise CallerError(f"costs are counted by {', '.join(SPENT_BY)}, not by {by!r:.100}")
    since = 0.0
    if since_seconds is not None:
        since = store.clock() - arguments.amount("since_seconds", since_seconds, least=0)
    return added_up(await store.spent(by, since), prices)


def spent(records: Iterable[CallRecord], prices: Prices) -> float:
    """Return the dollars that the rows of a run show to be spent.

    A lost attempt counts with the dollars that it reserved, a call of unknown price with none.
    """
    usd = 0.0
    for record in records:
        if record.usage is not None and record.call.is_paid:
            usd += prices.usd_of(record) or 0.0
        usd += record.lost_attempts * record.call.usd
    return usd


def added_up(spent: Iterable[Spent], prices: Prices) -> list[Cost]:
    """Return a Cost for each key, sorted, and last the total, whose key is ``total``."""
    found: dict[str, Cost] = {}
    total = Cost("total")
    for each in spent:
        # `each` has calls of equal usage only, so pricing one of them prices all. The list price
        # of some models depends on the size of the prompt.
        usd, saved = None, 0.0
        if each.charge is not None:
            usd = each.charge.usd
        elif each.usage is not None:
            usd = prices.cost(each.model, each.usage, each.last_at)
        if each.usage is not None:
            saved = prices.saved(each.model, each.usage, each.last_at)
        for cost in (found.setdefault(each.key, Cost(each.key)), total):
            cost.add(each, usd, saved)
    return [*(found[key] for key in sorted(found)), total]
