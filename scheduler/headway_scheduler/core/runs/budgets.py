"""Keeps the dollar budgets of runs. Law: what is spent, lost or in flight is not promised again.

Theory of operation. The budget of a run is a quota of its own, ``run ID``, of dollars, and it never
refills. It knows no prices: a call comes with the dollars to reserve (``Call.usd``), and its end
with what it cost (``Outcome.usd``). A call goes while spent, reserved and its own dollars stay
within the budget. If they would within what is spent alone, it waits for the end of a call in
flight, aside from its lane, so that it holds up no other run; else it is refused.

So a budget is passed by no more than what calls in flight cost above what they reserved. Calls
whose cost nothing bounds go one at a time.

What is spent is stored as a bucket that is below 0 by as much, reservations included: the limit
itself is in the run's row, and may be raised.
"""

from ...errors import BudgetExceeded
from ...model.calls import Call, Outcome
from ...model.quotas import BucketState, Resource

_PREFIX = "run "
_EPSILON = 1e-9
"""Rounding of sums of floats, as a share of the budget."""


class Budget:
    """The budget of one run, and what its calls took of it. Amounts are US dollars."""

    __slots__ = ("limit_usd", "reserved_usd", "run_id", "spent_usd", "unbounded", "waiting")

    def __init__(self, run_id: str) -> None:
        self.run_id: str = run_id
        self.limit_usd: float | None = None
        """None where the run was not under way since this process leads, and without a budget."""
        self.spent_usd: float = 0.0
        """What its calls cost; their reserve where nobody knows, or where they were lost."""
        self.reserved_usd: float = 0.0
        """What its calls in flight reserve."""
        self.unbounded: int = 0
        """How many of those may cost more than they reserve."""
        self.waiting: set[str] = set()
        """Ids of calls that wait for the end of another one."""

    @property
    def quota(self) -> str:
        """The name under which it is shown and stored."""
        return f"{_PREFIX}{self.run_id}"

    def free_usd(self) -> float:
        """Return what a new call may reserve; below 0 once the budget is passed."""
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
        """The error of a call that the budget does not cover."""
        run, total = self.run_id, self.spent_usd + call.usd
        return BudgetExceeded(
            f"run {run} may spend ${self.limit_usd or 0:.4f}, and with its next call (model "
            f"{call.model!r}, up to {call.input_tokens + call.output_tokens:,} tokens) it would "
            f"come to ${total:.4f}: `headway runs retry {run} --budget-usd USD` goes on with more"
        )

    def reserve(self, call: Call) -> None:
        """Set the dollars of a call aside that is about to be sent."""
        self.reserved_usd += call.usd
        self.unbounded += call.unbounded

    def adopt(self, call: Call) -> None:
        """Take over a call that was in flight when the stored state was written, as spent."""
        self.spent_usd -= call.usd
        self.reserve(call)

    def settle(self, call: Call, outcome: Outcome) -> None:
        """Charge what an attempt cost: nothing unsent, its reserve where nobody knows."""
        self.reserved_usd -= call.usd
        self.unbounded -= call.unbounded
        if outcome.sent and not outcome.refused:
            self.spent_usd += call.usd if outcome.usd is None else max(0.0, outcome.usd)

    def state(self, now: float) -> BucketState:
        """Return what to store: reservations count as spent, because a crash cannot tell."""
        return BucketState(self.quota, Resource.USD, -self.spent_usd - self.reserved_usd, now)


class Budgets:
    """The budgets of runs, and what was spent of them. Runs that have none are not in it."""

    def __init__(self) -> None:
        self.by_run: dict[str, Budget] = {}
        """By the id of the run; kept until the run is forgotten, for it may be retried."""
        self.short: set[str] = set()
        """Runs whose waiting calls are to be looked at again."""

    def limit(self, run_id: str, limit_usd: float | None) -> None:
        """Note the budget of a run that is under way; None: it has none."""
        budget = self.by_run.get(run_id)
        if budget is None:
            if limit_usd is None:
                return
            budget = self.by_run[run_id] = Budget(run_id)
        budget.limit_usd = limit_usd
        self.short.add(run_id)

    def note_spent(self, run_id: str, least_usd: float) -> bool:
        """Take in what the rows of a run show to be spent. Return whether more was than is known.

        So it is with runs of a Headway that kept no budgets.
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
