"""Keeps the dollar budget of a run. Law of this file: no call is queued that it does not cover."""

from collections.abc import Mapping

from headway_scheduler.errors import BudgetExceeded
from headway_scheduler.model.calls import Call, CallRecord, Usage
from headway_scheduler.model.states import LIVE_CALLS, CallState

from ..pricing.prices import Prices

_DONE = CallState.DONE


class Budget:
    """Keeps one run within ``budget_usd``.

    ``records`` are its calls by id, which the runner adds to. A call in flight, or lost in flight,
    counts with its reserved tokens at the price of input.
    """

    def __init__(
        self,
        run_id: str,
        budget_usd: float,
        records: Mapping[str, CallRecord],
        prices: Prices,
    ) -> None:
        self._run_id = run_id
        self._budget_usd = budget_usd
        self._records = records
        self._prices = prices
        self._claims: dict[str, Call] = {}
        # Calls that are done are priced once: a long run sums up at every call.
        self._final_usd: dict[str, float] = {}

    def claim(self, call: Call) -> None:
        """Count the estimated cost of a new call. Raises BudgetExceeded."""
        self._claims[call.id] = call
        spent = self.spent_usd()
        if spent > self._budget_usd:
            del self._claims[call.id]
            raise BudgetExceeded(
                f"run {self._run_id} may spend ${self._budget_usd:.4f}, and with its next call "
                f"(model {call.model!r}, {call.tokens:,} tokens) it would come to ${spent:.4f}: "
                f"`headway runs retry {self._run_id} --budget-usd USD` goes on with more"
            )

    def spent_usd(self) -> float:
        """Return the dollars of all calls of the run, those in flight at their estimate."""
        claims = {key: call for key, call in self._claims.items() if key not in self._records}
        final = self._final_usd
        open_rows = [row for key, row in self._records.items() if key not in final]
        final |= {row.call.id: self._row_usd(row) for row in open_rows if row.state is _DONE}
        rows = sum(self._row_usd(row) for row in open_rows if row.call.id not in final)
        return (
            sum(final.values())
            + rows
            + sum(self._usd(call, Usage(call.tokens, 0)) for call in claims.values())
        )

    def _row_usd(self, record: CallRecord) -> float:
        if not record.call.is_paid:
            return 0.0
        usage = record.usage
        paid = 0.0 if usage is None else self._usd(record.call, usage)
        estimates = record.lost_attempts + (record.state in LIVE_CALLS and usage is None)
        return paid + estimates * self._usd(record.call, Usage(record.call.tokens, 0))

    def _usd(self, call: Call, usage: Usage) -> float:
        usd = self._prices.cost(call.model, usage)
        if usd is None:
            raise BudgetExceeded(
                f"run {self._run_id} has a budget, but no price is known for model {call.model!r}: "
                f"state usd_per_million_input_tokens and usd_per_million_output_tokens in "
                f"[models.{call.model}], or submit it without a budget"
            )
        return usd
