"""Keeps the dollar budgets of runs. Law: dollars spent, lost or in flight are not promised again.

Theory of operation. The budget of a run is a quota of its own, ``run ID``, of dollars, and it never
refills. It knows no prices: a call comes with the dollars to reserve (``Call.usd``), and its end
with its cost (``Outcome.usd``). A call may go while spent, reserved and its own dollars together
stay within the budget. If only spent and its own dollars do, it waits for the end of a call in
flight, outside of its lane, so that it holds up no other run. If they do not either, it is refused.

So spending passes a budget by no more than calls in flight cost above what they reserved. Calls
whose cost is not bounded go one at a time.

Spent and reserved dollars are stored as a bucket that is below 0 by as much. The limit is in the
run's row, because a retry may raise it.
"""

from ...errors import BudgetExceeded
from ...model.calls import Call, Outcome
from ...model.formulas import dollars
from ...model.quotas import BucketState, Resource

_PREFIX = "run "
_EPSILON = 1e-9
"""Rounding of sums of floats, as a share of the budget."""


class Budget:
    """The budget of one run, and the US dollars that its calls took of it."""

    __slots__ = (
        *("is_low", "limit_usd", "reserved_usd", "run_id", "spent_usd", "unbounded", "waiting"),
    )

    def __init__(self, run_id: str) -> None:
        self.run_id: str = run_id
        self.limit_usd: float | None = None
        """None for a run without a budget, or not under way since this process leads."""
        self.spent_usd: float = 0.0
        """The cost of its calls; the dollars that a call reserved if it was lost, or if its cost is
        unknown."""
        self.reserved_usd: float = 0.0
        """The dollars that its calls in flight reserve."""
        self.unbounded: int = 0
        """How many of its calls in flight may cost more than they reserve."""
        self.is_low: bool = False
        """Whether it was nearly spent when that was looked at last, so that it is told of once."""
        self.waiting: set[str] = set()
        """Ids of calls that wait for the end of a call in flight."""

    @property
    def quota(self) -> str:
        """The name under which the budget is shown and stored."""
        return f"{_PREFIX}{self.run_id}"

    def free_usd(self) -> float:
        """Return the dollars that a new call may reserve; below 0 once the budget is passed."""
        assert self.limit_usd is not None
        return self.limit_usd - self.spent_usd - self.reserved_usd

    def covers(self, call: Call) -> bool:
        """Whether the budget suffices for ``call`` if all calls in flight cost nothing."""
        return self._fits(self.spent_usd + call.usd) or not call.usd

    def passes(self, call: Call) -> bool:
        """Whether ``call`` may go now."""
        if call.unbounded and self.unbounded:
            return False
        return self._fits(self.spent_usd + self.reserved_usd + call.usd) or not call.usd

    def _fits(self, usd: float) -> bool:
        return self.limit_usd is None or usd <= self.limit_usd * (1 + _EPSILON)

    def exceeded(self, call: Call) -> BudgetExceeded:
        """Return the error of a call that the budget does not cover."""
        run, total = self.run_id, self.spent_usd + call.usd
        return BudgetExceeded(
            f"run {run} may spend {dollars(self.limit_usd or 0)}, and with the {dollars(call.usd)} "
            f"that its next call (model {call.model!r}) reserves it would come to {dollars(total)}"
            f": `headway runs retry {run} --budget-usd USD`, or hw.retry, goes on with more"
        )

    def reserve(self, call: Call) -> None:
        """Reserve the dollars of a call that is admitted."""
        self.reserved_usd += call.usd
        self.unbounded += call.unbounded

    def adopt(self, call: Call) -> None:
        """Reserve for a call in flight whose dollars the stored state counts as spent."""
        self.spent_usd -= call.usd
        self.reserve(call)

    def settle(self, call: Call, outcome: Outcome) -> None:
        """Charge the cost of an attempt: 0 if it was not sent, its reserve for an unknown cost."""
        self.reserved_usd -= call.usd
        self.unbounded -= call.unbounded
        if outcome.sent and not outcome.refused:
            self.spent_usd += call.usd if outcome.usd is None else max(0.0, outcome.usd)

    def state(self, now: float) -> BucketState:
        """Return the row to store. Reservations count as spent: a crash cannot tell them apart."""
        return BucketState(self.quota, Resource.USD, -self.spent_usd - self.reserved_usd, now)


class Budgets:
    """The budgets of the runs that have one, and what was spent of each."""

    def __init__(self) -> None:
        self.by_run: dict[str, Budget] = {}
        """By the id of the run. Kept until the run is deleted, because it may be retried."""
        self.short: set[str] = set()
        """Runs whose waiting calls must be looked at again."""

    def limit(self, run_id: str, limit_usd: float | None) -> None:
        """Note the budget of a run that is under way; None for a run without one."""
        budget = self.by_run.get(run_id)
        if budget is None:
            if limit_usd is None:
                return
            budget = self.by_run[run_id] = Budget(run_id)
        budget.limit_usd = limit_usd
        self.short.add(run_id)

    def note_spent(self, run_id: str, least_usd: float) -> bool:
        """Take in the dollars that a run's rows show to be spent; return whether more was spent.

        It is for runs of an older Headway, which kept no budgets.
        """
        budget = self.by_run.get(run_id)
        if budget is None or budget.spent_usd >= least_usd:
            return False
        budget.spent_usd = least_usd
        return True

    def of(self, call: Call) -> Budget | None:
        """Return the budget that a call draws on; None for none."""
        budget = self.by_run.get(call.run_id)
        return None if budget is None or budget.limit_usd is None else budget

    def load(self, stored: BucketState) -> None:
        """Go on from a stored state."""
        run_id = stored.quota.removeprefix(_PREFIX)
        budget = self.by_run.setdefault(run_id, Budget(run_id))
        budget.spent_usd = max(0.0, -stored.available)

    def forget(self, run_id: str) -> None:
        """Forget a run that is deleted."""
        budget = self.by_run.get(run_id)
        if budget is not None and not (budget.reserved_usd or budget.waiting):
            del self.by_run[run_id]
